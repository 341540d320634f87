// `rexen bisect SCENARIO --bad SEED`: which few choices and faults make the run fail. Exit code 0: found,
// 1: not reproducible (the run does not fail, the good one fails too, or the limit of runs came first).
import { UsageError } from '../base/assert.ts';
import { subjectOf } from '../node/explore-worker.ts';
import { loadHashes } from '../node/load-hashes.ts';
import { findScenario } from '../node/scenario-files.ts';
import { relationText, type EventDiff } from '../replay/diff.ts';
import { choicesFor, parsePlan, planText, type ChoicePlan } from '../replay/plan.ts';
import { runPlanned, type PlannedRun, type RunSubject } from '../replay/planned-run.ts';
import { decidingEvents, DEFAULT_MOST_RUNS, placeAnswers, shrinkPlan, type PlacedAnswer, type Shrunk } from '../replay/shrink-plan.ts';
import { OUTCOMES } from '../sim/outcome.ts';
import type { Scenario } from '../sim/scenario.ts';
import { applySettings } from '../sim/settings.ts';
import { parseSeed } from './arguments.ts';
import { runLive } from './live-run.ts';
import { startProgress } from './progress.ts';
import { wholeNumber } from './recording-argument.ts';

export interface ScenarioBisectOptions {
  readonly good?: string;
  readonly bad?: string;
  readonly plan?: string;
  readonly shrink?: boolean;
  readonly outcome?: string;
  readonly set: readonly string[];
  readonly output?: string;
  readonly maxRuns?: string;
  readonly json?: boolean;
}

/** What a plan came to: for `bisect`, and for `explore`'s failures. */
export interface Hunt {
  readonly shrunk: Shrunk;
  readonly choices: readonly PlacedAnswer[];
  readonly deciding: EventDiff | undefined;
}

export const huntOf = (subject: RunSubject, seed: string, shrunk: Shrunk): Hunt => ({ shrunk, choices: placeAnswers(subject, seed, shrunk.plan), deciding: decidingEvents(subject, seed, shrunk.plan) });

/** Records the run of a plan. */
export async function recordPlan(scenario: Scenario, seed: string, plan: ChoicePlan, file: string): Promise<void> {
  await runLive({ scenario, seed, plan, file, compression: 'deflate', interactive: false, showConsole: false, progress: false, profile: false });
}

export async function bisectScenario(name: string, options: ScenarioBisectOptions): Promise<void> {
  if (options.bad === undefined) throw new UsageError('bisect SCENARIO takes --bad SEED, and --good SEED or --shrink; bisect A B takes two recordings and --instruction');
  if ((options.good === undefined) === (options.shrink !== true)) throw new UsageError('bisect SCENARIO takes either --good SEED (which choices of the bad seed flip the outcome?) or --shrink (which choices at all does the failure need?)');
  const wanted = options.outcome;
  if (wanted !== undefined && !Object.hasOwn(OUTCOMES, wanted)) throw new UsageError(`--outcome ${wanted}: the outcomes are ${Object.keys(OUTCOMES).join(', ')}`);
  const limit = options.maxRuns === undefined ? DEFAULT_MOST_RUNS : wholeNumber('--max-runs', options.maxRuns);
  const bad = parseSeed(options.bad);
  const good = options.good === undefined ? undefined : parseSeed(options.good);
  const badPlan = options.plan === undefined ? undefined : parsePlan(options.plan);
  await loadHashes();
  const plain = await findScenario(name);
  const scenario = { ...plain, spec: applySettings(plain.spec, options.set) };
  const subject = await subjectOf(scenario);
  const fails = wanted === undefined ? undefined : (run: PlannedRun): boolean => run.outcome === wanted;
  const seed = good ?? bad;
  const give = (problem: string): void => {
    process.exitCode = 1;
    process.stdout.write(options.json === true ? `${JSON.stringify({ scenario: scenario.name, found: false, problem })}\n` : `${problem}\n`);
  };
  const progress = startProgress(scenario.name, undefined, options.json !== true);
  let shrunk: Shrunk | undefined;
  try {
    shrunk = shrinkPlan(subject, choicesFor(bad, badPlan), {
      base: good === undefined ? 'calm' : 'seed', seed, limit, ...(fails === undefined ? {} : { fails }),
      onRun: (runs, left) => progress.update(0, `run ${runs} of at most ${limit}, ${left} choices left`),
    });
  } finally {
    progress.stop();
  }
  if (shrunk === undefined) return give(`seed ${bad} does not fail${wanted === undefined ? '' : ` with ${wanted}`}: ${endText(runPlanned(subject, choicesFor(bad, badPlan)))}`);
  if (good !== undefined && shrunk.plan.answers.length === 0) return give(`seed ${good} fails in the same way as seed ${bad}: ${endText(shrunk.run)}`);
  if (!shrunk.minimal) return give(`after ${shrunk.runs} runs ${shrunk.plan.answers.length} of ${shrunk.deviations} choices are left; allow more with --max-runs`);
  const hunt = huntOf(subject, seed, shrunk);
  if (options.output !== undefined) await recordPlan(scenario, seed, shrunk.plan, options.output);
  const command = commandOf(name, seed, shrunk.plan, options);
  if (options.json === true) process.stdout.write(`${JSON.stringify({ scenario: scenario.name, found: true, seed, ...huntJson(hunt), command, ...(options.output === undefined ? {} : { file: options.output }) })}\n`);
  else process.stdout.write(`${[...huntLines(hunt), ...(options.output === undefined ? [] : [`recording      ${options.output}`]), `again          ${command}`].join('\n')}\n`);
}

const endText = (run: PlannedRun): string => [`${run.outcome}: ${run.text}`, ...run.unmet].join('; ');
const quoted = (text: string): string => (/^[A-Za-z0-9_./:=,@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** With a recording: how to replay it; without: how to have the run again. */
export function commandOf(name: string, seed: string, plan: ChoicePlan, { set, output }: Pick<ScenarioBisectOptions, 'set' | 'output'>): string {
  if (output !== undefined) return `rexen replay ${quoted(output)}`;
  return ['rexen run', quoted(name), ...(seed === '1' ? [] : ['--seed', seed]), ...set.flatMap((each) => ['--set', quoted(each)]), '--plan', quoted(planText(plan))].join(' ');
}

export const huntJson = ({ shrunk, choices, deciding }: Hunt) => ({
  plan: planText(shrunk.plan), choices, minimal: shrunk.minimal, runs: shrunk.runs, deviations: shrunk.deviations,
  outcome: shrunk.run.outcome, text: shrunk.run.text, unmet: shrunk.run.unmet, cause: shrunk.run.cause,
  ...(deciding === undefined ? {} : { deciding: { relation: deciding.relation, with: deciding.a.line, without: deciding.b.line, text: relationText(deciding) } }),
});

export function huntLines({ shrunk, choices, deciding }: Hunt): string[] {
  const { plan, run, deviations, runs } = shrunk;
  const left = plan.answers.length;
  const base = plan.base === 'calm' ? 'the calmest run' : 'the good seed';
  return [
    `outcome        ${endText(run)}`,
    `search         ${runs} runs; ${left} of ${deviations} choices that differ from ${base} are needed, and none of them can be spared`,
    `plan           ${planText(plan) === '' ? '(nothing)' : planText(plan)}`,
    ...choices.map(({ choice, options, position }) => `               ${position} ${choice} of ${options}`),
    ...(deciding === undefined ? [] : [
      `decides        ${relationText(deciding).replaceAll(/\bA\b/g, 'the plan').replaceAll(/\bB\b/g, 'the run without its last choice')}`,
      ...deciding.before.slice(-3).map((line) => `               ${line}`),
      `with it        ${deciding.a.line ?? '(it has ended)'}`,
      `without it     ${deciding.b.line ?? '(it has ended)'}`,
    ]),
    ...(left === 0 ? ['               it fails without any choice or fault'] : []),
  ];
}
