// A choice plan: what a run does differently from a base. The base is a seed, or the calmest of all runs
// ('calm': every question gets its answer 0, so that no fault happens and nobody is late); the plan names
// the answers that deviate from it.
//
//   calm,scheduler.next#12=1,fault.block.error#3=1     nothing happens, but for these two
//   scheduler.next#12=1                                the seed's run, but for this one
//
// An answer is known by its question and by how often that was asked before: runs that insert or delete
// events elsewhere do not shift it. The seeded streams are drawn in any case, so that one answer changes
// no other.
import { UsageError } from '../base/assert.ts';
import type { World } from '../log/packets.ts';
import { CHOICE_NAMES, SeededChoices, type ChoiceName, type Choices } from '../sim/choices.ts';

export interface PlannedAnswer {
  readonly name: ChoiceName;
  /** 1 is the first time it is asked. */
  readonly nth: number;
  readonly answer: number;
}

export interface ChoicePlan {
  readonly base: 'calm' | 'seed';
  readonly answers: readonly PlannedAnswer[];
}

export const CALM: ChoicePlan = { base: 'calm', answers: [] };
/** The option of a recording's header that carries its plan. */
export const PLAN_OPTION = 'plan';

const answerText = ({ name, nth, answer }: PlannedAnswer): string => `${name}#${nth}=${answer}`;
export const planText = ({ base, answers }: ChoicePlan): string => [...(base === 'calm' ? ['calm'] : []), ...answers.map(answerText)].join(',');

/** Throws UsageError. The empty text is the seed's own run. */
export function parsePlan(text: string): ChoicePlan {
  const parts = text.split(',').map((part) => part.trim()).filter((part) => part !== '');
  const calm = parts[0] === 'calm';
  const seen = new Set<string>();
  const answers = parts.slice(calm ? 1 : 0).map((part): PlannedAnswer => {
    const match = /^([a-z.]+)#([0-9]{1,15})=([0-9]{1,10})$/.exec(part);
    const [name, nth, answer] = [match?.[1] ?? '', Number(match?.[2]), Number(match?.[3])];
    if (match === null || nth < 1 || answer > 0xffff_ffff) throw new UsageError(`--plan: ${part} is no answer; write NAME#NTH=ANSWER, such as scheduler.next#12=1, and calm before all of them if everything else is to stay calm`);
    if (!(CHOICE_NAMES as readonly string[]).includes(name)) throw new UsageError(`--plan: there is no choice ${name}; they are ${CHOICE_NAMES.join(', ')}`);
    const key = `${name}#${nth}`;
    if (seen.has(key)) throw new UsageError(`--plan: ${key} is answered twice`);
    seen.add(key);
    return { name: name as ChoiceName, nth, answer };
  });
  return { base: calm ? 'calm' : 'seed', answers };
}

export class PlannedChoices implements Choices {
  readonly #seeded: SeededChoices;
  readonly #calm: boolean;
  readonly #answers: ReadonlyMap<string, number>;
  #asked = new Map<ChoiceName, number>();

  constructor(seed: string, plan: ChoicePlan) {
    this.#seeded = new SeededChoices(seed);
    this.#calm = plan.base === 'calm';
    this.#answers = new Map(plan.answers.map(({ name, nth, answer }) => [`${name}#${nth}`, answer]));
  }

  /** An answer that the question does not have here (fewer can run than when the plan was made) is none. */
  pick(name: ChoiceName, options: number): number {
    const nth = (this.#asked.get(name) ?? 0) + 1;
    this.#asked.set(name, nth);
    const seeded = this.#seeded.pick(name, options);
    const planned = this.#answers.get(`${name}#${nth}`);
    return planned !== undefined && planned < options ? planned : this.#calm ? 0 : seeded;
  }

  save(): unknown {
    return { seeded: this.#seeded.save(), asked: [...this.#asked] };
  }

  restore(state: unknown): void {
    const { seeded, asked } = state as { seeded: unknown; asked: [ChoiceName, number][] };
    this.#seeded.restore(seeded);
    this.#asked = new Map(asked);
  }
}

export const choicesFor = (seed: string, plan: ChoicePlan | undefined): Choices => (plan === undefined ? new SeededChoices(seed) : new PlannedChoices(seed, plan));

/** What answered the questions of a recorded run. Throws UsageError for a plan that is none. */
export function choicesOf(world: World): Choices {
  const text = world.options.find(({ name }) => name === PLAN_OPTION)?.value;
  return choicesFor(world.seed, text === undefined ? undefined : parsePlan(text));
}

/** An answer that a run gave and its base would not have given. */
export interface Deviation extends PlannedAnswer {
  readonly options: number;
}

/** Answers as `inner` does, and keeps what `base` would have answered otherwise. */
export class TracedChoices implements Choices {
  readonly deviations: Deviation[] = [];
  readonly #inner: Choices;
  readonly #base: Choices;
  /** How often each question was asked. */
  readonly asked = new Map<ChoiceName, number>();

  constructor(inner: Choices, base: Choices) {
    this.#inner = inner;
    this.#base = base;
  }

  pick(name: ChoiceName, options: number): number {
    const nth = (this.asked.get(name) ?? 0) + 1;
    this.asked.set(name, nth);
    const answer = this.#inner.pick(name, options);
    if (this.#base.pick(name, options) !== answer) this.deviations.push({ name, nth, answer, options });
    return answer;
  }

  // It watches one run from its beginning to its end: nobody seeks in it.
  save(): unknown {
    return this.#inner.save();
  }

  restore(state: unknown): void {
    this.#inner.restore(state);
  }
}
