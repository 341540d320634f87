// Short constructors for expressions, so that rows read like what they say. Constants fold.
import type { BinOp, CmpOp, Expr, LaneOp, LaneWidth, StatusFlag, UnOp, Width } from './ir.ts';

export const constant = (width: Width, value: number | bigint): Expr =>
  width >= 64 ? { tag: 'const', width, value: BigInt.asUintN(width, BigInt(value)) } : narrow(width, typeof value === 'bigint' ? Number(BigInt.asUintN(32, value)) : value);
const narrow = (width: Width, value: number): Expr => ({ tag: 'const', width, value: width === 32 ? value >>> 0 : value & ((1 << width) - 1) });
export const widthOf = (expr: Expr): Width => {
  switch (expr.tag) {
    case 'cmp':
    case 'flag':
    case 'cond':
    case 'df':
      return 1;
    case 'eflags':
    case 'laneSigns':
      return 32;
    case 'selector':
      return 16;
    case 'mm':
      return 64;
    case 'xmm':
    case 'lanes':
    case 'laneShift':
    case 'shuffle':
    case 'setLane':
      return 128;
    default:
      return expr.width;
  }
};
export const isConst = (expr: Expr): expr is Extract<Expr, { tag: 'const' }> => expr.tag === 'const';
export const bin = (op: BinOp, a: Expr, b: Expr): Expr => ({ tag: 'bin', op, width: widthOf(a), a, b });
export const add = (a: Expr, b: Expr): Expr => (isConst(b) && Number(b.value) === 0 ? a : bin('add', a, b));
export const sub = (a: Expr, b: Expr): Expr => bin('sub', a, b);
export const mul = (a: Expr, b: Expr): Expr => bin('mul', a, b);
export const and = (a: Expr, b: Expr): Expr => bin('and', a, b);
export const or = (a: Expr, b: Expr): Expr => bin('or', a, b);
export const xor = (a: Expr, b: Expr): Expr => bin('xor', a, b);
export const shl = (a: Expr, b: Expr): Expr => bin('shl', a, b);
export const shrU = (a: Expr, b: Expr): Expr => bin('shrU', a, b);
export const shrS = (a: Expr, b: Expr): Expr => bin('shrS', a, b);
export const un = (op: UnOp, a: Expr): Expr => ({ tag: 'un', op, width: widthOf(a), a });
export const not = (a: Expr): Expr => un('not', a);
export const cmp = (op: CmpOp, a: Expr, b: Expr): Expr => ({ tag: 'cmp', op, a, b });
export const eq = (a: Expr, b: Expr): Expr => cmp('eq', a, b);
export const ne = (a: Expr, b: Expr): Expr => cmp('ne', a, b);
export const ltU = (a: Expr, b: Expr): Expr => cmp('ltU', a, b);
export const isZero = (a: Expr): Expr => cmp('eq', a, constant(widthOf(a), 0));
export const nonZero = (a: Expr): Expr => cmp('ne', a, constant(widthOf(a), 0));
export const select = (cond: Expr, then: Expr, otherwise: Expr): Expr => ({ tag: 'select', width: widthOf(then), cond, then, else: otherwise });
export const zext = (width: Width, a: Expr): Expr => (widthOf(a) === width ? a : isConst(a) ? constant(width, a.value) : { tag: 'zext', width, a });
export const sext = (width: Width, a: Expr): Expr => (widthOf(a) === width ? a : { tag: 'sext', width, a });
export const trunc = (width: Width, a: Expr): Expr => (widthOf(a) === width ? a : isConst(a) ? constant(width, a.value) : { tag: 'trunc', width, a });
export const flag = (name: StatusFlag): Expr => ({ tag: 'flag', flag: name });
export const cond = (cc: number): Expr => ({ tag: 'cond', cc });
export const reg = (width: Width, index: number, high = false): Expr => (high ? { tag: 'reg', width, index, high } : { tag: 'reg', width, index });
/** The top bit as width 1. */
export const signBit = (a: Expr): Expr => cmp('ltS', a, constant(widthOf(a), 0));
/** Bit `n` (constant) as width 1. */
export const bit = (a: Expr, n: number): Expr => nonZero(and(a, constant(widthOf(a), 1n << BigInt(n))));
/** Width-1 operators. */
export const and1 = (a: Expr, b: Expr): Expr => bin('and', a, b);
export const or1 = (a: Expr, b: Expr): Expr => bin('or', a, b);
export const xor1 = (a: Expr, b: Expr): Expr => bin('xor', a, b);
export const not1 = (a: Expr): Expr => bin('xor', a, constant(1, 1));
export const bool = (value: boolean): Expr => constant(1, value ? 1 : 0);

// Vectors.
export const xmm = (index: number): Expr => ({ tag: 'xmm', index });
export const mm = (index: number): Expr => ({ tag: 'mm', index });
export const ZERO_VECTOR: Expr = constant(128, 0);
export const lanes = (op: LaneOp, lane: LaneWidth, a: Expr, b: Expr): Expr => ({ tag: 'lanes', op, lane, a, b });
export const shuffle = (bytes: readonly number[], a: Expr, b: Expr): Expr => ({ tag: 'shuffle', bytes, a, b });
export const lane = (width: LaneWidth, index: number, a: Expr): Expr => ({ tag: 'lane', width, index, a });
export const setLane = (width: LaneWidth, index: number, a: Expr, value: Expr): Expr => ({ tag: 'setLane', lane: width, index, a, value });
/** Bits 64..127 of a product; `keep` is told of values that are used twice, so that rows can put them into temporaries. */
export function mulHigh64(signed: boolean, a: Expr, b: Expr, keep: (value: Expr) => Expr): Expr {
  const low = (x: Expr): Expr => and(x, constant(64, 0xffffffff));
  const high = (x: Expr): Expr => shrU(x, constant(64, 32));
  const [a0, a1, b0, b1] = [low(a), high(a), low(b), high(b)];
  const u = keep(add(mul(a1, b0), high(mul(a0, b0))));
  const v = add(mul(a0, b1), low(u));
  const unsigned = add(add(mul(a1, b1), high(u)), high(v));
  const top = constant(64, 63);
  return signed ? sub(sub(unsigned, and(shrS(a, top), b)), and(shrS(b, top), a)) : unsigned;
}
