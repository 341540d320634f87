// The pages of the kernel's image behind its text. All in the direct map; the loader zeroes them.
import { KERNEL_TEXT } from '../entries.ts';

const page = (index: number): number => KERNEL_TEXT + index * 4096;

export const KERNEL_PAGES = {
  text: page(0),
  gdt: page(1),
  idt: page(2),
  tss: page(3),
  /** A page that a back end maps elsewhere (shared_info). */
  shared: page(4),
  /** For hypercall arguments and batches. */
  batch: page(5),
  batchArguments: page(6),
  scratch: page(7),
  /** The same while an interrupt is handled. */
  irqScratch: page(8),
  bootStack: page(9),
  /** Zeros that user space may read. */
  zero: page(10),
} as const;
export const KERNEL_IMAGE_PAGES = 11;
