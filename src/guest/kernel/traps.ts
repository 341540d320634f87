// The kernel's entries: system calls, page faults, interrupts, and the way back.
//
// Every entry finds on its stack [error code] EIP CS EFLAGS [ESP SS], and interrupts off. General
// registers are as they were in the interrupted code and are put back before it goes on.
import type { EntryName } from '../entries.ts';
import { REG, type Task } from '../operations.ts';
import { compileProgram, INSTRUCTION_BYTES, SYSCALL, USER_TEXT } from '../user-program.ts';
import type { Kernel } from './kernel.ts';
import { ERRNO } from './memory.ts';
import type { Process } from './process.ts';
import { USER_CS, USER_DS } from './segments.ts';

/** Pushing and popping registers and segments. */
const ENTRY_INSNS = 12;
const EFLAGS_IF = 0x202;
const USER_STACK_TOP = 0xbfff_f000;

export class Traps {
  readonly #kernel: Kernel;
  readonly #handlers = new Map<number, () => void>();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** Calls `handler` on every interrupt with that number. */
  onIrq(irq: number, handler: () => void): void {
    this.#handlers.set(irq, handler);
  }

  enter(entry: EntryName): Task {
    switch (entry) {
      case 'syscall':
        return this.#syscall();
      case 'pageFault':
        return this.#pageFault();
      case 'event':
      case 'timer':
      case 'irq':
        return this.#interrupt();
      case 'invalidOpcode':
        return this.#invalidOpcode();
      default:
        return this.#unexpected(entry);
    }
  }

  *#unexpected(entry: EntryName): Task {
    const { m } = this.#kernel;
    const esp = m.registers.reg(REG.esp);
    const word = yield m.load32(esp);
    const next = yield m.load32(esp + 4);
    yield* this.#kernel.panic(`unexpected ${entry}, stack 0x${word.toString(16)} 0x${next.toString(16)}`);
  }

  // -- registers and frames -------------------------------------------------------------------------

  #save(into: Uint32Array): void {
    const { registers } = this.#kernel.m;
    for (let i = 0; i < 8; i++) into[i] = registers.reg(i);
  }
  #restore(from: Uint32Array): void {
    const { registers } = this.#kernel.m;
    for (let i = 0; i < 8; i++) if (i !== REG.esp) registers.setReg(i, from[i] as number);
  }

  /** The frame with which a new process begins. */
  *startFrame(process: Process, eip: number): Task {
    const { m } = this.#kernel;
    const words = [eip, USER_CS, EFLAGS_IF, USER_STACK_TOP, USER_DS];
    for (let i = 0; i < words.length; i++) yield m.store32(process.frameVaddr + i * 4, words[i] as number);
  }

  /** To user mode, as whoever is current then. Does not return. */
  *backToUser(): Task {
    const { ops, scheduler, m } = this.#kernel;
    yield* ops.irq.irq_disable();
    if (scheduler.needsSwitch || scheduler.current?.state !== 'ready') yield* scheduler.pick();
    const process = scheduler.current as Process;
    yield* m.spend(ENTRY_INSNS);
    this.#restore(process.regs);
    m.registers.setReg(REG.esp, process.frameVaddr);
    yield* ops.cpu.iret();
  }

  // -- entries --------------------------------------------------------------------------------------

  *#interrupt(): Task {
    const { m, ops, scheduler } = this.#kernel;
    const esp = m.registers.reg(REG.esp);
    const fromUser = ((yield m.load32(esp + 4)) & 3) === 3;
    const saved = fromUser ? (scheduler.current as Process).regs : new Uint32Array(8);
    this.#save(saved);
    yield* m.spend(ENTRY_INSNS);
    for (const irq of yield* ops.irq.pending_irqs()) this.#handlers.get(irq)?.();
    scheduler?.wakeThreads();
    if (fromUser) {
      scheduler.needsSwitch ||= scheduler.hasReadyThreads();
      return yield* this.backToUser();
    }
    yield* m.spend(ENTRY_INSNS);
    this.#restore(saved);
    m.registers.setReg(REG.esp, esp);
    yield* ops.cpu.iret();
  }

  *#pageFault(): Task {
    const { m, ops, scheduler, memory } = this.#kernel;
    const esp = m.registers.reg(REG.esp);
    const errorCode = yield* m.read32(esp);
    const eip = yield* m.read32(esp + 4);
    const fromUser = ((yield* m.read32(esp + 8)) & 3) === 3;
    const vaddr = yield* ops.mmu.read_cr2();
    const process = scheduler?.current;
    if (!fromUser || process?.mm === undefined) return yield* this.#kernel.panic(`page fault of the kernel at 0x${vaddr.toString(16)}, error code ${errorCode}, in 0x${eip.toString(16)}`);
    this.#save(process.regs);
    yield* m.spend(ENTRY_INSNS);
    yield* ops.irq.irq_enable();
    const answer = yield* memory.fault(process.mm, vaddr, errorCode);
    if (answer === 'segv') {
      process.saw(`fault 0x${vaddr.toString(16)}`);
      yield* this.#skip(process, eip);
    } else if (answer === 'oom') {
      process.saw('out of memory');
      yield* this.#exit(process);
    }
    yield* this.backToUser();
  }

  /** The instruction is given up, as a signal handler that steps over it would. */
  *#skip(process: Process, eip: number): Task {
    yield this.#kernel.m.store32(process.frameVaddr, eip + INSTRUCTION_BYTES);
  }

  /** No instruction there: the end of the process. */
  *#invalidOpcode(): Task {
    const { m, ops, scheduler } = this.#kernel;
    const esp = m.registers.reg(REG.esp);
    const fromUser = ((yield m.load32(esp + 4)) & 3) === 3;
    const process = scheduler?.current;
    if (!fromUser || process === undefined) return yield* this.#unexpected('invalidOpcode');
    yield* ops.irq.irq_enable();
    process.saw('illegal instruction');
    yield* this.#exit(process);
    yield* this.backToUser();
  }

  // -- system calls ---------------------------------------------------------------------------------

  *#syscall(): Task {
    const { m, ops, scheduler } = this.#kernel;
    const process = scheduler.current as Process;
    this.#save(process.regs);
    yield* m.spend(ENTRY_INSNS);
    yield* ops.irq.irq_enable();
    const [number, , , first] = process.regs as unknown as [number, number, number, number];
    const answer = yield* this.#call(process, number, first, process.regs[REG.ecx] as number, process.regs[REG.edx] as number);
    process.regs[REG.eax] = answer >>> 0;
    process.regs[REG.ecx] = 0;
    yield* this.backToUser();
  }

  *#call(process: Process, number: number, a: number, b: number, c: number): Task<number> {
    const { memory, scheduler, ops } = this.#kernel;
    const mm = process.mm;
    if (mm === undefined) return ERRNO.EINVAL;
    switch (number) {
      case SYSCALL.mmap:
        return this.#answered(process, 'mmap', yield* memory.mmap(mm, a, b, c));
      case SYSCALL.munmap:
        return this.#answered(process, 'munmap', yield* memory.munmap(mm, a, b));
      case SYSCALL.mprotect:
        return this.#answered(process, 'mprotect', yield* memory.mprotect(mm, a, b, c));
      case SYSCALL.fork:
        return yield* this.#fork(process);
      case SYSCALL.exec:
        return yield* this.#exec(process, a);
      case SYSCALL.wait:
        if (process.children.length === 0) return this.#answered(process, 'wait', ERRNO.ECHILD);
        if ((process.children[0] as Process).state === 'zombie') this.#reap(process);
        else {
          process.state = 'waiting';
          process.waits = true;
        }
        return 0;
      case SYSCALL.yield:
        scheduler.needsSwitch = true;
        return 0;
      case SYSCALL.sleep:
        scheduler.sleep(process, (yield* ops.time.sched_clock()) + b * 0x1_0000_0000 + a);
        return 0;
      case SYSCALL.print:
        yield* this.#kernel.print(process.text.texts[a] ?? '');
        return 0;
      case SYSCALL.exit:
        yield* this.#exit(process);
        return 0;
      default:
        return this.#answered(process, `call ${number}`, ERRNO.EINVAL);
    }
  }
  #answered(process: Process, name: string, answer: number): number {
    process.saw(answer < 0 ? `${name} failed ${answer}` : name);
    return answer;
  }

  *#fork(process: Process): Task<number> {
    const { m, memory, scheduler, frames } = this.#kernel;
    const child = yield* this.#kernel.newProcess(process);
    const mm = child === undefined || process.mm === undefined ? undefined : yield* memory.fork(process.mm);
    if (child === undefined || mm === undefined) {
      if (child !== undefined) frames.put(child.stackPfn);
      return this.#answered(process, 'fork', ERRNO.EAGAIN);
    }
    child.mm = mm;
    child.regs.set(process.regs);
    child.regs[REG.eax] = 0;
    child.regs[REG.ecx] = 0;
    for (let at = 0; at < 20; at += 4) yield* m.write32(child.frameVaddr + at, yield* m.read32(process.frameVaddr + at));
    process.children.push(child);
    process.saw('fork');
    scheduler.add(child);
    return child.pid;
  }

  *#exec(process: Process, index: number): Task<number> {
    const { memory } = this.#kernel;
    const program = process.text.programs[index];
    if (program === undefined || process.mm === undefined) return this.#answered(process, 'exec', ERRNO.ENOEXEC);
    const mm = yield* memory.create();
    if (mm === undefined) return this.#answered(process, 'exec', ERRNO.ENOMEM);
    const old = process.mm;
    process.mm = mm;
    process.text = compileProgram(program);
    process.saw('exec');
    yield* memory.switchTo(mm);
    yield* memory.destroy(old);
    yield* this.startFrame(process, USER_TEXT);
    return 0;
  }

  *#exit(process: Process): Task {
    const { memory, scheduler } = this.#kernel;
    process.saw('exit');
    const mm = process.mm;
    process.mm = undefined;
    if (mm !== undefined) yield* memory.destroy(mm);
    for (const child of process.children) if (child.state === 'zombie') scheduler.bury(child);
    process.children.length = 0;
    const { parent } = process;
    const orphan = parent === undefined || !parent.children.includes(process);
    scheduler.ended(process, orphan);
    if (!orphan && parent.state === 'waiting' && parent.children[0] === process) scheduler.wake(parent);
  }

  /** The oldest child has ended. */
  #reap(process: Process): void {
    const child = process.children.shift() as Process;
    process.saw(`wait ${child.path}`);
    this.#kernel.scheduler.bury(child);
  }

  /** The process runs again: a wait that it began is over. */
  *resume(process: Process): Task {
    if (process.waits && process.children[0]?.state === 'zombie') {
      process.waits = false;
      this.#reap(process);
    }
    yield this.#kernel.m.compute(1);
  }
}
