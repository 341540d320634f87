// The interpreter: one WebAssembly function that performs a block program (program.ts), operation by operation.
//
//    interpret(program, execTag):
//      executions granted to the block are used up  -> warm (TypeScript counts heat, and grants more)
//      the budget does not cover the block          -> short (the evaluator's)
//      operations, each found by its number, until one of them returns
//
//    program:  executions left i32 | instructions u32 | executions granted u32 | bytes of code u32 | operations
//
// A block pays for all its instructions before the first; who leaves in the middle gives the rest back.
import { STATE } from '../state-layout.ts';
import { CodeBuffer, OP, TYPE } from '../translate/code-buffer.ts';
import { ENDED, LOCAL, OPERATIONS, type OperationPlaces } from './operations.ts';

export const PROGRAM = { left: 0, insns: 4, granted: 8, codeBytes: 12, operations: 16 } as const;

export interface InterpreterPlaces extends Omit<OperationPlaces, 'bail'> {
  /** Linear address of a u64: instructions that were performed here. */
  readonly counter: number;
}

/** The body of the function: (i32, i32) -> i32, one of ENDED. */
export function interpreterBody(places: InterpreterPlaces): Uint8Array {
  const c = new CodeBuffer(65536);
  c.u32(2);
  c.u32(4);
  c.byte(TYPE.i32);
  c.u32(2);
  c.byte(TYPE.i64);
  begin(c, places);
  perform(c, places);
  bail(c, places);
  c.end();
  return c.written().slice();
}

const leave = (c: CodeBuffer, how: number): void => {
  c.open(OP.if);
  c.const32(how);
  c.byte(OP.return);
  c.end();
};

/** counter := counter `op` the u32 at `offset` behind a local. */
function count(c: CodeBuffer, counter: number, local: number, offset: number, op: number): void {
  c.const32(counter);
  c.const32(counter);
  c.memory(OP.i64_load, 0);
  c.get(local);
  c.memory(OP.i64_load32_u, offset);
  c.byte(op);
  c.memory(OP.i64_store, 0);
}

/** Are there executions left, does the budget do? Then both are paid, and LOCAL.pc is at the first operation. */
function begin(c: CodeBuffer, { stateBase, counter }: InterpreterPlaces): void {
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, PROGRAM.left);
  c.tee(LOCAL.entry);
  c.byte(OP.i32_eqz);
  leave(c, ENDED.warm);
  c.const32(stateBase);
  c.memory(OP.i32_load, STATE.budget);
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, PROGRAM.insns);
  c.byte(OP.i32_sub);
  c.tee(LOCAL.budget);
  c.const32(0);
  c.byte(OP.i32_lt_s);
  leave(c, ENDED.short);
  c.const32(stateBase);
  c.get(LOCAL.budget);
  c.memory(OP.i32_store, STATE.budget);
  c.get(LOCAL.pc);
  c.get(LOCAL.entry);
  c.const32(1);
  c.byte(OP.i32_sub);
  c.memory(OP.i32_store, PROGRAM.left);
  count(c, counter, LOCAL.pc, PROGRAM.insns, OP.i64_add);
  c.get(LOCAL.pc);
  c.const32(PROGRAM.operations);
  c.byte(OP.i32_add);
  c.set(LOCAL.pc);
}

/** Operation by operation; who bails comes out behind it, with the block $bail closed. */
function perform(c: CodeBuffer, places: InterpreterPlaces): void {
  const total = OPERATIONS.length;
  c.open(OP.block); // $bail
  c.open(OP.loop); // $next
  for (let i = 0; i < total; i++) c.open(OP.block);
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, 0);
  c.byte(OP.br_table);
  c.u32(total - 1);
  for (let i = 0; i < total; i++) c.u32(i);
  OPERATIONS.forEach((operation, i) => {
    c.end();
    const blocksLeft = total - 1 - i;
    operation.emit(c, { ...places, bail: (to, depth) => to.br(depth + blocksLeft + 1) });
    if (!operation.goesOn) return;
    c.get(LOCAL.pc);
    c.const32(4 * operation.words);
    c.byte(OP.i32_add);
    c.set(LOCAL.pc);
    c.br(blocksLeft);
  });
  c.end();
  c.byte(OP.unreachable);
  c.end();
}

/** The instruction is the evaluator's, from its start: what was paid for it and those behind it is given back. */
function bail(c: CodeBuffer, { stateBase, counter }: InterpreterPlaces): void {
  c.const32(stateBase);
  c.get(LOCAL.insn);
  c.memory(OP.i32_load, 4);
  c.memory(OP.i32_store, STATE.rip);
  c.const32(stateBase);
  c.get(LOCAL.budget);
  c.get(LOCAL.insn);
  c.memory(OP.i32_load, 8);
  c.byte(OP.i32_add);
  c.memory(OP.i32_store, STATE.budget);
  count(c, counter, LOCAL.insn, 8, OP.i64_sub);
  c.const32(ENDED.stop);
}
