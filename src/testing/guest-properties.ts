// The property of the model guest: whatever its processes do, they see the same memory on every back
// end and with both shapes of tables, Xen refuses nothing, nothing is left behind, and late pinning
// never takes more hypercalls than early pinning. And how much less: a table of workloads.
import { MemoryPool } from '../machine/memory-pool.ts';
import type { UserStep } from '../guest/user-program.ts';
import { pinningWorkloads } from '../guest/workloads.ts';
import type { PinningBug } from '../guest/xen/state.ts';
import { GUEST_SETUPS, guestProblems, playGuest, type GuestSetup } from './guest-play.ts';
import { guestPrograms } from './guest-programs.ts';
import { runProperty, type PropertyRun } from './property-run.ts';

export const GUEST_PROPERTY = {
  name: 'guest-memory',
  claim: 'processes of the paravirt_ops guest see the same memory on every back end and in both shapes of tables; no update is refused and nothing is left behind',
} as const;

export interface GuestPropertyResult {
  readonly seed: number;
  readonly runs: number;
  readonly failure?: { readonly program: readonly UserStep[]; readonly problems: readonly string[] };
}

export interface CheckGuestOptions {
  readonly runs?: number;
  readonly seed?: number;
  readonly setups?: readonly GuestSetup[];
}

/** A kernel with a mistake in its pinning discipline, in both shapes of tables: what is to be found. Other back ends pin nothing. */
export const setupsWithBug = (bug: PinningBug): readonly GuestSetup[] => GUEST_SETUPS.filter(({ pinning }) => pinning === 'late').map((setup) => ({ ...setup, bug }));

export function guestPropertyRun({ runs = 100, seed = 1, setups = GUEST_SETUPS }: CheckGuestOptions = {}): PropertyRun<UserStep[], GuestPropertyResult> {
  const pool = new MemoryPool();
  return {
    programs: guestPrograms(),
    holds: (program) => guestProblems(program, setups, { pool }).length === 0,
    parameters: { numRuns: runs, seed },
    result: ({ failed, counterexample, numRuns }) => {
      if (!failed || counterexample === null) return { seed, runs: numRuns };
      const [program] = counterexample;
      return { seed, runs: numRuns, failure: { program, problems: guestProblems(program, setups) } };
    },
  };
}

/** Plays random programs until one fails, and makes that one small. */
export const checkGuestProperty = (options: CheckGuestOptions = {}): GuestPropertyResult => runProperty(guestPropertyRun(options));

/** For tests: throws an error that holds the smallest program. */
export function assertGuestProperty(options: CheckGuestOptions = {}): void {
  const { failure, seed, runs } = checkGuestProperty(options);
  if (failure !== undefined) throw new Error([`${GUEST_PROPERTY.name}: BROKEN by program ${runs} of seed ${seed}; the smallest found:`, JSON.stringify(failure.program), ...failure.problems.slice(0, 5)].join('\n'));
}

export interface PinningCost {
  readonly workload: string;
  readonly setup: string;
  /** Traps into Xen, and the requests that they carried, beyond what booting takes. */
  readonly hypercalls: number;
  readonly requests: number;
  readonly pins: number;
}

/** What each workload costs under each Xen setup, done `times` times, boot subtracted. */
export function pinningCosts(times = 10): PinningCost[] {
  const setups = GUEST_SETUPS.filter(({ backend }) => backend === 'xen');
  return setups.flatMap((setup) => {
    const boot = playGuest(setup, []).counts;
    return pinningWorkloads(times).map(({ name, program }) => {
      const counts = playGuest(setup, program).counts;
      if (counts === undefined || boot === undefined) throw new TypeError(`${setup.name} counts nothing`);
      return { workload: name, setup: setup.name, hypercalls: counts.hypercalls - boot.hypercalls, requests: counts.requests - boot.requests, pins: counts.pins - boot.pins };
    });
  });
}
