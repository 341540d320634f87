// Statements of the IR as WebAssembly: one instruction after another, with the status flags kept lazily.
//
// Flags. A producer (setFlags) leaves its operands in the flag locals. Which producer is in force is known while
// translating nearly everywhere (`known`); conditions then become expressions over the operands, compares where
// flags.ts has them. A producer whose flags nobody can see (overwritten before any use or exit) emits nothing.
import { assert, unreachable } from '../../base/assert.ts';
import { conditionFrom, FLAG_BIT, FLAG_ROWS, type FlagRow, flagOpCode, STATUS_MASK } from '../flags.ts';
import type { Expr, MemRef, SimdUnit, StatusFlag, Stmt, Width } from '../ir.ts';
import { SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { OP, TYPE } from './code-buffer.ts';
import { widthOf } from '../expr.ts';
import { emitExpr, type Reads } from './expression.ts';
import { type Frame, HELPER, LOCAL } from './frame.ts';
import { emitSimd } from './simd-unit.ts';
import { emitX87 } from './x87-call.ts';
import { emitAccess, emitLoad, emitStore, sameMem, type StopSite } from './memory-access.ts';

/** The producer whose operands are in the flag locals, if known. */
export interface KnownFlags {
  readonly op: string;
  readonly width: Width;
}

const DF_BIT = 10;
/** The producer whose operand r is the image of the status bits themselves. */
export const IMAGE_OP = 'explicit';
/** Marks the three flag operands among the temporaries. */
const OPERAND = { a: -1, b: -2, r: -3 } as const;

export class StatementEmitter implements Reads {
  readonly f: Frame;
  known: KnownFlags | undefined;
  #temps = new Map<number, number>();
  /** Accesses of this instruction that are already checked for writing. */
  #checked: { mem: MemRef; width: Width; host: number }[] = [];
  #stop: StopSite = { vaddr: 0, giveBack: 0 };
  readonly #asked = new Set<SimdUnit | 'rounding'>();

  constructor(f: Frame) {
    this.f = f;
  }

  /** Starts a block, which this producer of flags is known to be in force at. */
  enter(known: KnownFlags | undefined): void {
    this.known = known;
    this.#asked.clear();
  }

  /** Starts an instruction. */
  begin(stop: StopSite): void {
    this.f.releaseTemps();
    this.#temps.clear();
    this.#checked = [];
    this.#stop = stop;
  }

  expr(e: Expr): void {
    emitExpr(this.f.c, this, e);
  }

  /** As a register's type. */
  word(e: Expr): void {
    this.expr(e);
    this.#toWord(widthOf(e));
  }

  /** `dead`: setFlags statements whose result nobody sees. */
  statement(s: Stmt, dead: ReadonlySet<Stmt>): void {
    const { f } = this;
    const { c } = f;
    switch (s.do) {
      case 'let': {
        const local = f.temp(typeOf(widthOf(s.value)));
        this.expr(s.value);
        c.set(local);
        this.#temps.set(s.id, local);
        return;
      }
      case 'load': {
        const host = emitAccess(f, s.forWrite === true ? 'write' : 'read', s.width, s.mem.seg, () => this.word(s.mem.offset), this.#stop, s.aligned === true);
        if (s.forWrite === true) this.#checked.push({ mem: s.mem, width: s.width, host });
        emitLoad(f, host, s.width);
        const local = f.temp(typeOf(s.width));
        c.set(local);
        this.#temps.set(s.id, local);
        return;
      }
      case 'probe': {
        const host = emitAccess(f, 'write', s.width, s.mem.seg, () => this.word(s.mem.offset), this.#stop);
        this.#checked.push({ mem: s.mem, width: s.width, host });
        return;
      }
      case 'store': {
        const checked = this.#checked.find((k) => k.width === s.width && sameMem(k.mem, s.mem));
        const host = checked?.host ?? emitAccess(f, 'write', s.width, s.mem.seg, () => this.word(s.mem.offset), this.#stop, s.aligned === true);
        emitStore(f, host, s.width, () => this.expr(s.value));
        return;
      }
      case 'setReg':
        return this.#setReg(s.width, s.index, s.high === true, s.value);
      case 'setFlags': {
        f.flagsTouched = true;
        this.known = { op: s.op, width: s.width };
        if (dead.has(s)) return;
        for (const operand of [s.a, s.b, s.r]) this.word(operand);
        c.set(LOCAL.flagR);
        c.set(LOCAL.flagB);
        c.set(LOCAL.flagA);
        c.const32(flagOpCode(s.op, s.width));
        c.set(LOCAL.flagOp);
        return;
      }
      case 'setFlagBits':
        return this.#setFlagBits(s.bits);
      case 'setDf':
        f.storeState32(STATE.eflagsRest, () => {
          f.loadState32(STATE.eflagsRest);
          c.const32(s.value === 1 ? 1 << DF_BIT : ~(1 << DF_BIT));
          c.byte(s.value === 1 ? OP.i32_or : OP.i32_and);
        });
        return;
      case 'setEflags':
        return this.#setEflags(s.value, s.mask);
      case 'raiseIf':
        this.expr(s.cond);
        f.open(OP.if);
        this.leave();
        f.close();
        return;
      case 'divideWide':
        return this.#divideWide(s);
      case 'if': {
        this.expr(s.cond);
        f.open(OP.if);
        const before = this.known;
        for (const inner of s.then) this.statement(inner, dead);
        const afterThen = this.known;
        this.known = before;
        if (s.else !== undefined && s.else.length > 0) {
          c.byte(OP.else);
          for (const inner of s.else) this.statement(inner, dead);
        }
        f.close();
        this.known = sameKnown(afterThen, this.known) ? this.known : undefined;
        return;
      }
      case 'unit':
      case 'setXmm':
      case 'setMm':
      case 'enterMmx':
      case 'float':
        return emitSimd(this, s);
      case 'system':
        return emitX87(this, s, this.#stop);
      case 'jump':
      case 'branch':
        assert(false, `statement ${s.do} inside a block`);
        return;
      default:
        return unreachable(s);
    }
  }

  /** By the machine's own division where the dividend has 64 bits; else, and for every #DE, the evaluator. */
  #divideWide({ signed, high, low, by, quotient, remainder }: Extract<Stmt, { do: 'divideWide' }>): void {
    const { f } = this;
    const { c } = f;
    const [dividend, divisor] = [f.temp(TYPE.i64), f.temp(TYPE.i64)];
    this.expr(low);
    c.set(dividend);
    this.expr(by);
    c.tee(divisor);
    c.byte(OP.i64_eqz);
    this.expr(high);
    if (signed) {
      c.get(dividend);
      c.const64(63n);
      c.byte(OP.i64_shr_s);
      c.byte(OP.i64_ne);
      c.byte(OP.i32_or);
      // The quotient that does not fit: the least number by -1.
      c.get(divisor);
      c.const64(-1n);
      c.byte(OP.i64_eq);
      c.get(dividend);
      c.const64(-(2n ** 63n));
      c.byte(OP.i64_eq);
      c.byte(OP.i32_and);
    } else {
      c.byte(OP.i64_eqz);
      c.byte(OP.i32_eqz);
    }
    c.byte(OP.i32_or);
    f.open(OP.if);
    f.exitTo(f.stopDepth, this.#stop.vaddr, this.#stop.giveBack);
    f.close();
    for (const [id, op] of [[quotient, signed ? OP.i64_div_s : OP.i64_div_u], [remainder, signed ? OP.i64_rem_s : OP.i64_rem_u]] as const) {
      const local = f.temp(TYPE.i64);
      c.get(dividend);
      c.get(divisor);
      c.byte(op);
      c.set(local);
      this.#temps.set(id, local);
    }
  }

  // What expressions read.

  temp(id: number): void {
    const { c } = this.f;
    if (id < 0) {
      c.get(id === OPERAND.a ? LOCAL.flagA : id === OPERAND.b ? LOCAL.flagB : LOCAL.flagR);
      return;
    }
    const local = this.#temps.get(id);
    assert(local !== undefined, () => `temporary ${id} is used before it is assigned`);
    c.get(local);
  }

  reg(width: Width, index: number, high: boolean): void {
    const { f } = this;
    const { c } = f;
    f.gprRead.add(index);
    c.get(LOCAL.gpr + index);
    if (width === 64) return;
    if (f.target.long) c.byte(OP.i32_wrap_i64);
    if (high) {
      c.const32(8);
      c.byte(OP.i32_shr_u);
    }
    if (width < 32) {
      c.const32(width === 8 ? 0xff : width === 16 ? 0xffff : 1);
      c.byte(OP.i32_and);
    }
  }

  flag(flag: StatusFlag): void {
    const { f } = this;
    f.flagsTouched = true;
    if (this.known !== undefined) {
      this.expr(this.#overOperands(flagRow(this.known.op)[flag], this.known.width));
      return;
    }
    this.#image();
    this.#bit(FLAG_BIT[flag]);
  }

  cond(cc: number): void {
    const { f } = this;
    const { c } = f;
    f.flagsTouched = true;
    if (this.known !== undefined) {
      const { op, width } = this.known;
      this.expr(this.#overOperands((x, y, r) => conditionFrom(op, cc, x, y, r), width));
      return;
    }
    const image = f.temp(TYPE.i32);
    this.#image();
    c.set(image);
    this.#combine(cc & ~1, (flag) => {
      c.get(image);
      this.#bit(FLAG_BIT[flag]);
    });
    if ((cc & 1) !== 0) c.byte(OP.i32_eqz);
  }

  df(): void {
    this.f.loadState32(STATE.eflagsRest);
    this.#bit(DF_BIT);
  }

  eflags(): void {
    this.f.flagsTouched = true;
    this.#image();
    this.f.loadState32(STATE.eflagsRest);
    this.f.c.byte(OP.i32_or);
    this.f.c.const32(2); // always one
    this.f.c.byte(OP.i32_or);
  }

  segBase(width: Width, seg: number): void {
    this.f.c.const32(this.f.target.stateBase);
    this.f.c.memory(width === 64 ? OP.i64_load : OP.i32_load, STATE.seg + seg * SEG_SLOT_BYTES + 8);
  }

  selector(seg: number): void {
    this.f.c.const32(this.f.target.stateBase);
    this.f.c.memory(OP.i32_load16_u, STATE.seg + seg * SEG_SLOT_BYTES);
  }

  xmm(index: number): void {
    this.f.c.get(this.f.xmm(index, false));
  }

  mm(index: number): void {
    this.f.c.const32(this.f.target.stateBase);
    this.f.c.memory(OP.i64_load, STATE.fpuReg + index * 16);
  }

  /** Leaves the instruction, of which nothing has happened, to the evaluator. */
  leave(): void {
    this.f.exitTo(this.f.stopDepth, this.#stop.vaddr, this.#stop.giveBack);
  }
  /** Asks once in a block: nothing in a block changes what the answer depends on. */
  once(what: SimdUnit | 'rounding', refused: () => void): void {
    if (this.#asked.has(what)) return;
    this.#asked.add(what);
    refused();
    this.f.open(OP.if);
    this.leave();
    this.f.close();
  }
  /** A temporary of the instruction that a local already holds. */
  define(id: number, local: number): void {
    this.#temps.set(id, local);
  }

  /** Condition codes as combinations of flags, SDM vol. 1, appendix B. */
  #combine(cc: number, flag: (flag: StatusFlag) => void): void {
    const { c } = this.f;
    const sfNotOf = (): void => {
      flag('sf');
      flag('of');
      c.byte(OP.i32_xor);
    };
    switch (cc) {
      case 0:
        return flag('of');
      case 2:
        return flag('cf');
      case 4:
        return flag('zf');
      case 6:
        flag('cf');
        flag('zf');
        c.byte(OP.i32_or);
        return;
      case 8:
        return flag('sf');
      case 10:
        return flag('pf');
      case 12:
        return sfNotOf();
      default:
        flag('zf');
        sfNotOf();
        c.byte(OP.i32_or);
    }
  }

  #bit(position: number): void {
    const { c } = this.f;
    c.const32(position);
    c.byte(OP.i32_shr_u);
    c.const32(1);
    c.byte(OP.i32_and);
  }

  #operand(id: number, width: Width): Expr {
    const wide: Expr = { tag: 'temp', width: this.f.target.long ? 64 : 32, id };
    return this.f.target.long && width !== 64 ? { tag: 'trunc', width, a: wide } : { tag: 'temp', width, id };
  }

  #overOperands(make: (a: Expr, b: Expr, r: Expr) => Expr, width: Width): Expr {
    return make(this.#operand(OPERAND.a, width), this.#operand(OPERAND.b, width), this.#operand(OPERAND.r, width));
  }

  /** The six status bits at their places in EFLAGS, whatever the producer. */
  #image(): void {
    const { c } = this.f;
    if (this.known?.op === IMAGE_OP) {
      c.get(LOCAL.flagR);
      if (this.f.target.long) c.byte(OP.i32_wrap_i64);
      return;
    }
    c.get(LOCAL.flagOp);
    c.get(LOCAL.flagA);
    c.get(LOCAL.flagB);
    c.get(LOCAL.flagR);
    c.index(OP.call, HELPER.statusImage);
  }

  /** An i32 on the stack becomes a flag image: the producer's operands are not needed any more. */
  setImage(): void {
    const { c } = this.f;
    this.f.flagsTouched = true;
    this.#toWord(32);
    c.set(LOCAL.flagR);
    for (const local of [LOCAL.flagA, LOCAL.flagB]) {
      if (this.f.target.long) c.const64(0n);
      else c.const32(0);
      c.set(local);
    }
    c.const32(flagOpCode(IMAGE_OP, 32));
    c.set(LOCAL.flagOp);
    this.known = { op: IMAGE_OP, width: 32 };
  }

  #setFlagBits(bits: Partial<Record<StatusFlag, Expr>>): void {
    const { c } = this.f;
    this.f.flagsTouched = true;
    const names = Object.keys(bits) as StatusFlag[];
    const mask = names.reduce((sum, name) => sum | (1 << FLAG_BIT[name]), 0);
    if (names.length === 6) c.const32(0);
    else {
      this.#image();
      c.const32(~mask);
      c.byte(OP.i32_and);
    }
    for (const name of names) {
      this.expr(bits[name] as Expr);
      c.const32(FLAG_BIT[name]);
      c.byte(OP.i32_shl);
      c.byte(OP.i32_or);
    }
    this.setImage();
  }

  #setEflags(value: Expr, mask: Expr): void {
    const { f } = this;
    const { c } = f;
    f.flagsTouched = true;
    const bits = f.temp(TYPE.i32);
    const under = f.temp(TYPE.i32);
    this.expr(value);
    c.set(bits);
    this.expr(mask);
    c.set(under);
    // new = (old & ~mask) | (value & mask), for both halves of the flags.
    const merge = (old: () => void): void => {
      old();
      c.get(under);
      c.const32(-1);
      c.byte(OP.i32_xor);
      c.byte(OP.i32_and);
      c.get(bits);
      c.get(under);
      c.byte(OP.i32_and);
      c.byte(OP.i32_or);
    };
    f.storeState32(STATE.eflagsRest, () => {
      merge(() => f.loadState32(STATE.eflagsRest));
      c.const32(~STATUS_MASK);
      c.byte(OP.i32_and);
    });
    merge(() => this.#image());
    c.const32(STATUS_MASK);
    c.byte(OP.i32_and);
    this.setImage();
  }

  /** Widens what is on the stack to a register's type. */
  #toWord(width: Width): void {
    if (this.f.target.long && width !== 64) this.f.c.byte(OP.i64_extend_i32_u);
  }

  #setReg(width: Width, index: number, high: boolean, value: Expr): void {
    const { f } = this;
    const { c } = f;
    const { long } = f.target;
    const local = LOCAL.gpr + index;
    f.gprWritten.add(index);
    if (width >= 32) {
      this.word(value);
      c.set(local);
      return;
    }
    // Merge: keep the other bits of the register.
    const field = (width === 8 ? 0xff : 0xffff) * (high ? 0x100 : 1);
    c.get(local);
    if (long) {
      c.const64(~BigInt(field));
      c.byte(OP.i64_and);
    } else {
      c.const32(~field);
      c.byte(OP.i32_and);
    }
    this.expr(value);
    if (high) {
      c.const32(8);
      c.byte(OP.i32_shl);
    }
    this.#toWord(width);
    c.byte(long ? OP.i64_or : OP.i32_or);
    c.set(local);
  }
}

const typeOf = (width: Width): number => (width === 128 ? TYPE.v128 : width === 64 ? TYPE.i64 : TYPE.i32);

export function sameKnown(a: KnownFlags | undefined, b: KnownFlags | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && a.op === b.op && a.width === b.width);
}

function flagRow(op: string): FlagRow {
  const row = FLAG_ROWS[op];
  assert(row !== undefined, () => `no flag producer ${op}`);
  return row;
}
