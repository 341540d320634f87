// The arithmetic of the x87: every function takes register numbers and answers one, noting flags.
import { BIAS, bitLength, exact, FLAG, type F80, infinity, KIND, kindOf, type Outcome, pack, propagate, roundsUp, unitOf, withSign, zero } from './number.ts';

export type Binary = (out: Outcome, a: F80, b: F80) => F80;

/** Beyond this distance an operand is only a sticky bit. */
const FAR = 132;

export const add: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  if (ka === KIND.infinite && kb === KIND.infinite && a.sign !== b.sign) return out.invalid();
  out.denormal(ka, kb);
  if (ka === KIND.infinite) return a;
  if (kb === KIND.infinite) return b;
  if (ka === KIND.zero && kb === KIND.zero) return a.sign === b.sign ? a : zero(out.rounding === 1 ? 1 : 0);
  const { precision } = out;
  if (ka === KIND.zero) return pack(out, b.sign, b.sig, unitOf(b), precision);
  if (kb === KIND.zero) return pack(out, a.sign, a.sig, unitOf(a), precision);
  const ua = unitOf(a);
  const ub = unitOf(b);
  const [big, small, distance, low] = ua >= ub ? [a, b, ua - ub, ub] : [b, a, ub - ua, ua];
  const far = distance > FAR;
  const bigSig = big.sig << BigInt(far ? FAR : distance);
  const smallSig = far ? 1n : small.sig;
  const unit = far ? unitOf(big) - FAR : low;
  if (a.sign === b.sign) return pack(out, a.sign, bigSig + smallSig, unit, precision);
  const difference = bigSig - smallSig;
  if (difference === 0n) return zero(out.rounding === 1 ? 1 : 0);
  return difference > 0n ? pack(out, big.sign, difference, unit, precision) : pack(out, small.sign, -difference, unit, precision);
};
const negated = (x: F80): F80 => (kindOf(x) >= KIND.qnan ? x : withSign(x, x.sign ^ 1));
export const subtract: Binary = (out, a, b) => add(out, a, negated(b));

export const multiply: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  const sign = a.sign ^ b.sign;
  if (ka === KIND.infinite || kb === KIND.infinite) {
    if (ka === KIND.zero || kb === KIND.zero) return out.invalid();
    out.denormal(ka, kb);
    return infinity(sign);
  }
  out.denormal(ka, kb);
  return pack(out, sign, a.sig * b.sig, unitOf(a) + unitOf(b), out.precision);
};

export const divide: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  const sign = a.sign ^ b.sign;
  if (ka === KIND.infinite) {
    if (kb === KIND.infinite) return out.invalid();
    out.denormal(kb);
    return infinity(sign);
  }
  if (kb === KIND.zero) {
    if (ka === KIND.zero) return out.invalid();
    out.flags |= FLAG.ZE;
    return infinity(sign);
  }
  out.denormal(ka, kb);
  if (kb === KIND.infinite || ka === KIND.zero) return zero(sign);
  // At least 66 bits of quotient and the sticky one.
  const shift = BigInt(67 + Math.max(0, bitLength(b.sig) - bitLength(a.sig)));
  const dividend = a.sig << shift;
  const quotient = dividend / b.sig;
  const sticky = quotient * b.sig === dividend ? 0n : 1n;
  return pack(out, sign, (quotient << 1n) | sticky, unitOf(a) - unitOf(b) - Number(shift) - 1, out.precision);
};

/** The whole part of a square root. */
export function wholeRoot(n: bigint): bigint {
  if (n === 0n) return 0n;
  // From above, Newton's method falls until it is there.
  let root = 1n << BigInt((bitLength(n) + 1) >> 1);
  for (;;) {
    const next = (root + n / root) >> 1n;
    if (next >= root) return root;
    root = next;
  }
}
export function squareRoot(out: Outcome, a: F80): F80 {
  const kind = kindOf(a);
  if (kind >= KIND.qnan) return propagate(out, a, a);
  if (kind === KIND.zero) return a;
  if (a.sign === 1) return out.invalid();
  out.denormal(kind);
  if (kind === KIND.infinite) return a;
  // 132 bits and more under the root, an even exponent.
  let shift = 134 - bitLength(a.sig);
  if (((unitOf(a) - shift) & 1) !== 0) shift++;
  const radicand = a.sig << BigInt(shift);
  const root = wholeRoot(radicand);
  const sticky = root * root === radicand ? 0n : 1n;
  return pack(out, 0, (root << 1n) | sticky, (unitOf(a) - shift) / 2 - 1, out.precision);
}

/** A finite number's magnitude as a whole number by the rounding control, noting PE and C1. */
export function toWhole(out: Outcome, a: F80, rounding = out.rounding): bigint {
  const unit = unitOf(a);
  if (unit >= 0) return a.sig << BigInt(unit);
  const bits = BigInt(Math.min(-unit, 80));
  const sig = -unit > 80 && a.sig !== 0n ? 1n : a.sig;
  const whole = sig >> bits;
  const rest = sig - (whole << bits);
  if (rest === 0n) return whole;
  out.flags |= FLAG.PE;
  if (!roundsUp(rounding, a.sign, (whole & 1n) !== 0n, rest, bits)) return whole;
  out.flags |= FLAG.C1;
  return whole + 1n;
}
export function roundToInteger(out: Outcome, a: F80): F80 {
  const kind = kindOf(a);
  if (kind >= KIND.qnan) return propagate(out, a, a);
  out.denormal(kind);
  if (kind === KIND.zero || kind === KIND.infinite || unitOf(a) >= 0) return a;
  return exact(a.sign, toWhole(out, a), 0);
}

/** Exponents beyond these cannot but over- or underflow. */
const SCALE_LIMIT = 0x20000;
export const scale: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  if (kb === KIND.infinite) {
    if (b.sign === 0 ? ka === KIND.zero : ka === KIND.infinite) return out.invalid();
    out.denormal(ka);
    return b.sign === 0 ? infinity(a.sign) : zero(a.sign);
  }
  out.denormal(ka, kb);
  if (ka === KIND.infinite || ka === KIND.zero) return a;
  const unit = unitOf(b);
  const whole = b.exp > BIAS + 20 ? BigInt(SCALE_LIMIT) : b.sig >> BigInt(Math.min(-unit, 80));
  const by = b.sign === 1 ? -Number(whole) : Number(whole);
  return pack(out, a.sign, a.sig, unitOf(a) + by);
};

/** FXTRACT: [exponent, significand]. */
export function extract(out: Outcome, a: F80): readonly [F80, F80] {
  const kind = kindOf(a);
  if (kind >= KIND.qnan) {
    const nan = propagate(out, a, a);
    return [nan, nan];
  }
  if (kind === KIND.infinite) return [infinity(0), a];
  if (kind === KIND.zero) {
    out.flags |= FLAG.ZE;
    return [infinity(1), a];
  }
  out.denormal(kind);
  const length = bitLength(a.sig);
  const exponent = unitOf(a) + length - 1;
  return [exact(exponent < 0 ? 1 : 0, BigInt(Math.abs(exponent)), 0), { sign: a.sign, exp: BIAS, sig: a.sig << BigInt(64 - length) }];
}

/** FPREM (chop) and FPREM1 (nearest). Condition bits of the quotient, C2 for a partial one, go into the flags. */
export function remainder(nearest: boolean): Binary {
  return (out, a, b) => {
    const ka = kindOf(a);
    const kb = kindOf(b);
    if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
    if (ka === KIND.infinite || kb === KIND.zero) return out.invalid();
    out.denormal(ka, kb);
    if (ka === KIND.zero) return a;
    if (kb === KIND.infinite) return pack(out, a.sign, a.sig, unitOf(a));
    const topA = unitOf(a) + bitLength(a.sig);
    const topB = unitOf(b) + bitLength(b.sig);
    const distance = topA - topB;
    if (distance < -1) return pack(out, a.sign, a.sig, unitOf(a));
    const unit = Math.min(unitOf(a), unitOf(b));
    if (distance >= 64) {
      // A step of the reduction: the quotient's upper bits only. SDM vol. 2, FPREM: N from 32 to 63.
      const step = (distance & 0x1f) | 0x20;
      const multiple = b.sig << BigInt(unitOf(b) - unit + distance - step);
      out.flags |= FLAG.C2;
      return pack(out, a.sign, (a.sig << BigInt(unitOf(a) - unit)) % multiple, unit);
    }
    const dividend = a.sig << BigInt(unitOf(a) - unit);
    const divisor = b.sig << BigInt(unitOf(b) - unit);
    let quotient = dividend / divisor;
    let rest = dividend - quotient * divisor;
    let { sign } = a;
    if (nearest && (2n * rest > divisor || (2n * rest === divisor && (quotient & 1n) !== 0n))) {
      quotient += 1n;
      rest = divisor - rest;
      sign ^= 1;
    }
    const low = Number(quotient & 7n);
    const bits = ((low & 4) !== 0 ? FLAG.C0 : 0) | ((low & 2) !== 0 ? FLAG.C3 : 0) | ((low & 1) !== 0 ? FLAG.C1 : 0);
    if (rest === 0n) {
      out.flags |= bits;
      return zero(a.sign);
    }
    const result = pack(out, sign, rest, unit);
    out.flags |= bits;
    return result;
  };
}

/** Condition bits C3 C2 C0 of a comparison. `quietly`: a QNaN is no invalid operand. */
export function compare(out: Outcome, a: F80, b: F80, quietly: boolean): number {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) {
    if (!quietly || ka > KIND.qnan || kb > KIND.qnan) out.flags |= FLAG.IE;
    return FLAG.C0 | FLAG.C2 | FLAG.C3;
  }
  out.denormal(ka, kb);
  if (ka === KIND.zero && kb === KIND.zero) return FLAG.C3;
  if (a.sign !== b.sign) return a.sign === 1 ? FLAG.C0 : 0;
  const ea = a.exp === 0 ? 1 : a.exp;
  const eb = b.exp === 0 ? 1 : b.exp;
  const order = ea !== eb ? (zeroOrder(ka, kb) ?? ea - eb) : a.sig === b.sig ? 0 : a.sig > b.sig ? 1 : -1;
  if (order === 0) return FLAG.C3;
  return order < 0 === (a.sign === 0) ? FLAG.C0 : 0;
}
const zeroOrder = (ka: number, kb: number): number | undefined => (ka === KIND.zero ? -1 : kb === KIND.zero ? 1 : undefined);
