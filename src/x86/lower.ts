// Decoded instruction → statements. A row gets a Lowering: it reads operands, says what follows and
// writes results; the Lowering keeps the law of precise faults (everything that can fault first).
import { assert } from '../base/assert.ts';
import { add, and, bin, constant, reg, trunc, widthOf, zext } from './expr.ts';
import type { Insn, MemOperand } from './decode.ts';
import type { Expr, FloatFormat, FloatOp, MemRef, Rep, StatusFlag, Stmt, Width } from './ir.ts';
import { modeBits, type ModeKey } from './mode.ts';
import { SEG } from './state-layout.ts';
import { ROWS } from './rows/index.ts';
import type { Quick } from './x87/quick.ts';

export interface Lowered {
  /** Decoded where it was first met: its vaddr is not this one's if positionFree. */
  readonly insn: Insn;
  readonly lengthBytes: number;
  readonly stmts: readonly Stmt[];
  readonly rep?: Rep;
  /** straight: rip goes on behind it. transfer: ends in a jump or branch statement. system: one system statement; anything may change. */
  readonly kind: 'straight' | 'transfer' | 'system';
  readonly tempCount: number;
  /** Means the same wherever it stands: rip is in none of the statements. */
  readonly positionFree: boolean;
  /** Of MMX or SSE: there only if CPUID promises it. */
  readonly simd: boolean;
}

export type Row = (l: Lowering) => void;

const RSP = 4;

export class Lowering {
  readonly insn: Insn;
  readonly bits: 16 | 32 | 64;
  readonly stackWidth: 16 | 32 | 64;
  readonly stmts: Stmt[] = [];
  rep: Rep | undefined;
  kind: Lowered['kind'] = 'straight';
  positionFree = true;
  simd = false;
  #temps = 0;

  constructor(insn: Insn, mode: ModeKey) {
    this.insn = insn;
    const bits = modeBits(mode);
    this.bits = bits.codeWidth;
    this.stackWidth = bits.stackWidth;
  }

  get tempCount(): number {
    return this.#temps;
  }

  // -- operands ------------------------------------------------------------------------------------

  /** Width of operand `at`: of its register, or what the encoding's name says of memory. */
  width(at: number): Width {
    const operand = this.insn.operands[at];
    if (operand?.kind === 'reg') return operand.width;
    const token = this.insn.code.split('_')[at + 1] ?? '';
    const digits = /(\d+)$/.exec(token);
    assert(digits !== null, () => `${this.insn.code}: operand ${at} has no width`);
    return Number(digits[1]) as Width;
  }

  isMem(at: number): boolean {
    return this.insn.operands[at]?.kind === 'mem';
  }

  mem(at: number): MemOperand {
    const operand = this.insn.operands[at];
    assert(operand?.kind === 'mem', () => `${this.insn.code}: operand ${at} is not memory`);
    return operand.mem;
  }

  /** Effective offset; `rspDelta` is added where the stack pointer is the base (POP to memory). */
  ref(at: number, rspDelta = 0): MemRef {
    const mem = this.mem(at);
    return { seg: mem.seg, offset: this.offset(mem, rspDelta) };
  }

  offset(mem: MemOperand, rspDelta = 0): Expr {
    const width = mem.addressWidth;
    if (mem.ripRelative === true) this.positionFree = false;
    let sum: Expr | undefined;
    if (mem.base >= 0) sum = reg(width, mem.base);
    if (mem.base === RSP && rspDelta !== 0) sum = add(sum as Expr, constant(width, rspDelta));
    if (mem.index >= 0) {
      const index = reg(width, mem.index);
      const scaled = mem.scale === 1 ? index : bin('shl', index, constant(width, Math.log2(mem.scale)));
      sum = sum === undefined ? scaled : add(sum, scaled);
    }
    if (sum === undefined) sum = constant(width, mem.displacement);
    else if (mem.displacement !== 0) sum = add(sum, constant(width, mem.displacement));
    return this.asOffset(sum);
  }
  /** An address-size value as wide as offsets are: 64 bits in 64-bit code, else 32. */
  asOffset(value: Expr): Expr {
    return this.bits === 64 ? zext(64, value) : widthOf(value) === 16 ? zext(32, value) : value;
  }

  /** Reads operand `at` at `width` (default: its own). Memory is loaded now. */
  read(at: number, width: Width = this.width(at)): Expr {
    const operand = this.insn.operands[at];
    switch (operand?.kind) {
      case 'reg':
        return reg(operand.width, operand.index, operand.high);
      case 'imm':
        return constant(width, BigInt.asUintN(width, operand.value));
      case 'mem':
        return this.load(this.ref(at), width);
      case 'sreg':
        return { tag: 'selector', seg: operand.index };
      default:
        assert(false, `${this.insn.code}: operand ${at} cannot be read`);
    }
  }

  /** As read, for the first half of a read-modify-write. */
  readForWrite(at: number): Expr {
    const operand = this.insn.operands[at];
    if (operand?.kind !== 'mem') return this.read(at);
    const width = this.width(at);
    const id = this.#temps++;
    this.stmts.push({ do: 'load', id, width, mem: this.#hold(this.ref(at)), forWrite: true });
    return { tag: 'temp', width, id };
  }

  /** Writes operand `at`. */
  write(at: number, value: Expr): void {
    const operand = this.insn.operands[at];
    if (operand?.kind === 'reg') this.setReg(operand.width, operand.index, value, operand.high);
    else this.stmts.push({ do: 'store', width: widthOf(value), mem: this.#held ?? this.ref(at), value });
  }

  #held: MemRef | undefined;
  /** A read-modify-write addresses memory once: its offset is kept in a temporary. */
  #hold(ref: MemRef): MemRef {
    this.#held = { seg: ref.seg, offset: this.let(ref.offset) };
    return this.#held;
  }

  // -- statements ----------------------------------------------------------------------------------

  let(value: Expr): Expr {
    if (value.tag === 'const' || value.tag === 'temp') return value;
    const id = this.#temps++;
    this.stmts.push({ do: 'let', id, value });
    return { tag: 'temp', width: widthOf(value), id };
  }
  /** `aligned`: #GP unless the linear address is a multiple of the size. */
  load(mem: MemRef, width: Width, aligned = false): Expr {
    const id = this.#temps++;
    this.stmts.push(aligned ? { do: 'load', id, width, mem, aligned } : { do: 'load', id, width, mem });
    return { tag: 'temp', width, id };
  }
  loadForWrite(mem: MemRef, width: Width): Expr {
    const id = this.#temps++;
    this.stmts.push({ do: 'load', id, width, mem, forWrite: true });
    return { tag: 'temp', width, id };
  }
  /** What rounds or compares: a vector, or for order a number. */
  float(op: FloatOp, format: FloatFormat, lanes: 1 | 2 | 4, a: Expr, b: Expr): Expr {
    const id = this.#temps++;
    this.stmts.push({ do: 'float', id, op, format, lanes, a, b });
    return { tag: 'temp', width: op.kind === 'order' ? 32 : 128, id };
  }
  store(mem: MemRef, value: Expr): void {
    this.stmts.push({ do: 'store', width: widthOf(value), mem, value });
  }
  setReg(width: Width, index: number, value: Expr, high = false): void {
    this.stmts.push(high ? { do: 'setReg', width, index, high, value } : { do: 'setReg', width, index, value });
  }
  flags(op: string, a: Expr, b: Expr, r: Expr): void {
    this.stmts.push({ do: 'setFlags', op, width: widthOf(r), a, b, r });
  }
  flagBits(bits: Partial<Record<StatusFlag, Expr>>): void {
    this.stmts.push({ do: 'setFlagBits', bits });
  }
  raiseIf(cond: Expr, vector: number, errorCode?: number): void {
    this.stmts.push(errorCode === undefined ? { do: 'raiseIf', cond, vector } : { do: 'raiseIf', cond, vector, errorCode });
  }
  /** high:low by `by`, all of width 64; #DE as division has it. */
  divideWide(signed: boolean, high: Expr, low: Expr, by: Expr): { readonly quotient: Expr; readonly remainder: Expr } {
    const [quotient, remainder] = [this.#temps++, this.#temps++];
    this.stmts.push({ do: 'divideWide', signed, high, low, by, quotient, remainder });
    return { quotient: { tag: 'temp', width: 64, id: quotient }, remainder: { tag: 'temp', width: 64, id: remainder } };
  }
  /** Collects the statements that `body` makes under a condition. */
  when(cond: Expr, body: () => void, otherwise?: () => void): void {
    const then = this.#collect(body);
    const other = otherwise === undefined ? undefined : this.#collect(otherwise);
    this.stmts.push(other === undefined ? { do: 'if', cond, then } : { do: 'if', cond, then, else: other });
  }
  #collect(body: () => void): Stmt[] {
    const kept = this.stmts.splice(0);
    body();
    const made = this.stmts.splice(0);
    this.stmts.push(...kept);
    return made;
  }
  jump(target: Expr, how: 'direct' | 'indirect' | 'call' | 'ret'): void {
    this.kind = 'transfer';
    this.stmts.push({ do: 'jump', target: zext(this.#ripWidth(), target), how });
  }
  branch(cond: Expr, target: number): void {
    this.kind = 'transfer';
    this.stmts.push({ do: 'branch', cond, target: constant(this.#ripWidth(), target) });
  }
  system(row: string, quick?: Quick): void {
    assert(this.stmts.length === 0, () => `${this.insn.code}: a system row must be alone`);
    this.kind = 'system';
    this.stmts.push(quick === undefined ? { do: 'system', row } : { do: 'system', row, quick });
  }
  #ripWidth(): Width {
    return this.bits === 64 ? 64 : 32;
  }
  /** rip behind this instruction. */
  nextRip(width: Width): Expr {
    this.positionFree = false;
    return constant(width, this.insn.vaddr + this.insn.lengthBytes);
  }

  /** The target of a near transfer by displacement; undefined for one that is computed. */
  nearTarget(): number | undefined {
    const operand = this.insn.operands[0];
    if (operand?.kind !== 'near') return undefined;
    this.positionFree = false;
    return operand.target;
  }

  // -- stack ---------------------------------------------------------------------------------------

  sp(): Expr {
    return reg(this.stackWidth, RSP);
  }
  /** Where the stack top is after moving it by `delta` bytes. */
  stackRef(delta: number): MemRef {
    const at = add(this.sp(), constant(this.stackWidth, delta));
    return { seg: SEG.ss, offset: this.asOffset(at) };
  }
  moveSp(delta: number): void {
    this.setReg(this.stackWidth, RSP, add(this.sp(), constant(this.stackWidth, delta)));
  }
  /** Stores the value below the stack top and moves it. */
  push(value: Expr, width: Width = widthOf(value)): void {
    const held = this.let(value);
    this.store(this.stackRef(-width / 8), held);
    this.moveSp(-width / 8);
  }
  /** Loads the stack top; the caller moves the pointer when nothing can fault any more. */
  top(width: Width, delta = 0): Expr {
    return this.load(this.stackRef(delta), width);
  }

  /** The low part of a value, or itself. */
  low(value: Expr, width: Width): Expr {
    return widthOf(value) > width ? trunc(width, value) : value;
  }
  mask(value: Expr, bits: number): Expr {
    return and(value, constant(widthOf(value), bits));
  }
}

/** The statements of an instruction, or undefined if this core does not have it. Pure. */
export function lower(insn: Insn, mode: ModeKey): Lowered | undefined {
  const row = ROWS[insn.mnemonic];
  if (row === undefined || insn.operands.some((operand) => operand.kind === 'other')) return undefined;
  const lowering = new Lowering(insn, mode);
  row(lowering);
  const { stmts, kind, tempCount, rep, positionFree, simd } = lowering;
  const base = { insn, lengthBytes: insn.lengthBytes, stmts, kind, tempCount, positionFree, simd };
  return rep === undefined ? base : { ...base, rep };
}

/** What CPUID does not promise is #UD; the rest has a row (completeness.test.ts). */
export const lowerMissing = (insn: Insn): Lowered => ({ insn, lengthBytes: insn.lengthBytes, stmts: [{ do: 'system', row: 'missing' }], kind: 'system', tempCount: 0, positionFree: true, simd: false });
