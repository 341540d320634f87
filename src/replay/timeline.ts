// A recording as a place to be in: seek() brings the world to any position, forwards or backwards, in time
// that does not grow with the position. It goes to the nearest checkpoint before, and runs from there; what
// is run is compared with the recording, as in any replay.
//
//   checkpoints:  0 ······ x ······ x ······ x            seek: restore x, run ──►|
//                                                         each stretch that is run for the first time leaves
//                                                         checkpoints behind; a sidecar file brings some along
//
// Where a position is: the first point of rest (between two instructions, with nothing under way) at which
// everything that it asks for has happened. That is a property of the run, not of how one came there.
//
// Worlds with guests that cannot be restored (generators) are run again from their start.
import { assert } from '../base/assert.ts';
import type { Recording } from '../log/reader.ts';
import type { DomainImages } from '../sim/build-world.ts';
import { MemoryStore } from '../sim/content-store.ts';
import { isRestorable, Snapshots, type Snapshot, type VcpuPlace } from '../sim/snapshot.ts';
import type { WorldSpec } from '../sim/spec.ts';
import type { DigestPart } from '../sim/state-digest.ts';
import type { Observers, World } from '../sim/world.ts';
import { CheckpointDamage, type LoadedCheckpoints } from './checkpoint-file.ts';
import { CHECKPOINT_COST_NS, LOOK_EVENTS, LOOK_INSNS, ReplayCost } from './replay-cost.ts';
import { buildReplayWorld, type ReplayWorld } from './replay-world.ts';

/** What must have happened; at least one of them. */
export interface Target {
  /** So many events. */
  readonly event?: number;
  /** So many instructions of this vCPU. */
  readonly vcpu?: VcpuPlace;
  /** So many instructions of all vCPUs together. */
  readonly insns?: number;
}

/** Where a world is. */
export interface Place {
  readonly eventCount: number;
  readonly insns: number;
  readonly nowNs: number;
  readonly vcpus: readonly VcpuPlace[];
  /** The run has ended here: it cannot go further. */
  readonly ended: boolean;
}

export interface TimelineOptions {
  readonly recording: Recording;
  readonly spec: WorldSpec;
  readonly images: readonly DomainImages[];
  /** Instructions between two checkpoints that are left behind (default: as the cost of running again says, replay-cost.ts); 0: none are. */
  readonly everyInsns?: number;
  /** No more of them are left behind once they take so much memory. */
  readonly memoryBytes?: number;
  /** Checkpoints made before, with their store. */
  readonly checkpoints?: LoadedCheckpoints & { close?(): void };
  readonly observers?: Observers;
}

const MEMORY_BYTES = 1 << 30;

export class Timeline {
  readonly recording: Recording;
  store = new MemoryStore();
  readonly #options: TimelineOptions;
  readonly #everyInsns: number | undefined;
  readonly #memoryBytes: number;
  #run: ReplayWorld;
  #snapshots: Snapshots | undefined;
  /** In order; the first is the beginning. Empty if the world cannot be restored. */
  readonly #checkpoints: Snapshot[] = [];
  /** Since the last checkpoint on the way here. */
  #cost: ReplayCost;
  #at: string | undefined;
  /** A checkpoint that was made before turned out damaged: none of them is used any more. */
  damage: string | undefined;
  /** Where the last seek began to run. */
  startedAt: Place;
  /** Instructions run since the timeline was opened: what seeking costs. */
  insnsRun = 0;

  constructor(options: TimelineOptions) {
    this.recording = options.recording;
    this.#options = options;
    this.#everyInsns = options.everyInsns;
    this.#memoryBytes = options.memoryBytes ?? MEMORY_BYTES;
    this.#run = this.#build();
    const snapshots = this.#snapshots;
    if (snapshots !== undefined) this.#checkpoints.push(snapshots.take(), ...(options.checkpoints?.into(this.store) ?? []).filter((made) => snapshots.fits(made)));
    this.#cost = new ReplayCost(this.world);
    this.startedAt = this.place();
  }

  get world(): World {
    return this.#run.world;
  }
  /** For reports: what differs from the recording, if something does. */
  get run(): ReplayWorld {
    return this.#run;
  }
  get diverged(): boolean {
    return this.#run.replayer.diverged;
  }
  get checkpoints(): readonly Snapshot[] {
    return this.#checkpoints;
  }

  place(): Place {
    const { world } = this;
    const vcpus = [...world.hv.domains.values()].flatMap(({ domId, vcpus }) => vcpus.flatMap(({ vcpuId, cpu }) => (cpu === undefined ? [] : [{ domId, vcpuId, retired: cpu.retired() }])));
    return { eventCount: world.eventCount, insns: world.insns(), nowNs: world.nowNs(), vcpus, ended: world.ended !== undefined };
  }

  /** The state's digests here, by part. */
  digest(): DigestPart[] {
    return this.#run.digester.parts();
  }

  /** The files of the recording and of its checkpoints are wanted no more. */
  close(): void {
    this.recording.close();
    this.#options.checkpoints?.close?.();
  }

  /** Brings the world to the target, or as far as the run goes: to its end, or to where it leaves the recording (`diverged`). */
  seek(target: Target): Place {
    assert(target.event !== undefined || target.vcpu !== undefined || target.insns !== undefined, 'a target asks for nothing');
    const key = JSON.stringify([target.event, target.vcpu, target.insns]);
    if (this.#at === key) return this.place();
    this.#at = undefined;
    const best = this.#checkpoints.findLast((checkpoint) => isBefore(checkpoint, target)) ?? this.#checkpoints[0];
    const here = this.place();
    const usable = isBefore(here, target) && !this.diverged;
    if (best === undefined) {
      if (!usable) this.#start();
    } else if (!usable || best.insns > here.insns) this.#restore(best);
    this.startedAt = this.place();
    this.#runTo(target);
    this.#at = key;
    return this.place();
  }

  /** To the end of the recording. */
  seekEnd(): Place {
    return this.seek({ insns: Infinity });
  }

  /** Puts the world where one of `checkpoints` was taken. (Not so if that turns out damaged: then at the beginning.) */
  goBack(checkpoint: Snapshot): Place {
    this.#at = undefined;
    this.#restore(checkpoint);
    return this.place();
  }

  /** Goes on from here by running, past whatever checkpoints there are. */
  goOn(target: Target): Place {
    this.#at = undefined;
    this.#runTo(target);
    return this.place();
  }

  /** Leaves a checkpoint here. Undefined if this world cannot be restored. */
  checkpoint(): Snapshot | undefined {
    const snapshot = this.#snapshots?.take();
    if (snapshot === undefined) return undefined;
    const at = this.#checkpoints.findIndex((other) => other.insns > snapshot.insns || (other.insns === snapshot.insns && other.eventCount > snapshot.eventCount));
    this.#checkpoints.splice(at < 0 ? this.#checkpoints.length : at, 0, snapshot);
    return snapshot;
  }

  #build(): ReplayWorld {
    const { recording, spec, images, observers } = this.#options;
    const run = buildReplayWorld({ recording, spec, images, ...(observers === undefined ? {} : { observers }) });
    this.#snapshots = isRestorable(run.world) ? new Snapshots(run.world, this.store) : undefined;
    return run;
  }

  #start(): void {
    this.#run = this.#build();
    this.#cost = new ReplayCost(this.world);
  }

  #restore(snapshot: Snapshot): void {
    try {
      (this.#snapshots as Snapshots).restore(snapshot);
      this.#run.replayer.seek(this.world);
      this.#cost.restart();
    } catch (error) {
      if (!(error instanceof CheckpointDamage)) throw error;
      this.damage = error.message;
      this.store = new MemoryStore();
      this.#start();
      this.#checkpoints.splice(0, Infinity, (this.#snapshots as Snapshots).take());
    }
  }

  #runTo(target: Target): void {
    const { world } = this;
    const from = world.insns();
    while (world.ended === undefined && world.sink?.over !== true) {
      const left = leftTo(this.world, target);
      if (left === undefined) break;
      const { insns, events } = this.#nextLook();
      world.advance(Math.min(left, insns), Math.min(events, target.event !== undefined && world.eventCount < target.event ? target.event : Infinity));
      if (world.ended !== undefined || this.diverged || !this.#isDue()) continue;
      if (this.store.sizeBytes < this.#memoryBytes) this.checkpoint();
      this.#cost.restart();
    }
    // What follows the last instruction: the digest at the end.
    if (world.ended !== undefined) world.advance(1);
    this.insnsRun += world.insns() - from;
  }

  /** Instructions to run, and events to stop at, before one looks whether a checkpoint is due. */
  #nextLook(): { readonly insns: number; readonly events: number } {
    if (this.#everyInsns === 0 || this.#snapshots === undefined) return { insns: Infinity, events: Infinity };
    if (this.#everyInsns === undefined) return { insns: LOOK_INSNS, events: this.world.eventCount + LOOK_EVENTS };
    return { insns: Math.max(1, this.#dueInsns(this.#everyInsns) - this.world.insns()), events: Infinity };
  }

  #isDue(): boolean {
    if (this.#everyInsns === 0 || this.#snapshots === undefined) return false;
    if (this.#everyInsns === undefined) return this.#cost.sinceNs() >= CHECKPOINT_COST_NS;
    return this.world.insns() >= this.#dueInsns(this.#everyInsns);
  }

  /** Instructions at which the next checkpoint is due. */
  #dueInsns(every: number): number {
    const here = this.world.insns();
    const before = this.#checkpoints.findLast(({ insns }) => insns <= here)?.insns ?? 0;
    const after = this.#checkpoints.find(({ insns }) => insns > here)?.insns ?? Infinity;
    const due = Math.max(before, here - every) + every;
    // Not right before one that is there; and from there on, the next.
    return after - due >= every / 2 ? due : after + every;
  }
}

/** Is something that the target asks for still to come? Then the place is before it. */
export function isBefore(place: Pick<Place, 'eventCount' | 'insns' | 'vcpus'>, target: Target): boolean {
  if (target.event !== undefined && place.eventCount < target.event) return true;
  if (target.insns !== undefined && place.insns < target.insns) return true;
  const { vcpu } = target;
  return vcpu !== undefined && (place.vcpus.find(({ domId, vcpuId }) => domId === vcpu.domId && vcpuId === vcpu.vcpuId)?.retired ?? Infinity) < vcpu.retired;
}

/** How many instructions may be run at least without passing the target; undefined: it is reached. */
export function leftTo(world: World, target: Target): number | undefined {
  if (target.event !== undefined && world.eventCount < target.event) return Infinity;
  if (target.insns !== undefined && world.insns() < target.insns) return target.insns - world.insns();
  const { vcpu } = target;
  const retired = vcpu === undefined ? undefined : world.hv.vcpu(vcpu.domId, vcpu.vcpuId)?.cpu?.retired();
  return vcpu !== undefined && retired !== undefined && retired < vcpu.retired ? vcpu.retired - retired : undefined;
}
