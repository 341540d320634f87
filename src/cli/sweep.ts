// What `rexen explore` has found out so far, and the file that keeps it: a function of the seeds that were
// taken, in their order, whatever the number of threads.
//
//   state.jsonl   header: scenario, settings, policy, first seed
//                 a line a seed: outcome, cause, what it saw first
//                 a line a cause that was made small, once that is done
//
// A sweep that was interrupted goes on behind the last whole line, also in the midst of making causes small.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';
import type { ExploredSeed } from '../replay/explore.ts';
import type { Shrunk } from '../replay/shrink-plan.ts';

/** The sweep is shown in so many blocks. */
const BLOCKS = 10;

export interface Failure {
  readonly cause: string;
  readonly firstSeed: number;
  count: number;
}

type Seen = Pick<ExploredSeed, 'seed' | 'coverage'> & { readonly run: { readonly cause?: string | undefined } };

export class Sweep {
  readonly failures = new Map<string, Failure>();
  /** By the seed that showed the cause first; null: it could not be made small. */
  readonly shrunk = new Map<number, Shrunk | null>();
  readonly pairs = new Set<number>();
  readonly results = new Set<string>();
  readonly #news: { pairs: number; results: number }[] = [];
  taken = 0;

  /** Returns what no seed before has seen. */
  take({ seed, run, coverage }: Seen): { readonly pairs: readonly number[]; readonly results: readonly string[] } {
    const pairs = coverage.pairs.filter((pair) => !this.pairs.has(pair));
    const results = coverage.results.filter((result) => !this.results.has(result));
    for (const pair of pairs) this.pairs.add(pair);
    for (const result of results) this.results.add(result);
    this.#news.push({ pairs: pairs.length, results: results.length });
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
      const part = this.#news.slice(block * size, (block + 1) * size);
      const sum = (of: 'pairs' | 'results'): number => part.reduce((all, each) => all + each[of], 0);
      return { seeds: `${first + block * size}..${first + block * size + part.length - 1}`, newPairs: sum('pairs'), newResults: sum('results') };
    });
  }
}

/** A sweep with its file; without one it is forgotten when it is over. */
export class SweepFile {
  readonly sweep = new Sweep();
  readonly #file: string | undefined;

  /** Takes what an earlier sweep of the same question has left; throws UsageError if the file belongs to another one. */
  constructor(file: string | undefined, header: string) {
    this.#file = file;
    if (file !== undefined && existsSync(file)) this.#resume(file, header);
    else this.#append(header);
  }

  #resume(file: string, header: string): void {
    // The last line has no end if it was being written when the sweep was interrupted.
    const whole = readFileSync(file, 'utf8').split('\n').slice(0, -1);
    if (whole[0] !== header) throw new UsageError(`${file}: belongs to another sweep (scenario, settings, policy or first seed differ); choose another --out`);
    try {
      for (const line of whole.slice(1)) this.#read(JSON.parse(line) as SavedLine);
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
      throw new UsageError(`${file}: is damaged; delete it, or choose another --out`);
    }
    writeFileSync(file, `${whole.join('\n')}\n`);
  }

  #read(line: SavedLine): void {
    if ('made' in line) this.sweep.shrunk.set(line.made, line.shrunk);
    else this.sweep.take({ seed: line.seed, run: { cause: line.cause }, coverage: { pairs: line.pairs, results: line.results } });
  }

  #append(line: string): void {
    if (this.#file !== undefined) appendFileSync(this.#file, `${line}\n`);
  }

  take(explored: ExploredSeed): void {
    const { seed, run } = explored;
    const fresh = this.sweep.take(explored);
    this.#append(JSON.stringify({ seed, outcome: run.outcome, ...(run.cause === undefined ? {} : { cause: run.cause, text: run.text }), ...fresh }));
  }

  takeShrunk(seed: number, shrunk: Shrunk | undefined): void {
    this.sweep.shrunk.set(seed, shrunk ?? null);
    this.#append(JSON.stringify({ made: seed, shrunk: shrunk ?? null }));
  }
}

type SavedLine = { seed: number; cause?: string; pairs: number[]; results: string[] } | { made: number; shrunk: Shrunk | null };
