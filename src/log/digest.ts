// The two digests of a recording: of its events alone, cumulative, one per chunk; and of the whole,
// which also covers what the events follow from. Neither depends on compression, on where chunks
// end, or on state digests.
import { blake3, runningHash, type RunningHash } from '../base/hash.ts';

/** BLAKE3 over all event bytes so far. */
export class EventsDigest {
  readonly #hash: RunningHash;
  #last: Uint8Array;

  /** `saved`: goes on where save() was called. */
  constructor(saved?: Uint8Array) {
    this.#hash = runningHash(saved);
    this.#last = this.#hash.snapshot();
  }

  save(): Uint8Array {
    return this.#hash.save();
  }

  /** The digest after these bytes. */
  add(events: Uint8Array): Uint8Array {
    this.#hash.update(events);
    this.#last = this.#hash.snapshot();
    return this.#last;
  }

  get last(): Uint8Array {
    return this.#last;
  }
}

/** BLAKE3 of: World's length as 8 bytes little-endian, World as encoded, the last events digest. */
export function recordingDigest(world: Uint8Array, eventsDigest: Uint8Array): Uint8Array {
  const joined = new Uint8Array(8 + world.length + eventsDigest.length);
  new DataView(joined.buffer).setUint32(0, world.length, true);
  joined.set(world, 8);
  joined.set(eventsDigest, 8 + world.length);
  return blake3(joined);
}
