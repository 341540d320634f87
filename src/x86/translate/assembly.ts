// WebAssembly as nested expressions, for functions that are written by hand. A Code writes the instructions of its
// operands and then its own; statements write at once.
import { CodeBuffer, OP } from './code-buffer.ts';

export type Code = () => void;

/** `locals`: their indices by name. */
export class Assembly<Local extends string> {
  readonly c = new CodeBuffer(4096);
  readonly #locals: Readonly<Record<Local, number>>;

  constructor(locals: Readonly<Record<Local, number>>) {
    this.#locals = locals;
  }

  // Values. Conditions are 0 or 1, and are joined bit by bit.

  get(local: Local): Code {
    return () => this.c.get(this.#locals[local]);
  }
  k(value: number): Code {
    return () => this.c.const32(value);
  }
  k64(value: bigint): Code {
    return () => this.c.const64(value);
  }
  op(code: number, ...operands: Code[]): Code {
    return () => {
      for (const operand of operands) operand();
      this.c.byte(code);
    };
  }
  load(code: number, at: Code, base: number): Code {
    return () => {
      at();
      this.c.memory(code, base);
    };
  }
  and(a: Code, mask: number): Code {
    return this.op(OP.i32_and, a, this.k(mask));
  }
  both(a: Code, b: Code): Code {
    return this.op(OP.i32_and, a, b);
  }
  or(...all: Code[]): Code {
    return all.reduce((a, b) => this.op(OP.i32_or, a, b));
  }
  add(a: Code, b: Code): Code {
    return this.op(OP.i32_add, a, b);
  }
  low32(a: Code): Code {
    return this.op(OP.i32_wrap_i64, a);
  }
  not(a: Code): Code {
    return this.op(OP.i32_eqz, a);
  }
  /** Any bit is set. */
  some(a: Code): Code {
    return this.op(OP.i32_ne, a, this.k(0));
  }
  /** All of these bits are set. */
  every(a: Code, bits: number): Code {
    return this.op(OP.i32_eq, this.and(a, bits), this.k(bits));
  }
  /** The bit `from` of a, at the place of `to`; both powers of two. */
  moved(a: Code, from: number, to: number): Code {
    return to > from ? this.op(OP.i32_mul, this.and(a, from), this.k(to / from)) : this.op(OP.i32_shr_u, this.and(a, from), this.k(31 - Math.clz32(from / to)));
  }

  // Statements.

  set(local: Local, value: Code): void {
    value();
    this.c.set(this.#locals[local]);
  }
  store(code: number, at: Code, base: number, value: Code): void {
    at();
    value();
    this.c.memory(code, base);
  }
  when(cond: Code, then: () => void): void {
    cond();
    this.c.open(OP.if);
    then();
    this.c.end();
  }
  /** To the end of the `depth`th block around it. */
  brIf(cond: Code, depth: number): void {
    cond();
    this.c.brIf(depth);
  }
  /** The function's answer, if so. */
  returnIf(cond: Code, value: number): void {
    this.when(cond, () => {
      this.c.const32(value);
      this.c.byte(OP.return);
    });
  }
}
