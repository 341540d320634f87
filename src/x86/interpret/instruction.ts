// What an instruction becomes in a block program: its statements (ir.ts) as operations over cells (operations.ts), written
// straight into the arena. What it cannot make of an instruction is the evaluator's.
import { highHalf, inCanonicalRange } from '../address.ts';
import { and, bit, constant, or, shl, widthOf, zext } from '../expr.ts';
import { EFLAGS, FLAG_BIT, flagOpCode, STATUS_MASK } from '../flags.ts';
import type { Expr, MemRef, StatusFlag, Stmt, Width } from '../ir.ts';
import type { Lowered } from '../lower.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { IMAGE_OP, type KnownFlags, sameKnown } from '../translate/statement.ts';
import { type Arena, SCRATCH, TEMPS } from './arena.ts';
import { condOf, flagOf, OPERAND } from './flag-values.ts';
import { ACCESS, OPERATOR, RESIZE, SPECIAL } from './operations.ts';
import type { Made, Making } from './shapes.ts';

/** Temporaries of ours, above those of instructions: whatever is in a cell already. */
const FIRST_PSEUDO = 1000;
/** The instruction has no operations here. */
class Unsupported extends Error {}
const UNSUPPORTED = new Unsupported('the evaluator performs it');

export class InstructionMaker implements Making {
  readonly #arena: Arena;
  readonly #u32: Uint32Array;
  readonly #stateBase: number;
  /** The producer of flags in force before the next instruction, if it is the same on every path. */
  known: KnownFlags | undefined;
  /** Where this block's markers are, and of which instructions. */
  readonly #markers: number[] = [];
  // Of the instruction that is being made.
  #scratch = 0;
  /** The instruction reads flags: what it became depends on what stands before it. */
  #readsFlags = false;
  #mayBail = false;
  readonly #pseudo: number[] = [];

  constructor(arena: Arena, stateBase: number) {
    this.#arena = arena;
    this.#u32 = arena.u32;
    this.#stateBase = stateBase;
  }

  /** A block begins. */
  begin(): void {
    this.#markers.length = 0;
    this.known = undefined;
  }
  /** It ends, with so many instructions. */
  end(insns: number): void {
    const markers = this.#markers;
    for (let i = 0; i < markers.length; i += 2) this.#u32[markers[i] as number] = insns - (markers[i + 1] as number);
  }

  constantAt(cell: number): ReturnType<Making['constantAt']> {
    return this.#arena.constantAt(cell);
  }

  aside(lowered: Lowered, vaddr: number, before: KnownFlags | undefined): Made | undefined {
    const [next, known] = [this.#arena.next, this.known];
    const markers = this.#markers.length;
    this.known = before;
    const made = this.make(lowered, vaddr, 0);
    this.#arena.next = next;
    this.known = known;
    this.#markers.length = markers;
    return made;
  }

  /** Undefined: it has no operations, and nothing was written. */
  make(lowered: Lowered, vaddr: number, index: number): Made | undefined {
    const start = this.#arena.next;
    const before = this.known;
    const u32 = this.#u32;
    this.#scratch = 0;
    this.#pseudo.length = 0;
    this.#readsFlags = false;
    this.#mayBail = false;
    const marked = this.#markers.length;
    // Whether a marker is needed shows later; it goes when it is not.
    this.marker(vaddr, index);
    const first = this.#arena.next;
    if (lowered.kind === 'system' || lowered.rep !== undefined || lowered.simd || !this.#tried(lowered, vaddr)) {
      this.#arena.next = start;
      this.#markers.length = marked;
      this.known = before;
      return undefined;
    }
    const words = u32.slice(first, this.#arena.next);
    if (!this.#mayBail) {
      u32.set(words, start);
      this.#arena.next = start + words.length;
      this.#markers.length = marked;
    }
    return { words, mayBail: this.#mayBail, readsFlags: this.#readsFlags, before, after: this.known };
  }

  #tried(lowered: Lowered, vaddr: number): boolean {
    try {
      if (lowered.kind === 'transfer') this.#transfer(lowered.stmts, vaddr + lowered.lengthBytes);
      else for (const s of lowered.stmts) this.#statement(s);
      return true;
    } catch (error) {
      if (!(error instanceof Unsupported)) throw error;
      return false;
    }
  }

  /** What comes next may leave its instruction to the evaluator. */
  marker(vaddr: number, index: number): void {
    this.#arena.put3(SPECIAL.insn, vaddr >>> 0, 0);
    this.#markers.push(this.#arena.next - 1, index);
  }

  // Statements.

  #transfer(stmts: readonly Stmt[], next: number): void {
    const last = stmts[stmts.length - 1];
    if (last?.do !== 'jump' && last?.do !== 'branch') throw UNSUPPORTED;
    const { target } = last;
    if (target.tag === 'const') {
      const to = Number(BigInt.asIntN(64, BigInt(target.value)));
      if (!inCanonicalRange(to)) throw UNSUPPORTED;
      for (let i = 0; i < stmts.length - 1; i++) this.#statement(stmts[i] as Stmt);
      if (last.do === 'jump') this.#arena.put3(SPECIAL.goto, to >>> 0, highHalf(to));
      else {
        const cond = this.#value(last.cond);
        this.#arena.put4(SPECIAL.branch, cond, to >>> 0, highHalf(to));
        this.#arena.put2(next >>> 0, highHalf(next));
      }
      return;
    }
    if (last.do === 'branch') throw UNSUPPORTED;
    let checked = false;
    for (let i = 0; i < stmts.length; i++) {
      const s = stmts[i] as Stmt;
      if (!checked && s.do !== 'let' && s.do !== 'load') {
        // Nothing has happened yet: a target that is not canonical is the evaluator's fault to raise.
        checked = true;
        this.#mayBail = true;
        const to = this.#value(target);
        this.#arena.put2(SPECIAL.canonical, to);
      }
      if (s !== last) this.#statement(s);
    }
    const to = this.#value(target);
    this.#arena.put2(SPECIAL.jump, to);
  }

  #statement(s: Stmt): void {
    switch (s.do) {
      case 'let':
        if (widthOf(s.value) === 128) throw UNSUPPORTED;
        return this.#valueInto(s.value, this.#temp(s.id));
      case 'load': {
        const address = this.#address(s.mem, s.width);
        return this.#arena.put4((s.forWrite === true ? ACCESS.loadForWrite : ACCESS.load)[s.width] as number, this.#temp(s.id), address, this.#displacement);
      }
      case 'probe': {
        const address = this.#address(s.mem, s.width);
        return this.#arena.put3(ACCESS.probe[s.width] as number, address, this.#displacement);
      }
      case 'store': {
        const value = this.#value(s.value);
        const address = this.#address(s.mem, s.width);
        return this.#arena.put4(ACCESS.store[s.width] as number, address, this.#displacement, value);
      }
      case 'setReg': {
        const register = this.#register(s.index, s.high === true);
        if (s.width >= 32) return this.#valueInto(s.value, register);
        const value = this.#value(s.value);
        return this.#arena.put3(s.width === 8 ? SPECIAL.merge8 : SPECIAL.merge16, register, value);
      }
      case 'setFlags': {
        const a = this.#value(s.a);
        const b = this.#value(s.b);
        const r = this.#value(s.r);
        return this.#flags(s.op, s.width, a, b, r);
      }
      case 'setFlagBits':
        return this.#setFlagBits(s.bits);
      case 'setDf': {
        const rest = this.#stateBase + STATE.eflagsRest;
        const old = this.#cellExpr(rest, 32);
        return this.#valueInto(s.value === 1 ? or(old, constant(32, EFLAGS.DF)) : and(old, constant(32, ~EFLAGS.DF)), rest);
      }
      case 'raiseIf': {
        this.#mayBail = true;
        const cond = this.#value(s.cond);
        return this.#arena.put2(SPECIAL.bailIf, cond);
      }
      case 'if':
        return this.#if(s);
      default:
        throw UNSUPPORTED;
    }
  }

  #if(s: Extract<Stmt, { do: 'if' }>): void {
    const cond = this.#value(s.cond);
    const before = this.known;
    const body = (stmts: readonly Stmt[], when: number): KnownFlags | undefined => {
      this.known = before;
      this.#arena.put3(SPECIAL.unless, when, 0);
      const at = this.#arena.next;
      for (const inner of stmts) this.#statement(inner);
      this.#u32[at - 1] = 4 * (this.#arena.next - at);
      return this.known;
    };
    // What one half does must not change what the other half is asked for.
    const otherwise = s.else !== undefined && s.else.length > 0 ? this.#held({ tag: 'cmp', op: 'eq', a: this.#cellExpr(cond, 1), b: constant(1, 0) }) : undefined;
    const afterThen = body(s.then, cond);
    const afterElse = otherwise === undefined ? before : body(s.else as readonly Stmt[], otherwise);
    this.known = sameKnown(afterThen, afterElse) ? afterThen : undefined;
    // Which it is depends on what stands before.
    if (afterThen !== before || afterElse !== before) this.#readsFlags = true;
  }

  #setFlagBits(bits: Partial<Record<StatusFlag, Expr>>): void {
    const names = Object.keys(bits) as StatusFlag[];
    const mask = names.reduce((sum, name) => sum | (1 << FLAG_BIT[name]), 0);
    let image: Expr = names.length === 6 ? constant(32, 0) : and(this.#image(), constant(32, STATUS_MASK & ~mask));
    for (const name of names) image = or(image, shl(zext(32, bits[name] as Expr), constant(32, FLAG_BIT[name])));
    const r = this.#held(image);
    const zero = this.#arena.constant(0);
    this.#flags(IMAGE_OP, 32, zero, zero, r);
  }
  #flags(op: string, width: Width, a: number, b: number, r: number): void {
    this.#arena.put3(SPECIAL.flags, flagOpCode(op, width), a);
    this.#arena.put2(b, r);
    this.known = { op, width };
  }

  #displacement = 0;
  /** The cell of an address, and #displacement, of 32 bits. */
  #address({ offset, seg }: MemRef, width: Width): number {
    if (widthOf(offset) !== 64 || width === 128) throw UNSUPPORTED;
    this.#mayBail = true;
    let base = offset;
    let displacement = 0;
    if (offset.tag === 'bin' && offset.op === 'add' && offset.b.tag === 'const') {
      const value = Number(BigInt.asIntN(64, offset.b.value as bigint));
      if (value === (value | 0)) {
        base = offset.a;
        displacement = value;
      }
    }
    const address = this.#value(base);
    this.#displacement = displacement;
    if (seg < SEG.fs) return address;
    const at = this.#scratchCell();
    this.#arena.put4(OPERATOR.add[64] as number, at, address, this.#stateBase + STATE.seg + seg * SEG_SLOT_BYTES + 8);
    return at;
  }

  // Values: each is in a cell; most operators need a new one.

  #register(index: number, high: boolean): number {
    return this.#stateBase + STATE.gpr + 8 * index + (high ? 1 : 0);
  }
  #temp(id: number): number {
    if (id >= FIRST_PSEUDO) return this.#pseudo[id - FIRST_PSEUDO] as number;
    if (id < 0) return this.#stateBase + (id === OPERAND.a ? STATE.flagA : id === OPERAND.b ? STATE.flagB : STATE.flagR);
    if (id >= TEMPS) throw UNSUPPORTED;
    return this.#arena.tempBase + 8 * id;
  }
  #scratchCell(): number {
    if (this.#scratch === SCRATCH) throw UNSUPPORTED;
    return this.#arena.scratchBase + 8 * this.#scratch++;
  }
  /** What is in a cell, as an expression. */
  #cellExpr(cell: number, width: Width): Expr {
    return { tag: 'temp', width, id: FIRST_PSEUDO + this.#pseudo.push(cell) - 1 };
  }
  /** Computes the value into a cell of its own, which nothing else changes. */
  #held(e: Expr): number {
    const cell = this.#scratchCell();
    this.#valueInto(e, cell);
    return cell;
  }

  /** The cell that holds the value: a new one, or where it is already. */
  #value(e: Expr): number {
    switch (e.tag) {
      case 'const':
        if (e.width === 128) throw UNSUPPORTED;
        return this.#arena.constant(e.value);
      case 'temp':
        return this.#temp(e.id);
      case 'reg':
        return e.width >= 32 ? this.#register(e.index, false) : this.#held(e);
      case 'zext':
        // Cells are zero-extended to 32 bits at least.
        return e.width <= 32 ? this.#value(e.a) : this.#held(e);
      case 'trunc':
        return e.width === 32 && widthOf(e.a) === 64 ? this.#value(e.a) : this.#held(e);
      case 'segBase':
        return this.#stateBase + STATE.seg + e.seg * SEG_SLOT_BYTES + 8;
      case 'flag':
        return this.#value(this.#flag(e.flag));
      case 'cond':
        return this.#value(this.#cond(e.cc));
      case 'df':
        return this.#value(bit(this.#cellExpr(this.#stateBase + STATE.eflagsRest, 32), 10));
      default:
        return this.#held(e);
    }
  }

  /** Computes the value into a cell, with zeros above it. */
  #valueInto(e: Expr, into: number): void {
    switch (e.tag) {
      case 'bin': {
        if (e.width === 128) throw UNSUPPORTED;
        const a = this.#value(e.a);
        const b = this.#value(e.b);
        return this.#arena.put4(OPERATOR[e.op][e.width] as number, into, a, b);
      }
      case 'un': {
        const a = this.#value(e.a);
        return this.#arena.put3(OPERATOR[e.op][e.width] as number, into, a);
      }
      case 'cmp': {
        const a = this.#value(e.a);
        const b = this.#value(e.b);
        return this.#arena.put4(OPERATOR[e.op][widthOf(e.a)] as number, into, a, b);
      }
      case 'select': {
        const cond = this.#value(e.cond);
        const then = this.#value(e.then);
        const otherwise = this.#value(e.else);
        this.#arena.put3(e.width === 64 ? SPECIAL.select64 : SPECIAL.select32, into, cond);
        return this.#arena.put2(then, otherwise);
      }
      case 'zext':
      case 'sext':
      case 'trunc': {
        const from = widthOf(e.a);
        if (from === 128 || e.width === 128) throw UNSUPPORTED;
        if (from === e.width) return this.#valueInto(e.a, into);
        if ((e.tag === 'zext' && e.width <= 32) || (e.tag === 'trunc' && e.width === 32)) break;
        const a = this.#value(e.a);
        return this.#arena.put3(RESIZE[e.tag][128 * from + e.width] as number, into, a);
      }
      case 'reg':
        if (e.width >= 32) break;
        if (e.width === 1) throw UNSUPPORTED;
        return this.#arena.put3(e.width === 8 ? SPECIAL.read8 : SPECIAL.read16, into, this.#register(e.index, e.high === true));
      case 'selector':
        return this.#arena.put3(SPECIAL.read16, into, this.#stateBase + STATE.seg + e.seg * SEG_SLOT_BYTES);
      case 'const':
      case 'temp':
      case 'segBase':
      case 'flag':
      case 'cond':
      case 'df':
        break;
      default:
        throw UNSUPPORTED;
    }
    const from = this.#value(e);
    this.#arena.put3(widthOf(e) === 64 ? SPECIAL.copy64 : SPECIAL.copy32, into, from);
  }

  // Flags: over the operands of the producer that is known to be in force, else over the whole image.

  #image(): Expr {
    this.#readsFlags = true;
    const cell = this.#scratchCell();
    this.#arena.put2(SPECIAL.image, cell);
    return this.#cellExpr(cell, 32);
  }
  #flag(flag: StatusFlag): Expr {
    this.#readsFlags = true;
    return flagOf(flag, this.known, () => this.#image());
  }
  #cond(cc: number): Expr {
    this.#readsFlags = true;
    return condOf(cc, this.known, () => this.#image());
  }
}
