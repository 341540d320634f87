// What is written of a run before its file is there: a branch's header names a position that is not known at first, and a
// world that refuses to be built leaves the file that was there alone.
import { BatchedEncoder } from '../log/batched-encoder.ts';
import type { RecordingTarget, ReleaseTarget } from '../log/encoding-writer.ts';
import type { EventBatch } from '../log/event-batch.ts';
import type { RawChunk, TimeRate } from '../log/event-encoder.ts';
import type { StateDigest } from '../log/packets.ts';

export class HeldRecording implements RecordingTarget {
  #held: ((target: ReleaseTarget) => void)[] = [];
  #target: ReleaseTarget | undefined;
  readonly #encoder: BatchedEncoder;

  constructor(rate: TimeRate) {
    this.#encoder = new BatchedEncoder({ chunk: (chunk) => this.#hold(chunk) }, rate);
  }

  /** What was held is written there at once, and everything after it. */
  release(target: ReleaseTarget): void {
    for (const write of this.#held) write(target);
    target.goOnFrom(this.#encoder.encoder.saveState());
    this.#held = [];
    this.#target = target;
  }

  take(batch: EventBatch, roomBytes: number): EventBatch {
    return (this.#target ?? this.#encoder).take(batch, roomBytes);
  }

  endChunk(): void {
    (this.#target ?? this.#encoder).endChunk();
  }

  stateDigest(digest: StateDigest): void {
    if (this.#target !== undefined) this.#target.stateDigest(digest);
    else this.#held.push((target) => target.stateDigest(digest));
  }

  #hold(chunk: RawChunk): void {
    const copy = { ...chunk, vcpus: [...chunk.vcpus], landmarks: [...chunk.landmarks], bytes: chunk.bytes.slice() };
    this.#held.push((target) => target.chunk(copy));
  }
}
