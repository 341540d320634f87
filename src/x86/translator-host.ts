// What the translator gets of a processor: instructions as statements, the slow paths of its memory
// accesses, and what a mode key means for generated code.
import { highHalf, inCanonicalRange, nextPageOf, pageOf } from './address.ts';
import type { CodeCache } from './code-cache.ts';
import { hitsCode, markCode } from './code-frames.ts';
import type { Core } from './core.ts';
import { MAX_INSN_BYTES } from './decode.ts';
import type { Lowered } from './lower.ts';
import { codeLimitOf, isFlat, isPlain, MODE, modeBits } from './mode.ts';
import { lookup } from './paging.ts';
import { SEG, SEG_NAMES } from './state-layout.ts';
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES } from './tlb-layout.ts';
import type { SegmentKind } from './translate/frame.ts';
import type { WalkerPlaces } from './translate/page-walker.ts';
import type { TranslatorHost, TranslatorMode } from './translate/ports.ts';

interface HostParts {
  readonly core: Core;
  readonly cache: CodeCache;
}

export function translatorHost(parts: HostParts): TranslatorHost {
  const { core } = parts;
  const { machine } = core;
  const slow = (access: 'read' | 'write') => (vaddr: number, sizeBytes: number): number => {
    if (pageOf(vaddr) !== pageOf(vaddr + sizeBytes - 1) || !inCanonicalRange(vaddr)) return 0;
    const at = lookup(core, vaddr, access, core.user);
    if (at < machine.ramBase) return 0;
    return access === 'write' && hitsCode(machine, at - machine.ramBase, sizeBytes) ? 0 : at;
  };
  return {
    machine,
    stateBase: core.stateBase,
    places: [placesOf(core, 0), placesOf(core, 1)],
    lowerAt: (maddr, vaddr, mode, once) => lowerAt(parts, maddr, vaddr, mode, once),
    lowerCrossing: (maddr, vaddr, mode) => lowerCrossing(parts, maddr, vaddr, mode),
    mode: translatorMode,
    slowRead: slow('read'),
    slowWrite: slow('write'),
    clock: core.options.clock,
  };
}

const placesOf = ({ machine, stateBase, tlbBases, tlbVpnBases, tlbFilledBases }: Core, set: 0 | 1): WalkerPlaces => ({
  stateBase, tlbBase: tlbBases[set], tlbVpnBase: tlbVpnBases[set], tlbFilledBase: tlbFilledBases[set],
  ramBase: machine.ramBase, ramBytes: machine.frameCount * 4096, frameFlagsBase: machine.frameFlagsBase,
});

/** What translated code is made from; undefined where the evaluator must do it. Translated code segments have base 0. */
function lowerAt({ core, cache }: HostParts, maddr: number, vaddr: number, mode: number, once: boolean): Lowered | undefined {
  const page = cache.page(maddr >>> 12, pageOf(vaddr), mode, 0);
  const offset = vaddr & 0xfff;
  let entry = page.get(offset);
  if (entry === undefined) {
    if (page.crosses(offset)) return undefined;
    const at = core.machine.ramBase + maddr;
    entry = cache.make(core.u8.subarray(at, at + Math.min(MAX_INSN_BYTES, 4096 - offset)), vaddr, mode);
    if (entry === undefined) page.setCrosses(offset);
    if (entry?.kind !== 'insn') return undefined;
    markCode(core.machine, maddr, entry.lengthBytes);
    // A jump is nobody else's; most are asked for once, and what is kept costs the collector two copies.
    if (!once || entry.lowered.kind !== 'transfer') page.set(offset, entry);
  }
  return entry.kind === 'insn' ? entry.lowered : undefined;
}

/** An instruction that goes on in the next page, as the TLB maps that page now. */
function lowerCrossing({ core, cache }: HostParts, maddr: number, vaddr: number, mode: number): { lowered: Lowered; nextMaddr: number } | undefined {
  const { machine } = core;
  const next = nextPageOf(vaddr, core.lma);
  const e = (core.tlbBase + ((next >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES) >>> 2;
  const tag = e + ((modeBits(mode).user ? TLB.execUser : TLB.execSup) >> 2);
  if (core.u32[tag] !== next >>> 0 || core.u32[tag + 1] !== highHalf(next)) return undefined;
  const nextMaddr = core.u32[e + (TLB.maddr >> 2)] as number;
  const inFirst = 4096 - (vaddr & 0xfff);
  if (inFirst >= MAX_INSN_BYTES) return undefined;
  const bytes = new Uint8Array(MAX_INSN_BYTES);
  bytes.set(core.u8.subarray(machine.ramBase + maddr, machine.ramBase + maddr + inFirst));
  bytes.set(core.u8.subarray(machine.ramBase + nextMaddr, machine.ramBase + nextMaddr + MAX_INSN_BYTES - inFirst), inFirst);
  const entry = cache.make(bytes, vaddr, mode);
  if (entry?.kind !== 'insn' || entry.lengthBytes <= inFirst) return undefined;
  markCode(machine, maddr, inFirst);
  markCode(machine, nextMaddr, entry.lengthBytes - inFirst);
  return { lowered: entry.lowered, nextMaddr };
}

function translatorMode(key: number): TranslatorMode {
  const bits = modeBits(key);
  const long = (key & MODE.lma) !== 0;
  const shared = { user: bits.user, long, second: (key & MODE.second) !== 0 };
  if (bits.codeWidth === 64) {
    const segments = SEG_NAMES.map((_, seg): SegmentKind => (seg >= SEG.fs ? 'based' : 'flat'));
    const translatable = (key & MODE.align) === 0;
    return { ...shared, translatable, interpretable: translatable, codeLimit: Infinity, segments };
  }
  const segments = SEG_NAMES.map((_, seg): SegmentKind => (isFlat(key, seg) ? 'flat' : seg !== SEG.cs && isPlain(key, seg) ? 'checked' : 'never'));
  const codeLimit = codeLimitOf(key);
  return { ...shared, interpretable: false, translatable: bits.codeWidth === 32 && bits.stackWidth === 32 && codeLimit > 0, codeLimit, segments };
}
