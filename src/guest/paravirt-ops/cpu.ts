// Group `cpu`: control registers, descriptor tables, what a context switch loads. Called by the
// kernel's start, by the switch to another thread (in lazy CPU mode), and rarely otherwise.
import type { Task } from '../operations.ts';
import type { Descriptor, Gate, TableRegister, ThreadSegments } from './types.ts';

export interface PvCpu {
  /** Debug registers 0 to 7. */
  get_debugreg(index: number): Task<number>;
  set_debugreg(index: number, value: number): Task;

  /** CR0.TS goes: the next thread may use the FPU. */
  clts(): Task;
  read_cr0(): Task<number>;
  /** Of the guest's bits only TS means anything on Xen. */
  write_cr0(value: number): Task;
  read_cr4(): Task<number>;
  /** The same where a processor may have no CR4: 0 then. */
  read_cr4_safe(): Task<number>;
  write_cr4(value: number): Task;

  /** Selects the task state segment; a hypervisor has its own. */
  load_tr_desc(): Task;
  /** The GDT: linear address, bytes; its pages must not be writable on Xen afterwards. */
  load_gdt(table: TableRegister): Task;
  load_idt(table: TableRegister): Task;
  store_gdt(): Task<TableRegister>;
  store_idt(): Task<TableRegister>;
  /** The LDT of the thread: 0 entries for none. */
  set_ldt(vaddr: number, entries: number): Task;
  /** The selector in TR, 0 where that is the hypervisor's. */
  store_tr(): Task<number>;
  /** The thread's three TLS descriptors go into the GDT. */
  load_tls(thread: ThreadSegments): Task;
  /** Entry `index` of the table at linear address `tableVaddr`. */
  write_ldt_entry(tableVaddr: number, index: number, entry: Descriptor): Task;
  write_gdt_entry(tableVaddr: number, index: number, entry: Descriptor): Task;
  write_idt_entry(tableVaddr: number, gate: Gate): Task;
  /** The stack on which the kernel is entered from user mode, until the next switch. */
  load_esp0(thread: ThreadSegments): Task;
  /** I/O privilege of user mode: EFLAGS.IOPL as a mask, 0 for none. */
  set_iopl_mask(mask: number): Task;

  wbinvd(): Task;
  /** A pause after port I/O on old hardware. */
  io_delay(): Task;
  /** EAX, EBX, ECX, EDX of the leaf. */
  cpuid(leaf: number, subleaf: number): Task<readonly [number, number, number, number]>;
  /** Low and high half; undefined: there is no such register (the access faulted). */
  read_msr(msr: number): Task<{ readonly lo: number; readonly hi: number } | undefined>;
  /** 0, or -1 if the access faulted. */
  write_msr(msr: number, lo: number, hi: number): Task<number>;
  /** The time-stamp counter, an integer below 2^53. */
  read_tsc(): Task<number>;
  read_pmc(counter: number): Task<number>;

  /** Back to user mode after SYSENTER; kernels without that gate never call it. */
  irq_enable_sysexit(): Task;
  /**
   * Back to what was interrupted. ESP names the frame [EIP CS EFLAGS (ESP SS)]; interrupts are as its
   * EFLAGS.IF says, in the same step. Does not return.
   */
  iret(): Task;

  /** Lazy CPU mode: what is loaded between these two may be loaded at the end, at once (a context switch). */
  readonly lazy_mode: { enter(): Task; leave(): Task };
}
