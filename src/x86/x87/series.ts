// Fixed-point series over bigints, for the transcendental instructions. A fixed-point number of `bits`
// is value * 2^bits, cut off; callers carry enough bits that what is cut off decides no rounding but
// in cases nobody has met (64 guard bits and more).
import { wholeRoot } from './arithmetic.ts';

/** atan(1/n). */
function atanInverse(n: bigint, bits: bigint): bigint {
  let power = (1n << bits) / n;
  let sum = power;
  const square = n * n;
  for (let k = 3n, sign = -1n; power !== 0n; k += 2n, sign = -sign) {
    power /= square;
    sum += sign * (power / k);
  }
  return sum;
}
export const PI_BITS = 400n;
let piKnown: bigint | undefined;
/** By Machin's formula. */
export function pi(): bigint {
  piKnown ??= (4n * (4n * atanInverse(5n, PI_BITS + 32n) - atanInverse(239n, PI_BITS + 32n))) >> 32n;
  return piKnown;
}

/** atanh(z) for |z| < 1/2. */
function atanh(z: bigint, bits: bigint): bigint {
  const square = (z * z) >> bits;
  let power = z;
  let sum = z;
  for (let k = 3n; ; k += 2n) {
    power = (power * square) >> bits;
    const term = power / k;
    if (term === 0n) return sum;
    sum += term;
  }
}
const ln2Known = new Map<bigint, bigint>();
export function ln2(bits: bigint): bigint {
  let value = ln2Known.get(bits);
  if (value === undefined) {
    value = (2n * atanh((1n << (bits + 32n)) / 3n, bits + 32n)) >> 32n;
    ln2Known.set(bits, value);
  }
  return value;
}
/** ln(m) for m in fixed point near 1 (from 1/2 to 2). */
export function ln(m: bigint, bits: bigint): bigint {
  const one = 1n << bits;
  return 2n * atanh(((m - one) << bits) / (m + one), bits);
}
export function log2OfTen(bits: bigint): bigint {
  const guard = bits + 32n;
  // 10 = 8 * 1.25
  return ((3n << guard) + (ln((5n << guard) >> 2n, guard) << guard) / ln2(guard)) >> 32n;
}

const absolute = (x: bigint): bigint => (x < 0n ? -x : x);

/** e^x - 1 for |x| < 1. */
export function expMinusOne(x: bigint, bits: bigint): bigint {
  let term = x;
  let sum = x;
  for (let k = 2n; absolute(term) > 1n; k++) {
    term = ((term * x) >> bits) / k;
    sum += term;
  }
  return sum;
}
/** [sin, cos] for |x| < 1. */
export function sinCos(x: bigint, bits: bigint): readonly [bigint, bigint] {
  const square = (x * x) >> bits;
  const series = (first: bigint, from: bigint): bigint => {
    let term = first;
    let sum = first;
    for (let k = from; term !== 0n && term !== -1n; k += 2n) {
      term = -((term * square) >> bits) / (k * (k + 1n));
      sum += term;
    }
    return sum;
  };
  return [series(x, 2n), series(1n << bits, 1n)];
}
/** atan(q) for 0 <= q <= 1: three halvings, then the series. */
export function atan(q: bigint, bits: bigint): bigint {
  const one = 1n << bits;
  let x = q;
  for (let i = 0; i < 3; i++) x = (x << bits) / (one + wholeRoot((one + ((x * x) >> bits)) << bits));
  const square = (x * x) >> bits;
  let power = x;
  let sum = x;
  for (let k = 3n, sign = -1n; power !== 0n; k += 2n, sign = -sign) {
    power = (power * square) >> bits;
    sum += sign * (power / k);
  }
  return sum << 3n;
}
