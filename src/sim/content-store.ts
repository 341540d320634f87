// Byte strings by content: the same bytes are kept once, whichever checkpoints they belong to. Numbers
// stand for them; 0 is nothing at all (a frame of zeros). Hashes are BLAKE3. Whoever has a content's bytes
// must not change them.
import { assert } from '../base/assert.ts';
import { blake3 } from '../base/hash.ts';

export interface ContentStore {
  /** The number of these bytes, which are copied if they are new. */
  add(bytes: Uint8Array, hash?: Uint8Array): number;
  /** The number of the bytes with this hash, undefined if they are not here. */
  find(hash: Uint8Array): number | undefined;
  bytes(number: number): Uint8Array;
  hash(number: number): Uint8Array;
}

/** A hash as a Map's key: 128 bits of it. */
export const contentKey = (hash: Uint8Array): string => String.fromCharCode(...hash.subarray(0, 16));

export class MemoryStore implements ContentStore {
  readonly #numbers = new Map<string, number>();
  readonly #hashes: Uint8Array[] = [];
  /** Bytes, or where they come from when they are wanted. */
  readonly #contents: (Uint8Array | (() => Uint8Array))[] = [];
  /** Bytes held in memory. */
  sizeBytes = 0;

  add(bytes: Uint8Array, hash = blake3(bytes)): number {
    const known = this.find(hash);
    if (known !== undefined) return known;
    this.sizeBytes += bytes.length;
    return this.#put(hash, bytes.slice());
  }

  /** Bytes that are read from a file when they are wanted; `load` checks them. */
  addLater(hash: Uint8Array, load: () => Uint8Array): number {
    return this.find(hash) ?? this.#put(hash, load);
  }

  find(hash: Uint8Array): number | undefined {
    return this.#numbers.get(contentKey(hash));
  }

  bytes(number: number): Uint8Array {
    const content = this.#contents[number - 1];
    assert(content !== undefined, () => `there is no content ${number}`);
    return typeof content === 'function' ? content() : content;
  }

  hash(number: number): Uint8Array {
    const hash = this.#hashes[number - 1];
    assert(hash !== undefined, () => `there is no content ${number}`);
    return hash;
  }

  get count(): number {
    return this.#hashes.length;
  }

  #put(hash: Uint8Array, content: Uint8Array | (() => Uint8Array)): number {
    this.#hashes.push(hash.slice());
    const number = this.#contents.push(content);
    this.#numbers.set(contentKey(hash), number);
    return number;
  }
}
