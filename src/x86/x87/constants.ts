// The seven constants of FLD1 to FLDZ, as 66 bits of their significand and what rounding makes of them.
// SDM vol. 1, 8.3.8: they are rounded to 64 bits by the rounding control. Each is worked out from its
// series once, to 160 bits and more.
import { exact, type F80, Outcome, pack, zero } from './number.ts';
import { ln2, log2OfTen, PI_BITS, pi } from './series.ts';

const BITS = 160n;
/** Fractions of 2^-160, rounded down and odd: none of these is a number of 64 bits. */
const VALUES: Readonly<Record<string, () => bigint>> = {
  Fldpi: () => pi() >> (PI_BITS - BITS),
  Fldl2e: () => (1n << (2n * BITS)) / ln2(BITS),
  Fldln2: () => ln2(BITS),
  Fldl2t: () => log2OfTen(BITS),
  Fldlg2: () => (1n << (2n * BITS)) / log2OfTen(BITS),
};
const known = new Map<string, bigint>();

export const CONSTANT_NAMES = ['Fld1', 'Fldz', ...Object.keys(VALUES)];
export function constantFor(name: string, control: number): F80 {
  if (name === 'Fldz') return zero(0);
  if (name === 'Fld1') return exact(0, 1n, 0);
  let value = known.get(name);
  if (value === undefined) {
    value = (VALUES[name] as () => bigint)() | 1n;
    known.set(name, value);
  }
  // Loading a constant is never inexact: the flags are dropped.
  return pack(new Outcome(control), 0, value, -Number(BITS));
}
