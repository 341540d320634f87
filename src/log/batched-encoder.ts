// The encoder of a run that is recorded: events wait in a batch until there are some hundred, or one comes with a byte
// string. A replay, which must notice a difference at its very event, has none.
import { EventBatch } from './event-batch.ts';
import { EventEncoder, type ChunkSink, type EventEmitter, type TimeRate } from './event-encoder.ts';

/** So many events wait at least: with room for any of them, 62 KiB. */
const BATCH_EVENTS = 256;

export class BatchedEncoder implements EventEmitter {
  readonly #encoder: EventEncoder;
  readonly #batch = new EventBatch(BATCH_EVENTS);

  constructor(sink: ChunkSink, rate: TimeRate) {
    this.#encoder = new EventEncoder(sink, rate);
  }

  /** As EventEncoder.emit. What is wrong with an event may only be said some events later. */
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void {
    const batch = this.#batch;
    if (bytes !== undefined) {
      this.#encoder.emitBatch(batch);
      this.#encoder.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
      return;
    }
    if (batch.full) this.#encoder.emitBatch(batch);
    batch.put(kind, domId, vcpuId, retired, nowNs, values);
  }

  /** Hands the events so far to the sink. */
  endChunk(): void {
    this.#encoder.emitBatch(this.#batch);
    this.#encoder.endChunk();
  }

  /** Events encoded since the beginning; after endChunk() all of them. */
  get eventCount(): number {
    return this.#encoder.eventCount;
  }
}
