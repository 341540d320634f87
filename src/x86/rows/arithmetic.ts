// Integer arithmetic and logic. SDM vol. 2; each row reads as the manual's operation says.
import { VECTOR } from '../exit.ts';
import { add, and, and1, bin, bool, cmp, constant, eq, flag, isZero, ltU, mul, mulHigh64, ne, nonZero, not, not1, or, or1, reg, select, sext, shl, shrS, shrU, signBit, sub, trunc, un, widthOf, xor, zext } from '../expr.ts';
import type { Lowering, Row } from '../lower.ts';
import type { Expr, MemRef, Width } from '../ir.ts';
import { SEG } from '../state-layout.ts';

const zeroOf = (a: Expr): Expr => constant(widthOf(a), 0);

/** dst := f(dst, src), flags by producer `op`. */
const binary = (op: string, f: (a: Expr, b: Expr) => Expr, writes = true): Row => (l) => {
  const width = l.width(0);
  const b = l.isMem(1) ? l.read(1, width) : undefined;
  const a = l.let(writes ? l.readForWrite(0) : l.read(0));
  const source = l.let(b ?? l.read(1, width));
  const r = l.let(f(a, source));
  if (writes) l.write(0, r);
  l.flags(op, a, source, r);
};

const withCarry = (op: 'adc' | 'sbb'): Row => (l) => {
  const width = l.width(0);
  const b = l.isMem(1) ? l.read(1, width) : undefined;
  const a = l.let(l.readForWrite(0));
  const source = l.let(b ?? l.read(1, width));
  const carry = zext(width, flag('cf'));
  const r = l.let(op === 'adc' ? add(add(a, source), carry) : sub(sub(a, source), carry));
  l.write(0, r);
  l.flags(op, a, source, r);
};

const increment = (op: 'inc' | 'dec'): Row => (l) => {
  const a = l.let(l.readForWrite(0));
  const one = constant(widthOf(a), 1);
  const carry = l.let(zext(widthOf(a), flag('cf')));
  const r = l.let(op === 'inc' ? add(a, one) : sub(a, one));
  l.write(0, r);
  l.flags(op, a, carry, r);
};

const double = (width: Width): Width => (width * 2) as Width;

/** The accumulator pair of a one-operand multiplication or division: AX, or (E)DX:(E)AX. */
function writePair(l: Lowering, width: Width, product: Expr): void {
  if (width === 8) {
    l.setReg(16, 0, product);
    return;
  }
  l.setReg(width, 0, trunc(width, product));
  l.setReg(width, 2, trunc(width, shrU(product, constant(widthOf(product), width))));
}
function readPair(l: Lowering, width: Width): Expr {
  if (width === 8) return l.let(reg(16, 0));
  const wide = double(width);
  return l.let(or(zext(wide, reg(width, 0)), shl(zext(wide, reg(width, 2)), constant(wide, width))));
}

const multiplyLong = (l: Lowering): void => {
  const three = l.insn.operands.length === 3;
  const a = l.let(three ? l.read(1, 64) : l.read(0));
  const b = l.let(three ? l.read(2, 64) : l.read(1, 64));
  const r = l.let(mul(a, b));
  l.write(0, r);
  l.flags('imul', a, b, r);
};
const multiplyPair = (l: Lowering, signed: boolean): void => {
  const a = l.let(l.read(0));
  const b = l.let(reg(64, 0));
  const low = l.let(mul(a, b));
  const high = l.let(mulHigh64(signed, a, b, (value) => l.let(value)));
  const overflow = l.let(zext(64, signed ? ne(high, shrS(low, constant(64, 63))) : nonZero(high)));
  l.setReg(64, 0, low);
  l.setReg(64, 2, high);
  l.flags('given', overflow, overflow, low);
};

const multiply = (signed: boolean): Row => (l) => {
  const extend = signed ? sext : zext;
  if (l.insn.operands.length > 1) {
    const width = l.width(0);
    if (width === 64) return multiplyLong(l);
    const wide = double(width);
    const a = l.let(l.insn.operands.length === 3 ? l.read(1, width) : l.read(0));
    const b = l.let(l.insn.operands.length === 3 ? l.read(2, width) : l.read(1, width));
    const product = l.let(mul(extend(wide, a), extend(wide, b)));
    const low = l.let(trunc(width, product));
    const overflow = l.let(zext(width, ne(sext(wide, low), product)));
    l.write(0, low);
    l.flags('given', overflow, overflow, low);
    return;
  }
  const width = l.width(0);
  if (width === 64) return multiplyPair(l, signed);
  const wide = double(width);
  const product = l.let(mul(extend(wide, l.read(0)), extend(wide, reg(width, 0))));
  const low = l.let(trunc(width, product));
  const overflow = l.let(zext(width, ne(extend(wide, low), product)));
  writePair(l, width, product);
  l.flags('given', overflow, overflow, low);
};

const divide = (signed: boolean): Row => (l) => {
  const width = l.width(0);
  const wide = double(width);
  const divisor = l.let(l.read(0));
  if (width === 64) {
    const { quotient, remainder } = l.divideWide(signed, reg(64, 2), reg(64, 0), divisor);
    l.setReg(64, 0, quotient);
    l.setReg(64, 2, remainder);
    return;
  }
  l.raiseIf(isZero(divisor), VECTOR.DE);
  const dividend = readPair(l, width);
  const wideDivisor = l.let((signed ? sext : zext)(wide, divisor));
  if (signed) {
    // The one quotient that the wide division itself cannot represent.
    l.raiseIf(bin('and', eq(dividend, constant(wide, 1n << BigInt(wide - 1))), eq(wideDivisor, constant(wide, -1))), VECTOR.DE);
  }
  const quotient = l.let(bin(signed ? 'divS' : 'divU', dividend, wideDivisor));
  const remainder = l.let(bin(signed ? 'remS' : 'remU', dividend, wideDivisor));
  const low = l.let(trunc(width, quotient));
  l.raiseIf(ne((signed ? sext : zext)(wide, low), quotient), VECTOR.DE);
  if (width === 8) {
    l.setReg(8, 0, low);
    l.setReg(8, 0, trunc(8, remainder), true);
  } else {
    l.setReg(width, 0, low);
    l.setReg(width, 2, trunc(width, remainder));
  }
};

/** Rows that read the accumulator byte: BCD. */
const al = reg(8, 0);
const ah = reg(8, 0, true);
const resultFlags = (r: Expr): { zf: Expr; sf: Expr; pf: Expr } => ({ zf: isZero(r), sf: signBit(r), pf: isZero(and(un('popcnt', r), constant(8, 1))) });

const decimalAdjust = (subtract: boolean): Row => (l) => {
  const old = l.let(al);
  const step = subtract ? sub : add;
  const half = l.let(or1(cmp('ltU', constant(8, 9), and(old, constant(8, 15))), flag('af')));
  const high = l.let(or1(cmp('ltU', constant(8, 0x99), old), flag('cf')));
  const afterHalf = l.let(select(half, step(old, constant(8, 6)), old));
  const r = l.let(select(high, step(afterHalf, constant(8, 0x60)), afterHalf));
  // DAS: a borrow of the first step is a carry too (SDM: CF := old_CF OR borrow).
  const borrow = subtract ? bin('and', half, ltU(old, constant(8, 6))) : bool(false);
  const carry = l.let(or1(high, borrow));
  l.setReg(8, 0, r);
  l.flagBits({ cf: carry, af: half, of: bool(false), ...resultFlags(r) });
};

const asciiAdjust = (subtract: boolean): Row => (l) => {
  const old = l.let(reg(16, 0));
  const adjust = l.let(or1(cmp('ltU', constant(16, 9), and(old, constant(16, 15))), flag('af')));
  const moved = subtract ? sub(sub(old, constant(16, 6)), constant(16, 0x100)) : add(old, constant(16, 0x106));
  const whole = l.let(select(adjust, moved, old));
  l.setReg(16, 0, and(whole, constant(16, 0xff0f)));
  const r = and(trunc(8, whole), constant(8, 15));
  l.flagBits({ cf: adjust, af: adjust, of: bool(false), ...resultFlags(r) });
};

export const ARITHMETIC_ROWS: Readonly<Record<string, Row>> = {
  Add: binary('add', add),
  Sub: binary('sub', sub),
  Cmp: binary('sub', sub, false),
  And: binary('logic', and),
  Or: binary('logic', or),
  Xor: binary('logic', xor),
  Test: binary('logic', and, false),
  Adc: withCarry('adc'),
  Sbb: withCarry('sbb'),
  Inc: increment('inc'),
  Dec: increment('dec'),
  Not: (l) => l.write(0, not(l.readForWrite(0))),
  Neg: (l) => {
    const a = l.let(l.readForWrite(0));
    const r = l.let(sub(zeroOf(a), a));
    l.write(0, r);
    l.flags('sub', zeroOf(a), a, r);
  },
  Mul: multiply(false),
  Imul: multiply(true),
  Div: divide(false),
  Idiv: divide(true),
  Cbw: (l) => l.setReg(16, 0, sext(16, reg(8, 0))),
  Cwde: (l) => l.setReg(32, 0, sext(32, reg(16, 0))),
  Cdqe: (l) => l.setReg(64, 0, sext(64, reg(32, 0))),
  Cwd: (l) => l.setReg(16, 2, select(signBit(reg(16, 0)), constant(16, 0xffff), constant(16, 0))),
  Cdq: (l) => l.setReg(32, 2, bin('shrS', reg(32, 0), constant(32, 31))),
  Cqo: (l) => l.setReg(64, 2, bin('shrS', reg(64, 0), constant(64, 63))),
  Xadd: (l) => {
    const a = l.let(l.readForWrite(0));
    const b = l.let(l.read(1));
    const r = l.let(add(a, b));
    if (l.isMem(0)) {
      l.write(0, r);
      l.write(1, a);
    } else {
      l.write(1, a);
      l.write(0, r);
    }
    l.flags('add', a, b, r);
  },
  Cmpxchg: (l) => {
    const width = l.width(0);
    const destination = l.let(l.readForWrite(0));
    const accumulator = l.let(reg(width, 0));
    const same = l.let(eq(accumulator, destination));
    const r = l.let(sub(accumulator, destination));
    // A 32-bit register that is not exchanged keeps its upper half.
    if (l.bits === 64 && width === 32 && !l.isMem(0)) l.when(same, () => l.write(0, l.read(1)));
    else l.write(0, select(same, l.read(1), destination));
    l.when(not1(same), () => l.setReg(width, 0, destination));
    l.flags('sub', accumulator, destination, r);
  },
  Cmpxchg8b: (l) => {
    const old = l.let(l.readForWrite(0));
    const expected = or(zext(64, reg(32, 0)), shl(zext(64, reg(32, 2)), constant(64, 32)));
    const wanted = or(zext(64, reg(32, 3)), shl(zext(64, reg(32, 1)), constant(64, 32)));
    const same = l.let(eq(old, expected));
    l.write(0, select(same, wanted, old));
    l.when(not1(same), () => {
      l.setReg(32, 0, trunc(32, old));
      l.setReg(32, 2, trunc(32, shrU(old, constant(64, 32))));
    });
    l.flagBits({ zf: same });
  },
  Cmpxchg16b: (l) => {
    const mem = l.ref(0);
    const offset = l.let(mem.offset);
    const at = (delta: number): MemRef => ({ seg: mem.seg, offset: add(offset, constant(64, delta)) });
    const linear = mem.seg >= SEG.fs ? add(offset, { tag: 'segBase', width: 64, seg: mem.seg }) : offset;
    l.raiseIf(nonZero(and(linear, constant(64, 15))), VECTOR.GP, 0);
    const low = l.loadForWrite(at(0), 64);
    const high = l.loadForWrite(at(8), 64);
    const same = l.let(and1(eq(low, reg(64, 0)), eq(high, reg(64, 2))));
    l.store(at(0), select(same, reg(64, 3), low));
    l.store(at(8), select(same, reg(64, 1), high));
    l.when(not1(same), () => {
      l.setReg(64, 0, low);
      l.setReg(64, 2, high);
    });
    l.flagBits({ zf: same });
  },
  Daa: decimalAdjust(false),
  Das: decimalAdjust(true),
  Aaa: asciiAdjust(false),
  Aas: asciiAdjust(true),
  Aam: (l) => {
    const base = l.read(0, 8);
    l.raiseIf(isZero(base), VECTOR.DE);
    const old = l.let(al);
    const r = l.let(bin('remU', old, base));
    l.setReg(8, 0, bin('divU', old, base), true);
    l.setReg(8, 0, r);
    l.flagBits({ cf: bool(false), of: bool(false), af: bool(false), ...resultFlags(r) });
  },
  Aad: (l) => {
    const r = l.let(add(al, mul(ah, l.read(0, 8))));
    l.setReg(16, 0, zext(16, r));
    l.flagBits({ cf: bool(false), of: bool(false), af: bool(false), ...resultFlags(r) });
  },
};
