// Where a recording goes: events in batches, state digests between them. A writer with its encoder is one such place; a thread
// that has both is another (node/recording-worker.ts).
import { BatchedEncoder, type BatchTaker } from './batched-encoder.ts';
import type { EventBatch } from './event-batch.ts';
import type { ChunkSink, EncoderState, RawChunk, TimeRate } from './event-encoder.ts';
import type { StateDigest, World } from './packets.ts';
import type { RecordingWriter } from './writer.ts';

/** Takes a run's events and state digests, in order. */
export interface RecordingTarget extends BatchTaker {
  stateDigest(digest: StateDigest): void;
}

/** Also takes what others have encoded: chunks, and then the state of their encoder, before any batch. */
export interface ReleaseTarget extends RecordingTarget, ChunkSink {
  goOnFrom(state: EncoderState): void;
}

/** Virtual time a retired instruction, as a recording's header has it. */
export const rateOf = (world: World): TimeRate => ({ numerator: world.nsPerInsnNumerator, denominator: world.nsPerInsnDenominator });

/** Encodes and writes at once. */
export class EncodingWriter implements ReleaseTarget {
  readonly #writer: RecordingWriter;
  readonly #events: BatchedEncoder;

  constructor(writer: RecordingWriter, rate: TimeRate) {
    this.#writer = writer;
    this.#events = new BatchedEncoder(writer, rate);
  }

  get encoder(): BatchedEncoder['encoder'] {
    return this.#events.encoder;
  }

  take(batch: EventBatch, roomBytes: number): EventBatch {
    return this.#events.take(batch, roomBytes);
  }

  endChunk(): void {
    this.#events.endChunk();
  }

  stateDigest(digest: StateDigest): void {
    this.#writer.stateDigest(digest);
  }

  chunk(chunk: RawChunk): void {
    this.#writer.chunk(chunk);
  }

  goOnFrom(state: EncoderState): void {
    this.encoder.restoreState(state);
  }
}
