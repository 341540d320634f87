// What the hypervisor needs from the world it lives in. The simulation provides it; conformance
// runs and unit tests provide a small one. The hypervisor knows no scheduler and no log.

import type { FaultName } from '../abi/faults.ts';

/** Timers that the hypervisor sets for a vCPU; the world calls Hypervisor.timerFired when due. */
export type TimerKind = 'singleshot' | 'periodic' | 'poll' | 'watchdog1' | 'watchdog2';

export interface WorldPort {
  /** Virtual system time in nanoseconds since the world began; an integer below 2^53. */
  nowNs(): number;
  /** The virtual TSC's frequency in kHz: the TSC is nowNs() in units of 1/tscKhz ms. */
  tscKhz(): number;
  /** Wall clock (seconds since 1970 at virtual time 0): an option of the world, never the host's clock. */
  wallClockAtZeroSec(): number;
  /** Replaces the vCPU's timer of that kind; undefined cancels it. */
  setTimer(domId: number, vcpuId: number, kind: TimerKind, deadlineNs: number | undefined): void;
  /** The vCPU has become runnable, or is blocked (SCHEDOP_block, poll, domain paused or shut down). */
  vcpuRunnable(domId: number, vcpuId: number, runnable: boolean): void;
  /** The vCPU gave up its turn (SCHEDOP_yield). */
  yielded(domId: number, vcpuId: number): void;
  /** An event was sent to a port whose other end is a back end of dom0 (a simulated one). */
  notifyBackend(domId: number, port: number): void;
  /** The domain shut down (reason: SHUTDOWN_*), or crashed with a text that says why. */
  domainShutdown(domId: number, reason: number, text: string): void;
  /**
   * May a long hypercall be preempted here? Called between counted units of work (one page-table
   * entry validated = 1). Deterministic: decided by counted work and by the seeded scheduler.
   */
  preempt(workUnits: number): boolean;
  /** An event for the log: numbers in the order of the row's fields (abi/events.ts), then bytes. */
  emit(kind: number, domId: number, vcpuId: number, values: readonly number[], bytes?: Uint8Array): void;
  /** Asks the seeded scheduler: 0..options-1. `options` >= 1; one option is not a choice and costs nothing. */
  choose(name: string, options: number): number;
  /** Does that fault happen to the domain here? 0, or its argument. Absent: no faults. */
  fault?(name: FaultName, domId: number): number;
}
