// What is written of a run before its file is there: a branch's header names a position that is not known at first, and a
// world that refuses to be built leaves the file that was there alone.
import type { RawChunk } from '../log/event-encoder.ts';
import type { StateDigest } from '../log/packets.ts';
import type { RecorderTarget } from './recorder.ts';

export class HeldRecording implements RecorderTarget {
  #held: ((target: RecorderTarget) => void)[] = [];
  #target: RecorderTarget | undefined;

  /** What was held is written there at once, and everything after it. */
  release(target: RecorderTarget): void {
    for (const write of this.#held) write(target);
    this.#held = [];
    this.#target = target;
  }

  chunk(chunk: RawChunk): void {
    if (this.#target !== undefined) return this.#target.chunk(chunk);
    const copy = { ...chunk, vcpus: [...chunk.vcpus], landmarks: [...chunk.landmarks], bytes: chunk.bytes.slice() };
    this.#held.push((target) => target.chunk(copy));
  }

  stateDigest(digest: StateDigest): void {
    if (this.#target !== undefined) this.#target.stateDigest(digest);
    else this.#held.push((target) => target.stateDigest(digest));
  }
}
