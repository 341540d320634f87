// What block programs are made of: small operations over cells, eight bytes each, in linear memory. A general
// register is a cell, so is a temporary, a constant, an operand of the flags. A value of up to 32 bits is in the low
// half of its cell, zero-extended to all of it.
//
//    operation in a program:  number u32 | operands u32 ... (addresses of cells, numbers)
//
// An operator of the IR becomes an operation by way of the translator's own emitter: there is no second semantics.
// Those whose code comes out the same share a number.
import { assert } from '../../base/assert.ts';
import type { BinOp, CmpOp, Expr, UnOp, Width } from '../ir.ts';
import { STATE } from '../state-layout.ts';
import { TLB, TLB_ENTRIES } from '../tlb-layout.ts';
import { CodeBuffer, OP } from '../translate/code-buffer.ts';
import { emitExpr, type Reads } from '../translate/expression.ts';

/** Parameters and locals of the interpreter's function. */
export const LOCAL = { pc: 0, execTag: 1, budget: 2, insn: 3, host: 4, entry: 5, at: 6, value: 7 } as const;

/** What the interpreter leaves with; the first two as regions do. */
export const ENDED = { next: 0, stop: 1, warm: 3, short: 4 } as const;

/** What the code of an operation depends on. */
export interface OperationPlaces {
  readonly stateBase: number;
  readonly tlbBase: number;
  /** Function indices. */
  readonly slowRead: number;
  readonly slowWrite: number;
  readonly statusImage: number;
  /** Leaves the instruction at LOCAL.insn to the evaluator; `depth` constructs are open in the operation. */
  bail(c: CodeBuffer, depth: number): void;
}
export interface Operation {
  /** With the number. */
  readonly words: number;
  /** False: it ends the program by returning. */
  readonly goesOn: boolean;
  emit(c: CodeBuffer, places: OperationPlaces): void;
}

const WIDTHS: readonly Width[] = [1, 8, 16, 32, 64];
export const MEMORY_WIDTHS: readonly Width[] = [8, 16, 32, 64];
const BIN: readonly BinOp[] = ['add', 'sub', 'mul', 'and', 'or', 'xor', 'shl', 'shrU', 'shrS', 'rotl', 'rotr', 'divU', 'divS', 'remU', 'remS'];
const CMP: readonly CmpOp[] = ['eq', 'ne', 'ltU', 'leU', 'ltS', 'leS'];
const UN: readonly UnOp[] = ['not', 'neg', 'clz', 'ctz', 'popcnt'];

const temp = (width: Width, id: number): Expr => ({ tag: 'temp', width, id });

/** Operand `at` of the operation (1 is the first). */
function word(c: CodeBuffer, at: number): void {
  c.get(LOCAL.pc);
  c.memory(OP.i32_load, 4 * at);
}
function cell(c: CodeBuffer, at: number, width: Width): void {
  word(c, at);
  c.memory(width === 64 ? OP.i64_load : OP.i32_load, 0);
}
/** Stores what is on the stack above the address of the cell. */
function put(c: CodeBuffer, width: Width): void {
  if (width !== 64) c.byte(OP.i64_extend_i32_u);
  c.memory(OP.i64_store, 0);
}

/** result | operands: an operator of the IR over temporaries 0, 1, 2. */
function operator(expr: Expr, result: Width, operands: readonly Width[]): Operation {
  return {
    words: 2 + operands.length,
    goesOn: true,
    emit(c) {
      const no = (): never => {
        throw new RangeError('an operation reads cells only');
      };
      const reads: Reads = { temp: (id) => cell(c, 2 + id, operands[id] as Width), reg: no, flag: no, cond: no, df: no, eflags: no, segBase: no, selector: no, xmm: no, mm: no };
      word(c, 1);
      emitExpr(c, reads, expr);
      put(c, result);
    },
  };
}

/** result | address: a copy, zero-extended. */
const copy = (load: number, wide: boolean): Operation => ({
  words: 3,
  goesOn: true,
  emit(c) {
    word(c, 1);
    word(c, 2);
    c.memory(load, 0);
    put(c, wide ? 64 : 32);
  },
});
/** address | value: part of a register. */
const merge = (store: number): Operation => ({
  words: 3,
  goesOn: true,
  emit(c) {
    word(c, 1);
    cell(c, 2, 32);
    c.memory(store, 0);
  },
});

/**
 * LOCAL.host := where the access is. Its address is the cell at operand `at` and the signed displacement behind it.
 * A hit is judged as translated code judges it (tlb-layout.ts).
 */
function access(c: CodeBuffer, places: OperationPlaces, at: number, width: Width, kind: 'read' | 'write'): void {
  const sizeBytes = width / 8;
  const tag = places.tlbBase + (kind === 'read' ? TLB.readSup : TLB.writeSup) - TLB.execSup;
  cell(c, at, 64);
  word(c, at + 1);
  c.byte(OP.i64_extend_i32_s);
  c.byte(OP.i64_add);
  c.tee(LOCAL.at);
  c.const64(6n);
  c.byte(OP.i64_shr_u);
  c.byte(OP.i32_wrap_i64);
  c.const32((TLB_ENTRIES - 1) << 6);
  c.byte(OP.i32_and);
  c.tee(LOCAL.entry);
  c.get(LOCAL.execTag);
  c.byte(OP.i32_add);
  c.memory(OP.i64_load, tag);
  c.get(LOCAL.at);
  c.const64(BigInt(sizeBytes - 1));
  c.byte(OP.i64_add);
  c.const64(-4096n);
  c.byte(OP.i64_and);
  c.byte(OP.i64_ne);
  c.open(OP.if);
  c.get(LOCAL.at);
  c.const32(sizeBytes);
  c.index(OP.call, kind === 'read' ? places.slowRead : places.slowWrite);
  c.tee(LOCAL.host);
  c.byte(OP.i32_eqz);
  c.open(OP.if);
  places.bail(c, 2);
  c.end();
  c.byte(OP.else);
  c.get(LOCAL.at);
  c.byte(OP.i32_wrap_i64);
  c.get(LOCAL.entry);
  c.memory(OP.i32_load, places.tlbBase + TLB.addend);
  c.byte(OP.i32_add);
  c.set(LOCAL.host);
  c.end();
}

const LOADS: Readonly<Partial<Record<Width, number>>> = { 8: OP.i32_load8_u, 16: OP.i32_load16_u, 32: OP.i32_load, 64: OP.i64_load };
const STORES: Readonly<Partial<Record<Width, number>>> = { 8: OP.i32_store8, 16: OP.i32_store16, 32: OP.i32_store, 64: OP.i64_store };

/** result | address | displacement */
const load = (width: Width, kind: 'read' | 'write'): Operation => ({
  words: 4,
  goesOn: true,
  emit(c, places) {
    access(c, places, 2, width, kind);
    word(c, 1);
    c.get(LOCAL.host);
    c.memory(LOADS[width] as number, 0);
    put(c, width);
  },
});
/** address | displacement | value */
const store = (width: Width): Operation => ({
  words: 4,
  goesOn: true,
  emit(c, places) {
    access(c, places, 1, width, 'write');
    c.get(LOCAL.host);
    cell(c, 3, width);
    c.memory(STORES[width] as number, 0);
  },
});
/** address | displacement */
const probe = (width: Width): Operation => ({ words: 3, goesOn: true, emit: (c, places) => access(c, places, 1, width, 'write') });

/** rip := the halves at operands `at` and behind it. */
function ripFrom(c: CodeBuffer, stateBase: number, at: number): void {
  for (const half of [0, 1]) {
    c.const32(stateBase);
    word(c, at + half);
    c.memory(OP.i32_store, STATE.rip + 4 * half);
  }
}
const returns = (c: CodeBuffer, result: number): void => {
  c.const32(result);
  c.byte(OP.return);
};

const SPECIALS = {
  /** rip's low half | instructions of the block from here on: where the evaluator takes over, if one of the next operations says so. */
  insn: {
    words: 3,
    goesOn: true,
    emit(c) {
      c.get(LOCAL.pc);
      c.set(LOCAL.insn);
    },
  },
  /** condition */
  bailIf: {
    words: 2,
    goesOn: true,
    emit(c, places) {
      cell(c, 1, 32);
      c.open(OP.if);
      places.bail(c, 1);
      c.end();
    },
  },
  /** address: bits 47 to 63 must be alike. */
  canonical: {
    words: 2,
    goesOn: true,
    emit(c, places) {
      cell(c, 1, 64);
      c.tee(LOCAL.at);
      c.const64(16n);
      c.byte(OP.i64_shl);
      c.const64(16n);
      c.byte(OP.i64_shr_s);
      c.get(LOCAL.at);
      c.byte(OP.i64_ne);
      c.open(OP.if);
      places.bail(c, 1);
      c.end();
    },
  },
  /** condition | bytes: goes on that far behind this operation if the condition is 0. */
  unless: {
    words: 3,
    goesOn: true,
    emit(c) {
      cell(c, 1, 32);
      c.byte(OP.i32_eqz);
      c.open(OP.if);
      c.get(LOCAL.pc);
      word(c, 2);
      c.byte(OP.i32_add);
      c.set(LOCAL.pc);
      c.end();
    },
  },
  /** producer | a | b | r */
  flags: {
    words: 5,
    goesOn: true,
    emit(c, { stateBase }) {
      for (const at of [2, 3, 4]) {
        c.const32(stateBase);
        cell(c, at, 64);
      }
      c.memory(OP.i64_store, STATE.flagR);
      c.memory(OP.i64_store, STATE.flagB);
      c.memory(OP.i64_store, STATE.flagA);
      c.const32(stateBase);
      word(c, 1);
      c.memory(OP.i32_store, STATE.flagOp);
    },
  },
  /** result: the six status bits as in eflags, whatever the producer. */
  image: {
    words: 2,
    goesOn: true,
    emit(c, { stateBase, statusImage }) {
      word(c, 1);
      c.const32(stateBase);
      c.memory(OP.i32_load, STATE.flagOp);
      for (const at of [STATE.flagA, STATE.flagB, STATE.flagR]) {
        c.const32(stateBase);
        c.memory(OP.i64_load, at);
      }
      c.index(OP.call, statusImage);
      put(c, 32);
    },
  },
  /** low half | high half: rip goes there. */
  goto: {
    words: 3,
    goesOn: false,
    emit(c, { stateBase }) {
      ripFrom(c, stateBase, 1);
      returns(c, ENDED.next);
    },
  },
  /** condition | halves of where to, if it holds | halves of where else */
  branch: {
    words: 6,
    goesOn: false,
    emit(c, { stateBase }) {
      c.get(LOCAL.pc);
      c.const32(8);
      c.const32(0);
      cell(c, 1, 32);
      c.byte(OP.select);
      c.byte(OP.i32_sub);
      c.set(LOCAL.pc);
      ripFrom(c, stateBase, 4);
      returns(c, ENDED.next);
    },
  },
  /** address: rip goes there. */
  jump: {
    words: 2,
    goesOn: false,
    emit(c, { stateBase }) {
      c.const32(stateBase);
      cell(c, 1, 64);
      c.memory(OP.i64_store, STATE.rip);
      returns(c, ENDED.next);
    },
  },
  /** rip's low half: the instruction there is the evaluator's. */
  stop: {
    words: 2,
    goesOn: false,
    emit(c, { stateBase }) {
      c.const32(stateBase);
      word(c, 1);
      c.memory(OP.i32_store, STATE.rip);
      returns(c, ENDED.stop);
    },
  },
  read8: copy(OP.i32_load8_u, false),
  read16: copy(OP.i32_load16_u, false),
  copy32: copy(OP.i32_load, false),
  copy64: copy(OP.i64_load, true),
  merge8: merge(OP.i32_store8),
  merge16: merge(OP.i32_store16),
} as const satisfies Readonly<Record<string, Operation>>;

const resizeName = (tag: 'zext' | 'sext' | 'trunc', from: Width, to: Width): string => `${tag} ${from} ${to}`;

function* allOperations(): Generator<[string, Operation]> {
  yield* Object.entries(SPECIALS);
  for (const width of WIDTHS) {
    for (const op of BIN) yield [`${op} ${width}`, operator({ tag: 'bin', op, width, a: temp(width, 0), b: temp(width, 1) }, width, [width, width])];
    for (const op of UN) yield [`${op} ${width}`, operator({ tag: 'un', op, width, a: temp(width, 0) }, width, [width])];
    for (const op of CMP) yield [`${op} ${width}`, operator({ tag: 'cmp', op, a: temp(width, 0), b: temp(width, 1) }, 1, [width, width])];
    for (const from of WIDTHS) {
      if (from < width) for (const tag of ['zext', 'sext'] as const) yield [resizeName(tag, from, width), operator({ tag, width, a: temp(from, 0) }, width, [from])];
      if (from > width) yield [resizeName('trunc', from, width), operator({ tag: 'trunc', width, a: temp(from, 0) }, width, [from])];
    }
  }
  for (const width of [32, 64] as const) yield [`select ${width}`, operator({ tag: 'select', width, cond: temp(1, 0), then: temp(width, 1), else: temp(width, 2) }, width, [1, width, width])];
  for (const width of MEMORY_WIDTHS) {
    yield [`load ${width}`, load(width, 'read')];
    yield [`loadForWrite ${width}`, load(width, 'write')];
    yield [`store ${width}`, store(width)];
    yield [`probe ${width}`, probe(width)];
  }
}

/** Numbers by name; and the operations by number. */
const NUMBER_OF = new Map<string, number>();
export const OPERATIONS: Operation[] = [];
{
  const nowhere: OperationPlaces = { stateBase: 0, tlbBase: 1024, slowRead: 0, slowWrite: 1, statusImage: 2, bail: (c, depth) => c.br(depth) };
  const known = new Map<string, number>();
  const c = new CodeBuffer(512);
  for (const [name, operation] of allOperations()) {
    c.reset();
    operation.emit(c, nowhere);
    const code = `${operation.words} ${c.written().join()}`;
    let number = known.get(code);
    if (number === undefined) known.set(code, (number = OPERATIONS.push(operation) - 1));
    NUMBER_OF.set(name, number);
  }
}
function numberOf(name: string): number {
  const found = NUMBER_OF.get(name);
  assert(found !== undefined, () => `there is no operation ${name}`);
  return found;
}
/** Numbers by operator and width (as a bit: 1, 8, 16, 32, 64), for makers of programs in a hurry. */
function byWidth<Name extends string>(names: readonly Name[], widths: readonly Width[] = WIDTHS): Readonly<Record<Name, readonly number[]>> {
  const rows = names.map((name): [Name, number[]] => {
    const row: number[] = [];
    for (const width of widths) row[width] = numberOf(`${name} ${width}`);
    return [name, row];
  });
  return Object.fromEntries(rows) as Record<Name, number[]>;
}
export const SPECIAL = {
  ...(Object.fromEntries(Object.keys(SPECIALS).map((name) => [name, numberOf(name)])) as Readonly<Record<keyof typeof SPECIALS, number>>),
  select32: numberOf('select 32'),
  select64: numberOf('select 64'),
};
export const OPERATOR = { ...byWidth(BIN), ...byWidth(UN), ...byWidth(CMP) };
export const ACCESS = byWidth(['load', 'loadForWrite', 'store', 'probe'], MEMORY_WIDTHS);
/** By 128 * width before + width after. */
export const RESIZE: Readonly<Record<'zext' | 'sext' | 'trunc', readonly number[]>> = { zext: [], sext: [], trunc: [] };
for (const tag of ['zext', 'sext', 'trunc'] as const) {
  for (const from of WIDTHS) for (const to of WIDTHS) if (tag === 'trunc' ? from > to : from < to) (RESIZE[tag] as number[])[128 * from + to] = numberOf(resizeName(tag, from, to));
}
