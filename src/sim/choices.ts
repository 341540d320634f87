// The one seam for chance. Whoever needs a decision that a real machine leaves open asks
// `choose(name, options)`; a seeded run draws it from a stream named after the question, a replay
// takes it from the recording. That is the only difference between a run, its recording and its replay.
import { FAULT_NAMES, type FaultName } from '../abi/faults.ts';
import { assert } from '../base/assert.ts';
import { PrngStream } from '../base/prng.ts';

/** What can be asked. One row per question: the log stores a number, and once the name that it stands for. */
const QUESTIONS = [
  /** Where in the free machine memory a domain's frames are taken from, and in which order. */
  'memory.placement',
  /** After how much counted work a long hypercall is preempted. */
  'hypercall.preempt',
  /** Virtual latency of dom0's answer to a notification. */
  'backend.latency',
  /** Which of several runnable vCPUs goes next. */
  'scheduler.next',
  /** How late a timer fires, as on a busy host. */
  'timer.slack',
  /** How long a frame is under way on a quiet wire. */
  'net.latency',
  /** How long a disk takes for a request; it decides the order in which requests are answered. */
  'disk.latency',
] as const;
/** `fault.NAME`: whether it happens. */
export type ChoiceName = (typeof QUESTIONS)[number] | `fault.${FaultName}`;
export const CHOICE_NAMES: readonly ChoiceName[] = [...QUESTIONS, ...FAULT_NAMES.map((name) => `fault.${name}` as const)];

export interface Choices {
  /** 0..options-1. 2 <= options <= 2^32. */
  pick(name: ChoiceName, options: number): number;
  save(): unknown;
  restore(state: unknown): void;
}

export class SeededChoices implements Choices {
  readonly #streams: ReadonlyMap<ChoiceName, PrngStream>;

  constructor(seed: string) {
    this.#streams = new Map(CHOICE_NAMES.map((name) => [name, new PrngStream(seed, name)]));
  }

  pick(name: ChoiceName, options: number): number {
    assert(options >= 2 && options <= 0x1_0000_0000, () => `choice ${name} among ${options} options`);
    return (this.#streams.get(name) as PrngStream).below(options);
  }

  save(): unknown {
    return [...this.#streams].map(([name, stream]) => [name, stream.saveState()]);
  }

  restore(state: unknown): void {
    for (const [name, saved] of state as [ChoiceName, unknown][]) this.#streams.get(name)?.restoreState(saved);
  }
}
