// `rexen explore SCENARIO --seeds 1..10000`: sweeps schedules and fault plans, groups what fails by cause, and
// brings each cause down to a small recording. Exit code 0: nothing failed, 1: something did, 2: bad input.
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { ExplorePool, subjectOf, type ExploreRequest } from '../../node/explore-worker.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { POLICIES, type Policy } from '../../replay/explore.ts';
import { DEFAULT_MOST_RUNS } from '../../replay/shrink-plan.ts';
import type { Scenario } from '../../sim/scenario.ts';
import { applySettings } from '../../sim/settings.ts';
import { commandOf, huntJson, huntLines, huntOf, recordPlan } from '../bisect-scenario.ts';
import { startProgress } from '../progress.ts';
import { wholeNumber } from '../recording-argument.ts';
import { SweepFile, type Failure, type Sweep } from '../sweep.ts';

interface ExploreOptions {
  readonly seeds: string;
  readonly jobs?: string;
  readonly policy: Policy;
  readonly set: readonly string[];
  readonly first?: boolean;
  /** False with --no-shrink. */
  readonly shrink: boolean;
  readonly out?: string;
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];
const MOST_SEEDS = 100_000_000;

export function register(program: Command): void {
  program
    .command('explore')
    .description('run a scenario under many schedules and fault plans; group what fails by cause, and keep a minimal recording of each')
    .argument('<scenario>', 'as `run` takes it')
    .requiredOption('--seeds <a..b>', 'the seeds to try')
    .option('--jobs <n>', 'threads (default: one a processor)')
    .addOption(new Option('--policy <how>', 'how a seed answers: every question at random, priorities with few change points, or a random subset of the questions').choices(POLICIES).default('random'))
    .option('--set <key=value>', 'change a setting of the world, such as faults=upcall.delay:10; may be given several times', collect, [])
    .option('--first', 'stop at the first failure: the lowest seed that fails, whatever the number of threads')
    .option('--no-shrink', 'leave what fails as it is')
    .option('--out <dir>', 'a folder for the state and the recordings; a sweep that was interrupted goes on')
    .option('--json', 'print one JSON object and nothing else')
    .action(explore);
}

function parseSeeds(text: string): { readonly first: number; readonly last: number } {
  const match = /^([0-9]{1,15})\.\.([0-9]{1,15})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (match === null || last < first || last - first >= MOST_SEEDS) throw new UsageError(`--seeds ${text}: give a range such as 1..10000, of at most ${MOST_SEEDS} seeds`);
  return { first, last };
}

interface About {
  readonly name: string;
  readonly scenario: Scenario;
  readonly first: number;
  readonly total: number;
  readonly resumed: number;
}

async function explore(name: string, options: ExploreOptions): Promise<void> {
  const { first, last } = parseSeeds(options.seeds);
  const jobs = options.jobs === undefined ? availableParallelism() : wholeNumber('--jobs', options.jobs);
  if (jobs < 1 || jobs > 1024) throw new UsageError(`--jobs ${options.jobs}: give 1 to 1024 threads`);
  await loadHashes();
  const plain = await findScenario(name);
  const scenario = { ...plain, spec: applySettings(plain.spec, options.set) };
  if (options.out !== undefined) mkdirSync(options.out, { recursive: true });
  const state = new SweepFile(options.out === undefined ? undefined : join(options.out, 'state.jsonl'), JSON.stringify({ scenario: scenario.name, spec: scenario.spec, policy: options.policy, first }));
  const { sweep } = state;
  const about: About = { name, scenario, first, total: last - first + 1, resumed: sweep.taken };
  const progress = startProgress(scenario.name, about.total, options.json !== true);
  const pool = await ExplorePool.open({ scenario, policy: options.policy }, Math.min(jobs, about.total));
  try {
    if (options.first !== true || sweep.failures.size === 0) await sweepSeeds(pool, state, about, options.first === true, () => progress.update(sweep.taken, `${sweep.taken} of ${about.total} seeds, ${sweep.failures.size} causes`));
    if (options.shrink) await shrinkAll(pool, state, (note) => progress.update(sweep.taken, note));
    const found = await describeAll(sweep, about, options);
    progress.stop();
    give(sweep, found, about, options);
  } finally {
    progress.stop();
    await pool.close();
  }
}

/** Answers are taken in the order of the seeds: with `firstOnly` it ends at the lowest that fails. */
async function sweepSeeds(pool: ExplorePool, state: SweepFile, { first, total, resumed }: About, firstOnly: boolean, onTaken: () => void): Promise<void> {
  function* seeds(): Generator<ExploreRequest> {
    for (let seed = first + resumed; seed < first + total; seed++) yield { kind: 'seed', seed };
  }
  await pool.all(seeds(), (answer) => {
    if (answer.kind !== 'seed') return true;
    state.take(answer.explored);
    onTaken();
    return !firstOnly || answer.explored.run.cause === undefined;
  });
}

/** One small plan a cause, from the first seed that showed it; those of an earlier sweep are there already. */
async function shrinkAll(pool: ExplorePool, state: SweepFile, note: (text: string) => void): Promise<void> {
  const { failures, shrunk } = state.sweep;
  const left = [...failures.values()].filter(({ firstSeed }) => !shrunk.has(firstSeed));
  await pool.all(left.map(({ firstSeed }): ExploreRequest => ({ kind: 'shrink', seed: firstSeed, limit: DEFAULT_MOST_RUNS })), (answer) => {
    if (answer.kind === 'shrink') state.takeShrunk(answer.seed, answer.shrunk);
    note(`cause ${shrunk.size} of ${failures.size} made small`);
    return true;
  });
}

interface Found {
  readonly failure: Failure;
  readonly lines: readonly string[];
  readonly json: object;
}

async function describeAll(sweep: Sweep, about: About, options: ExploreOptions): Promise<Found[]> {
  const found: Found[] = [];
  for (const failure of sweep.failures.values()) {
    const shrunk = sweep.shrunk.get(failure.firstSeed);
    if (shrunk !== undefined && shrunk !== null) found.push(await described(failure, shrunk, found.length + 1, about, options));
    else found.push({ failure, lines: shrunk === null ? [`not made small: seed ${failure.firstSeed} did not fail again`] : [], json: { ...failure } });
  }
  return found;
}

async function described(failure: Failure, shrunk: NonNullable<ReturnType<Sweep['shrunk']['get']>>, number: number, { name, scenario }: About, options: ExploreOptions): Promise<Found> {
  const seed = String(failure.firstSeed);
  const hunt = huntOf(await subjectOf(scenario), seed, shrunk);
  const file = options.out === undefined ? undefined : join(options.out, `cause-${number}.rxr`);
  if (file !== undefined) await recordPlan(scenario, seed, shrunk.plan, file);
  const again = commandOf(name, seed, shrunk.plan, { set: options.set, ...(file === undefined ? {} : { output: file }) });
  return { failure, lines: [...huntLines(hunt), `again          ${again}`], json: { ...failure, ...huntJson(hunt), command: again, ...(file === undefined ? {} : { file }) } };
}

function give(sweep: Sweep, found: readonly Found[], { scenario, first, total, resumed }: About, options: ExploreOptions): void {
  process.exitCode = found.length === 0 ? 0 : 1;
  const blocks = sweep.blocks(first, total);
  const coverage = { eventPairs: sweep.pairs.size, hypercallResults: sweep.results.size, blocks };
  const failed = [...sweep.failures.values()].reduce((sum, { count }) => sum + count, 0);
  if (options.json === true) return void process.stdout.write(`${JSON.stringify({ scenario: scenario.name, policy: options.policy, seeds: sweep.taken, resumed, failed, causes: found.map(({ json }) => json), coverage })}\n`);
  const lines = found.flatMap(({ failure, lines: hunt }, index) => [`cause ${index + 1}        ${failure.cause}`, `seeds          ${failure.count}, the first is ${failure.firstSeed}`, ...hunt, '']);
  const shown = blocks.map(({ seeds, newPairs, newResults }) => `               ${seeds}: ${newPairs} new event pairs, ${newResults} new hypercall results`);
  const verdict = `explored: ${sweep.taken} of ${total} seeds, ${failed} failed, ${found.length} ${found.length === 1 ? 'cause' : 'causes'}`;
  process.stdout.write(`${[...lines, `coverage       ${coverage.eventPairs} event pairs, ${coverage.hypercallResults} hypercall results`, ...shown, verdict].join('\n')}\n`);
}
