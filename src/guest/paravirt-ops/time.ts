// Group `time`.
import type { Task } from '../operations.ts';

export interface PvTime {
  /** Sets up the clock source and the tick's interrupt; after init_IRQ. */
  time_init(): Task;
  /** Wall clock: seconds since 1970. For the kernel's date at boot and after a suspend. */
  get_wallclock(): Task<number>;
  /** Seconds since 1970. 0, or -1 where the clock is not the guest's to set (a Xen domU). */
  set_wallclock(seconds: number): Task<number>;
  /** Nanoseconds since some start, only growing; an integer below 2^53. Called by the scheduler, often. */
  sched_clock(): Task<number>;
  /** Frequency of the time-stamp counter in kHz. */
  get_cpu_khz(): Task<number>;
  /** The next tick: nanoseconds of sched_clock(); replaces the one set before. 0: none. */
  set_next_event(deadlineNs: number): Task;
}
