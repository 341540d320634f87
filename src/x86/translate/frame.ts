// The frame of a region's function: its locals, its exits, and where the processor's state lives while it runs.
//
//    local 0  label      which entry (parameter)
//          1  target     rip at the exit; the target of an indirect jump (i64 in long mode)
//          2  result     0: the dispatcher goes on at rip; 1: the evaluator must perform at least one instruction
//          3  budget     instructions left; kept in memory only outside
//          4..7          flagOp, flagA, flagB, flagR (flags.ts)
//          8..           general registers (i32; i64 in long mode)
//          then          temporaries, pooled by type, and vector registers as they are met
//
// Registers are loaded at the entry if the region touches them and stored at the exit if it may have changed them.
import { STATE } from '../state-layout.ts';
import { CodeBuffer, OP, TYPE } from './code-buffer.ts';
import { SIMD } from './vector.ts';

export const LOCAL = { label: 0, target: 1, result: 2, budget: 3, flagOp: 4, flagA: 5, flagB: 6, flagR: 7, gpr: 8 } as const;

/** Function indices of the helpers that every module imports, in this order (dispatcher.ts). */
export const HELPER = { slowRead: 0, slowWrite: 1, statusImage: 2, x87: 3 } as const;

/** How a segment is reached: no check; base added and limit compared; base of 64 bits added; never (the evaluator does it). */
export type SegmentKind = 'flat' | 'checked' | 'based' | 'never';

/** What a region is specialised for. */
export interface Target {
  readonly stateBase: number;
  readonly tlbBase: number;
  /** CPL 3: selects the TLB tags. */
  readonly user: boolean;
  /** Long mode, compatibility code included: registers and addresses are i64. */
  readonly long: boolean;
  /** By segment register number. */
  readonly segments: readonly SegmentKind[];
  /** Inclusive limit of the code segment: jumps beyond it are the evaluator's. */
  readonly codeLimit: number;
}

export class Frame {
  readonly c: CodeBuffer;
  readonly target: Target;
  /** i32, or i64 in long mode: the type of registers and flag operands. */
  readonly word: number;
  readonly gprRead = new Set<number>();
  readonly gprWritten = new Set<number>();
  /** Locals of the vector registers that the region touches. */
  readonly #xmm = new Map<number, number>();
  readonly #xmmWritten = new Set<number>();
  flagsTouched = false;
  /** Open blocks, loops and ifs. */
  depth = 0;
  /** Depths at which the exits' blocks were opened. */
  chainDepth = 0;
  stopDepth = 0;
  indirectDepth = 0;
  readonly #types: number[] = [];
  readonly #free = new Map<number, number[]>();
  #taken: { type: number; local: number }[] = [];

  constructor(c: CodeBuffer, target: Target) {
    this.c = c;
    this.target = target;
    this.word = target.long ? TYPE.i64 : TYPE.i32;
    this.#types.push(this.word);
    for (let i = LOCAL.result; i <= LOCAL.flagOp; i++) this.#types.push(TYPE.i32);
    for (let i = LOCAL.flagA; i <= LOCAL.flagR; i++) this.#types.push(this.word);
    for (let i = 0; i < (target.long ? 16 : 8); i++) this.#types.push(this.word);
  }

  xmm(index: number, written: boolean): number {
    let local = this.#xmm.get(index);
    if (local === undefined) {
      local = this.#types.push(TYPE.v128);
      this.#xmm.set(index, local);
    }
    if (written) this.#xmmWritten.add(index);
    return local;
  }

  /** A temporary of the current instruction. */
  temp(type: number): number {
    const reused = this.#free.get(type)?.pop();
    const local = reused ?? 1 + this.#types.push(type) - 1;
    this.#taken.push({ type, local });
    return local;
  }
  /** Returns the instruction's temporaries to the pool. */
  releaseTemps(): void {
    for (const { type, local } of this.#taken) {
      const pool = this.#free.get(type);
      if (pool === undefined) this.#free.set(type, [local]);
      else pool.push(local);
    }
    this.#taken = [];
  }

  open(op: number): number {
    this.c.open(op);
    return ++this.depth;
  }
  close(): void {
    this.c.end();
    this.depth--;
  }
  /** Branches to the construct that was opened at `depth`. */
  br(depth: number): void {
    this.c.br(this.depth - depth);
  }
  brIf(depth: number): void {
    this.c.brIf(this.depth - depth);
  }

  /** Pushes a number as a register holds it. */
  constWord(value: number): void {
    if (this.target.long) this.c.const64(BigInt(value));
    else this.c.const32(value);
  }
  /** Turns a word on the stack into its low 32 bits. */
  wrap(): void {
    if (this.target.long) this.c.byte(OP.i32_wrap_i64);
  }

  loadState32(at: number): void {
    this.c.const32(this.target.stateBase);
    this.c.memory(OP.i32_load, at);
  }
  /** Stores the value that `push` pushes. */
  storeState32(at: number, push: () => void): void {
    this.c.const32(this.target.stateBase);
    push();
    this.c.memory(OP.i32_store, at);
  }

  /** Leaves with rip = vaddr; `giveBack` instructions of the current block were not performed. */
  exitTo(depth: number, vaddr: number, giveBack: number): void {
    const { c } = this;
    this.constWord(vaddr);
    c.set(LOCAL.target);
    if (giveBack !== 0) {
      c.get(LOCAL.budget);
      c.const32(giveBack);
      c.byte(OP.i32_add);
      c.set(LOCAL.budget);
    }
    this.br(depth);
  }

  /** The whole function body: locals, prologue, `code` (made by c before), epilogue. */
  finish(code: Uint8Array): Uint8Array {
    const { target } = this;
    const body = new CodeBuffer(code.length + 512);
    // Locals, run-length encoded.
    const runs: { type: number; count: number }[] = [];
    for (const type of this.#types) {
      const last = runs[runs.length - 1];
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    body.u32(runs.length);
    for (const { type, count } of runs) {
      body.u32(count);
      body.byte(type);
    }
    const load = this.word === TYPE.i64 ? OP.i64_load : OP.i32_load;
    const store = this.word === TYPE.i64 ? OP.i64_store : OP.i32_store;
    const flagLocals: readonly [number, number, number, number][] = [
      [LOCAL.flagOp, STATE.flagOp, OP.i32_load, OP.i32_store],
      [LOCAL.flagA, STATE.flagA, load, store],
      [LOCAL.flagB, STATE.flagB, load, store],
      [LOCAL.flagR, STATE.flagR, load, store],
    ];
    const fetch = (local: number, at: number, op: number): void => {
      body.const32(target.stateBase);
      body.memory(op, at);
      body.set(local);
    };
    const spill = (local: number, at: number, op: number): void => {
      body.const32(target.stateBase);
      body.get(local);
      body.memory(op, at);
    };
    fetch(LOCAL.budget, STATE.budget, OP.i32_load);
    if (this.flagsTouched) for (const [local, at, op] of flagLocals) fetch(local, at, op);
    for (const index of new Set([...this.gprRead, ...this.gprWritten])) fetch(LOCAL.gpr + index, STATE.gpr + 8 * index, load);
    for (const [index, local] of this.#xmm) {
      body.const32(target.stateBase);
      body.simdMemory(SIMD.v128_load, STATE.xmm + 16 * index);
      body.set(local);
    }
    body.append(code);
    spill(LOCAL.target, STATE.rip, store);
    spill(LOCAL.budget, STATE.budget, OP.i32_store);
    if (this.flagsTouched) for (const [local, at, , op] of flagLocals) spill(local, at, op);
    for (const index of this.gprWritten) spill(LOCAL.gpr + index, STATE.gpr + 8 * index, store);
    for (const index of this.#xmmWritten) {
      body.const32(target.stateBase);
      body.get(this.#xmm.get(index) as number);
      body.simdMemory(SIMD.v128_store, STATE.xmm + 16 * index);
    }
    body.get(LOCAL.result);
    body.end();
    return body.written().slice();
  }
}
