// The kernel's frame allocator: pseudo-physical frames with a count of their users. A free list, first
// in, last out, as a kernel without buddies would have it; deterministic.
import { assert } from '../../base/assert.ts';

export class FrameAllocator {
  readonly #free: number[] = [];
  readonly #users: Uint16Array;
  readonly totalFrames: number;

  constructor(totalFrames: number) {
    this.totalFrames = totalFrames;
    this.#users = new Uint16Array(totalFrames);
  }

  /** Frames [from, to) may be given out; lowest first. */
  add(fromPfn: number, toPfn: number): void {
    for (let pfn = toPfn - 1; pfn >= fromPfn; pfn--) this.#free.push(pfn);
  }
  /** A frame with one user, its content undefined; undefined when there is none. */
  take(): number | undefined {
    const pfn = this.#free.pop();
    if (pfn !== undefined) this.#users[pfn] = 1;
    return pfn;
  }
  share(pfn: number): void {
    const users = this.#users[pfn] as number;
    assert(users > 0 && users < 0xffff, () => `pfn ${pfn} with ${users} users gets another`);
    this.#users[pfn] = users + 1;
  }
  /** One user less; true if the frame is free now. */
  put(pfn: number): boolean {
    const users = this.#users[pfn] as number;
    assert(users > 0, () => `pfn ${pfn} is free already`);
    this.#users[pfn] = users - 1;
    if (users > 1) return false;
    this.#free.push(pfn);
    return true;
  }
  users(pfn: number): number {
    return this.#users[pfn] as number;
  }
  get freeCount(): number {
    return this.#free.length;
  }
}
