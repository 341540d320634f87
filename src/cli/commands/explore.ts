// `rexen explore SCENARIO --seeds 1..10000`: sweeps schedules and fault plans, groups what fails by cause, and
// brings each cause down to a small recording. Exit code 0: nothing failed, 1: something did, 2: bad input.
//
// With --out DIR every seed is a line of DIR/state.jsonl, in the order of the seeds whatever the number of
// threads: run again, it goes on behind the last whole line.
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { ExplorePool, subjectOf, type ExploreRequest } from '../../node/explore-worker.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { POLICIES, type ExploredSeed, type Policy } from '../../replay/explore.ts';
import { DEFAULT_MOST_RUNS } from '../../replay/shrink-plan.ts';
import type { Scenario } from '../../sim/scenario.ts';
import { applySettings } from '../../sim/settings.ts';
import { huntJson, huntLines, huntOf, recordPlan } from '../bisect-scenario.ts';
import { startProgress } from '../progress.ts';
import { wholeNumber } from '../recording-argument.ts';

interface ExploreOptions {
  readonly seeds: string;
  readonly jobs?: string;
  readonly policy: Policy;
  readonly set: readonly string[];
  readonly first?: boolean;
  readonly out?: string;
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];
const MOST_SEEDS = 100_000_000;
/** The sweep is shown in so many blocks. */
const BLOCKS = 10;

export function register(program: Command): void {
  program
    .command('explore')
    .description('run a scenario under many schedules and fault plans; group what fails by cause, and keep a minimal recording of each')
    .argument('<scenario>', 'as `run` takes it')
    .requiredOption('--seeds <a..b>', 'the seeds to try')
    .option('--jobs <n>', 'threads (default: one a processor)')
    .addOption(new Option('--policy <how>', 'how a seed answers: every question at random, priorities with few change points, or a random subset of the questions').choices(POLICIES).default('random'))
    .option('--set <key=value>', 'change a setting of the world, such as faults=upcall.delay:10; may be given several times', collect, [])
    .option('--first', 'stop at the first failure')
    .option('--out <dir>', 'a folder for the state and the recordings; a sweep that was interrupted goes on')
    .option('--json', 'print one JSON object and nothing else')
    .action(explore);
}

interface Failure {
  readonly cause: string;
  readonly firstSeed: number;
  count: number;
}

/** What the sweep knows so far: a function of the seeds that were taken, in their order. */
class Sweep {
  readonly failures = new Map<string, Failure>();
  readonly pairs = new Set<number>();
  readonly results = new Set<string>();
  readonly news: { pairs: number; results: number }[] = [];
  taken = 0;

  take({ seed, run, coverage }: Pick<ExploredSeed, 'seed' | 'coverage'> & { readonly run: { readonly cause?: string | undefined } }): { readonly pairs: readonly number[]; readonly results: readonly string[] } {
    const pairs = coverage.pairs.filter((pair) => !this.pairs.has(pair));
    const results = coverage.results.filter((result) => !this.results.has(result));
    for (const pair of pairs) this.pairs.add(pair);
    for (const result of results) this.results.add(result);
    this.news.push({ pairs: pairs.length, results: results.length });
    this.taken++;
    if (run.cause !== undefined) {
      const known = this.failures.get(run.cause);
      if (known === undefined) this.failures.set(run.cause, { cause: run.cause, firstSeed: seed, count: 1 });
      else known.count++;
    }
    return { pairs, results };
  }

  /** New pairs and results a block of seeds: when they go to 0, more seeds stop helping. */
  blocks(first: number, total: number): { readonly seeds: string; readonly newPairs: number; readonly newResults: number }[] {
    const size = Math.max(1, Math.ceil(total / BLOCKS));
    return Array.from({ length: Math.ceil(this.taken / size) }, (_, block) => {
      const part = this.news.slice(block * size, (block + 1) * size);
      const sum = (of: 'pairs' | 'results'): number => part.reduce((all, each) => all + each[of], 0);
      return { seeds: `${first + block * size}..${first + block * size + part.length - 1}`, newPairs: sum('pairs'), newResults: sum('results') };
    });
  }
}

function parseSeeds(text: string): { readonly first: number; readonly last: number } {
  const match = /^([0-9]{1,15})\.\.([0-9]{1,15})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (match === null || last < first || last - first >= MOST_SEEDS) throw new UsageError(`--seeds ${text}: give a range such as 1..10000, of at most ${MOST_SEEDS} seeds`);
  return { first, last };
}

/** Takes what an earlier sweep of the same question has left; throws UsageError if the folder belongs to another one. */
function resume(file: string, header: string, sweep: Sweep): void {
  if (!existsSync(file)) return writeFileSync(file, `${header}\n`);
  const lines = readFileSync(file, 'utf8').split('\n');
  // The last line has no end if it was being written when the sweep was interrupted.
  const whole = lines.slice(0, -1);
  if (whole[0] !== header) throw new UsageError(`${file}: belongs to another sweep (scenario, settings, policy or first seed differ); choose another --out`);
  try {
    for (const line of whole.slice(1)) {
      const { seed, cause, pairs, results } = JSON.parse(line) as { seed: number; cause?: string; pairs: number[]; results: string[] };
      sweep.take({ seed, run: { cause }, coverage: { pairs, results } });
    }
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
    throw new UsageError(`${file}: is damaged; delete it, or choose another --out`);
  }
  writeFileSync(file, `${whole.join('\n')}\n`);
}

async function explore(name: string, options: ExploreOptions): Promise<void> {
  const { first, last } = parseSeeds(options.seeds);
  const jobs = options.jobs === undefined ? availableParallelism() : wholeNumber('--jobs', options.jobs);
  if (jobs < 1 || jobs > 1024) throw new UsageError(`--jobs ${options.jobs}: give 1 to 1024 threads`);
  await loadHashes();
  const plain = await findScenario(name);
  const scenario = { ...plain, spec: applySettings(plain.spec, options.set) };
  const sweep = new Sweep();
  const state = options.out === undefined ? undefined : join(options.out, 'state.jsonl');
  if (options.out !== undefined) mkdirSync(options.out, { recursive: true });
  if (state !== undefined) resume(state, JSON.stringify({ scenario: scenario.name, spec: scenario.spec, policy: options.policy, first }), sweep);
  const total = last - first + 1;
  const resumed = sweep.taken;
  const progress = startProgress(scenario.name, total, options.json !== true);
  const pool = await ExplorePool.open({ scenario, policy: options.policy }, Math.min(jobs, total));
  try {
    function* seeds(): Generator<ExploreRequest> {
      for (let seed = first + resumed; seed <= last; seed++) yield { kind: 'seed', seed };
    }
    if (options.first !== true || sweep.failures.size === 0) {
      await pool.all(seeds(), (answer) => {
        if (answer.kind !== 'seed') return true;
        const { seed, run } = answer.explored;
        const fresh = sweep.take(answer.explored);
        if (state !== undefined) appendFileSync(state, `${JSON.stringify({ seed, outcome: run.outcome, ...(run.cause === undefined ? {} : { cause: run.cause, text: run.text }), ...fresh })}\n`);
        progress.update(sweep.taken, `${sweep.taken} of ${total} seeds, ${sweep.failures.size} causes`);
        return options.first !== true || run.cause === undefined;
      });
    }
    const found = await shrinkAll(pool, sweep, scenario, name, options, (note) => progress.update(sweep.taken, note));
    progress.stop();
    give(sweep, found, { scenario, first, total, resumed }, options);
  } finally {
    progress.stop();
    await pool.close();
  }
}

interface Found {
  readonly failure: Failure;
  readonly lines: readonly string[];
  readonly json: object;
}

/** One small plan a cause, from the first seed that showed it. */
async function shrinkAll(pool: ExplorePool, sweep: Sweep, scenario: Scenario, name: string, options: ExploreOptions, note: (text: string) => void): Promise<Found[]> {
  const failures = [...sweep.failures.values()];
  const found: Found[] = [];
  if (failures.length === 0) return found;
  const subject = await subjectOf(scenario);
  const shrunk: { seed: string; plan: NonNullable<Extract<Parameters<Parameters<ExplorePool['all']>[1]>[0], { kind: 'shrink' }>['shrunk']> }[] = [];
  await pool.all(failures.map(({ firstSeed }): ExploreRequest => ({ kind: 'shrink', seed: firstSeed, limit: DEFAULT_MOST_RUNS })), (answer) => {
    if (answer.kind === 'shrink' && answer.shrunk !== undefined) shrunk.push({ seed: String(answer.seed), plan: answer.shrunk });
    note(`cause ${shrunk.length} of ${failures.length} made small`);
    return true;
  });
  for (const [index, failure] of failures.entries()) {
    const answer = shrunk.find((row) => row.seed === String(failure.firstSeed));
    if (answer === undefined) {
      found.push({ failure, lines: [`not made small: seed ${failure.firstSeed} did not fail again`], json: { ...failure } });
      continue;
    }
    const { seed, plan } = answer;
    const hunt = huntOf(subject, seed, plan);
    const file = options.out === undefined ? undefined : join(options.out, `cause-${index + 1}.rxr`);
    if (file !== undefined) await recordPlan(scenario, seed, plan.plan, file);
    const again = file === undefined ? `rexen bisect ${name} --bad ${seed} --shrink` : `rexen replay ${file}`;
    found.push({ failure, lines: [...huntLines(hunt), `again          ${again}`], json: { ...failure, ...huntJson(hunt), ...(file === undefined ? {} : { file }) } });
  }
  return found;
}

function give(sweep: Sweep, found: readonly Found[], about: { scenario: Scenario; first: number; total: number; resumed: number }, options: ExploreOptions): void {
  const { scenario, first, total, resumed } = about;
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
