// The processor of a guest written in TypeScript: the state, paging unit and traps of a real one, with
// the guest's operations (guest/operations.ts) in the place of instructions. Whoever runs it (Xen, the
// bare machine) sees a processor: a budget that ends exactly, exits as values, registers, an
// instruction pointer that names the operation at hand.
//
//   contexts: the kernel's code at an entry, interrupted code below it
//     ┌ event    pending: store32 at stub(store32)   ◄─ running
//     └ start    done: hypercall, at stub(hypercall) + 2
//
// The instruction pointer decides what goes on, since whoever handles an exit may move it:
//
//   at the pending operation's stub    it is performed (again)
//   behind it                          it has been performed; the answer is in EAX (EDX)
//   at an entry                        the kernel's code for it begins, on top of what was interrupted
//   where the interrupted code was     it goes on (the code above it has left by iret)
//   at `fixup`                         the interrupted code goes on; its operation answers FAULTED
//   ring 3                             the user program's instruction at that address
//
// Not here: saved states. A guest of generators is run again from its start instead.
import { assert, InvariantViolation } from '../../base/assert.ts';
import { entryAt, entryVaddr, stubVaddr } from '../../guest/entries.ts';
import type { GuestCode } from '../../guest/guest-code.ts';
import { FAULTED, MachinePort, NOT_NOW, OP, OPERATIONS, Operation, OPERATION_NAMES, OPERATION_ROWS, REG, type AheadPort, type OperationRow, type Task } from '../../guest/operations.ts';
import type { MachineMemory } from '../../machine/memory.ts';
import type { CpuOptions } from '../../x86/cpu.ts';
import { VECTOR, type CpuExit, type Exception } from '../../x86/exit.ts';
import { probeWrite, readBytes, readLinear, reportCode, writeBytes, writeLinear } from '../../x86/memory-access.ts';
import { lookup } from '../../x86/paging.ts';
import type { GuestProcessor, Pending } from '../../shadow/guest-processor.ts';
import { Processor } from '../../x86/processor.ts';
import { SHADOW, STATE } from '../../x86/state-layout.ts';
import { pendingOf } from './pending.ts';

const BUDGET: CpuExit = { kind: 'budget' };
const HYPERCALL_EXIT: CpuExit = { kind: 'softint', vector: 0x82, insnBytes: 2 };
const FIXUP = entryVaddr('fixup');
const GP0: Exception = { vector: VECTOR.GP, errorCode: 0 };
const IF = 0x200;
/** Nested entries before somebody must have made a mistake. */
const MOST_CONTEXTS = 64;
/** How performing an operation ended, if not with an answer (>= 0). */
const RAISED = -2;
/** Context.paid: the operation was performed. */
const DONE = -1;

interface Context {
  task: Task;
  readonly op: Operation;
  /** The operation's stub, and the address behind its instruction; before the first one the entry itself. */
  at: number;
  behind: number;
  /** What of the cost is paid, or DONE. */
  paid: number;
  /** Operands are in the registers already. */
  loaded: boolean;
  answer: number;
}

/** Operations that a host carries out for its guest: they leave as #GP does where privilege is missing. */
export type TrapSet = ReadonlySet<number>;
const NO_TRAPS: TrapSet = new Set();

export class ModelProcessor extends Processor implements GuestProcessor, AheadPort {
  override readonly restorable = false;
  readonly port: MachinePort;
  interruptLine = 0;
  readonly #traps: TrapSet;
  #code: GuestCode | undefined;
  readonly #idt: boolean;
  readonly #contexts: Context[] = [];
  readonly #user = new Operation();
  /** A record for each depth of contexts, used again and again. */
  readonly #records: Context[] = [];
  /** The instruction pointer may not be where this processor left it. */
  #moved = true;
  /** Operations performed ahead end before this count of retired instructions: the one that uses up a budget is performed in its place. */
  #aheadUntil = 0;
  #raised: Exception | undefined;
  #exit: CpuExit | undefined;

  constructor(machine: MachineMemory, options: CpuOptions, traps = NO_TRAPS) {
    super(machine, { ...options, tier: 'evaluate' });
    this.#traps = traps;
    this.#idt = options.exceptions === 'idt';
    this.port = new MachinePort(this, this);
  }

  get code(): GuestCode | undefined {
    return this.#code;
  }
  /** The guest is made with the port, so it comes after. */
  setCode(code: GuestCode): void {
    this.#code = code;
  }

  /** The operation at hand, for who emulates it: undefined in user mode and between operations. */
  pendingOperation(): Operation | undefined {
    const top = this.#contexts.at(-1);
    return top !== undefined && top.paid >= 0 && this.eip() === top.at ? top.op : undefined;
  }

  pending(): Pending | undefined {
    const op = this.pendingOperation();
    return op === undefined ? undefined : pendingOf(op);
  }
  complete(answer: number): void {
    const context = this.#contexts.at(-1) as Context;
    this.setReg(REG.eax, answer >>> 0);
    this.setEip(context.behind);
    this.addRetired(1);
  }

  override run(budgetInsns: number): CpuExit {
    const end = this.retired() + budgetInsns;
    this.#moved = true;
    this.#aheadUntil = this.interruptLine === 0 ? end : 0;
    for (;;) {
      const left = end - this.retired();
      if (left <= 0) return BUDGET;
      if (this.interruptLine !== 0 && (this.eflags() & IF) !== 0 && this.core.get32(STATE.shadow) === SHADOW.none) return { kind: 'exception', exception: { vector: this.interruptLine } };
      if (this.core.user) this.#runUser(left);
      else {
        const context = this.#moved ? this.#settle() : (this.#contexts.at(-1) as Context);
        if (typeof context === 'string') return { kind: 'unimplemented', text: context };
        if (!this.#kernelStep(context, end)) return { kind: 'unimplemented', text: 'that would follow the end of the model kernel’s code' };
      }
      if (this.#exit !== undefined) {
        const exit = this.#exit;
        this.#exit = undefined;
        return exit;
      }
    }
  }

  override restoreState(): void {
    throw new InvariantViolation('a model guest has no saved state: its world is run again from its start');
  }

  // -- the kernel -----------------------------------------------------------------------------------

  /** Finds the context that the instruction pointer belongs to, or says why there is none. */
  #settle(): Context | string {
    const contexts = this.#contexts;
    const eip = this.eip();
    this.#moved = false;
    const top = contexts.at(-1);
    if (top !== undefined && this.#continues(top, eip)) {
      this.port.current = top.op;
      return top;
    }
    const entry = entryAt(eip);
    if (entry === undefined || this.#code === undefined) return `at 0x${eip.toString(16)}, where the model kernel has no code`;
    if (contexts.length >= MOST_CONTEXTS) return `of the ${MOST_CONTEXTS}th nested entry (${entry})`;
    const task = this.#code.enter(entry);
    const context = (this.#records[contexts.length] ??= { task, op: new Operation(), at: 0, behind: 0, paid: DONE, loaded: false, answer: 0 });
    context.task = task;
    context.at = context.behind = eip;
    context.paid = DONE;
    context.loaded = false;
    context.answer = 0;
    contexts.push(context);
    this.port.current = context.op;
    return context;
  }

  /** Does the context go on at `eip`? Notes whether its operation is done. */
  #continues(context: Context, eip: number): boolean {
    if (context.paid === DONE) return eip === context.behind;
    if (eip === context.at) return true;
    if (eip === context.behind) {
      // Somebody else performed it: a hypercall was answered, an instruction emulated.
      context.answer = this.reg(REG.eax);
      context.op.hi = this.reg(REG.edx);
    } else if (eip === FIXUP) {
      context.answer = FAULTED;
      context.behind = FIXUP;
    } else return false;
    context.paid = DONE;
    return true;
  }

  /** One operation, or as much of it as can be done before `end`; what is done ahead of it comes first. False: there is none. */
  #kernelStep(context: Context, end: number): boolean {
    const { op } = context;
    if (context.paid === DONE) {
      const next = context.task.next(context.answer);
      if (next.done === true) return false;
      assert(next.value === op, () => `the guest yielded an operation that it did not just make (${OPERATION_NAMES[next.value?.kind]})`);
      context.paid = 0;
      context.loaded = false;
      context.at = stubVaddr(op.kind);
      context.behind = context.at + (OPERATION_ROWS[op.kind] as OperationRow).code.length;
      this.setEip(context.at);
    }
    const due = op.cost - context.paid;
    const budget = end - this.retired();
    if (due > budget) {
      context.paid += budget;
      this.addRetired(budget);
      return true;
    }
    if (due > 1) {
      context.paid += due - 1;
      this.addRetired(due - 1);
    }
    const row = OPERATION_ROWS[op.kind] as OperationRow;
    if (row.how === 'fast') this.#finishFast(context, this.#perform(op, false));
    else if (row.how === 'hypercall') this.#hypercall(context);
    else this.#instruction(context);
    return true;
  }

  #finishFast(context: Context, answer: number): void {
    if (answer === RAISED) return this.#raise(this.#raised as Exception);
    this.addRetired(1);
    context.answer = answer;
    context.paid = DONE;
    context.loaded = true;
    this.setEip(context.behind);
    // The shadow of STI ends with the next instruction.
    this.core.set32(STATE.shadow, SHADOW.none);
  }

  /** The exception goes to the owner, or through the IDT. */
  #raise(exception: Exception): void {
    this.#moved = true;
    if (exception.vector === VECTOR.PF && exception.cr2 !== undefined) this.setCr(2, exception.cr2);
    if (!this.#idt) this.#exit = { kind: 'exception', exception };
    else this.#exit = this.deliver(exception, false);
  }

  #hypercall(context: Context): void {
    const { op } = context;
    if (op.kind === OP.iretHypercall) this.setReg(REG.eax, op.a);
    else if (!context.loaded) {
      this.setReg(REG.eax, op.a);
      this.setReg(REG.ebx, op.b);
      this.setReg(REG.ecx, op.c);
      this.setReg(REG.edx, op.d);
      this.setReg(REG.esi, op.e);
      this.setReg(REG.edi, op.f);
      context.loaded = true;
    }
    this.#moved = true;
    if (op.kind === OP.iretHypercall) this.#contexts.pop();
    if (this.#idt) return this.#runStub();
    this.addRetired(1);
    this.setEip(context.behind);
    this.#exit = HYPERCALL_EXIT;
  }

  /** The processor itself runs the stub: address or selector in EDI, value in EAX, further operands in ECX, EDX. */
  #instruction(context: Context): void {
    const { op } = context;
    this.#moved = true;
    if (op.kind === OP.readFlags) {
      this.setReg(REG.eax, this.eflags());
      this.addRetired(1);
      this.setEip(context.behind);
      return;
    }
    if (op.kind !== OP.iret) {
      this.setReg(REG.edi, op.a);
      this.setReg(REG.eax, op.b);
      this.setReg(REG.ecx, op.c);
      this.setReg(REG.edx, op.d);
    }
    if (this.#traps.has(op.kind)) return this.#raise(GP0);
    const before = this.retired();
    this.#runStub();
    if (op.kind === OP.iret && this.retired() !== before) this.#contexts.pop();
  }

  #runStub(): void {
    const exit = super.run(1);
    if (exit.kind !== 'budget') this.#exit = exit;
  }

  // -- user mode ------------------------------------------------------------------------------------

  /** User instructions until the budget ends or one leaves. */
  #runUser(budget: number): void {
    this.#contexts.length = 0;
    this.#moved = true;
    const code = this.#code as GuestCode;
    const op = this.#user;
    let left = budget;
    while (left > 0) {
      const eip = this.eip();
      op.cost = 1;
      if (!code.fetchUser(eip, op)) {
        return this.#raise({ vector: VECTOR.UD });
      }
      if (op.kind === OP.hypercall) {
        return this.#softwareInterrupt(op.a, code.retireUser(eip, op, 0));
      }
      if (op.kind === OP.compute) {
        left = this.#compute(op, left);
        if (left < 0) return;
        this.setEip(code.retireUser(eip, op, 0));
        continue;
      }
      const answer = this.#perform(op, true);
      if (answer === RAISED) {
        return this.#raise(this.#raised as Exception);
      }
      this.addRetired(1);
      left--;
      this.setEip(code.retireUser(eip, op, answer));
    }
  }

  /** How far a computation has come is in ECX, so that it may be interrupted. What is left of the budget, -1 if it did not get through. */
  #compute(op: Operation, budget: number): number {
    const due = op.cost - this.reg(REG.ecx);
    if (due > budget) {
      this.setReg(REG.ecx, this.reg(REG.ecx) + budget);
      this.addRetired(budget);
      return -1;
    }
    this.setReg(REG.ecx, 0);
    this.addRetired(Math.max(due, 0));
    return budget - Math.max(due, 0);
  }

  #softwareInterrupt(vector: number, nextEip: number): void {
    this.#moved = true;
    this.setEip(nextEip);
    this.addRetired(1);
    if (!this.#idt) this.#exit = { kind: 'softint', vector, insnBytes: 2 };
    else this.#exit = this.deliver({ vector }, true);
  }

  // -- ahead of the next operation ------------------------------------------------------------------

  #mayRunAhead(insns: number): boolean {
    return this.retired() + insns < this.#aheadUntil && this.core.get32(STATE.shadow) === SHADOW.none;
  }
  /** A fault is raised in the operation's place, where the same look-up is made again. */
  loadAhead(vaddr: number, sizeBytes: 1 | 4): number {
    if (!this.#mayRunAhead(1)) return NOT_NOW;
    const word = readLinear(this.core, vaddr >>> 0, sizeBytes, false);
    if (word !== word) return NOT_NOW;
    this.addRetired(1);
    return word;
  }
  load64Ahead(vaddr: number, op: Operation): number {
    if ((vaddr & 7) !== 0 || !this.#mayRunAhead(OPERATIONS.load64.cost)) return NOT_NOW;
    const low = readLinear(this.core, vaddr >>> 0, 4, false);
    if (low !== low) return NOT_NOW;
    op.hi = readLinear(this.core, (vaddr >>> 0) + 4, 4, false);
    this.addRetired(OPERATIONS.load64.cost);
    return low;
  }
  storeAhead(vaddr: number, value: number, sizeBytes: 1 | 4): boolean {
    if (!this.#mayRunAhead(1) || !writeLinear(this.core, vaddr >>> 0, sizeBytes, value >>> 0, false)) return false;
    this.addRetired(1);
    return true;
  }
  performAhead(op: Operation): number {
    if (!this.#mayRunAhead(op.cost)) return NOT_NOW;
    const answer = this.#perform(op, false);
    if (answer === RAISED) return NOT_NOW;
    this.addRetired(op.cost);
    return answer;
  }
  computeAhead(insns: number): boolean {
    if (!this.#mayRunAhead(insns)) return false;
    this.addRetired(insns);
    return true;
  }

  // -- memory ---------------------------------------------------------------------------------------

  /** Performs a fast operation: its answer, or RAISED. */
  #perform(op: Operation, user: boolean): number {
    switch (op.kind) {
      case OP.compute:
        return 0;
      case OP.load32:
      case OP.load8:
      case OP.load64:
        return this.#load(op, user);
      case OP.store32:
      case OP.store8:
      case OP.store64:
      case OP.exchange32:
      case OP.compareExchange32:
      case OP.or32:
      case OP.and32:
        return this.#store(op, user);
      case OP.zeroPage:
      case OP.copyPage:
        return this.#page(op, user);
      case OP.readBytes: {
        const bytes = readBytes(this.core, op.a >>> 0, op.b, user);
        op.bytes = bytes;
        return bytes === undefined ? this.#fault() : 0;
      }
      case OP.writeBytes:
        return writeBytes(this.core, op.a >>> 0, op.bytes as Uint8Array, user) ? 0 : this.#fault();
      case OP.readWords:
      case OP.writeWords:
        return this.#words(op, user);
      case OP.tsc: {
        const tsc = this.tsc();
        op.hi = Number((tsc >> 32n) & 0xffff_ffffn);
        return Number(tsc & 0xffff_ffffn);
      }
    }
    throw new InvariantViolation(`operation ${OPERATION_NAMES[op.kind]} is not a fast one`);
  }

  #fault(): number {
    this.#raised = this.core.fault as Exception;
    return RAISED;
  }

  #load(op: Operation, user: boolean): number {
    const { core } = this;
    const vaddr = op.a >>> 0;
    const value = readLinear(core, vaddr, op.kind === OP.load8 ? 1 : 4, user);
    if (Number.isNaN(value)) return this.#fault();
    if (op.kind !== OP.load64) return value;
    assert((vaddr & 7) === 0, () => `eight bytes at 0x${vaddr.toString(16)} are not aligned`);
    op.hi = readLinear(core, vaddr + 4, 4, user);
    return value;
  }

  #store(op: Operation, user: boolean): number {
    const { core } = this;
    const vaddr = op.a >>> 0;
    switch (op.kind) {
      case OP.store8:
      case OP.store32:
        return writeLinear(core, vaddr, op.kind === OP.store8 ? 1 : 4, op.b >>> 0, user) ? 0 : this.#fault();
      case OP.store64:
        assert((vaddr & 7) === 0, () => `eight bytes at 0x${vaddr.toString(16)} are not aligned`);
        return writeLinear(core, vaddr, 4, op.b >>> 0, user) && writeLinear(core, vaddr + 4, 4, op.c >>> 0, user) ? 0 : this.#fault();
      default: {
        // A locked instruction wants to write before it reads.
        if (!probeWrite(core, vaddr, 4, user)) return this.#fault();
        const old = readLinear(core, vaddr, 4, user);
        writeLinear(core, vaddr, 4, lockedValue(op, old) >>> 0, user);
        return old;
      }
    }
  }

  #words(op: Operation, user: boolean): number {
    const { core } = this;
    const vaddr = op.a >>> 0;
    assert((vaddr & 3) === 0 && (vaddr & 0xfff) + op.b * 4 <= 4096, () => `${op.b} words at 0x${vaddr.toString(16)} are not inside a page`);
    const at = lookup(core, vaddr, op.kind === OP.readWords ? 'read' : 'write', user);
    if (at < 0) return this.#fault();
    const word = at >>> 2;
    const memory = core.u32;
    const { page } = op;
    if (op.kind === OP.readWords) for (let i = 0; i < op.b; i++) page[i] = memory[word + i] as number;
    else {
      const source = op.words as Uint32Array;
      reportCode(core, at, op.b * 4);
      for (let i = 0; i < op.b; i++) memory[word + i] = source[i] as number;
    }
    return 0;
  }

  #page(op: Operation, user: boolean): number {
    const { core, machine } = this;
    assert((op.a & 0xfff) === 0, () => `a page operation at 0x${op.a.toString(16)}`);
    let from = -1;
    if (op.kind === OP.copyPage) {
      from = lookup(core, op.b >>> 0, 'read', user);
      if (from < 0) return this.#fault();
    }
    const to = lookup(core, op.a >>> 0, 'write', user);
    if (to < 0) return this.#fault();
    machine.touch((to - machine.ramBase) >>> 12);
    if (from < 0) core.u32.fill(0, to >>> 2, (to >>> 2) + 1024);
    else core.u32.copyWithin(to >>> 2, from >>> 2, (from >>> 2) + 1024);
    return 0;
  }
}

/** What a locked instruction leaves where `old` was. */
function lockedValue(op: Operation, old: number): number {
  switch (op.kind) {
    case OP.or32:
      return old | op.b;
    case OP.and32:
      return old & op.b;
    case OP.compareExchange32:
      return old === op.c >>> 0 ? op.b : old;
    default:
      return op.b;
  }
}
