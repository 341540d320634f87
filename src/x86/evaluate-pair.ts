// 64-bit expressions as closures over pairs of 32-bit numbers: a closure returns the low half as a signed
// 32-bit number and leaves the high half, signed too, in `upper.half`. Bigints cost ten times as much; only
// division by more than 32 bits uses them.
import { assert } from '../base/assert.ts';
import { wide } from '../base/wide.ts';
import type { BigFn, ExprCompiler, NumberFn } from './evaluate-expr.ts';
import type { Core } from './core.ts';
import { widthOf } from './expr.ts';
import type { BinOp, CmpOp, Expr, Width } from './ir.ts';
import { SEG_SLOT_BYTES, STATE } from './state-layout.ts';

/** The high half of what a pair closure returned last. */
export const upper = wide({ half: 0 });
export type PairFn = () => number;

export interface PairTemps {
  readonly lo: Int32Array;
  readonly hi: Int32Array;
}

/** Low half of a bigint; the high half goes to `upper`. */
export function splitBig(value: bigint): number {
  upper.half = Number(BigInt.asIntN(32, value >> 32n));
  return Number(BigInt.asIntN(32, value));
}
export const joinBig = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
export const bigOf = (pair: PairFn): BigFn => () => {
  const lo = pair();
  return joinBig(lo, upper.half);
};

export class PairCompiler {
  readonly #core: Core;
  readonly #temps: PairTemps;
  readonly #numbers: ExprCompiler;

  constructor(core: Core, temps: PairTemps, numbers: ExprCompiler) {
    this.#core = core;
    this.#temps = temps;
    this.#numbers = numbers;
  }

  pair(expr: Expr): PairFn {
    switch (expr.tag) {
      case 'const': {
        const lo = splitBig(BigInt(expr.value));
        const hi = upper.half;
        return () => {
          upper.half = hi;
          return lo;
        };
      }
      case 'temp': {
        const { lo, hi } = this.#temps;
        const { id } = expr;
        return () => {
          upper.half = hi[id] as number;
          return lo[id] as number;
        };
      }
      case 'reg':
        return this.#slot(STATE.gpr + expr.index * 8);
      case 'segBase':
        return this.#slot(STATE.seg + expr.seg * SEG_SLOT_BYTES + 8);
      case 'bin':
        return this.#bin(expr.op, expr.a, expr.b);
      case 'un':
        return unary(expr.op, this.pair(expr.a));
      case 'select': {
        const cond = this.#numbers.number(expr.cond);
        const then = this.pair(expr.then);
        const otherwise = this.pair(expr.else);
        return () => (cond() !== 0 ? then() : otherwise());
      }
      case 'zext': {
        const a = this.#numbers.number(expr.a);
        return () => {
          const lo = a() | 0;
          upper.half = 0;
          return lo;
        };
      }
      case 'sext':
        return extended(this.#numbers.number(expr.a), widthOf(expr.a));
      case 'mm':
        return this.#slot(STATE.fpuReg + expr.index * 16);
      case 'lane':
      case 'trunc': {
        const value = this.#numbers.lane64(expr.tag === 'lane' ? expr.index : 0, expr.a);
        return () => splitBig(value());
      }
      default:
        return assert(false, `${expr.tag} has no 64-bit form`) as never;
    }
  }

  #slot(at: number): PairFn {
    const { u32, s } = this.#core;
    const w = s + (at >> 2);
    return () => {
      upper.half = (u32[w + 1] as number) | 0;
      return (u32[w] as number) | 0;
    };
  }

  #bin(op: BinOp, left: Expr, right: Expr): PairFn {
    const a = this.pair(left);
    if (op === 'add' && right.tag === 'const') return plusConstant(a, BigInt(right.value));
    if (op === 'shl' || op === 'shrU' || op === 'shrS') return shifted(op, a, this.pair(right));
    return OPERATORS[op](a, this.pair(right));
  }

  /** A comparison of 64-bit values. */
  compare(op: CmpOp, left: Expr, right: Expr): NumberFn {
    const a = this.pair(left);
    const b = this.pair(right);
    const flip = op === 'ltU' || op === 'leU' ? -0x80000000 : 0;
    const less = op === 'ltU' || op === 'ltS';
    if (op === 'eq' || op === 'ne') {
      const same = op === 'eq' ? 1 : 0;
      return () => {
        const al = a();
        const ah = upper.half;
        return b() === al && upper.half === ah ? same : 1 - same;
      };
    }
    return () => {
      const al = a() ^ -0x80000000;
      const ah = upper.half ^ flip;
      const bl = b() ^ -0x80000000;
      const bh = upper.half ^ flip;
      if (ah !== bh) return ah < bh ? 1 : 0;
      return al < bl || (!less && al === bl) ? 1 : 0;
    };
  }
}

function plusConstant(a: PairFn, value: bigint): PairFn {
  const bl = splitBig(value);
  const bh = upper.half;
  return () => {
    const al = a();
    const r = (al + bl) | 0;
    upper.half = (upper.half + bh + (((al & bl) | ((al | bl) & ~r)) >>> 31)) | 0;
    return r;
  };
}

function extended(a: NumberFn, from: Width): PairFn {
  const drop = 32 - from;
  return () => {
    const lo = (a() << drop) >> drop;
    upper.half = lo >> 31;
    return lo;
  };
}

function shiftPair(op: 'shl' | 'shrU' | 'shrS', lo: number, hi: number, count: number): number {
  if (op === 'shl') {
    if (count >= 32) {
      upper.half = lo << (count - 32);
      return 0;
    }
    upper.half = count === 0 ? hi : (hi << count) | (lo >>> (32 - count));
    return lo << count;
  }
  const signed = op === 'shrS';
  if (count >= 32) {
    upper.half = signed ? hi >> 31 : 0;
    return signed ? hi >> (count - 32) : (hi >>> (count - 32)) | 0;
  }
  upper.half = signed ? hi >> count : (hi >>> count) | 0;
  return count === 0 ? lo : (lo >>> count) | (hi << (32 - count));
}
function shifted(op: 'shl' | 'shrU' | 'shrS', a: PairFn, b: PairFn): PairFn {
  return () => {
    const lo = a();
    const hi = upper.half;
    return shiftPair(op, lo, hi, b() & 63);
  };
}

/** High half of the product of two unsigned 32-bit numbers. */
function mulHigh32(a: number, b: number): number {
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
  const low = Math.imul(a0, b0) >>> 16;
  const mid = Math.imul(a1, b0) + low;
  const mid2 = Math.imul(a0, b1) + (mid & 0xffff);
  // Both sums stay below 2^33; >>> 16 of a sum beyond 2^32 would lose bits, so they are divided.
  return (Math.imul(a1, b1) + Math.floor((mid < 0 ? mid + 0x1_0000_0000 : mid) / 0x10000) + Math.floor((mid2 < 0 ? mid2 + 0x1_0000_0000 : mid2) / 0x10000)) | 0;
}

type Operator = (a: PairFn, b: PairFn) => PairFn;
const bitwise = (f: (a: number, b: number) => number): Operator => (a, b) => () => {
  const al = a();
  const ah = upper.half;
  const bl = b();
  upper.half = f(ah, upper.half);
  return f(al, bl);
};
/** By bigints, but by doubles where both operands have 32 bits. */
const divided = (small: (a: number, b: number) => number, f: (a: bigint, b: bigint) => bigint): Operator => (a, b) => () => {
  const al = a();
  const ah = upper.half;
  const bl = b();
  const bh = upper.half;
  if (ah === 0 && bh === 0) return small(al >>> 0, bl >>> 0) | 0;
  return splitBig(f(joinBig(al, ah), joinBig(bl, bh)));
};
const rotated = (left: boolean): Operator => (a, b) => () => {
  const lo = a();
  const hi = upper.half;
  const count = b() & 63;
  const l1 = shiftPair('shl', lo, hi, left ? count : (64 - count) & 63);
  const h1 = upper.half;
  const l2 = shiftPair('shrU', lo, hi, left ? (64 - count) & 63 : count);
  upper.half |= h1;
  return l1 | l2;
};
const s64 = (value: bigint): bigint => BigInt.asIntN(64, value);
const quotient = (a: number, b: number): number => Math.floor(a / b);
const remainder = (a: number, b: number): number => a % b;

const OPERATORS: Readonly<Record<BinOp, Operator>> = {
  add: (a, b) => () => {
    const al = a();
    const ah = upper.half;
    const bl = b();
    const r = (al + bl) | 0;
    upper.half = (ah + upper.half + (((al & bl) | ((al | bl) & ~r)) >>> 31)) | 0;
    return r;
  },
  sub: (a, b) => () => {
    const al = a();
    const ah = upper.half;
    const bl = b();
    const r = (al - bl) | 0;
    upper.half = (ah - upper.half - (((~al & bl) | ((~al | bl) & r)) >>> 31)) | 0;
    return r;
  },
  mul: (a, b) => () => {
    const al = a();
    const ah = upper.half;
    const bl = b();
    const bh = upper.half;
    upper.half = (mulHigh32(al, bl) + Math.imul(ah, bl) + Math.imul(al, bh)) | 0;
    return Math.imul(al, bl);
  },
  and: bitwise((a, b) => a & b),
  or: bitwise((a, b) => a | b),
  xor: bitwise((a, b) => a ^ b),
  shl: (a, b) => shifted('shl', a, b),
  shrU: (a, b) => shifted('shrU', a, b),
  shrS: (a, b) => shifted('shrS', a, b),
  rotl: rotated(true),
  rotr: rotated(false),
  divU: divided(quotient, (a, b) => a / b),
  remU: divided(remainder, (a, b) => a % b),
  divS: divided(quotient, (a, b) => s64(a) / s64(b)),
  remS: divided(remainder, (a, b) => s64(a) % s64(b)),
};

function unary(op: 'not' | 'neg' | 'clz' | 'ctz' | 'popcnt', a: PairFn): PairFn {
  switch (op) {
    case 'not':
      return () => {
        const lo = ~a();
        upper.half = ~upper.half;
        return lo;
      };
    case 'neg':
      return () => {
        const lo = a();
        upper.half = (-upper.half - (lo === 0 ? 0 : 1)) | 0;
        return -lo | 0;
      };
    case 'clz':
      return () => {
        const lo = a();
        const hi = upper.half;
        upper.half = 0;
        return hi === 0 ? 32 + Math.clz32(lo) : Math.clz32(hi);
      };
    case 'ctz':
      return () => {
        const lo = a();
        const hi = upper.half;
        upper.half = 0;
        return lo !== 0 ? 31 - Math.clz32(lo & -lo) : hi === 0 ? 64 : 63 - Math.clz32(hi & -hi);
      };
    default:
      return () => {
        const lo = a();
        const hi = upper.half;
        upper.half = 0;
        return popcount(lo) + popcount(hi);
      };
  }
}

export function popcount(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24) & 0x3f;
}
