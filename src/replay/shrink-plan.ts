// From a failing run to the smallest plan that still fails in the same way, and from there to the two events
// that decide: the run of the plan beside the run of the plan without its last answer.
import { EVENT, eventRow } from '../abi/events.ts';
import { CHOICE_NAMES, type Choices } from '../sim/choices.ts';
import { buildWorld } from '../sim/build-world.ts';
import { ScriptedInput } from '../sim/input.ts';
import type { EventSink, World } from '../sim/world.ts';
import { ddmin, type Minimal } from './ddmin.ts';
import { fuse } from './fuse.ts';
import type { EventDiff } from './diff.ts';
import { runTwice } from './lock-step.ts';
import { PlannedChoices, TracedChoices, type ChoicePlan, type Deviation } from './plan.ts';
import { runPlanned, type PlannedRun, type RunSubject } from './planned-run.ts';

export interface ShrinkOptions {
  /** What the plan's answers deviate from; its seed is `seed` where the base is 'seed'. */
  readonly base: ChoicePlan['base'];
  readonly seed: string;
  /** Runs at most. */
  readonly limit?: number;
  /** Does this run fail in the way that is looked for? Default: with the same cause as the first one. */
  readonly fails?: (run: PlannedRun) => boolean;
  readonly onRun?: (runs: number, left: number) => void;
}

export interface Shrunk {
  readonly plan: ChoicePlan;
  /** Of the first run. */
  readonly deviations: number;
  readonly run: PlannedRun;
  readonly runs: number;
  /** Each answer was taken away alone, and the run no longer failed so. */
  readonly minimal: boolean;
}

export const DEFAULT_MOST_RUNS = 5000;
/** A run that goes on for so many times the failing one's instructions does something else. */
const PATIENCE = 4;
const LEAST_PATIENCE_INSNS = 20_000_000;

/** Undefined: the first run does not fail. `choices` are those of the failing run, asked from their beginning. */
export function shrinkPlan(subject: RunSubject, choices: Choices, options: ShrinkOptions): Shrunk | undefined {
  const { base, seed, limit = DEFAULT_MOST_RUNS, onRun } = options;
  const traced = new TracedChoices(choices, new PlannedChoices(seed, { base, answers: [] }));
  const first = runPlanned(subject, traced);
  const fails = options.fails ?? ((run: PlannedRun) => run.cause !== undefined && run.cause === first.cause);
  if (!fails(first)) return undefined;
  const maxInstructions = first.outcome === 'limit' ? subject.spec.maxInstructions : Math.max(LEAST_PATIENCE_INSNS, first.instructions * PATIENCE);
  let last = first;
  const test = (answers: readonly Deviation[]): boolean => {
    const run = runPlanned(subject, new PlannedChoices(seed, { base, answers }), { maxInstructions });
    if (!fails(run)) return false;
    last = run;
    return true;
  };
  let runs = 1;
  const reduce = (members: readonly Deviation[]): Minimal<Deviation> => {
    const minimal = ddmin<Deviation>(members, test, limit - runs, (tests, left) => onRun?.(runs + tests, left));
    runs += minimal.tests;
    return minimal;
  };
  let found = reduce(traced.deviations);
  while (found.verified && found.members.length > 1) {
    const fused = fuse(found.members, test, limit - runs);
    runs += fused.tests;
    if (fused.members === undefined) break;
    found = reduce(fused.members);
  }
  const answers = found.members.map(({ name, nth, answer }) => ({ name, nth, answer }));
  return { plan: { base, answers }, deviations: traced.deviations.length, run: last, runs, minimal: found.verified };
}

export interface PlacedAnswer {
  readonly choice: string;
  readonly options: number;
  /** `event:dDOMAINvVCPU:retired` of its choice event. */
  readonly position: string;
}

/** Where the answers of a plan stand in its run; one that is never asked for is left out. */
export function placeAnswers(subject: RunSubject, seed: string, plan: ChoicePlan): readonly PlacedAnswer[] {
  const wanted = new Set(plan.answers.map(({ name, nth }) => `${name}#${nth}`));
  const placed: PlacedAnswer[] = [];
  const asked = new Map<string, number>();
  let index = 0;
  runPlanned(subject, new PlannedChoices(seed, plan), {
    sink: () => ({
      event: (kind, domId, vcpuId, retired, _nowNs, values) => {
        const at = index++;
        if (kind !== EVENT.choice) return;
        const name = CHOICE_NAMES[(values[0] as number) - 1] as string;
        const nth = (asked.get(name) ?? 0) + 1;
        asked.set(name, nth);
        if (wanted.has(`${name}#${nth}`)) placed.push({ choice: `${name}#${nth}=${values[2]}`, options: values[1] as number, position: `${at}:d${domId}v${vcpuId}:${retired}` });
      },
    }),
  });
  return placed;
}

/** What a choice is made of and tells nothing about what it leads to. */
const OF_CHOICES: ReadonlySet<number> = new Set([EVENT.choice, EVENT.nameDefined]);
export const decides = (kind: number): boolean => !OF_CHOICES.has(kind) && eventRow(kind) !== undefined;

/** The first events, choices aside, in which the run of the plan (A) and the run without its last answer (B) differ. */
export function decidingEvents(subject: RunSubject, seed: string, plan: ChoicePlan): EventDiff | undefined {
  if (plan.answers.length === 0) return undefined;
  const without = { ...plan, answers: plan.answers.slice(0, -1) };
  const { images } = subject;
  const spec = { ...subject.spec, digestEveryInsns: 0 };
  const make = (which: 0 | 1, sink: (world: World) => EventSink): World =>
    buildWorld({ spec, images, choices: new PlannedChoices(seed, which === 0 ? plan : without), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf), sink });
  return runTwice(make, decides).parting;
}
