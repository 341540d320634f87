// Expressions of the IR as WebAssembly instructions: the operand-stack half of the translator.
// Invariant: a value of width w is left zero-extended to w, as i64 for width 64, v128 for 128 (vector.ts) and i32 otherwise.
// What expressions read from the processor (registers, flags, segments) comes through `Reads`.
import { unreachable } from '../../base/assert.ts';
import { widthOf } from '../expr.ts';
import type { BinOp, CmpOp, Expr, StatusFlag, Width } from '../ir.ts';
import { type CodeBuffer, OP } from './code-buffer.ts';
import { emitVector } from './vector.ts';

/** How the surrounding region keeps the processor's state. Each pushes one value. */
export interface Reads {
  temp(id: number): void;
  reg(width: Width, index: number, high: boolean): void;
  flag(flag: StatusFlag): void;
  cond(cc: number): void;
  df(): void;
  eflags(): void;
  segBase(width: Width, seg: number): void;
  selector(seg: number): void;
  xmm(index: number): void;
  mm(index: number): void;
}

const I32_BIN: Record<BinOp, number> = {
  add: OP.i32_add, sub: OP.i32_sub, mul: OP.i32_mul, and: OP.i32_and, or: OP.i32_or, xor: OP.i32_xor, shl: OP.i32_shl, shrU: OP.i32_shr_u, shrS: OP.i32_shr_s,
  rotl: OP.i32_rotl, rotr: OP.i32_rotr, divU: OP.i32_div_u, divS: OP.i32_div_s, remU: OP.i32_rem_u, remS: OP.i32_rem_s,
};
const I64_BIN: Record<BinOp, number> = {
  add: OP.i64_add, sub: OP.i64_sub, mul: OP.i64_mul, and: OP.i64_and, or: OP.i64_or, xor: OP.i64_xor, shl: OP.i64_shl, shrU: OP.i64_shr_u, shrS: OP.i64_shr_s,
  rotl: OP.i64_rotl, rotr: OP.i64_rotr, divU: OP.i64_div_u, divS: OP.i64_div_s, remU: OP.i64_rem_u, remS: OP.i64_rem_s,
};
const I32_CMP: Record<CmpOp, number> = { eq: OP.i32_eq, ne: OP.i32_ne, ltU: OP.i32_lt_u, leU: OP.i32_le_u, ltS: OP.i32_lt_s, leS: OP.i32_le_s };
const I64_CMP: Record<CmpOp, number> = { eq: OP.i64_eq, ne: OP.i64_ne, ltU: OP.i64_lt_u, leU: OP.i64_le_u, ltS: OP.i64_lt_s, leS: OP.i64_le_s };

/** What a narrow operator needs: operands sign-extended first, result masked after. */
const SIGNED: ReadonlySet<BinOp> = new Set<BinOp>(['shrS', 'divS', 'remS']);
const MASKED: ReadonlySet<BinOp> = new Set<BinOp>(['add', 'sub', 'mul', 'shl', 'shrS', 'divS', 'remS']);

function maskTo(c: CodeBuffer, width: Width): void {
  if (width >= 32) return;
  c.const32(width === 1 ? 1 : width === 8 ? 0xff : 0xffff);
  c.byte(OP.i32_and);
}

/** Turns a zero-extended narrow value on the stack into a sign-extended i32. */
function signExtend(c: CodeBuffer, width: Width): void {
  if (width === 8) c.byte(OP.i32_extend8_s);
  else if (width === 16) c.byte(OP.i32_extend16_s);
  else if (width === 1) {
    c.const32(31);
    c.byte(OP.i32_shl);
    c.const32(31);
    c.byte(OP.i32_shr_s);
  }
}

/** Pushes the value of `e`. */
export function emitExpr(c: CodeBuffer, reads: Reads, e: Expr): void {
  switch (e.tag) {
    case 'const':
      if (e.width === 128) emitVector(c, reads, e);
      else if (e.width === 64) c.const64(BigInt(e.value));
      else c.const32(Number(e.value));
      return;
    case 'temp':
      return reads.temp(e.id);
    case 'reg':
      return reads.reg(e.width, e.index, e.high === true);
    case 'bin':
      return emitBin(c, reads, e.op, e.width, e.a, e.b);
    case 'un': {
      emitExpr(c, reads, e.a);
      return emitUn(c, e.op, e.width);
    }
    case 'cmp':
      return emitCmp(c, reads, e.op, e.a, e.b);
    case 'select':
      emitExpr(c, reads, e.then);
      emitExpr(c, reads, e.else);
      emitExpr(c, reads, e.cond);
      c.byte(OP.select);
      return;
    case 'zext':
      if (e.width === 128 && widthOf(e.a) !== 128) return emitVector(c, reads, e);
      emitExpr(c, reads, e.a);
      if (e.width === 64 && widthOf(e.a) !== 64) c.byte(OP.i64_extend_i32_u);
      return;
    case 'sext': {
      const from = widthOf(e.a);
      emitExpr(c, reads, e.a);
      if (from === e.width) return;
      signExtend(c, from);
      if (e.width === 64) c.byte(OP.i64_extend_i32_s);
      else maskTo(c, e.width);
      return;
    }
    case 'trunc':
      if (widthOf(e.a) === 128 && e.width !== 128) return emitVector(c, reads, e);
      emitExpr(c, reads, e.a);
      if (e.width === 64) return;
      if (widthOf(e.a) === 64) c.byte(OP.i32_wrap_i64);
      if (widthOf(e.a) > e.width) maskTo(c, e.width);
      return;
    case 'flag':
      return reads.flag(e.flag);
    case 'cond':
      return reads.cond(e.cc);
    case 'df':
      return reads.df();
    case 'eflags':
      return reads.eflags();
    case 'segBase':
      return reads.segBase(e.width, e.seg);
    case 'selector':
      return reads.selector(e.seg);
    case 'xmm':
      return reads.xmm(e.index);
    case 'mm':
      return reads.mm(e.index);
    case 'lanes':
    case 'laneShift':
    case 'shuffle':
    case 'lane':
    case 'setLane':
    case 'laneSigns':
      return emitVector(c, reads, e);
    default:
      return unreachable(e);
  }
}

function emitBin(c: CodeBuffer, reads: Reads, op: BinOp, width: Width, a: Expr, b: Expr): void {
  if (width === 128) return emitVector(c, reads, { tag: 'bin', op, width, a, b });
  if (width === 64) {
    emitExpr(c, reads, a);
    emitExpr(c, reads, b);
    c.byte(I64_BIN[op]);
    return;
  }
  if ((op === 'rotl' || op === 'rotr') && width < 32) return emitNarrowRotate(c, reads, op, width, a, b);
  const narrow = width < 32;
  emitExpr(c, reads, a);
  if (narrow && SIGNED.has(op)) signExtend(c, width);
  emitExpr(c, reads, b);
  if (narrow && SIGNED.has(op) && op !== 'shrS') signExtend(c, width);
  c.byte(I32_BIN[op]);
  if (narrow && MASKED.has(op)) maskTo(c, width);
}

/** The value doubled into the neighbouring bits, then shifted: no second evaluation of the count needed. */
function emitNarrowRotate(c: CodeBuffer, reads: Reads, op: 'rotl' | 'rotr', width: Width, a: Expr, b: Expr): void {
  // a * (1 + 2^width) holds the value twice; rotr by n is bits n.. of it, rotl by n is bits width-n.. of it.
  emitExpr(c, reads, a);
  c.const32(width === 8 ? 0x0101 : 0x10001);
  c.byte(OP.i32_mul);
  if (op === 'rotl') {
    c.const32(width);
    emitExpr(c, reads, b);
    c.byte(OP.i32_sub);
  } else {
    emitExpr(c, reads, b);
  }
  c.byte(OP.i32_shr_u);
  maskTo(c, width);
}

function emitUn(c: CodeBuffer, op: 'not' | 'neg' | 'clz' | 'ctz' | 'popcnt', width: Width): void {
  const wide = width === 64;
  switch (op) {
    case 'not':
      if (wide) {
        c.const64(-1n);
        c.byte(OP.i64_xor);
      } else {
        c.const32(width === 32 ? -1 : 2 ** width - 1);
        c.byte(OP.i32_xor);
      }
      return;
    case 'neg':
      if (wide) {
        c.const64(-1n);
        c.byte(OP.i64_mul);
      } else {
        c.const32(-1);
        c.byte(OP.i32_mul);
        maskTo(c, width);
      }
      return;
    case 'clz':
      if (wide) c.byte(OP.i64_clz);
      else {
        c.byte(OP.i32_clz);
        if (width < 32) {
          c.const32(32 - width);
          c.byte(OP.i32_sub);
        }
      }
      return;
    case 'ctz':
      if (wide) c.byte(OP.i64_ctz);
      else {
        if (width < 32) {
          c.const32(2 ** width);
          c.byte(OP.i32_or);
        }
        c.byte(OP.i32_ctz);
      }
      return;
    case 'popcnt':
      c.byte(wide ? OP.i64_popcnt : OP.i32_popcnt);
      return;
    default:
      return unreachable(op);
  }
}

function emitCmp(c: CodeBuffer, reads: Reads, op: CmpOp, a: Expr, b: Expr): void {
  const width = widthOf(a);
  const signed = op === 'ltS' || op === 'leS';
  if (op === 'eq' && b.tag === 'const' && Number(b.value) === 0) {
    emitExpr(c, reads, a);
    c.byte(width === 64 ? OP.i64_eqz : OP.i32_eqz);
    return;
  }
  emitExpr(c, reads, a);
  if (signed && width < 32) signExtend(c, width);
  emitExpr(c, reads, b);
  if (signed && width < 32) signExtend(c, width);
  c.byte(width === 64 ? I64_CMP[op] : I32_CMP[op]);
}
