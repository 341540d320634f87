// A property's search for a program that breaks it, in two ways: at once, and a program at a time, so that
// somebody may look on and stop it. Both draw the same programs from the same seed.
import fc from 'fast-check';

/** One search. `Result` says how many programs were played, and what broke. */
export interface PropertyRun<Program, Result> {
  readonly programs: fc.Arbitrary<Program>;
  readonly holds: (program: Program) => boolean;
  readonly parameters: { readonly numRuns: number; readonly seed: number; readonly endOnFailure?: boolean };
  /** May play what was found again, and make it smaller. */
  readonly result: (details: fc.RunDetails<[Program]>) => Result;
}

export const runProperty = <Program, Result>({ programs, holds, parameters, result }: PropertyRun<Program, Result>): Result =>
  result(fc.check(fc.property(programs, holds), parameters));

/** Before each program: how many have been played, and how many of them failed (more than 0: the first of these is being made small). False: stop. */
export type PropertyWatch = (played: number, failed: number) => Promise<boolean>;

export interface WatchedRun<Program> {
  readonly details: fc.RunDetails<[Program]>;
  /** It was stopped: of programs that held there are `details.numRuns`; one that failed may be larger than need be. */
  readonly stopped: boolean;
}

export async function watchProperty<Program, Result>({ programs, holds, parameters }: PropertyRun<Program, Result>, watch: PropertyWatch): Promise<WatchedRun<Program>> {
  let played = 0;
  let failed = 0;
  const details = await fc.check(fc.asyncProperty(programs, async (program) => {
    if (!(await watch(played, failed))) throw new fc.PreconditionFailure(true);
    const held = holds(program);
    played++;
    if (!held) failed++;
    return held;
  }), parameters);
  return { details, stopped: details.interrupted };
}
