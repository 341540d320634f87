// What belongs to a sequence of bytes, found by walking them: a tree whose edges lie in one hash table of typed arrays.
// Instructions are looked up this way, some 320,000 times in a boot of Debian's Linux. When each node was a Map, looking up
// in Maps was 1 % of such a boot's CPU time, and they were work for the garbage collector.
import { assert } from '../base/assert.ts';

const START_EDGES = 4096;
const LEAF = 0x80000000;
const MAX_NODES = 1 << 24;

/** No key may be the beginning of another one, bytes that are passed over included. */
export class ByteTree<T> {
  /** Open addressing: a node's number and a byte, plus one; what the edge leads to, a node or a leaf. */
  #keys = new Uint32Array(2 * START_EDGES);
  #targets = new Uint32Array(2 * START_EDGES);
  #edges = 0;
  #nodes = 1;
  /** Of a node whose next bytes may be any: how many. */
  #passes = new Uint8Array(2 * START_EDGES);
  readonly #values: T[] = [];

  get size(): number {
    return this.#values.length;
  }

  /** The value whose key begins `bytes` at `from`; none of it may stand at `to` or behind. */
  find(bytes: Uint8Array, from = 0, to = bytes.length): T | undefined {
    let node = 0;
    for (let i = from; i < to; i++) {
      const passed = this.#passes[node] as number;
      let byte = 0;
      if (passed === 0) byte = bytes[i] as number;
      else if ((i += passed - 1) >= to) return undefined;
      const next = this.#targets[this.#place(node * 256 + byte + 1)] as number;
      if (next === 0) return undefined;
      if (next >= LEAF) return this.#values[next - LEAF];
      node = next;
    }
    return undefined;
  }

  /** Adds a key of 1 to 15 bytes that is not there yet. `anyBytes` of them, from `anyAt` on, may be any: whatever begins alike has such bytes there too. */
  add(bytes: Uint8Array, lengthBytes: number, value: T, anyAt = 0, anyBytes = 0): void {
    let node = 0;
    let fresh = this.#edges === 0;
    for (let i = 0; i < lengthBytes; i++) {
      if (2 * this.#edges >= this.#keys.length) this.#grow();
      const passed = anyBytes > 0 && i === anyAt ? anyBytes : 0;
      assert(fresh || this.#passes[node] === passed, 'what begins alike goes on differently');
      this.#passes[node] = passed;
      const byte = passed === 0 ? (bytes[i] as number) : 0;
      if (passed > 0) i += passed - 1;
      const last = i === lengthBytes - 1;
      const key = node * 256 + byte + 1;
      const at = this.#place(key);
      const known = this.#targets[at] as number;
      assert(known === 0 || (known < LEAF && !last), 'a key of the tree is the beginning of another one');
      if (known === 0) {
        this.#keys[at] = key;
        this.#targets[at] = last ? LEAF + this.#values.push(value) - 1 : this.#nodes++;
        this.#edges++;
      }
      fresh = known === 0;
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
    const [keys, targets, passes] = [this.#keys, this.#targets, this.#passes];
    this.#passes = new Uint8Array(2 * keys.length);
    this.#passes.set(passes);
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
