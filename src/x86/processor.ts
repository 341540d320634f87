// The processor: a Core with a run loop. Two tiers take turns: translated regions (translate/) run
// hot code, the evaluator everything else, one instruction at a time. Every boundary is exact.
//
//   while there is budget:
//     fetch page   law 1 of README.md: a TLB look-up only when rip leaves the current fetch page
//     translator   at block boundaries; runs until it meets something that it leaves to the evaluator
//     evaluator    one instruction; a fault or an exit ends the run
import { assert } from '../base/assert.ts';
import type { MachineMemory } from '../machine/memory.ts';
import { CodeCache, type CodePage, type Entry, type InsnEntry } from './code-cache.ts';
import { codeChanged, hitsCode, markCode, registerCodeUser, type CodeUser } from './code-frames.ts';
import { ACCESS, Core, UNUSABLE } from './core.ts';
import type { Cpu, CpuCounters, CpuOptions, SegmentState } from './cpu.ts';
import { decode, MAX_INSN_BYTES, type Insn } from './decode.ts';
import { DONE, type Evaluator } from './evaluate.ts';
import { VECTOR, type CpuExit, type Exception } from './exit.ts';
import { EFLAGS } from './flags.ts';
import { formatAt } from './format.ts';
import type { Lowered } from './lower.ts';
import { readBytes, writeBytes } from './memory-access.ts';
import { codeLimitOf, loweringMode, isFlat, isPlain, modeBits, MODE } from './mode.ts';
import { dropAllTags, dropWriteTags, flushTlb, invlpg, lookup, peek, setAddend } from './paging.ts';
import { isException, loadDataSegment } from './segments.ts';
import { ARCH_STATE_BYTES, GPR_NAMES, SEG, SEG_NAMES, SEG_SLOT_BYTES, SHADOW, STATE, STATE_BYTES } from './state-layout.ts';
import { reloadPdptes, setCr0, setCr3, setCr4, tscOf } from './system/control-registers.ts';
import { completeIo } from './system/misc.ts';
import { combine, deliverThroughIdt, type Delivery } from './system/transfers.ts';
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES, TLB_VPN_BYTES } from './tlb-layout.ts';
import type { SegmentKind } from './translate/frame.ts';
import { createTranslator, type Translator, type TranslatorCounters, type TranslatorMode } from './translate/translator.ts';

const MAX_BUDGET = 2 ** 30;
const BUDGET_EXIT: CpuExit = { kind: 'budget' };
const GP0: Exception = { vector: VECTOR.GP, errorCode: 0 };
/** arch u32 (and padding), maddr u64, vpn u64. */
const SAVED_ENTRY_BYTES = 24;
const CS = STATE.seg + SEG.cs * SEG_SLOT_BYTES;

export class Processor implements Cpu, Evaluator, CodeUser {
  readonly machine: MachineMemory;
  readonly core: Core;
  exit: CpuExit | undefined;
  readonly #options: CpuOptions;
  readonly #cache: CodeCache;
  readonly #translator: Translator | undefined;
  #page: CodePage | undefined;
  #retired = 0;
  /** Instructions of all runs, and those of them that the evaluator performed: for the profile. */
  #performed = 0;
  #evaluated = 0;
  /** Budget at the start of the current run. */
  #runBudget = 0;

  constructor(machine: MachineMemory, options: CpuOptions) {
    this.machine = machine;
    this.#options = options;
    this.core = new Core(machine, options, () => this.retired());
    this.#cache = new CodeCache(this);
    registerCodeUser(machine, this);
    dropAllTags(this.core);
    if ((options.tier ?? 'auto') !== 'evaluate') this.#translator = this.#makeTranslator(options);
  }

  get stateBase(): number {
    return this.core.stateBase;
  }
  get tlbBase(): number {
    return this.core.tlbBase;
  }

  get counters(): CpuCounters {
    const translator = this.#translator?.counters;
    return {
      evaluatedInsns: this.#evaluated,
      translatedInsns: Math.max(0, this.#performed - this.#evaluated),
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
    assert(budgetInsns >= 1 && budgetInsns <= MAX_BUDGET, `budget of ${budgetInsns} instructions`);
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
    let atBoundary = core.get32(STATE.rip) !== this.#middle;
    this.#middle = -1;
    for (;;) {
      const budget = core.get32(STATE.budget);
      const rip = core.get32(STATE.rip);
      if (budget === 0) {
        if (!atBoundary) this.#middle = rip;
        return BUDGET_EXIT;
      }
      const flat = core.csFlat;
      const vaddr = flat ? rip : (rip + core.get32(CS + 8)) >>> 0;
      const beyond = !flat && rip > core.get32(CS + 16);
      if (beyond || core.get32(STATE.fetchVpn) !== vaddr >>> 12) {
        const problem = beyond ? GP0 : this.#enterPage(vaddr);
        if (problem !== undefined) {
          const exit = this.#raise(problem);
          if (exit !== undefined) return exit;
          atBoundary = true;
          continue;
        }
      }
      const stepping = (core.get32(STATE.eflagsRest) & EFLAGS.TF) !== 0;
      const plain = !stepping && core.get32(STATE.shadow) === SHADOW.none;
      if (atBoundary && plain && translator !== undefined) {
        if (translator.step()) continue;
        atBoundary = false;
      }
      const entry = this.#entryAt(vaddr, rip);
      if (isException(entry)) {
        const exit = this.#raise(entry);
        if (exit !== undefined) return exit;
        atBoundary = true;
        continue;
      }
      if (plain && flat && !entry.endsBlock) {
        if (this.#straight(entry, rip, budget)) continue;
        const exit = this.#raise(core.fault as Exception);
        if (exit !== undefined) return exit;
        atBoundary = true;
        continue;
      }
      const exit = this.#perform(entry, rip, budget, stepping);
      if (exit !== undefined) return exit;
      atBoundary = entry.endsBlock || this.#broke;
      this.#broke = false;
    }
  }

  /** Where the last budget ended inside a block, or -1: such places must not look like entries to the translator. */
  #middle = -1;
  /** Set when an exception was delivered: rip is somewhere else. */
  #broke = false;

  /**
   * Performs instructions that end no block, as long as they are known and in the current page. Nothing in
   * them changes mode, segments or traps. False: the last one faulted.
   */
  #straight(first: InsnEntry, from: number, limit: number): boolean {
    const { u32, s } = this.core;
    const page = this.#page as CodePage;
    const { entries } = page;
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
      if (done === DONE.next) rip = (rip + entry.lengthBytes) >>> 0;
      u32[ripAt] = rip;
      u32[budgetAt] = --budget;
      if (budget === 0 || (rip ^ from) >>> 12 !== 0 || this.#page !== page) break;
      const next = entries[rip & 0xfff];
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
        core.set32(STATE.rip, core.csFlat ? (rip + entry.lengthBytes) >>> 0 : this.#wrap(rip + entry.lengthBytes));
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
    return stepping && shadow !== SHADOW.newSs ? this.#singleStep() : undefined;
  }

  /** IP of 16-bit code wraps. */
  #wrap(rip: number): number {
    return (this.core.mode & MODE.code32) !== 0 ? rip >>> 0 : rip & 0xffff;
  }

  #singleStep(): CpuExit | undefined {
    this.core.set32(STATE.dr + 6 * 8, this.core.get32(STATE.dr + 6 * 8) | 0x4000);
    return this.#raise({ vector: VECTOR.DB });
  }

  /** An exit of a system row: traps count one, refused and unfinished instructions none. */
  #leave(exit: CpuExit, budget: number): CpuExit | undefined {
    const { core } = this;
    if (exit.kind === 'softint' || exit.kind === 'halt' || exit.kind === 'exception') {
      core.set32(STATE.budget, budget - 1);
      core.set32(STATE.shadow, SHADOW.none);
    }
    if (exit.kind === 'exception') return this.#raise(exit.exception);
    if (exit.kind !== 'softint' || this.#options.exceptions === 'exit') return exit;
    const back = (core.get32(STATE.rip) - exit.insnBytes) >>> 0;
    const result = deliverThroughIdt(core, { vector: exit.vector, software: true, returnOffset: core.get32(STATE.rip) });
    this.#broke = true;
    if (result === 'jumped') return undefined;
    core.set32(STATE.rip, back);
    core.set32(STATE.budget, budget);
    if (result === undefined || result === 'repeat') return undefined;
    return 'kind' in result ? result : this.#raise(result);
  }

  #raise(exception: Exception): CpuExit | undefined {
    if (exception.vector === VECTOR.PF && exception.cr2 !== undefined) this.core.set32(STATE.cr2, exception.cr2);
    if (this.#options.exceptions === 'exit') return { kind: 'exception', exception };
    this.#broke = true;
    return this.deliver(exception, false);
  }

  deliver(exception: Exception, software: boolean): CpuExit | undefined {
    const { core } = this;
    let current = exception;
    for (;;) {
      const delivery: Delivery = { vector: current.vector, software, returnOffset: core.get32(STATE.rip), ...(current.errorCode === undefined ? {} : { errorCode: current.errorCode }) };
      const result = deliverThroughIdt(core, delivery);
      if (result === 'jumped' || result === undefined || result === 'repeat') {
        core.set32(STATE.shadow, 0);
        return undefined;
      }
      if ('kind' in result) return result;
      if (result.vector === VECTOR.PF && result.cr2 !== undefined) core.set32(STATE.cr2, result.cr2);
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
    return (this.core.get32(STATE.rip) + this.core.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 8)) >>> 0;
  }

  // -- fetching ------------------------------------------------------------------------------------

  #enterPage(vaddr: number): Exception | undefined {
    const { core } = this;
    const at = lookup(core, vaddr, 'fetch', core.user);
    if (at < 0) return core.fault;
    core.set32(STATE.fetchVpn, vaddr >>> 12);
    core.set32(STATE.fetchVpn + 4, 0);
    core.set32(STATE.fetchMaddr, ((at - core.machine.ramBase) & ~0xfff) >>> 0);
    core.set32(STATE.fetchMaddr + 4, 0);
    return undefined;
  }

  #entryAt(vaddr: number, rip: number): InsnEntry | Exception {
    const { core } = this;
    const vpn = vaddr >>> 12;
    const mfn = core.get32(STATE.fetchMaddr) >>> 12;
    const mode = loweringMode(core.mode);
    const csBase = (vaddr - rip) >>> 0;
    let page = this.#page;
    if (page === undefined || page.vpn !== vpn || page.mfn !== mfn || page.mode !== mode || page.csBase !== csBase) page = this.#page = this.#cache.page(mfn, vpn, mode, csBase);
    const offset = vaddr & 0xfff;
    let entry = page.entries[offset];
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
    page.entries[offset] = entry;
    return entry;
  }

  /** An instruction that goes on in the next page: that page is looked up each time (law 1), and what is there compared. */
  #crossing(page: CodePage, vaddr: number, rip: number, first: Uint8Array): Entry | Exception {
    const { core } = this;
    const next = (((vaddr >>> 12) + 1) << 12) >>> 0;
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

  #makeTranslator(options: CpuOptions): Translator {
    const { core } = this;
    const { machine } = this;
    const slow = (access: 'read' | 'write') => (vaddr: number, sizeBytes: number): number => {
      if (vaddr >>> 12 !== ((vaddr + sizeBytes - 1) >>> 0) >>> 12) return 0;
      const at = lookup(core, vaddr, access, core.user);
      if (at < machine.ramBase) return 0;
      return access === 'write' && hitsCode(machine, at - machine.ramBase, sizeBytes) ? 0 : at;
    };
    return createTranslator(
      {
        machine,
        stateBase: core.stateBase,
        tlbBase: core.tlbBase,
        lowerAt: (maddr, vaddr, mode) => this.#lowerAt(maddr, vaddr, mode),
        lowerCrossing: (maddr, vaddr, mode) => this.#lowerCrossing(maddr, vaddr, mode),
        mode: (key) => this.#translatorMode(key),
        slowRead: slow('read'),
        slowWrite: slow('write'),
        clock: options.clock,
      },
      options.tier === 'translate' ? { hotAfter: 1, batch: 1, eager: true } : {},
    );
  }

  /** What translated code is made from; undefined where the evaluator must do it. Translated code segments have base 0. */
  #lowerAt(maddr: number, vaddr: number, mode: number): Lowered | undefined {
    const page = this.#cache.page(maddr >>> 12, vaddr >>> 12, mode, 0);
    let entry = page.entries[vaddr & 0xfff];
    if (entry === undefined) {
      const at = this.machine.ramBase + maddr;
      entry = this.#cache.make(this.core.u8.subarray(at, at + Math.min(MAX_INSN_BYTES, 4096 - (maddr & 0xfff))), vaddr, mode);
      if (entry?.kind !== 'insn') return undefined;
      markCode(this.machine, maddr, entry.lengthBytes);
      page.entries[vaddr & 0xfff] = entry;
    }
    return entry.kind === 'insn' ? entry.lowered : undefined;
  }

  /** An instruction that goes on in the next page, as the TLB maps that page now. */
  #lowerCrossing(maddr: number, vaddr: number, mode: number): { lowered: Lowered; nextMaddr: number } | undefined {
    const { core, machine } = this;
    const next = (((vaddr >>> 12) + 1) << 12) >>> 0;
    const e = (core.tlbBase + ((next >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES) >>> 2;
    if (core.u32[e + ((modeBits(mode).user ? TLB.execUser : TLB.execSup) >> 2)] !== next) return undefined;
    const nextMaddr = core.u32[e + (TLB.maddr >> 2)] as number;
    const inFirst = 4096 - (vaddr & 0xfff);
    if (inFirst >= MAX_INSN_BYTES) return undefined;
    const bytes = new Uint8Array(MAX_INSN_BYTES);
    bytes.set(core.u8.subarray(machine.ramBase + maddr, machine.ramBase + maddr + inFirst));
    bytes.set(core.u8.subarray(machine.ramBase + nextMaddr, machine.ramBase + nextMaddr + MAX_INSN_BYTES - inFirst), inFirst);
    const entry = this.#cache.make(bytes, vaddr, mode);
    if (entry?.kind !== 'insn' || entry.lengthBytes <= inFirst) return undefined;
    markCode(machine, maddr, inFirst);
    markCode(machine, nextMaddr, entry.lengthBytes - inFirst);
    return { lowered: entry.lowered, nextMaddr };
  }

  #translatorMode(key: number): TranslatorMode {
    const bits = modeBits(key);
    const segments = SEG_NAMES.map((_, seg): SegmentKind => (isFlat(key, seg) ? 'flat' : seg !== SEG.cs && isPlain(key, seg) ? 'checked' : 'never'));
    const codeLimit = codeLimitOf(key);
    return { translatable: bits.codeWidth === 32 && bits.stackWidth === 32 && codeLimit > 0, user: bits.user, long: false, codeLimit, segments };
  }

  codeChanged(mfn: number): void {
    if (this.#cache.drop(mfn)) this.#page = undefined;
    this.#translator?.invalidate(mfn);
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
  reg(index: number): number {
    return this.core.get32(STATE.gpr + index * 8);
  }
  setReg(index: number, value: number): void {
    this.core.set32(STATE.gpr + index * 8, value);
  }
  regHigh(index: number): number {
    return this.core.get32(STATE.gpr + index * 8 + 4);
  }
  setRegHigh(index: number, value: number): void {
    this.core.set32(STATE.gpr + index * 8 + 4, value);
  }
  eip(): number {
    return this.core.get32(STATE.rip);
  }
  setEip(value: number): void {
    this.core.set32(STATE.rip, value);
  }
  eflags(): number {
    return this.core.eflags();
  }
  setEflags(value: number): void {
    this.core.setEflags(value);
  }
  cpl(): number {
    return this.core.get32(STATE.cpl);
  }
  #slot(at: number): SegmentState {
    return { selector: this.core.get32(at), base: this.core.get32(at + 8), limit: this.core.get32(at + 16), access: this.core.get32(at + 24) };
  }
  #setSlot(at: number, state: SegmentState): void {
    this.core.setSegmentSlot(at, state.selector, state.base, state.limit, state.access);
  }
  segment(index: number): SegmentState {
    return this.#slot(STATE.seg + index * SEG_SLOT_BYTES);
  }
  setSegment(index: number, state: SegmentState): void {
    this.#setSlot(STATE.seg + index * SEG_SLOT_BYTES, state);
    if (index === SEG.cs) this.core.set32(STATE.cpl, state.selector & 3);
    this.core.updateMode();
  }
  ldtr(): SegmentState {
    return this.#slot(STATE.ldtr);
  }
  setLdtr(state: SegmentState): void {
    this.#setSlot(STATE.ldtr, state);
  }
  tr(): SegmentState {
    return this.#slot(STATE.tr);
  }
  setTr(state: SegmentState): void {
    this.#setSlot(STATE.tr, state);
  }
  gdtr(): { base: number; limit: number } {
    return { base: this.core.get32(STATE.gdtrBase), limit: this.core.get32(STATE.gdtrLimit) };
  }
  setGdtr(base: number, limit: number): void {
    this.core.set32(STATE.gdtrBase, base);
    this.core.set32(STATE.gdtrLimit, limit);
  }
  idtr(): { base: number; limit: number } {
    return { base: this.core.get32(STATE.idtrBase), limit: this.core.get32(STATE.idtrLimit) };
  }
  setIdtr(base: number, limit: number): void {
    this.core.set32(STATE.idtrBase, base);
    this.core.set32(STATE.idtrLimit, limit);
  }
  cr(n: 0 | 2 | 3 | 4): number {
    return this.core.get32({ 0: STATE.cr0, 2: STATE.cr2, 3: STATE.cr3, 4: STATE.cr4 }[n]);
  }
  setCr(n: 0 | 2 | 3 | 4, value: number): void {
    if (n === 2) this.core.set32(STATE.cr2, value);
    else if (n === 0) setCr0(this.core, value);
    else if (n === 3) setCr3(this.core, value);
    else setCr4(this.core, value);
  }
  efer(): number {
    return this.core.get32(STATE.efer);
  }
  setEfer(value: number): void {
    if (this.core.get32(STATE.efer) !== value >>> 0) flushTlb(this.core, false);
    this.core.set32(STATE.efer, value);
  }
  dr(n: number): number {
    return this.core.get32(STATE.dr + n * 8);
  }
  setDr(n: number, value: number): void {
    this.core.set32(STATE.dr + n * 8, value);
  }
  setTsc(baseAtRetiredZero: bigint, perInsn: number): void {
    this.core.view.setBigInt64(this.stateBase + STATE.tscBase, BigInt.asIntN(64, baseAtRetiredZero), true);
    this.core.view.setBigUint64(this.stateBase + STATE.tscPerInsn, BigInt(perInsn), true);
  }
  tsc(): bigint {
    return tscOf(this.core);
  }
  setShadow(on: boolean): void {
    this.core.set32(STATE.shadow, on ? 1 : 0);
  }
  loadSegment(index: number, selector: number): Exception | undefined {
    assert(index !== SEG.cs, 'CS is loaded by setSegment');
    return loadDataSegment(this.core, index, selector);
  }

  flushTlb(keepGlobal: boolean): void {
    // Hardware flushes by loading CR3.
    reloadPdptes(this.core);
    flushTlb(this.core, keepGlobal);
  }
  invlpg(vaddr: number): void {
    invlpg(this.core, vaddr >>> 0);
  }
  dropWriteFastPaths(): void {
    dropWriteTags(this.core, -1);
  }
  translate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { ok: true; maddr: number } | { ok: false; exception: Exception } {
    const at = lookup(this.core, vaddr >>> 0, access, user);
    return at < 0 ? { ok: false, exception: this.core.fault as Exception } : { ok: true, maddr: at - this.machine.ramBase };
  }
  readLinear(vaddr: number, sizeBytes: number, user: boolean): { ok: true; bytes: Uint8Array } | { ok: false; exception: Exception } {
    const bytes = readBytes(this.core, vaddr >>> 0, sizeBytes, user);
    return bytes === undefined ? { ok: false, exception: this.core.fault as Exception } : { ok: true, bytes };
  }
  writeLinear(vaddr: number, bytes: Uint8Array, user: boolean): { ok: true } | { ok: false; exception: Exception } {
    return writeBytes(this.core, vaddr >>> 0, bytes, user) ? { ok: true } : { ok: false, exception: this.core.fault as Exception };
  }

  // -- checkpoints and reports ---------------------------------------------------------------------

  /** Registers in canonical form, then the architectural half of each TLB entry. What is derived from them (mode, tags) is left out. */
  saveState(): Uint8Array {
    const { core } = this;
    core.canonicalise();
    core.view.setFloat64(core.stateBase + STATE.retired, this.#retired, true);
    const bytes = new Uint8Array(ARCH_STATE_BYTES + TLB_ENTRIES * SAVED_ENTRY_BYTES);
    bytes.set(core.u8.subarray(core.stateBase, core.stateBase + ARCH_STATE_BYTES));
    bytes.fill(0, STATE.mode, STATE.mode + 8);
    for (let slot = 0, at = ARCH_STATE_BYTES; slot < TLB_ENTRIES; slot++, at += SAVED_ENTRY_BYTES) {
      const e = core.tlbBase + slot * TLB_ENTRY_BYTES;
      const vpn = core.tlbVpnBase + slot * TLB_VPN_BYTES;
      bytes.set(core.u8.subarray(e + TLB.arch, e + TLB.arch + 4), at);
      bytes.set(core.u8.subarray(e + TLB.maddr, e + TLB.maddr + 8), at + 8);
      bytes.set(core.u8.subarray(vpn, vpn + TLB_VPN_BYTES), at + 16);
    }
    return bytes;
  }
  restoreState(bytes: Uint8Array): void {
    assert(bytes.length === ARCH_STATE_BYTES + TLB_ENTRIES * SAVED_ENTRY_BYTES, `${bytes.length} bytes are no processor state`);
    const { core } = this;
    core.u8.set(bytes.subarray(0, ARCH_STATE_BYTES), core.stateBase);
    core.u8.fill(0, core.stateBase + ARCH_STATE_BYTES, core.stateBase + STATE_BYTES);
    this.#retired = core.view.getFloat64(core.stateBase + STATE.retired, true);
    for (let slot = 0, at = ARCH_STATE_BYTES; slot < TLB_ENTRIES; slot++, at += SAVED_ENTRY_BYTES) {
      const e = core.tlbBase + slot * TLB_ENTRY_BYTES;
      const vpn = core.tlbVpnBase + slot * TLB_VPN_BYTES;
      core.u8.set(bytes.subarray(at, at + 4), e + TLB.arch);
      core.u8.set(bytes.subarray(at + 8, at + 16), e + TLB.maddr);
      core.u8.set(bytes.subarray(at + 16, at + 24), vpn);
      setAddend(core, slot);
    }
    dropAllTags(core);
    core.restoreMode();
    this.#cache.clear();
    this.#page = undefined;
    this.#middle = -1;
    this.#translator?.reset();
  }

  registers(): readonly { readonly name: string; readonly value: number | bigint }[] {
    const { core } = this;
    const rows: { name: string; value: number | bigint }[] = GPR_NAMES.slice(0, 8).map((name, i) => ({ name: name.replace('r', 'e'), value: this.reg(i) }));
    rows.push({ name: 'eip', value: this.eip() }, { name: 'eflags', value: this.eflags() }, { name: 'cpl', value: this.cpl() });
    SEG_NAMES.forEach((name, i) => rows.push({ name, value: this.segment(i).selector }));
    for (const n of [0, 2, 3, 4] as const) rows.push({ name: `cr${n}`, value: this.cr(n) });
    rows.push({ name: 'retired', value: this.retired() });
    void core;
    return rows;
  }
  /** The instruction at a linear address, without any effect; undefined if it cannot be read or decoded. */
  decodeAt(vaddr: number): Insn | undefined {
    const bytes = this.#peek(vaddr, MAX_INSN_BYTES);
    if (bytes.length === 0) return undefined;
    const decoded = decode(bytes, (vaddr - this.core.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 8)) >>> 0, modeBits(this.core.mode).codeWidth);
    return decoded.kind === 'insn' ? decoded.insn : undefined;
  }
  disassemble(vaddr: number, count: number): readonly { readonly vaddr: number; readonly bytes: string; readonly text: string }[] {
    return formatAt(this.#peek(vaddr, count * MAX_INSN_BYTES), vaddr, count, modeBits(this.core.mode).codeWidth);
  }
  /** As many bytes as can be read, up to `sizeBytes`, without any effect. */
  #peek(vaddr: number, sizeBytes: number): Uint8Array {
    const { core } = this;
    const bytes = new Uint8Array(sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const from = (vaddr + done) >>> 0;
      const at = peek(core, from, core.user);
      if (at < 0) return bytes.subarray(0, done);
      const n = Math.min(sizeBytes - done, 4096 - (from & 0xfff));
      bytes.set(core.u8.subarray(at, at + n), done);
      done += n;
    }
    return bytes;
  }
}

/** A processor on this machine: its state and TLB are taken from the machine's arena. */
export const createCpu = (machine: MachineMemory, options: CpuOptions): Processor => new Processor(machine, options);
export { ACCESS, UNUSABLE };
