// Runs conformance scripts: recorded answers of a real Xen to hypercall scripts are compared with
// this hypervisor's, operation by operation, then the final content of the named frames.
//
//   runner.run(script) ──► differences: [{ op, expected, actual }, ...]   (none: agrees)
//
// Every hypercall goes through the dispatcher with its arguments in guest memory. The families'
// operations are rows in conform-*.ts. Not here: reading files (cli/commands/conform.ts).
import { DOMID } from '../abi/domid.ts';
import { assert, UsageError } from '../base/assert.ts';
import { dispatchHypercall } from '../hypervisor/dispatch.ts';
import { FRAME } from '../hypervisor/frame-table.ts';
import { HypercallArgs } from '../hypervisor/hypercall.ts';
import { tableIndex } from '../hypervisor/page-walk.ts';
import { hypercallRows } from '../hypervisor/hypercall-rows.ts';
import { ConformCrash, type ConformCall, type ConformContext, type ConformFamily, type Argument, type ConformOp, type ScriptOp, type Word } from './conform-op.ts';
import { ConformWorld, KERNEL_VADDR, SCRATCH_VADDR, GRANT_SLOT, type ConformState, type ConformWorldOptions } from './conform-world.ts';
import { EVTCHN_FAMILY } from './conform-evtchn.ts';
import { GNTTAB_FAMILY } from './conform-gnttab.ts';
import { mmFamily } from './conform-mm.ts';
import type { Script } from './conform-script.ts';

export type { Script };

export interface Difference {
  readonly script: string;
  readonly sub: string;
  /** Index of the operation, or the name of a frame of `final`. */
  readonly at: number | string;
  readonly operation: unknown;
  readonly expected: unknown;
  readonly actual: unknown;
}

const DOMAINS: Record<string, number> = { self: DOMID.SELF, d0: 0, d1: 1, d2: 2, d3: 3, d99: 99, io: DOMID.IO, xen: DOMID.XEN, cow: DOMID.COW, invalid: DOMID.INVALID };
/** Bytes at the start of the kernel pages that stay free of argument structures: `kernel` points there. */
const KERNEL_DATA_BYTES = 4096;
const SCRATCH_BYTES = 7 * 4096;
const MAX_CONTINUATIONS = 100_000;
/** Frame of a name `n0` that was never made. */
const UNMADE = { pv64: 0xfffffff, pv32pae: 0xfffff } as const;

export const FAMILIES: readonly ConformFamily[] = [mmFamily, EVTCHN_FAMILY, GNTTAB_FAMILY];

/** For tests: what may happen while a hypercall is interrupted. */
export interface CallHooks {
  readonly interrupted?: (context: ConformContext, round: number) => void;
  readonly maxContinuations?: number;
}

export class ConformRunner {
  readonly #world: ConformWorld;
  readonly #families: readonly ConformFamily[];
  /** Look at the state that an operation or a script left; for tests. */
  readonly #hooks: CallHooks;
  readonly #beforeScript: ((context: ConformContext) => void) | undefined;
  readonly #afterOp: ((context: ConformContext, op: ScriptOp, answer: unknown) => void) | undefined;
  readonly #afterScript: ((context: ConformContext) => void) | undefined;

  constructor(options: Partial<ConformWorldOptions> & { families?: readonly ConformFamily[]; beforeScript?: (context: ConformContext) => void; hooks?: CallHooks; afterOp?: (context: ConformContext, op: ScriptOp, answer: unknown) => void; afterScript?: (context: ConformContext) => void } = {}) {
    this.#hooks = options.hooks ?? {};
    this.#beforeScript = options.beforeScript;
    this.#afterOp = options.afterOp;
    this.#afterScript = options.afterScript;
    this.#world = new ConformWorld({ hypercallRows, ...options });
    this.#families = options.families ?? FAMILIES;
  }

  /** Builds the initial state, runs the script, compares. An empty list: full agreement. */
  run(script: Script): Difference[] {
    const context = new ScriptContext(this.#world.fresh(script.abi), script, this.#hooks);
    for (const family of this.#families) family.setup?.(context);
    this.#beforeScript?.(context);
    const differences: Difference[] = [];
    const differ = (at: number | string, operation: unknown, expected: unknown, actual: unknown): void => {
      differences.push({ script: script.id, sub: script.sub, at, operation, expected, actual });
    };
    for (const [index, op] of script.ops.entries()) {
      let actual: unknown;
      try {
        actual = this.#perform(context, op);
      } catch (error) {
        if (!(error instanceof ConformCrash)) throw error;
        if (script.crash?.op !== index) differ(index, op, script.results[index], error.what);
        return differences;
      }
      if (script.crash?.op === index) {
        differ(index, op, script.crash.what, actual);
        return differences;
      }
      if (!context.same(script.results[index], actual)) differ(index, op, script.results[index], actual);
      this.#afterOp?.(context, op, actual);
    }
    if (script.final !== undefined) {
      const final = context.final();
      for (const family of this.#families) family.final?.(context, final);
      context.compareFinal(script.final, final, differ);
    }
    this.#afterScript?.(context);
    return differences;
  }

  #perform(context: ScriptContext, op: ScriptOp): unknown {
    context.forgetScratch();
    if (op.op === 'multi') return multi(context, op, this.#families);
    for (const family of this.#families) {
      const row: ConformOp | undefined = family.ops[op.op];
      if (row !== undefined) return row(context, op);
      const call = family.calls?.[op.op];
      if (call !== undefined) {
        const { number, args, finish } = call(context, op);
        return finish(context.call(number, args));
      }
    }
    return `no such operation: ${op.op}`;
  }
}

const SHOWN_SCRATCH_SLOTS = 24;
const MULTICALL = 13;
/** Result word of an element that was not reached. */
const NOT_RUN = 0x5eed_c0de | 0;

function multi(context: ScriptContext, op: ScriptOp, families: readonly ConformFamily[]): unknown {
  const { number, args, finish } = prepareMulti(context, op, families);
  return finish(context.call(number, args));
}

function prepareMulti(context: ScriptContext, op: ScriptOp, families: readonly ConformFamily[]): ReturnType<ConformCall> {
  const calls = op['calls'] as readonly ScriptOp[];
  const word = context.wide ? 8 : 4;
  const size = 8 * word;
  const list = context.scratch(Math.max(calls.length, 1) * size);
  const prepared = calls.map((call) => {
    if (call.op === 'multi') return prepareMulti(context, call, families);
    for (const family of families) {
      const row = family.calls?.[call.op];
      if (row !== undefined) return row(context, call);
    }
    return { number: 0xffff, args: [], finish: () => `no such operation: ${call.op}` };
  });
  prepared.forEach((call, i) => {
    const at = list + i * size;
    context.writeWord(at, call.number);
    context.writeWord(at + word, NOT_RUN);
    call.args.forEach((arg, j) => context.writeWord(at + (2 + j) * word, arg));
  });
  return {
    number: MULTICALL, args: [list, calls.length],
    finish: (rc) => [rc, prepared.map((call, i) => {
      const result = context.hv.machine.readU32(context.scratchMaddr(list + i * size + word)) | 0;
      return result === NOT_RUN ? '-' : call.finish(result);
    })],
  };
}

class ScriptContext implements ConformContext {
  readonly hv;
  readonly d1;
  readonly vcpu;
  readonly d2;
  readonly wide: boolean;
  readonly mfns: Map<string, number>;
  readonly names = new Map<number, string>();
  readonly notes = new Map<string, unknown>();
  readonly returned = new Set<string>();
  readonly #state: ConformState;
  readonly #hooks: CallHooks;
  readonly #ignoreAd: boolean;
  readonly #abi: 'pv64' | 'pv32pae';
  #scratchUsed = KERNEL_DATA_BYTES;
  readonly #args = new HypercallArgs();

  constructor(state: ConformState, script: Script, hooks: CallHooks) {
    this.#hooks = hooks;
    this.#state = state;
    this.hv = state.hv;
    this.d1 = state.d1;
    this.vcpu = state.vcpu;
    this.d2 = state.d2;
    this.mfns = state.mfns;
    this.wide = script.abi === 'pv64';
    this.#abi = script.abi;
    this.#ignoreAd = script.ad === 'ignore';
    for (const [name, mfn] of this.mfns) this.names.set(mfn, name);
  }

  // -- notation -----------------------------------------------------------------------------------

  frame(name: string): number {
    if (name === '0' || name === '-') return 0;
    const mfn = this.mfns.get(name);
    return mfn ?? (name.startsWith('n') ? UNMADE[this.#abi] : unknownName(name));
  }
  word(text: string): Word {
    if (text === '0') return { lo: 0, hi: 0 };
    if (!isWord(text)) unknownName(text);
    const [name, hex] = text.split(':') as [string, string];
    const value = name === 'raw' ? BigInt(`0x${hex}`) : (BigInt(this.frame(name)) << 12n) | BigInt(`0x${hex}`);
    return { lo: Number(value & 0xffff_ffffn), hi: Number((value >> 32n) & 0xffff_ffffn) };
  }
  text(word: Word): string {
    if (word.lo === 0 && word.hi === 0) return '0';
    const mfn = (word.hi & 0xff) * 0x10_0000 + (word.lo >>> 12);
    const name = this.names.get(mfn);
    const value = (BigInt(word.hi) << 32n) | BigInt(word.lo);
    if (name === undefined) return `raw:${value.toString(16)}`;
    return `${name}:${(value & ~(BigInt(mfn) << 12n)).toString(16)}`;
  }
  vaddr(text: string): number {
    const [base, more] = text.split('+') as [string, string | undefined];
    if (!VADDR.test(text)) unknownName(text);
    return this.#base(base) + (more === undefined ? 0 : parseInt(more, 16));
  }
  #base(text: string): number {
    if (text === 'null') return 0;
    if (text === 'kernel') return KERNEL_VADDR;
    if (text === 'gt') return SCRATCH_VADDR + GRANT_SLOT * 4096;
    if (text.startsWith('va:')) return this.signed(BigInt(`0x${text.slice(3)}`));
    if (text.startsWith('v')) return SCRATCH_VADDR + Number(text.slice(1)) * 4096;
    if (text.startsWith('w')) return SCRATCH_VADDR + (16 + Number(text.slice(1))) * 4096;
    assert(text.startsWith('@'), `address ${text}`);
    const indices = text.slice(1).split('.').map(Number);
    let vaddr = 0n;
    for (const index of indices) vaddr = (vaddr << 9n) | BigInt(index);
    vaddr <<= 12n;
    return this.wide && vaddr >= 1n << 47n ? Number(vaddr - (1n << 48n)) : Number(vaddr);
  }
  signed(value: bigint): number {
    return this.wide ? Number(BigInt.asIntN(64, value)) : Number(value);
  }
  maddr(text: string): Word {
    const match = /^([a-z0-9_]+)\[(\d+)\](?:\+(\d+))?$/.exec(text);
    if (match === null) {
      const mfn = BigInt(this.frame(text)) << 12n;
      return { lo: Number(mfn & 0xffff_ffffn), hi: Number(mfn >> 32n) };
    }
    const value = (BigInt(this.frame(match[1] as string)) << 12n) + 8n * BigInt(match[2] as string) + BigInt(match[3] ?? 0);
    return { lo: Number(value & 0xffff_ffffn), hi: Number(value >> 32n) };
  }
  domId(name: string): number {
    return DOMAINS[name] ?? unknownName(name);
  }

  // -- argument structures --------------------------------------------------------------------------

  forgetScratch(): void {
    this.#scratchUsed = KERNEL_DATA_BYTES;
  }
  scratch(sizeBytes: number): number {
    const at = this.#scratchUsed;
    this.#scratchUsed += Math.ceil(sizeBytes / 16) * 16;
    assert(this.#scratchUsed <= KERNEL_DATA_BYTES + SCRATCH_BYTES, `${sizeBytes} bytes of arguments do not fit`);
    const { machine } = this.hv;
    for (let i = 0; i < sizeBytes; i += 4) machine.writeU32(this.scratchMaddr(KERNEL_VADDR + at + i), 0);
    return KERNEL_VADDR + at;
  }
  /** Through the initial tables' frames: what the script does to the live tables does not matter. */
  scratchMaddr(vaddr: number): number {
    const l1 = this.mfns.get('live_l1') as number;
    const { levels, pteBytes } = this.d1.abi;
    const at = l1 * 4096 + tableIndex(levels, 1, vaddr) * pteBytes;
    return (this.hv.machine.readU32(at) >>> 12) * 4096 + (vaddr % 4096);
  }
  writeWord(vaddr: number, value: Argument): void {
    const { lo, hi } = halves(value);
    this.hv.machine.writeU32(this.scratchMaddr(vaddr), lo);
    if (this.wide) this.hv.machine.writeU32(this.scratchMaddr(vaddr + 4), hi);
  }

  call(number: number, args: readonly Argument[]): number {
    this.#args.set([]);
    args.forEach((arg, i) => {
      const { lo, hi } = halves(arg);
      this.#args.lo[i] = lo;
      this.#args.hi[i] = this.wide ? hi : 0;
    });
    const limit = this.#hooks.maxContinuations ?? MAX_CONTINUATIONS;
    for (let round = 0; round < limit; round++) {
      const outcome = dispatchHypercall(this.hv, this.vcpu, number, this.#args);
      if (outcome.kind === 'done') {
        if (this.d1.life.kind !== 'running') throw new ConformCrash('domain_crash');
        return outcome.rc;
      }
      if (outcome.kind !== 'continuation') throw new ConformCrash('domain_crash');
      this.#args.set(outcome.args);
      this.#hooks.interrupted?.(this, round);
    }
    throw new ConformCrash('hang');
  }

  // -- comparing --------------------------------------------------------------------------------------

  /** Answers agree: numbers and structures as they are, words by value, accessed and dirty bits as section 6 says. */
  same(expected: unknown, actual: unknown): boolean {
    if (expected === actual) return true;
    if (Array.isArray(expected)) return Array.isArray(actual) && expected.length === actual.length && expected.every((item, i) => this.same(item, actual[i]));
    if (typeof expected === 'string' && typeof actual === 'string') return isWord(expected) && isWord(actual) && this.#sameWord(this.word(expected), this.word(actual));
    if (typeof expected === 'object' && expected !== null && typeof actual === 'object' && actual !== null) {
      const keys = new Set([...Object.keys(expected), ...Object.keys(actual)]);
      return [...keys].every((key) => this.same((expected as Record<string, unknown>)[key], (actual as Record<string, unknown>)[key]));
    }
    return false;
  }
  #sameWord(a: Word, b: Word): boolean {
    return a.hi === b.hi && this.#withoutAd(a) === this.#withoutAd(b);
  }
  #withoutAd(word: Word): number {
    if (!this.#ignoreAd || (word.lo & 1) === 0) return word.lo;
    const mfn = (word.hi & 0xf_ffff) * 0x10_0000 + (word.lo >>> 12);
    return this.names.has(mfn) ? (word.lo & ~0x60) >>> 0 : word.lo;
  }

  /** The final content as the corpus writes it. */
  final(): Record<string, unknown> {
    const final: Record<string, unknown> = {};
    const { machine, frames } = this.hv;
    for (const [name, mfn] of this.mfns) {
      if (!/^(f\d+|foreign\d?)$/.test(name) && !this.#state.initial.has(name)) continue;
      const initial = this.#state.initial.get(name);
      const kept = frames.owner[mfn] === (name.startsWith('foreign') ? 2 : 1) && ((frames.flags[mfn] as number) & FRAME.allocated) !== 0;
      // A frame given back may have been given out again, by another name.
      if (initial === undefined && (!kept || this.returned.has(name))) {
        final[name] = 'gone';
        continue;
      }
      const words: Record<string, string> = {};
      // Of scratch_l1 the recorder showed the slots of v0.. and w0.. alone.
      const shown = name === 'scratch_l1' ? SHOWN_SCRATCH_SLOTS : 512;
      for (let i = 0; i < shown; i++) {
        const lo = machine.readU32(mfn * 4096 + i * 8);
        const hi = machine.readU32(mfn * 4096 + i * 8 + 4);
        if (initial === undefined) {
          if (lo !== 0 || hi !== 0) words[i] = this.text({ lo, hi });
        } else if (clearAd(lo) !== clearAd(initial[i * 2] as number) || hi !== initial[i * 2 + 1]) words[i] = this.text({ lo: clearAd(lo), hi });
      }
      if (Object.keys(words).length > 0) final[name] = words;
    }
    return final;
  }

  compareFinal(expected: Readonly<Record<string, unknown>>, actual: Record<string, unknown>, differ: (at: string, operation: unknown, expected: unknown, actual: unknown) => void): void {
    for (const name of new Set([...Object.keys(expected), ...Object.keys(actual)])) {
      const want = expected[name];
      const got = actual[name];
      if (want === 'skipped') continue;
      if (typeof want !== 'object' || want === null || typeof got !== 'object' || got === null) {
        if (!this.same(want, got) && !(want === undefined && name.startsWith('foreign'))) differ(`final ${name}`, undefined, want, got);
        continue;
      }
      const ranges = ((want as Record<string, unknown>)['xen'] ?? []) as readonly (readonly [number, number])[];
      for (const index of new Set([...Object.keys(want), ...Object.keys(got)])) {
        // Xen's own entries are opaque; which of its slots it fills is its own business.
        if (index === 'xen' || ranges.some(([first, last]) => Number(index) >= first && Number(index) <= last)) continue;
        if (ranges.length > 0 && isXenSlot(this.wide, Number(index))) continue;
        const a = (want as Record<string, string>)[index] ?? '0';
        const b = (got as Record<string, string>)[index] ?? '0';
        if (!this.#sameWord(this.word(a), this.word(b))) differ(`final ${name}[${index}]`, undefined, a, b);
      }
    }
  }
}

const halves = (value: Argument): Word => (typeof value === 'number' ? { lo: value >>> 0, hi: Math.floor(value / 0x1_0000_0000) >>> 0 } : value);
const isXenSlot = (wide: boolean, index: number): boolean => (wide ? index >= 256 && index <= 271 : index >= 428);
const clearAd = (lo: number): number => ((lo & 1) !== 0 ? (lo & ~0x60) >>> 0 : lo);
/** Forms of an address: FORMAT section 4. */
const VADDR = /^(?:(?:[vw]\d+|gt|kernel|null|@\d+(?:\.\d+){2,3}|va:[0-9a-f]+)(?:\+[0-9a-f]+)?)$/;
const isWord = (text: string): boolean => text === '0' || (/^[-a-z0-9_]+:[0-9a-f]+$/.test(text) && !/^(pf|gp|ex\d+):/.test(text));
function unknownName(name: string): never {
  throw new UsageError(`a conformance script names ${JSON.stringify(name)}, which this format does not know`);
}

