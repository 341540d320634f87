// MMX, SSE and SSE2: each case puts a whole state into place (FXRSTOR), does one thing, and takes the state out
// again over the same bytes (FXSAVE), so that the outcome's memory names what changed. Which instructions there
// are, and their encodings, come from iced's tables: none can be forgotten. Cases mean the same in 64-bit mode.
import { Code, CodeExt, CpuidFeature, Encoder, Instruction, OpCodeOperandKind, OpKind, Register } from 'iced-x86';
import { DATA, READ_ONLY, type Rng, UNMAPPED } from '../environment.ts';
import type { Draft, Maker } from './maker.ts';

export const SIMD_IMAGE = DATA + 0x100;
const OPERAND = DATA + 0x400;
const AT = { mxcsr: 24, st: 32, xmm: 160 } as const;
const DEFAULT_MXCSR = 0x1f80;
const AC = 0x40000;

/** By a SIB byte without base and index, which means the same in 64-bit mode. */
const absolute = (opcode: readonly number[], digit: number, vaddr: number): number[] => [...opcode, (digit << 3) | 4, 0x25, vaddr & 0xff, (vaddr >>> 8) & 0xff, (vaddr >>> 16) & 0xff, 0];
const FXRSTOR = absolute([0x0f, 0xae], 1, SIMD_IMAGE);
/** Of the mask of MXCSR the upper half is made zero: AMD has a bit there that Intel has not. */
const FXSAVE = [...absolute([0x0f, 0xae], 0, SIMD_IMAGE), ...absolute([0x66, 0xc7], 0, SIMD_IMAGE + 30), 0, 0];

// -- the instructions --------------------------------------------------------------------------------

const nameIn = (table: object, value: number): string => Object.entries(table).find(([, number]) => number === value)?.[0] ?? '';

export interface SimdCode {
  readonly name: string;
  readonly code: Code;
  readonly kinds: readonly string[];
  readonly memoryBytes: number;
}
const FEATURES = new Set(['MMX', 'SSE', 'SSE2']);
function simdCodes(wide: boolean): readonly SimdCode[] {
  const codes: SimdCode[] = [];
  for (const [name, code] of Object.entries(Code)) {
    if (typeof code !== 'number') continue;
    const info = CodeExt.opCode(code);
    const instruction = new Instruction();
    instruction.code = code;
    const features = Array.from(instruction.cpuidFeatures(), (feature) => nameIn(CpuidFeature, feature));
    const digits = /m(\d+)(?!.*m\d)/.exec(name.slice(name.indexOf('_')));
    const kinds = Array.from({ length: info.opCount }, (_, i) => nameIn(OpCodeOperandKind, info.opKind(i)));
    if ((wide ? info.mode64 : info.mode32) && features.some((feature) => FEATURES.has(feature))) codes.push({ name, code, kinds, memoryBytes: digits === null ? 0 : Number(digits[1]) / 8 });
    instruction.free();
    info.free();
  }
  return codes;
}
export const SIMD_CODES: readonly SimdCode[] = simdCodes(false);
/** Of 64-bit mode, those with 64-bit general registers among them. */
export const LONG_SIMD_CODES: readonly SimdCode[] = simdCodes(true);

/** By the name without operands. */
const mnemonic = ({ name }: SimdCode): string => name.split('_')[0] as string;
const ROUNDING = /^(Add|Sub|Mul|Div|Min|Max|Sqrt|Cmp|Comis|Ucomis|Cvt|Rcp|Rsqrt)/;
const isFloat = (code: SimdCode): boolean => ROUNDING.test(code.name) && !/^Cmpxchg/.test(code.name);
export const HINTS = /^(Prefetch|Lfence|Mfence|Sfence|Emms|Ldmxcsr|Stmxcsr)/;
const isApproximate = (code: SimdCode): boolean => /^(Rcp|Rsqrt)/.test(code.name);
export const usesMmx = ({ kinds }: SimdCode): boolean => kinds.some((kind) => kind.startsWith('mm_'));

// -- one case ----------------------------------------------------------------------------------------

export interface Choice {
  /** Register numbers by operand; -1: memory. */
  readonly registers: readonly number[];
  readonly bytes: readonly number[];
}
const REGISTER_BASE: readonly (readonly [RegExp, number])[] = [[/^xmm/, Register.XMM0], [/^mm/, Register.MM0], [/^r32/, Register.EAX], [/^r64/, Register.RAX]];

/** Encodes with chosen registers; memory operands at `vaddr` (then the bytes mean the same in 32-bit and in 64-bit mode) or at [R14]. */
export function encode(code: SimdCode, rng: Rng, memory: boolean, vaddr: number | 'r14'): Choice {
  const long = vaddr === 'r14';
  const instruction = new Instruction();
  const encoder = new Encoder(64);
  try {
    instruction.code = code.code;
    const registers = code.kinds.map((kind, i) => {
      if (kind === 'imm8') {
        instruction.setOpKind(i, OpKind.Immediate8);
        instruction.setImmediateI32(i, rng.chance(2) ? rng.below(8) : rng.below(256));
        return -2;
      }
      if (kind === 'seg_rDI') {
        instruction.setOpKind(i, OpKind.MemorySegRDI);
        return -1;
      }
      if (kind === 'mem' || (kind.endsWith('_or_mem') && memory)) {
        instruction.setOpKind(i, OpKind.Memory);
        if (long) instruction.memoryBase = Register.R14;
        else {
          instruction.memoryDisplSize = 8;
          instruction.memoryDisplacement = BigInt(vaddr);
        }
        return -1;
      }
      // RSP, R14 and R15 have their uses.
      const register = !long || kind.startsWith('mm') ? rng.below(8) : kind.startsWith('r') ? rng.pick([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13]) : rng.below(16);
      instruction.setOpKind(i, OpKind.Register);
      instruction.setOpRegister(i, ((REGISTER_BASE.find(([pattern]) => pattern.test(kind)) as readonly [RegExp, number])[1] + register) as Register);
      return register;
    });
    encoder.encode(instruction, 0n);
    return { registers, bytes: [...encoder.takeBuffer()] };
  } finally {
    instruction.free();
    encoder.free();
  }
}

/** What registers and memory hold. */
export interface Content {
  /** 16 bytes (8 for MMX). */
  readonly bytes: (rng: Rng, sizeBytes: number) => Uint8Array;
  readonly mxcsr: (rng: Rng) => number;
}

function prepare(draft: Draft, rng: Rng, code: SimdCode, choice: Choice, vaddr: number, content: Content): void {
  const header = new Uint8Array(AT.st);
  const view = new DataView(header.buffer);
  view.setUint16(0, 0x37f, true);
  const mmx = usesMmx(code);
  // MMX takes what the x87 holds: any stack top, any tags, now and then an exception left behind.
  if (mmx) {
    view.setUint16(2, (rng.below(8) << 11) | (rng.u32() & 0x4700), true);
    header[4] = rng.u32() >>> 24;
    if (rng.chance(20)) view.setUint16(0, 0x340, true), view.setUint16(2, 1, true);
  }
  view.setUint32(AT.mxcsr, content.mxcsr(rng), true);
  draft.pokeBytes(SIMD_IMAGE, header);
  draft.pokeBytes(SIMD_IMAGE + AT.st, new Uint8Array(AT.xmm - AT.st));
  code.kinds.forEach((kind, i) => {
    const register = choice.registers[i] as number;
    if (register < 0) return;
    if (kind.startsWith('xmm')) draft.pokeBytes(SIMD_IMAGE + AT.xmm + 16 * register, content.bytes(rng, 16));
    // The image holds the stack's order.
    else if (kind.startsWith('mm')) draft.pokeBytes(SIMD_IMAGE + AT.st + 16 * ((register - ((view.getUint16(2, true) >> 11) & 7)) & 7), content.bytes(rng, 8));
    else draft.setReg(register, rng.chance(2) ? rng.u32() : rng.pick([0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x1000001, 0xffff]));
  });
  if (choice.registers.includes(-1) && vaddr !== 0) draft.pokeBytes(vaddr, content.bytes(rng, Math.max(code.memoryBytes, 4)).subarray(0, Math.max(code.memoryBytes, 4)));
}

/** Where a memory operand lies: mostly well, sometimes unaligned or over a page's end. */
const place = (rng: Rng, sizeBytes: number): number => {
  const fate = rng.below(10);
  return fate === 0 ? OPERAND + 1 + rng.below(15) : fate === 1 ? DATA + 0x1000 - rng.below(sizeBytes + 1) : OPERAND + 16 * rng.below(4);
};

function emit(maker: Maker, code: SimdCode, times: number, content: Content): void {
  const { rng } = maker;
  const canMemory = code.kinds.some((kind) => kind.endsWith('_or_mem'));
  for (let n = 0; n < times; n++) {
    const vaddr = place(rng, code.memoryBytes || 1);
    const choice = encode(code, rng, canMemory && rng.chance(3), vaddr);
    maker.plain([...FXRSTOR, ...choice.bytes, ...FXSAVE], (draft) => {
      const masked = code.kinds[0] === 'seg_rDI';
      const faults = masked && rng.chance(4);
      if (masked) draft.pin(7, !faults ? vaddr : rng.chance(2) ? UNMAPPED - rng.below(9) : READ_ONLY - rng.below(18));
      // Whether a byte that is not stored faults is the processor's own business: where bytes fault, all are stored.
      prepare(draft, rng, code, choice, masked ? 0 : vaddr, faults ? { ...content, bytes: (_, sizeBytes) => new Uint8Array(sizeBytes).fill(0xff) } : content);
    });
  }
}

// -- integers ------------------------------------------------------------------------------------------

const EDGE_BYTES = [0, 1, 0x7f, 0x80, 0x81, 0xff, 0xfe, 0x55];
const WORDS = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xff80, 0xff7f, 0xffff];
export const integers: Content = {
  bytes: (rng, sizeBytes) => {
    const bytes = new Uint8Array(sizeBytes);
    const fate = rng.below(5);
    // Counts of shifts: a small number in the lowest eight bytes.
    if (fate === 0) bytes[0] = rng.below(72);
    else if (fate === 1) bytes.forEach((_, i) => (bytes[i] = rng.pick(EDGE_BYTES)));
    else if (fate === 2) for (let i = 0; i < sizeBytes; i += 2) bytes.set([0, 8].map((shift) => (rng.pick(WORDS) >> shift) & 0xff), i);
    else bytes.forEach((_, i) => (bytes[i] = rng.u32() >>> 24));
    if (fate === 4 && rng.chance(2)) bytes.set(bytes.subarray(0, sizeBytes / 2), sizeBytes / 2);
    return bytes;
  },
  mxcsr: (rng) => (rng.chance(2) ? DEFAULT_MXCSR : rng.u32() & 0xffff),
};
const integerCodes = (mmx: boolean): readonly SimdCode[] => SIMD_CODES.filter((code) => !isFloat(code) && !HINTS.test(code.name) && usesMmx(code) === mmx);
/** Moves, shuffles, logic, integers of XMM registers. */
export const simdIntegers = (maker: Maker): void => integerCodes(false).forEach((code) => emit(maker, code, 12, integers));
export const mmxIntegers = (maker: Maker): void => integerCodes(true).forEach((code) => emit(maker, code, 12, integers));

// -- what has no lanes ---------------------------------------------------------------------------------

/** States of every kind in and out; MXCSR; what clears the tags; hints and fences. */
export const simdControl = (maker: Maker): void => {
  const { rng } = maker;
  const word = DATA + 0x440;
  const wild = (draft: Draft, at: number, mxcsr: number): void => {
    const bytes = Uint8Array.from({ length: 512 }, () => rng.u32() >>> 24);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, rng.chance(2) ? 0x37f : rng.u32() & 0xffff, true);
    view.setUint32(AT.mxcsr, mxcsr, true);
    // AMD keeps the last instruction's addresses for an exception that is pending only; Intel always.
    if ((view.getUint16(2, true) & ~view.getUint16(0, true) & 0x3f) === 0) bytes.fill(0, 6, AT.mxcsr);
    draft.pokeBytes(at, bytes);
  };
  const state = (code: readonly number[], mxcsr = (): number => rng.u32() & 0xffff): void => maker.plain([...FXRSTOR, ...code, ...FXSAVE], (draft) => {
    wild(draft, SIMD_IMAGE, mxcsr());
    draft.pokeBytes(word, new Uint8Array(Uint32Array.of(rng.chance(4) ? (rng.u32() & ~0x20000) >>> 0 : rng.u32() & 0xffff).buffer));
  });
  for (let n = 0; n < 16; n++) {
    state([]);
    state([0x0f, 0x77]);
    state(absolute([0x0f, 0xae], 2, word));
    state(absolute([0x0f, 0xae], 3, word));
    state([0xdb, 0xe3]);
  }
  for (let n = 0; n < 8; n++) state([], () => ((rng.u32() & 0xffff) | (1 << (18 + rng.below(14)))) >>> 0);
  for (const code of SIMD_CODES.filter(({ name }) => HINTS.test(name) && !/^(Emms|Ldmxcsr|Stmxcsr)/.test(name))) emit(maker, code, 2, integers);
  for (const [digit, at] of [[0, SIMD_IMAGE + 8], [1, SIMD_IMAGE + 4], [0, UNMAPPED], [1, UNMAPPED], [0, READ_ONLY], [0, READ_ONLY - 256], [1, UNMAPPED - 256], [0, READ_ONLY - 504], [1, UNMAPPED - 504]] as const) {
    state(absolute([0x0f, 0xae], digit, at));
  }
  for (const at of [UNMAPPED, READ_ONLY, READ_ONLY - 2, UNMAPPED - 2, DATA + 0x1000 - 1]) for (const digit of [2, 3, 7]) state(absolute([0x0f, 0xae], digit, at));
};

/** Operands where nothing is mapped, read-only, over the ends of pages, unaligned, and that while alignment is checked (AC). */
export const simdFaults = (maker: Maker): void => {
  const { rng } = maker;
  const places = (bytes: number): readonly number[] => [
    UNMAPPED + 0x100, READ_ONLY + 0x100, UNMAPPED - 1, UNMAPPED - bytes + 1, UNMAPPED - (bytes >> 1), READ_ONLY - 1, READ_ONLY - (bytes >> 1), DATA + 0x1000 - 1, DATA + 0x1000 - (bytes >> 1), OPERAND + 1, OPERAND + 4, OPERAND + 8,
  ];
  for (const code of SIMD_CODES.filter((code) => code.memoryBytes > 0 && code.kinds[0] !== 'seg_rDI' && !isApproximate(code))) {
    // Every shape of access, not every instruction: those of one shape take turns.
    for (const at of places(code.memoryBytes)) {
      if (!rng.chance(4)) continue;
      const choice = encode(code, rng, true, at);
      maker.plain([...FXRSTOR, ...choice.bytes, ...FXSAVE], (draft) => {
        prepare(draft, rng, code, choice, at, { ...integers, mxcsr: () => DEFAULT_MXCSR });
        if (rng.chance(3)) draft.eflags = (draft.eflags | AC) >>> 0;
      });
    }
  }
};

// -- numbers -------------------------------------------------------------------------------------------

const noise = (rng: Rng, bits: number): bigint => ((BigInt(rng.u32()) << 32n) | BigInt(rng.u32())) >> BigInt(64 - bits);
interface Form {
  readonly bits: number;
  readonly fraction: number;
  readonly bias: number;
}
const SINGLE: Form = { bits: 32, fraction: 23, bias: 127 };
const DOUBLE: Form = { bits: 64, fraction: 52, bias: 1023 };
/** Fractions at which rounding turns, exponents around 1, at the ends, at the ends of singles and integers. */
function number({ bits, fraction, bias }: Form, rng: Rng, near?: bigint): bigint {
  const top = BigInt(fraction);
  const most = 2 * bias + 1;
  const sign = BigInt(rng.below(2)) << BigInt(bits - 1);
  const rest = rng.pick([0n, 0n, 1n, (1n << top) - 1n, 1n << (top - 1n), (1n << (top - 1n)) + 1n, noise(rng, fraction), noise(rng, fraction), (noise(rng, 8) << (top - 8n)), noise(rng, 23) << (top - 23n), 1n << BigInt(rng.below(fraction))]);
  if (near !== undefined && rng.chance(2)) {
    const exp = Number((near >> top) & BigInt(most)) + rng.below(2 * fraction) - fraction;
    return sign | (BigInt(Math.min(Math.max(exp, 0), most - 1)) << top) | rest;
  }
  const exp = rng.chance(3) ? rng.pick([0, 0, 1, most, most, most - 1, 2, bias - 1, 1 + fraction])
    : rng.chance(2) ? bias + rng.pick([0, 0, 1, 2, 5, 22, 23, 24, 30, 31, 32, 51, 52, 53, 62, 63, 64, -1, -2, -126, -127, -149, -150, 126, 127, 128]) : rng.chance(2) ? bias - 8 + rng.below(16) : rng.below(most + 1);
  return sign | (BigInt(Math.min(Math.max(exp, 0), most)) << top) | rest;
}
const ints = (rng: Rng): bigint => BigInt.asUintN(32, rng.pick([0n, 1n, -1n, 0x7fffffffn, -0x80000000n, 0x1000001n, 0x7fffff80n, noise(rng, 32), noise(rng, 25)]));

/** Registers and memory of numbers of one form; both operands of a case are often near each other. */
export function numbers(form: Form | 'ints', mxcsr: (rng: Rng) => number): Content {
  let last: bigint | undefined;
  return {
    mxcsr,
    bytes: (rng, sizeBytes) => {
      const bytes = new Uint8Array(16);
      const view = new DataView(bytes.buffer);
      for (let at = 0; at < 16; at += form === 'ints' ? 4 : form.bits / 8) {
        const image = form === 'ints' ? ints(rng) : number(form, rng, last);
        if (form === DOUBLE) view.setBigUint64(at, image, true);
        else view.setUint32(at, Number(image), true);
        last = rng.chance(2) ? image : last;
      }
      return bytes.subarray(0, sizeBytes);
    },
  };
}
/** Everything masked, any rounding, now and then DAZ and FTZ and flags already there. */
export const masked = (rng: Rng): number => 0x1f80 | (rng.below(4) << 13) | (rng.chance(3) ? rng.u32() & 0x3f : 0) | (rng.chance(6) ? 0x40 : 0) | (rng.chance(6) ? 0x8000 : 0);
/** Some exceptions unmasked. */
const unmasked = (rng: Rng): number => ((rng.u32() & 0x1f80) | (rng.below(4) << 13) | (rng.chance(2) ? 0 : rng.u32() & 0x3f) | (rng.chance(6) ? 0x40 : 0) | (rng.chance(6) ? 0x8000 : 0)) >>> 0;
export const formOf = (code: SimdCode): Form | 'ints' => (/^Cvt(si|dq|pi)2/.test(code.name) ? 'ints' : /^Cvtt?[ps]d2|[ps]d_/.test(code.name) && !/^Cvt[ps]s2/.test(code.name) ? DOUBLE : SINGLE);

const floats = (wanted: (code: SimdCode) => boolean, times: number, mxcsr: (rng: Rng) => number) => (maker: Maker): void => {
  for (const code of SIMD_CODES) if (isFloat(code) && wanted(code)) emit(maker, code, times, numbers(formOf(code), mxcsr));
};
const isConversion = (code: SimdCode): boolean => code.name.startsWith('Cvt');
/** Arithmetic and comparisons of singles and doubles. */
export const simdArithmetic = floats((code) => !isConversion(code) && !isApproximate(code), 48, masked);
export const simdConversions = floats(isConversion, 40, masked);
/** Exceptions that are not masked. */
export const simdUnmasked = floats((code) => !isApproximate(code), 24, unmasked);
/** RCPPS and RSQRTPS and the like: simd-tolerance.ts says how they are compared. */
export const simdApproximations = floats(isApproximate, 60, masked);
export { isApproximate, isFloat, mnemonic };
