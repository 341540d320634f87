// What ends a run of the processor: values, never throws. x86 knows no Xen: `int 0x82`, `syscall`,
// a trap or a privileged instruction leaves as one of these, and whoever called run() decides.

/** Exception vectors, Intel SDM vol. 3, table 6-1. */
export const VECTOR = {
  DE: 0, DB: 1, NMI: 2, BP: 3, OF: 4, BR: 5, UD: 6, NM: 7, DF: 8, TS: 10, NP: 11, SS: 12, GP: 13, PF: 14, MF: 16, AC: 17, MC: 18, XM: 19,
} as const;

/** Page-fault error code, SDM vol. 3, figure 4-12. */
export const PF_ERR = { present: 1, write: 2, user: 4, reserved: 8, fetch: 16 } as const;

/** Vectors that push an error code. */
export const HAS_ERROR_CODE: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17]);

/**
 * Vectors whose handler finds RF set in the saved flags (SDM vol. 3, 18.3.1.1): the faults. Not #DB, which leaves RF to its
 * handler even where it is one.
 */
export const SETS_RF: ReadonlySet<number> = new Set([0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19]);

/**
 * A fault or trap raised by an instruction. The processor's state is precise: for faults rip names
 * the faulting instruction and nothing of it has happened; for traps (#DB single step) rip is past it.
 * For PF, `cr2` is the faulting linear address (the core also stores it in its own cr2 register).
 */
export interface Exception {
  readonly vector: number;
  readonly errorCode?: number;
  readonly cr2?: number;
}

export type CpuExit =
  /** The budget of instructions is used up; state at an instruction boundary. */
  | { readonly kind: 'budget' }
  /** A fault or trap that the CPU's mode hands to the caller. */
  | { readonly kind: 'exception'; readonly exception: Exception }
  /** INT n, INT3, INTO taken: a software interrupt; rip is past the instruction, `insnBytes` its length. Counts one. */
  | { readonly kind: 'softint'; readonly vector: number; readonly insnBytes: number }
  /** HLT at CPL 0; rip past it. */
  | { readonly kind: 'halt' }
  /** Port I/O that privilege allows; not yet done, rip names the instruction. The caller completes it with Cpu.completeIo. */
  | { readonly kind: 'io'; readonly port: number; readonly sizeBytes: 1 | 2 | 4; readonly direction: 'in' | 'out'; readonly value: number }
  /** SYSCALL / SYSENTER (long mode; later). */
  | { readonly kind: 'syscall'; readonly insnBytes: number }
  /** bare mode only: an exception while delivering a double fault. */
  | { readonly kind: 'tripleFault' }
  /** An instruction this core does not have yet (never skipped). rip names it. */
  | { readonly kind: 'unimplemented'; readonly text: string };
