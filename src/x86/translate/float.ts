// What rounds, inline: WebAssembly's own operators where they provably give what SSE gives, the evaluator for the rest.
//
// WebAssembly rounds to nearest and says nothing of flags, and its NaNs have no bits to rely on. So a result counts only if
// - no operand is a denormal or (as far as that matters) a NaN, so that no flag found before computing is due;
// - the result is finite and at least twice the least normal number, or a zero that is exact: no overflow, nothing tiny;
// - MXCSR rounds to nearest and has PE set and masked, where the operation may be inexact: then noting it changes nothing.
// DAZ and FTZ speak of denormals only. Else the instruction is left before it has done anything.
// Lanes that do not take part are ones, so that all lanes can be looked at together.
import type { FloatFormat, Stmt } from '../ir.ts';
import { laneWidths } from '../simd/float.ts';
import { MXCSR } from '../simd/float-number.ts';
import { STATE } from '../state-layout.ts';
import { FLAG } from '../x87/number.ts';
import { OP, TYPE } from './code-buffer.ts';
import type { Frame } from './frame.ts';
import type { StatementEmitter } from './statement.ts';
import { SIMD } from './vector.ts';

type Float = Extract<Stmt, { do: 'float' }>;

/** Operators of a format: f32x4 and f64x2. */
const OPERATORS = {
  f32: { eq: 65, ne: 66, lt: 67, gt: 68, le: 69, ge: 70, abs: 224, sqrt: 227, add: 228, sub: 229, mul: 230, div: 231, pmin: 234, pmax: 235, nearest: 106, allTrue: 163 },
  f64: { eq: 71, ne: 72, lt: 73, gt: 74, le: 75, ge: 76, abs: 236, sqrt: 239, add: 240, sub: 241, mul: 242, div: 243, pmin: 246, pmax: 247, nearest: 148, allTrue: 195 },
} as const;
const CONVERT = { toSingle: 94, toDouble: 95, singleToInt: 248, singleFromInt: 250, doubleToInt: 252, doubleFromInt: 254 } as const;
const SCALAR = { f32_extract: 31, f64_extract: 33, f32_splat: 19, f64_splat: 20, i64_splat: 18, f32_eq: 0x5b, f32_lt: 0x5d, f64_eq: 0x61, f64_lt: 0x63, f32_convert_i64: 0xb4, f64_convert_i64: 0xb9, trunc_f32_i64: 4, trunc_f64_i64: 6 } as const;
const NOT = 77;

const repeat = (image: bigint, bits: number): bigint => (bits === 64 ? image | (image << 64n) : image | (image << 32n) | (image << 64n) | (image << 96n));
interface Constants {
  readonly one: bigint;
  /** The least normal number, and twice that. */
  readonly least: bigint;
  readonly safe: bigint;
  readonly infinity: bigint;
  /** 2^31 and 2^63. */
  readonly int32: bigint;
  readonly int64: bigint;
}
const constants = (bits: 32 | 64, fraction: bigint, bias: bigint): Constants => {
  const power = (n: bigint): bigint => repeat((n + bias) << fraction, bits);
  return { one: power(0n), least: power(1n - bias), safe: power(2n - bias), infinity: power(bias + 1n), int32: power(31n), int64: power(63n) };
};
const CONSTANTS: Readonly<Record<FloatFormat, Constants>> = { f32: constants(32, 23n, 127n), f64: constants(64, 52n, 1023n) };
/** Twice the least normal single, as doubles. */
const SAFE_SINGLE = repeat((1023n - 125n) << 52n, 64);

/** Can the statement be translated at all? */
export const isInline = ({ op }: Float): boolean => op.kind !== 'reciprocal' && op.kind !== 'reciprocalRoot';

/** Pushes whether MXCSR is not as the inline form needs it. */
function emitRoundingRefused(f: Frame): void {
  f.loadState32(STATE.mxcsr);
  f.c.const32((3 << MXCSR.roundingShift) | (FLAG.PE << MXCSR.maskShift) | FLAG.PE);
  f.c.byte(OP.i32_and);
  f.c.const32((FLAG.PE << MXCSR.maskShift) | FLAG.PE);
  f.c.byte(OP.i32_ne);
}

class FloatEmitter {
  readonly #s: StatementEmitter;
  readonly #f: Frame;
  readonly #stmt: Float;
  readonly #a: number;
  /** b, and a and b with ones for what takes no part. */
  readonly #b: number;
  readonly #left: number;

  constructor(s: StatementEmitter, stmt: Float) {
    this.#s = s;
    this.#f = s.f;
    this.#stmt = stmt;
    this.#a = s.f.temp(TYPE.v128);
    this.#b = s.f.temp(TYPE.v128);
    this.#left = s.f.temp(TYPE.v128);
  }

  // -- small words: each pushes a v128 -----------------------------------------------------------------

  get #ops(): (typeof OPERATORS)[FloatFormat] {
    return OPERATORS[this.#source];
  }
  /** The format of what is read. */
  get #source(): FloatFormat {
    const { op, format } = this.#stmt;
    return op.kind === 'reformat' ? (format === 'f32' ? 'f64' : 'f32') : format;
  }
  /** MXCSR is as inline rounding needs it. */
  #rounds(): void {
    this.#s.once('rounding', () => emitRoundingRefused(this.#f));
  }
  #get(local: number): void {
    this.#f.c.get(local);
  }
  #op(opcode: number): void {
    this.#f.c.simd(opcode);
  }
  #compare(x: number, constant: bigint, opcode: number, absolute = true): void {
    this.#get(x);
    if (absolute) this.#op(this.#ops.abs);
    this.#f.c.vector(constant);
    this.#op(opcode);
  }
  /** Lanes that are no denormals: zero, or not below the least normal number. */
  #notDenormal(x: number): void {
    this.#compare(x, 0n, this.#ops.eq, false);
    this.#compare(x, CONSTANTS[this.#source].least, this.#ops.lt);
    this.#op(NOT);
    this.#op(SIMD.or);
  }
  #notNan(x: number): void {
    this.#get(x);
    this.#get(x);
    this.#op(this.#ops.eq);
  }
  /** Leaves the instruction unless all lanes on the stack hold. */
  #require(allTrue = this.#ops.allTrue): void {
    this.#op(allTrue);
    this.#f.c.byte(OP.i32_eqz);
    this.#f.open(OP.if);
    this.#s.leave();
    this.#f.close();
  }
  #all(...masks: readonly (() => void)[]): void {
    masks.forEach((mask, i) => {
      mask();
      if (i > 0) this.#op(SIMD.and);
    });
  }

  // -- the statement -----------------------------------------------------------------------------------

  /** Returns the local with the result. */
  emit(): number {
    const { op, lanes, format } = this.#stmt;
    const { from, to } = laneWidths(op, format);
    const { c } = this.#f;
    this.#s.expr(this.#stmt.a);
    c.set(this.#a);
    this.#operand(this.#b, () => this.#s.expr(this.#stmt.b), (lanes * from) / 8);
    const result = this.#f.temp(TYPE.v128);
    if (op.kind === 'order') return this.#order();
    this.#result(result);
    const bytes = (lanes * to) / 8;
    if (bytes < 16) {
      c.get(result);
      c.get(this.#a);
      c.shuffle(Array.from({ length: 16 }, (_, i) => (i < bytes ? i : 16 + i)));
      c.set(result);
    }
    return result;
  }
  #operand(local: number, push: () => void, bytes: number): void {
    const { c } = this.#f;
    push();
    if (bytes < 16) {
      c.vector(this.#stmt.op.kind === 'fromInt' ? 0n : CONSTANTS[this.#source].one);
      c.shuffle(Array.from({ length: 16 }, (_, i) => (i < bytes ? i : 16 + i)));
    }
    c.set(local);
  }
  #both(): void {
    this.#operand(this.#left, () => this.#get(this.#a), (this.#stmt.lanes * laneWidths(this.#stmt.op, this.#stmt.format).from) / 8);
  }

  #result(result: number): void {
    const { op } = this.#stmt;
    switch (op.kind) {
      case 'add': case 'sub': case 'mul': case 'div': case 'sqrt':
        return this.#arithmetic(op.kind, result);
      case 'min': case 'max':
        this.#both();
        this.#all(() => this.#notNan(this.#left), () => this.#notNan(this.#b), () => this.#notDenormal(this.#left), () => this.#notDenormal(this.#b));
        this.#require();
        // Of equals the second operand.
        this.#get(this.#b);
        this.#get(this.#left);
        this.#op(op.kind === 'min' ? this.#ops.pmin : this.#ops.pmax);
        return this.#f.c.set(result);
      case 'compare':
        return this.#predicate(op.predicate, result);
      case 'reformat':
        return this.#reformat(result);
      case 'fromInt':
        return this.#fromInt(op.width, result);
      case 'toInt':
        return this.#toInt(op.width, op.truncate, result);
    }
  }

  #arithmetic(kind: 'add' | 'sub' | 'mul' | 'div' | 'sqrt', result: number): void {
    const { c } = this.#f;
    const { safe, infinity } = CONSTANTS[this.#source];
    this.#rounds();
    if (kind === 'sqrt') this.#get(this.#b);
    else {
      this.#both();
      this.#get(this.#left);
      this.#get(this.#b);
    }
    this.#op(this.#ops[kind]);
    c.set(result);
    const isZero = (x: number): void => this.#compare(x, 0n, this.#ops.eq, false);
    const ordinary = (): void => this.#all(() => this.#compare(result, safe, this.#ops.ge), () => this.#compare(result, infinity, this.#ops.lt));
    // A zero is exact if it is a sum, or if an operand is why.
    const exactZero = (): void => {
      isZero(result);
      if (kind === 'add' || kind === 'sub' || kind === 'sqrt') return;
      isZero(this.#left);
      if (kind === 'mul') isZero(this.#b);
      else this.#compare(this.#b, infinity, this.#ops.eq);
      this.#op(SIMD.or);
      this.#op(SIMD.and);
    };
    ordinary();
    exactZero();
    this.#op(SIMD.or);
    this.#notDenormal(this.#b);
    this.#op(SIMD.and);
    if (kind !== 'sqrt') {
      this.#notDenormal(this.#left);
      this.#op(SIMD.and);
    }
    this.#require();
  }

  /** Without NaNs unordered is never, ordered always. */
  #predicate(predicate: number, result: number): void {
    const ops = this.#ops;
    this.#both();
    this.#all(() => this.#notNan(this.#left), () => this.#notNan(this.#b), () => this.#notDenormal(this.#left), () => this.#notDenormal(this.#b));
    this.#require();
    const opcode = [ops.eq, ops.lt, ops.le, undefined, ops.ne, ops.ge, ops.gt, undefined][predicate];
    if (opcode === undefined) this.#f.c.vector(predicate === 3 ? 0n : (1n << 128n) - 1n);
    else {
      this.#get(this.#left);
      this.#get(this.#b);
      this.#op(opcode);
    }
    this.#f.c.set(result);
  }

  #reformat(result: number): void {
    const { c } = this.#f;
    if (this.#stmt.format === 'f64') {
      this.#all(() => this.#notNan(this.#b), () => this.#notDenormal(this.#b));
      this.#require();
      this.#get(this.#b);
      this.#op(CONVERT.toDouble);
      return c.set(result);
    }
    this.#rounds();
    this.#get(this.#b);
    this.#op(CONVERT.toSingle);
    c.tee(result);
    // Looked at as doubles again.
    this.#op(CONVERT.toDouble);
    c.set(this.#left);
    this.#all(() => this.#compare(this.#left, SAFE_SINGLE, this.#ops.ge), () => this.#compare(this.#left, CONSTANTS.f64.infinity, this.#ops.lt));
    this.#compare(this.#b, 0n, this.#ops.eq, false);
    this.#op(SIMD.or);
    this.#require();
  }

  #fromInt(width: 32 | 64, result: number): void {
    const { c } = this.#f;
    const single = this.#stmt.format === 'f32';
    if (single || width === 64) this.#rounds();
    this.#get(this.#b);
    if (width === 32) this.#op(single ? CONVERT.singleFromInt : CONVERT.doubleFromInt);
    else {
      c.simdLane(SIMD.i64x2_extract, 0);
      c.byte(single ? SCALAR.f32_convert_i64 : SCALAR.f64_convert_i64);
      this.#op(single ? SCALAR.f32_splat : SCALAR.f64_splat);
    }
    c.set(result);
  }

  #toInt(width: 32 | 64, truncate: boolean, result: number): void {
    const { c } = this.#f;
    const single = this.#stmt.format === 'f32';
    this.#rounds();
    if (!truncate) {
      this.#get(this.#b);
      this.#op(this.#ops.nearest);
      c.set(this.#b);
    }
    // The least integer itself is the evaluator's too.
    this.#compare(this.#b, width === 32 ? CONSTANTS[this.#source].int32 : CONSTANTS[this.#source].int64, this.#ops.lt);
    this.#require();
    this.#get(this.#b);
    if (width === 32) this.#op(single ? CONVERT.singleToInt : CONVERT.doubleToInt);
    else {
      c.simdLane(single ? SCALAR.f32_extract : SCALAR.f64_extract, 0);
      c.byte(OP.prefix_fc);
      c.byte(single ? SCALAR.trunc_f32_i64 : SCALAR.trunc_f64_i64);
      this.#op(SCALAR.i64_splat);
    }
    c.set(result);
  }

  /** ZF for equal, CF for less. */
  #order(): number {
    const { c } = this.#f;
    const single = this.#source === 'f32';
    this.#both();
    this.#all(() => this.#notNan(this.#left), () => this.#notNan(this.#b), () => this.#notDenormal(this.#left), () => this.#notDenormal(this.#b));
    this.#require();
    const compare = (opcode: number): void => {
      for (const local of [this.#left, this.#b]) {
        c.get(local);
        c.simdLane(single ? SCALAR.f32_extract : SCALAR.f64_extract, 0);
      }
      c.byte(opcode);
    };
    const flags = this.#f.temp(TYPE.i32);
    compare(single ? SCALAR.f32_eq : SCALAR.f64_eq);
    c.const32(6);
    c.byte(OP.i32_shl);
    compare(single ? SCALAR.f32_lt : SCALAR.f64_lt);
    c.byte(OP.i32_or);
    c.set(flags);
    return flags;
  }
}

export const emitFloat = (s: StatementEmitter, stmt: Float): number => new FloatEmitter(s, stmt).emit();
