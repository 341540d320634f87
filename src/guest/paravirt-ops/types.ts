// What hooks and kernel tell each other about: address spaces, descriptor tables, the memory map.
import type { Task } from '../operations.ts';
import type { TableShape } from '../pte.ts';

/** An address space as a back end sees it. */
export interface Mm {
  /** Number for reports; 0 is the kernel's own (init_mm). */
  readonly id: number;
  /** Linear address and pseudo-physical frame of the root (the direct map). */
  readonly pgdVaddr: number;
  readonly pgdPfn: number;
  /** It has no users any more but the one that tears it down (mm_users of Linux). */
  exiting: boolean;
}

/** Base (linear) and size of a descriptor table. */
export interface TableRegister {
  readonly base: number;
  /** Bytes. */
  readonly sizeBytes: number;
}

/** A segment descriptor, or a gate, as its two words. */
export interface Descriptor {
  readonly lo: number;
  readonly hi: number;
}

/** A gate of the IDT as the kernel wants it. */
export interface Gate {
  readonly vector: number;
  /** Linear address of the handler. */
  readonly handler: number;
  /** Who may use it by INT n: 0 the kernel, 3 everybody. */
  readonly dpl: 0 | 3;
  /** Interrupts are off on entry (an interrupt gate; a trap gate leaves them on). */
  readonly masks: boolean;
}

/** One range of the memory map: pseudo-physical frames [from, to) that are ordinary memory. */
export interface MemoryRange {
  readonly fromPfn: number;
  readonly toPfn: number;
  /** false: in use since before the kernel started (itself, boot tables, what it was given). */
  readonly free: boolean;
}

/** A thread's segments for thread-local storage: three descriptors in the GDT (GDT_ENTRY_TLS_MIN 6). */
export interface ThreadSegments {
  readonly tls: readonly [Descriptor, Descriptor, Descriptor];
  /** Top of the kernel stack on which exceptions from user mode arrive. */
  readonly esp0: number;
}

/** What the kernel offers the back end below it: the direct map, and the page tables as the kernel has them. */
export interface KernelServices {
  readonly shape: TableShape;
  /** The kernel's own address space, which every other one has in its upper quarter. */
  readonly initMm: Mm;
  /** The one whose tables the processor walks now. */
  activeMm(): Mm;
  /** All live ones, oldest first, initMm not among them. */
  allMms(): readonly Mm[];
  /** Linear address of a frame in the direct map. */
  pfnToVaddr(pfn: number): number;
  vaddrToPfn(vaddr: number): number;
  /** Address of the L1 entry that maps a direct-map address in the kernel's tables. */
  lowmemEntry(vaddr: number): Task<number>;
  /** First address that belongs to the hypervisor, or 2^32. */
  hypervisorStart: number;
  /** Prints a line on the console, for what a back end has to say. */
  print(text: string): Task;
}

/** Where lazy mode batches: updates of page tables, or what a context switch loads. */
export type LazyMode = 'none' | 'mmu' | 'cpu';
