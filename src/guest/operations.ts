// What a guest written in TypeScript asks of its processor. Its code is generators: between two
// operations it computes, and whatever touches the machine it yields:
//
//   const entry = yield m.load32(pteVaddr);      // the answer, u32; a high half is in m.hi
//   yield m.store32(pteVaddr, entry | PTE.rw);
//
// Each operation has a row: what it costs in retired instructions, and the machine code that stands
// for it. The instruction pointer of a guest that is about to perform an operation is the address of
// that code (a stub in the kernel's first page), so that a hypervisor which looks at the instruction
// it interrupted (to emulate a store, to name a position, to disassemble) finds a true one. Of an
// operation that costs more than one, the last instruction has the effect; the others set up registers.
//
// What the processor can do at once need not leave the code: a task that is asked for by `yield* m.read32(vaddr)`
// is over when it is handed out, unless the budget ends, the access faults or an interrupt waits; then the same
// operation is yielded. Which of the two happened, nobody can tell afterwards.
//
// Who performs them: sim/model-processor.ts.
import { assert } from '../base/assert.ts';

export interface OperationRow {
  /** Retired instructions. `compute` costs what it says, `repeat` rows one for each word. */
  readonly cost: number;
  /** The instruction with the effect. */
  readonly code: readonly number[];
  /**
   * fast: memory through the paging unit, performed at once.
   * insn: the processor runs the code itself, operands in registers; answers EAX, high half EDX.
   * hypercall: INT 82h, number in EAX, arguments in EBX ECX EDX ESI EDI; answers EAX.
   */
  readonly how: 'fast' | 'insn' | 'hypercall';
}
const fast = (cost: number, ...code: number[]): OperationRow => ({ cost, code, how: 'fast' });
const insn = (cost: number, ...code: number[]): OperationRow => ({ cost, code, how: 'insn' });

/** One row an operation; operands in the comments, as the methods of MachinePort take them. */
export const OPERATIONS = {
  compute: fast(1, 0x90), // nop, n times
  load8: fast(1, 0x8a, 0x07), // mov (%edi),%al
  load32: fast(1, 0x8b, 0x07), // mov (%edi),%eax
  load64: fast(2, 0x8b, 0x57, 0x04), // mov (%edi),%eax; mov 4(%edi),%edx
  store8: fast(1, 0x88, 0x07), // mov %al,(%edi)
  store32: fast(1, 0x89, 0x07), // mov %eax,(%edi)
  exchange32: fast(1, 0x87, 0x07), // xchg %eax,(%edi)
  store64: fast(4, 0xf0, 0x0f, 0xc7, 0x0f), // lock cmpxchg8b (%edi): eight bytes at once
  or32: fast(2, 0xf0, 0x09, 0x07), // lock or %eax,(%edi); answers what was there
  and32: fast(2, 0xf0, 0x21, 0x07), // lock and %eax,(%edi); answers what was there
  zeroPage: fast(1024, 0xf3, 0xab), // rep stos
  copyPage: fast(1024, 0xf3, 0xa5), // rep movs
  readBytes: fast(1, 0xf3, 0xa5), // rep movs, a word at a time, into m.bytes
  writeBytes: fast(1, 0xf3, 0xa5), // rep movs, a word at a time
  readWords: fast(1, 0xf3, 0xa5), // rep movs into m.words, inside one page
  writeWords: fast(1, 0xf3, 0xa5), // rep movs, inside one page
  tsc: fast(1, 0x0f, 0x31), // rdtsc
  hypercall: { cost: 6, code: [0xcd, 0x82], how: 'hypercall' }, // int $0x82
  iretHypercall: { cost: 2, code: [0xcd, 0x82], how: 'hypercall' }, // the same, and never comes back here
  iret: insn(1, 0xcf),
  cli: insn(1, 0xfa),
  sti: insn(1, 0xfb),
  hlt: insn(1, 0xf4),
  readFlags: insn(2, 0x58), // pushf; pop %eax: performed by the processor model from its flags
  readCr0: insn(1, 0x0f, 0x20, 0xc0), writeCr0: insn(1, 0x0f, 0x22, 0xc0),
  readCr2: insn(1, 0x0f, 0x20, 0xd0), writeCr2: insn(1, 0x0f, 0x22, 0xd0),
  readCr3: insn(1, 0x0f, 0x20, 0xd8), writeCr3: insn(1, 0x0f, 0x22, 0xd8),
  readCr4: insn(1, 0x0f, 0x20, 0xe0), writeCr4: insn(1, 0x0f, 0x22, 0xe0),
  clts: insn(1, 0x0f, 0x06),
  invlpg: insn(1, 0x0f, 0x01, 0x3f), // invlpg (%edi)
  lgdt: insn(1, 0x0f, 0x01, 0x17), // lgdt (%edi)
  lidt: insn(1, 0x0f, 0x01, 0x1f),
  sgdt: insn(1, 0x0f, 0x01, 0x07),
  sidt: insn(1, 0x0f, 0x01, 0x0f),
  lldt: insn(1, 0x0f, 0x00, 0xd0), // lldt %ax
  ltr: insn(1, 0x0f, 0x00, 0xd8),
  str: insn(1, 0x0f, 0x00, 0xc8),
  loadGs: insn(1, 0x8e, 0xe8), // mov %eax,%gs
  loadFs: insn(1, 0x8e, 0xe0),
  readDr: insn(1, 0x0f, 0x21, 0xf8), // mov %dr7,%eax; others have no use here
  writeDr: insn(1, 0x0f, 0x23, 0xf8),
  cpuid: insn(1, 0x0f, 0xa2),
  rdmsr: insn(1, 0x0f, 0x32),
  wrmsr: insn(1, 0x0f, 0x30),
  wbinvd: insn(1, 0x0f, 0x09),
  out8: insn(1, 0xee), // out %al,(%dx)
  out32: insn(1, 0xef), // out %eax,(%dx)
  in32: insn(1, 0xed),
  compareExchange32: fast(2, 0xf0, 0x0f, 0xb1, 0x0f), // lock cmpxchg %ecx,(%edi), EAX the expected value; answers what was there
} as const satisfies Readonly<Record<string, OperationRow>>;
export type OperationName = keyof typeof OPERATIONS;

export const OPERATION_NAMES = Object.keys(OPERATIONS) as readonly OperationName[];
/** Operations by number: the index of their row. */
export const OP = Object.fromEntries(OPERATION_NAMES.map((name, index) => [name, index])) as { readonly [N in OperationName]: number };
/** The rows by number. */
export const OPERATION_ROWS: readonly OperationRow[] = OPERATION_NAMES.map((name) => OPERATIONS[name]);

/** One operation with its operands. Each context of the guest has one record, used again and again. */
export class Operation {
  kind = OP.compute;
  /** Retired instructions, the one with the effect included. */
  cost = 1;
  /** Address, hypercall number or first operand. */
  a = 0;
  b = 0;
  c = 0;
  d = 0;
  e = 0;
  f = 0;
  /** Answer: high half, bytes. */
  hi = 0;
  bytes: Uint8Array | undefined;
  /** Operand or answer of the operations on words. */
  words: Uint32Array | undefined;
  /** Where readWords leaves its answer: one page, used again and again. */
  readonly page = new Uint32Array(1024);
}

/** Code of the guest: yields operations, is given answers. */
export type Task<T = void> = Generator<Operation, T, number>;

/** The answer of a memory operation that faulted and was given up by the kernel's fault handler. */
export const FAULTED = -1;

/** Registers by encoding number. */
export const REG = { eax: 0, ecx: 1, edx: 2, ebx: 3, esp: 4, ebp: 5, esi: 6, edi: 7 } as const;

/** Registers that the guest's code reads and sets at its entries; no operation: their cost is in what stands around. */
export interface RegisterPort {
  reg(index: number): number;
  setReg(index: number, value: number): void;
}

/** What can be done between two operations: the answer, or NOT_NOW with nothing changed. */
export interface AheadPort {
  loadAhead(vaddr: number, sizeBytes: 1 | 4): number;
  /** The high half is left in `op.hi`. */
  load64Ahead(vaddr: number, op: Operation): number;
  storeAhead(vaddr: number, value: number, sizeBytes: 1 | 4): boolean;
  /** Any fast operation, as it was made. */
  performAhead(op: Operation): number;
  computeAhead(insns: number): boolean;
}
export const NOT_NOW = -1;
/** For registers without a processor. */
const NOTHING_AHEAD: AheadPort = { loadAhead: () => NOT_NOW, load64Ahead: () => NOT_NOW, storeAhead: () => false, performAhead: () => NOT_NOW, computeAhead: () => false };

/** A task that is over. There is one record: delegate to it at once, as to every operation. */
const OVER = {
  done: true, value: undefined as unknown,
  next() { return this; },
  [Symbol.iterator]() { return this; },
};
/** A task that has nothing left to do but answer. */
export function over<T>(value: T): Task<T> {
  OVER.value = value;
  return OVER as unknown as Task<T>;
}
/** A task that does nothing: a hook without work. */
export const nothing = (): Task => over(undefined);
function* answerOf(op: Operation): Task<number> {
  return yield op;
}
function* doneBy(op: Operation): Task {
  yield op;
}
function* storesOneByOne(m: MachinePort, vaddr: number, value: number, thenVaddr: number, thenValue: number): Task {
  yield m.store32(vaddr, value);
  yield m.store32(thenVaddr, thenValue);
}

/** Makes operations. All addresses are linear. */
export class MachinePort {
  /** The record of the running context: the processor changes it at entries and returns. */
  current = new Operation();
  readonly registers: RegisterPort;
  readonly #ahead: AheadPort;
  constructor(registers: RegisterPort, ahead: AheadPort = NOTHING_AHEAD) {
    this.registers = registers;
    this.#ahead = ahead;
  }

  // The same operations as tasks, which are over already where the processor can run ahead.

  read32(vaddr: number): Task<number> {
    const word = this.#ahead.loadAhead(vaddr, 4);
    return word === NOT_NOW ? answerOf(this.load32(vaddr)) : over(word);
  }
  read8(vaddr: number): Task<number> {
    const byte = this.#ahead.loadAhead(vaddr, 1);
    return byte === NOT_NOW ? answerOf(this.load8(vaddr)) : over(byte);
  }
  /** Low half; high half in m.hi. */
  read64(vaddr: number): Task<number> {
    const low = this.#ahead.load64Ahead(vaddr, this.current);
    return low === NOT_NOW ? answerOf(this.load64(vaddr)) : over(low);
  }
  write8(vaddr: number, value: number): Task {
    return this.#ahead.storeAhead(vaddr, value, 1) ? nothing() : doneBy(this.store8(vaddr, value));
  }
  write32(vaddr: number, value: number): Task {
    return this.#ahead.storeAhead(vaddr, value, 4) ? nothing() : doneBy(this.store32(vaddr, value));
  }
  /** Two stores, in this order. */
  write32Twice(vaddr: number, value: number, thenVaddr: number, thenValue: number): Task {
    return this.#ahead.storeAhead(vaddr, value, 4) ? this.write32(thenVaddr, thenValue) : storesOneByOne(this, vaddr, value, thenVaddr, thenValue);
  }
  /** As writeWords. */
  putWords(vaddr: number, words: Uint32Array, count: number): Task {
    return this.#done(this.writeWords(vaddr, words, count));
  }
  /** As readWords. */
  takeWords(vaddr: number, count: number): Task {
    return this.#done(this.readWords(vaddr, count));
  }
  fillPage(vaddr: number): Task {
    return this.#done(this.zeroPage(vaddr));
  }
  duplicatePage(toVaddr: number, fromVaddr: number): Task {
    return this.#done(this.copyPage(toVaddr, fromVaddr));
  }
  /** Of a fast operation whose answer is of no interest. */
  #done(op: Operation): Task {
    return this.#ahead.performAhead(op) === NOT_NOW ? doneBy(op) : nothing();
  }
  spend(insns: number): Task {
    return this.#ahead.computeAhead(insns) ? nothing() : doneBy(this.compute(insns));
  }
  /** The word now, or NOT_NOW: then it has to be asked for as an operation. */
  peek32(vaddr: number): number {
    return this.#ahead.loadAhead(vaddr, 4);
  }
  /** Low half; high half in m.hi. */
  peek64(vaddr: number): number {
    return this.#ahead.load64Ahead(vaddr, this.current);
  }

  /** The high half of the last answer of load64, tsc, rdmsr; EBX and so on of cpuid are in registers. */
  get hi(): number {
    return this.current.hi;
  }
  /** The answer of readBytes. */
  get bytes(): Uint8Array {
    const { bytes } = this.current;
    assert(bytes !== undefined, 'no bytes were read');
    return bytes;
  }

  op(kind: number, a = 0, b = 0): Operation {
    const op = this.current;
    op.kind = kind;
    op.cost = (OPERATION_ROWS[kind] as OperationRow).cost;
    op.a = a;
    op.b = b;
    return op;
  }
  /** `insns` instructions that touch nothing outside, at least one. */
  compute(insns: number): Operation {
    const op = this.op(OP.compute);
    op.cost = insns;
    return op;
  }
  load8 = (vaddr: number): Operation => this.op(OP.load8, vaddr);
  load32 = (vaddr: number): Operation => this.op(OP.load32, vaddr);
  /** Eight bytes, 8-aligned: low half, and high half in m.hi. */
  load64 = (vaddr: number): Operation => this.op(OP.load64, vaddr);
  store8 = (vaddr: number, value: number): Operation => this.op(OP.store8, vaddr, value);
  store32 = (vaddr: number, value: number): Operation => this.op(OP.store32, vaddr, value);
  exchange32 = (vaddr: number, value: number): Operation => this.op(OP.exchange32, vaddr, value);
  or32 = (vaddr: number, mask: number): Operation => this.op(OP.or32, vaddr, mask);
  and32 = (vaddr: number, mask: number): Operation => this.op(OP.and32, vaddr, mask);
  /** Becomes `value` if it is `expected`; answers what was there. */
  compareExchange32(vaddr: number, expected: number, value: number): Operation {
    const op = this.op(OP.compareExchange32, vaddr, value);
    op.c = expected;
    return op;
  }
  /** Eight bytes at once, 8-aligned. */
  store64(vaddr: number, lo: number, hi: number): Operation {
    const op = this.op(OP.store64, vaddr, lo);
    op.c = hi;
    return op;
  }
  zeroPage = (vaddr: number): Operation => this.op(OP.zeroPage, vaddr);
  copyPage = (toVaddr: number, fromVaddr: number): Operation => this.op(OP.copyPage, toVaddr, fromVaddr);
  /** Any range; a fault anywhere in it is raised before anything is read. */
  readBytes(vaddr: number, sizeBytes: number): Operation {
    const op = this.op(OP.readBytes, vaddr, sizeBytes);
    op.cost = 1 + (sizeBytes >>> 2);
    return op;
  }
  /** Any range; all or nothing. */
  writeBytes(vaddr: number, bytes: Uint8Array): Operation {
    const op = this.op(OP.writeBytes, vaddr);
    op.cost = 1 + (bytes.length >>> 2);
    op.bytes = bytes;
    return op;
  }
  /** The answer of readWords: good until the next one. */
  get words(): Uint32Array {
    return this.current.page;
  }
  /** `count` words, 4-aligned, inside one page. */
  readWords(vaddr: number, count: number): Operation {
    const op = this.op(OP.readWords, vaddr, count);
    op.cost = 1 + count;
    return op;
  }
  /** The first `count` of `words` go to a 4-aligned place inside one page. */
  writeWords(vaddr: number, words: Uint32Array, count: number): Operation {
    const op = this.op(OP.writeWords, vaddr, count);
    op.cost = 1 + count;
    op.words = words;
    return op;
  }
  tsc = (): Operation => this.op(OP.tsc);
  hypercall(number: number, a = 0, b = 0, c = 0, d = 0, e = 0): Operation {
    const op = this.op(OP.hypercall, number, a);
    op.c = b;
    op.d = c;
    op.e = d;
    op.f = e;
    return op;
  }
}
