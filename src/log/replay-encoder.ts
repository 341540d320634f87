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
import { basesOf, isStart } from './chunk-decoder.ts';
import { EventsDigest } from './digest.ts';
import { decodeEvent, eventEnd, type DecodedEvent } from './event-decoder.ts';
import type { EventBatch } from './event-batch.ts';
import { EventEncoder, type TimeRate, type VcpuBase } from './event-encoder.ts';
import { EventMatcher } from './event-matcher.ts';
import { NameNumbers } from './name-numbers.ts';
import { sameBytes } from '../base/hash.ts';
import type { PositionedEvent, Recording } from './reader.ts';
import type { ScannedChunk } from './scan.ts';

/** A recording's events decoded elsewhere, chunk by chunk, while the replay runs (node/read-ahead.ts). */
export interface DecodedChunks {
  /** All events of the chunk, if they are there by now; good until the next call. Chunks before it are not asked for any more. */
  chunk(index: number): EventBatch | undefined;
}

/** The first event in which replay and recording differ. One side is absent where that one had ended. */
export interface Divergence {
  readonly index: number;
  readonly expected: PositionedEvent | undefined;
  readonly actual: PositionedEvent | undefined;
}

const NO_BYTES: Uint8Array = new Uint8Array(0);

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
  #expected = NO_BYTES;
  #cursor = 0;
  readonly #decoded: DecodedChunks | undefined;
  /** The chunk as numbers, and the place of the next event: instead of `expected` and `cursor`. */
  #batch: EventBatch | undefined;
  #place = 0;
  /** Chunks whose digest was checked here. */
  #digested = 0;

  /** `checkDigests` recomputes each chunk's digest as it is loaded. */
  constructor(recording: Recording, checkDigests = true, decoded?: DecodedChunks) {
    this.recording = recording;
    this.#decoded = decoded;
    this.#rate = { numerator: recording.world.nsPerInsnNumerator, denominator: recording.world.nsPerInsnDenominator };
    this.#matcher = new EventMatcher(this.#rate);
    this.#digest = checkDigests ? new EventsDigest() : undefined;
  }

  /** Compares one event; arguments as EventEncoder.emit. */
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void {
    this.eventCount++;
    if (this.#batch !== undefined && this.#isNextInBatch(this.#batch, kind, domId, vcpuId, retired, nowNs, values, bytes)) return;
    if (this.divergence !== undefined || this.pastEnd) return;
    if (this.#cursor === this.#expected.length) {
      if (!this.#nextChunk()) {
        if (this.recording.truncated) this.pastEnd = true;
        else this.#diverge(kind, domId, vcpuId, retired, nowNs, values, bytes);
        return;
      }
      if (this.#batch !== undefined && this.#isNextInBatch(this.#batch, kind, domId, vcpuId, retired, nowNs, values, bytes)) return;
    }
    const end = this.#matcher.match(this.#expected, this.#cursor, kind, domId, vcpuId, retired, nowNs, values, bytes);
    if (end < 0) this.#diverge(kind, domId, vcpuId, retired, nowNs, values, bytes);
    else this.#cursor = end;
  }

  #isNextInBatch(batch: EventBatch, kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): boolean {
    const next = batch.matchAt(this.#place, kind, domId, vcpuId, retired, nowNs, values, bytes);
    if (next < 0) {
      // Not the same numbers: the bytes have the last word, and say what differs.
      this.#leaveBatch(this.eventCount - 1);
      return false;
    }
    this.#place = next;
    if (next === batch.length) this.#endBatch();
    return true;
  }

  #endBatch(): void {
    const chunk = this.recording.chunks[this.#chunk + 1];
    if (chunk === undefined) return this.#leaveBatch(this.eventCount);
    this.#batch = undefined;
    this.#expected = NO_BYTES;
    this.#cursor = 0;
    this.#matcher.restore(chunk.nowNs, basesOf(chunk));
  }

  /** Goes on with the bytes, from that event of this chunk on. */
  #leaveBatch(index: number): void {
    this.#batch = undefined;
    this.#putAt(index);
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
    this.#batch = undefined;
    this.#chunk = index === recording.eventCount ? recording.chunks.length - 1 : recording.chunkOf(index);
    this.#putAt(index);
    const names = this.#definitions().filter(({ chunk: at, offset }) => at < this.#chunk || (at === this.#chunk && offset < this.#cursor)).map(({ name }) => name);
    this.eventCount = index;
    this.#names.restore(names);
  }

  /** To the bytes of that event, which is in this chunk or the first after it. */
  #putAt(index: number): void {
    const { recording } = this;
    this.#expected = this.#chunk < 0 ? NO_BYTES : recording.chunkBytes(this.#chunk);
    this.#cursor = 0;
    const chunk = recording.chunks[this.#chunk];
    let nowNs = chunk?.nowNs ?? 0;
    const retired = new Map<number, VcpuBase>();
    for (const base of basesOf(chunk)) retired.set(base.domId * 0x1_0000 + base.vcpuId, base);
    for (const event of recording.events(chunk?.firstEvent ?? 0, index)) {
      retired.set(event.domId * 0x1_0000 + event.vcpuId, { domId: event.domId, vcpuId: event.vcpuId, retired: event.retired });
      nowNs = event.nowNs;
      this.#cursor = eventEnd(this.#expected, this.#cursor);
    }
    this.#matcher.restore(nowNs, retired.values());
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
    if (this.#batch === undefined && this.#cursor === this.#expected.length && this.divergence === undefined && !this.pastEnd) this.#nextChunk();
    if (this.#batch !== undefined) {
      const picked = choiceAt(this.#batch, this.#place);
      if (picked !== 'further') return picked;
      this.#leaveBatch(this.eventCount);
    }
    const next = this.#peek();
    if (next?.kind === EVENT.choice) return next.values[2];
    if (next?.kind !== EVENT.nameDefined) return undefined;
    const at = eventEnd(this.#expected, this.#cursor);
    const inChunk = at < this.#expected.length;
    if (!inChunk && this.#chunk + 1 >= this.recording.chunks.length) return undefined;
    const second = inChunk ? decodeEvent(this.#expected, at) : decodeEvent(this.recording.chunkBytes(this.#chunk + 1), 0);
    return second?.kind === EVENT.choice ? second.values[2] : undefined;
  }

  /** The next recorded event, from the bytes. */
  #peek(): DecodedEvent | undefined {
    if (this.divergence !== undefined || this.pastEnd) return undefined;
    if (this.#cursor === this.#expected.length && !this.#nextChunk()) return undefined;
    return decodeEvent(this.#expected, this.#cursor);
  }

  #nextChunk(): boolean {
    const chunk = this.recording.chunks[this.#chunk + 1];
    if (chunk === undefined) return false;
    this.#chunk++;
    const batch = this.#decoded?.chunk(this.#chunk);
    if (batch?.events === chunk.eventCount && this.#matcher.nowNs === chunk.nowNs && isStart(chunk, this.#matcher.vcpus)) {
      this.#batch = batch;
      this.#place = 0;
      return true;
    }
    this.#checkDigests();
    this.#expected = this.recording.chunkBytes(this.#chunk);
    this.#cursor = 0;
    return true;
  }

  /** Of the chunks up to this one: those that came decoded were checked where that was done, but the digest is of all so far. */
  #checkDigests(): void {
    if (this.#digest === undefined) return;
    for (; this.#digested <= this.#chunk; this.#digested++) {
      const chunk = this.recording.chunks[this.#digested] as ScannedChunk;
      if (sameBytes(this.#digest.add(this.recording.chunkBytes(this.#digested)), chunk.eventsDigest)) continue;
      throw this.recording.damaged(chunk.payloadOffset, `the events from ${chunk.firstEvent} on do not have the digest that was written with them`);
    }
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


/** What was picked, if the event at that place is a choice, or defines a name for one that follows; undefined if it is neither. */
function choiceAt(batch: EventBatch, place: number): number | undefined | 'further' {
  const kind = batch.kindAt(place);
  if (kind === EVENT.choice) return batch.valueAt(place, 2);
  if (kind !== EVENT.nameDefined) return undefined;
  const next = batch.placeAfter(place, batch.bytesAt(place));
  if (next === batch.length) return 'further';
  return batch.kindAt(next) === EVENT.choice ? batch.valueAt(next, 2) : undefined;
}
