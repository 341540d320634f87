// Vector expressions as WebAssembly: each leaves a v128. Lanes and their operators are WebAssembly's own; the few
// that x86 has beyond them are made of those.
import { assert } from '../../base/assert.ts';
import { widthOf } from '../expr.ts';
import type { Expr, LaneOp, LaneWidth } from '../ir.ts';
import type { CodeBuffer } from './code-buffer.ts';
import { emitExpr, type Reads } from './expression.ts';

/** Opcodes behind the prefix 0xfd, WebAssembly core specification 2.0, section 5.4.7. */
export const SIMD = {
  v128_load: 0, v128_load32_zero: 92, v128_load64_zero: 93, v128_store: 11,
  i8x16_extract_u: 22, i8x16_replace: 23, i16x8_extract_u: 25, i16x8_replace: 26, i32x4_extract: 27, i32x4_replace: 28, i64x2_extract: 29, i64x2_replace: 30,
  and: 78, or: 80, xor: 81, i16x8_extadd_i8x16_u: 125, i32x4_extadd_i16x8_u: 127, i32x4_dot: 186,
  i32x4_extmul_low_s: 188, i32x4_extmul_high_s: 189, i32x4_extmul_low_u: 190, i32x4_extmul_high_u: 191, i64x2_mul: 213, i64x2_shr_u: 205, i64x2_add: 206,
  i8x16_sub: 113, i8x16_min_u: 119, i8x16_max_u: 121,
} as const;

type Op = readonly [lane: LaneWidth, opcode: number];
/** What WebAssembly has as one operator. */
const LANE_OPS: Readonly<Record<LaneOp, readonly Op[]>> = {
  add: [[8, 110], [16, 142], [32, 174], [64, 206]], sub: [[8, 113], [16, 145], [32, 177], [64, 209]],
  addSatS: [[8, 111], [16, 143]], addSatU: [[8, 112], [16, 144]], subSatS: [[8, 114], [16, 146]], subSatU: [[8, 115], [16, 147]],
  mul: [[16, 149], [32, 181]], minS: [[8, 118], [16, 150], [32, 182]], minU: [[8, 119], [16, 151], [32, 183]], maxS: [[8, 120], [16, 152], [32, 184]], maxU: [[8, 121], [16, 153], [32, 185]],
  avgU: [[8, 123], [16, 155]], eq: [[8, 35], [16, 45], [32, 55], [64, 214]], gtS: [[8, 39], [16, 49], [32, 59]],
  narrowS: [[8, 101], [16, 133]], narrowU: [[8, 102], [16, 134]], dot: [[32, SIMD.i32x4_dot]],
  mulHighS: [], mulHighU: [], mulWide: [], sad: [],
};
const SHIFTS: Readonly<Record<'shl' | 'shrU' | 'shrS', readonly Op[]>> = {
  shl: [[8, 107], [16, 139], [32, 171], [64, 203]], shrU: [[8, 109], [16, 141], [32, 173], [64, 205]], shrS: [[8, 108], [16, 140], [32, 172], [64, 204]],
};
const SIGNS: readonly Op[] = [[8, 100], [16, 132], [32, 164], [64, 196]];
const EXTRACT: readonly Op[] = [[8, SIMD.i8x16_extract_u], [16, SIMD.i16x8_extract_u], [32, SIMD.i32x4_extract], [64, SIMD.i64x2_extract]];
const REPLACE: readonly Op[] = [[8, SIMD.i8x16_replace], [16, SIMD.i16x8_replace], [32, SIMD.i32x4_replace], [64, SIMD.i64x2_replace]];
const BITWISE: Readonly<Record<string, number>> = { and: SIMD.and, or: SIMD.or, xor: SIMD.xor };

function opcode(rows: readonly Op[], lane: LaneWidth, what: string): number {
  const row = rows.find(([width]) => width === lane);
  assert(row !== undefined, () => `${what} has no lanes of ${lane} bits`);
  return row[1];
}

/** All tags whose value is a vector, and those that make a scalar of one. */
export function emitVector(c: CodeBuffer, reads: Reads, e: Expr): void {
  const push = (a: Expr): void => emitExpr(c, reads, a);
  switch (e.tag) {
    case 'const':
      return c.vector(BigInt(e.value));
    case 'zext':
      return widen(c, reads, e.a);
    case 'trunc':
      push(e.a);
      return c.simdLane(opcode(EXTRACT, e.width as LaneWidth, 'trunc'), 0);
    case 'bin': {
      push(e.a);
      push(e.b);
      const op = BITWISE[e.op];
      assert(op !== undefined, `${e.op} has no 128-bit form`);
      return c.simd(op);
    }
    case 'lanes':
      return emitLanes(c, reads, e.op, e.lane, e.a, e.b);
    case 'laneShift':
      push(e.a);
      push(e.count);
      return c.simd(opcode(SHIFTS[e.op], e.lane, e.op));
    case 'shuffle':
      push(e.a);
      push(e.b);
      return c.shuffle(e.bytes);
    case 'lane':
      push(e.a);
      return c.simdLane(opcode(EXTRACT, e.width, 'lane'), e.index);
    case 'setLane':
      push(e.a);
      push(e.value);
      return c.simdLane(opcode(REPLACE, e.lane, 'setLane'), e.index);
    case 'laneSigns':
      push(e.a);
      return c.simd(opcode(SIGNS, e.lane, 'laneSigns'));
    default:
      assert(false, `${e.tag} has no 128-bit form`);
  }
}

function widen(c: CodeBuffer, reads: Reads, a: Expr): void {
  c.vector(0n);
  emitExpr(c, reads, a);
  c.simdLane(widthOf(a) === 64 ? SIMD.i64x2_replace : SIMD.i32x4_replace, 0);
}

/** Words 1, 3, 5 and 7 of a and of b: the upper halves of products. */
const UPPER_WORDS = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
const LOW_HALVES = 0x00000000_ffffffff_00000000_ffffffffn;

function emitLanes(c: CodeBuffer, reads: Reads, op: LaneOp, lane: LaneWidth, a: Expr, b: Expr): void {
  const both = (): void => {
    emitExpr(c, reads, a);
    emitExpr(c, reads, b);
  };
  switch (op) {
    case 'mulHighS':
    case 'mulHighU': {
      const signed = op === 'mulHighS';
      both();
      c.simd(signed ? SIMD.i32x4_extmul_low_s : SIMD.i32x4_extmul_low_u);
      both();
      c.simd(signed ? SIMD.i32x4_extmul_high_s : SIMD.i32x4_extmul_high_u);
      return c.shuffle(UPPER_WORDS);
    }
    case 'mulWide':
      for (const operand of [a, b]) {
        emitExpr(c, reads, operand);
        c.vector(LOW_HALVES);
        c.simd(SIMD.and);
      }
      return c.simd(SIMD.i64x2_mul);
    case 'sad': {
      // |a - b| of bytes, then sums of two, of four, of eight.
      const fours = (): void => {
        both();
        c.simd(SIMD.i8x16_max_u);
        both();
        c.simd(SIMD.i8x16_min_u);
        c.simd(SIMD.i8x16_sub);
        c.simd(SIMD.i16x8_extadd_i8x16_u);
        c.simd(SIMD.i32x4_extadd_i16x8_u);
      };
      fours();
      c.vector(LOW_HALVES);
      c.simd(SIMD.and);
      fours();
      c.const32(32);
      c.simd(SIMD.i64x2_shr_u);
      return c.simd(SIMD.i64x2_add);
    }
    default:
      both();
      return c.simd(opcode(LANE_OPS[op], lane, op));
  }
}
