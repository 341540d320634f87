// What translated code does of the x87 by itself: an instruction as a task for one function of WebAssembly
// (../translate/x87-unit.ts), packed into a word. The function does the ordinary: numbers that are normal or zero, exceptions
// masked, rounding to nearest, a stack that neither over- nor underflows. Of everything else nothing has happened when it
// says so, and the evaluator performs the row of system/x87.ts, which says what all of it means.
//
//    pops 15..16 | from 12..14 | to 9..11 | source 5..8 | task 0..4            reversed: bit 17
import type { Insn } from '../decode.ts';
import type { MemRef } from '../ir.ts';

export const TASK = {
  push: 0, storeRegister: 1, add: 2, subtract: 3, multiply: 4, divide: 5, compare: 6, compareToFlags: 7,
  storeSingle: 8, storeDouble: 9, storeExtended: 10, storeInt16: 11, storeInt32: 12, storeInt64: 13,
  exchange: 14, changeSign: 15, clearSign: 16, statusWord: 17, storeStatus: 18, storeControl: 19, loadControl: 20,
} as const;
/** Where the second operand comes from. */
export const SOURCE = { none: 0, register: 1, single: 2, double: 3, extended: 4, int16: 5, int32: 6, int64: 7, one: 8, zero: 9 } as const;
export const FIELD = { task: [0, 5], source: [5, 4], to: [9, 3], from: [12, 3], pops: [15, 2], reversed: [17, 1] } as const;

export interface Quick {
  readonly code: number;
  readonly mem?: MemRef;
  /** Of the memory operand; 10 for extended numbers. */
  readonly sizeBytes: number;
  readonly writes: boolean;
  /** Opcode to remember together with the addresses of instruction and operand; without it they stay (control instructions). */
  readonly opcode?: number;
  /** What the function's answer holds besides. */
  readonly into?: 'flags' | 'ax';
}

interface Fields {
  readonly task: keyof typeof TASK;
  readonly source?: keyof typeof SOURCE;
  readonly to?: number;
  readonly from?: number;
  readonly pops?: number;
  readonly reversed?: boolean;
}
const packed = ({ task, source = 'none', to = 0, from = 0, pops = 0, reversed = false }: Fields): number =>
  TASK[task] | (SOURCE[source] << FIELD.source[0]) | (to << FIELD.to[0]) | (from << FIELD.from[0]) | (pops << FIELD.pops[0]) | (reversed ? 1 << FIELD.reversed[0] : 0);

interface MemoryFormat {
  readonly source: keyof typeof SOURCE;
  readonly store: keyof typeof TASK;
  readonly sizeBytes: number;
}
const MEMORY: Readonly<Record<string, MemoryFormat>> = {
  m32fp: { source: 'single', store: 'storeSingle', sizeBytes: 4 },
  m64fp: { source: 'double', store: 'storeDouble', sizeBytes: 8 },
  m80fp: { source: 'extended', store: 'storeExtended', sizeBytes: 10 },
  m16int: { source: 'int16', store: 'storeInt16', sizeBytes: 2 },
  m32int: { source: 'int32', store: 'storeInt32', sizeBytes: 4 },
  m64int: { source: 'int64', store: 'storeInt64', sizeBytes: 8 },
};
const pop = (name: string): number => (name.endsWith('pp') ? 2 : name.endsWith('p') ? 1 : 0);
const st = (insn: Insn, at: number): number => {
  const operand = insn.operands[at];
  return operand?.kind === 'st' ? operand.index : 0;
};

const OPERATIONS: Readonly<Record<string, Pick<Fields, 'task' | 'reversed'>>> = {
  add: { task: 'add' }, sub: { task: 'subtract' }, subr: { task: 'subtract', reversed: true }, mul: { task: 'multiply' }, div: { task: 'divide' }, divr: { task: 'divide', reversed: true },
};
type Form = (insn: Insn, memory: MemoryFormat | undefined) => Fields | undefined;
const arithmetic = (name: string, pops: number): Form => (insn, memory) => {
  const operation = OPERATIONS[name] as (typeof OPERATIONS)[string];
  return memory === undefined ? { ...operation, source: 'register', to: st(insn, 0), from: st(insn, 1), pops } : { ...operation, source: memory.source };
};
const load: Form = (insn, memory) => ({ task: 'push', ...(memory === undefined ? { source: 'register', from: st(insn, 0) } : { source: memory.source }) });
const store: Form = (insn, memory) => {
  const pops = pop(insn.mnemonic.toLowerCase());
  return memory === undefined ? { task: 'storeRegister', source: 'register', to: st(insn, 0), pops } : { task: memory.store, pops };
};
const comparison = (task: 'compare' | 'compareToFlags'): Form => (insn, memory) => {
  const pops = pop(insn.mnemonic.toLowerCase());
  return memory === undefined ? { task, source: 'register', from: insn.operands.length === 0 ? 1 : st(insn, insn.operands.length - 1), pops } : { task, source: memory.source, pops };
};

const FORMS: Readonly<Record<string, Form>> = {
  Fld: load, Fild: load, Fst: store, Fstp: store, Fist: store, Fistp: store,
  Fld1: () => ({ task: 'push', source: 'one' }), Fldz: () => ({ task: 'push', source: 'zero' }),
  ...Object.fromEntries(Object.keys(OPERATIONS).flatMap((name): [string, Form][] => [[`F${name}`, arithmetic(name, 0)], [`F${name}p`, arithmetic(name, 1)], [`Fi${name}`, arithmetic(name, 0)]])),
  ...Object.fromEntries(['Fcom', 'Fcomp', 'Fcompp', 'Fucom', 'Fucomp', 'Fucompp', 'Ficom', 'Ficomp'].map((name): [string, Form] => [name, comparison('compare')])),
  ...Object.fromEntries(['Fcomi', 'Fcomip', 'Fucomi', 'Fucomip'].map((name): [string, Form] => [name, comparison('compareToFlags')])),
  Ftst: () => ({ task: 'compare', source: 'zero' }),
  Fxch: (insn) => ({ task: 'exchange', source: 'register', from: st(insn, 1) }),
  Fchs: () => ({ task: 'changeSign' }), Fabs: () => ({ task: 'clearSign' }),
};
const CONTROLS: Readonly<Record<string, readonly [memory: keyof typeof TASK, register?: keyof typeof TASK]>> = { Fnstsw: ['storeStatus', 'statusWord'], Fnstcw: ['storeControl'], Fldcw: ['loadControl'] };
const WRITES: ReadonlySet<number> = new Set([TASK.storeSingle, TASK.storeDouble, TASK.storeExtended, TASK.storeInt16, TASK.storeInt32, TASK.storeInt64, TASK.storeStatus, TASK.storeControl]);

/** The task of an instruction, if it is one; `ref` says where a memory operand is. */
export function quickOf(insn: Insn, ref: (at: number) => MemRef): Quick | undefined {
  const at = insn.operands.findIndex(({ kind }) => kind === 'mem');
  const mem = at < 0 ? {} : { mem: ref(at) };
  const control = CONTROLS[insn.mnemonic];
  if (control !== undefined) {
    const task = control[at < 0 ? 1 : 0];
    if (task === undefined) return undefined;
    return { code: packed({ task }), sizeBytes: 2, writes: WRITES.has(TASK[task]), ...(task === 'statusWord' ? { into: 'ax' } : mem) };
  }
  const memory = at < 0 ? undefined : MEMORY[insn.code.slice(insn.code.indexOf('_') + 1)];
  if (at >= 0 && memory === undefined) return undefined;
  const fields = FORMS[insn.mnemonic]?.(insn, memory);
  if (fields === undefined) return undefined;
  const code = packed(fields);
  return { code, sizeBytes: memory?.sizeBytes ?? 0, writes: WRITES.has(TASK[fields.task]), opcode: insn.fpuOpcode, ...mem, ...(fields.task === 'compareToFlags' ? { into: 'flags' } : {}) };
}
