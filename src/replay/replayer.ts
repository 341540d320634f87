// A run that is compared with a recording. Choices and inputs come out of it; every event that the
// world makes must be the recorded one, bytes and position; state digests must be the recorded ones.
import { EVENT, eventRow } from '../abi/events.ts';
import { bytesToHex, sameBytes } from '../base/hash.ts';
import type { Recording, PositionedEvent } from '../log/reader.ts';
import { ReplayEncoder, type DecodedChunks, type Divergence } from '../log/replay-encoder.ts';
import type { StateDigest } from '../log/packets.ts';
import { parseCommand } from '../dom0/toolstack.ts';
import type { ChoiceName, Choices } from '../sim/choices.ts';
import { RecordedInputs, type RecordedInput } from '../sim/input.ts';
import type { EventSink, World } from '../sim/world.ts';
import { choicesOf } from './plan.ts';
import { KindCounts } from './recorder.ts';
import { logModeOf, WholeDigest } from './whole-digest.ts';

/** A state digest that came out differently although all events before it were the same. */
export interface StateDivergence {
  readonly atEvent: number;
  readonly parts: readonly { readonly name: string; readonly expected: string; readonly actual: string }[];
}

/** Answers from the recording; beyond its end, or after a divergence, from its seed and plan. */
export class RecordedChoices implements Choices {
  readonly #encoder: ReplayEncoder;
  readonly #fallback: Choices;

  constructor(encoder: ReplayEncoder, fallback: Choices) {
    this.#encoder = encoder;
    this.#fallback = fallback;
  }

  pick(name: ChoiceName, options: number): number {
    // The seeded stream is drawn in any case: a truncated recording goes on as the run would have.
    const seeded = this.#fallback.pick(name, options);
    const picked = this.#encoder.peekChoice();
    return picked !== undefined && picked < options ? picked : seeded;
  }

  save(): unknown {
    return this.#fallback.save();
  }

  restore(state: unknown): void {
    this.#fallback.restore(state);
  }
}

function recordedInput(event: PositionedEvent): RecordedInput | undefined {
  const step = event.values[0] as number;
  if (event.kind === EVENT.consoleIn) return { step, nowNs: event.nowNs, input: { kind: 'console', domId: event.domId, bytes: event.bytes ?? new Uint8Array(0) } };
  if (event.kind === EVENT.command) {
    const command = parseCommand(new TextDecoder().decode(event.bytes));
    return command === undefined ? undefined : { step, nowNs: event.nowNs, input: { kind: 'command', domId: event.domId, command } };
  }
  if (event.kind === EVENT.stopRequested) return { step, nowNs: event.nowNs, input: { kind: 'stop' } };
  return undefined;
}

export class Replayer implements EventSink {
  readonly counts = new KindCounts();
  readonly recording: Recording;
  readonly encoder: ReplayEncoder;
  readonly choices: Choices;
  readonly input: RecordedInputs;
  stateDivergence: StateDivergence | undefined;
  readonly #digestState: () => StateDigest['parts'];
  readonly #expectedDigests: readonly StateDigest[];
  readonly #whole: WholeDigest | undefined;
  #digestsSeen = 0;
  /** A seek has left events out: a digest of all of them cannot be had any more. */
  #skipped = false;

  constructor(recording: Recording, digestState: () => StateDigest['parts'], decoded?: DecodedChunks) {
    this.recording = recording;
    this.encoder = new ReplayEncoder(recording, true, decoded);
    const { nsPerInsnNumerator: num, nsPerInsnDenominator: den } = recording.world;
    this.#whole = logModeOf(recording.world) === 'inputs' ? new WholeDigest({ num, den }) : undefined;
    const own = choicesOf(recording.world);
    // A recording of inputs has no choices: its seed and plan have them.
    this.choices = this.#whole === undefined ? new RecordedChoices(this.encoder, own) : own;
    const inputs: RecordedInput[] = [];
    for (const event of recording.inputs()) {
      const input = recordedInput(event);
      if (input !== undefined) inputs.push(input);
    }
    this.input = new RecordedInputs((index) => inputs[index]);
    this.#digestState = digestState;
    this.#expectedDigests = recording.stateDigests;
  }

  /** The world was put where it is, and has not run there: goes on comparing from its place. */
  seek(world: World): void {
    this.encoder.seek(this.#whole === undefined ? world.eventCount : world.inputsTaken);
    this.#digestsSeen = world.digestCount;
    this.stateDivergence = undefined;
    this.#skipped = true;
  }

  get divergence(): Divergence | undefined {
    return this.encoder.divergence;
  }
  get diverged(): boolean {
    return this.divergence !== undefined || this.stateDivergence !== undefined;
  }

  /** Nothing is left to compare: the replay may stop. */
  get over(): boolean {
    if (this.encoder.divergence !== undefined || this.stateDivergence !== undefined || this.encoder.pastEnd) return true;
    // Of a recording of inputs that was cut short, the last digest is the last thing to compare.
    return this.#whole !== undefined && this.recording.truncated && this.#digestsSeen >= this.#expectedDigests.length;
  }

  event(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): void {
    this.counts.add(kind);
    if (this.#whole !== undefined) {
      this.#whole.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
      if (eventRow(kind)?.role !== 'input') return;
    }
    this.encoder.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
  }

  stateDigest(eventCount: number): void {
    const expected = this.#expectedDigests[this.#digestsSeen++];
    if (expected === undefined || this.encoder.divergence !== undefined || this.stateDivergence !== undefined || this.encoder.pastEnd) return;
    if (this.#whole === undefined ? expected.atEvent !== eventCount : this.#skipped) return;
    const parts = this.#digestState();
    const actual = new Map((this.#whole?.over(parts) ?? parts).map((part) => [part.name, part.digest]));
    const different = expected.parts.filter((part) => !sameBytes(part.digest, actual.get(part.name) ?? new Uint8Array(0)));
    if (different.length === 0) return;
    const hex = (digest: Uint8Array | undefined): string => (digest === undefined ? 'absent' : bytesToHex(digest).slice(0, 16));
    this.stateDivergence = { atEvent: eventCount, parts: different.map((part) => ({ name: part.name, expected: hex(part.digest), actual: hex(actual.get(part.name)) })) };
  }
}
