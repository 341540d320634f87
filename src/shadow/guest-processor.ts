// What the host needs of its guest's processor besides the registers: the instruction at which it
// stopped, understood, so that the host can carry it out; and a line for interrupts.
import type { Cpu } from '../x86/cpu.ts';

/** The instruction at hand, if it is one that a host carries out. */
export type Pending =
  | { readonly kind: 'store'; readonly vaddr: number; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly vaddr: number; readonly fromVaddr: number; readonly sizeBytes: number }
  /** A word is read, combined with `value` and written back; the answer is what was there. */
  | { readonly kind: 'combine'; readonly how: 'or' | 'and' | 'exchange'; readonly vaddr: number; readonly value: number }
  | { readonly kind: 'readCr'; readonly number: 0 | 2 | 3 | 4 }
  | { readonly kind: 'writeCr'; readonly number: 0 | 2 | 3 | 4; readonly value: number }
  | { readonly kind: 'invlpg'; readonly vaddr: number };

export interface GuestProcessor extends Cpu {
  pending(): Pending | undefined;
  /** The host has carried it out: the guest goes on behind it. */
  complete(answer: number): void;
  /** The vector of an interrupt that waits, or 0. The processor leaves with an exception of that vector as soon as it may be taken. */
  interruptLine: number;
}
