// The vocabulary of scenarios: a title, what it needs, the world as data, and what is expected.
// Scenario files say why first, in prose; see scenarios/.
import type { DomainSpec, InputStep, WorldSpec } from './spec.ts';
import { SPEC_DEFAULTS } from './spec.ts';

export interface Expectation {
  /** The run's outcome, see outcome.ts; default poweroff. */
  readonly outcome?: string;
  /** Texts that must appear on the first domain's console, in this order. */
  readonly console?: readonly string[];
  /** The same for any domain, by its name. */
  readonly consoles?: Readonly<Record<string, readonly string[]>>;
}

export interface Scenario {
  readonly name: string;
  /** One line, a claim where it can be one. */
  readonly title: string;
  /** Names for `rexen fetch` of images that the product does not contain. */
  readonly needs: readonly string[];
  readonly spec: WorldSpec;
  readonly expect: Expectation;
  /** What is different when a person sits at the console (`--interactive`), where the script's keys are left out. */
  readonly interactive?: InteractiveChange;
}

export interface InteractiveChange {
  /** The first domain's command line. */
  readonly cmdline: string;
}

export interface ScenarioInput extends Partial<Omit<WorldSpec, 'domains' | 'input'>> {
  readonly name: string;
  readonly title: string;
  readonly needs?: readonly string[];
  readonly domains: readonly DomainSpec[];
  readonly input?: readonly InputStep[];
  readonly expect?: Expectation;
  readonly interactive?: InteractiveChange;
}

/** Fills in the defaults. */
export function defineScenario(input: ScenarioInput): Scenario {
  const { name, title, needs, expect, interactive, ...world } = input;
  return { name, title, needs: needs ?? [], expect: expect ?? {}, spec: { ...SPEC_DEFAULTS, ...world }, ...(interactive === undefined ? {} : { interactive }) };
}
