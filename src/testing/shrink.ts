// Makes a failing program small: drops what follows, then ever smaller runs of steps, then elements
// of batches, then tries plainer values. Every candidate is a valid program (program.ts), so the only
// question is whether it still fails. Deterministic; bounded by a number of attempts.
import type { Program, Step } from './program.ts';

const LISTS = ['req', 'calls'] as const;
/** A field that may be left out, or be replaced by something plainer. */
const PLAINER: Readonly<Record<string, unknown>> = { fl: 2, preempt: 0 };

/** The smallest program found that still fails. `fails` must hold for `program`. */
export function smallest(program: Program, fails: (candidate: Program) => boolean, maxAttempts = 3000): Program {
  let best = program;
  let attempts = 0;
  const attempt = (candidate: Program): boolean => {
    if (attempts >= maxAttempts) return false;
    attempts++;
    if (!fails(candidate)) return false;
    best = candidate;
    return true;
  };
  for (let before: Program | undefined; before !== best && attempts < maxAttempts; ) {
    before = best;
    dropRuns(() => best, attempt);
    for (let index = best.steps.length - 1; index >= 0; index--) plainerStep(() => best, index, attempt);
    if (best.preempt !== 0 && !attempt({ ...best, preempt: 0 }) && best.preempt > 1) attempt({ ...best, preempt: 1 });
  }
  return best;
}

function dropRuns(current: () => Program, attempt: (candidate: Program) => boolean): void {
  for (let size = Math.max(1, current().steps.length >> 1); size >= 1; size >>= 1) {
    for (let at = current().steps.length - size; at >= 0; at -= size) {
      const { steps } = current();
      if (at + size > steps.length) continue;
      attempt({ ...current(), steps: [...steps.slice(0, at), ...steps.slice(at + size)] });
    }
  }
}

function plainerStep(current: () => Program, index: number, attempt: (candidate: Program) => boolean): void {
  const step = (): Step => current().steps[index] as Step;
  const replace = (by: Step): boolean => attempt({ ...current(), steps: current().steps.map((each, i) => (i === index ? by : each)) });
  for (const field of LISTS) {
    for (let i = ((step()[field] as readonly unknown[] | undefined)?.length ?? 0) - 1; i >= 0; i--) {
      const list = step()[field] as readonly unknown[];
      if (list.length > 1) replace({ ...step(), [field]: list.filter((_, j) => j !== i) });
    }
  }
  // One call of a multicall alone.
  const calls = step()['calls'] as readonly Step[] | undefined;
  if (calls?.length === 1) replace(calls[0] as Step);
  for (const [field, value] of Object.entries(PLAINER)) if (step()[field] !== undefined && step()[field] !== value) replace({ ...step(), [field]: value });
}
