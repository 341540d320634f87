// The processor: a Core with a run loop. Two tiers take turns: translated regions (translate/) run
// hot code, the evaluator everything else, one instruction at a time. Every boundary is exact.
//
//   while there is budget:
//     fetch page   law 1 of README.md: a TLB look-up only when rip leaves the current fetch page
//     translator   at block boundaries; runs until it meets something that it leaves to the evaluator
//     evaluator    one instruction; a fault or an exit ends the run
import { assert } from '../base/assert.ts';
import type { MachineMemory } from '../machine/memory.ts';
import { highHalf, inCanonicalRange, pageOf, vpnHigh, vpnLow } from './address.ts';
import { instructionBreakpoints } from './breakpoints.ts';
import { CodeCache, type CodePage, type Entry, type InsnEntry } from './code-cache.ts';
import { codeChanged, markCode, registerCodeUser, type CodeUser } from './code-frames.ts';
import { Core } from './core.ts';
import type { Cpu, CpuCounters, CpuOptions } from './cpu.ts';
import { MAX_INSN_BYTES, type Insn } from './decode.ts';
import { DONE, type Done, type Evaluator } from './evaluate.ts';
import { VECTOR, type CpuExit, type Exception } from './exit.ts';
import { EFLAGS } from './flags.ts';
import { loweringMode, MODE } from './mode.ts';
import { dropAllTags, dropWriteTags, lookup, reserveNoRamPages } from './paging.ts';
import { restoreState, saveState } from './saved-state.ts';
import { isException } from './segments.ts';
import { StateFace } from './state-face.ts';
import { SEG, SEG_SLOT_BYTES, SHADOW, STATE } from './state-layout.ts';
import { completeIo } from './system/misc.ts';
import { combine, deliverThroughIdt, type Delivery } from './system/delivery.ts';
import type { TranslatorCounters, TranslatorOptions } from './translate/ports.ts';
import { createTranslator, STEP, type Step, type Translator } from './translate/translator.ts';
import { translatorHost } from './translator-host.ts';

/** For tests: one tier does what it can, the evaluator the rest. `pairs`: regions share modules, as they do when nobody tests them. */
const TIER_OPTIONS: Readonly<Record<'translate' | 'pairs' | 'interpret', TranslatorOptions>> = {
  translate: { hotAfter: 1, batch: 1, eager: true, interpret: false },
  pairs: { hotAfter: 1, batch: 2, eager: true, interpret: false },
  interpret: { hotAfter: Infinity },
};
const MAX_BUDGET = 2 ** 30;
const BUDGET_EXIT: CpuExit = { kind: 'budget' };
/** Single step. */
const DR6_BS = 0x4000;
/** Of a string instruction, before the translator is asked. */
const MOST_ITERATIONS = 64;
const GP0: Exception = { vector: VECTOR.GP, errorCode: 0 };
const CS = STATE.seg + SEG.cs * SEG_SLOT_BYTES;

export class Processor extends StateFace implements Cpu, Evaluator, CodeUser {
  readonly core: Core;
  readonly restorable: boolean = true;
  exit: CpuExit | undefined;
  readonly #options: CpuOptions;
  readonly #cache: CodeCache;
  readonly #translator: Translator | undefined;
  #page: CodePage | undefined;
  #retired = NaN;
  /** Instructions of all runs, and those of them that the evaluator performed: for the profile. */
  #performed = NaN;
  #evaluated = NaN;
  /** Budget at the start of the current run. */
  #runBudget = NaN;

  constructor(machine: MachineMemory, options: CpuOptions) {
    super(machine);
    this.#options = options;
    // From NaN: see base/wide.ts.
    this.#retired = this.#performed = this.#evaluated = this.#runBudget = 0;
    this.core = new Core(machine, options, () => this.retired());
    this.#cache = new CodeCache(this);
    registerCodeUser(machine, this);
    reserveNoRamPages(machine);
    dropAllTags(this.core);
    if ((options.tier ?? 'auto') !== 'evaluate') this.#translator = createTranslator(translatorHost({ core: this.core, cache: this.#cache }), TIER_OPTIONS[options.tier as keyof typeof TIER_OPTIONS] ?? {});
  }

  get counters(): CpuCounters {
    const translator = this.#translator?.counters;
    const interpretedInsns = this.#translator?.interpretedInsns() ?? 0;
    return {
      evaluatedInsns: this.#evaluated,
      interpretedInsns,
      translatedInsns: Math.max(0, this.#performed - this.#evaluated - interpretedInsns),
      regionsTranslated: translator?.regionsTranslated ?? 0,
      modulesCompiled: translator?.modulesCompiled ?? 0,
      translateMs: translator?.translateMs ?? 0,
    };
  }
  /** More of the translator's counters, for its own tests and the profile. */
  get translatorCounters(): Readonly<TranslatorCounters> | undefined {
    return this.#translator?.counters;
  }

  // -- running -------------------------------------------------------------------------------------

  run(budgetInsns: number): CpuExit {
    assert(budgetInsns >= 1 && budgetInsns <= MAX_BUDGET, () => `budget of ${budgetInsns} instructions`);
    this.#runBudget = budgetInsns;
    this.core.set32(STATE.budget, budgetInsns);
    const exit = this.#loop();
    const consumed = this.#runBudget - (this.core.get32(STATE.budget) | 0);
    this.#retired += consumed;
    this.#performed += consumed;
    this.#runBudget = 0;
    this.core.set32(STATE.budget, 0);
    return exit;
  }

  #loop(): CpuExit {
    const { core } = this;
    const translator = this.#translator;
    let atBoundary = core.rip !== this.#middle;
    let inMiddle = false;
    /** Translated code has left this instruction to the evaluator. */
    let stopped = false;
    this.#middle = NaN;
    for (;;) {
      const budget = core.get32(STATE.budget);
      const { rip } = core;
      if (budget === 0) {
        if (!atBoundary) this.#middle = rip;
        return BUDGET_EXIT;
      }
      const flat = core.csFlat;
      const vaddr = flat ? rip : (rip + core.get32(CS + 8)) >>> 0;
      const beyond = flat ? !inCanonicalRange(rip) : rip > core.get32(CS + 16);
      if (beyond || core.get32(STATE.fetchVpn) !== vpnLow(vaddr) || core.get32(STATE.fetchVpn + 4) !== vpnHigh(vaddr)) {
        const problem = beyond ? GP0 : this.#enterPage(vaddr);
        if (problem !== undefined) {
          const exit = this.#raise(problem);
          if (exit !== undefined) return exit;
          atBoundary = true;
          continue;
        }
      }
      let rest = core.get32(STATE.eflagsRest);
      // RF lasts for one instruction and speaks of instruction breakpoints only: without any, nobody misses it.
      if ((rest & EFLAGS.RF) !== 0 && core.breakpoints === undefined) core.set32(STATE.eflagsRest, (rest &= ~EFLAGS.RF));
      const stepping = (rest & EFLAGS.TF) !== 0;
      const plain = !stepping && core.breakpoints === undefined && core.get32(STATE.shadow) === SHADOW.none;
      let one = false;
      if (atBoundary && plain && translator !== undefined) {
        const step: Step = stopped ? STEP.evaluateOne : translator.step(inMiddle, this.#iterations);
        this.#iterations = 1;
        inMiddle = false;
        stopped = step === STEP.stopped;
        if (stopped || step === STEP.ran) continue;
        one = step === STEP.evaluateOne;
        atBoundary = one;
      }
      const entry = this.#entryAt(vaddr, rip);
      if (isException(entry)) {
        const exit = this.#raise(entry);
        if (exit !== undefined) return exit;
        atBoundary = true;
        continue;
      }
      if (plain && flat && !entry.endsBlock) {
        if (this.#straight(entry, rip, budget, one)) {
          // After an instruction that was left to the evaluator, and on another page, translated code may go on
          // although no block begins there.
          if (one) inMiddle = true;
          else atBoundary = (rip ^ core.rip) >>> 12 !== 0;
          continue;
        }
        const exit = this.#raise(core.fault as Exception);
        if (exit !== undefined) return exit;
        atBoundary = true;
        continue;
      }
      const exit = core.breakpoints === undefined ? this.#perform(entry, rip, budget, stepping) : this.#watched(entry, vaddr, budget, stepping);
      if (exit !== undefined) return exit;
      atBoundary = entry.endsBlock || this.#broke;
      this.#broke = false;
    }
  }

  /** Where the last budget ended inside a block, or NaN: such places must not look like entries to the translator. */
  #middle = NaN;
  /** Set when an exception was delivered: rip is somewhere else. */
  #broke = false;
  /** Of a string instruction that was performed last, as long as it repeats; else 1. */
  #iterations = 1;

  /**
   * Performs instructions that end no block, as long as they are known and in the current page. Nothing in
   * them changes mode, segments or traps. False: the last one faulted.
   */
  #straight(first: InsnEntry, from: number, limit: number, one: boolean): boolean {
    const { u32, s, long } = this.core;
    const page = this.#page as CodePage;
    const ripAt = s + (STATE.rip >> 2);
    const budgetAt = s + (STATE.budget >> 2);
    let entry = first;
    let rip = from;
    let budget = limit;
    for (;;) {
      const done = (entry.run ?? this.#cache.compile(entry))();
      if (done === DONE.fault) {
        this.#evaluated += limit - budget;
        return false;
      }
      if (done === DONE.next) {
        rip += entry.lengthBytes;
        if (long) u32[ripAt + 1] = highHalf(rip);
        else rip >>>= 0;
      }
      u32[ripAt] = rip;
      u32[budgetAt] = --budget;
      if (one || budget === 0 || (rip ^ from) >>> 12 !== 0 || this.#page !== page) break;
      const next = page.get(rip & 0xfff);
      if (next === undefined || next.kind !== 'insn' || next.endsBlock) break;
      entry = next;
    }
    this.#evaluated += limit - budget;
    return true;
  }

  #perform(entry: InsnEntry, rip: number, budget: number, stepping: boolean): CpuExit | undefined {
    const { core } = this;
    const done = (entry.run ?? this.#cache.compile(entry))();
    switch (done) {
      case DONE.next:
        core.rip = core.csFlat ? core.wrap(rip + entry.lengthBytes) : this.#wrap(rip + entry.lengthBytes);
        break;
      case DONE.jumped:
        break;
      case DONE.repeat:
        // Each iteration is a boundary: long string instructions get hot too.
        this.#broke = true;
        break;
      case DONE.fault:
        return this.#raise(core.fault as Exception);
      case DONE.exit:
        return this.#leave(this.exit as CpuExit, budget);
    }
    core.set32(STATE.budget, budget - 1);
    this.#evaluated++;
    const shadow = core.get32(STATE.shadow);
    if (shadow !== SHADOW.none) core.set32(STATE.shadow, shadow === SHADOW.newSti ? SHADOW.sti : shadow === SHADOW.newSs ? SHADOW.ss : SHADOW.none);
    if (done === DONE.repeat && !stepping && core.breakpoints === undefined) return this.#repeat(entry, rip, budget - 1);
    return stepping && shadow !== SHADOW.newSs ? this.#debug(DR6_BS) : undefined;
  }

  /** More iterations of the string instruction at rip, as #loop would have them one by one; some, since it may be worth translating. */
  #repeat(entry: InsnEntry, rip: number, limit: number): CpuExit | undefined {
    const { core } = this;
    const page = this.#page;
    const run = entry.run as () => Done;
    const least = Math.max(0, limit - MOST_ITERATIONS);
    let done: Done = DONE.repeat;
    let budget = limit;
    // One that goes on in the next page is not in the index, and looks that page up each time.
    while (done === DONE.repeat && budget > least && this.#page === page && page?.get(rip & 0xfff) === entry) {
      done = run();
      if (done === DONE.fault) break;
      core.set32(STATE.budget, --budget);
    }
    this.#evaluated += limit - budget;
    this.#iterations += limit - budget;
    if (done === DONE.repeat) return undefined;
    this.#iterations = 1;
    if (done === DONE.fault) return this.#raise(core.fault as Exception);
    core.rip = core.csFlat ? core.wrap(rip + entry.lengthBytes) : this.#wrap(rip + entry.lengthBytes);
    return undefined;
  }

  /**
   * One instruction while breakpoints are armed. What a load of SS hits waits, as a single step does, for the end of the
   * instruction after it.
   */
  #watched(entry: InsnEntry, vaddr: number, budget: number, stepping: boolean): CpuExit | undefined {
    const { core } = this;
    const { rip } = core;
    const rest = core.get32(STATE.eflagsRest);
    const held = core.get32(STATE.shadow) === SHADOW.ss;
    if (!held) {
      const bits = (rest & EFLAGS.RF) === 0 ? instructionBreakpoints(core, vaddr) : 0;
      if (bits !== 0) return this.#debug(bits);
      core.breakpointsHit = 0;
    }
    core.set32(STATE.eflagsRest, rest & ~EFLAGS.RF);
    this.#broke = false;
    const exit = this.#perform(entry, rip, budget, false);
    const finished = core.get32(STATE.budget) !== budget;
    // What is begun again, or goes on with its next iteration, has RF as it was.
    if (finished ? this.#broke && core.rip === rip : !this.#broke) core.set32(STATE.eflagsRest, core.get32(STATE.eflagsRest) | (rest & EFLAGS.RF));
    if (exit !== undefined || !finished || core.get32(STATE.shadow) === SHADOW.ss) return exit;
    const bits = core.breakpointsHit | (stepping ? DR6_BS : 0);
    return bits === 0 ? undefined : this.#debug(bits);
  }
  #debug(bits: number): CpuExit | undefined {
    const { core } = this;
    core.breakpointsHit = 0;
    core.set32(STATE.dr + 6 * 8, (core.get32(STATE.dr + 6 * 8) | bits) >>> 0);
    return this.#raise({ vector: VECTOR.DB });
  }

  /** IP of 16-bit code wraps. */
  #wrap(rip: number): number {
    return (this.core.mode & MODE.code32) !== 0 ? rip >>> 0 : rip & 0xffff;
  }

  /** An exit of a system row: traps count one, refused and unfinished instructions none. */
  #leave(exit: CpuExit, budget: number): CpuExit | undefined {
    const { core } = this;
    if (exit.kind === 'softint' || exit.kind === 'syscall' || exit.kind === 'halt' || exit.kind === 'exception') {
      core.set32(STATE.budget, budget - 1);
      core.set32(STATE.shadow, SHADOW.none);
    }
    if (exit.kind === 'exception') return this.#raise(exit.exception);
    if (exit.kind !== 'softint' || this.#options.exceptions === 'exit') return exit;
    const back = core.wrap(core.rip - exit.insnBytes);
    const result = deliverThroughIdt(core, { vector: exit.vector, software: true, returnOffset: core.rip });
    this.#broke = true;
    if (result === 'jumped') return undefined;
    core.rip = back;
    core.set32(STATE.budget, budget);
    if (result === undefined || result === 'repeat') return undefined;
    return 'kind' in result ? result : this.#raise(result);
  }

  #raise(exception: Exception): CpuExit | undefined {
    if (exception.vector === VECTOR.PF && exception.cr2 !== undefined) this.core.setAddress(STATE.cr2, exception.cr2);
    if (this.#options.exceptions === 'exit') return { kind: 'exception', exception };
    this.#broke = true;
    return this.deliver(exception, false);
  }

  deliver(exception: Exception, software: boolean): CpuExit | undefined {
    const { core } = this;
    let current = exception;
    for (;;) {
      const delivery: Delivery = { vector: current.vector, software, returnOffset: core.rip, ...(current.errorCode === undefined ? {} : { errorCode: current.errorCode }) };
      const result = deliverThroughIdt(core, delivery);
      if (result === 'jumped' || result === undefined || result === 'repeat') {
        core.set32(STATE.shadow, 0);
        return undefined;
      }
      if ('kind' in result) return result;
      if (result.vector === VECTOR.PF && result.cr2 !== undefined) core.setAddress(STATE.cr2, result.cr2);
      const next = combine(current.vector, result);
      if (next === 'triple') return { kind: 'tripleFault' };
      current = next;
    }
  }

  completeIo(value: number): void {
    const { core } = this;
    const insn = this.#decodeHere();
    assert(insn !== undefined, 'there is no I/O instruction to complete');
    if (completeIo(core, insn, value)) this.addRetired(1);
    else this.#raise(core.fault as Exception);
  }
  #decodeHere(): Insn | undefined {
    const found = this.decodeAt(this.#linearRip());
    return found;
  }
  #linearRip(): number {
    return this.core.long ? this.core.rip : (this.core.rip + this.core.get32(CS + 8)) >>> 0;
  }

  // -- fetching ------------------------------------------------------------------------------------

  #enterPage(vaddr: number): Exception | undefined {
    const { core } = this;
    const at = lookup(core, vaddr, 'fetch', core.user);
    if (at < 0) return core.fault;
    core.set32(STATE.fetchVpn, vpnLow(vaddr));
    core.set32(STATE.fetchVpn + 4, vpnHigh(vaddr));
    core.set32(STATE.fetchMaddr, ((at - core.machine.ramBase) & ~0xfff) >>> 0);
    core.set32(STATE.fetchMaddr + 4, 0);
    return undefined;
  }

  #entryAt(vaddr: number, rip: number): InsnEntry | Exception {
    const { core } = this;
    const vpn = pageOf(vaddr);
    const mfn = core.get32(STATE.fetchMaddr) >>> 12;
    const mode = loweringMode(core.mode);
    const csBase = core.wrap(vaddr - rip);
    let page = this.#page;
    if (page === undefined || page.vpn !== vpn || page.mfn !== mfn || page.mode !== mode || page.csBase !== csBase) page = this.#page = this.#cache.page(mfn, vpn, mode, csBase);
    const offset = vaddr & 0xfff;
    let entry = page.get(offset);
    if (entry === undefined) {
      const found = this.#makeEntry(page, vaddr, rip);
      if (isException(found)) return found;
      entry = found;
    }
    if (entry.kind === 'invalid') return { vector: VECTOR.UD };
    if (entry.kind === 'tooLong' || (!core.csFlat && rip + entry.lengthBytes - 1 > core.get32(CS + 16))) return GP0;
    return entry;
  }

  #makeEntry(page: CodePage, vaddr: number, rip: number): Entry | Exception {
    const { core, machine } = this;
    // Outside RAM there are only ones, and those are no instruction.
    if (page.mfn >= machine.frameCount) return { kind: 'invalid' };
    const offset = vaddr & 0xfff;
    const at = machine.ramBase + page.mfn * 4096 + offset;
    const here = Math.min(MAX_INSN_BYTES, 4096 - offset);
    const first = core.u8.subarray(at, at + here);
    const entry = this.#cache.make(first, rip, page.mode);
    if (entry === undefined) return this.#crossing(page, vaddr, rip, first);
    markCode(machine, page.mfn * 4096 + offset, entry.kind === 'insn' ? entry.lengthBytes : here);
    page.set(offset, entry);
    return entry;
  }

  /** An instruction that goes on in the next page: that page is looked up each time (law 1), and what is there compared. */
  #crossing(page: CodePage, vaddr: number, rip: number, first: Uint8Array): Entry | Exception {
    const { core } = this;
    const next = core.wrap((pageOf(vaddr) + 1) * 4096);
    if (core.long && !inCanonicalRange(next)) return GP0;
    const at = lookup(core, next, 'fetch', core.user);
    if (at < 0) return core.fault as Exception;
    const bytes = new Uint8Array(MAX_INSN_BYTES);
    bytes.set(first);
    bytes.set(core.u8.subarray(at, at + MAX_INSN_BYTES - first.length), first.length);
    const offset = vaddr & 0xfff;
    const known = page.crossing.get(offset);
    if (known !== undefined && known.bytes.every((byte, i) => byte === bytes[i])) return known.entry;
    const entry = this.#cache.make(bytes, rip, page.mode) as Entry;
    page.crossing.set(offset, { bytes, entry });
    return entry;
  }

  // -- the translator ------------------------------------------------------------------------------

  codeChanged(mfn: number, from: number, to: number): void {
    if (this.#cache.drop(mfn, from, to)) this.#page = undefined;
    this.#translator?.invalidate(mfn, from, to);
  }
  dropWritePaths(mfn: number): void {
    dropWriteTags(this.core, mfn);
  }
  invalidateCode(mfn: number): void {
    codeChanged(this.machine, mfn);
  }

  // -- state ---------------------------------------------------------------------------------------

  retired(): number {
    return this.#retired + (this.#runBudget === 0 ? 0 : this.#runBudget - (this.core.get32(STATE.budget) | 0));
  }
  addRetired(insns: number): void {
    this.#retired += insns;
  }
  saveState(): Uint8Array {
    return saveState(this.core, this.#retired);
  }
  restoreState(bytes: Uint8Array, codeStands = false): void {
    this.#retired = restoreState(this.core, bytes);
    this.#page = undefined;
    this.#middle = NaN;
    if (codeStands) return;
    this.#cache.clear();
    this.#translator?.reset();
  }
}

/** A processor on this machine: its state and TLB are taken from the machine's arena. */
export const createCpu = (machine: MachineMemory, options: CpuOptions): Processor => new Processor(machine, options);
