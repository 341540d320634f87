// Memory formats of the x87 to and from register numbers: singles, doubles, integers, packed decimals.
// Words are unsigned; 64-bit and longer images are bigints.
import { toWhole } from './arithmetic.ts';
import { bitLength, BIAS, exact, FLAG, type F80, type Format, INTEGER_BIT, KIND, kindOf, MAX_EXP, type Outcome, QUIET_BIT, roundInto, SINGLE, unitOf, zero } from './number.ts';

/** A single or double as it is; its denormals are noted, they are normal numbers in a register. */
export function widen(out: Outcome, format: Format, bits: bigint): F80 {
  const fraction = BigInt(format.precision - 1);
  const expBits = format === SINGLE ? 8n : 11n;
  const sign = Number(bits >> (fraction + expBits)) & 1;
  const exp = Number((bits >> fraction) & ((1n << expBits) - 1n));
  const rest = bits & ((1n << fraction) - 1n);
  const align = 63n - fraction;
  if (exp === (1 << Number(expBits)) - 1) return { sign, exp: MAX_EXP, sig: INTEGER_BIT | (rest << align) };
  if (exp === 0) {
    if (rest === 0n) return zero(sign);
    out.denormalSource = true;
    return exact(sign, rest, format.minExp - format.precision + 1);
  }
  return { sign, exp: exp - format.maxExp + BIAS, sig: INTEGER_BIT | (rest << align) };
}

/** A register number as single or double, noting what that costs. */
export function narrow(out: Outcome, format: Format, x: F80): bigint {
  const { precision, maxExp } = format;
  const fraction = BigInt(precision - 1);
  const expBits = format === SINGLE ? 8n : 11n;
  const special = ((1n << expBits) - 1n) << fraction;
  const sign = BigInt(x.sign) << (fraction + expBits);
  const kind = kindOf(x);
  if (kind === KIND.unsupported) {
    out.invalid();
    return (1n << (fraction + expBits)) | special | (1n << (fraction - 1n));
  }
  if (kind === KIND.zero) return sign;
  if (kind === KIND.infinite) return sign | special;
  if (kind >= KIND.qnan) {
    if (kind === KIND.snan) out.flags |= FLAG.IE;
    return sign | special | (((x.sig | QUIET_BIT) & (INTEGER_BIT - 1n)) >> (63n - fraction));
  }
  const rounded = roundInto(out, format, x.sign, x.sig, unitOf(x));
  if (rounded.sig === undefined) return sign | special;
  if (rounded.sig >> fraction === 0n) return sign | rounded.sig;
  return sign | (BigInt(rounded.exp + precision - 1 + maxExp) << fraction) | (rounded.sig & ((1n << fraction) - 1n));
}

/** A signed integer is exact in a register. */
export function fromInteger(value: bigint): F80 {
  return value < 0n ? exact(1, -value, 0) : exact(0, value, 0);
}

/** Anything beyond the format's range is invalid, and then nothing else. */
function wholeWithin(out: Outcome, x: F80, rounding: number, fits: (magnitude: bigint) => boolean): bigint | undefined {
  const before = out.flags;
  if (kindOf(x) < KIND.infinite && bitLength(x.sig) + unitOf(x) <= 70) {
    const whole = toWhole(out, x, rounding);
    if (fits(whole)) return whole;
  }
  out.flags = before | FLAG.IE;
  return undefined;
}

/** As a two's complement integer of `bits`, or the integer indefinite. */
export function toInteger(out: Outcome, x: F80, bits: number): bigint {
  const limit = 1n << BigInt(bits - 1);
  const whole = wholeWithin(out, x, out.rounding, (magnitude) => magnitude < limit || (magnitude === limit && x.sign === 1));
  if (whole === undefined) return limit;
  return BigInt.asUintN(bits, x.sign === 1 ? -whole : whole);
}

const DIGITS = 18;
const DECIMAL_LIMIT = 10n ** BigInt(DIGITS);
/** Packed decimal indefinite: SDM vol. 1, table 4-8. */
const DECIMAL_INDEFINITE = 0xffffc000000000000000n;
export function toDecimal(out: Outcome, x: F80): bigint {
  let whole = wholeWithin(out, x, out.rounding, (magnitude) => magnitude < DECIMAL_LIMIT);
  if (whole === undefined) return DECIMAL_INDEFINITE;
  let bits = BigInt(x.sign) << 79n;
  for (let digit = 0n; whole > 0n; digit++) {
    bits |= (whole % 10n) << (4n * digit);
    whole /= 10n;
  }
  return bits;
}
/** Digits above nine are undefined; here they count what they say. */
export function fromDecimal(bits: bigint): F80 {
  let value = 0n;
  for (let digit = DIGITS - 1; digit >= 0; digit--) value = value * 10n + ((bits >> BigInt(4 * digit)) & 0xfn);
  return exact(Number(bits >> 79n) & 1, value, 0);
}
