// The way of a recorded run's events: into a batch, and some hundred later, or some thousand, to who encodes them, in this
// thread or another (node/recording-worker.ts). A replay, which must notice a difference at its very event, has no batches.
import { EventBatch } from './event-batch.ts';
import { EventEncoder, type ChunkSink, type EventEmitter, type TimeRate } from './event-encoder.ts';

/** Takes events in batches, in order. */
export interface BatchTaker {
  /** Takes the events of a batch over; gives an empty one to go on with, which has room for an event with a byte string of `roomBytes`. */
  take(batch: EventBatch, roomBytes: number): EventBatch;
  /** The chunk ends behind what was taken. */
  endChunk(): void;
}

/** So many events wait at least: with room for any of them, 62 KiB. */
const BATCH_EVENTS = 256;

/** Puts events into batches. */
export class BatchedEvents implements EventEmitter {
  readonly #taker: BatchTaker;
  #batch = EventBatch.of(BATCH_EVENTS);
  #taken = 0;

  constructor(taker: BatchTaker) {
    this.#taker = taker;
  }

  /** As EventEncoder.emit. What is wrong with an event may only be said some events later. */
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void {
    if (this.#batch.full || (bytes !== undefined && !this.#batch.hasRoomFor(bytes.length))) this.#take(bytes?.length ?? 0);
    this.#batch.put(kind, domId, vcpuId, retired, nowNs, values, bytes);
  }

  /** The events so far are a chunk, the last of its events whole. */
  endChunk(): void {
    this.#take(0);
    this.#taker.endChunk();
  }

  /** Events since the beginning. */
  get eventCount(): number {
    return this.#taken + this.#batch.events;
  }

  #take(roomBytes: number): void {
    this.#taken += this.#batch.events;
    this.#batch = this.#taker.take(this.#batch, roomBytes);
  }
}

/** Encodes what comes in batches, at once. */
export class BatchedEncoder implements BatchTaker {
  readonly encoder: EventEncoder;

  constructor(sink: ChunkSink, rate: TimeRate) {
    this.encoder = new EventEncoder(sink, rate);
  }

  take(batch: EventBatch, roomBytes: number): EventBatch {
    this.encoder.emitBatch(batch);
    return batch.hasRoomFor(roomBytes) ? batch : EventBatch.of(BATCH_EVENTS, roomBytes);
  }

  endChunk(): void {
    this.encoder.endChunk();
  }
}

/** Events whose chunks go to a sink of this thread. */
export const eventsToChunks = (sink: ChunkSink, rate: TimeRate): BatchedEvents => new BatchedEvents(new BatchedEncoder(sink, rate));
