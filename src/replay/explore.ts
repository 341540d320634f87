// One seed of an exploration: which schedules and faults it tries (the policy), and what it saw (coverage).
//
//   random   every question is answered by the seed
//   pct      every question has a preference that is kept, but for a few change points: there a fault happens,
//            or the preference becomes another (Burckhardt et al. 2010, from threads to choices)
//   swarm    a random subset of the questions is answered by the seed, the others stay calm (Groce et al. 2012)
//
// All of them are functions of the seed alone: nothing that one seed finds out reaches another.
import { EVENT, MAX_KIND } from '../abi/events.ts';
import { HYPERCALL_END } from '../abi/events.ts';
import { PrngStream } from '../base/prng.ts';
import { CHOICE_NAMES, SeededChoices, type ChoiceName, type Choices } from '../sim/choices.ts';
import type { EventSink } from '../sim/world.ts';
import { PlannedChoices, TracedChoices, CALM } from './plan.ts';
import { runPlanned, type PlannedRun, type RunSubject } from './planned-run.ts';

export const POLICIES = ['random', 'pct', 'swarm'] as const;
export type Policy = (typeof POLICIES)[number];

const MOST_CHANGE_POINTS = 5;
const isFault = (name: ChoiceName): boolean => name.startsWith('fault.');

/** How often the calmest run asks each question: what change points are drawn from. */
export function questionsOf(subject: RunSubject): ReadonlyMap<ChoiceName, number> {
  const calm = new PlannedChoices('1', CALM);
  const traced = new TracedChoices(calm, new PlannedChoices('1', CALM));
  runPlanned(subject, traced);
  return traced.asked;
}

/** No state to save: explored runs are run from their beginning to their end. */
abstract class PolicyChoices implements Choices {
  abstract pick(name: ChoiceName, options: number): number;
  save(): unknown {
    return null;
  }
  restore(): void {}
}

class PctChoices extends PolicyChoices {
  readonly #seeded: SeededChoices;
  readonly #preference: Map<ChoiceName, number>;
  /** `NAME#NTH`. */
  readonly #changes = new Map<string, number>();
  readonly #asked = new Map<ChoiceName, number>();

  constructor(seed: string, questions: ReadonlyMap<ChoiceName, number>) {
    super();
    this.#seeded = new SeededChoices(seed);
    const stream = new PrngStream(seed, 'explore.pct');
    this.#preference = new Map(CHOICE_NAMES.map((name) => [name, isFault(name) ? 0 : stream.u32() / 0x1_0000_0000]));
    const total = [...questions.values()].reduce((sum, count) => sum + count, 0);
    for (let left = total === 0 ? 0 : 1 + stream.below(MOST_CHANGE_POINTS); left > 0; left--) {
      let at = stream.below(total);
      for (const [name, count] of questions) {
        if (at < count) this.#changes.set(`${name}#${at + 1}`, stream.u32() / 0x1_0000_0000);
        at -= count;
        if (at < 0) break;
      }
    }
  }

  pick(name: ChoiceName, options: number): number {
    const nth = (this.#asked.get(name) ?? 0) + 1;
    this.#asked.set(name, nth);
    const seeded = this.#seeded.pick(name, options);
    const change = this.#changes.get(`${name}#${nth}`);
    // The last option of a fault is always a yes; which of its forms it takes, the seed says.
    if (isFault(name)) return change === undefined ? 0 : change < 0.5 ? options - 1 : seeded;
    if (change !== undefined) this.#preference.set(name, change);
    return Math.floor((this.#preference.get(name) as number) * options);
  }
}

class SwarmChoices extends PolicyChoices {
  readonly #seeded: SeededChoices;
  readonly #active: ReadonlySet<ChoiceName>;

  constructor(seed: string) {
    super();
    this.#seeded = new SeededChoices(seed);
    const stream = new PrngStream(seed, 'explore.swarm');
    this.#active = new Set(CHOICE_NAMES.filter(() => stream.below(2) === 1));
  }

  pick(name: ChoiceName, options: number): number {
    const seeded = this.#seeded.pick(name, options);
    return this.#active.has(name) ? seeded : 0;
  }
}

export function policyChoices(policy: Policy, seed: string, questions: ReadonlyMap<ChoiceName, number>): Choices {
  if (policy === 'random') return new SeededChoices(seed);
  return policy === 'swarm' ? new SwarmChoices(seed) : new PctChoices(seed, questions);
}

/** Which kinds of events came right after which, and how hypercalls ended: as numbers, once each, ascending. */
export interface Coverage {
  readonly pairs: readonly number[];
  /** `NR:RESULT`, results above 0 as one. */
  readonly results: readonly string[];
}

class CoverageSink implements EventSink {
  readonly #pairs = new Set<number>();
  readonly #results = new Set<string>();
  #last = 0;

  event(kind: number, _domId: number, _vcpuId: number, _retired: number, _nowNs: number, values: readonly number[]): void {
    this.#pairs.add(this.#last * (MAX_KIND + 1) + kind);
    this.#last = kind;
    if (kind !== EVENT.hypercall) return;
    const [nr, rc, end] = values as [number, number, number];
    this.#results.add(`${nr}:${HYPERCALL_END[end] === 'done' ? Math.min(rc, 1) : HYPERCALL_END[end]}`);
  }

  coverage(): Coverage {
    return { pairs: [...this.#pairs].sort((a, b) => a - b), results: [...this.#results].sort((a, b) => (a < b ? -1 : 1)) };
  }
}

export interface ExploredSeed {
  readonly seed: number;
  readonly run: PlannedRun;
  readonly coverage: Coverage;
}

export function exploreSeed(subject: RunSubject, policy: Policy, seed: number, questions: ReadonlyMap<ChoiceName, number>): ExploredSeed {
  const sink = new CoverageSink();
  const run = runPlanned(subject, policyChoices(policy, String(seed), questions), { sink: () => sink });
  return { seed, run, coverage: sink.coverage() };
}
