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
  const { stateBase } = places;
  c.u32(2);
  c.u32(4);
  c.byte(TYPE.i32);
  c.u32(2);
  c.byte(TYPE.i64);
  // 1. Executions left?
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, PROGRAM.left);
  c.tee(LOCAL.entry);
  c.byte(OP.i32_eqz);
  c.open(OP.if);
  c.const32(ENDED.warm);
  c.byte(OP.return);
  c.end();
  // 2. Pay.
  c.const32(stateBase);
  c.memory(OP.i32_load, STATE.budget);
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, PROGRAM.insns);
  c.byte(OP.i32_sub);
  c.tee(LOCAL.budget);
  c.const32(0);
  c.byte(OP.i32_lt_s);
  c.open(OP.if);
  c.const32(ENDED.short);
  c.byte(OP.return);
  c.end();
  c.const32(stateBase);
  c.get(LOCAL.budget);
  c.memory(OP.i32_store, STATE.budget);
  c.get(LOCAL.pc);
  c.get(LOCAL.entry);
  c.const32(1);
  c.byte(OP.i32_sub);
  c.memory(OP.i32_store, PROGRAM.left);
  c.const32(places.counter);
  c.const32(places.counter);
  c.memory(OP.i64_load, 0);
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, PROGRAM.insns);
  c.byte(OP.i64_extend_i32_u);
  c.byte(OP.i64_add);
  c.memory(OP.i64_store, 0);
  c.get(LOCAL.pc);
  c.const32(PROGRAM.operations);
  c.byte(OP.i32_add);
  c.set(LOCAL.pc);
  // 3. Perform.
  const count = OPERATIONS.length;
  c.open(OP.block); // $bail
  c.open(OP.loop); // $next
  for (let i = 0; i < count; i++) c.open(OP.block);
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, 0);
  c.byte(OP.br_table);
  c.u32(count - 1);
  for (let i = 0; i < count; i++) c.u32(i);
  OPERATIONS.forEach((operation, i) => {
    c.end();
    const blocksLeft = count - 1 - i;
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
  // 4. Bail: the instruction is the evaluator's, from its start.
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
  c.const32(places.counter);
  c.const32(places.counter);
  c.memory(OP.i64_load, 0);
  c.get(LOCAL.insn);
  c.memory(OP.i64_load32_u, 8);
  c.byte(OP.i64_sub);
  c.memory(OP.i64_store, 0);
  c.const32(ENDED.stop);
  c.end();
  return c.written().slice();
}
