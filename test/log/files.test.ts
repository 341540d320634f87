// Recordings on disk: what is written is read, in one file or several; the writing thread does what
// the inline writer does.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { BatchedEvents } from '../../src/log/batched-encoder.ts';
import { EventEncoder } from '../../src/log/event-encoder.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { RecordingWriter } from '../../src/log/writer.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { FileSink, fileSource, openRecordingFile, segmentPath, withRecordingFile } from '../../src/node/recording-files.ts';
import { createRecordingFile, type RecordingFile } from '../../src/node/recording-worker.ts';
import { ReadAhead } from '../../src/node/read-ahead.ts';
import { openTimeline } from '../../src/node/timeline.ts';
import { checkpointPath } from '../../src/node/checkpoint-files.ts';
import { runLive } from '../../src/cli/live-run.ts';
import { runReplay } from '../../src/cli/replay-run.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { open, recordBytes, storm, WORLD } from './synthetic.ts';

let folder = '';
const path = (name: string): string => join(folder, name);
beforeAll(async () => {
  await loadHashes();
  folder = mkdtempSync(join(tmpdir(), 'rexen-files-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const END = { instructions: 1000, virtualTimeNs: 2000, outcome: 'shutdown', outcomeText: 'poweroff' };

function writeSegmented(name: string, rounds: number, segmentBytes: number): void {
  const sink = new FileSink(path(name), segmentBytes);
  const writer = new RecordingWriter(sink, { world: WORLD });
  const encoder = new EventEncoder(writer);
  storm({ emit: (...args) => { encoder.emit(...args); if (encoder.eventCount % 1000 === 0) encoder.endChunk(); }, nameNumber: (...args) => encoder.nameNumber(...args) }, rounds);
  encoder.endChunk();
  writer.finish(END);
  sink.close();
}

test('a recording in several files reads like one, each of them a Recording of its own', async () => {
  writeSegmented('many.rxr', 5000, 4000);
  const whole = await openRecordingFile(path('many.rxr'));
  expect(existsSync(segmentPath(path('many.rxr'), 3))).toBe(true);
  expect(bytesToHex(whole.verify())).toBe(bytesToHex(open(recordBytes((encoder) => storm(encoder, 5000))).digest));
  expect(whole.truncated).toBe(false);
  expect([...whole.events()].length).toBe(whole.eventCount);
  // A shorter one under the same name must not find the old segments.
  writeSegmented('many.rxr', 100, 1 << 30);
  expect((await openRecordingFile(path('many.rxr'))).truncated).toBe(false);
  expect(existsSync(segmentPath(path('many.rxr'), 1))).toBe(false);
});

test('a missing or foreign segment is noticed', async () => {
  writeSegmented('gap.rxr', 5000, 4000);
  const second = readFileSync(segmentPath(path('gap.rxr'), 2));
  rmSync(segmentPath(path('gap.rxr'), 2));
  expect((await openRecordingFile(path('gap.rxr'))).truncated).toBe(true);
  const other = second.slice();
  writeFileSync(segmentPath(path('gap.rxr'), 2), other.subarray(0, other.length - 1));
  await expect(openRecordingFile(path('gap.rxr'))).rejects.toThrow(/gap\.rxr/);
  const sink = new FileSink(path('alien.rxr'), 4000);
  const writer = new RecordingWriter(sink, { world: { ...WORLD, seed: '99' } });
  const encoder = new EventEncoder(writer);
  storm(encoder, 5000);
  encoder.endChunk();
  writer.finish(END);
  sink.close();
  writeFileSync(segmentPath(path('gap.rxr'), 2), second);
  writeFileSync(segmentPath(path('gap.rxr'), 1), readFileSync(segmentPath(path('alien.rxr'), 1)));
  await expect(openRecordingFile(path('gap.rxr'))).rejects.toThrow(/segment 1 belongs to another recording/);
});

test('a file cut while it is being written opens up to its last whole chunk', async () => {
  writeSegmented('cut.rxr', 5000, 1 << 30);
  const size = statSync(path('cut.rxr')).size;
  truncateSync(path('cut.rxr'), Math.floor(size / 2));
  const recording = await openRecordingFile(path('cut.rxr'));
  expect(recording.truncated).toBe(true);
  expect(recording.eventCount % 1000).toBe(0);
  expect(recording.eventCount).toBeGreaterThan(1000);
});

test('a folder, and what cannot be sought, is refused', async () => {
  await expect(openRecordingFile(folder)).rejects.toThrow(/is not a regular file/);
  if (spawnSync('mkfifo', [path('pipe')]).status === 0) await expect(openRecordingFile(path('pipe'))).rejects.toThrow(/pipe: is not a regular file/);
  await expect(openRecordingFile(path('nothing'))).rejects.toMatchObject({ code: 'ENOENT', path: path('nothing') });
});

// The thread is started only from compiled code, since Node 20 does not run TypeScript. Compiled here,
// so that the test does not judge an old build; under node_modules, so that packages are found.
const ROOT = join(import.meta.dirname, '..', '..');
const built = join(ROOT, 'node_modules', '.cache', 'rexen-files-test');
let compiled: Promise<Compiled> | undefined;
interface Compiled {
  readonly createRecordingFile: typeof createRecordingFile;
  readonly ReadAhead: typeof ReadAhead;
}
const compiledThreads = (): Promise<Compiled> => (compiled ??= compile());
async function compile(): Promise<Compiled> {
  const compiler = spawnSync(process.execPath, [join(ROOT, 'esbuild.config.mjs'), built], { encoding: 'utf8', cwd: ROOT });
  const from = async (name: string): Promise<object> => {
    const module = join(built, 'src', 'node', name);
    expect(existsSync(module), compiler.stderr).toBe(true);
    return (await import(/* @vite-ignore */ pathToFileURL(module).href)) as object;
  };
  return { ...(await from('recording-worker.js')), ...(await from('read-ahead.js')) } as Compiled;
}

test('the writing thread writes the same recording as the inline writer', async () => {
  const { createRecordingFile: thread } = await compiledThreads();
  const record = async (file: RecordingFile): Promise<string> => {
    const events = new BatchedEvents(file);
    const emitter = { emit: events.emit.bind(events), nameNumber: () => 1 };
    storm(emitter, 10_000);
    events.endChunk();
    file.stateDigest({ atEvent: 1000, parts: [{ name: 'registers', digest: new Uint8Array(32) }] });
    storm({ ...emitter, emit: (kind, domId, vcpuId, retired, nowNs, values, bytes) => events.emit(kind, domId, vcpuId, retired + 1e9, nowNs + 1e9, values, bytes) }, 10_000);
    // Byte strings longer than a batch, and longer than a slot.
    for (const sizeBytes of [100_000, 5, 700_000, 1]) events.emit(EVENT.consoleOut, 1, 0, 3e9, 3e9, [], new Uint8Array(sizeBytes).fill(sizeBytes));
    events.endChunk();
    const totals = await file.finish(END);
    return `${totals.events} ${totals.bytes} ${bytesToHex(totals.digest)}`;
  };
  const beside = await record(await thread(path('thread.rxr'), { world: WORLD, threadAfterEvents: 30_000 }));
  expect(beside).toBe(await record(await createRecordingFile(path('inline.rxr'), { world: WORLD, inline: true })));
  expect(readFileSync(path('thread.rxr')).equals(readFileSync(path('inline.rxr')))).toBe(true);
  expect(openRecording(fileSource(path('thread.rxr'))).stateDigests.length).toBe(1);
});

test('the reading thread gives every chunk as numbers once it is there, and nothing of a file that is damaged', async () => {
  const { ReadAhead: Thread } = await compiledThreads();
  const file = path('ahead.rxr');
  const right = recordBytes((encoder) => storm(encoder, 20_000), { codec: zlibCodec() });
  /** How many chunks come, each waited for. */
  const chunksOf = async (bytes: Uint8Array, firstWaitMs: number): Promise<number> => {
    writeFileSync(file, bytes);
    const recording = openRecording(bytesSource(file, right), { codec: zlibCodec() });
    const ahead = Thread.start(file, recording, true)!;
    try {
      for (let index = 0; index < recording.chunks.length; index++) {
        let batch = ahead.chunk(index);
        for (let wait = 0; batch === undefined && wait < (index === 0 ? firstWaitMs : 1000) / 25; wait++) {
          await new Promise((resolve) => setTimeout(resolve, 25));
          batch = ahead.chunk(index);
        }
        if (batch === undefined) return index;
        const events = [...recording.events(recording.chunks[index]!.firstEvent, recording.chunks[index]!.firstEvent + recording.chunks[index]!.eventCount)];
        expect(batch.events).toBe(events.length);
        let place = 0;
        for (const { kind, domId, vcpuId, retired, nowNs, values, bytes: data } of events) {
          place = batch.matchAt(place, kind, domId, vcpuId, retired, nowNs, values, data);
          if (place < 0) throw new Error('another event');
        }
        expect(place).toBe(batch.length);
      }
      return recording.chunks.length;
    } finally {
      await ahead.close();
    }
  };
  const { chunks } = openRecording(bytesSource(file, right), { codec: zlibCodec() });
  expect(chunks.length).toBeGreaterThan(9);
  expect(await chunksOf(right, 20_000)).toBe(chunks.length);
  const { offset } = chunks[3]!;
  expect(await chunksOf(right.with(offset + 40, right[offset + 40]! ^ 1), 1500)).toBe(0);
  const other = recordBytes((encoder) => storm(encoder, 20_000, 'another'), { codec: zlibCodec() });
  expect(await chunksOf(other, 1500), 'of another file under that name').toBe(0);
  // A short recording, or one whose guest does much between its events, gets no thread; nor do TypeScript sources.
  const recording = openRecording(bytesSource(file, right), { codec: zlibCodec() });
  expect([Thread.start(file, recording), ReadAhead.start(file, recording, true)]).toEqual([undefined, undefined]);
});

test.runIf(existsSync('/dev/full'))('a full disk is reported with the name of the file, not lost in the thread', async () => {
  const { createRecordingFile: thread } = await compiledThreads();
  await expect(thread('/dev/full', { world: WORLD })).rejects.toMatchObject({ code: 'ENOSPC', path: '/dev/full' });
  // In the thread: the file is taken away behind the first chunks' back.
  const file = await thread(path('full.rxr'), { world: WORLD, threadAfterEvents: 16_000 });
  rmSync(path('full.rxr'));
  symlinkSync('/dev/full', path('full.rxr'));
  const run = async (): Promise<void> => {
    const encoder = new BatchedEvents(file);
    for (let round = 0; round < 50; round++) {
      storm({ emit: (kind, domId, vcpuId, _retired, _nowNs, values, bytes) => encoder.emit(kind, domId, vcpuId, round, round, values, bytes), nameNumber: () => 1 }, 5000);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await file.finish(END);
  };
  await expect(run()).rejects.toMatchObject({ code: 'ENOSPC', path: path('full.rxr') });
});

describe.runIf(existsSync('/proc/self/fd'))('open files are given back', () => {
  /** Those of the tests' folder. */
  const openFiles = (): string[] => readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const file = readlinkSync(`/proc/self/fd/${fd}`);
      return file.startsWith(folder) ? [file] : [];
    } catch {
      return []; // the descriptor of the listing itself
    }
  });

  test('of a recording in many files, by close() or after the work; it is not read afterwards', async () => {
    writeSegmented('close.rxr', 20_000, 10_000);
    const before = openFiles();
    const recording = await openRecordingFile(path('close.rxr'));
    expect(openFiles().length).toBeGreaterThan(before.length + 2);
    recording.close();
    recording.close();
    expect(openFiles()).toEqual(before);
    expect(() => recording.chunkBytes(1)).toThrow(/close\.rxr is read after it was closed/);
    expect(await withRecordingFile(path('close.rxr'), ({ eventCount }) => eventCount)).toBeGreaterThan(20_000);
    await expect(withRecordingFile(path('close.rxr'), () => Promise.reject(new Error('work')))).rejects.toThrow('work');
    expect(openFiles()).toEqual(before);
  });

  test('of what is no recording', async () => {
    writeSegmented('foreign.rxr', 20_000, 10_000);
    writeFileSync(segmentPath(path('foreign.rxr'), 1), readFileSync(path('foreign.rxr')));
    writeFileSync(path('no-recording'), 'text');
    const before = openFiles();
    for (const name of ['foreign.rxr', 'no-recording', '.']) await expect(openRecordingFile(path(name))).rejects.toThrow();
    expect(openFiles()).toEqual(before);
  });

  test('of a replay, and of a timeline with its checkpoints', async () => {
    const before = openFiles();
    const scenario = await findScenario('pv-i386-pae');
    await runLive({ scenario, seed: '1', file: path('pae.rxr'), compression: 'deflate', interactive: false, showConsole: false, progress: false, profile: false, checkpointEvery: 500_000 });
    expect(openFiles()).toEqual(before);
    const run = { file: path('pae.rxr'), images: [], showConsole: false, progress: false };
    expect((await runReplay({ ...run, until: undefined })).outcome).toBe('exact');
    expect((await runReplay({ ...run, until: { event: 900 } })).summary.text).toMatch(/from the checkpoint/);
    expect(openFiles()).toEqual(before);
    const timeline = await openTimeline(path('pae.rxr'));
    timeline.seek({ event: 900 });
    expect(openFiles()).toEqual(expect.arrayContaining([path('pae.rxr'), checkpointPath(path('pae.rxr'))]));
    timeline.close();
    expect(openFiles()).toEqual(before);
  });
});
