// Writes a recording beside the simulation: hashing, compressing, checksums and file writes happen
// on a thread of their own, and the thread that runs the guest only hands over finished chunks.
// This file is both ends: imported, it starts the thread; run as a worker, it is the thread.
//
// Where worker threads cannot load this file (run from TypeScript sources), or where every byte must
// be on disk before the guest goes on (a person is typing), the same writer runs inline.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import type { Compression } from '../log/codec.ts';
import type { ChunkSink, RawChunk } from '../log/event-encoder.ts';
import type { Named, RunEnd, StateDigest, World } from '../log/packets.ts';
import { RecordingWriter, type RecordingTotals } from '../log/writer.ts';
import { loadHashes } from './load-hashes.ts';
import { FileSink } from './recording-files.ts';
import { zlibCodec } from './zlib-codec.ts';

export interface RecordingFileOptions {
  readonly world: World;
  readonly info?: readonly Named[];
  readonly compression?: Compression;
  /** Write on the calling thread: slower, and each chunk is in the file when chunk() returns. */
  readonly inline?: boolean;
}

/** Takes chunks and state digests in order; `finish` once, at the end, or `abandon` to leave the file as it is. */
export interface RecordingFile extends ChunkSink {
  stateDigest(digest: StateDigest): void;
  finish(end: RunEnd): Promise<RecordingTotals>;
  abandon(): Promise<void>;
}

type Request =
  | { readonly kind: 'chunk'; readonly chunk: RawChunk }
  | { readonly kind: 'stateDigest'; readonly digest: StateDigest }
  | { readonly kind: 'finish'; readonly end: RunEnd }
  | { readonly kind: 'abandon' };
type Answer =
  | { readonly kind: 'written'; readonly bytes: number }
  | { readonly kind: 'finished'; readonly totals: RecordingTotals | undefined }
  | { readonly kind: 'failed'; readonly message: string; readonly code: string | undefined; readonly path: string | undefined };
interface Start {
  readonly rexenRecording: { readonly path: string; readonly options: RecordingFileOptions };
}

function openWriter(path: string, options: RecordingFileOptions): { writer: RecordingWriter; sink: FileSink } {
  const sink = new FileSink(path);
  return { sink, writer: new RecordingWriter(sink, { ...options, codec: zlibCodec(1) }) };
}

/** Creates the file and writes its header. Node's own errors (no permission, disk full) come through. */
export async function createRecordingFile(path: string, options: RecordingFileOptions): Promise<RecordingFile> {
  await loadHashes();
  const runsFromSource = fileURLToPath(import.meta.url).endsWith('.ts');
  if (options.inline !== true && !runsFromSource) return WriterThread.start(path, options);
  const { writer, sink } = openWriter(path, options);
  return {
    chunk: (chunk) => writer.chunk(chunk),
    stateDigest: (digest) => writer.stateDigest(digest),
    finish: async (end) => {
      const totals = writer.finish(end);
      sink.close();
      return totals;
    },
    abandon: async () => sink.close(),
  };
}

/** Uncompressed bytes that may wait for the thread; past this the simulation waits for it. */
const MAX_QUEUED_BYTES = 64 << 20;

class WriterThread implements RecordingFile {
  readonly #worker: Worker;
  /** [0]: uncompressed bytes that were handed over and are not yet written, in KiB. */
  readonly #queuedKib: Int32Array;
  #failure: Error | undefined;
  #settle: { resolve: (totals: RecordingTotals | undefined) => void; reject: (error: Error) => void } | undefined;

  static async start(path: string, options: RecordingFileOptions): Promise<WriterThread> {
    // The file is opened here first, so that a bad path fails before anything runs.
    new FileSink(path).close();
    return new WriterThread(path, options);
  }

  constructor(path: string, options: RecordingFileOptions) {
    const shared = new SharedArrayBuffer(4);
    this.#queuedKib = new Int32Array(shared);
    const data: Start & { shared: SharedArrayBuffer } = { rexenRecording: { path, options }, shared };
    this.#worker = new Worker(new URL(import.meta.url), { workerData: data });
    this.#worker.unref();
    this.#worker.on('message', (answer: Answer) => this.#answered(answer));
    this.#worker.on('error', (error) => this.#fail(error));
  }

  chunk(chunk: RawChunk): void {
    this.#throwFailure();
    const kib = chunk.bytes.length >>> 10;
    // Full: the writer is slower than the guest. Sleeps until it has caught up by half.
    for (let queued = Atomics.add(this.#queuedKib, 0, kib) + kib; queued > MAX_QUEUED_BYTES >>> 10; queued = Atomics.load(this.#queuedKib, 0)) {
      if (Atomics.wait(this.#queuedKib, 0, queued, 1000) === 'timed-out') this.#throwFailure();
    }
    this.#post({ kind: 'chunk', chunk }, [chunk.bytes.buffer as ArrayBuffer]);
  }

  stateDigest(digest: StateDigest): void {
    this.#post({ kind: 'stateDigest', digest }, []);
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
    this.#post(request, []);
    try {
      return await result;
    } finally {
      await this.#worker.terminate();
    }
  }

  #post(request: Request, transfer: ArrayBuffer[]): void {
    this.#worker.postMessage(request, transfer);
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

async function runThread(start: Start, queuedKib: Int32Array): Promise<void> {
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
  let open: { writer: RecordingWriter; sink: FileSink } | undefined;
  guarded(() => {
    open = openWriter(start.rexenRecording.path, start.rexenRecording.options);
  });
  port.on('message', (request: Request) => {
    guarded(() => {
      const { writer, sink } = open as { writer: RecordingWriter; sink: FileSink };
      if (request.kind === 'chunk') writer.chunk(request.chunk);
      else if (request.kind === 'stateDigest') writer.stateDigest(request.digest);
      else {
        const totals = request.kind === 'finish' ? writer.finish(request.end) : undefined;
        sink.close();
        answer({ kind: 'finished', totals });
      }
    });
    if (request.kind === 'chunk') {
      Atomics.sub(queuedKib, 0, request.chunk.bytes.length >>> 10);
      Atomics.notify(queuedKib, 0);
    }
  });
}

if (!isMainThread && (workerData as Partial<Start> | null)?.rexenRecording !== undefined) {
  const data = workerData as Start & { shared: SharedArrayBuffer };
  await runThread(data, new Int32Array(data.shared));
}
