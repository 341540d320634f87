// Blocks of 64-bit code as programs for the interpreter: what is executed a few times and is not worth translating.
//
// A program holds the instructions of a block up to a jump, the page's end, or an instruction that has no operations
// here (system rows, strings, vectors, what crosses pages): that one is left to the evaluator, as is, by the law of
// precise faults (ir.ts), any that turns out to need more than a fast access to memory.
//
// Most of a boot's code is executed a few times, so making programs must be quick: operations are written straight
// into the arena, and instructions of equal bytes, which share their Lowered, are copied from where the first one is.
import { assert } from '../../base/assert.ts';
import type { MachineMemory } from '../../machine/memory.ts';
import { highHalf, inCanonicalRange, pageOf } from '../address.ts';
import { MAX_INSN_BYTES } from '../decode.ts';
import { and, bit, constant, or, shl, widthOf, zext } from '../expr.ts';
import { EFLAGS, FLAG_BIT, flagOpCode, STATUS_MASK } from '../flags.ts';
import type { Expr, MemRef, StatusFlag, Stmt, Width } from '../ir.ts';
import type { Lowered } from '../lower.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { knownAfter } from '../translate/flag-flow.ts';
import { IMAGE_OP, type KnownFlags, sameKnown } from '../translate/statement.ts';
import { condOf, flagOf, OPERAND } from './flag-values.ts';
import { PROGRAM } from './interpreter.ts';
import { ACCESS, OPERATOR, RESIZE, SPECIAL } from './operations.ts';

/** Debian's boot needs some 20 MiB. Of a machine with a small arena, half of what is left. */
const ARENA_BYTES = 24 * 1024 * 1024;
const MAX_BLOCK_INSNS = 40;
/** Words that a block may need at most; the arena is renewed when less is left. */
const MAX_BLOCK_WORDS = 16384;
const TEMPS = 64;
const SCRATCH = 192;
/** Temporaries of ours, above those of instructions: whatever is in a cell already. */
const FIRST_PSEUDO = 1000;
/** The instruction has no operations here. */
class Unsupported extends Error {}
const UNSUPPORTED = new Unsupported('the evaluator performs it');

export class ProgramMaker {
  readonly #u32: Uint32Array;
  readonly #stateBase: number;
  readonly #tempBase: number;
  readonly #scratchBase: number;
  /** Linear address of the interpreter's u64 counter. */
  readonly counter: number;
  /** Words of the arena: the first, the one behind it, and where the next one goes. */
  readonly #start: number;
  readonly #end: number;
  #next: number;
  /** Constants grow down from the end. */
  #constantsAt: number;
  /** Records of operations are of this era, or void. */
  #era = ++eras;
  readonly #constants = new Map<number | bigint, number>();
  // Of the instruction that is being made.
  #scratch = 0;
  #known: KnownFlags | undefined;
  /** The instruction reads flags: what it became depends on what stands before it. */
  #readsFlags = false;
  #mayBail = false;
  readonly #pseudo: number[] = [];
  /** Where this block's markers are, and of which instructions. */
  readonly #markers: number[] = [];

  constructor(machine: MachineMemory, stateBase: number) {
    this.#u32 = machine.u32;
    this.#stateBase = stateBase;
    const sizeBytes = Math.min(ARENA_BYTES, (machine.arenaLeftBytes >>> 1) & ~63);
    const base = machine.reserve(sizeBytes, 64);
    this.counter = base;
    this.#tempBase = base + 64;
    this.#scratchBase = this.#tempBase + 8 * TEMPS;
    this.#start = this.#next = (this.#scratchBase + 8 * SCRATCH) >>> 2;
    this.#end = this.#constantsAt = (base + sizeBytes) >>> 2;
  }

  /** Is there room for one more block, and as many constants? */
  get hasRoom(): boolean {
    return this.#next + 2 * MAX_BLOCK_WORDS < this.#constantsAt;
  }
  /** Forgets all programs. */
  reset(): void {
    this.#next = this.#start;
    this.#constantsAt = this.#end;
    this.#constants.clear();
    this.#era = ++eras;
  }

  /** Instructions that were performed as parts of programs. */
  get performedInsns(): number {
    const at = this.counter >>> 2;
    return (this.#u32[at + 1] as number) * 2 ** 32 + (this.#u32[at] as number);
  }
  /** Executions that were granted last. */
  grantedTo(program: number): number {
    return this.#u32[(program + PROGRAM.granted) >>> 2] as number;
  }
  /** Bytes of code that it was made from; of none (0), the instruction that has no program. */
  codeBytes(program: number): number {
    return program === 0 ? MAX_INSN_BYTES : (this.#u32[(program + PROGRAM.codeBytes) >>> 2] as number);
  }
  grant(program: number, executions: number): void {
    this.#u32[(program + PROGRAM.left) >>> 2] = executions;
    this.#u32[(program + PROGRAM.granted) >>> 2] = executions;
  }

  /** The program of the block at rip: its address, or 0 if the first instruction is the evaluator's. */
  make(rip: number, lowerAt: (vaddr: number) => Lowered | undefined, granted: number): number {
    assert(this.hasRoom, 'the arena of block programs is full');
    const page = pageOf(rip);
    const head = (this.#next = (this.#next + 1) & ~1);
    const markers = this.#markers;
    markers.length = 0;
    let vaddr = rip;
    let insns = 0;
    this.#next += PROGRAM.operations >> 2;
    this.#known = undefined;
    for (;;) {
      if (insns === MAX_BLOCK_INSNS || pageOf(vaddr) !== page) {
        this.#put3(SPECIAL.goto, vaddr >>> 0, highHalf(vaddr));
        break;
      }
      const lowered = lowerAt(vaddr);
      if (lowered === undefined || !this.#instruction(lowered, vaddr, insns)) {
        if (insns === 0) {
          this.#next = head;
          return 0;
        }
        this.#put2(SPECIAL.stop, vaddr >>> 0);
        break;
      }
      insns++;
      vaddr += lowered.lengthBytes;
      if (lowered.kind === 'transfer') break;
    }
    for (let i = 0; i < markers.length; i += 2) this.#u32[markers[i] as number] = insns - (markers[i + 1] as number);
    assert(this.#next - head < MAX_BLOCK_WORDS, () => `a block of ${this.#next - head} words`);
    this.#u32[head + (PROGRAM.insns >> 2)] = insns;
    this.#u32[head + (PROGRAM.codeBytes >> 2)] = vaddr - rip;
    this.grant(4 * head, granted);
    return 4 * head;
  }

  /** False: it has no operations, and nothing was written. */
  #instruction(lowered: Lowered, vaddr: number, index: number): boolean {
    const { operations } = lowered;
    const u32 = this.#u32;
    if (operations.era === this.#era) {
      if (operations.words === 0 && operations.at === 0) return false;
      if (operations.mayBail) this.#marker(vaddr, index);
      let to = this.#next;
      for (let from = operations.at, end = from + operations.words; from < end; ) u32[to++] = u32[from++] as number;
      this.#next = to;
      this.#known = knownAfter(lowered.stmts, this.#known);
      return true;
    }
    const start = this.#next;
    const before = this.#known;
    this.#scratch = 0;
    this.#pseudo.length = 0;
    this.#readsFlags = false;
    this.#mayBail = false;
    const marked = this.#markers.length;
    // Whether a marker is needed shows later; it goes when it is not.
    this.#marker(vaddr, index);
    const first = this.#next;
    const made = lowered.kind !== 'system' && lowered.rep === undefined && !lowered.simd && this.#tried(lowered, vaddr);
    if (!made) {
      this.#next = start;
      this.#markers.length = marked;
      this.#known = before;
      operations.era = this.#era;
      operations.at = operations.words = 0;
      return false;
    }
    let at = first;
    if (!this.#mayBail) {
      for (let from = first, to = start; from < this.#next; ) u32[to++] = u32[from++] as number;
      this.#next -= first - start;
      this.#markers.length = marked;
      at = start;
    }
    if (!this.#readsFlags && lowered.positionFree) {
      operations.era = this.#era;
      operations.at = at;
      operations.words = this.#next - at;
      operations.mayBail = this.#mayBail;
    }
    return true;
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

  #marker(vaddr: number, index: number): void {
    this.#put3(SPECIAL.insn, vaddr >>> 0, 0);
    this.#markers.push(this.#next - 1, index);
  }

  #put2(a: number, b: number): void {
    this.#u32[this.#next++] = a;
    this.#u32[this.#next++] = b;
  }
  #put3(a: number, b: number, c: number): void {
    this.#put2(a, b);
    this.#u32[this.#next++] = c;
  }
  #put4(a: number, b: number, c: number, d: number): void {
    this.#put2(a, b);
    this.#put2(c, d);
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
      if (last.do === 'jump') this.#put3(SPECIAL.goto, to >>> 0, highHalf(to));
      else {
        const cond = this.#value(last.cond);
        this.#put4(SPECIAL.branch, cond, to >>> 0, highHalf(to));
        this.#put2(next >>> 0, highHalf(next));
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
        this.#put2(SPECIAL.canonical, to);
      }
      if (s !== last) this.#statement(s);
    }
    const to = this.#value(target);
    this.#put2(SPECIAL.jump, to);
  }

  #statement(s: Stmt): void {
    switch (s.do) {
      case 'let':
        if (widthOf(s.value) === 128) throw UNSUPPORTED;
        return this.#valueInto(s.value, this.#temp(s.id));
      case 'load': {
        const address = this.#address(s.mem, s.width);
        return this.#put4((s.forWrite === true ? ACCESS.loadForWrite : ACCESS.load)[s.width] as number, this.#temp(s.id), address, this.#displacement);
      }
      case 'probe': {
        const address = this.#address(s.mem, s.width);
        return this.#put3(ACCESS.probe[s.width] as number, address, this.#displacement);
      }
      case 'store': {
        const value = this.#value(s.value);
        const address = this.#address(s.mem, s.width);
        return this.#put4(ACCESS.store[s.width] as number, address, this.#displacement, value);
      }
      case 'setReg': {
        const register = this.#register(s.index, s.high === true);
        if (s.width >= 32) return this.#valueInto(s.value, register);
        const value = this.#value(s.value);
        return this.#put3(s.width === 8 ? SPECIAL.merge8 : SPECIAL.merge16, register, value);
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
        return this.#put2(SPECIAL.bailIf, cond);
      }
      case 'if':
        return this.#if(s);
      default:
        throw UNSUPPORTED;
    }
  }

  #if(s: Extract<Stmt, { do: 'if' }>): void {
    const cond = this.#value(s.cond);
    const before = this.#known;
    const body = (stmts: readonly Stmt[], when: number): KnownFlags | undefined => {
      this.#known = before;
      this.#put3(SPECIAL.unless, when, 0);
      const at = this.#next;
      for (const inner of stmts) this.#statement(inner);
      this.#u32[at - 1] = 4 * (this.#next - at);
      return this.#known;
    };
    // What one half does must not change what the other half is asked for.
    const otherwise = s.else !== undefined && s.else.length > 0 ? this.#held({ tag: 'cmp', op: 'eq', a: this.#cellExpr(cond, 1), b: constant(1, 0) }) : undefined;
    const afterThen = body(s.then, cond);
    const afterElse = otherwise === undefined ? before : body(s.else as readonly Stmt[], otherwise);
    this.#known = sameKnown(afterThen, afterElse) ? afterThen : undefined;
  }

  #setFlagBits(bits: Partial<Record<StatusFlag, Expr>>): void {
    const names = Object.keys(bits) as StatusFlag[];
    const mask = names.reduce((sum, name) => sum | (1 << FLAG_BIT[name]), 0);
    let image: Expr = names.length === 6 ? constant(32, 0) : and(this.#image(), constant(32, STATUS_MASK & ~mask));
    for (const name of names) image = or(image, shl(zext(32, bits[name] as Expr), constant(32, FLAG_BIT[name])));
    const r = this.#held(image);
    const zero = this.#constant(0);
    this.#flags(IMAGE_OP, 32, zero, zero, r);
  }
  #flags(op: string, width: Width, a: number, b: number, r: number): void {
    this.#put3(SPECIAL.flags, flagOpCode(op, width), a);
    this.#put2(b, r);
    this.#known = { op, width };
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
    this.#put4(OPERATOR.add[64] as number, at, address, this.#stateBase + STATE.seg + seg * SEG_SLOT_BYTES + 8);
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
    return this.#tempBase + 8 * id;
  }
  #scratchCell(): number {
    if (this.#scratch === SCRATCH) throw UNSUPPORTED;
    return this.#scratchBase + 8 * this.#scratch++;
  }
  #constant(value: number | bigint): number {
    let cell = this.#constants.get(value);
    if (cell === undefined) {
      // From the arena's other end: operations of an instruction stand together.
      const bits = BigInt(value);
      this.#constantsAt -= 2;
      cell = 4 * this.#constantsAt;
      this.#u32[this.#constantsAt] = Number(bits & 0xffffffffn);
      this.#u32[this.#constantsAt + 1] = Number((bits >> 32n) & 0xffffffffn);
      this.#constants.set(value, cell);
    }
    return cell;
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
        return this.#constant(e.value);
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
        return this.#put4(OPERATOR[e.op][e.width] as number, into, a, b);
      }
      case 'un': {
        const a = this.#value(e.a);
        return this.#put3(OPERATOR[e.op][e.width] as number, into, a);
      }
      case 'cmp': {
        const a = this.#value(e.a);
        const b = this.#value(e.b);
        return this.#put4(OPERATOR[e.op][widthOf(e.a)] as number, into, a, b);
      }
      case 'select': {
        const cond = this.#value(e.cond);
        const then = this.#value(e.then);
        const otherwise = this.#value(e.else);
        this.#put3(e.width === 64 ? SPECIAL.select64 : SPECIAL.select32, into, cond);
        return this.#put2(then, otherwise);
      }
      case 'zext':
      case 'sext':
      case 'trunc': {
        const from = widthOf(e.a);
        if (from === 128 || e.width === 128) throw UNSUPPORTED;
        if (from === e.width) return this.#valueInto(e.a, into);
        if ((e.tag === 'zext' && e.width <= 32) || (e.tag === 'trunc' && e.width === 32)) break;
        const a = this.#value(e.a);
        return this.#put3(RESIZE[e.tag][128 * from + e.width] as number, into, a);
      }
      case 'reg':
        if (e.width >= 32) break;
        if (e.width === 1) throw UNSUPPORTED;
        return this.#put3(e.width === 8 ? SPECIAL.read8 : SPECIAL.read16, into, this.#register(e.index, e.high === true));
      case 'selector':
        return this.#put3(SPECIAL.read16, into, this.#stateBase + STATE.seg + e.seg * SEG_SLOT_BYTES);
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
    this.#put3(widthOf(e) === 64 ? SPECIAL.copy64 : SPECIAL.copy32, into, from);
  }

  // Flags: over the operands of the producer that is known to be in force, else over the whole image.

  #image(): Expr {
    this.#readsFlags = true;
    const cell = this.#scratchCell();
    this.#put2(SPECIAL.image, cell);
    return this.#cellExpr(cell, 32);
  }
  #flag(flag: StatusFlag): Expr {
    this.#readsFlags = true;
    return flagOf(flag, this.#known, () => this.#image());
  }
  #cond(cc: number): Expr {
    this.#readsFlags = true;
    return condOf(cc, this.#known, () => this.#image());
  }
}

let eras = 0;
