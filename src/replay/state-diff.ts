// What differs between two worlds: registers, the records of Xen and dom0 (ports, grants, page types and
// counts, xenstore), words of memory with the mapping that leads to them. Bounded, and without any effect
// on either world.
import { FRAME_TYPE_NAMES } from '../hypervisor/frame-table.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { schedulerState } from '../sim/state-digest.ts';
import type { World } from '../sim/world.ts';
import { sameBytes } from '../base/hash.ts';
import { findL1, found as walked, PTE } from '../hypervisor/page-walk.ts';
import { vaddrText, type Symbols, type SymbolsByDomain } from './symbols.ts';

export interface StateDifference {
  readonly what: string;
  readonly a: string;
  readonly b: string;
}

export interface StateDiff {
  readonly differences: readonly StateDifference[];
  /** How many there are beyond those listed, by part. */
  readonly more: Readonly<Record<string, number>>;
}

const MOST_PER_PART = 24;
const MOST_WORDS_PER_FRAME = 4;

class Found {
  readonly differences: StateDifference[] = [];
  readonly more: Record<string, number> = {};
  readonly #counts = new Map<string, number>();

  add(part: string, what: string, a: string, b: string): void {
    const count = (this.#counts.get(part) ?? 0) + 1;
    this.#counts.set(part, count);
    if (count <= MOST_PER_PART) this.differences.push({ what, a, b });
    else this.more[part] = (this.more[part] ?? 0) + 1;
  }
}

export function compareWorlds(a: World, b: World, symbols: SymbolsByDomain | undefined): StateDiff {
  const found = new Found();
  for (const [domId, domain] of a.hv.domains) {
    const other = b.hv.domains.get(domId);
    if (other === undefined) {
      found.add('domains', `domain ${domId}`, 'there', 'gone');
      continue;
    }
    domain.vcpus.forEach((vcpu, index) => compareRegisters(found, vcpu, other.vcpus[index], symbols?.get(domId)));
    comparePlain(found, `d${domId}`, recordOf(domain), recordOf(other));
  }
  compareFrames(found, a, b);
  comparePlain(found, 'dom0', a.services.save(), b.services.save());
  comparePlain(found, 'scheduler', schedulerState(a), schedulerState(b));
  compareMemory(found, a, b, symbols);
  return { differences: found.differences, more: found.more };
}

const hex = (value: number | bigint): string => `0x${(typeof value === 'number' ? value >>> 0 : value).toString(16)}`;

function compareRegisters(found: Found, a: Vcpu, b: Vcpu | undefined, symbols: Symbols | undefined): void {
  const others = new Map(b?.cpu?.registers().map(({ name, value }) => [name, value]));
  for (const { name, value } of a.cpu?.registers() ?? []) {
    const other = others.get(name);
    if (other === value) continue;
    const text = (shown: number | bigint | undefined): string => (shown === undefined ? '(none)' : name === 'retired' ? String(shown) : `${hex(shown)}${NO_ADDRESS.test(name) ? '' : nameOf(shown, symbols)}`);
    found.add('registers', `d${a.domain.domId}v${a.vcpuId} ${name}`, text(value), text(other));
  }
}

const NO_ADDRESS = /^(eflags|cpl|[c-gs]s|cr[034])$/;

/** ` <start_kernel+0x1c>`, or nothing. */
function nameOf(value: number | bigint, symbols: Symbols | undefined): string {
  const name = symbols?.at(typeof value === 'bigint' ? Number(BigInt.asIntN(64, value)) : value >>> 0);
  return name === undefined ? '' : ` <${name}>`;
}

/** A domain without the way back up and the processors. */
const recordOf = (domain: Domain): object => ({ ...domain, abi: undefined, build: undefined, vcpus: domain.vcpus.map((vcpu) => ({ ...vcpu, domain: undefined, cpu: undefined })) });

function comparePlain(found: Found, path: string, a: unknown, b: unknown): void {
  if (Object.is(a, b)) return;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    found.add(path.split(/[.[]/)[0] as string, path, leafText(a), leafText(b));
    return;
  }
  if (a instanceof Uint8Array && b instanceof Uint8Array && sameBytes(a, b)) return;
  const [left, right] = [members(a), members(b)];
  for (const key of new Set([...left.keys(), ...right.keys()])) comparePlain(found, Array.isArray(a) ? `${path}[${key}]` : `${path}.${key}`, left.get(key), right.get(key));
}
function members(value: object): Map<string, unknown> {
  if (value instanceof Map) return new Map([...value].map(([key, member]) => [String(key), member]));
  if (value instanceof Set) return new Map([...value].map((member) => [String(member), true]));
  return new Map(Object.entries(value));
}
function leafText(value: unknown): string {
  const text = typeof value === 'bigint' ? hex(value) : value === undefined ? '(none)' : typeof value === 'object' && value !== null ? 'a record' : JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 120)}...` : text;
}

function compareFrames(found: Found, a: World, b: World): void {
  const [left, right] = [a.hv.frames, b.hv.frames];
  for (let mfn = 0; mfn < left.frameCount; mfn++) {
    if (left.owner[mfn] === right.owner[mfn] && left.type[mfn] === right.type[mfn] && left.flags[mfn] === right.flags[mfn] && left.typeCount[mfn] === right.typeCount[mfn] && left.refCount[mfn] === right.refCount[mfn]) continue;
    found.add('page types', `mfn ${mfn.toString(16)} type`, left.describe(mfn), right.describe(mfn));
  }
}

function compareMemory(found: Found, a: World, b: World, symbols: SymbolsByDomain | undefined): void {
  const [left, right] = [a.frameHashes.current(), b.frameHashes.current()];
  const differ: number[] = [];
  for (const mfn of new Set([...left.keys(), ...right.keys()])) {
    const [one, other] = [left.get(mfn), right.get(mfn)];
    if (one === undefined || other === undefined || !sameBytes(one, other)) differ.push(mfn);
  }
  differ.sort((x, y) => x - y);
  const mappings = mappingsOf(a, new Set(differ.slice(0, MOST_PER_PART)), symbols);
  for (const mfn of differ) {
    const type = FRAME_TYPE_NAMES[a.hv.frames.type[mfn] as number];
    const mapping = mappings.get(mfn);
    const words = differentWords(a, b, mfn);
    for (const at of words.slice(0, MOST_WORDS_PER_FRAME)) {
      const maddr = mfn * 4096 + at;
      found.add('memory', `memory mfn ${mfn.toString(16)}+${at.toString(16)} (${type}, ${words.length} words differ${mapping === undefined ? '' : mappingText(mapping, at, symbols)})`, hex(a.machine.readU32(maddr)), hex(b.machine.readU32(maddr)));
    }
  }
}

function mappingText({ domId, vaddr, pteMaddr }: Mapping, at: number, symbols: SymbolsByDomain | undefined): string {
  return `, at ${symbols?.get(domId)?.text(vaddr + at) ?? vaddrText(vaddr + at)} by the entry at maddr 0x${pteMaddr.toString(16)}`;
}

function differentWords(a: World, b: World, mfn: number): number[] {
  const words: number[] = [];
  for (let at = 0; at < 4096; at += 4) if (a.machine.readU32(mfn * 4096 + at) !== b.machine.readU32(mfn * 4096 + at)) words.push(at);
  return words;
}

interface Mapping {
  readonly domId: number;
  readonly vaddr: number;
  readonly pteMaddr: number;
}

/** For frames: an address at which a vCPU's current tables map each, and the entry that does: the first that has a name, or else the lowest. Large pages are left out. */
export function mappingsOf(world: World, wanted: ReadonlySet<number>, symbols?: SymbolsByDomain): Map<number, Mapping> {
  const found = new Map<number, Mapping>();
  const named = new Set<number>();
  for (const { domId, vcpus, abi } of world.hv.domains.values()) {
    for (const { guestTableMfn } of vcpus) if (guestTableMfn !== 0) walkTables(world, guestTableMfn, abi.levels, abi.pteBytes, 0, (mfn, at, pteMaddr) => {
      if (!wanted.has(mfn) || named.has(mfn)) return;
      const vaddr = at >= 2 ** 47 ? at - 2 ** 48 : at;
      const isNamed = symbols?.get(domId)?.at(vaddr) !== undefined;
      if (isNamed) named.add(mfn);
      if (isNamed || !found.has(mfn)) found.set(mfn, { domId, vaddr, pteMaddr });
    });
  }
  return found;
}

function walkTables({ machine }: World, table: number, level: number, entryBytes: 4 | 8, base: number, leaf: (mfn: number, vaddr: number, pteMaddr: number) => void): void {
  const indexBits = entryBytes === 8 ? 9 : 10;
  const entries = level === 3 && entryBytes === 8 && base === 0 ? 512 : 4096 / entryBytes;
  const span = 4096 * 2 ** (indexBits * (level - 1));
  for (let index = 0; index < entries; index++) {
    const pteMaddr = table * 4096 + index * entryBytes;
    const lo = machine.readU32(pteMaddr);
    if ((lo & 1) === 0) continue;
    const mfn = (entryBytes === 8 ? (machine.readU32(pteMaddr + 4) & 0xfffff) * 0x10_0000 : 0) + (lo >>> 12);
    const vaddr = base + index * span;
    if (mfn >= machine.frameCount) continue;
    if (level === 1) leaf(mfn, vaddr, pteMaddr);
    else if (level > 2 || (lo & 0x80) === 0) walkTables({ machine } as World, mfn, level - 1, entryBytes, vaddr, leaf);
  }
}

/** The word at an address of the guest, of its own size, without any effect; undefined if nothing is mapped there. 64-bit ones are signed, and exact below 2^53, as addresses of kernels are. */
export function mappedWord({ machine }: World, { domain, kernelMode, guestTableMfn, userTableMfn }: Vcpu, vaddr: number): number | undefined {
  const { levels, wordBits } = domain.abi;
  if (!findL1(machine, levels, levels === 4 && !kernelMode ? userTableMfn : guestTableMfn, vaddr) || (walked.lo & PTE.present) === 0) return undefined;
  const mfn = (walked.hi & 0xf_ffff) * 0x10_0000 + (walked.lo >>> 12);
  const at = ((vaddr % 4096) + 4096) % 4096;
  if (mfn >= machine.frameCount || at > 4096 - wordBits / 8) return undefined;
  const low = machine.readU32(mfn * 4096 + at);
  return wordBits === 32 ? low : (machine.readU32(mfn * 4096 + at + 4) | 0) * 2 ** 32 + low;
}

/** Lines for a terminal. */
export function stateLines({ differences, more }: StateDiff): string[] {
  return [...differences.map(({ what, a, b }) => `    ${what}: ${a} in A, ${b} in B`), ...Object.entries(more).map(([part, count]) => `    and ${count} more of ${part}`)];
}
