// Where input from outside comes from. A run takes it from a script (data in the spec) or a person;
// a replay takes it from the recording, at the very step of the run loop at which it came.
import type { ToolstackCommand } from '../dom0/toolstack.ts';
import type { InputStep } from './spec.ts';

export type Input =
  /** Keys typed at a domain's console. */
  | { readonly kind: 'console'; readonly domId: number; readonly bytes: Uint8Array }
  /** What the toolstack is told to do with a domain. */
  | { readonly kind: 'command'; readonly domId: number; readonly command: ToolstackCommand }
  /** The person at the host asked the run to end. */
  | { readonly kind: 'stop' };

/** `step` is the run-loop step at which the input entered, `nowNs` the virtual time. */
export interface RecordedInput {
  readonly step: number;
  readonly nowNs: number;
  readonly input: Input;
}

export interface InputSource {
  /** Whose state save() gives: a script's means nothing to a recording. */
  readonly name: string;
  /** What enters at the start of this step, or undefined. Called until it says undefined. */
  take(step: number, nowNs: number): Input | undefined;
  /** If nothing else happens: the virtual time at which to go on, Infinity when no input is to come, undefined when only the host can know (a person). */
  idleUntilNs(step: number): number | undefined;
  /** The guest printed something. */
  consoleOutput(domId: number, text: string, nowNs: number): void;
  save(): unknown;
  restore(state: unknown): void;
  /** Goes on after so many inputs, whichever source they came from. */
  skipTo(taken: number): void;
}

/** Types the steps of a spec, each once its text has appeared after the previous step's. */
export class ScriptedInput implements InputSource {
  readonly name = 'script';
  readonly #steps: readonly InputStep[];
  readonly #domIdOf: (name: string) => number | undefined;
  #next = 0;
  /** Console output since the last step, per domain, cut to what a match can need. */
  #tails: Record<number, string> = {};
  #dueNs: number | undefined;

  constructor(steps: readonly InputStep[], domIdOf: (name: string) => number | undefined) {
    this.#steps = steps;
    this.#domIdOf = domIdOf;
    this.#waitForNothing(0);
  }

  /** A step that waits for no text is due after its delay. */
  #waitForNothing(nowNs: number): void {
    const step = this.#steps[this.#next];
    if (step !== undefined && step.after === '') this.#dueNs = nowNs + (step.delayNs ?? 0);
  }

  consoleOutput(domId: number, text: string, nowNs: number): void {
    const step = this.#steps[this.#next];
    if (step === undefined || this.#dueNs !== undefined || this.#domIdOf(step.domain) !== domId) return;
    const tail = (this.#tails[domId] ?? '') + text;
    this.#tails[domId] = tail.slice(-(step.after.length + 4096));
    if (tail.includes(step.after)) {
      this.#dueNs = nowNs + (step.delayNs ?? 0);
      this.#tails[domId] = '';
    }
  }

  take(_step: number, nowNs: number): Input | undefined {
    if (this.#dueNs === undefined || nowNs < this.#dueNs) return undefined;
    const step = this.#steps[this.#next] as InputStep;
    this.#next++;
    this.#dueNs = undefined;
    this.#waitForNothing(nowNs);
    const domId = this.#domIdOf(step.domain) as number;
    if (step.command !== undefined) return { kind: 'command', domId, command: step.command };
    return { kind: 'console', domId, bytes: new TextEncoder().encode(step.send ?? '') };
  }

  idleUntilNs(): number {
    return this.#dueNs ?? Infinity;
  }

  /** For a run that came to no good end: the step whose text has not come, as a sentence. */
  awaited(): string | undefined {
    const step = this.#steps[this.#next];
    if (step === undefined || this.#dueNs !== undefined) return undefined;
    return `the script waits for ${JSON.stringify(step.after)} on the console of ${step.domain} (step ${this.#next + 1} of ${this.#steps.length})`;
  }

  save(): unknown {
    return { next: this.#next, tails: { ...this.#tails }, dueNs: this.#dueNs };
  }

  restore(state: unknown): void {
    const saved = state as { next: number; tails: Record<number, string>; dueNs: number | undefined };
    this.#next = saved.next;
    this.#tails = { ...saved.tails };
    this.#dueNs = saved.dueNs;
  }

  skipTo(taken: number): void {
    this.#next = taken;
    this.#tails = {};
    this.#dueNs = undefined;
  }
}

/** Takes inputs from a recording. `next` yields them in order, undefined at the end. */
export class RecordedInputs implements InputSource {
  readonly name = 'recording';
  readonly #read: (index: number) => RecordedInput | undefined;
  #index = 0;

  constructor(read: (index: number) => RecordedInput | undefined) {
    this.#read = read;
  }

  take(step: number, nowNs: number): Input | undefined {
    const recorded = this.#read(this.#index);
    if (recorded === undefined || recorded.step !== step || recorded.nowNs > nowNs) return undefined;
    this.#index++;
    return recorded.input;
  }

  idleUntilNs(step: number): number {
    const recorded = this.#read(this.#index);
    return recorded !== undefined && recorded.step === step + 1 ? recorded.nowNs : Infinity;
  }

  consoleOutput(): void {}

  save(): unknown {
    return this.#index;
  }

  restore(state: unknown): void {
    this.#index = state as number;
  }

  skipTo(taken: number): void {
    this.#index = taken;
  }
}

/** Keys from a person, queued by the host between calls of World.advance(). */
export class LiveInput implements InputSource {
  readonly name = 'person';
  #queued: Input[] = [];

  push(input: Input): void {
    this.#queued.push(input);
  }

  /** Something is there to be taken. */
  waiting(): boolean {
    return this.#queued.length > 0;
  }

  take(): Input | undefined {
    return this.#queued.shift();
  }

  idleUntilNs(): undefined {
    return undefined;
  }

  consoleOutput(): void {}

  save(): unknown {
    return null;
  }

  restore(): void {
    this.#queued = [];
  }

  skipTo(): void {
    this.#queued = [];
  }
}

/** Another source that the host may end at any time (Ctrl-C). */
export class StoppableInput implements InputSource {
  readonly #source: InputSource;
  #stop = false;

  constructor(source: InputSource) {
    this.#source = source;
  }

  get name(): string {
    return this.#source.name;
  }

  requestStop(): void {
    this.#stop = true;
  }

  take(step: number, nowNs: number): Input | undefined {
    if (!this.#stop) return this.#source.take(step, nowNs);
    this.#stop = false;
    return { kind: 'stop' };
  }

  idleUntilNs(step: number): number | undefined {
    return this.#source.idleUntilNs(step);
  }

  consoleOutput(domId: number, text: string, nowNs: number): void {
    this.#source.consoleOutput(domId, text, nowNs);
  }

  save(): unknown {
    return this.#source.save();
  }

  restore(state: unknown): void {
    this.#source.restore(state);
  }

  skipTo(taken: number): void {
    this.#source.skipTo(taken);
  }
}
