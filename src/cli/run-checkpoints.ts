// `record --checkpoint-every`: checkpoints of a run while it is recorded, written beside the recording
// when that is whole.
import { UsageError } from '../base/assert.ts';
import { saveCheckpoints } from '../node/checkpoint-files.ts';
import { MemoryStore } from '../sim/content-store.ts';
import { isRestorable, Snapshots, type Snapshot } from '../sim/snapshot.ts';
import type { World } from '../sim/world.ts';

/** They are kept in memory until the end: beyond this no more are taken. */
const MEMORY_BYTES = 1 << 30;

export class RunCheckpoints {
  readonly everyInsns: number;
  readonly #world: World;
  readonly #store = new MemoryStore();
  readonly #snapshots: Snapshots;
  readonly #taken: Snapshot[] = [];
  #next: number;

  /** Throws UsageError for a world that cannot be restored. */
  constructor(world: World, everyInsns: number) {
    if (!isRestorable(world)) throw new UsageError('--checkpoint-every: a guest of this scenario is written in TypeScript, which is run again from its start instead of being restored');
    this.everyInsns = everyInsns;
    this.#world = world;
    this.#snapshots = new Snapshots(world, this.#store);
    this.#next = everyInsns;
  }

  /** Between two slices of the run. */
  look(): void {
    const insns = this.#world.insns();
    if (insns < this.#next || this.#world.ended !== undefined || this.#store.sizeBytes >= MEMORY_BYTES) return;
    this.#taken.push(this.#snapshots.take());
    this.#next = insns + this.everyInsns;
  }

  save(recording: string, digest: Uint8Array): { readonly file: string; readonly bytes: number; readonly count: number } {
    return { ...saveCheckpoints(recording, digest, this.#store, this.#taken), count: this.#taken.length };
  }
}
