// The shipped properties, by name: one sentence each, the programs it draws, the judges it asks.
import { programs, type ProgramConstraints } from './arbitraries.ts';
import { Player, type Finding, type Judge, type WorldRules } from './play.ts';
import { operationCount, type Program } from './program.ts';
import { runProperty, type PropertyRun } from './property-run.ts';
import { smallest } from './shrink.ts';

export interface Property {
  readonly name: string;
  readonly claim: string;
  readonly programs: ProgramConstraints;
  readonly judges: readonly Judge[];
}

export const PROPERTIES: readonly Property[] = [
  { name: 'everything', claim: 'no program of a hostile guest breaks an invariant or a law of the model', programs: {}, judges: ['checkers', 'model'] },
  { name: 'page-tables', claim: 'page types, counts and tables stay consistent, and a guest writes no table and no frame of others', programs: { families: ['memory'] }, judges: ['checkers', 'model'] },
  { name: 'interruptions', claim: 'the same when hypercalls are interrupted wherever they can be', programs: { families: ['memory'], preempt: true }, judges: ['checkers', 'model'] },
  { name: 'grants', claim: 'what is granted is reached as granted, and no longer than it is mapped', programs: { families: ['grants', 'memory'] }, judges: ['checkers', 'model'] },
  { name: 'events', claim: 'ports have two ends, and nobody else\'s change', programs: { families: ['events', 'grants'] }, judges: ['checkers', 'model'] },
];

export const propertyByName = (name: string): Property | undefined => PROPERTIES.find((property) => property.name === name);

export interface PropertyResult {
  readonly property: string;
  readonly seed: number;
  /** Programs played, the failing one included. */
  readonly runs: number;
  readonly failure?: {
    readonly program: Program;
    readonly operations: number;
    readonly problems: readonly string[];
    /** As it was found, before it was made small. */
    readonly found: Program;
  };
}

export interface CheckPropertyOptions {
  readonly runs?: number;
  readonly seed?: number;
  /** Other rules than Xen's: a mutant. */
  readonly rules?: WorldRules;
}

export function propertyRun(property: Property, { runs = 1000, seed = 1, rules = {} }: CheckPropertyOptions = {}): PropertyRun<Program, PropertyResult> {
  const player = new Player(rules);
  const options = { judges: property.judges };
  return {
    programs: programs(property.programs),
    holds: (program) => player.play(program, options) === undefined,
    // Made small by what knows a program's steps (shrink.ts).
    parameters: { numRuns: runs, seed, endOnFailure: true },
    result: ({ failed, counterexample, numRuns }) => {
      if (!failed || counterexample === null) return { property: property.name, seed, runs: numRuns };
      const [found] = counterexample;
      const cut = firstSteps(found, player.play(found, options) as Finding);
      const small = smallest(player.play(cut, options) === undefined ? found : cut, (candidate) => player.play(candidate, options) !== undefined);
      const problems = player.play(small, options)?.problems ?? [];
      return { property: property.name, seed, runs: numRuns, failure: { program: small, operations: operationCount(small), problems, found } };
    },
  };
}

/** Plays random programs until one fails, and makes that one small. */
export const checkProperty = (property: Property, options: CheckPropertyOptions = {}): PropertyResult => runProperty(propertyRun(property, options));

const firstSteps = (program: Program, { step }: Finding): Program => ({ ...program, steps: program.steps.slice(0, step + 1) });

/** Throws an error with the smallest program, readable and as JSON, if the property does not hold. For tests. */
export function assertProperty(name: string, options: CheckPropertyOptions = {}): void {
  const property = propertyByName(name);
  if (property === undefined) throw new Error(`no property is called ${name}; there are ${PROPERTIES.map((each) => each.name).join(', ')}`);
  const result = checkProperty(property, options);
  if (result.failure !== undefined) throw new Error(failureText(result).join('\n'));
}

/** The smallest program as a script, what broke, and how to have it again. */
export function failureText({ property, seed, runs, failure }: PropertyResult, file?: string): string[] {
  if (failure === undefined) return [`${property}: held in ${runs} programs (seed ${seed})`];
  return [
    `${property}: BROKEN by program ${runs} of seed ${seed}; the smallest that breaks it has ${failure.operations} operations`,
    '', scriptOf(failure.program), '',
    ...failure.problems.slice(0, 5).map((problem) => `  ${problem}`), '',
    `as data: ${JSON.stringify(failure.program)}`,
    `again:   npx rexen check --property ${property} ${file === undefined ? `--runs ${runs} --seed ${seed}` : `--program ${file}`}`,
  ];
}
export { programText as scriptText } from './program.ts';
import { programText } from './program.ts';
const scriptOf = programText;
