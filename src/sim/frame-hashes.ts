// What each frame of memory hashes to, kept up to date by hashing only what was written since. State
// digests and checkpoints share it, since the machine has one dirty bit a frame; each of them has a
// tracker that tells what changed since it last asked. Frames of zeros are left out.
import { blake3 } from '../base/hash.ts';
import { PAGE_SIZE } from '../base/brand.ts';
import { FRAME_FLAG, type MachineMemory } from '../machine/memory.ts';

function isZero(words: Uint32Array, from: number): boolean {
  for (let i = from; i < from + PAGE_SIZE / 4; i++) if (words[i] !== 0) return false;
  return true;
}

export class FrameHashes {
  readonly #machine: MachineMemory;
  readonly #dropWriteFastPaths: () => void;
  readonly #hashes = new Map<number, Uint8Array>();
  readonly #trackers: Set<number>[] = [];

  /** `dropWriteFastPaths`: of all processors, for dirty bits are cleared. */
  constructor(machine: MachineMemory, dropWriteFastPaths: () => void) {
    this.#machine = machine;
    this.#dropWriteFastPaths = dropWriteFastPaths;
  }

  /** By mfn, as of now. Not to be changed or kept. */
  current(): ReadonlyMap<number, Uint8Array> {
    const machine = this.#machine;
    for (const mfn of machine.dirtyFrames()) {
      const at = machine.ramBase + mfn * PAGE_SIZE;
      if (isZero(machine.u32, at >>> 2)) this.#hashes.delete(mfn);
      else this.#hashes.set(mfn, blake3(machine.u8.subarray(at, at + PAGE_SIZE)));
      for (const tracker of this.#trackers) tracker.add(mfn);
    }
    machine.clearDirty();
    this.#dropWriteFastPaths();
    return this.#hashes;
  }

  /** A set to which every frame that was written is added; its owner empties it. At first it holds all that are not zero. */
  track(): Set<number> {
    const tracker = new Set(this.current().keys());
    this.#trackers.push(tracker);
    return tracker;
  }

  /** What was written since is going to be overwritten: each such frame (its tracker has them) must be put back by write() right away. */
  giveUpDirty(): void {
    const machine = this.#machine;
    for (const mfn of machine.dirtyFrames()) for (const tracker of this.#trackers) tracker.add(mfn);
    machine.clearDirty();
    this.#dropWriteFastPaths();
  }

  /** Puts back a frame whose hash is known (undefined: zeros). Its owner calls current() or giveUpDirty() before, and drops the processors' fast paths after. */
  write(mfn: number, bytes: Uint8Array | undefined, hash: Uint8Array | undefined): void {
    const machine = this.#machine;
    if (bytes === undefined || hash === undefined) {
      machine.fillFrame(mfn, 0);
      this.#hashes.delete(mfn);
    } else {
      machine.writeBytes(mfn * PAGE_SIZE, bytes);
      this.#hashes.set(mfn, hash);
    }
    const at = machine.frameFlagsBase + mfn;
    machine.u8[at] = (machine.u8[at] as number) & ~FRAME_FLAG.dirty;
    for (const tracker of this.#trackers) tracker.add(mfn);
  }
}
