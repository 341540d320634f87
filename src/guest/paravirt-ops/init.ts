// Group `init`: called once each, in this order, by the kernel's start.
import type { Task } from '../operations.ts';
import type { KernelServices, MemoryRange } from './types.ts';

export interface PvInit {
  /**
   * First of all, before memory and console are there. A kernel of machine code replaces indirect calls at
   * `sites` by direct ones or by instructions in line; a kernel of generators has no sites and gets back 0,
   * the number of bytes that were patched.
   */
  patch(sites: number): number;
  /** The kernel introduces itself to the back end: from now on its services may be used. */
  attach(kernel: KernelServices): void;
  /** The line that says on what the kernel has booted. */
  banner(): string;
  /** Trap handlers, callbacks, features that the hypervisor is asked for (writable page tables). */
  arch_setup(): Task;
  /** The pseudo-physical memory map, ascending, without overlap, and the address (direct map) of the root that is loaded. */
  memory_setup(): Task<{ readonly ranges: readonly MemoryRange[]; readonly pgdVaddr: number }>;
  /**
   * The frame allocator runs and the kernel's own tables are final. Hooks of `mmu` may be others from here
   * on: on Xen tables were made read-only one by one until now, and are pinned as whole trees later.
   */
  post_allocator_init(): Task;
  /** The end: 'poweroff', 'reboot' or 'crash'. Does not return. */
  shutdown(reason: 'poweroff' | 'reboot' | 'crash' | 'suspend'): Task;
}
