// What belongs to a sequence of bytes, found by walking them: a tree whose edges lie in one hash table of typed arrays.
// Instructions are looked up this way: 316,000 times in a boot of Debian's Linux, of which 181,000 find one. When
// each node was a Map, looking up in Maps was 1 % of such a boot's CPU time, and they were work for the garbage collector.
import { assert } from '../base/assert.ts';

const START_EDGES = 4096;
const LEAF = 0x80000000;
const MAX_NODES = 1 << 24;

/** No key may be the beginning of another one. */
export class ByteTree<T> {
  /** Open addressing: a node's number and a byte, plus one; what the edge leads to, a node or a leaf. */
  #keys = new Uint32Array(2 * START_EDGES);
  #targets = new Uint32Array(2 * START_EDGES);
  #edges = 0;
  #nodes = 1;
  readonly #values: T[] = [];

  get size(): number {
    return this.#values.length;
  }

  /** The value whose key `bytes` begin with. */
  find(bytes: Uint8Array): T | undefined {
    let node = 0;
    for (let i = 0; i < bytes.length; i++) {
      const to = this.#targets[this.#place(node * 256 + (bytes[i] as number) + 1)] as number;
      if (to === 0) return undefined;
      if (to >= LEAF) return this.#values[to - LEAF];
      node = to;
    }
    return undefined;
  }

  /** Adds a key of 1 to 15 bytes that is not there yet. */
  add(bytes: Uint8Array, lengthBytes: number, value: T): void {
    let node = 0;
    for (let i = 0; i < lengthBytes; i++) {
      if (2 * this.#edges >= this.#keys.length) this.#grow();
      const last = i === lengthBytes - 1;
      const key = node * 256 + (bytes[i] as number) + 1;
      const at = this.#place(key);
      const known = this.#targets[at] as number;
      assert(known === 0 || (known < LEAF && !last), 'a key of the tree is the beginning of another one');
      if (known === 0) {
        this.#keys[at] = key;
        this.#targets[at] = last ? LEAF + this.#values.push(value) - 1 : this.#nodes++;
        this.#edges++;
      }
      node = this.#targets[at] as number;
    }
    assert(this.#nodes < MAX_NODES, 'the tree is full');
  }

  /** Where the edge is, or would be. */
  #place(key: number): number {
    const keys = this.#keys;
    const mask = keys.length - 1;
    let at = (Math.imul(key, 0x9e3779b1) >>> 8) & mask;
    while (keys[at] !== 0 && keys[at] !== key) at = (at + 1) & mask;
    return at;
  }

  #grow(): void {
    const [keys, targets] = [this.#keys, this.#targets];
    this.#keys = new Uint32Array(2 * keys.length);
    this.#targets = new Uint32Array(2 * keys.length);
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i] as number;
      if (key === 0) continue;
      const at = this.#place(key);
      this.#keys[at] = key;
      this.#targets[at] = targets[i] as number;
    }
  }
}
