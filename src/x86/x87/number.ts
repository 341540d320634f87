// Double extended numbers, their classes, and the one place where a result is rounded.
// A number's bits are kept apart: value = sig * 2^(max(exp, 1) - 16383 - 63), SDM vol. 1, 4.2.2 and 8.2.
// An exact result is a whole number times a power of two; what is cut off beyond its last bit has been
// folded into that bit (sticky), which is enough as long as two bits more than the precision are kept.

export interface F80 {
  readonly sign: number;
  /** Biased, 0 to 0x7fff. */
  readonly exp: number;
  /** 64 bits, the integer bit among them. */
  readonly sig: bigint;
}

/** Exception flags of the status word, and C1, at their places. */
export const FLAG = { IE: 1, DE: 2, ZE: 4, OE: 8, UE: 0x10, PE: 0x20, SF: 0x40, ES: 0x80, C0: 0x100, C1: 0x200, C2: 0x400, C3: 0x4000, B: 0x8000 } as const;
/** Found before the operation: unmasked, they leave the destination alone. */
export const PRE_FLAGS = FLAG.IE | FLAG.DE | FLAG.ZE;

/** In an order such that `>= qnan` is what arithmetic cannot take as a number. Pseudo-denormals are denormals. */
export const KIND = { zero: 0, denormal: 1, normal: 2, infinite: 3, qnan: 4, snan: 5, unsupported: 6 } as const;
export const INTEGER_BIT = 1n << 63n;
export const QUIET_BIT = 1n << 62n;
export const MAX_EXP = 0x7fff;
export const BIAS = 16383;
/** Added to or taken from the exponent of a result that over- or underflowed unmasked. */
const WRAP = 24576;

export function kindOf({ exp, sig }: F80): number {
  if (exp === 0) return sig === 0n ? KIND.zero : KIND.denormal;
  if (sig < INTEGER_BIT) return KIND.unsupported;
  if (exp !== MAX_EXP) return KIND.normal;
  if (sig === INTEGER_BIT) return KIND.infinite;
  return (sig & QUIET_BIT) !== 0n ? KIND.qnan : KIND.snan;
}

export const zero = (sign: number): F80 => ({ sign, exp: 0, sig: 0n });
export const infinity = (sign: number): F80 => ({ sign, exp: MAX_EXP, sig: INTEGER_BIT });
export const INDEFINITE: F80 = { sign: 1, exp: MAX_EXP, sig: INTEGER_BIT | QUIET_BIT };
export const quiet = (x: F80): F80 => ({ sign: x.sign, exp: x.exp, sig: x.sig | QUIET_BIT });
export const withSign = (x: F80, sign: number): F80 => ({ sign, exp: x.exp, sig: x.sig });

export function bitLength(x: bigint): number {
  let length = 0;
  let rest = x;
  while (rest >> 64n !== 0n) {
    rest >>= 64n;
    length += 64;
  }
  const high = Number(rest >> 32n);
  return length + (high !== 0 ? 64 - Math.clz32(high) : 32 - Math.clz32(Number(rest)));
}

/** What one instruction finds out on its way: the control word it runs under, the flags it raises. */
export class Outcome {
  readonly control: number;
  flags = 0;
  /** A memory operand was a denormal of its own format. */
  denormalSource = false;

  constructor(control: number) {
    this.control = control;
  }
  masked(flag: number): boolean {
    return (this.control & flag) !== 0;
  }
  /** Precision of add, subtract, multiply, divide and square root. The reserved setting 1 acts as 64 bits. */
  get precision(): number {
    const field = (this.control >> 8) & 3;
    return field === 0 ? 24 : field === 2 ? 53 : 64;
  }
  get rounding(): number {
    return (this.control >> 10) & 3;
  }
  invalid(): F80 {
    this.flags |= FLAG.IE;
    return INDEFINITE;
  }
  /** Notes a denormal among operands of these kinds. */
  denormal(a: number, b: number = KIND.zero): void {
    if (a === KIND.denormal || b === KIND.denormal || this.denormalSource) this.flags |= FLAG.DE;
  }
}

/** Would `rest` of 2^`bits` be rounded up in magnitude? Rounding control: nearest even, down, up, chop. */
export function roundsUp(rounding: number, sign: number, odd: boolean, rest: bigint, bits: bigint): boolean {
  if (rest === 0n || rounding === 3) return false;
  if (rounding === 1) return sign === 1;
  if (rounding === 2) return sign === 0;
  const half = 1n << (bits - 1n);
  return rest > half || (rest === half && odd);
}

/** sig / 2^shift rounded to a whole number; [whole, went up, was inexact]. */
function cut(sig: bigint, shift: number, sign: number, rounding: number): readonly [bigint, boolean, boolean] {
  if (shift <= 0) return [sig << BigInt(-shift), false, false];
  const bits = BigInt(shift);
  const whole = sig >> bits;
  const rest = sig - (whole << bits);
  if (rest === 0n) return [whole, false, false];
  const up = roundsUp(rounding, sign, (whole & 1n) !== 0n, rest, bits);
  return [up ? whole + 1n : whole, up, true];
}

/** A binary format: significand bits, least and greatest exponent of a normal number (unbiased). */
export interface Format {
  readonly precision: number;
  readonly minExp: number;
  readonly maxExp: number;
  /** Exponent adjustment of unmasked over- and underflow; without: such a result is not stored. */
  readonly wrap?: number;
}
export const EXTENDED: Readonly<Record<number, Format>> = Object.fromEntries([24, 53, 64].map((precision) => [precision, { precision, minExp: 1 - BIAS, maxExp: BIAS, wrap: WRAP }]));
export const SINGLE: Format = { precision: 24, minExp: -126, maxExp: 127 };
export const DOUBLE: Format = { precision: 53, minExp: -1022, maxExp: 1023 };

/** A rounded magnitude: sig * 2^exp with sig of at most `precision` bits; sig undefined: infinite. */
export interface Rounded {
  readonly sig: bigint | undefined;
  readonly exp: number;
}

/** Rounds sig * 2^exp (sig > 0) into a format, raising OE, UE, PE and C1. SDM vol. 1, 4.9.1.4 to 4.9.1.6. */
export function roundInto(out: Outcome, format: Format, sign: number, sig: bigint, exp: number): Rounded {
  const { precision, minExp, maxExp, wrap } = format;
  const { rounding } = out;
  const length = bitLength(sig);
  const shift = length - precision;
  let at = exp + shift;
  let [whole, up, inexact] = cut(sig, shift, sign, rounding);
  // The carry into a new bit.
  const carried = whole >> BigInt(precision) !== 0n;
  let top = exp + length - 1 + (carried ? 1 : 0);
  if (carried) {
    whole >>= 1n;
    at++;
  }
  if (top < minExp) {
    if (!out.masked(FLAG.UE)) {
      out.flags |= FLAG.UE;
      if (wrap !== undefined) {
        at += wrap;
        // A scaled result may be too small even so.
        if (top + wrap < minExp) {
          out.flags |= FLAG.PE;
          return { sig: 0n, exp: at };
        }
      }
    } else {
      at = minExp - precision + 1;
      [whole, up, inexact] = cut(sig, at - exp, sign, rounding);
      if (inexact) out.flags |= FLAG.UE;
    }
  } else if (top > maxExp) {
    out.flags |= FLAG.OE;
    if (!out.masked(FLAG.OE)) {
      if (wrap !== undefined) at -= wrap;
      top -= wrap ?? 0;
      if (top > maxExp) {
        if (wrap !== undefined) out.flags |= FLAG.PE | FLAG.C1;
        return { sig: undefined, exp: 0 };
      }
    } else {
      out.flags |= FLAG.PE;
      const away = rounding === 0 || (rounding === 1 && sign === 1) || (rounding === 2 && sign === 0);
      if (!away) return { sig: (1n << BigInt(precision)) - 1n, exp: maxExp - precision + 1 };
      out.flags |= FLAG.C1;
      return { sig: undefined, exp: 0 };
    }
  }
  if (inexact) out.flags |= up ? FLAG.PE | FLAG.C1 : FLAG.PE;
  return { sig: whole, exp: at };
}

/** Rounds to a register's number. */
export function pack(out: Outcome, sign: number, sig: bigint, exp: number, precision = 64): F80 {
  if (sig === 0n) return zero(sign);
  const rounded = roundInto(out, EXTENDED[precision] as Format, sign, sig, exp);
  if (rounded.sig === undefined) return infinity(sign);
  return exact(sign, rounded.sig, rounded.exp);
}
/** A number that is known to fit. */
export function exact(sign: number, sig: bigint, exp: number): F80 {
  if (sig === 0n) return zero(sign);
  const length = bitLength(sig);
  const biased = exp + length - 1 + BIAS;
  if (biased < 1) return { sign, exp: 0, sig: shiftLeft(sig, exp + BIAS + 62) };
  return { sign, exp: biased, sig: shiftLeft(sig, 64 - length) };
}
const shiftLeft = (sig: bigint, by: number): bigint => (by >= 0 ? sig << BigInt(by) : sig >> BigInt(-by));

/** Exponent of the last bit of a finite number: value = sig * 2^unit. */
export const unitOf = (x: F80): number => (x.exp === 0 ? 1 : x.exp) - BIAS - 63;

/** sig >> by with what is lost folded into the last bit. */
export function shiftSticky(sig: bigint, by: number): bigint {
  if (by <= 0) return sig << BigInt(-by);
  const whole = sig >> BigInt(by);
  return whole << BigInt(by) === sig ? whole : whole | 1n;
}

/** The NaN that comes of operands of which one is not a number: SDM vol. 1, table 4-7, the rules of the x87. */
export function propagate(out: Outcome, a: F80, b: F80): F80 {
  const ka = kindOf(a);
  const kb = kindOf(b);
  if (ka === KIND.unsupported || kb === KIND.unsupported) return out.invalid();
  if (ka === KIND.snan || kb === KIND.snan) out.flags |= FLAG.IE;
  if (ka < KIND.qnan) return quiet(b);
  if (kb < KIND.qnan) return quiet(a);
  if (ka !== kb) return ka === KIND.qnan ? a : b;
  if (a.sig !== b.sig) return quiet(a.sig > b.sig ? a : b);
  return quiet(a.sign === 0 ? a : b);
}
