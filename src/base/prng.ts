// Named, seeded streams of chance. Each stream is derived from the run's seed and its own name, so
// that a new consumer does not shift the draws of the old ones. The state is plain data.
import seedrandom from 'seedrandom';

type Arc4 = seedrandom.PRNG & { state(): unknown };

/** One stream. Draws are uniform; `state` can be written to a checkpoint and read back. */
export class PrngStream {
  readonly name: string;
  #arc4: Arc4;

  constructor(seed: string, name: string) {
    this.name = name;
    this.#arc4 = seedrandom(`${seed}\u0000${name}`, { state: true }) as Arc4;
  }

  /** Uniform integer in 0..bound-1; 1 <= bound <= 2^32. */
  below(bound: number): number {
    return Math.floor(this.#arc4.quick() * bound) >>> 0;
  }

  u32(): number {
    return this.#arc4.int32() >>> 0;
  }

  /** A deep copy of the generator's state, JSON-serialisable. */
  saveState(): unknown {
    return JSON.parse(JSON.stringify(this.#arc4.state()));
  }

  restoreState(state: unknown): void {
    this.#arc4 = seedrandom('', { state: JSON.parse(JSON.stringify(state)) }) as Arc4;
  }
}
