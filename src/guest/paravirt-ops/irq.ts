// Group `irq`: the interrupt flag, which on Xen is a byte of shared memory, and waiting.
import type { Task } from '../operations.ts';

export interface PvIrq {
  /** Interrupt controllers or event channels; all sources masked. */
  init_IRQ(): Task;
  /** EFLAGS as far as interrupts go: bit 9 (0x200) set when they are on. */
  save_fl(): Task<number>;
  /** Restores bit 9 as save_fl gave it; what became pending meanwhile is delivered at once. */
  restore_fl(flags: number): Task;
  irq_disable(): Task;
  /** What became pending meanwhile is delivered at once. */
  irq_enable(): Task;
  /** Waits with interrupts on; returns after one. Nothing that becomes pending just before is missed. */
  safe_halt(): Task;
  /** Stops for good if interrupts are off, else waits. */
  halt(): Task;
  /** The kernel's interrupt entry calls this: finds what is pending, acknowledges, returns their numbers. */
  pending_irqs(): Task<readonly number[]>;
  /** From now on the source may interrupt. */
  unmask_irq(irq: number): Task;
  mask_irq(irq: number): Task;
}
