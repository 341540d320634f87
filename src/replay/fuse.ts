// What delta debugging cannot do: one answer that is late enough in the place of two that are a little late.
// Delays along a chain of events add up, so the first thing to try is the sum; the second is as late as can be.
import type { Deviation } from './plan.ts';

/** Answers that say how long something takes; a fault or a vCPU is not twice another one. */
const isDelay = ({ name, options }: Deviation): boolean => options > 2 && !name.startsWith('fault.') && name !== 'scheduler.next' && name !== 'memory.placement';

/** One member fewer, another one later, and it fails still; undefined: not that way. At most `limit` tests. */
export function fuse(members: readonly Deviation[], fails: (members: readonly Deviation[]) => boolean, limit = Infinity): { readonly members: readonly Deviation[] | undefined; readonly tests: number } {
  let tests = 0;
  for (const gone of members) {
    for (const later of members) {
      if (gone === later || !isDelay(gone) || !isDelay(later)) continue;
      const most = later.options - 1;
      for (const answer of new Set([Math.min(most, later.answer + gone.answer), most])) {
        if (answer === later.answer) continue;
        if (tests >= limit) return { members: undefined, tests };
        tests++;
        const candidate = members.filter((each) => each !== gone).map((each) => (each === later ? { ...each, answer } : each));
        if (fails(candidate)) return { members: candidate, tests };
      }
    }
  }
  return { members: undefined, tests };
}
