// The recording seen from a replay. The world runs again and emits its events here instead of into
// a new recording; each must be the one that was recorded, byte by byte as the encoder would write it
// (event-matcher.ts). Since the encoding is canonical, equal bytes are equal events, positions and times
// included, and the first unequal event is the first divergence, noticed at that very event.
//
// Choices are answered from the recording: the next recorded event must be that choice. Inputs are
// the caller's business: `recording.inputs()` tells where they come, and the caller emits them as it
// applies them.
import { EVENT } from '../abi/events.ts';
import { assert } from '../base/assert.ts';
import { EventsDigest } from './digest.ts';
import { decodeEvent, eventEnd, type DecodedEvent } from './event-decoder.ts';
import { EventEncoder, type TimeRate, type VcpuBase } from './event-encoder.ts';
import { EventMatcher } from './event-matcher.ts';
import { NameNumbers } from './name-numbers.ts';
import { sameBytes } from '../base/hash.ts';
import type { PositionedEvent, Recording } from './reader.ts';

/** The first event in which replay and recording differ. One side is absent where that one had ended. */
export interface Divergence {
  readonly index: number;
  readonly expected: PositionedEvent | undefined;
  readonly actual: PositionedEvent | undefined;
}

export class ReplayEncoder {
  readonly recording: Recording;
  /** Set at the first event that differs; from there on nothing is compared. */
  divergence: Divergence | undefined;
  /** All recorded events have been matched and the recording was cut short: what comes now is new. */
  pastEnd = false;
  /** Events that the replay has made so far. */
  eventCount = 0;
  readonly #rate: TimeRate;
  readonly #matcher: EventMatcher;
  readonly #names = new NameNumbers();
  #digest: EventsDigest | undefined;
  #chunk = -1;
  #expected: Uint8Array = new Uint8Array(0);
  #cursor = 0;

  /** `checkDigests` recomputes each chunk's digest as it is loaded. */
  constructor(recording: Recording, checkDigests = true) {
    this.recording = recording;
    this.#rate = { numerator: recording.world.nsPerInsnNumerator, denominator: recording.world.nsPerInsnDenominator };
    this.#matcher = new EventMatcher(this.#rate);
    this.#digest = checkDigests ? new EventsDigest() : undefined;
  }

  /** Compares one event; arguments as EventEncoder.emit. */
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void {
    this.eventCount++;
    if (this.divergence !== undefined || this.pastEnd) return;
    if (this.#cursor === this.#expected.length && !this.#nextChunk()) {
      if (this.recording.truncated) this.pastEnd = true;
      else this.#diverge(kind, domId, vcpuId, retired, nowNs, values, bytes);
      return;
    }
    const end = this.#matcher.match(this.#expected, this.#cursor, kind, domId, vcpuId, retired, nowNs, values, bytes);
    if (end < 0) this.#diverge(kind, domId, vcpuId, retired, nowNs, values, bytes);
    else this.#cursor = end;
  }

  /**
   * Answers a choice from the recording and compares it like any event. After a divergence, and
   * past the end of a truncated recording, the answer is undefined: ask a seeded stream, or stop.
   */
  choice(name: string, options: number, domId: number, vcpuId: number, retired: number, nowNs: number): number | undefined {
    const number = this.nameNumber(name, domId, vcpuId, retired, nowNs);
    const picked = this.peekChoice() ?? 0;
    this.emit(EVENT.choice, domId, vcpuId, retired, nowNs, [number, options, picked]);
    return this.divergence !== undefined || this.pastEnd ? undefined : picked;
  }

  /** As EventEncoder.nameNumber; its nameDefined event is compared too. */
  nameNumber(name: string, domId: number, vcpuId: number, retired: number, nowNs: number): number {
    return this.#names.numberOf(name, this, domId, vcpuId, retired, nowNs);
  }

  /**
   * Goes on as if the first `index` events had been made, as recorded. What follows is compared;
   * chunks' digests are not any more, since they cover what was skipped.
   */
  seek(index: number): void {
    const { recording } = this;
    assert(index >= 0 && index <= recording.eventCount, `event ${index} of ${recording.eventCount} is sought`);
    this.divergence = undefined;
    this.pastEnd = false;
    this.#digest = undefined;
    this.#chunk = index === recording.eventCount ? recording.chunks.length - 1 : recording.chunkOf(index);
    this.#expected = this.#chunk < 0 ? new Uint8Array(0) : recording.chunkBytes(this.#chunk);
    this.#cursor = 0;
    const retired = new Map<number, VcpuBase>();
    const chunk = recording.chunks[this.#chunk];
    let nowNs = chunk?.nowNs ?? 0;
    for (const base of chunk?.vcpus ?? []) retired.set(base.domain * 0x1_0000 + base.vcpu, { domId: base.domain, vcpuId: base.vcpu, retired: base.retired });
    for (const event of recording.events(chunk?.firstEvent ?? 0, index)) {
      retired.set(event.domId * 0x1_0000 + event.vcpuId, { domId: event.domId, vcpuId: event.vcpuId, retired: event.retired });
      nowNs = event.nowNs;
      this.#cursor = eventEnd(this.#expected, this.#cursor);
    }
    const names = this.#definitions().filter(({ chunk: at, offset }) => at < this.#chunk || (at === this.#chunk && offset < this.#cursor)).map(({ name }) => name);
    this.eventCount = index;
    this.#matcher.restore(nowNs, retired.values());
    this.#names.restore(names);
  }

  #knownDefinitions: { readonly chunk: number; readonly offset: number; readonly name: string }[] | undefined;
  /** Where the recording defines names, in order. */
  #definitions(): { readonly chunk: number; readonly offset: number; readonly name: string }[] {
    this.#knownDefinitions ??= this.recording.chunks.flatMap(({ landmarks }, chunk) =>
      landmarks.flatMap((offset) => {
        const event = decodeEvent(this.recording.chunkBytes(chunk), offset);
        return event?.kind === EVENT.nameDefined ? [{ chunk, offset, name: new TextDecoder().decode(event.bytes) }] : [];
      }),
    );
    return this.#knownDefinitions;
  }

  /** The run is over: if the recording goes on, that is a divergence too. */
  finish(): Divergence | undefined {
    if (this.divergence === undefined && !this.pastEnd && this.eventCount < this.recording.eventCount) {
      this.divergence = { index: this.eventCount, expected: this.recording.eventAt(this.eventCount), actual: undefined };
    }
    return this.divergence;
  }

  /** Every readable event of the recording has been made again. */
  get matchedAll(): boolean {
    return this.divergence === undefined && (this.pastEnd || this.eventCount === this.recording.eventCount);
  }

  /**
   * What was picked, if the next recorded event is a choice (or the definition of its name and then
   * the choice).
   */
  peekChoice(): number | undefined {
    const next = this.peek();
    if (next?.kind === EVENT.choice) return next.values[2];
    if (next?.kind !== EVENT.nameDefined) return undefined;
    const at = eventEnd(this.#expected, this.#cursor);
    const inChunk = at < this.#expected.length;
    if (!inChunk && this.#chunk + 1 >= this.recording.chunks.length) return undefined;
    const second = inChunk ? decodeEvent(this.#expected, at) : decodeEvent(this.recording.chunkBytes(this.#chunk + 1), 0);
    return second?.kind === EVENT.choice ? second.values[2] : undefined;
  }

  /** The next recorded event. */
  peek(): DecodedEvent | undefined {
    if (this.divergence !== undefined || this.pastEnd) return undefined;
    if (this.#cursor === this.#expected.length && !this.#nextChunk()) return undefined;
    return decodeEvent(this.#expected, this.#cursor);
  }

  #nextChunk(): boolean {
    const chunk = this.recording.chunks[this.#chunk + 1];
    if (chunk === undefined) return false;
    this.#expected = this.recording.chunkBytes(++this.#chunk);
    this.#cursor = 0;
    if (this.#digest !== undefined && !sameBytes(this.#digest.add(this.#expected), chunk.eventsDigest)) {
      throw this.recording.damaged(chunk.payloadOffset, `the events from ${chunk.firstEvent} on do not have the digest that was written with them`);
    }
    return true;
  }

  #diverge(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): void {
    const index = this.eventCount - 1;
    // As it would stand in a recording. The encoder says what is wrong with an event that no recording can hold.
    const encoder = new EventEncoder(undefined, this.#rate);
    encoder.restoreState({ eventCount: index, nowNs: this.#matcher.nowNs, vcpus: this.#matcher.vcpus, names: [] });
    encoder.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
    const actual = decodeEvent(encoder.buffer.subarray(0, encoder.position), encoder.lastStart);
    assert(actual !== undefined, `event ${index} was encoded but cannot be decoded`);
    this.divergence = { index, expected: this.recording.eventAt(index), actual: { ...actual, bytes: actual.bytes?.slice(), index, retired, nowNs } };
  }
}
