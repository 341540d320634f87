// Conversions between singles, doubles and integers; and the approximations.
import { bitLength, FLAG, KIND, roundsUp } from '../x87/number.ts';
import { wholeRoot } from '../x87/arithmetic.ts';
import { infinityOf, LaneOutcome, LAYOUT, type Layout, pack, propagate, unpack, zeroOf } from './float-number.ts';

/** From one format to another. */
export function reformat(out: LaneOutcome, from: Layout, to: Layout, image: bigint): bigint {
  const a = unpack(out, from, image);
  if (a.kind >= KIND.qnan) {
    const nan = propagate(out, from, a, a);
    const payload = nan & ((1n << from.fraction) - 1n);
    const moved = to.fraction >= from.fraction ? payload << (to.fraction - from.fraction) : payload >> (from.fraction - to.fraction);
    return infinityOf(to, a.sign) | moved;
  }
  out.denormal(a.kind);
  if (a.kind === KIND.infinite) return infinityOf(to, a.sign);
  return a.kind === KIND.zero ? zeroOf(to, a.sign) : pack(out, to, a.sign, a.sig, a.exp);
}

/** From a signed integer of `width` bits. */
export function fromInteger(out: LaneOutcome, to: Layout, value: bigint, width: number): bigint {
  const signed = BigInt.asIntN(width, value);
  if (signed === 0n) return 0n;
  return pack(out, to, signed < 0n ? 1 : 0, signed < 0n ? -signed : signed, 0);
}

/** To a signed integer; beyond its range the least one, and invalid. A denormal is no exception here. */
export function toInteger(out: LaneOutcome, from: Layout, image: bigint, width: number, truncate: boolean): bigint {
  const limit = 1n << BigInt(width - 1);
  const a = unpack(out, from, image);
  const beyond = (): bigint => {
    out.flags |= FLAG.IE;
    return limit;
  };
  if (a.kind >= KIND.infinite || a.exp > 64) return beyond();
  let whole = a.exp >= 0 ? a.sig << BigInt(a.exp) : a.sig >> BigInt(-a.exp);
  const bits = BigInt(Math.max(-a.exp, 0));
  const rest = a.exp >= 0 ? 0n : a.sig - (whole << bits);
  if (roundsUp(truncate ? 3 : out.rounding, a.sign, (whole & 1n) !== 0n, rest, bits)) whole += 1n;
  if (whole > limit || (whole === limit && a.sign === 0)) return beyond();
  if (rest !== 0n) out.flags |= FLAG.PE;
  return BigInt.asUintN(width, a.sign === 1 ? -whole : whole);
}

// -- approximations ------------------------------------------------------------------------------------
//
// RCPPS and RSQRTPS have a bound (a relative error of at most 1.5 * 2^-12) and no exact definition, and processors
// differ. Here they are the exact result rounded to the nearest number of 12 significant bits, ties to even: 2^-12 at
// most. Denormals count as zeros, tiny results are zeros, nothing is raised, MXCSR says nothing. SDM vol. 2, RCPPS, RSQRTPS.

const APPROXIMATE_BITS = 12;
const F32 = LAYOUT.f32;
/** Everything masked, nearest, denormals are zeros. */
const QUIETLY = 0x1fc0;

function approximate(sign: number, sig: bigint, exp: number): bigint {
  const shift = bitLength(sig) - APPROXIMATE_BITS;
  const bits = BigInt(shift);
  let whole = sig >> bits;
  if (roundsUp(0, sign, (whole & 1n) !== 0n, sig - (whole << bits), bits)) whole += 1n;
  const result = pack(new LaneOutcome(QUIETLY), F32, sign, whole, exp + shift);
  return ((result >> F32.fraction) & F32.expMask) === 0n ? zeroOf(F32, sign) : result;
}
export function reciprocal(image: bigint): bigint {
  const out = new LaneOutcome(QUIETLY);
  const a = unpack(out, F32, image);
  if (a.kind >= KIND.qnan) return propagate(out, F32, a, a);
  if (a.kind === KIND.zero) return infinityOf(F32, a.sign);
  if (a.kind === KIND.infinite) return zeroOf(F32, a.sign);
  const quotient = (1n << 80n) / a.sig;
  return approximate(a.sign, (quotient << 1n) | (quotient * a.sig === 1n << 80n ? 0n : 1n), -81 - a.exp);
}
export function reciprocalRoot(image: bigint): bigint {
  const out = new LaneOutcome(QUIETLY);
  const a = unpack(out, F32, image);
  if (a.kind >= KIND.qnan) return propagate(out, F32, a, a);
  if (a.kind === KIND.zero) return infinityOf(F32, a.sign);
  if (a.sign === 1) return F32.indefinite;
  if (a.kind === KIND.infinite) return 0n;
  // 1 / sqrt(sig * 2^exp) = sqrt(2^-exp / sig), of an even power of two.
  const even = a.exp & 1;
  const radicand = (1n << 160n) / (a.sig << BigInt(even));
  const root = wholeRoot(radicand);
  const exact = root * root * (a.sig << BigInt(even)) === 1n << 160n;
  return approximate(0, (root << 1n) | (exact ? 0n : 1n), -81 - (a.exp - even) / 2);
}
