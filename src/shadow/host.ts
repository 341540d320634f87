// The shadow-paging hypervisor: one guest that believes it has a machine of its own. Its kernel runs in
// ring 0 with its own descriptor tables, as under a processor's help for virtual machines; what that
// help lacks is paging, so that CR3 is the host's (pager.ts) and page faults come here first.
//
//   page fault     the guest's tables allow it: the shadow is filled, and nobody has noticed
//                  they do not: it is the guest's own fault
//                  a store to a page table (KVM): carried out here
//   hypercall      the guest tells of changes: lguest's, VMI's or KVM's way (calls.ts)
//   CR0, 2, 3, 4, INVLPG   trap; the guest has virtual ones
//   ports          the devices of the bare machine: text, timer, end
//
// Nothing here knows a world: it is handed in (HostWorld).
import { EVENT, valueIndex } from '../abi/events.ts';
import { SHADOW_FAULT } from '../abi/shadow-calls.ts';
import { VECTOR, type CpuExit, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import { shadowCall } from './calls.ts';
import { carryOut } from './emulate.ts';
import type { GuestProcessor } from './guest-processor.ts';
import type { ShadowPager } from './pager.ts';

/** Ports of the machine that the guest sees (those of guest/native). */
export const HOST_PORT = { text: 0xe9, end: 0xf4, timerLow: 0x40, timerHigh: 0x44 } as const;
const TIMER_VECTOR = 0x20;
const HYPERCALL_VECTOR = 0x82;
const FIRST_INTERRUPT = 32;
const IF = 0x200;
/** More than a frame of an exception takes. */
const FRAME_BYTES = 32;
const TSS = { esp0: 4, sizeBytes: 0x68 } as const;
const WRITE = 2;
const MOST_LINE = 256;
/** Of one instruction: more than it has pages. */
const MOST_FAULTS = 64;

export interface HostWorld {
  emit(kind: number, values: readonly number[], bytes?: Uint8Array): void;
  /** undefined: none. */
  setTimer(deadlineNs: number | undefined): void;
  consoleOut(bytes: Uint8Array): void;
  /** The guest waits, or goes on. */
  runnable(is: boolean): void;
  /** SHUTDOWN_* numbers. */
  stopped(reason: number, text: string): void;
  /** Shadows must be true now, and what the processor keeps of those pages (their first bytes' addresses) too; for those who check that. */
  flushed?(pages: 'all' | readonly number[]): void;
}

export type HostStyle = 'lguest' | 'vmi' | 'kvm';

/** What is counted, for tables of costs. */
export interface HostCounts {
  hypercalls: number;
  /** Calls that came in queues. */
  queued: number;
  filled: number;
  emulated: number;
}

export class ShadowHost {
  readonly cpu: GuestProcessor;
  readonly pager: ShadowPager;
  readonly world: HostWorld;
  readonly style: HostStyle;
  readonly counts: HostCounts = { hypercalls: 0, queued: 0, filled: 0, emulated: 0 };
  /** Control registers as the guest sees them. */
  readonly cr: { 0: number; 2: number; 3: number; 4: number };
  ended = false;
  #blocked = false;
  #inQueue = false;
  /** What calls of the queue in hand have flushed. */
  #owed: 'all' | readonly number[] = [];
  #deadlineLow = 0;
  /** Faults since an instruction was last retired, and when that was. */
  #faultsHere = 0;
  #faultedAt = -1;
  #line: number[] = [];

  constructor(style: HostStyle, cpu: GuestProcessor, pager: ShadowPager, world: HostWorld, cr: { 0: number; 3: number; 4: number }) {
    this.style = style;
    this.cpu = cpu;
    this.pager = pager;
    this.world = world;
    this.cr = { ...cr, 2: 0 };
  }

  /** Acts on the end of a run. */
  onExit(exit: CpuExit): 'run' | 'blocked' | 'stopped' {
    switch (exit.kind) {
      case 'budget':
        break;
      case 'exception':
        this.#onException(exit.exception);
        break;
      case 'softint':
        if (exit.vector === HYPERCALL_VECTOR && this.cpu.cpl() === 0) shadowCall(this);
        else this.inject({ vector: exit.vector }, true);
        break;
      case 'halt':
        this.#halt();
        break;
      case 'io':
        this.#io(exit);
        break;
      default:
        this.fatal(exit.kind === 'unimplemented' ? `the processor came to code ${exit.text}` : `the processor left with ${exit.kind}`);
    }
    if (this.ended) return 'stopped';
    return this.#blocked ? 'blocked' : 'run';
  }

  /** The guest cannot go on: it asked for what makes no sense. */
  fatal(why: string): void {
    if (this.ended) return;
    this.#end(3, `the host stopped the guest: ${why}`);
  }
  #end(reason: number, text: string): void {
    this.#printLine();
    this.ended = true;
    this.world.stopped(reason, text);
  }

  // -- faults ---------------------------------------------------------------------------------------

  #onException(exception: Exception): void {
    if (exception.vector >= FIRST_INTERRUPT) {
      this.cpu.interruptLine = 0;
      this.inject(exception, false);
    } else if (exception.vector === VECTOR.PF) this.#onPageFault(exception);
    else if (exception.vector === VECTOR.GP && this.#onPrivileged()) return;
    else this.inject(exception, false);
  }

  #onPageFault({ cr2: vaddr = 0, errorCode = 0 }: Exception): void {
    // The processor has left the address in CR2, which the guest has not: it may be reading an older one.
    this.cpu.setCr(2, this.cr[2]);
    const { pager, counts } = this;
    const retired = this.cpu.retired();
    this.#faultsHere = retired === this.#faultedAt ? this.#faultsHere + 1 : 0;
    this.#faultedAt = retired;
    if (this.#faultsHere > MOST_FAULTS) return this.fatal(`the instruction at 0x${this.cpu.eip().toString(16)} faults at 0x${vaddr.toString(16)} again and again`);
    const filled = pager.fill(vaddr, errorCode);
    switch (filled.kind) {
      case 'filled':
        counts.filled++;
        return this.#tell(vaddr, errorCode, 'filled');
      case 'guest':
        this.#tell(vaddr, filled.errorCode, 'guest');
        return this.inject({ vector: VECTOR.PF, errorCode: filled.errorCode, cr2: vaddr }, false);
      case 'fatal':
        this.#tell(vaddr, errorCode, 'fatal');
        return this.fatal(filled.why);
      case 'protected': {
        this.#tell(vaddr, errorCode, 'emulated');
        counts.emulated++;
        const problem = carryOut(this, vaddr);
        if (problem !== undefined) this.fatal(problem);
      }
    }
  }
  #tell(vaddr: number, errorCode: number, what: (typeof SHADOW_FAULT)[number]): void {
    this.world.emit(EVENT.shadowFault, [vaddr, errorCode, valueIndex(SHADOW_FAULT, what)]);
  }

  // -- privileged instructions ----------------------------------------------------------------------

  /** False: it is no instruction that this host traps, and the guest's own fault. */
  #onPrivileged(): boolean {
    const { cpu } = this;
    const pending = cpu.pending();
    if (pending === undefined) return false;
    switch (pending.kind) {
      case 'readCr':
        cpu.complete(this.cr[pending.number]);
        return true;
      case 'writeCr':
        this.#writeCr(pending.number, pending.value);
        if (!this.ended) cpu.complete(0);
        return true;
      case 'invlpg':
        this.invalidate(pending.vaddr);
        cpu.complete(0);
        return true;
      default:
        return false;
    }
  }

  #writeCr(number: 0 | 2 | 3 | 4, value: number): void {
    const PGE = 0x80;
    if (number === 2) this.cpu.setCr(2, value);
    else if (number === 3) this.load(value);
    else if (number === 4 && ((value ^ this.cr[4]) & ~PGE) === 0) this.flush();
    else if (number === 4 || value !== this.cr[0]) return this.fatal(`it wrote 0x${value.toString(16)} to CR${number}, a mode that this host does not have`);
    this.cr[number] = value;
  }

  /** New tables. Everything that was told of is true now. */
  load(root: number): void {
    this.cr[3] = root;
    if (!this.pager.load(root)) return this.fatal(`its page tables begin at 0x${root.toString(16)}, beyond its memory`);
    this.#flushed('all');
  }
  /** The processor's copies of translations go. */
  flush(): void {
    this.pager.flush();
    this.#flushed('all');
  }
  invalidate(vaddr: number): void {
    this.cpu.invlpg(vaddr);
    this.#flushed([vaddr - (vaddr % 4096)]);
  }
  /** A queue's calls are one request: it has been carried out when all of them are. */
  carryOutAll(calls: () => void): void {
    this.#inQueue = true;
    this.#owed = [];
    calls();
    this.#inQueue = false;
    if (this.#owed.length > 0) this.#flushed(this.#owed);
  }
  #flushed(pages: 'all' | readonly number[]): void {
    if (this.#inQueue) this.#owed = pages === 'all' || this.#owed === 'all' ? 'all' : [...this.#owed, ...pages];
    else if (!this.ended) this.world.flushed?.(pages);
  }

  // -- delivery -------------------------------------------------------------------------------------

  /** An exception or interrupt through the guest's IDT. What the processor reads and writes on the way must be in the shadow. */
  inject(exception: Exception, software: boolean): void {
    const { cpu } = this;
    if (exception.cr2 !== undefined) {
      this.cr[2] = exception.cr2;
      cpu.setCr(2, exception.cr2);
    }
    const { base: idt } = cpu.idtr();
    const { base: gdt, limit } = cpu.gdtr();
    const tss = cpu.tr().base;
    const ready = this.#ready(idt + exception.vector * 8, 8, 0) && this.#ready(gdt, limit + 1, 0) && this.#ready(tss, TSS.sizeBytes, 0) && this.#stackReady(tss);
    if (!ready) return this.fatal(`exception ${exception.vector} cannot be delivered: its descriptor tables or its stack are not mapped`);
    const { vector } = exception;
    const ip = cpu.eip();
    const result = cpu.deliver(exception, software);
    if (result !== undefined) return this.fatal(`exception ${vector} cannot be delivered`);
    this.world.emit(EVENT.exception, [vector, exception.errorCode ?? 0, ip, this.cr[2], cpu.eip()]);
  }
  #stackReady(tss: number): boolean {
    const { cpu, pager } = this;
    let top = cpu.reg(4);
    if (cpu.cpl() !== 0) {
      const gpa = pager.guestPhysical(tss + TSS.esp0);
      const maddr = gpa === undefined ? undefined : pager.maddrOf(gpa);
      if (maddr === undefined) return false;
      top = cpu.machine.readU32(maddr);
    } else top = (top + cpu.segment(SEG.ss).base) >>> 0;
    return this.#ready((top - FRAME_BYTES) >>> 0, FRAME_BYTES, WRITE);
  }
  /** Fills the shadow for a range of the kernel's. */
  #ready(vaddr: number, sizeBytes: number, errorCode: number): boolean {
    const { pager } = this;
    for (let page = vaddr - (vaddr % 4096); page < vaddr + sizeBytes; page += 4096) {
      let filled = pager.fill(page >>> 0, errorCode);
      if (filled.kind === 'protected') {
        // A stack in what was a table: it is none any more.
        pager.forget(Math.floor((pager.guestPhysical(page) as number) / 4096));
        filled = pager.fill(page, errorCode);
      }
      if (filled.kind !== 'filled') return false;
    }
    return true;
  }

  // -- devices --------------------------------------------------------------------------------------

  #halt(): void {
    if (this.cpu.interruptLine !== 0) return;
    this.#blocked = true;
    this.world.runnable(false);
  }

  timerFired(): void {
    if (this.ended) return;
    this.cpu.interruptLine = TIMER_VECTOR;
    if (!this.#blocked || (this.cpu.eflags() & IF) === 0) return;
    this.#blocked = false;
    this.world.runnable(true);
  }

  #io({ port, value, direction }: Extract<CpuExit, { kind: 'io' }>): void {
    if (direction === 'out') this.#out(port, value);
    if (!this.ended) this.cpu.completeIo(0xffff_ffff);
  }
  #out(port: number, value: number): void {
    if (port === HOST_PORT.text) this.#print(value & 0xff);
    else if (port === HOST_PORT.end) this.#end(value & 3, 'the guest ended the machine');
    else if (port === HOST_PORT.timerLow) this.#deadlineLow = value >>> 0;
    else if (port === HOST_PORT.timerHigh) {
      const deadline = (value >>> 0) * 0x1_0000_0000 + this.#deadlineLow;
      this.cpu.interruptLine = 0;
      this.world.setTimer(deadline === 0 ? undefined : deadline);
    }
  }
  #print(byte: number): void {
    this.#line.push(byte);
    if (byte === 10 || this.#line.length === MOST_LINE) this.#printLine();
  }
  #printLine(): void {
    const bytes = Uint8Array.from(this.#line.splice(0));
    if (bytes.length === 0) return;
    this.world.emit(EVENT.consoleOut, [], bytes);
    this.world.consoleOut(bytes);
  }
}
