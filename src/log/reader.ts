// A recording, opened: every packet is checked (CRC, order, counts) when it is opened, before
// anything is believed; events are inflated and decoded chunk by chunk, when they are asked for.
//
//   openRecording(bytesSource(name, bytes), { codec })  ->  Recording, or a RecordingError
//
// A file that ends in the middle opens as `truncated`, up to its last whole chunk. A file that is
// damaged anywhere is refused.
//
// Not checked: that events make sense; replay does that by making them again.
import { EVENT, EVENT_VOCABULARY, eventRow } from '../abi/events.ts';
import { assert } from '../base/assert.ts';
import { blake3, bytesToHex, sameBytes } from '../base/hash.ts';
import { fflateCodec, type Codec } from './codec.ts';
import { fromColumns } from './columns.ts';
import { EventsDigest, recordingDigest } from './digest.ts';
import { decodeEvent, eventEnd, eventKind, type DecodedEvent } from './event-decoder.ts';
import type { TextContext } from './event-text.ts';
import type { ImageRef, Named, StateDigest, Trailer, World } from './packets.ts';
import { RecordingError } from './recording-error.ts';
import { scanPackets, type ScannedChunk, type ScannedRecording } from './scan.ts';

/** Random access to a file's bytes; `read` gives fewer only at the end. */
export interface ByteSource {
  /** For messages. */
  readonly name: string;
  readonly sizeBytes: number;
  read(offset: number, length: number): Uint8Array;
  /** Gives back what the host holds open for it; nothing is read afterwards. */
  close?(): void;
}

export const bytesSource = (name: string, bytes: Uint8Array): ByteSource => ({
  name,
  sizeBytes: bytes.length,
  read: (offset, length) => bytes.subarray(offset, offset + length),
});

export interface ReaderOptions {
  readonly codec?: Codec;
}

/** An event with its place in the order of all things. */
export interface PositionedEvent extends DecodedEvent {
  readonly index: number;
  /** Instructions that its vCPU had retired. */
  readonly retired: number;
  readonly nowNs: number;
}

/** `118:d1v0:4021`. */
export const positionText = (event: { index: number; domId: number; vcpuId: number; retired: number }): string => `${event.index}:d${event.domId}v${event.vcpuId}:${event.retired}`;

/** Turns the deltas of consecutive events into positions. */
export class PositionTracker {
  readonly #numerator: number;
  readonly #denominator: number;
  readonly #retired = new Map<number, number>();
  #nowNs = 0;
  #index = 0;

  constructor(world: World) {
    this.#numerator = world.nsPerInsnNumerator;
    this.#denominator = world.nsPerInsnDenominator;
  }

  /** Goes to the beginning of a chunk. */
  seek(chunk: ScannedChunk): void {
    this.#index = chunk.firstEvent;
    this.#nowNs = chunk.nowNs;
    this.#retired.clear();
    for (const base of chunk.vcpus) this.#retired.set(base.domain * 0x1_0000 + base.vcpu, base.retired);
  }

  next(event: DecodedEvent): PositionedEvent {
    const key = event.domId * 0x1_0000 + event.vcpuId;
    const retired = (this.#retired.get(key) ?? 0) + event.insnsDelta;
    this.#retired.set(key, retired);
    this.#nowNs += Math.floor((event.insnsDelta * this.#numerator) / this.#denominator) + event.timeSkewNs;
    const { domId, vcpuId, insnsDelta, timeSkewNs, kind, values, bytes } = event;
    return { domId, vcpuId, insnsDelta, timeSkewNs, kind, values, bytes, index: this.#index++, retired, nowNs: this.#nowNs };
  }
}

export class Recording {
  readonly source: ByteSource;
  readonly engineRevision: number;
  readonly eventVocabulary: number;
  readonly formatVersion: number;
  readonly world: World;
  readonly info: readonly Named[];
  readonly chunks: readonly ScannedChunk[];
  readonly stateDigests: readonly StateDigest[];
  /** Undefined if the recording was cut short. */
  readonly trailer: Trailer | undefined;
  readonly truncated: boolean;
  /** How many events can be read. */
  readonly eventCount: number;
  readonly #scanned: ScannedRecording;
  readonly #codec: Codec;
  #cachedIndex = -1;
  #cachedBytes: Uint8Array = new Uint8Array(0);

  constructor(source: ByteSource, scanned: ScannedRecording, codec: Codec) {
    this.source = source;
    this.#scanned = scanned;
    this.#codec = codec;
    this.engineRevision = scanned.engineRevision;
    this.eventVocabulary = scanned.eventVocabulary;
    this.formatVersion = scanned.formatVersion;
    this.world = scanned.world;
    this.info = scanned.info;
    this.chunks = scanned.chunks;
    this.stateDigests = scanned.stateDigests;
    this.trailer = scanned.trailer;
    this.truncated = scanned.trailer === undefined;
    const last = scanned.chunks.at(-1);
    this.eventCount = last === undefined ? 0 : last.firstEvent + last.eventCount;
  }

  /** Nothing more will be read of it. */
  close(): void {
    this.source.close?.();
  }

  /** World as it stands in the file: what the digest covers. */
  get worldBytes(): Uint8Array {
    return this.#scanned.worldBytes;
  }

  /** Is the image of that hash in the file? */
  embeds(ref: ImageRef): boolean {
    return this.#scanned.images.some((image) => sameBytes(image.blake3, ref.blake3));
  }

  /** The digest of what can be read: of the whole recording if it is not truncated. */
  get digest(): Uint8Array {
    return recordingDigest(this.#scanned.worldBytes, this.chunks.at(-1)?.eventsDigest ?? new EventsDigest().last);
  }

  /** The canonical event bytes of a chunk; the last one asked for is kept. */
  chunkBytes(index: number): Uint8Array {
    if (index === this.#cachedIndex) return this.#cachedBytes;
    const chunk = this.chunks[index];
    assert(chunk !== undefined, `chunk ${index} of ${this.chunks.length}`);
    const payload = this.source.read(chunk.payloadOffset, chunk.payloadBytes);
    const bytes = chunk.compressed ? this.#expand(chunk, payload) : payload;
    if (bytes === undefined || bytes.length !== chunk.rawBytes) throw this.damaged(chunk.payloadOffset, `the events from ${chunk.firstEvent} on do not inflate to ${chunk.rawBytes} bytes`);
    this.#cachedIndex = index;
    this.#cachedBytes = bytes;
    return bytes;
  }

  #expand(chunk: ScannedChunk, payload: Uint8Array): Uint8Array | undefined {
    if (chunk.columnBytes === 0) return this.#codec.inflate(payload, chunk.rawBytes);
    const columns = this.#codec.inflate(payload, chunk.columnBytes);
    return columns === undefined ? undefined : fromColumns(columns, chunk.rawBytes);
  }

  /** The chunk that holds an event; -1 if none does. */
  chunkOf(eventIndex: number): number {
    let low = 0;
    let high = this.chunks.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const chunk = this.chunks[middle] as ScannedChunk;
      if (eventIndex < chunk.firstEvent) high = middle - 1;
      else if (eventIndex >= chunk.firstEvent + chunk.eventCount) low = middle + 1;
      else return middle;
    }
    return -1;
  }

  /** How many events of each kind there are, by name; nothing else of them is decoded. */
  countByKind(): Map<string, number> {
    const counts: number[] = [];
    this.chunks.forEach((_, index) => {
      const bytes = this.chunkBytes(index);
      for (let at = 0; at >= 0 && at < bytes.length; at = eventEnd(bytes, at)) {
        const kind = eventKind(bytes, at);
        counts[kind] = (counts[kind] ?? 0) + 1;
      }
    });
    return new Map(counts.flatMap((count, kind) => [[eventRow(kind)?.name ?? `kind ${kind}`, count] as const]));
  }

  /** Events from..to (exclusive), in order, decoded one by one. */
  *events(from = 0, to = this.eventCount): Generator<PositionedEvent> {
    const tracker = new PositionTracker(this.world);
    for (let index = Math.max(0, this.chunkOf(from)); index < this.chunks.length; index++) {
      const chunk = this.chunks[index] as ScannedChunk;
      if (chunk.firstEvent >= to) return;
      tracker.seek(chunk);
      for (const event of this.#chunkEvents(index)) {
        const positioned = tracker.next(event);
        if (positioned.index >= to) return;
        if (positioned.index >= from) yield positioned;
      }
    }
  }

  /** The canonical bytes of a chunk's events, one by one, beginning with event `from`. Views: not to be kept. */
  *rawEvents(chunkIndex: number, from: number): Generator<Uint8Array> {
    const bytes = this.chunkBytes(chunkIndex);
    const chunk = this.chunks[chunkIndex] as ScannedChunk;
    for (let at = 0, index = chunk.firstEvent; at < bytes.length; index++) {
      const end = eventEnd(bytes, at);
      if (end < 0) throw this.#undecodable(chunk, index);
      if (index >= from) yield bytes.subarray(at, end);
      at = end;
    }
  }

  eventAt(index: number): PositionedEvent | undefined {
    for (const event of this.events(index, index + 1)) return event;
    return undefined;
  }

  /** The events that came from outside, in order. Chunks without any are not inflated. */
  *inputs(): Generator<PositionedEvent> {
    for (const [index, chunk] of this.chunks.entries()) {
      const bytes = chunk.landmarks.length === 0 ? undefined : this.chunkBytes(index);
      if (bytes === undefined || !chunk.landmarks.some((at) => eventRow(eventKind(bytes, at))?.role === 'input')) continue;
      for (const event of this.events(chunk.firstEvent, chunk.firstEvent + chunk.eventCount)) if (eventRow(event.kind)?.role === 'input') yield event;
    }
  }

  /** What it takes to print events: the names they refer to by number, and the shapes of the domains. */
  textContext(): TextContext {
    const names = new Map<number, string>();
    const levels = new Map<number, number>();
    for (const [index, chunk] of this.chunks.entries()) {
      for (const at of chunk.landmarks) {
        const event = decodeEvent(this.chunkBytes(index), at);
        if (event?.kind === EVENT.nameDefined) names.set(event.values[0] as number, new TextDecoder().decode(event.bytes));
        if (event?.kind === EVENT.domainCreated) levels.set(event.domId, event.values[2] as number);
      }
    }
    return { names, levels };
  }

  *#chunkEvents(index: number): Generator<DecodedEvent> {
    const chunk = this.chunks[index] as ScannedChunk;
    const bytes = this.chunkBytes(index);
    let at = 0;
    for (let count = 0; count < chunk.eventCount; count++) {
      const event = decodeEvent(bytes, at);
      if (event === undefined) throw this.#undecodable(chunk, chunk.firstEvent + count);
      yield event;
      at = eventEnd(bytes, at);
    }
    if (at !== bytes.length) throw this.damaged(chunk.payloadOffset, `the chunk at event ${chunk.firstEvent} holds more than its ${chunk.eventCount} events`);
  }

  /** Inflates every chunk and checks its digest and events. Throws RecordingError; returns the digest. */
  verify(): Uint8Array {
    const digest = new EventsDigest();
    this.chunks.forEach((chunk, index) => {
      if (!sameBytes(digest.add(this.chunkBytes(index)), chunk.eventsDigest)) throw this.damaged(chunk.payloadOffset, `the events from ${chunk.firstEvent} on do not have the digest that was written with them`);
      for (const event of this.#chunkEvents(index)) void event;
    });
    return this.digest;
  }

  /** The image of that hash if it is embedded: its bytes, checked against the hash. */
  image(ref: ImageRef): Uint8Array | undefined {
    const place = this.#scanned.images.find((image) => sameBytes(image.blake3, ref.blake3));
    if (place === undefined) return undefined;
    const payload = this.source.read(place.payloadOffset, place.payloadBytes);
    const bytes = place.compressed ? this.#codec.inflate(payload, ref.sizeBytes) : payload;
    if (bytes === undefined || bytes.length !== ref.sizeBytes || !sameBytes(blake3(bytes), ref.blake3)) {
      throw this.damaged(place.payloadOffset, `the embedded image ${ref.name} does not have the hash ${bytesToHex(ref.blake3)}`);
    }
    return bytes;
  }

  #undecodable(chunk: ScannedChunk, index: number): RecordingError {
    if (this.eventVocabulary <= EVENT_VOCABULARY) return this.damaged(chunk.payloadOffset, `event ${index} cannot be decoded`);
    return new RecordingError('newer', this.source.name, chunk.payloadOffset, `event ${index} is of a kind that a newer Rexen has added`, 'use a newer Rexen, for example "npx rexen@latest"');
  }

  damaged(offset: number, what: string): RecordingError {
    return new RecordingError('damaged', this.source.name, offset, what, 'the recording is damaged or was changed; record it again or fetch a good copy');
  }
}

/** Opens a recording and checks every packet of it. Throws RecordingError. */
export function openRecording(source: ByteSource, options: ReaderOptions = {}): Recording {
  return new Recording(source, scanPackets(source), options.codec ?? fflateCodec);
}
