// Words for the x87 in WebAssembly (x87-unit.ts): its locals, where registers are, what is refused.
import { STATE } from '../state-layout.ts';
import { BIAS, FLAG } from '../x87/number.ts';
import { FIELD, TASK } from '../x87/quick.ts';
import { Assembly, type Code } from './assembly.ts';
import { OP } from './code-buffer.ts';

export const I32_NAMES = ['status', 'control', 'top', 'full', 'task', 'expA', 'expB', 'exp', 'n', 'cut', 'low', 'high', 'sign', 'flags', 'cleared', 'answer', 'at', 'bit'] as const;
export const I64_NAMES = ['a', 'b', 'hi', 'lo', 'rest', 't'] as const;
export type Local = 'code' | 'operand' | (typeof I32_NAMES)[number] | (typeof I64_NAMES)[number];
export const LOCALS = Object.fromEntries(['code', 'operand', ...I32_NAMES, ...I64_NAMES].map((name, i) => [name, i])) as Record<Local, number>;

export const TOP_BIT = -(2n ** 63n);
export const SIGN = 0x8000;
export const EXP = 0x7fff;
/** How a format's numbers are rounded: bits cut off the significand, least and greatest exponent (biased as in registers), what its bias lacks. */
export const SINGLE = { cut: 40, low: BIAS - 126, high: BIAS + 127, rebias: BIAS - 127 } as const;
export const DOUBLE = { cut: 11, low: BIAS - 1022, high: BIAS + 1023, rebias: BIAS - 1023 } as const;

export class X87Words extends Assembly<Local> {
  readonly #base: number;
  /** Open constructs. */
  depth = 0;

  constructor(stateBase: number) {
    super(LOCALS);
    this.#base = stateBase;
  }

  // -- words -----------------------------------------------------------------------------------------

  override when(cond: Code, then: () => void, otherwise?: () => void): void {
    cond();
    this.c.open(OP.if);
    this.depth++;
    then();
    if (otherwise !== undefined) {
      this.c.byte(OP.else);
      otherwise();
    }
    this.c.end();
    this.depth--;
  }
  /** A block; `body` gets a way to its end. */
  block(body: (leave: () => void) => void): void {
    this.c.open(OP.block);
    const at = ++this.depth;
    body(() => this.c.br(this.depth - at));
    this.c.end();
    this.depth--;
  }
  refuseIf(cond: Code): void {
    this.returnIf(cond, 0);
  }
  is(task: keyof typeof TASK): Code {
    return this.op(OP.i32_eq, this.get('task'), this.k(TASK[task]));
  }
  among(task: keyof typeof TASK, to: keyof typeof TASK): Code {
    return this.op(OP.i32_le_u, this.op(OP.i32_sub, this.get('task'), this.k(TASK[task])), this.k(TASK[to] - TASK[task]));
  }
  field(name: keyof typeof FIELD): Code {
    const [shift, bits] = FIELD[name];
    return this.and(this.op(OP.i32_shr_u, this.get('code'), this.k(shift)), (1 << bits) - 1);
  }
  stateWord(at: number): Code {
    return this.load(OP.i32_load, this.k(this.#base), at);
  }
  setStateWord(at: number, value: Code): void {
    this.store(OP.i32_store, this.k(this.#base), at, value);
  }
  memory(code: number): Code {
    return this.load(code, this.get('operand'), 0);
  }
  wide(a: Code): Code {
    return this.op(OP.i64_extend_i32_u, a);
  }
  shl(a: Code, by: Code): Code {
    return this.op(OP.i64_shl, a, by);
  }
  shr(a: Code, by: Code): Code {
    return this.op(OP.i64_shr_u, a, by);
  }
  or64(...all: Code[]): Code {
    return all.reduce((a, b) => this.op(OP.i64_or, a, b));
  }
  isZero(a: Code): Code {
    return this.op(OP.i64_eqz, a);
  }
  some64(a: Code): Code {
    return this.op(OP.i64_ne, a, this.k64(0n));
  }
  sub(a: Code, b: Code): Code {
    return this.op(OP.i32_sub, a, b);
  }
  /** 64 - n, as shifts count: modulo 64. */
  back(n: Code): Code {
    return this.wide(this.sub(this.k(0), n));
  }

  // -- registers -------------------------------------------------------------------------------------

  /** `at` := where ST(i) is, `bit` := its bit of `full`. */
  place(i: Code): void {
    this.set('at', this.and(this.add(this.get('top'), i), 7));
    this.set('bit', this.op(OP.i32_shl, this.k(1), this.get('at')));
    this.set('at', this.add(this.k(this.#base + STATE.fpuReg), this.op(OP.i32_shl, this.get('at'), this.k(4))));
  }
  readRegister(i: Code, sig: 'a' | 'b', exp: 'expA' | 'expB'): void {
    this.place(i);
    this.refuseIf(this.not(this.op(OP.i32_and, this.get('full'), this.get('bit'))));
    this.set(sig, this.load(OP.i64_load, this.get('at'), 0));
    // Of the u32 the rest is never set.
    this.set(exp, this.and(this.load(OP.i32_load, this.get('at'), 8), SIGN | EXP));
  }
  writeRegister(i: Code, sig: Code, exp: Code): void {
    this.place(i);
    this.store(OP.i64_store, this.get('at'), 0, sig);
    this.store(OP.i32_store, this.get('at'), 8, exp);
    this.set('full', this.or(this.get('full'), this.get('bit')));
  }
  /** Refuses what is neither normal nor zero. */
  requireNumber(sig: 'a' | 'b', exp: 'expA' | 'expB'): void {
    const magnitude = this.and(this.get(exp), EXP);
    const isNormal = this.both(this.op(OP.i64_lt_s, this.get(sig), this.k64(0n)), this.op(OP.i32_lt_u, this.sub(magnitude, this.k(1)), this.k(EXP - 1)));
    const isZero = this.both(this.isZero(this.get(sig)), this.not(magnitude));
    this.refuseIf(this.not(this.or(isNormal, isZero)));
  }

  /** hi := hi rounded by what is in rest (a fraction of 64 bits), to the nearest; notes #P. */
  roundNearest(): void {
    this.when(this.some64(this.get('rest')), () => {
      this.set('n', this.op(OP.i64_gt_u, this.get('rest'), this.op(OP.i64_sub, this.k64(TOP_BIT), this.op(OP.i64_and, this.get('hi'), this.k64(1n)))));
      this.set('flags', this.or(this.k(FLAG.PE), this.op(OP.i32_mul, this.get('n'), this.k(FLAG.C1))));
      this.set('hi', this.op(OP.i64_add, this.get('hi'), this.wide(this.get('n'))));
    });
  }
}
