// Shifts and rotates. Counts are masked to 5 bits (6 for 64-bit operands); a masked count of zero
// changes nothing, flags included. OF beyond a count of one is undefined; here it is what the same
// formula gives, which is what processors of the P6 line do.
import { and, bin, bit, constant, flag, isZero, nonZero, not1, or, reg, select, shl, shrU, signBit, sub, trunc, widthOf, xor1, zext } from '../expr.ts';
import type { Lowering, Row } from '../lower.ts';
import type { Expr, Width } from '../ir.ts';

const MASK = (width: Width): number => (width === 64 ? 63 : 31);

/** Runs `body` for a non-zero masked count; constants are decided here. */
function withCount(l: Lowering, at: number, width: Width, body: (count: Expr) => void): void {
  const operand = l.insn.operands[at];
  if (operand?.kind === 'imm') {
    const count = Number(operand.value) & MASK(width);
    if (count !== 0) body(constant(32, count));
    else {
      touchMemory(l);
      clearUpper(l, width);
    }
    return;
  }
  const count = l.let(and(zext(32, reg(8, 1)), constant(32, MASK(width))));
  touchMemory(l);
  const clears = l.bits === 64 && width === 32 && !l.isMem(0);
  l.when(nonZero(count), () => body(count), clears ? () => clearUpper(l, width) : undefined);
}
/** A 32-bit register is written even then: its upper half becomes zero. */
function clearUpper(l: Lowering, width: Width): void {
  if (l.bits === 64 && width === 32 && !l.isMem(0)) l.write(0, l.read(0));
}
/** Even a count of zero demands write access to a memory operand. */
function touchMemory(l: Lowering): void {
  if (l.isMem(0)) held.set(l, l.let(l.readForWrite(0)));
}
const held = new WeakMap<Lowering, Expr>();
const destination = (l: Lowering): Expr => held.get(l) ?? l.let(l.readForWrite(0));

const shiftLeft: Row = (l) => {
  const width = l.width(0);
  withCount(l, 1, width, (count) => {
    const a = destination(l);
    if (width === 32 || width === 64) {
      const n = zext(width, count);
      const r = l.let(shl(a, n));
      const carry = l.let(and(shrU(a, sub(constant(width, width), n)), constant(width, 1)));
      finish(l, r, carry, zext(width, xor1(signBit(r), bit(carry, 0))));
      return;
    }
    // A wider container, so that counts up to 31 need no cases.
    const shifted = l.let(shl(zext(64, a), zext(64, count)));
    const r = l.let(trunc(width, shifted));
    const carry = l.let(trunc(width, and(shrU(shifted, constant(64, width)), constant(64, 1))));
    finish(l, r, carry, zext(width, xor1(signBit(r), bit(carry, 0))));
  });
};

function finish(l: Lowering, r: Expr, carry: Expr, overflow: Expr): void {
  l.write(0, r);
  l.flags('given', carry, overflow, r);
}

const shiftRight = (signed: boolean): Row => (l) => {
  const width = l.width(0);
  withCount(l, 1, width, (count) => {
    const a = destination(l);
    const work: Width = width < 32 ? 32 : width;
    const extended = l.let(signed ? (width === work ? a : { tag: 'sext', width: work, a }) : zext(work, a));
    const n = work === 32 ? count : zext(64, count);
    const op = signed ? 'shrS' : 'shrU';
    const r = l.let(trunc(width, bin(op, extended, n)));
    const carry = l.let(trunc(width, and(bin(op, extended, sub(n, constant(work, 1))), constant(work, 1))));
    finish(l, r, carry, signed ? constant(width, 0) : zext(width, signBit(a)));
  });
};

/** ROL, ROR: only CF and OF change. */
const rotate = (left: boolean): Row => (l) => {
  const width = l.width(0);
  withCount(l, 1, width, (count) => {
    const a = destination(l);
    const n = and(width === 64 ? zext(64, count) : width === 32 ? count : trunc(width, count), constant(width, width - 1));
    const held = l.let(n);
    const r = l.let(bin(left ? 'rotl' : 'rotr', a, held));
    l.write(0, r);
    const top = signBit(r);
    if (left) l.flagBits({ cf: bit(r, 0), of: xor1(top, bit(r, 0)) });
    else l.flagBits({ cf: top, of: xor1(top, bit(r, width - 2)) });
  });
};

/** RCL, RCR: rotation of width + 1 bits with CF on top. Counts are taken modulo width + 1. */
const rotateCarry = (left: boolean): Row => (l) => {
  const width = l.width(0);
  withCount(l, 1, width, (count) => {
    const a = destination(l);
    const modulus = width + 1;
    const n = l.let(width >= 32 ? count : bin('remU', count, constant(32, modulus)));
    const wide: Width = 64;
    const carryIn = l.let(zext(wide, flag('cf')));
    if (width === 64) {
      const n64 = l.let(zext(64, n));
      const one = constant(64, 1);
      const backN = l.let(sub(constant(64, 64), n64));
      const moved = left ? or(shl(a, n64), shl(carryIn, sub(n64, one))) : or(shrU(a, n64), shl(carryIn, backN));
      // The bits that come in from the other end: shifting by 65 - n, in two steps since that can be 64.
      const wrapped = left ? shrU(shrU(a, backN), one) : shl(shl(a, backN), one);
      const r = l.let(or(moved, wrapped));
      const carry = l.let(left ? nonZero(and(shrU(a, backN), one)) : nonZero(and(shrU(a, sub(n64, one)), one)));
      l.write(0, r);
      l.flagBits({ cf: carry, of: left ? xor1(signBit(r), carry) : xor1(signBit(r), bit(r, 62)) });
      return;
    }
    const ring = l.let(or(zext(wide, a), shl(carryIn, constant(wide, width))));
    const n64 = zext(wide, n);
    const back = sub(constant(wide, modulus), n64);
    const turned = l.let(left ? or(shl(ring, n64), shrU(ring, back)) : or(shrU(ring, n64), shl(ring, back)));
    const r = l.let(trunc(width, turned));
    const carry = l.let(bit(turned, width));
    l.write(0, r);
    l.flagBits({ cf: carry, of: left ? xor1(signBit(r), carry) : xor1(signBit(r), bit(r, width - 2)) });
  });
};

/** SHLD, SHRD. For 16-bit operands counts above 16 are undefined; processors rotate through both. */
const doubleShift = (left: boolean): Row => (l) => {
  const width = l.width(0);
  withCount(l, 2, width, (count) => {
    const a = destination(l);
    const b = l.let(l.read(1));
    if (width === 16) {
      const high = zext(64, left ? a : b);
      const low = zext(64, left ? b : a);
      const triple = l.let(left ? or(or(shl(high, constant(64, 32)), shl(low, constant(64, 16))), high) : or(or(low, shl(high, constant(64, 16))), shl(low, constant(64, 32))));
      const n = zext(64, count);
      const shifted = l.let(left ? shl(triple, n) : shrU(triple, n));
      const r = l.let(trunc(16, left ? shrU(shifted, constant(64, 32)) : shifted));
      const carry = l.let(left ? bit(shifted, 48) : nonZero(and(shrU(triple, sub(n, constant(64, 1))), constant(64, 1))));
      finish(l, r, zext(16, carry), zext(16, xor1(signBit(r), signBit(a))));
      return;
    }
    const n = l.let(zext(width, count));
    const back = l.let(sub(constant(width, width), n));
    const r = l.let(left ? or(shl(a, n), shrU(b, back)) : or(shrU(a, n), shl(b, back)));
    const carry = l.let(and(left ? shrU(a, back) : shrU(a, sub(n, constant(width, 1))), constant(width, 1)));
    finish(l, r, carry, zext(width, xor1(signBit(r), signBit(a))));
  });
};

const scan = (forward: boolean): Row => (l) => {
  const source = l.let(l.read(1));
  const width = widthOf(source);
  const zero = l.let(isZero(source));
  const found = forward ? bin('and', { tag: 'un', op: 'ctz', width, a: source }, constant(width, width - 1)) : sub(constant(width, width - 1), bin('and', { tag: 'un', op: 'clz', width, a: source }, constant(width, width - 1)));
  // A zero source leaves the destination as it is (documented by AMD, done by Intel).
  // All 64 bits of it: a 32-bit destination is not even extended.
  if (l.bits === 64 && width === 32) l.when(not1(zero), () => l.write(0, found));
  else l.write(0, select(zero, l.read(0), found));
  l.flagBits({ zf: zero });
};

export const SHIFT_ROWS: Readonly<Record<string, Row>> = {
  Shl: shiftLeft,
  Sal: shiftLeft,
  Shr: shiftRight(false),
  Sar: shiftRight(true),
  Rol: rotate(true),
  Ror: rotate(false),
  Rcl: rotateCarry(true),
  Rcr: rotateCarry(false),
  Shld: doubleShift(true),
  Shrd: doubleShift(false),
  Bsf: scan(true),
  Bsr: scan(false),
  // F3 in front means nothing without BMI1 and LZCNT, which no CPUID leaf here promises.
  Tzcnt: scan(true),
  Lzcnt: scan(false),
};
