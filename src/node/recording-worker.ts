// Writes a recording. A short one is written by the thread that runs the guest, chunk by chunk. One
// that grows is handed over to a thread of its own, which hashes, compresses, checks and writes; the
// guest's thread then only passes finished chunks on. (Starting a thread costs some 80 ms of
// processor time, writing a chunk less than one.) This file is both ends: imported, it starts the
// thread; run as a worker, it is the thread.
//
// It stays with one thread where worker threads cannot load this file (run from TypeScript sources),
// and where every byte must be on disk before the guest goes on (a person is typing).
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import type { Compression } from '../log/codec.ts';
import type { ChunkSink, RawChunk } from '../log/event-encoder.ts';
import type { Named, RunEnd, StateDigest, World } from '../log/packets.ts';
import { RecordingWriter, type RecordingTotals, type WriterState } from '../log/writer.ts';
import { loadHashes } from './load-hashes.ts';
import { FileSink, SEGMENT_BYTES, type SinkState } from './recording-files.ts';
import { zlibCodec } from './zlib-codec.ts';

export interface RecordingFileOptions {
  readonly world: World;
  readonly info?: readonly Named[];
  readonly compression?: Compression;
  /** Stay on the calling thread: each chunk is in the file when chunk() returns. */
  readonly inline?: boolean;
  /** Chunks after which a thread takes over; 0 for at once. */
  readonly threadAfterChunks?: number;
}

/** Takes chunks and state digests in order; `finish` once, at the end, or `abandon` to leave the file as it is. */
export interface RecordingFile extends ChunkSink {
  stateDigest(digest: StateDigest): void;
  finish(end: RunEnd): Promise<RecordingTotals>;
  abandon(): Promise<void>;
}

type Request =
  /** The bytes are in a slot, or come along if they did not fit (slot -1). */
  | { readonly kind: 'chunk'; readonly chunk: RawChunk; readonly slot: number; readonly sizeBytes: number }
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
}
interface ThreadData {
  readonly rexenRecording: Start;
  readonly slots: Slots;
}

// Chunks travel through a few fixed pieces of shared memory. Fresh memory for each would cost ten
// times the copying: the system clears it page by page, and the collector has to be told.
const SLOT_COUNT = 32;
const SLOT_BYTES = 512 * 1024;
interface Slots {
  /** One word per slot: 1 while the thread has not yet written it. */
  readonly taken: Int32Array;
  readonly memory: Uint8Array;
}
const newSlots = (): Slots => ({ taken: new Int32Array(new SharedArrayBuffer(SLOT_COUNT * 4)), memory: new Uint8Array(new SharedArrayBuffer(SLOT_COUNT * SLOT_BYTES)) });

/**
 * Two million events. Measured on a storm of 600,000 events, in processor time of the guest's thread:
 * 1.06 times the plain run inline, 1.05 with a thread from the first second on. A run must be long for
 * that hundredth to make up for the start of a thread, and for waiting for it at the end.
 */
const THREAD_AFTER_CHUNKS = 256;

class OpenFile {
  readonly sink: FileSink;
  readonly writer: RecordingWriter;

  constructor(path: string, options: RecordingFileOptions, resume?: Start) {
    this.sink = new FileSink(path, SEGMENT_BYTES, resume?.sink);
    this.writer = new RecordingWriter(this.sink, { ...options, codec: zlibCodec() }, resume?.writer);
  }
}

/** Creates the file and writes its header. Node's own errors (no permission, disk full) come through. */
export async function createRecordingFile(path: string, options: RecordingFileOptions): Promise<RecordingFile> {
  await loadHashes();
  const runsFromSource = fileURLToPath(import.meta.url).endsWith('.ts');
  const inline = options.inline === true || runsFromSource;
  return new GrowingRecording(path, options, inline ? Infinity : (options.threadAfterChunks ?? THREAD_AFTER_CHUNKS));
}

class GrowingRecording implements RecordingFile {
  readonly #path: string;
  readonly #options: RecordingFileOptions;
  #chunksLeft: number;
  #file: OpenFile | undefined;
  #thread: WriterThread | undefined;

  constructor(path: string, options: RecordingFileOptions, threadAfterChunks: number) {
    this.#path = path;
    this.#options = options;
    this.#chunksLeft = threadAfterChunks;
    this.#file = new OpenFile(path, options);
  }

  chunk(chunk: RawChunk): void {
    if (this.#chunksLeft-- <= 0 && this.#file !== undefined) {
      const writer = this.#file.writer.save();
      const sink = this.#file.sink.close();
      this.#file = undefined;
      this.#thread = new WriterThread({ path: this.#path, options: this.#options, sink, writer });
    }
    this.#target().chunk(chunk);
  }

  stateDigest(digest: StateDigest): void {
    this.#target().stateDigest(digest);
  }

  async finish(end: RunEnd): Promise<RecordingTotals> {
    if (this.#thread !== undefined) return this.#thread.finish(end);
    const { writer, sink } = this.#file as OpenFile;
    const totals = writer.finish(end);
    sink.close();
    return totals;
  }

  async abandon(): Promise<void> {
    if (this.#thread !== undefined) await this.#thread.abandon();
    else this.#file?.sink.close();
  }

  #target(): RecordingWriter | WriterThread {
    return this.#thread ?? (this.#file as OpenFile).writer;
  }
}

const NO_BYTES = new Uint8Array(0);

/** Hands a recording that was begun here over to a thread. */
class WriterThread implements RecordingFile {
  readonly #worker: Worker;
  readonly #slots = newSlots();
  #nextSlot = 0;
  #failure: Error | undefined;
  #settle: { resolve: (totals: RecordingTotals | undefined) => void; reject: (error: Error) => void } | undefined;

  constructor(start: Start) {
    const data: ThreadData = { rexenRecording: start, slots: this.#slots };
    this.#worker = new Worker(new URL(import.meta.url), { workerData: data });
    this.#worker.unref();
    this.#worker.on('message', (answer: Answer) => this.#answered(answer));
    this.#worker.on('error', (error) => this.#fail(error));
  }

  chunk(chunk: RawChunk): void {
    this.#throwFailure();
    const sizeBytes = chunk.bytes.length;
    if (sizeBytes > SLOT_BYTES) {
      this.#post({ kind: 'chunk', chunk: { ...chunk, bytes: chunk.bytes.slice() }, slot: -1, sizeBytes });
      return;
    }
    const { taken, memory } = this.#slots;
    const slot = this.#nextSlot;
    this.#nextSlot = (slot + 1) % SLOT_COUNT;
    // Still taken: the writer is slower than the guest, who waits here.
    while (Atomics.load(taken, slot) === 1) if (Atomics.wait(taken, slot, 1, 1000) === 'timed-out') this.#throwFailure();
    memory.set(chunk.bytes, slot * SLOT_BYTES);
    Atomics.store(taken, slot, 1);
    this.#post({ kind: 'chunk', chunk: { ...chunk, bytes: NO_BYTES }, slot, sizeBytes });
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
      const { writer, sink } = open as OpenFile;
      if (request.kind === 'chunk') writer.chunk(request.slot < 0 ? request.chunk : { ...request.chunk, bytes: slots.memory.subarray(request.slot * SLOT_BYTES, request.slot * SLOT_BYTES + request.sizeBytes) });
      else if (request.kind === 'stateDigest') writer.stateDigest(request.digest);
      else {
        const totals = request.kind === 'finish' ? writer.finish(request.end) : undefined;
        sink.close();
        answer({ kind: 'finished', totals });
      }
    });
    // Also after a failure: nobody may wait for a slot for ever.
    if (request.kind === 'chunk' && request.slot >= 0) {
      Atomics.store(slots.taken, request.slot, 0);
      Atomics.notify(slots.taken, request.slot);
    }
  });
}

const data = workerData as Partial<ThreadData> | null;
if (!isMainThread && data?.rexenRecording !== undefined && data.slots !== undefined) await runThread(data.rexenRecording, data.slots);
