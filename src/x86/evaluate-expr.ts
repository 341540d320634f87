// Expressions to JavaScript closures: numbers (unsigned) up to 32 bits, bigints at 64.
import { assert } from '../base/assert.ts';
import { EFLAGS, STATUS_FLAGS, conditionOf } from './flags.ts';
import { flag as flagExpr, widthOf } from './expr.ts';
import type { Core } from './core.ts';
import type { BinOp, CmpOp, Expr, Width } from './ir.ts';
import { VectorCompiler, type VectorFn, Vectors } from './evaluate-vector.ts';
import { SEG_SLOT_BYTES, STATE } from './state-layout.ts';

export interface Temps {
  readonly n: Float64Array;
  readonly big: bigint[];
  readonly vectors: Vectors;
}
export type NumberFn = () => number;
export type BigFn = () => bigint;

const MASK32: Readonly<Record<number, number>> = { 1: 1, 8: 0xff, 16: 0xffff };
const signed = (value: number, width: Width): number => (width === 32 ? value | 0 : width === 16 ? (value << 16) >> 16 : width === 8 ? (value << 24) >> 24 : value);
const M64 = 0xffff_ffff_ffff_ffffn;

/** Closures for one instruction of one core. */
export class ExprCompiler {
  readonly #core: Core;
  readonly #temps: Temps;
  readonly #vectors: VectorCompiler;

  constructor(core: Core, temps: Temps) {
    this.#core = core;
    this.#temps = temps;
    this.#vectors = new VectorCompiler(core, temps.vectors, this);
  }

  /** Width 128. */
  vector(expr: Expr): VectorFn {
    return this.#vectors.vector(expr);
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
        return widthOf(expr.a) === 64 ? this.#cmp64(expr.op, expr.a, expr.b) : this.#cmp(expr.op, expr.a, expr.b);
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
          const a = this.big(expr.a);
          return () => (Number(a() & 0xffffffffn) & mask) >>> 0;
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

  big(expr: Expr): BigFn {
    assert(widthOf(expr) === 64, `width ${widthOf(expr)} is not 64`);
    const core = this.#core;
    switch (expr.tag) {
      case 'const': {
        const value = BigInt(expr.value);
        return () => value;
      }
      case 'temp': {
        const { big } = this.#temps;
        const { id } = expr;
        return () => big[id] as bigint;
      }
      case 'reg': {
        const at = core.stateBase + STATE.gpr + expr.index * 8;
        const { view } = core;
        return () => view.getBigUint64(at, true);
      }
      case 'bin': {
        const a = this.big(expr.a);
        const b = this.big(expr.b);
        const op = BIG_OPS[expr.op];
        return () => op(a(), b());
      }
      case 'un': {
        const a = this.big(expr.a);
        const op = BIG_UN[expr.op];
        return () => op(a());
      }
      case 'select': {
        const cond = this.number(expr.cond);
        const then = this.big(expr.then);
        const otherwise = this.big(expr.else);
        return () => (cond() !== 0 ? then() : otherwise());
      }
      case 'zext': {
        const a = this.number(expr.a);
        return () => BigInt(a());
      }
      case 'sext': {
        const a = this.number(expr.a);
        const from = widthOf(expr.a);
        return () => BigInt.asUintN(64, BigInt(signed(a(), from)));
      }
      case 'segBase': {
        const at = core.stateBase + STATE.seg + expr.seg * SEG_SLOT_BYTES + 8;
        const { view } = core;
        return () => view.getBigUint64(at, true);
      }
      case 'mm': {
        const at = core.stateBase + STATE.fpuReg + expr.index * 16;
        const { view } = core;
        return () => view.getBigUint64(at, true);
      }
      case 'lane':
        return this.#vectors.lane64(expr.index, expr.a);
      case 'trunc':
        return this.#vectors.lane64(0, expr.a);
      default:
        return assert(false, `${expr.tag} has no 64-bit form`) as never;
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

  #cmp64(op: CmpOp, left: Expr, right: Expr): NumberFn {
    const a = this.big(left);
    const b = this.big(right);
    const s = (value: bigint): bigint => BigInt.asIntN(64, value);
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
        return () => (s(a()) < s(b()) ? 1 : 0);
      case 'leS':
        return () => (s(a()) <= s(b()) ? 1 : 0);
    }
  }
}

function rotate(value: number, count: number, width: Width): number {
  if (count === 0) return value;
  const mask = MASK32[width] ?? 0xffffffff;
  return (((value << count) | (value >>> (width - count))) & mask) >>> 0;
}
function popcount(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24) & 0x3f;
}
const s64 = (value: bigint): bigint => BigInt.asIntN(64, value);
const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const BIG_OPS: Readonly<Record<BinOp, (a: bigint, b: bigint) => bigint>> = {
  add: (a, b) => (a + b) & M64,
  sub: (a, b) => u64(a - b),
  mul: (a, b) => (a * b) & M64,
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => (a << (b & 63n)) & M64,
  shrU: (a, b) => a >> (b & 63n),
  shrS: (a, b) => u64(s64(a) >> (b & 63n)),
  rotl: (a, b) => ((a << b) | (a >> (64n - b))) & M64,
  rotr: (a, b) => ((a >> b) | (a << (64n - b))) & M64,
  divU: (a, b) => a / b,
  remU: (a, b) => a % b,
  divS: (a, b) => u64(s64(a) / s64(b)),
  remS: (a, b) => u64(s64(a) % s64(b)),
};
const BIG_UN: Readonly<Record<'not' | 'neg' | 'clz' | 'ctz' | 'popcnt', (a: bigint) => bigint>> = {
  not: (a) => ~a & M64,
  neg: (a) => u64(-a),
  clz: (a) => BigInt(64 - (a === 0n ? 0 : a.toString(2).length)),
  ctz: (a) => (a === 0n ? 64n : BigInt((a & -a).toString(2).length - 1)),
  popcnt: (a) => BigInt(a.toString(2).replaceAll('0', '').length),
};

const NO_VECTORS = new Vectors(0);
/** A flag row's rule as a function of the operands. */
export function compileFlag(rule: (a: Expr, b: Expr, r: Expr) => Expr, width: Width): (a: number, b: number, r: number, aBig: bigint, bBig: bigint, rBig: bigint) => number {
  const temps: Temps = { n: new Float64Array(3), big: [0n, 0n, 0n], vectors: NO_VECTORS };
  const operand = (id: number): Expr => ({ tag: 'temp', width, id });
  const compiled = new ExprCompiler(undefined as never as Core, temps);
  const run = compiledWithoutCore(compiled, rule(operand(0), operand(1), operand(2)));
  return (a, b, r, aBig, bBig, rBig) => {
    temps.n[0] = a;
    temps.n[1] = b;
    temps.n[2] = r;
    temps.big[0] = aBig;
    temps.big[1] = bBig;
    temps.big[2] = rBig;
    return run();
  };
}
/** Flag rules use operands only, so no core is touched. */
function compiledWithoutCore(compiler: ExprCompiler, expr: Expr): NumberFn {
  return compiler.number(expr);
}
