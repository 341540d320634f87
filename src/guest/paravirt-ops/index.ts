// The paravirt_ops interface: one table of hooks in seven groups, with the names of Linux 2.6.20 to
// 2.6.24. The kernel above calls them; a back end fills every row, with the native function where its
// hypervisor needs nothing special. The groups' files say of each hook shape, units and who calls it.
//
// Hooks that touch the machine are generators (operations.ts): `yield* ops.mmu.set_pte(ptep, pte)`.
// A back end may replace rows of `mmu` in post_allocator_init, so that the kernel always goes through
// the table and never keeps a hook.
import type { PvApic } from './apic.ts';
import type { PvCpu } from './cpu.ts';
import type { PvInfo } from './info.ts';
import type { PvInit } from './init.ts';
import type { PvIrq } from './irq.ts';
import type { PvMmu } from './mmu.ts';
import type { PvTime } from './time.ts';

export type { PvApic, PvCpu, PvInfo, PvInit, PvIrq, PvMmu, PvTime };

export interface ParavirtOps {
  readonly info: PvInfo;
  readonly init: PvInit;
  readonly time: PvTime;
  readonly cpu: PvCpu;
  readonly irq: PvIrq;
  readonly apic: PvApic;
  readonly mmu: PvMmu;
}

/** What the devices of a kernel hang from; each back end offers what its hypervisor has. */
export interface ConsolePort {
  /** Writes all bytes, waiting for room if there is none. */
  write(bytes: Uint8Array): Generator<import('../operations.ts').Operation, void, number>;
}
