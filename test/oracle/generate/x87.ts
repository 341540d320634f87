// The x87: each case puts a whole state into place (FRSTOR), does one thing, and takes the state out
// again over the same bytes (FNSAVE), so that the outcome's memory names what changed.
import { DATA, READ_ONLY, UNMAPPED } from '../environment.ts';
import type { Draft, Maker } from './maker.ts';
import type { Rng } from '../environment.ts';

export const X87_IMAGE = DATA + 0x100;
export const X87_IMAGE_BYTES = 108;
const OPERAND = DATA + 0x200;
const REGISTERS = 28;
const MAX_EXP = 0x7fff;
const BIAS = 16383;
const TOP_BIT = 1n << 63n;

const absolute = (opcode: number, digit: number, vaddr: number): number[] => [opcode, (digit << 3) | 5, vaddr & 0xff, (vaddr >>> 8) & 0xff, (vaddr >>> 16) & 0xff, 0];
/** FNINIT first: an exception that the case before left behind would come out at FRSTOR. */
export const FRSTOR = [0xdb, 0xe3, ...absolute(0xdd, 4, X87_IMAGE)];
export const FNSAVE = absolute(0xdd, 6, X87_IMAGE);

// -- numbers ---------------------------------------------------------------------------------------

type Image = bigint;
const image = (sign: number, exp: number, sig: bigint): Image => (BigInt((sign << 15) | exp) << 64n) | sig;
const noise64 = (rng: Rng): bigint => (BigInt(rng.u32()) << 32n) | BigInt(rng.u32());
/** Significands at which rounding to 24, 53 and 64 bits turns. */
const SIGNIFICANDS = [
  TOP_BIT, TOP_BIT + 1n, (1n << 64n) - 1n, TOP_BIT | (1n << 39n), TOP_BIT | (1n << 10n), TOP_BIT | (1n << 62n), TOP_BIT | (3n << 39n), TOP_BIT | (3n << 10n),
  0xffffff8000000000n, 0xfffffffffffffc00n, 0xffffff0000000000n, 0xfffffffffffff800n, TOP_BIT | (1n << 40n), TOP_BIT | (1n << 11n), TOP_BIT | 0x7fn << 39n,
];
const significand = (rng: Rng): bigint => (rng.chance(2) ? rng.pick(SIGNIFICANDS) : rng.chance(2) ? (noise64(rng) << 40n) % (1n << 64n) | TOP_BIT : noise64(rng) | TOP_BIT);
function special(rng: Rng): Image {
  const sign = rng.below(2);
  const low = rng.chance(2) ? noise64(rng) >> 2n : BigInt(rng.below(4));
  switch (rng.below(11)) {
    case 0: case 1: return image(sign, 0, 0n);
    case 2: return image(sign, MAX_EXP, TOP_BIT);
    case 3: return image(sign, MAX_EXP, TOP_BIT | (1n << 62n) | low);
    case 4: return image(sign, MAX_EXP, TOP_BIT | (low === 0n ? 1n : low)); // signalling
    case 5: return image(sign, 0, low === 0n ? 1n : low); // denormal
    case 6: return image(sign, 0, TOP_BIT | low); // pseudo-denormal
    case 7: return image(sign, 1 + rng.below(0x7ffe), noise64(rng) >> 1n); // unnormal
    case 8: return image(sign, MAX_EXP, noise64(rng) >> 1n); // pseudo-NaN
    case 9: return image(sign, MAX_EXP - 1, (1n << 64n) - 1n);
    default: return image(sign, 1, TOP_BIT | low);
  }
}
/** Around 1, whole and half numbers, the ends of the ranges of all formats. */
const EXPONENTS = [BIAS, BIAS - 1, BIAS + 1, BIAS + 5, BIAS + 15, BIAS + 31, BIAS + 62, BIAS + 63, BIAS + 64, BIAS - 63, BIAS - 126, BIAS - 127, BIAS - 149, BIAS - 150, BIAS + 127, BIAS + 128, BIAS - 1022, BIAS - 1023, BIAS - 1074, BIAS - 1075, BIAS + 1023, BIAS + 1024, 1, 2, 60, 64, MAX_EXP - 1, MAX_EXP - 2, MAX_EXP - 40];
function ordinary(rng: Rng): Image {
  const fate = rng.below(4);
  if (fate === 0) { // whole and half numbers
    const n = BigInt(rng.below(rng.chance(2) ? 64 : 0x7fffffff)) * 2n + BigInt(rng.below(2));
    if (n === 0n) return 0n;
    const length = n.toString(2).length;
    return image(rng.below(2), BIAS + length - 2, n << BigInt(64 - length));
  }
  return image(rng.below(2), fate === 1 ? rng.pick(EXPONENTS) : fate === 2 ? BIAS - 20 + rng.below(100) : 1 + rng.below(0x7ffe), significand(rng));
}
const number = (rng: Rng): Image => (rng.chance(3) ? special(rng) : ordinary(rng));
/** A number not far from another's size, so that they meet. */
const near = (rng: Rng, other: Image): Image => {
  const exp = Number((other >> 64n) & 0x7fffn);
  if (exp === 0 || exp === MAX_EXP || rng.chance(2)) return number(rng);
  const at = exp + rng.below(140) - 70;
  return image(rng.below(2), Math.min(Math.max(at, 1), MAX_EXP - 1), rng.chance(6) ? BigInt.asUintN(64, other) : significand(rng));
};
const bytesOf = (value: bigint, size: number): Uint8Array => Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));

function single(rng: Rng): bigint {
  const exp = rng.pick([0, 1, 127, 126, 128, 150, 254, 255, rng.below(256)]);
  return (BigInt(rng.below(2)) << 31n) | (BigInt(exp) << 23n) | BigInt(rng.pick([0, 1, 0x400000, 0x400001, 0x7fffff, rng.below(0x800000)]));
}
function double(rng: Rng): bigint {
  const exp = rng.pick([0, 1, 1023, 1022, 1024, 1075, 2046, 2047, rng.below(2048)]);
  return (BigInt(rng.below(2)) << 63n) | (BigInt(exp) << 52n) | rng.pick([0n, 1n, 1n << 51n, (1n << 51n) + 1n, (1n << 52n) - 1n, noise64(rng) >> 12n]);
}
const whole = (bits: bigint) => (rng: Rng): bigint => BigInt.asUintN(Number(bits), rng.pick([0n, 1n, -1n, 1n << (bits - 1n), (1n << (bits - 1n)) - 1n, 100n, noise64(rng)]));
const decimal = (rng: Rng): bigint => {
  let bits = BigInt(rng.below(2)) << 79n;
  const digits = rng.below(19);
  for (let i = 0; i < digits; i++) bits |= BigInt(rng.below(10)) << BigInt(4 * i);
  return bits;
};

// -- states ----------------------------------------------------------------------------------------

interface Shape {
  /** ST(0) and on; the rest is empty, or zero and full. */
  readonly registers: readonly Image[];
  readonly control: number;
  readonly status: number;
  readonly tag: number;
}
function stateBytes({ registers, control, status, tag }: Shape): Uint8Array {
  const bytes = new Uint8Array(X87_IMAGE_BYTES);
  const view = new DataView(bytes.buffer);
  [control, status, tag].forEach((word, i) => view.setUint32(4 * i, (word | 0xffff0000) >>> 0, true));
  view.setUint32(24, 0xffff0000, true);
  registers.forEach((value, i) => bytes.set(bytesOf(value, 10), REGISTERS + 10 * i));
  return bytes;
}
/** Mostly everything masked, mostly two or three registers full. */
function shape(rng: Rng, registers: readonly Image[], stacky: boolean): Shape {
  const masks = rng.chance(4) ? rng.u32() & 0x3f : 0x3f;
  const control = 0x40 | masks | (rng.pick([3, 3, 2, 0]) << 8) | (rng.below(4) << 10);
  const top = rng.chance(3) ? rng.below(8) : 0;
  let full = 0;
  const wild = stacky && rng.chance(3);
  registers.forEach((_, i) => { if (!wild || rng.chance(2)) full |= 1 << ((top + i) & 7); });
  if (stacky && rng.chance(8)) full = 0xff;
  let tag = 0;
  for (let i = 0; i < 8; i++) if ((full & (1 << i)) === 0) tag |= 3 << (2 * i);
  const sticky = rng.chance(4) ? rng.u32() & masks : 0;
  return { registers, control, status: (top << 11) | (rng.u32() & 0x4700) | sticky, tag };
}

interface X87Form {
  readonly code: readonly number[];
  /** The memory operand's size and how it is filled. */
  readonly memory?: { readonly bytes: number; readonly draw: (rng: Rng) => bigint };
  readonly draw?: (rng: Rng) => readonly Image[];
  readonly times: number;
}
const pair = (rng: Rng): readonly Image[] => {
  const first = number(rng);
  const second = near(rng, first);
  return rng.chance(2) ? [first, second] : [second, first];
};

function emit(maker: Maker, form: X87Form): void {
  for (let n = 0; n < form.times; n++) {
    maker.plain([...FRSTOR, ...form.code, ...FNSAVE], (draft) => prepare(draft, maker.rng, form));
  }
}
function prepare(draft: Draft, rng: Rng, form: X87Form): void {
  const state = shape(rng, (form.draw ?? pair)(rng), true);
  draft.pokeBytes(X87_IMAGE, stateBytes(state));
  if (form.memory !== undefined) draft.pokeBytes(OPERAND, bytesOf(form.memory.draw(rng), form.memory.bytes));
}
const onMemory = (opcode: number, digit: number, bytes: number, draw: (rng: Rng) => bigint, times: number): X87Form => ({ code: absolute(opcode, digit, OPERAND), memory: { bytes, draw }, times });
const onStack = (code: readonly number[], times: number): X87Form => ({ code, times });

/** Stores want what is representable and what just is not. */
const storing = (form: X87Form): X87Form => ({ ...form, draw: (rng) => [number(rng), number(rng)] });

// -- groups ----------------------------------------------------------------------------------------

const arithmeticForms: readonly X87Form[] = [0, 1, 4, 5, 6, 7].flatMap((digit) => [
  onStack([0xd8, 0xc1 | (digit << 3)], 130),
  onStack([0xdc, 0xc1 | (digit << 3)], 20),
  onStack([0xde, 0xc1 | (digit << 3)], 30),
  onMemory(0xd8, digit, 4, single, 35),
  onMemory(0xdc, digit, 8, double, 35),
  onMemory(0xda, digit, 4, whole(32n), 18),
  onMemory(0xde, digit, 2, whole(16n), 18),
]);
/** Add, subtract, multiply, divide in every form. */
export const x87Arithmetic = (maker: Maker): void => arithmeticForms.forEach((form) => emit(maker, form));

const remainders = (rng: Rng): readonly Image[] => {
  const [a = 0n, b = 0n] = pair(rng);
  return rng.chance(2) ? [a, b] : [image(rng.below(2), BIAS + rng.below(64), significand(rng)), image(rng.below(2), BIAS + rng.below(8), significand(rng))];
};
const scaling = (rng: Rng): readonly Image[] => {
  const n = BigInt(1 + rng.below(rng.pick([8, 200, 0x8000, 0x7fffffff])));
  const length = n.toString(2).length;
  return [number(rng), rng.chance(3) ? number(rng) : image(rng.below(2), BIAS + length - 1 - rng.below(2), n << BigInt(64 - length))];
};
/** One or two registers into one: roots, rounding, scaling, remainders, signs. */
export const x87Functions = (maker: Maker): void => {
  for (const form of [
    onStack([0xd9, 0xfa], 150), onStack([0xd9, 0xfc], 150), { ...onStack([0xd9, 0xfd], 260), draw: scaling }, onStack([0xd9, 0xf4], 120),
    { ...onStack([0xd9, 0xf8], 220), draw: remainders }, { ...onStack([0xd9, 0xf5], 220), draw: remainders }, onStack([0xd9, 0xe0], 30), onStack([0xd9, 0xe1], 30),
  ]) emit(maker, form);
};

/** Loads, stores and constants. */
export const x87Moves = (maker: Maker): void => {
  const constants = [0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee].map((code) => onStack([0xd9, code], 25));
  for (const form of [
    ...constants,
    onMemory(0xd9, 0, 4, single, 80), onMemory(0xdd, 0, 8, double, 80), onMemory(0xdb, 5, 10, number, 60), onStack([0xd9, 0xc1], 40), onStack([0xd9, 0xc7], 20),
    onMemory(0xdf, 0, 2, whole(16n), 25), onMemory(0xdb, 0, 4, whole(32n), 25), onMemory(0xdf, 5, 8, whole(64n), 40), onMemory(0xdf, 4, 10, decimal, 60),
    ...([[0xd9, 2, 4], [0xd9, 3, 4], [0xdd, 2, 8], [0xdd, 3, 8], [0xdb, 7, 10], [0xdf, 2, 2], [0xdf, 3, 2], [0xdb, 2, 4], [0xdb, 3, 4], [0xdf, 7, 8], [0xdf, 6, 10]] as const)
      .map(([opcode, digit, bytes]) => storing(onMemory(opcode, digit, bytes, noise64, 85))),
    onStack([0xdd, 0xd1], 20), onStack([0xdd, 0xd9], 25), onStack([0xd9, 0xd9], 20), onStack([0xdf, 0xd1], 10), onStack([0xdf, 0xd9], 10), onStack([0xdd, 0xd8], 10),
  ]) emit(maker, form);
};

/** Comparisons, conditional moves, and what only moves the stack. */
export const x87Compares = (maker: Maker): void => {
  const codes: readonly (readonly number[])[] = [
    [0xd8, 0xd1], [0xd8, 0xd9], [0xdc, 0xd1], [0xdc, 0xd9], [0xde, 0xd1], [0xde, 0xd9], [0xdd, 0xe1], [0xdd, 0xe9], [0xda, 0xe9], [0xdb, 0xf1], [0xdf, 0xf1], [0xdb, 0xe9], [0xdf, 0xe9], [0xd9, 0xe4], [0xd9, 0xe5],
  ];
  for (const code of codes) emit(maker, onStack(code, 55));
  for (const digit of [2, 3]) {
    for (const form of [onMemory(0xd8, digit, 4, single, 35), onMemory(0xdc, digit, 8, double, 35), onMemory(0xda, digit, 4, whole(32n), 15), onMemory(0xde, digit, 2, whole(16n), 15)]) emit(maker, form);
  }
  for (let digit = 0; digit < 4; digit++) for (const opcode of [0xda, 0xdb]) emit(maker, onStack([opcode, 0xc1 | (digit << 3)], 20));
  for (const code of [[0xd9, 0xc9], [0xdd, 0xc9], [0xdf, 0xc9], [0xdd, 0xc1], [0xdf, 0xc1], [0xd9, 0xf6], [0xd9, 0xf7], [0xd9, 0xd0]]) emit(maker, onStack(code, 15));
};

/** Control: whole states in odd shapes, words, environments of both sizes, exceptions left behind. */
export const x87Control = (maker: Maker): void => {
  const { rng } = maker;
  const wild = (): Shape => ({ registers: Array.from({ length: 8 }, () => (rng.chance(3) ? number(rng) : 0n)), control: rng.u32() & 0xffff, status: rng.u32() & 0xffff, tag: rng.u32() & 0xffff });
  /** No exception left behind. */
  const calm = (): Shape => ({ ...wild(), control: rng.u32() & 0xffff | 0x3f });
  const word = 0x20220;
  const codes: readonly (readonly number[])[] = [
    [], [0xdb, 0xe2], [0xdb, 0xe3], [0xdf, 0xe0], absolute(0xdd, 7, word), absolute(0xd9, 7, word), absolute(0xd9, 5, word), absolute(0xd9, 6, word), absolute(0xd9, 4, OPERAND),
    [0x66, ...absolute(0xd9, 6, word)], [0x66, ...absolute(0xd9, 4, OPERAND)], [0x66, ...absolute(0xdd, 6, word)], [0x66, ...absolute(0xdd, 4, OPERAND)], [0x9b], [0xd9, 0xd0], [0xd9, 0xc9], [0xdb, 0xe0], [0xdb, 0xe1], [0xdb, 0xe4],
  ];
  for (const code of codes) {
    for (let n = 0; n < 14; n++) {
      maker.plain([...FRSTOR, ...code, ...FNSAVE], (draft) => {
        draft.pokeBytes(X87_IMAGE, stateBytes(rng.chance(3) ? wild() : calm()));
        const operand = stateBytes(rng.chance(3) ? wild() : calm());
        if (code.length > 2) draft.pokeBytes(OPERAND, operand);
      });
    }
  }
};

/** Operands where nothing is mapped, across the ends of pages, and unaligned while that is checked (AC). */
export const x87Faults = (maker: Maker): void => {
  const { rng } = maker;
  const AC = 0x40000;
  const rows: readonly (readonly [opcode: number, digit: number, bytes: number])[] = [
    [0xd9, 0, 4], [0xdd, 0, 8], [0xdb, 5, 10], [0xdf, 0, 2], [0xdf, 5, 8], [0xdf, 4, 10], [0xd9, 2, 4], [0xd9, 3, 4], [0xdd, 3, 8], [0xdb, 7, 10], [0xdf, 3, 2], [0xdb, 3, 4], [0xdf, 7, 8], [0xdf, 6, 10], [0xd8, 0, 4], [0xdc, 1, 8], [0xde, 6, 2], [0xda, 2, 4],
  ];
  for (const [opcode, digit, bytes] of rows) {
    for (const place of [UNMAPPED + 0x100, READ_ONLY + 0x100, UNMAPPED - 1, UNMAPPED - bytes + 1, READ_ONLY - 1, READ_ONLY - bytes + 1, DATA + 0x1000 - 1, DATA + 0x1000 - bytes + 1, DATA + 0x201, DATA + 0x202, DATA + 0x204]) {
      maker.plain([...FRSTOR, ...absolute(opcode, digit, place), ...FNSAVE], (draft) => {
        draft.pokeBytes(X87_IMAGE, stateBytes(shape(rng, [ordinary(rng), ordinary(rng)], false)));
        draft.pokeBytes(place, bytesOf(noise64(rng), bytes));
        if (place < READ_ONLY - 10) draft.eflags = (draft.eflags | (rng.chance(2) ? AC : 0)) >>> 0;
      });
    }
  }
};

const within = (low: number, high: number) => (rng: Rng): Image => image(rng.below(2), BIAS + low + rng.below(high - low + 1), rng.chance(3) ? rng.pick(SIGNIFICANDS) : noise64(rng) | TOP_BIT);
/** Sines, tangents, logarithms, powers: results within one unit in the last place. */
export const x87Transcendental = (maker: Maker): void => {
  const angles = (rng: Rng): readonly Image[] => [rng.chance(4) ? special(rng) : within(-12, rng.chance(5) ? 66 : 6)(rng)];
  const powers = (rng: Rng): readonly Image[] => [rng.chance(5) ? special(rng) : within(-70, -1)(rng)];
  const logs = (rng: Rng): readonly Image[] => [rng.chance(5) ? special(rng) : BigInt.asUintN(79, rng.chance(2) ? within(-1, 0)(rng) : number(rng)), rng.chance(5) ? special(rng) : within(-30, 30)(rng)];
  const logsPlus1 = (rng: Rng): readonly Image[] => [rng.chance(5) ? special(rng) : within(-60, -3)(rng), rng.chance(5) ? special(rng) : within(-30, 30)(rng)];
  const points = (rng: Rng): readonly Image[] => [rng.chance(4) ? special(rng) : within(-40, 40)(rng), rng.chance(4) ? special(rng) : within(-40, 40)(rng)];
  const rows: readonly (readonly [number, (rng: Rng) => readonly Image[]])[] = [[0xfe, angles], [0xff, angles], [0xfb, angles], [0xf2, angles], [0xf0, powers], [0xf1, logs], [0xf9, logsPlus1], [0xf3, points]];
  for (const [code, draw] of rows) emit(maker, { code: [0xd9, code], draw, times: 60 });
};
