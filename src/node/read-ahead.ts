// Reads a recording ahead of its replay: a thread of its own inflates the chunks, checks their digests and decodes their events
// to numbers; the replay's thread compares them with its own and reads itself what is not there yet. Nobody waits for
// anybody, and whatever is wrong with the file is found, and said, by the replay's thread. This file is both ends:
// imported, it starts the thread; run as a worker, it is the thread.
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { sameBytes } from '../base/hash.ts';
import { ChunkDecoder } from '../log/chunk-decoder.ts';
import { EventsDigest } from '../log/digest.ts';
import { rateOf } from '../log/encoding-writer.ts';
import { EventBatch } from '../log/event-batch.ts';
import type { Recording } from '../log/reader.ts';
import type { DecodedChunks } from '../log/replay-encoder.ts';
import { withRecordingFile } from './recording-files.ts';

/** A chunk of 8192 events of eight values each takes 700 kB; one that does not fit is left to the replay. */
const SLOT_COUNT = 6;
const SLOT_BYTES = 1 << 20;
/** Words of `control`: of each slot the chunk that is in it, plus one, or 0; places; events; and the chunk that the replay wants next. */
const CHUNK = 0;
const PLACES = SLOT_COUNT;
const EVENTS = 2 * SLOT_COUNT;
const WANTED = 3 * SLOT_COUNT;

interface ThreadData {
  readonly rexenReadAhead: { readonly path: string; readonly digest: Uint8Array; readonly control: Int32Array; readonly memory: SharedArrayBuffer };
}

const slotBatch = (memory: SharedArrayBuffer, slot: number): EventBatch => new EventBatch(memory, slot * SLOT_BYTES, SLOT_BYTES);

/**
 * As for writing (recording-worker.ts): starting a thread costs some 80 ms of processor time, which pays where there are many
 * events and a guest does little between them.
 */
const DENSE = { events: 100_000, insnsPerEvent: 2000 };

export class ReadAhead implements DecodedChunks {
  readonly #control = new Int32Array(new SharedArrayBuffer((3 * SLOT_COUNT + 1) * 4));
  readonly #batches: readonly EventBatch[];
  readonly #worker: Worker;

  private constructor(path: string, digest: Uint8Array) {
    const memory = new SharedArrayBuffer(SLOT_COUNT * SLOT_BYTES);
    this.#batches = Array.from({ length: SLOT_COUNT }, (_, slot) => slotBatch(memory, slot));
    const data: ThreadData = { rexenReadAhead: { path, digest, control: this.#control, memory } };
    this.#worker = new Worker(new URL(import.meta.url), { workerData: data });
    this.#worker.unref();
    // What it could not do the replay does.
    this.#worker.on('error', () => {});
  }

  /** Undefined: it would not pay, or cannot be (from TypeScript sources). */
  static start(path: string, recording: Recording, always = false): ReadAhead | undefined {
    if (fileURLToPath(import.meta.url).endsWith('.ts')) return undefined;
    const insns = recording.trailer?.instructions ?? Infinity;
    return always || (recording.eventCount >= DENSE.events && insns < recording.eventCount * DENSE.insnsPerEvent) ? new ReadAhead(path, recording.digest) : undefined;
  }

  chunk(index: number): EventBatch | undefined {
    const control = this.#control;
    Atomics.store(control, WANTED, index);
    for (let slot = 0; slot < SLOT_COUNT; slot++) {
      const held = Atomics.load(control, CHUNK + slot);
      if (held === 0 || held > index) continue;
      Atomics.store(control, CHUNK + slot, 0);
      Atomics.notify(control, CHUNK + slot);
    }
    const slot = index % SLOT_COUNT;
    if (Atomics.load(control, CHUNK + slot) !== index + 1) return undefined;
    const batch = this.#batches[slot] as EventBatch;
    batch.length = control[PLACES + slot] as number;
    batch.events = control[EVENTS + slot] as number;
    return batch;
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}

// -- the thread ----------------------------------------------------------------------------------

function readAll(recording: Recording, { digest: wanted, control, memory }: ThreadData['rexenReadAhead']): void {
  // Another file may have come under that name meanwhile.
  if (!sameBytes(recording.digest, wanted)) return;
  const decoder = new ChunkDecoder(rateOf(recording.world));
  const digest = new EventsDigest();
  let decoded = -1;
  for (const [index, chunk] of recording.chunks.entries()) {
    const bytes = recording.chunkBytes(index);
    if (!sameBytes(digest.add(bytes), chunk.eventsDigest)) return;
    if (index < Atomics.load(control, WANTED)) continue;
    const slot = index % SLOT_COUNT;
    for (let held = Atomics.load(control, CHUNK + slot); held !== 0; held = Atomics.load(control, CHUNK + slot)) Atomics.wait(control, CHUNK + slot, held);
    if (decoded === index - 1 && decoded >= 0 && !decoder.endsAt(chunk)) return;
    const batch = slotBatch(memory, slot);
    if (!decoder.decode(bytes, chunk, batch)) continue;
    decoded = index;
    control[PLACES + slot] = batch.length;
    control[EVENTS + slot] = batch.events;
    Atomics.store(control, CHUNK + slot, index + 1);
  }
}

const data = workerData as Partial<ThreadData> | null;
const ask = data?.rexenReadAhead;
if (!isMainThread && ask !== undefined) await withRecordingFile(ask.path, (recording) => readAll(recording, ask));
