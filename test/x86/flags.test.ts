// Flag producers against plain arithmetic, and the short conditions against what defines them.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compileFlag } from '../../src/x86/evaluate-expr.ts';
import { conditionFrom, conditionOf, FLAG_BIT, FLAG_OPS, FLAG_ROWS, flagOpCode, flagOpOf, STATUS_FLAGS, type FlagRow } from '../../src/x86/flags.ts';
import type { Expr, StatusFlag, Width } from '../../src/x86/ir.ts';

type Flags = Readonly<Record<StatusFlag, number>>;
interface Made {
  readonly a: bigint;
  readonly b: bigint;
  readonly r: bigint;
  readonly flags: Flags;
}

const WIDTHS: readonly Width[] = [8, 16, 32, 64];
const bitOf = (value: bigint, at: number): number => Number((value >> BigInt(at)) & 1n);
const parity = (r: bigint): number => ([...(r & 0xffn).toString(2)].filter((digit) => digit === '1').length % 2 === 0 ? 1 : 0);

/** What an addition or subtraction of two values and a carry leaves, in unbounded integers. */
function sum(width: number, a: bigint, b: bigint, carry: bigint, sign: 1n | -1n): Made & { readonly wide: bigint } {
  const bits = BigInt(width);
  const wide = a + sign * (b + carry);
  const r = BigInt.asUintN(width, wide);
  const signed = BigInt.asIntN(width, a) + sign * (BigInt.asIntN(width, b) + carry);
  const nibbles = (a & 15n) + sign * ((b & 15n) + carry);
  return {
    a, b, r, wide,
    flags: {
      cf: wide < 0n || wide >= 1n << bits ? 1 : 0,
      af: nibbles < 0n || nibbles > 15n ? 1 : 0,
      of: signed < -(1n << (bits - 1n)) || signed >= 1n << (bits - 1n) ? 1 : 0,
      zf: r === 0n ? 1 : 0, sf: bitOf(r, width - 1), pf: parity(r),
    },
  };
}

/** By producer: what its instruction leaves behind, given two values and the carry before. */
const MODELS: Readonly<Record<string, (width: number, a: bigint, b: bigint, carry: bigint) => Made>> = {
  explicit: (width, a) => {
    const r = BigInt.asUintN(width, a & 0x8d5n);
    return { a: 0n, b: 0n, r, flags: Object.fromEntries(STATUS_FLAGS.map((name) => [name, bitOf(r, FLAG_BIT[name])])) as Flags };
  },
  add: (width, a, b) => sum(width, a, b, 0n, 1n),
  adc: (width, a, b, carry) => sum(width, a, b, carry, 1n),
  sub: (width, a, b) => sum(width, a, b, 0n, -1n),
  sbb: (width, a, b, carry) => sum(width, a, b, carry, -1n),
  logic: (width, a, b) => {
    const r = a & b;
    return { a, b, r, flags: { cf: 0, af: 0, of: 0, zf: r === 0n ? 1 : 0, sf: bitOf(r, width - 1), pf: parity(r) } };
  },
  inc: (width, a, _b, carry) => {
    const made = sum(width, a, 1n, 0n, 1n);
    return { ...made, b: carry, flags: { ...made.flags, cf: Number(carry) } };
  },
  dec: (width, a, _b, carry) => {
    const made = sum(width, a, 1n, 0n, -1n);
    return { ...made, b: carry, flags: { ...made.flags, cf: Number(carry) } };
  },
  imul: (width, a, b) => {
    const signed = (value: bigint): bigint => BigInt.asIntN(width, value);
    const r = BigInt.asUintN(width, a * b);
    const overflow = signed(a) * signed(b) === signed(r) ? 0 : 1;
    return { a, b, r, flags: { cf: overflow, of: overflow, af: 0, zf: r === 0n ? 1 : 0, sf: bitOf(r, width - 1), pf: parity(r) } };
  },
  given: (width, a, b, carry) => ({ a: carry, b: b & 1n, r: a, flags: { cf: Number(carry), of: bitOf(b, 0), af: 0, zf: a === 0n ? 1 : 0, sf: bitOf(a, width - 1), pf: parity(a) } }),
};

/** Values near the places where carries and signs change. */
const value = (width: number): fc.Arbitrary<bigint> => {
  const top = 1n << BigInt(width);
  return fc.oneof(fc.bigInt(0n, top - 1n), fc.constantFrom(0n, 1n, 15n, 16n, top / 2n - 1n, top / 2n, top / 2n + 1n, top - 2n, top - 1n));
};
const run = (compiled: ReturnType<typeof compileFlag>, { a, b, r }: Made): number => {
  const low = (value: bigint): number => Number(BigInt.asUintN(32, value));
  return compiled(low(a), low(b), low(r), low(a >> 32n), low(b >> 32n), low(r >> 32n));
};

describe.each(FLAG_OPS.map((op) => [op] as const))('after %s', (op) => {
  const row = FLAG_ROWS[op] as FlagRow;
  const model = MODELS[op];
  test.each(WIDTHS.filter((width) => op !== 'explicit' || width === 32))('all six flags are those of %i-bit arithmetic', (width) => {
    expect(model, `producer ${op} has no model here`).toBeDefined();
    const compiled = STATUS_FLAGS.map((name) => compileFlag(row[name], width));
    const conditions = Array.from({ length: 16 }, (_, cc) => [
      compileFlag((a, b, r) => conditionFrom(op, cc, a, b, r), width),
      compileFlag((a, b, r) => conditionOf(cc, (name): Expr => row[name](a, b, r)), width),
    ] as const);
    fc.assert(
      fc.property(value(width), value(width), fc.constantFrom(0n, 1n), (a, b, carry) => {
        const made = (model as (typeof MODELS)[string])(width, a, b, carry);
        expect(Object.fromEntries(STATUS_FLAGS.map((name, i) => [name, run(compiled[i] as (typeof compiled)[number], made)]))).toEqual(made.flags);
        for (const [short, defined] of conditions) expect(run(short, made)).toBe(run(defined, made));
      }),
      { seed: 20240101 + width, numRuns: 150 },
    );
  });
});

test('the number of a producer names it again', () => {
  for (const op of FLAG_OPS) for (const width of WIDTHS) expect(flagOpOf(flagOpCode(op, width))).toEqual({ op, width });
});
