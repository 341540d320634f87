// Expressions to JavaScript closures: numbers (unsigned) up to 32 bits, pairs of them at 64 (evaluate-pair.ts).
import { assert } from '../base/assert.ts';
import { EFLAGS, STATUS_FLAGS, conditionOf } from './flags.ts';
import { bigOf, PairCompiler, popcount, type PairFn, type PairTemps } from './evaluate-pair.ts';
import { flag as flagExpr, widthOf } from './expr.ts';
import type { Core } from './core.ts';
import type { BinOp, CmpOp, Expr, Width } from './ir.ts';
import { VectorCompiler, type VectorFn, Vectors } from './evaluate-vector.ts';
import { SEG_SLOT_BYTES, STATE } from './state-layout.ts';

/** Temporaries: `n` up to 32 bits, `lo` and `hi` at 64. */
export interface Temps extends PairTemps {
  readonly n: Float64Array;
  readonly vectors: Vectors;
}
export type NumberFn = () => number;
export type BigFn = () => bigint;

const MASK32: Readonly<Record<number, number>> = { 1: 1, 8: 0xff, 16: 0xffff };
const signed = (value: number, width: Width): number => (width === 32 ? value | 0 : width === 16 ? (value << 16) >> 16 : width === 8 ? (value << 24) >> 24 : value);

/** Closures for one instruction of one core. */
export class ExprCompiler {
  readonly #core: Core;
  readonly #temps: Temps;
  readonly #vectors: VectorCompiler;
  readonly #pairs: PairCompiler;

  constructor(core: Core, temps: Temps) {
    this.#core = core;
    this.#temps = temps;
    this.#vectors = new VectorCompiler(core, temps.vectors, this);
    this.#pairs = new PairCompiler(core, temps, this);
  }

  /** Width 128. */
  vector(expr: Expr): VectorFn {
    return this.#vectors.vector(expr);
  }
  /** Width 64. */
  pair(expr: Expr): PairFn {
    return this.#pairs.pair(expr);
  }
  /** Width 64, for what is rare. */
  big(expr: Expr): BigFn {
    return bigOf(this.pair(expr));
  }
  /** 64 bits of a vector. */
  lane64(index: number, a: Expr): BigFn {
    return this.#vectors.lane64(index, a);
  }

  /** Width up to 32. */
  number(expr: Expr): NumberFn {
    const core = this.#core;
    switch (expr.tag) {
      case 'const': {
        const value = Number(expr.value);
        return () => value;
      }
      case 'temp': {
        const { n } = this.#temps;
        const { id } = expr;
        return () => n[id] as number;
      }
      case 'reg':
        return this.#reg(expr);
      case 'bin':
        return this.#bin(expr.op, expr.width, expr.a, expr.b);
      case 'un':
        return this.#un(expr);
      case 'cmp':
        return widthOf(expr.a) === 64 ? this.#pairs.compare(expr.op, expr.a, expr.b) : this.#cmp(expr.op, expr.a, expr.b);
      case 'select': {
        const cond = this.number(expr.cond);
        const then = this.number(expr.then);
        const otherwise = this.number(expr.else);
        return () => (cond() !== 0 ? then() : otherwise());
      }
      case 'zext':
        return this.number(expr.a);
      case 'sext': {
        const a = this.number(expr.a);
        const from = widthOf(expr.a);
        const mask = MASK32[expr.width];
        return mask === undefined ? () => signed(a(), from) >>> 0 : () => signed(a(), from) & mask;
      }
      case 'trunc': {
        const mask = MASK32[expr.width] ?? 0xffffffff;
        if (widthOf(expr.a) === 128) return this.#vectors.lane({ tag: 'lane', width: expr.width as 32, index: 0, a: expr.a });
        if (widthOf(expr.a) === 64) {
          const a = this.pair(expr.a);
          return () => (a() & mask) >>> 0;
        }
        const a = this.number(expr.a);
        return () => (a() & mask) >>> 0;
      }
      case 'flag': {
        const index = STATUS_FLAGS.indexOf(expr.flag);
        return () => core.flag(index);
      }
      case 'cond': {
        const whole = this.number(conditionOf(expr.cc, flagExpr));
        return whole;
      }
      case 'df':
        return () => ((core.get32(STATE.eflagsRest) & EFLAGS.DF) !== 0 ? 1 : 0);
      case 'eflags':
        return () => core.eflags();
      case 'segBase': {
        const at = core.s + ((STATE.seg + expr.seg * SEG_SLOT_BYTES + 8) >> 2);
        return () => core.u32[at] as number;
      }
      case 'selector': {
        const at = core.s + ((STATE.seg + expr.seg * SEG_SLOT_BYTES) >> 2);
        return () => core.u32[at] as number;
      }
      case 'lane':
        return this.#vectors.lane(expr);
      case 'laneSigns':
        return this.#vectors.signs(expr.lane, expr.a);
      default:
        return assert(false, `${expr.tag} is wider than a number`) as never;
    }
  }

  #reg(expr: Extract<Expr, { tag: 'reg' }>): NumberFn {
    const { u32, s } = this.#core;
    const at = s + ((STATE.gpr + expr.index * 8) >> 2);
    if (expr.high === true) return () => ((u32[at] as number) >>> 8) & 0xff;
    switch (expr.width) {
      case 8:
        return () => (u32[at] as number) & 0xff;
      case 16:
        return () => (u32[at] as number) & 0xffff;
      default:
        return () => u32[at] as number;
    }
  }

  #bin(op: BinOp, width: Width, left: Expr, right: Expr): NumberFn {
    const a = this.number(left);
    const b = this.number(right);
    const mask = MASK32[width] ?? 0xffffffff;
    switch (op) {
      case 'add':
        return () => ((a() + b()) & mask) >>> 0;
      case 'sub':
        return () => ((a() - b()) & mask) >>> 0;
      case 'mul':
        return () => (Math.imul(a(), b()) & mask) >>> 0;
      case 'and':
        return () => (a() & b()) >>> 0;
      case 'or':
        return () => (a() | b()) >>> 0;
      case 'xor':
        return () => (a() ^ b()) >>> 0;
      case 'shl':
        return () => ((a() << b()) & mask) >>> 0;
      case 'shrU':
        return () => a() >>> b();
      case 'shrS':
        return () => ((signed(a(), width) >> b()) & mask) >>> 0;
      case 'rotl':
        return () => rotate(a(), b(), width);
      case 'rotr':
        return () => rotate(a(), (width - b()) % width, width);
      case 'divU':
        return () => Math.floor(a() / b());
      case 'remU':
        return () => a() % b();
      case 'divS':
        return () => (Math.trunc(signed(a(), width) / signed(b(), width)) & mask) >>> 0;
      case 'remS':
        return () => ((signed(a(), width) % signed(b(), width)) & mask) >>> 0;
    }
  }

  #un(expr: Extract<Expr, { tag: 'un' }>): NumberFn {
    const { width } = expr;
    const mask = MASK32[width] ?? 0xffffffff;
    if (widthOf(expr.a) === 64) return assert(false, 'a 64-bit operator gives 64 bits') as never;
    const a = this.number(expr.a);
    switch (expr.op) {
      case 'not':
        return () => (~a() & mask) >>> 0;
      case 'neg':
        return () => (-a() & mask) >>> 0;
      case 'clz':
        return () => Math.clz32(a()) - (32 - width);
      case 'ctz':
        return () => {
          const value = a();
          return value === 0 ? width : 31 - Math.clz32(value & -value);
        };
      case 'popcnt':
        return () => popcount(a());
    }
  }

  #cmp(op: CmpOp, left: Expr, right: Expr): NumberFn {
    const a = this.number(left);
    const b = this.number(right);
    const width = widthOf(left);
    switch (op) {
      case 'eq':
        return () => (a() === b() ? 1 : 0);
      case 'ne':
        return () => (a() !== b() ? 1 : 0);
      case 'ltU':
        return () => (a() < b() ? 1 : 0);
      case 'leU':
        return () => (a() <= b() ? 1 : 0);
      case 'ltS':
        return () => (signed(a(), width) < signed(b(), width) ? 1 : 0);
      case 'leS':
        return () => (signed(a(), width) <= signed(b(), width) ? 1 : 0);
    }
  }
}

function rotate(value: number, count: number, width: Width): number {
  if (count === 0) return value;
  const mask = MASK32[width] ?? 0xffffffff;
  return (((value << count) | (value >>> (width - count))) & mask) >>> 0;
}

const NO_VECTORS = new Vectors(0);
/** Operands of a flag producer, their high halves last (width 64 only). */
export type FlagGetter = (a: number, b: number, r: number, aHigh: number, bHigh: number, rHigh: number) => number;
/** A flag row's rule as a function of the operands. */
export function compileFlag(rule: (a: Expr, b: Expr, r: Expr) => Expr, width: Width): FlagGetter {
  const n = new Float64Array(3);
  const lo = new Int32Array(3);
  const hi = new Int32Array(3);
  const operand = (id: number): Expr => ({ tag: 'temp', width, id });
  // Flag rules use operands only, so no core is touched.
  const run = new ExprCompiler({ u32: new Uint32Array(0), s: 0 } as Core, { n, lo, hi, vectors: NO_VECTORS }).number(rule(operand(0), operand(1), operand(2)));
  if (width === 64) {
    return (a, b, r, aHigh, bHigh, rHigh) => {
      lo[0] = a;
      lo[1] = b;
      lo[2] = r;
      hi[0] = aHigh;
      hi[1] = bHigh;
      hi[2] = rHigh;
      return run();
    };
  }
  return (a, b, r) => {
    n[0] = a;
    n[1] = b;
    n[2] = r;
    return run();
  };
}
