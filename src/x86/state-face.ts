// The face of a processor's state: registers, segments, tables, guest memory, reports. All of it lives in
// the Core; nothing here runs instructions.
import { assert } from '../base/assert.ts';
import { bitsOf, highHalf } from './address.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Core } from './core.ts';
import type { SegmentState } from './cpu.ts';
import { decode, MAX_INSN_BYTES, type Insn } from './decode.ts';
import type { Exception } from './exit.ts';
import { formatAt } from './format.ts';
import { readBytes, writeBytes } from './memory-access.ts';
import { modeBits } from './mode.ts';
import { debugRegistersChanged, dropWriteTags, flushTlb, invlpg, lookup, peek } from './paging.ts';
import { loadDataSegment } from './segments.ts';
import { GPR_NAMES, SEG, SEG_NAMES, SEG_SLOT_BYTES, STATE } from './state-layout.ts';
import { readMsr, reloadPdptes, setCr0, setCr3, setCr4, tscOf, writeMsr } from './system/control-registers.ts';
import { gpr64, setGpr64 } from './system/row.ts';

export abstract class StateFace {
  readonly machine: MachineMemory;
  abstract readonly core: Core;

  constructor(machine: MachineMemory) {
    this.machine = machine;
  }
  abstract retired(): number;

  get stateBase(): number {
    return this.core.stateBase;
  }
  get tlbBases(): readonly number[] {
    return this.core.tlbBases;
  }
  get tlbVpnBases(): readonly number[] {
    return this.core.tlbVpnBases;
  }

  // -- registers -----------------------------------------------------------------------------------

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
  reg64(index: number): bigint {
    return gpr64(this.core, index);
  }
  setReg64(index: number, value: bigint): void {
    setGpr64(this.core, index, BigInt.asUintN(64, value));
  }
  eip(): number {
    return this.core.get32(STATE.rip);
  }
  setEip(value: number): void {
    this.core.rip = value >>> 0;
  }
  rip(): number {
    return this.core.rip;
  }
  setRip(vaddr: number): void {
    this.core.rip = vaddr;
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
    return { selector: this.core.get32(at), base: this.core.address(at + 8), limit: this.core.get32(at + 16), access: this.core.get32(at + 24) };
  }
  #setSlot(at: number, state: SegmentState): void {
    this.core.setSegmentSlot(at, state.selector, state.base, state.limit, state.access);
  }
  segment(index: number): SegmentState {
    return this.#slot(STATE.seg + index * SEG_SLOT_BYTES);
  }
  segmentSelector(index: number): number {
    return this.core.get32(STATE.seg + index * SEG_SLOT_BYTES);
  }
  segmentAccess(index: number): number {
    return this.core.get32(STATE.seg + index * SEG_SLOT_BYTES + 24);
  }
  setSegment(index: number, state: SegmentState): void {
    this.#setSlot(STATE.seg + index * SEG_SLOT_BYTES, state);
    if (index === SEG.cs) this.core.set32(STATE.cpl, state.selector & 3);
    this.core.updateMode();
  }
  setCodeAndStack(cs: SegmentState, ss: SegmentState): void {
    this.#setSlot(STATE.seg + SEG.ss * SEG_SLOT_BYTES, ss);
    this.setSegment(SEG.cs, cs);
  }
  setSegmentBase(index: number, base: number): void {
    this.core.setAddress(STATE.seg + index * SEG_SLOT_BYTES + 8, base);
    this.core.updateMode();
  }
  kernelGsBase(): number {
    return this.core.address(STATE.kernelGsBase);
  }
  setKernelGsBase(base: number): void {
    this.core.setAddress(STATE.kernelGsBase, base);
  }
  msr(index: number): bigint | undefined {
    return readMsr(this.core, index);
  }
  setMsr(index: number, value: bigint): boolean {
    return writeMsr(this.core, index, value);
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
    return { base: this.core.address(STATE.gdtrBase), limit: this.core.get32(STATE.gdtrLimit) };
  }
  setGdtr(base: number, limit: number): void {
    this.core.setAddress(STATE.gdtrBase, base);
    this.core.set32(STATE.gdtrLimit, limit);
  }
  idtr(): { base: number; limit: number } {
    return { base: this.core.address(STATE.idtrBase), limit: this.core.get32(STATE.idtrLimit) };
  }
  setIdtr(base: number, limit: number): void {
    this.core.setAddress(STATE.idtrBase, base);
    this.core.set32(STATE.idtrLimit, limit);
  }
  cr(n: 0 | 2 | 3 | 4): number {
    return n === 2 ? this.core.address(STATE.cr2) : this.core.get32({ 0: STATE.cr0, 3: STATE.cr3, 4: STATE.cr4 }[n]);
  }
  setCr(n: 0 | 2 | 3 | 4, value: number): void {
    if (n === 2) this.core.setAddress(STATE.cr2, value);
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
    this.core.updateMode();
  }
  dr(n: number): number {
    return this.core.get32(STATE.dr + n * 8);
  }
  setDr(n: number, value: number): void {
    this.core.set32(STATE.dr + n * 8, value);
    this.core.set32(STATE.dr + n * 8 + 4, n <= 3 && this.core.lma ? highHalf(value) : 0);
    debugRegistersChanged(this.core);
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

  // -- guest memory ---------------------------------------------------------------------------------

  switchTables(second: boolean, cr3: number): void {
    this.core.set32(STATE.tables, second ? 1 : 0);
    this.core.set32(STATE.cr3, cr3);
    this.core.dropFetchPage();
    this.core.restoreMode();
  }
  flushTlb(keepGlobal: boolean): void {
    // Hardware flushes by loading CR3.
    reloadPdptes(this.core);
    flushTlb(this.core, keepGlobal);
  }
  invlpg(vaddr: number): void {
    invlpg(this.core, this.core.wrap(vaddr));
  }
  dropWriteFastPaths(): void {
    dropWriteTags(this.core, -1);
  }
  translate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { ok: true; maddr: number } | { ok: false; exception: Exception } {
    const at = lookup(this.core, this.core.wrap(vaddr), access, user);
    return at < 0 ? { ok: false, exception: this.core.fault as Exception } : { ok: true, maddr: at - this.machine.ramBase };
  }
  locate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): number {
    const at = lookup(this.core, this.core.wrap(vaddr), access, user);
    if (at < 0) return -1 - (this.core.fault?.errorCode ?? 0);
    const maddr = at - this.machine.ramBase;
    return this.machine.contains(maddr, 1) ? maddr : -1;
  }
  readLinear(vaddr: number, sizeBytes: number, user: boolean): { ok: true; bytes: Uint8Array } | { ok: false; exception: Exception } {
    const bytes = readBytes(this.core, this.core.wrap(vaddr), sizeBytes, user);
    return bytes === undefined ? { ok: false, exception: this.core.fault as Exception } : { ok: true, bytes };
  }
  writeLinear(vaddr: number, bytes: Uint8Array, user: boolean): { ok: true } | { ok: false; exception: Exception } {
    return writeBytes(this.core, this.core.wrap(vaddr), bytes, user) ? { ok: true } : { ok: false, exception: this.core.fault as Exception };
  }

  // -- reports ---------------------------------------------------------------------------------------

  registers(): readonly { readonly name: string; readonly value: number | bigint }[] {
    const { long } = this.core;
    const rows: { name: string; value: number | bigint }[] = GPR_NAMES.slice(0, long ? 16 : 8).map((name, i) => (long ? { name, value: this.reg64(i) } : { name: name.replace('r', 'e'), value: this.reg(i) }));
    rows.push(long ? { name: 'rip', value: bitsOf(this.rip()) } : { name: 'eip', value: this.eip() }, { name: 'eflags', value: this.eflags() }, { name: 'cpl', value: this.cpl() });
    SEG_NAMES.forEach((name, i) => rows.push({ name, value: this.segment(i).selector }));
    if (long) for (const seg of [SEG.fs, SEG.gs]) rows.push({ name: `${SEG_NAMES[seg]}Base`, value: bitsOf(this.segment(seg).base) });
    for (const n of [0, 2, 3, 4] as const) rows.push({ name: `cr${n}`, value: this.core.lma && n === 2 ? bitsOf(this.cr(2)) : this.cr(n) });
    rows.push({ name: 'retired', value: this.retired() });
    return rows;
  }
  /** The instruction at a linear address, without any effect; undefined if it cannot be read or decoded. */
  decodeAt(vaddr: number): Insn | undefined {
    const bytes = this.#peek(vaddr, MAX_INSN_BYTES);
    if (bytes.length === 0) return undefined;
    const decoded = decode(bytes, this.core.long ? vaddr : (vaddr - this.core.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 8)) >>> 0, modeBits(this.core.mode).codeWidth);
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
      const from = this.core.wrap(vaddr + done);
      const at = peek(core, from, core.user);
      if (at < 0) return bytes.subarray(0, done);
      const n = Math.min(sizeBytes - done, 4096 - (from & 0xfff));
      bytes.set(core.u8.subarray(at, at + n), done);
      done += n;
    }
    return bytes;
  }
}
