// The transcendental instructions, rounded as exactly as the series are carried. Real processors are
// within one unit in the last place and differ among themselves (SDM vol. 1, 8.3.10); these are the
// values that all of them approximate. Angles are reduced by the processors' own pi of 66 bits.
import { type Binary } from './arithmetic.ts';
import { bitLength, BIAS, FLAG, type F80, infinity, INTEGER_BIT, KIND, kindOf, type Outcome, pack, propagate, unitOf, zero } from './number.ts';
import { atan, expMinusOne, ln, ln2, PI_BITS, pi, sinCos } from './series.ts';
import { ONE } from './unit.ts';

/** Fixed-point bits for results near one; those near zero take more. */
const BITS = 192;
/** Below 2^-TINY the first term of a series is the result but for its last bits. */
const TINY = 70;

const magnitudeExp = (x: F80): number => unitOf(x) + bitLength(x.sig) - 1;
const shift = (sig: bigint, by: number): bigint => (by >= 0 ? sig << BigInt(by) : sig >> BigInt(-by));
/** Signed, in fixed point of `bits`. */
const fixed = (x: F80, bits: number): bigint => {
  const value = shift(x.sig, unitOf(x) + bits);
  return x.sign === 1 ? -value : value;
};
/** Rounds a fixed-point number that is known not to be exact. */
function inexact(out: Outcome, value: bigint, bits: number): F80 {
  return pack(out, value < 0n ? 1 : 0, ((value < 0n ? -value : value) << 1n) | 1n, -bits - 1);
}
/** x moved by less than any bit of the result: towards zero, or away from it. */
function nearly(out: Outcome, x: F80, towardsZero: boolean): F80 {
  return pack(out, x.sign, (x.sig << 100n) + (towardsZero ? -1n : 1n), unitOf(x) - 100);
}

/** 2^x - 1 for -1 <= x <= 1; outside, the operand (which the manual leaves undefined). */
export function twoToXMinusOne(out: Outcome, x: F80): F80 {
  const kind = kindOf(x);
  if (kind >= KIND.qnan) return propagate(out, x, x);
  out.denormal(kind);
  if (kind === KIND.zero) return x;
  if (kind === KIND.infinite) return x.sign === 0 ? x : { ...ONE, sign: 1 };
  const exp = magnitudeExp(x);
  if (exp >= 0) return x.sign === 0 && x.exp === BIAS ? ONE : x.sign === 1 && x.exp === BIAS ? { sign: 1, exp: BIAS - 1, sig: INTEGER_BIT } : x;
  if (exp < -TINY - 64) return pack(out, x.sign, ((x.sig * ln2(BigInt(BITS))) << 1n) | 1n, unitOf(x) - BITS - 1);
  const bits = BITS - exp;
  return inexact(out, expMinusOne((fixed(x, bits) * ln2(BigInt(bits))) >> BigInt(bits), BigInt(bits)), bits);
}

/** log2 of a positive number in fixed point, and whether it is a whole number. */
function log2(x: F80): { value: bigint; bits: number; exact: boolean } {
  let exp = magnitudeExp(x);
  let top = x.sig << BigInt(64 - bitLength(x.sig));
  // Around 1: from 1/sqrt 2 to sqrt 2.
  const halved = top > 0xb504f333f9de6484n;
  if (halved) exp++;
  const bits = BITS + 64;
  const m = top << BigInt(bits - 63 - (halved ? 1 : 0));
  const isPower = top === INTEGER_BIT;
  top = isPower ? 0n : (ln(m, BigInt(bits)) << BigInt(bits)) / ln2(BigInt(bits));
  return { value: (BigInt(exp) << BigInt(bits)) + top, bits, exact: isPower };
}
/** ST(1) * log2 ST(0): a is ST(0), b is ST(1). */
export const yTimesLog2: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  if (ka === KIND.zero) {
    if (kb === KIND.zero) return out.invalid();
    if (kb === KIND.infinite) return infinity(b.sign ^ 1);
    out.flags |= FLAG.ZE;
    return infinity(b.sign ^ 1);
  }
  if (a.sign === 1) return out.invalid();
  if (ka === KIND.infinite) {
    if (kb === KIND.zero) return out.invalid();
    out.denormal(kb);
    return infinity(b.sign);
  }
  const isOne = a.exp === BIAS && a.sig === INTEGER_BIT;
  if (kb === KIND.infinite) {
    if (isOne) return out.invalid();
    out.denormal(ka);
    return a.exp < BIAS ? infinity(b.sign ^ 1) : b;
  }
  out.denormal(ka, kb);
  if (isOne) return zero(b.sign);
  if (kb === KIND.zero) return zero(a.exp < BIAS ? b.sign ^ 1 : b.sign);
  const { value, bits, exact } = log2(a);
  const sign = b.sign ^ (value < 0n ? 1 : 0);
  const product = (value < 0n ? -value : value) * b.sig;
  // Processors call even a whole logarithm's product inexact.
  out.flags |= FLAG.PE;
  return exact ? pack(out, sign, product, unitOf(b) - bits) : pack(out, sign, (product << 1n) | 1n, unitOf(b) - bits - 1);
};
/** ST(1) * log2(ST(0) + 1). */
export const yTimesLog2Plus1: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  if (ka === KIND.infinite) {
    if (a.sign === 1 || kb === KIND.zero) return out.invalid();
    out.denormal(kb);
    return infinity(b.sign);
  }
  if (kb === KIND.infinite) {
    if (ka === KIND.zero) return out.invalid();
    out.denormal(ka);
    return infinity(a.sign ^ b.sign);
  }
  out.denormal(ka, kb);
  const sign = a.sign ^ b.sign;
  if (ka === KIND.zero || kb === KIND.zero) return zero(sign);
  const exp = magnitudeExp(a);
  if (a.sign === 1 && exp >= 0) return a;
  if (exp < -TINY - 64) {
    const inverse = (1n << BigInt(2 * BITS)) / ln2(BigInt(BITS));
    return pack(out, sign, ((a.sig * b.sig * inverse) << 1n) | 1n, unitOf(a) + unitOf(b) - BITS - 1);
  }
  const bits = BITS - Math.min(exp, 0);
  const one = 1n << BigInt(bits);
  const sum = one + fixed(a, bits);
  // From 1 to 2 where it is not below 1.
  const twos = Math.max(0, bitLength(sum) - 1 - bits);
  const m = sum >> BigInt(twos);
  const value = (BigInt(twos) << BigInt(bits)) + (ln(m, BigInt(bits)) << BigInt(bits)) / ln2(BigInt(bits));
  return pack(out, sign, (((value < 0n ? -value : value) * b.sig) << 1n) | 1n, unitOf(b) - bits - 1);
};

/** Pi as processors reduce by it: 66 bits, cut off (SDM vol. 1, 8.3.8); AMD's do the same. */
const REDUCING_PI = 0xc90fdaa22168c234cn << (PI_BITS - 66n);
/** x less the nearest multiple of half of that pi: [rest in fixed point, quadrant, bits]. |x| < 2^63. */
function reduce(x: F80): { rest: bigint; quadrant: number; bits: number } {
  const bits = Number(PI_BITS);
  const half = REDUCING_PI >> 1n;
  const wide = shift(x.sig, unitOf(x) + bits);
  const quotient = (wide + (half >> 1n)) / half;
  const rest = wide - quotient * half;
  return { rest: x.sign === 1 ? -rest : rest, quadrant: Number((x.sign === 1 ? -quotient : quotient) & 3n), bits };
}
/** [sin, cos] of a finite non-zero number below 2^63. */
function sineAndCosine(x: F80): { sin: bigint; cos: bigint; bits: number } {
  const { rest, quadrant, bits } = reduce(x);
  const [s, c] = sinCos(rest, BigInt(bits));
  const [sin, cos] = [[s, c], [c, -s], [-s, -c], [-c, s]][quadrant] as [bigint, bigint];
  return { sin, cos, bits };
}
export type Angle = (out: Outcome, x: F80) => F80 | undefined;
/** undefined: out of range, C2. */
const angle = (tiny: (out: Outcome, x: F80) => F80, atZero: (x: F80) => F80, value: (out: Outcome, x: F80) => F80): Angle => (out, x) => {
  const kind = kindOf(x);
  if (kind >= KIND.qnan) return propagate(out, x, x);
  if (kind === KIND.infinite) return out.invalid();
  if (magnitudeExp(x) >= 63) return undefined;
  out.denormal(kind);
  if (kind === KIND.zero) return atZero(x);
  return magnitudeExp(x) < -TINY ? tiny(out, x) : value(out, x);
};
export const sine = angle((out, x) => nearly(out, x, true), (x) => x, (out, x) => {
  const { sin, bits } = sineAndCosine(x);
  return inexact(out, sin, bits);
});
export const cosine = angle((out) => nearly(out, ONE, true), () => ONE, (out, x) => {
  const { cos, bits } = sineAndCosine(x);
  return inexact(out, cos, bits);
});
export const tangent = angle((out, x) => nearly(out, x, false), (x) => x, (out, x) => {
  const { sin, cos, bits } = sineAndCosine(x);
  return inexact(out, (sin << BigInt(bits)) / cos, bits);
});

/** The angle of the point (ST(0), ST(1)): a is ST(0) = x, b is ST(1) = y. SDM vol. 2, FPATAN, table 3-30. */
export const arctangent: Binary = (out, a, b) => {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka >= KIND.qnan || kb >= KIND.qnan) return propagate(out, a, b);
  out.denormal(ka, kb);
  const { sign } = b;
  /** quarters of pi */
  const quarters = (n: bigint): F80 => inexact(out, ((sign === 1 ? -n : n) * pi()) >> 2n, Number(PI_BITS));
  if (kb === KIND.infinite) return quarters(ka !== KIND.infinite ? 2n : a.sign === 1 ? 3n : 1n);
  if (kb === KIND.zero || ka === KIND.infinite) return a.sign === 1 ? quarters(4n) : zero(sign);
  if (ka === KIND.zero) return quarters(2n);
  const distance = magnitudeExp(b) - magnitudeExp(a);
  if (distance > TINY + 2) return quarters(2n);
  if (distance < -TINY - 2) {
    if (a.sign === 1) return quarters(4n);
    const wide = (b.sig << 140n) / a.sig;
    return pack(out, sign, (wide << 1n) | 1n, unitOf(b) - unitOf(a) - 141);
  }
  const bits = BITS + 2 * TINY;
  const steep = distance > 0 || (distance === 0 && b.sig << BigInt(64 - bitLength(b.sig)) > a.sig << BigInt(64 - bitLength(a.sig)));
  const [n, d] = steep ? [a, b] : [b, a];
  const ratio = shift(n.sig, bits + unitOf(n) - unitOf(d)) / d.sig;
  let result = atan(ratio, BigInt(bits));
  const scaledPi = pi() >> (PI_BITS - BigInt(bits));
  if (steep) result = (scaledPi >> 1n) - result;
  if (a.sign === 1) result = scaledPi - result;
  return inexact(out, sign === 1 ? -result : result, bits);
};
