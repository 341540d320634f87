// Writes a recording. A short one is encoded and written by the thread that runs the guest. One that grows is handed over to a
// thread of its own, which encodes, hashes, compresses, checks and writes; the guest's thread then only puts events into batches.
// This file is both ends: imported, it starts the thread; run as a worker, it is the thread.
//
// It stays with one thread where worker threads cannot load this file (run from TypeScript sources),
// and where every byte must be on disk before the guest goes on (a person is typing).
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { assert, UsageError } from '../base/assert.ts';
import type { Compression } from '../log/codec.ts';
import { EncodingWriter, rateOf, type ReleaseTarget } from '../log/encoding-writer.ts';
import { EventBatch } from '../log/event-batch.ts';
import type { EncoderState, RawChunk } from '../log/event-encoder.ts';
import type { Named, RunEnd, StateDigest, World } from '../log/packets.ts';
import { RecordingWriter, type RecordingTotals, type WriterState } from '../log/writer.ts';
import { loadHashes } from './load-hashes.ts';
import { FileSink, SEGMENT_BYTES, type SinkState } from './recording-files.ts';
import { zlibCodec } from './zlib-codec.ts';

export interface RecordingFileOptions {
  readonly world: World;
  readonly info?: readonly Named[];
  readonly compression?: Compression;
  /** Stay on the calling thread: each chunk is in the file when endChunk() returns. */
  readonly inline?: boolean;
  /** Events after which a thread takes over, instead of when it pays; 0 for at once. */
  readonly threadAfterEvents?: number;
}

/** Takes events and state digests in order; `finish` once, at the end, or `abandon` to leave the file as it is. */
export interface RecordingFile extends ReleaseTarget {
  finish(end: RunEnd): Promise<RecordingTotals>;
  abandon(): Promise<void>;
}

type Request =
  /** So many places of a slot are events; or of memory that comes along, if they are more than a slot holds (slot -1). */
  | { readonly kind: 'events'; readonly slot: number; readonly places: number; readonly memory?: ArrayBuffer }
  | { readonly kind: 'endChunk' }
  | { readonly kind: 'stateDigest'; readonly digest: StateDigest }
  | { readonly kind: 'finish'; readonly end: RunEnd }
  | { readonly kind: 'abandon' };
type Answer =
  | { readonly kind: 'written'; readonly bytes: number }
  | { readonly kind: 'finished'; readonly totals: RecordingTotals | undefined }
  | { readonly kind: 'failed'; readonly message: string; readonly code: string | undefined; readonly path: string | undefined };
/** What the thread goes on from. */
interface Start {
  readonly path: string;
  readonly options: RecordingFileOptions;
  readonly sink: SinkState;
  readonly writer: WriterState;
  readonly encoder: EncoderState;
}
interface ThreadData {
  readonly rexenRecording: Start;
  readonly slots: Slots;
}

// Events travel in a few fixed pieces of shared memory. Fresh memory for each would cost ten times the copying: the system
// clears it page by page, and the collector has to be told. The first that is free is taken, so that most are never touched.
const SLOT_COUNT = 64;
const SLOT_BYTES = 256 * 1024;
interface Slots {
  /** One word per slot: 1 while the thread has not yet encoded it. Behind them how many it has encoded, for who waits. */
  readonly taken: Int32Array;
  readonly memory: SharedArrayBuffer;
}
const newSlots = (): Slots => ({ taken: new Int32Array(new SharedArrayBuffer((SLOT_COUNT + 1) * 4)), memory: new SharedArrayBuffer(SLOT_COUNT * SLOT_BYTES) });
const slotBatch = ({ memory }: Slots, slot: number): EventBatch => new EventBatch(memory, slot * SLOT_BYTES, SLOT_BYTES);

/**
 * A thread takes some 80 ms of processor time to start, which another core may have to spare: it pays where events are dense,
 * as soon as there are some (65,536 that cost a guest fewer than 2,000 instructions each: a storm, a guest in TypeScript), and
 * hardly ever in a boot of machine code, where writing is a hundredth of the work (two million events).
 */
const DENSE = { events: 65_536, insnsPerEvent: 2000 };
const THREAD_AFTER_EVENTS = 2_097_152;
/** A disk may stall; a thread that frees no slot for so long is gone. */
const GIVEN_UP_MS = 120_000;

class OpenFile {
  readonly sink: FileSink;
  readonly writer: RecordingWriter;
  readonly events: EncodingWriter;

  constructor(path: string, options: RecordingFileOptions, resume?: Start) {
    this.sink = new FileSink(path, SEGMENT_BYTES, resume?.sink);
    this.writer = new RecordingWriter(this.sink, { ...options, codec: zlibCodec() }, resume?.writer);
    this.events = new EncodingWriter(this.writer, rateOf(options.world));
    if (resume !== undefined) this.events.goOnFrom(resume.encoder);
  }
}

/** Creates the file and writes its header. Node's own errors (no permission, disk full) come through. */
export async function createRecordingFile(path: string, options: RecordingFileOptions): Promise<RecordingFile> {
  await loadHashes();
  const runsFromSource = fileURLToPath(import.meta.url).endsWith('.ts');
  return new GrowingRecording(path, options, options.inline !== true && !runsFromSource);
}

class GrowingRecording implements RecordingFile {
  readonly #path: string;
  readonly #options: RecordingFileOptions;
  readonly #mayGrow: boolean;
  #file: OpenFile | undefined;
  #thread: WriterThread | undefined;

  constructor(path: string, options: RecordingFileOptions, mayGrow: boolean) {
    this.#path = path;
    this.#options = options;
    this.#mayGrow = mayGrow;
    this.#file = new OpenFile(path, options);
  }

  take(batch: EventBatch, roomBytes: number): EventBatch {
    if (this.#file === undefined) return this.#own().take(batch, roomBytes);
    const next = this.#file.events.take(batch, roomBytes);
    return this.#mayGrow && this.#threadPays(this.#file.events) ? this.#startThread(this.#file).take(next, roomBytes) : next;
  }

  endChunk(): void {
    (this.#file?.events ?? this.#own()).endChunk();
  }

  stateDigest(digest: StateDigest): void {
    (this.#file?.events ?? this.#own()).stateDigest(digest);
  }

  chunk(chunk: RawChunk): void {
    this.#mine().events.chunk(chunk);
  }

  goOnFrom(state: EncoderState): void {
    this.#mine().events.goOnFrom(state);
  }

  async finish(end: RunEnd): Promise<RecordingTotals> {
    if (this.#file === undefined) return this.#own().finish(end);
    const totals = this.#file.writer.finish(end);
    this.#file.sink.close();
    return totals;
  }

  async abandon(): Promise<void> {
    if (this.#file === undefined) await this.#own().abandon();
    else this.#file.sink.close();
  }

  #threadPays({ encoder }: EncodingWriter): boolean {
    const { threadAfterEvents } = this.#options;
    if (threadAfterEvents !== undefined) return encoder.eventCount >= threadAfterEvents;
    if (encoder.eventCount < DENSE.events) return false;
    return encoder.eventCount >= THREAD_AFTER_EVENTS || encoder.insns < encoder.eventCount * DENSE.insnsPerEvent;
  }

  #startThread({ writer, sink, events }: OpenFile): WriterThread {
    const state = { writer: writer.save(), encoder: events.encoder.saveState() };
    this.#file = undefined;
    this.#thread = new WriterThread({ path: this.#path, options: this.#options, ...state, sink: sink.close() });
    return this.#thread;
  }

  #mine(): OpenFile {
    assert(this.#file !== undefined, 'what was encoded elsewhere comes before the thread');
    return this.#file;
  }

  #own(): WriterThread {
    assert(this.#thread !== undefined, 'a recording is this thread\'s or another\'s');
    return this.#thread;
  }
}

/** Hands a recording that was begun here over to a thread. */
class WriterThread {
  readonly #path: string;
  readonly #worker: Worker;
  readonly #slots = newSlots();
  readonly #batches = Array.from({ length: SLOT_COUNT }, (_, slot) => slotBatch(this.#slots, slot));
  /** Of the batch that was given last; not yet taken. */
  #slot = 0;
  #failure: Error | undefined;
  #settle: { resolve: (totals: RecordingTotals | undefined) => void; reject: (error: Error) => void } | undefined;

  constructor(start: Start) {
    this.#path = start.path;
    const data: ThreadData = { rexenRecording: start, slots: this.#slots };
    this.#worker = new Worker(new URL(import.meta.url), { workerData: data });
    this.#worker.unref();
    this.#worker.on('message', (answer: Answer) => this.#answered(answer));
    this.#worker.on('error', (error) => this.#fail(error));
  }

  take(batch: EventBatch, roomBytes: number): EventBatch {
    this.#throwFailure();
    if (batch === this.#batches[this.#slot]) {
      if (batch.length > 0) {
        Atomics.store(this.#slots.taken, this.#slot, 1);
        this.#post({ kind: 'events', slot: this.#slot, places: batch.length });
        this.#slot = this.#freeSlot();
      }
    } else if (batch.length > 0) this.#post({ kind: 'events', slot: -1, places: batch.length, memory: batch.copy() });
    const next = this.#batches[this.#slot] as EventBatch;
    next.clear();
    return next.hasRoomFor(roomBytes) ? next : EventBatch.of(1, roomBytes);
  }

  endChunk(): void {
    this.#post({ kind: 'endChunk' });
  }

  stateDigest(digest: StateDigest): void {
    this.#post({ kind: 'stateDigest', digest });
  }

  async finish(end: RunEnd): Promise<RecordingTotals> {
    return (await this.#end({ kind: 'finish', end })) as RecordingTotals;
  }

  async abandon(): Promise<void> {
    await this.#end({ kind: 'abandon' });
  }

  async #end(request: Request): Promise<RecordingTotals | undefined> {
    this.#throwFailure();
    this.#worker.ref();
    const result = new Promise<RecordingTotals | undefined>((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.#post(request);
    try {
      return await result;
    } finally {
      await this.#worker.terminate();
    }
  }

  /** If there is none the writer is slower than the guest, who waits here; but not for ever for one that died: that would be said to this thread's event loop, which stands still. */
  #freeSlot(): number {
    const { taken } = this.#slots;
    for (;;) {
      const encoded = Atomics.load(taken, SLOT_COUNT);
      for (let slot = 0; slot < SLOT_COUNT; slot++) if (Atomics.load(taken, slot) === 0) return slot;
      if (Atomics.wait(taken, SLOT_COUNT, encoded, GIVEN_UP_MS) === 'timed-out') throw new UsageError(`${this.#path}: nothing was written for ${GIVEN_UP_MS / 1000} s; what is in the file up to there replays`);
    }
  }

  #post(request: Request): void {
    this.#worker.postMessage(request);
  }

  #answered(answer: Answer): void {
    if (answer.kind === 'finished') this.#settle?.resolve(answer.totals);
    else if (answer.kind === 'failed') this.#fail(Object.assign(new Error(answer.message), { code: answer.code, path: answer.path }));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#settle?.reject(error);
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}

// -- the thread ----------------------------------------------------------------------------------

async function runThread(start: Start, slots: Slots): Promise<void> {
  const port = parentPort as NonNullable<typeof parentPort>;
  const answer = (message: Answer): void => port.postMessage(message);
  let failed = false;
  const guarded = (work: () => void): void => {
    if (failed) return;
    try {
      work();
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      failed = true;
      answer({ kind: 'failed', message: error.message, code: (error as NodeJS.ErrnoException).code, path: (error as NodeJS.ErrnoException).path });
    }
  };
  // Requests wait in the port until the hashes are loaded: nobody listens before that.
  await loadHashes();
  let open: OpenFile | undefined;
  guarded(() => {
    open = new OpenFile(start.path, start.options, start);
  });
  port.on('message', (request: Request) => {
    guarded(() => {
      const { writer, sink, events } = open as OpenFile;
      if (request.kind === 'events') {
        const batch = request.memory === undefined ? slotBatch(slots, request.slot) : new EventBatch(request.memory);
        batch.length = request.places;
        events.take(batch, 0);
      } else if (request.kind === 'endChunk') events.endChunk();
      else if (request.kind === 'stateDigest') events.stateDigest(request.digest);
      else {
        const totals = request.kind === 'finish' ? writer.finish(request.end) : undefined;
        sink.close();
        answer({ kind: 'finished', totals });
      }
    });
    // Also after a failure: nobody may wait for a slot for ever.
    if (request.kind === 'events' && request.slot >= 0) {
      Atomics.store(slots.taken, request.slot, 0);
      Atomics.add(slots.taken, SLOT_COUNT, 1);
      Atomics.notify(slots.taken, SLOT_COUNT);
    }
  });
}

const data = workerData as Partial<ThreadData> | null;
if (!isMainThread && data?.rexenRecording !== undefined && data.slots !== undefined) await runThread(data.rexenRecording, data.slots);
