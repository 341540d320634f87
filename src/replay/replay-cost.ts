// What it costs to run a stretch again, so that checkpoints lie as far apart as seeking may take: a loop that
// counts to a billion needs none, a page of code that runs for the first time is worth one. Counted in work, not
// by a clock: where checkpoints lie is a function of the run.
import type { World } from '../sim/world.ts';

/**
 * Nanoseconds of processor time, all threads, on the two-core machine where a recording of Debian's boot
 * (3.7 billion instructions, 350,000 events) was replayed in stretches of a million instructions and a line
 * was fitted through them, before cold code was interpreted: programs of blocks count as instructions here. Another
 * machine has other ones, in about the same proportions.
 */
const COST = { insn: 2, event: 5_000, evaluatedInsn: 2_000, region: 3_500_000 } as const;

/** Two neighbouring checkpoints are so much of a straight replay apart. Behind a checkpoint much code is cold: some stretches cost three times as much. */
export const CHECKPOINT_COST_NS = 60_000_000;

/** Instructions and events between two looks at what a stretch costs. */
export const LOOK_INSNS = 200_000;
export const LOOK_EVENTS = 2_000;

export class ReplayCost {
  readonly #world: World;
  #from: number;

  constructor(world: World) {
    this.#world = world;
    this.#from = this.#total();
  }

  /** Counts from here on: also needed where the world was put somewhere else. */
  restart(): void {
    this.#from = this.#total();
  }

  sinceNs(): number {
    return this.#total() - this.#from;
  }

  #total(): number {
    const world = this.#world;
    let cost = world.insns() * COST.insn + world.eventCount * COST.event;
    for (const { vcpus } of world.hv.domains.values()) {
      for (const { cpu } of vcpus) {
        const counters = cpu?.counters;
        if (counters !== undefined) cost += counters.evaluatedInsns * COST.evaluatedInsn + counters.regionsTranslated * COST.region;
      }
    }
    return cost;
  }
}
