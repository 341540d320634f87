// What a plan wants done with a disk, step by step. The first step that fails ends the job, with a sentence.
import { BLKIF_OP } from '../../abi/blkif.ts';
import { pfnToVaddr } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import type { Disk, Transfer } from './blkfront.ts';
import type { Machinery } from './machinery.ts';
import { patternPage, type DiskJob, type DiskStep } from './plan.ts';

/** How long a transfer may take, a disk that is unplugged meanwhile included. */
const PATIENCE_NS = 30_000_000_000;
/** Pages that are moved at once: more than the 32 requests of a ring take. */
const CHUNK_PAGES = 400;
const WORDS = 1024;

export function* diskJob(machinery: Machinery, disk: Disk, job: DiskJob): Task {
  const ahead: Ahead[] = [];
  const stopped = yield* steps(machinery, disk, job, ahead);
  const problem = stopped ?? (yield* awaitAll(machinery, ahead));
  if (problem === undefined) yield* machinery.say(`${job.disk}: all steps done`);
  else yield* machinery.complain(`${job.disk}: ${problem}`);
}

/** A transfer that nobody has waited for yet, its frames, and the pattern that they must have then. */
interface Ahead {
  readonly transfer: Transfer;
  readonly pfns: readonly number[];
  readonly value?: number;
}

function* steps(machinery: Machinery, disk: Disk, job: DiskJob, ahead: Ahead[]): Task<string | undefined> {
  const connected = yield* machinery.until(() => disk.pages > 0 || machinery.stopping, (yield* machinery.events.now()) + PATIENCE_NS);
  if (!connected) return 'the disk does not appear';
  if (machinery.stopping) return 'stopped before the first step';
  yield* machinery.say(`${job.disk}: ${disk.pages} pages`);
  for (const step of job.steps) {
    if (machinery.stopping) return `stopped before ${step.do}`;
    const ofStep = yield* oneStep(machinery, disk, step, ahead);
    const problem = ofStep ?? ('ahead' in step && step.ahead === true ? undefined : yield* awaitAll(machinery, ahead));
    if (problem !== undefined) return `${step.do}${'page' in step ? ` of ${step.pages} pages from ${step.page}` : ''}: ${problem}`;
  }
  return undefined;
}

function* oneStep(machinery: Machinery, disk: Disk, step: DiskStep, ahead: Ahead[]): Task<string | undefined> {
  switch (step.do) {
    case 'sleep':
      yield* machinery.sleep(step.ns);
      return undefined;
    case 'flush':
      if (!disk.flushes) return undefined;
      return yield* moved(machinery, disk, BLKIF_OP.FLUSH_DISKCACHE, 0, []);
    case 'write':
      return yield* inChunks(machinery, disk, step, function* (page, pfns) {
        for (let i = 0; i < pfns.length; i++) yield machinery.m.writeWords(pfnToVaddr(pfns[i] as number), patternPage(step.value, page + i), WORDS);
        const operation = step.barrier === true && disk.barriers ? BLKIF_OP.WRITE_BARRIER : BLKIF_OP.WRITE;
        const transfer = disk.start(operation, page, pfns);
        disk.written.push({ transfer, value: step.value });
        machinery.wake();
        if (step.ahead !== true) return yield* ended(machinery, transfer);
        ahead.push({ transfer, pfns });
        return HELD;
      });
    case 'check':
      return yield* inChunks(machinery, disk, step, function* (page, pfns) {
        if (step.ahead === true) {
          ahead.push({ transfer: disk.start(BLKIF_OP.READ, page, pfns), pfns, value: step.value });
          machinery.wake();
          return HELD;
        }
        return (yield* moved(machinery, disk, BLKIF_OP.READ, page, pfns)) ?? (yield* compared(machinery, page, pfns, step.value));
      });
  }
}

function* compared(machinery: Machinery, page: number, pfns: readonly number[], value: number): Task<string | undefined> {
  for (let i = 0; i < pfns.length; i++) {
    yield machinery.m.readWords(pfnToVaddr(pfns[i] as number), WORDS);
    const { words } = machinery.m;
    const at = patternPage(value, page + i).findIndex((word, index) => word !== words[index]);
    if (at >= 0) return `page ${page + i} is not what was written, from byte ${at * 4} on`;
  }
  return undefined;
}

/** `act` on so many pages at a time, with frames of the kernel's; undefined: all went well. */
function* inChunks(machinery: Machinery, disk: Disk, { page, pages }: { readonly page: number; readonly pages: number }, act: (page: number, pfns: readonly number[]) => Task<string | undefined>): Task<string | undefined> {
  if (page + pages > disk.pages) return `the disk has ${disk.pages} pages`;
  const { frames } = machinery.kernel;
  for (let done = 0; done < pages; done += CHUNK_PAGES) {
    const pfns: number[] = [];
    for (let i = done; i < Math.min(pages, done + CHUNK_PAGES); i++) {
      const pfn = frames.take();
      if (pfn !== undefined) pfns.push(pfn);
    }
    const problem = pfns.length < Math.min(pages - done, CHUNK_PAGES) ? 'no memory' : yield* act(page + done, pfns);
    // What never came back may still be the back end's to write to: it is not used again.
    if (problem === NO_ANSWER) return problem;
    if (problem === HELD) continue;
    for (const pfn of pfns) frames.put(pfn);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

const NO_ANSWER = 'no answer came in time';
/** No problem: the frames are kept until the transfer has ended. */
const HELD = 'held';

function* moved(machinery: Machinery, disk: Disk, operation: number, page: number, pfns: readonly number[]): Task<string | undefined> {
  const transfer = disk.start(operation, page, pfns);
  machinery.wake();
  return yield* ended(machinery, transfer);
}

function* ended(machinery: Machinery, transfer: Transfer): Task<string | undefined> {
  const came = yield* machinery.until(() => transfer.left === 0, (yield* machinery.events.now()) + PATIENCE_NS);
  return came ? transfer.failure : NO_ANSWER;
}

/** The transfers ahead have ended, what was read is as it should be, and their frames are back. */
function* awaitAll(machinery: Machinery, ahead: Ahead[]): Task<string | undefined> {
  let problem: string | undefined;
  for (const { transfer, pfns, value } of ahead.splice(0)) {
    const failure = (yield* ended(machinery, transfer)) ?? (value === undefined ? undefined : yield* compared(machinery, transfer.page, pfns, value));
    if (failure !== NO_ANSWER) for (const pfn of pfns) machinery.kernel.frames.put(pfn);
    problem ??= failure;
  }
  return problem;
}
