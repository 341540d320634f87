// The arithmetic of SSE, one lane at a time: images in, an image out, flags noted. Exact, so slow; what is
// fast and provably the same is in float-fast.ts and in the translator.
import { bitLength, FLAG, KIND } from '../x87/number.ts';
import { wholeRoot } from '../x87/arithmetic.ts';
import { infinityOf, invalid, type Lane, type LaneOutcome, type Layout, pack, propagate, unpack, zeroOf } from './float-number.ts';

export type LaneBinary = (out: LaneOutcome, of: Layout, a: bigint, b: bigint) => bigint;

const isNan = (a: Lane, b: Lane): boolean => a.kind >= KIND.qnan || b.kind >= KIND.qnan;

const addition = (negate: boolean): LaneBinary => (out, of, imageA, imageB) => {
  const a = unpack(out, of, imageA);
  const given = unpack(out, of, imageB);
  if (isNan(a, given)) return propagate(out, of, a, given);
  const b = negate ? { ...given, sign: given.sign ^ 1 } : given;
  if (a.kind === KIND.infinite && b.kind === KIND.infinite && a.sign !== b.sign) return invalid(out, of);
  out.denormal(a.kind, b.kind);
  if (a.kind === KIND.infinite) return infinityOf(of, a.sign);
  if (b.kind === KIND.infinite) return infinityOf(of, b.sign);
  const exp = Math.min(a.exp, b.exp);
  const signed = (x: Lane): bigint => (x.sign === 1 ? -1n : 1n) * (x.sig << BigInt(x.exp - exp));
  const sum = signed(a) + signed(b);
  if (sum !== 0n) return pack(out, of, sum < 0n ? 1 : 0, sum < 0n ? -sum : sum, exp);
  if (a.kind === KIND.zero && b.kind === KIND.zero && a.sign === b.sign) return zeroOf(of, a.sign);
  return zeroOf(of, out.rounding === 1 ? 1 : 0);
};

const multiply: LaneBinary = (out, of, imageA, imageB) => {
  const a = unpack(out, of, imageA);
  const b = unpack(out, of, imageB);
  if (isNan(a, b)) return propagate(out, of, a, b);
  const sign = a.sign ^ b.sign;
  const infinite = a.kind === KIND.infinite || b.kind === KIND.infinite;
  const zero = a.kind === KIND.zero || b.kind === KIND.zero;
  if (infinite && zero) return invalid(out, of);
  out.denormal(a.kind, b.kind);
  return infinite ? infinityOf(of, sign) : zero ? zeroOf(of, sign) : pack(out, of, sign, a.sig * b.sig, a.exp + b.exp);
};

const divide: LaneBinary = (out, of, imageA, imageB) => {
  const a = unpack(out, of, imageA);
  const b = unpack(out, of, imageB);
  if (isNan(a, b)) return propagate(out, of, a, b);
  const sign = a.sign ^ b.sign;
  if (a.kind === b.kind && (a.kind === KIND.infinite || a.kind === KIND.zero)) return invalid(out, of);
  if (b.kind === KIND.zero && a.kind !== KIND.infinite) {
    out.flags |= FLAG.ZE;
    return infinityOf(of, sign);
  }
  out.denormal(a.kind, b.kind);
  if (a.kind === KIND.infinite) return infinityOf(of, sign);
  if (a.kind === KIND.zero || b.kind === KIND.infinite) return zeroOf(of, sign);
  // Two bits more than the precision, and the sticky one.
  const shift = of.format.precision + 2 + Math.max(0, bitLength(b.sig) - bitLength(a.sig));
  const dividend = a.sig << BigInt(shift);
  const quotient = dividend / b.sig;
  const sticky = quotient * b.sig === dividend ? 0n : 1n;
  return pack(out, of, sign, (quotient << 1n) | sticky, a.exp - b.exp - shift - 1);
};

/** Of the second operand. */
const squareRoot: LaneBinary = (out, of, _, image) => {
  const a = unpack(out, of, image);
  if (a.kind >= KIND.qnan) return propagate(out, of, a, a);
  if (a.kind === KIND.zero) return a.image;
  if (a.sign === 1) return invalid(out, of);
  out.denormal(a.kind);
  if (a.kind === KIND.infinite) return a.image;
  let shift = 2 * of.format.precision + 6 - bitLength(a.sig);
  if (((a.exp - shift) & 1) !== 0) shift++;
  const radicand = a.sig << BigInt(shift);
  const root = wholeRoot(radicand);
  const sticky = root * root === radicand ? 0n : 1n;
  return pack(out, of, 0, (root << 1n) | sticky, (a.exp - shift) / 2 - 1);
};

/** -1, 0 or 1; undefined: unordered. Neither is a NaN for which that is invalid. */
function order(a: Lane, b: Lane): number | undefined {
  if (isNan(a, b)) return undefined;
  const size = (x: Lane): bigint => (x.kind === KIND.infinite ? 1n << 3000n : x.sig << BigInt(x.exp + 1100));
  const [x, y] = [a.sign === 1 ? -size(a) : size(a), b.sign === 1 ? -size(b) : size(b)];
  return x < y ? -1 : x > y ? 1 : 0;
}
/** Of two zeros, and where one is a NaN, the second operand as it is. SDM vol. 2, MAXPD and MINPD. */
const extreme = (wanted: -1 | 1): LaneBinary => (out, of, imageA, imageB) => {
  const a = unpack(out, of, imageA);
  const b = unpack(out, of, imageB);
  if (isNan(a, b)) {
    out.flags |= FLAG.IE;
    return b.image;
  }
  out.denormal(a.kind, b.kind);
  return order(a, b) === wanted ? a.image : b.image;
};

/** Notes what comparing finds; `signalling`: quiet NaNs are invalid too. */
function compared(out: LaneOutcome, of: Layout, imageA: bigint, imageB: bigint, signalling: boolean): number | undefined {
  const a = unpack(out, of, imageA);
  const b = unpack(out, of, imageB);
  if (isNan(a, b)) {
    if (signalling || a.kind === KIND.snan || b.kind === KIND.snan) out.flags |= FLAG.IE;
    return undefined;
  }
  out.denormal(a.kind, b.kind);
  return order(a, b);
}
/** The predicates of CMPPS: equal, less, less or equal, unordered, and their opposites. */
const PREDICATES: readonly { readonly signalling: boolean; readonly holds: (order: number | undefined) => boolean }[] = [
  { signalling: false, holds: (o) => o === 0 }, { signalling: true, holds: (o) => o === -1 }, { signalling: true, holds: (o) => o === -1 || o === 0 }, { signalling: false, holds: (o) => o === undefined },
  { signalling: false, holds: (o) => o !== 0 }, { signalling: true, holds: (o) => o !== -1 }, { signalling: true, holds: (o) => o !== -1 && o !== 0 }, { signalling: false, holds: (o) => o !== undefined },
];
export const compare = (predicate: number): LaneBinary => {
  const { signalling, holds } = PREDICATES[predicate & 7] as (typeof PREDICATES)[number];
  return (out, of, a, b) => (holds(compared(out, of, a, b, signalling)) ? (1n << BigInt(of.bits)) - 1n : 0n);
};
/** ZF, PF and CF of (U)COMISS and (U)COMISD, at their places. */
export function orderFlags(out: LaneOutcome, of: Layout, a: bigint, b: bigint, signalling: boolean): number {
  const found = compared(out, of, a, b, signalling);
  return found === undefined ? 0x45 : found === 0 ? 0x40 : found === -1 ? 1 : 0;
}

export const ARITHMETIC: Readonly<Record<'add' | 'sub' | 'mul' | 'div' | 'sqrt' | 'min' | 'max', LaneBinary>> = {
  add: addition(false), sub: addition(true), mul: multiply, div: divide, sqrt: squareRoot, min: extreme(-1), max: extreme(1),
};
