// What a processor needs of a model guest: code at its entries, and its user programs' instructions.
import type { EntryName } from './entries.ts';
import type { Operation, Task } from './operations.ts';

export interface GuestCode {
  /** Starts the kernel's code at an entry point. It ends by an operation that leaves (iret, shutdown); one that runs out stops the machine. */
  enter(entry: EntryName): Task;
  /**
   * The user instruction at `eip`: fills in one of compute, load8, load32, store8, store32, or for a
   * system call OP.hypercall with its gate's vector in `a`. False: there is none (#UD).
   */
  fetchUser(eip: number, op: Operation): boolean;
  /** The instruction was performed, `answer` is a load's. Returns the next one's address. */
  retireUser(eip: number, op: Operation, answer: number): number;
}
