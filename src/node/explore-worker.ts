// Threads that explore: each builds its own worlds of one scenario and answers one seed at a time. What comes
// back for a seed depends on the seed alone. This file is both ends: imported, it starts threads; run as a
// worker, it is one. From TypeScript sources, where worker threads cannot load it, the calling thread works.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { MemoryPool } from '../machine/memory-pool.ts';
import { exploreSeed, policyChoices, questionsOf, type ExploredSeed, type Policy } from '../replay/explore.ts';
import type { RunSubject } from '../replay/planned-run.ts';
import { shrinkPlan, type Shrunk } from '../replay/shrink-plan.ts';
import type { Scenario } from '../sim/scenario.ts';
import { loadHashes } from './load-hashes.ts';
import { loadImages, portableSpec } from './load-images.ts';

export interface ExploreTask {
  readonly scenario: Scenario;
  readonly policy: Policy;
}
export type ExploreRequest = { readonly kind: 'seed'; readonly seed: number } | { readonly kind: 'shrink'; readonly seed: number; readonly limit: number };
export type ExploreAnswer = { readonly kind: 'seed'; readonly explored: ExploredSeed } | { readonly kind: 'shrink'; readonly seed: number; readonly shrunk: Shrunk | undefined };

export const subjectOf = async (scenario: Scenario): Promise<RunSubject> => ({ spec: portableSpec(scenario.spec), images: (await loadImages(scenario.spec)).domains, expect: scenario.expect, pool: new MemoryPool() });

async function answerer(task: ExploreTask): Promise<(request: ExploreRequest) => ExploreAnswer> {
  await loadHashes();
  const subject = await subjectOf(task.scenario);
  const questions = task.policy === 'pct' ? questionsOf(subject) : new Map();
  return (request) => {
    const { seed } = request;
    if (request.kind === 'seed') return { kind: 'seed', explored: exploreSeed(subject, task.policy, seed, questions) };
    return { kind: 'shrink', seed, shrunk: shrinkPlan(subject, policyChoices(task.policy, String(seed), questions), { base: 'calm', seed: String(seed), limit: request.limit }) };
  };
}

export class ExplorePool {
  readonly #workers: readonly Worker[];
  readonly #inline: ((request: ExploreRequest) => ExploreAnswer) | undefined;

  private constructor(workers: readonly Worker[], inline: ((request: ExploreRequest) => ExploreAnswer) | undefined) {
    this.#workers = workers;
    this.#inline = inline;
  }

  static async open(task: ExploreTask, jobs: number): Promise<ExplorePool> {
    if (fileURLToPath(import.meta.url).endsWith('.ts')) return new ExplorePool([], await answerer(task));
    return new ExplorePool(Array.from({ length: jobs }, () => new Worker(new URL(import.meta.url), { workerData: { rexenExplore: task } })), undefined);
  }

  /** Answers come in the order of the requests, whoever was done first; false from `take` ends it. */
  async all(requests: Iterable<ExploreRequest>, take: (answer: ExploreAnswer) => boolean): Promise<void> {
    const queue = requests[Symbol.iterator]();
    if (this.#inline !== undefined) {
      for (let next = queue.next(); next.done !== true; next = queue.next()) {
        if (!take(this.#inline(next.value))) return;
        // Ctrl-C is heard between two seeds.
        await new Promise((resolve) => setImmediate(resolve));
      }
      return;
    }
    await inOrder(queue, this.#workers.map((worker) => (request: ExploreRequest) => ask(worker, request)), take);
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

/** Each of `workers` has one request at a time; answers are taken in the order of the requests until `take` says false. */
export async function inOrder<Q, A>(queue: Iterator<Q>, workers: readonly ((request: Q) => Promise<A>)[], take: (answer: A) => boolean): Promise<void> {
  let asked = 0;
  let taken = 0;
  let over = false;
  const early = new Map<number, A>();
  const work = async (answerOf: (request: Q) => Promise<A>): Promise<void> => {
    for (let next = over ? undefined : queue.next(); next !== undefined && next.done !== true; next = over ? undefined : queue.next()) {
      const index = asked++;
      early.set(index, await answerOf(next.value));
      for (; early.has(taken) && !over; taken++) {
        over = !take(early.get(taken) as A);
        early.delete(taken);
      }
    }
  };
  await Promise.all(workers.map(work));
}

const ask = (worker: Worker, request: ExploreRequest): Promise<ExploreAnswer> =>
  new Promise((resolve, reject) => {
    const settle = (): void => {
      worker.off('message', done);
      worker.off('error', failed);
    };
    const done = (answer: ExploreAnswer): void => { settle(); resolve(answer); };
    const failed = (error: Error): void => { settle(); reject(error); };
    worker.on('message', done);
    worker.on('error', failed);
    worker.postMessage(request);
  });

// -- the thread ----------------------------------------------------------------------------------

const task = (workerData as { rexenExplore?: ExploreTask } | null)?.rexenExplore;
if (!isMainThread && task !== undefined) {
  const port = parentPort as NonNullable<typeof parentPort>;
  const answer = await answerer(task);
  port.on('message', (request: ExploreRequest) => port.postMessage(answer(request)));
}
