// A run that leaves a recording at a position and goes on by itself: up to there choices and inputs are the
// parent's and every event is compared with it; from there on chance has a new seed, and inputs another
// source. All of its events go to one recorder, so that the branch is a recording like any other.
//
//   parent  ──────────────x──────────────►        the same events, verified while they are made
//   branch  ──────────────x─ ─ ─ ─ ─ ─►           new choices, new inputs, faults from here on
//
// The seed's streams are drawn from the first choice on, and their answers used from the position on: so a
// branch with the parent's seed makes the parent again, and one whose recording is cut short goes on as the
// run did.
import { assert } from '../base/assert.ts';
import type { FaultSpec } from '../abi/faults.ts';
import type { ReleaseTarget } from '../log/encoding-writer.ts';
import type { StateDigest } from '../log/packets.ts';
import type { Recording } from '../log/reader.ts';
import { buildWorld, type DomainImages } from '../sim/build-world.ts';
import { SeededChoices, type ChoiceName, type Choices } from '../sim/choices.ts';
import type { Input, InputSource } from '../sim/input.ts';
import type { WorldSpec } from '../sim/spec.ts';
import { StateDigester } from '../sim/state-digest.ts';
import type { EventSink, Observers, World } from '../sim/world.ts';
import { HeldRecording } from './held-recording.ts';
import { Recorder } from './recorder.ts';
import { Replayer } from './replayer.ts';

export interface BranchOptions {
  readonly recording: Recording;
  /** The parent's, changed in nothing that matters before the position. */
  readonly spec: WorldSpec;
  /** What may go wrong from the position on, besides what the spec has. */
  readonly faults: readonly FaultSpec[];
  readonly images: readonly DomainImages[];
  readonly seed: string;
  /** Where inputs come from after the position. A script follows the console from the beginning. */
  readonly input: (domIdOf: (name: string) => number | undefined) => InputSource;
  /** An input is in the log before the guest sees it (a person is typing). */
  readonly flushInputs: boolean;
  readonly observers?: Observers;
}

export class Branch implements EventSink {
  readonly world: World;
  readonly recorder: Recorder;
  readonly replayer: Replayer;
  #left = false;
  readonly #held: HeldRecording;
  /** Not before the position, which is not known yet. The world has these very objects. */
  readonly #faults: { fromNs?: number }[];

  constructor(options: BranchOptions) {
    const { recording, images, seed, observers = {} } = options;
    const faults = options.faults.map((fault) => ({ ...fault, fromNs: Number.MAX_SAFE_INTEGER }));
    this.#faults = faults;
    const spec = faults.length === 0 ? options.spec : { ...options.spec, faults: [...(options.spec.faults ?? []), ...faults] };
    let digester: StateDigester | undefined;
    const parts = (): StateDigest['parts'] => (digester as StateDigester).parts();
    this.replayer = new Replayer(recording, parts);
    this.#held = new HeldRecording({ numerator: spec.nsPerInsn.num, denominator: spec.nsPerInsn.den });
    this.recorder = new Recorder(this.#held, spec.nsPerInsn, parts, options.flushInputs);
    const left = (): boolean => this.#left;
    this.world = buildWorld({
      spec, images, observers,
      choices: new BranchChoices(this.replayer.choices, new SeededChoices(seed), left),
      input: (domIdOf) => new BranchInput(this.replayer.input, options.input(domIdOf), left),
      sink: (world) => {
        digester = new StateDigester(world);
        return this;
      },
    });
  }

  /** The parent was left: nothing is compared any more. */
  get left(): boolean {
    return this.#left;
  }
  get diverged(): boolean {
    return this.replayer.divergence !== undefined || this.replayer.stateDivergence !== undefined;
  }

  /** The spec of the recording: as it is from the position on. */
  get spec(): WorldSpec {
    return this.world.spec;
  }

  /** The world is at the position: from here on it goes its own way. */
  leave(): void {
    assert(!this.#left && !this.diverged, 'a branch leaves its parent once, and as recorded up to there');
    for (const fault of this.#faults) fault.fromNs = this.world.nowNs() + 1;
    this.#left = true;
  }

  /** Where the recording goes: what was made before is handed over at once. */
  writeTo(target: ReleaseTarget): void {
    this.#held.release(target);
  }

  stateDigest(eventCount: number): void {
    if (!this.#left) this.replayer.stateDigest(eventCount);
    this.recorder.stateDigest(eventCount);
  }

  event(...args: Parameters<EventSink['event']>): void {
    if (!this.#left) this.replayer.event(...args);
    this.recorder.event(...args);
  }

  get over(): boolean {
    return !this.#left && this.diverged;
  }
}

class BranchChoices implements Choices {
  readonly #parent: Choices;
  readonly #own: Choices;
  readonly #left: () => boolean;

  constructor(parent: Choices, own: Choices, left: () => boolean) {
    this.#parent = parent;
    this.#own = own;
    this.#left = left;
  }

  pick(name: ChoiceName, options: number): number {
    const own = this.#own.pick(name, options);
    return this.#left() ? own : this.#parent.pick(name, options);
  }

  save(): unknown {
    return this.#own.save();
  }

  restore(state: unknown): void {
    this.#own.restore(state);
  }
}

/** The script goes along before the position: it sees the same console, and its keys are those that were recorded. */
class BranchInput implements InputSource {
  readonly #parent: InputSource;
  readonly #own: InputSource;
  readonly #left: () => boolean;

  constructor(parent: InputSource, own: InputSource, left: () => boolean) {
    this.#parent = parent;
    this.#own = own;
    this.#left = left;
  }

  get name(): string {
    return this.#own.name;
  }

  take(step: number, nowNs: number): Input | undefined {
    if (this.#left()) return this.#own.take(step, nowNs);
    this.#own.take(step, nowNs);
    return this.#parent.take(step, nowNs);
  }

  idleUntilNs(step: number): number | undefined {
    return this.#left() ? this.#own.idleUntilNs(step) : this.#parent.idleUntilNs(step);
  }

  consoleOutput(domId: number, text: string, nowNs: number): void {
    this.#own.consoleOutput(domId, text, nowNs);
  }

  save(): unknown {
    return this.#own.save();
  }

  restore(state: unknown): void {
    this.#own.restore(state);
  }

  skipTo(taken: number): void {
    this.#own.skipTo(taken);
  }
}
