// Singles and doubles of SSE as images and as exact numbers, and the one place where a result is rounded.
// An exact result is a whole number times a power of two, as in ../x87/number.ts, whose rounding is used.
// Sources: SDM vol. 1, chapters 4 and 11.
import { bitLength, DOUBLE, FLAG, type Format, KIND, Outcome, roundInto, SINGLE } from '../x87/number.ts';
import type { FloatFormat } from '../ir.ts';

/** MXCSR: flags in bits 0 to 5, DAZ, masks in 7 to 12, rounding, FTZ. */
export const MXCSR = { flags: 0x3f, DAZ: 0x40, maskShift: 7, roundingShift: 13, FTZ: 0x8000 } as const;

/** What one lane finds out on its way. */
export class LaneOutcome extends Outcome {
  readonly daz: boolean;
  readonly ftz: boolean;

  constructor(mxcsr: number) {
    // The masks and rounding of an x87 control word.
    super(((mxcsr >> MXCSR.maskShift) & MXCSR.flags) | (((mxcsr >> MXCSR.roundingShift) & 3) << 10));
    this.daz = (mxcsr & MXCSR.DAZ) !== 0;
    this.ftz = (mxcsr & MXCSR.FTZ) !== 0;
  }
}

export interface Layout {
  readonly format: Format;
  readonly bits: 32 | 64;
  readonly fraction: bigint;
  readonly expMask: bigint;
  /** The default NaN: negative, quiet, nothing else. */
  readonly indefinite: bigint;
  readonly quietBit: bigint;
}
const layout = (format: Format, bits: 32 | 64): Layout => {
  const fraction = BigInt(format.precision - 1);
  const expMask = (1n << BigInt(bits - format.precision)) - 1n;
  const quietBit = 1n << (fraction - 1n);
  return { format, bits, fraction, expMask, quietBit, indefinite: (1n << BigInt(bits - 1)) | (expMask << fraction) | quietBit };
};
export const LAYOUT: Readonly<Record<FloatFormat, Layout>> = { f32: layout(SINGLE, 32), f64: layout(DOUBLE, 64) };

/** value = sig * 2^exp; a NaN is its image. */
export interface Lane {
  readonly image: bigint;
  readonly sign: number;
  readonly kind: number;
  readonly sig: bigint;
  readonly exp: number;
}

/** Under DAZ a denormal is a zero of its sign. */
export function unpack(out: LaneOutcome, of: Layout, image: bigint): Lane {
  const { format, fraction, expMask, quietBit } = of;
  const sign = Number(image >> BigInt(of.bits - 1));
  const exp = (image >> fraction) & expMask;
  const rest = image & ((1n << fraction) - 1n);
  const least = format.minExp - format.precision + 1;
  if (exp === expMask) return { image, sign, kind: rest === 0n ? KIND.infinite : (rest & quietBit) !== 0n ? KIND.qnan : KIND.snan, sig: 0n, exp: 0 };
  if (exp !== 0n) return { image, sign, kind: KIND.normal, sig: rest | (1n << fraction), exp: Number(exp) - 1 + least };
  if (rest === 0n || out.daz) return { image: BigInt(sign) << BigInt(of.bits - 1), sign, kind: KIND.zero, sig: 0n, exp: least };
  return { image, sign, kind: KIND.denormal, sig: rest, exp: least };
}

export const zeroOf = (of: Layout, sign: number): bigint => BigInt(sign) << BigInt(of.bits - 1);
export const infinityOf = (of: Layout, sign: number): bigint => zeroOf(of, sign) | (of.expMask << of.fraction);

/** Rounds sig * 2^exp (sig > 0). */
export function pack(out: LaneOutcome, of: Layout, sign: number, sig: bigint, exp: number): bigint {
  const { format, fraction } = of;
  const before = out.flags;
  const rounded = roundInto(out, format, sign, sig, exp);
  if (rounded.sig === undefined) {
    // An unmasked overflow is inexact only if the rounding was.
    if (!out.masked(FLAG.OE)) out.flags |= unbounded(out, format, sign, sig, exp).flags;
    return infinityOf(of, sign);
  }
  // Too small, even if it is rounded up to the least normal number; exact ones too.
  if (out.ftz && out.masked(FLAG.UE) && exp + bitLength(sig) - 1 < format.minExp && unbounded(out, format, sign, sig, exp).top < format.minExp) {
    out.flags = before | FLAG.UE | FLAG.PE;
    return zeroOf(of, sign);
  }
  if (rounded.sig >> fraction === 0n) return zeroOf(of, sign) | rounded.sig;
  const length = bitLength(rounded.sig);
  const field = BigInt(rounded.exp + length - 1 + format.maxExp);
  return zeroOf(of, sign) | (field << fraction) | ((rounded.sig << (fraction + 1n - BigInt(length))) & ((1n << fraction) - 1n));
}

/** As if exponents had no end: the exponent of the result's first bit, and whether it is inexact. */
function unbounded(out: LaneOutcome, format: Format, sign: number, sig: bigint, exp: number): { readonly top: number; readonly flags: number } {
  const trial = new Outcome(out.control);
  const rounded = roundInto(trial, { precision: format.precision, minExp: -0x8000, maxExp: 0x8000 }, sign, sig, exp);
  return { top: rounded.exp + bitLength(rounded.sig as bigint) - 1, flags: trial.flags & FLAG.PE };
}

/** The NaN that comes of operands of which one is a NaN: the first that is one. SDM vol. 1, table 4-7. */
export function propagate(out: LaneOutcome, of: Layout, a: Lane, b: Lane): bigint {
  if (a.kind === KIND.snan || b.kind === KIND.snan) out.flags |= FLAG.IE;
  return (a.kind >= KIND.qnan ? a : b).image | of.quietBit;
}
export function invalid(out: LaneOutcome, of: Layout): bigint {
  out.flags |= FLAG.IE;
  return of.indefinite;
}
