// Checkpoints of a run while it is made or made again, written to the file beside its recording as they come.
import { UsageError } from '../base/assert.ts';
import { createCheckpointFile, type CheckpointFile } from '../node/checkpoint-files.ts';
import { CHECKPOINT_COST_NS, LOOK_EVENTS, LOOK_INSNS, ReplayCost } from '../replay/replay-cost.ts';
import { isRestorable, Snapshots } from '../sim/snapshot.ts';
import type { World } from '../sim/world.ts';

const NOT_RESTORABLE = 'a guest of this world is written in TypeScript, which is run again from its start instead of being restored: it has no checkpoints';

export class RunCheckpoints {
  /** How far the world may run between two calls of look(). */
  readonly sliceInsns: number;
  readonly sliceEvents: number;
  readonly #everyInsns: number | undefined;
  readonly #world: World;
  readonly #cost: ReplayCost;
  readonly #file: CheckpointFile;
  readonly #snapshots: Snapshots;
  #lastInsns: number;

  /** `everyInsns`: between two of them; undefined: what running again costs decides. Throws UsageError for a world that cannot be restored. */
  constructor(world: World, recording: string, everyInsns: number | undefined) {
    if (!isRestorable(world)) throw new UsageError(NOT_RESTORABLE);
    // Slices end where they may, somewhat early or late: eight of them keep the distance to what was asked for.
    this.sliceInsns = Math.min(Math.ceil((everyInsns ?? Infinity) / 8), LOOK_INSNS);
    this.sliceEvents = everyInsns === undefined ? LOOK_EVENTS : Infinity;
    this.#everyInsns = everyInsns;
    this.#world = world;
    this.#cost = new ReplayCost(world);
    this.#file = createCheckpointFile(recording);
    this.#snapshots = new Snapshots(world, this.#file.writer);
    this.#file.writer.begin(this.#snapshots.take());
    this.#lastInsns = world.insns();
  }

  /** Between two slices of the run. */
  look(): void {
    const insns = this.#world.insns();
    const due = this.#everyInsns === undefined ? this.#cost.sinceNs() >= CHECKPOINT_COST_NS : insns >= this.#lastInsns + this.#everyInsns;
    if (!due || this.#world.ended !== undefined) return;
    this.#file.writer.checkpoint(this.#snapshots.take());
    this.#cost.restart();
    this.#lastInsns = insns;
  }

  finish(digest: Uint8Array): { readonly file: string; readonly bytes: number; readonly count: number } {
    return { ...this.#file.finish(digest), count: this.#file.writer.count };
  }
  abandon(): void {
    this.#file.abandon();
  }
}
