// Events to protobuf bytes, on the hot path of every run that records or replays. Rows from
// abi/events.ts become short lists of tags and types; an event is then a handful of stores into a
// growing buffer. protobufjs's Writer is not used here: it builds a linked list of
// operations for each event and measured 80 to 560 ns an event (collecting that garbage), against 55
// for this file; protobufjs encodes the packets, and the tests decode these events with it.
//
// The encoding is canonical (fields in order, zeros left out, shortest lengths), so two events are
// the same if and only if their bytes are: replay compares bytes.
//
// Not checked here: that positions make sense beyond "a vCPU's count does not go back".
import { BODY_FIELD_OFFSET, BYTES_FIELD_NUMBER, EVENT, EVENT_ROWS, MAX_KIND, eventRow, type EventRow } from '../abi/events.ts';
import { InvariantViolation, assert } from '../base/assert.ts';
import { MAX_VARINT_BYTES, writeSigned, writeSignedHalves, writeUnsigned, writeVarint32, writeVarint64 } from '../base/varint.ts';
import { EventBatch, HEAD_PLACES } from './event-batch.ts';
import { NameNumbers } from './name-numbers.ts';

/** Every multiple of this is a chunk boundary: an event count, so that it is the same in every run. */
export const EVENTS_PER_CHUNK = 8192;
/** A chunk that has grown past this ends early; likewise a function of the events alone. */
export const CHUNK_BYTES_LIMIT = 1 << 20;

/** Where a vCPU's retired count stood before the chunk's first event. */
export interface VcpuBase {
  readonly domId: number;
  readonly vcpuId: number;
  readonly retired: number;
}

/** A finished chunk of canonical event bytes (the encoding of a message Events). */
export interface RawChunk {
  readonly firstEvent: number;
  readonly eventCount: number;
  readonly nowNs: number;
  readonly vcpus: readonly VcpuBase[];
  /** Offsets in `bytes` of inputs, nameDefined and domainCreated events. */
  readonly landmarks: readonly number[];
  /** Good during the call only: the encoder goes on in the same memory. Who keeps them copies them. */
  readonly bytes: Uint8Array;
}

/** Takes finished chunks: the writer, or a worker that runs one. */
export interface ChunkSink {
  chunk(chunk: RawChunk): void;
}

/** What recording and replaying have in common: events go in. */
export interface EventEmitter {
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void;
}

/** Virtual nanoseconds per retired instruction, as a fraction of positive integers. */
export interface TimeRate {
  readonly numerator: number;
  readonly denominator: number;
}

interface VcpuSlot {
  readonly domId: number;
  readonly vcpuId: number;
  retired: number;
}

// One list per kind, a number for each field: its tag, and its type above that. Types: 0 uint, 1 sint, 2 u64, 3 s64.
const TYPE_CODE = { uint: 0, sint: 1, u64: 2, s64: 3 } as const;
export const PLANS: (Int32Array | undefined)[] = [];
const IS_LANDMARK = new Uint8Array(MAX_KIND + 1);
export const HAS_BYTES = new Uint8Array(MAX_KIND + 1);
for (const row of EVENT_ROWS as readonly EventRow[]) {
  PLANS[row.kind] = Int32Array.from(row.fields.map((field, index) => (TYPE_CODE[field.type] << 8) | ((index + 1) << 3)));
  IS_LANDMARK[row.kind] = row.role === 'input' || row.kind === EVENT.nameDefined || row.kind === EVENT.domainCreated ? 1 : 0;
  HAS_BYTES[row.kind] = row.bytes === undefined ? 0 : 1;
}
export const BYTES_TAG = (BYTES_FIELD_NUMBER << 3) | 2;
export const EVENT_TAG = (1 << 3) | 2;
/** Room that an event without bytes can need: 4 position fields, tags, lengths, 14 fields. */
const EVENT_ROOM = 64 + 14 * (MAX_VARINT_BYTES + 1);

export class EventEncoder {
  /** The bytes of the current chunk are buffer[0..position). Replaced when it grows or a chunk ends. */
  buffer: Uint8Array;
  position = 0;
  /** Where the last event begins in `buffer`; -1 if the chunk is empty. */
  lastStart = -1;
  /** Events encoded since the beginning. */
  eventCount = 0;
  readonly #sink: ChunkSink | undefined;
  readonly #numerator: number;
  readonly #denominator: number;
  readonly #slots = new Map<number, VcpuSlot>();
  #slot: VcpuSlot | undefined;
  #nowNs = 0;
  #firstEvent = 0;
  #chunkNowNs = 0;
  #chunkVcpus: VcpuBase[] = [];
  #landmarks: number[] = [];
  /** The event count at which the chunk ends at the latest. */
  #chunkEnd = EVENTS_PER_CHUNK;
  readonly #names = new NameNumbers();
  readonly #one = EventBatch.of(1);

  /** Without a sink the bytes are dropped at each chunk's end: for replay, which compares them first. */
  constructor(sink: ChunkSink | undefined, rate: TimeRate = { numerator: 1, denominator: 1 }) {
    assert(Number.isInteger(rate.numerator) && Number.isInteger(rate.denominator) && rate.numerator > 0 && rate.denominator > 0, `time rate ${rate.numerator}/${rate.denominator}`);
    this.#sink = sink;
    this.#numerator = rate.numerator;
    this.#denominator = rate.denominator;
    this.buffer = new Uint8Array(256 * 1024);
  }

  /**
   * Appends one event. `retired` is the count of that vCPU (0 where there is no vCPU, as in dom0),
   * `nowNs` the world's time; both integers that never go back. `values` as in abi/events.ts.
   */
  emit(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array): void {
    const one = this.#one;
    one.clear();
    one.put(kind, domId, vcpuId, retired, nowNs, values);
    this.#encode(one.numbers, one.words, 0, bytes);
  }

  /** Appends the events of the batch, and empties it. */
  emitBatch(batch: EventBatch): void {
    const { numbers, words, length } = batch;
    batch.clear();
    for (let at = 0; at < length; ) {
      const bytes = batch.bytesAt(at);
      this.#encode(numbers, words, at, bytes);
      at = batch.placeAfter(at, bytes);
    }
  }

  /** Appends the event at that place of a batch. */
  #encode(numbers: Float64Array, words: Int32Array, place: number, bytes: Uint8Array | undefined): void {
    const head = words[2 * place] as number;
    const domId = words[2 * place + 1] as number;
    const vcpuId = head >>> 16;
    const kind = head & 0xff;
    const retired = numbers[place + 1] as number;
    const nowNs = numbers[place + 2] as number;
    const plan = PLANS[kind];
    if (plan === undefined) return bad(`event kind ${kind} has no row`);
    if (this.eventCount === this.#chunkEnd || this.position >= CHUNK_BYTES_LIMIT) this.endChunk();

    let slot = this.#slot;
    if (slot === undefined || slot.domId !== domId || slot.vcpuId !== vcpuId) slot = this.#findSlot(domId, vcpuId);
    const insnsDelta = retired - slot.retired;
    if (!(insnsDelta >= 0)) return bad(`d${domId}v${vcpuId} went back from ${slot.retired} to ${retired} retired instructions at event ${this.eventCount}`);
    slot.retired = retired;
    const skewNs = nowNs - this.#nowNs - (this.#denominator === 1 ? insnsDelta * this.#numerator : Math.floor((insnsDelta * this.#numerator) / this.#denominator));
    this.#nowNs = nowNs;

    const start = this.position;
    const needed = start + EVENT_ROOM + (bytes === undefined ? 0 : bytes.length);
    if (needed > this.buffer.length) this.#grow(needed);
    const buffer = this.buffer;
    let at = start;
    buffer[at] = EVENT_TAG;
    at += 2; // The length goes to start + 1, one byte unless the event turns out longer.
    if (domId !== 0) {
      buffer[at++] = 8;
      if (domId < 0x80) buffer[at++] = domId;
      else at = writeVarint32(buffer, at, domId);
    }
    if (vcpuId !== 0) {
      buffer[at++] = 16;
      at = writeVarint32(buffer, at, vcpuId);
    }
    if (insnsDelta !== 0) {
      buffer[at++] = 24;
      if (insnsDelta < 0x80) buffer[at++] = insnsDelta;
      else at = writeUnsigned(buffer, at, insnsDelta);
    }
    if (skewNs !== 0) {
      buffer[at++] = 32;
      at = writeSigned(buffer, at, skewNs);
    }
    const field = kind + BODY_FIELD_OFFSET;
    if (field < 16) buffer[at++] = (field << 3) | 2;
    else at = writeVarint32(buffer, at, (field << 3) | 2);
    const bodyStart = ++at; // one byte for the body's length
    let value = place + HEAD_PLACES;
    const valuesEnd = value + ((head >>> 8) & 0x7f);
    for (let step = 0; step < plan.length && value < valuesEnd; step++) {
      const field = plan[step] as number;
      const lo = numbers[value++] as number;
      if (field < 0x200) {
        if (lo === 0) continue;
        buffer[at] = field;
        if (field >= 0x100) at = writeSigned(buffer, at + 1, lo);
        else if (lo < 0x80 && (lo & 0x7f) === lo) {
          buffer[at + 1] = lo;
          at += 2;
        } else at = writeUnsigned(buffer, at + 1, lo);
      } else {
        const hi = numbers[value++] as number;
        if (lo === 0 && hi === 0) continue;
        buffer[at] = field;
        at = field >= 0x300 ? writeSignedHalves(buffer, at + 1, lo, hi) : hi === 0 ? writeUnsigned(buffer, at + 1, lo >>> 0) : writeVarint64(buffer, at + 1, lo, hi);
      }
    }
    if (value !== valuesEnd) return bad(`event ${eventRow(kind)?.name} has room for ${value - place - HEAD_PLACES} values, not ${valuesEnd - place - HEAD_PLACES}`);
    if (bytes !== undefined && bytes.length > 0) {
      if (HAS_BYTES[kind] !== 1) return bad(`event ${eventRow(kind)?.name} has no byte string`);
      buffer[at++] = BYTES_TAG;
      at = writeVarint32(buffer, at, bytes.length);
      buffer.set(bytes, at);
      at += bytes.length;
    }
    const bodyLength = at - bodyStart;
    if (bodyLength < 128) buffer[bodyStart - 1] = bodyLength;
    else at = insertLength(buffer, bodyStart, at);
    const length = at - start - 2;
    if (length < 128) buffer[start + 1] = length;
    else at = insertLength(buffer, start + 2, at);

    if (IS_LANDMARK[kind] === 1) this.#landmarks.push(start);
    this.lastStart = start;
    this.position = at;
    this.eventCount++;
  }

  /** The number that stands for a name (of a choice, of a fault): NameNumbers. */
  nameNumber(name: string, domId: number, vcpuId: number, retired: number, nowNs: number): number {
    return this.#names.numberOf(name, this, domId, vcpuId, retired, nowNs);
  }

  /** Hands the events so far to the sink: at the end, and before a guest sees an input. */
  endChunk(): void {
    if (this.position === 0) return;
    const chunk: RawChunk | undefined = this.#sink && {
      firstEvent: this.#firstEvent,
      eventCount: this.eventCount - this.#firstEvent,
      nowNs: this.#chunkNowNs,
      vcpus: this.#chunkVcpus,
      landmarks: this.#landmarks,
      bytes: this.buffer.subarray(0, this.position),
    };
    this.position = 0;
    this.lastStart = -1;
    this.#firstEvent = this.eventCount;
    this.#chunkEnd = (Math.floor(this.eventCount / EVENTS_PER_CHUNK) + 1) * EVENTS_PER_CHUNK;
    this.#chunkNowNs = this.#nowNs;
    this.#chunkVcpus = [...this.#slots.values()].filter((slot) => slot.retired > 0).map((slot) => ({ ...slot }));
    this.#landmarks = [];
    if (chunk !== undefined) this.#sink?.chunk(chunk);
  }

  /** Instructions that all vCPUs have retired, as far as the events say. */
  get insns(): number {
    let sum = 0;
    for (const { retired } of this.#slots.values()) sum += retired;
    return sum;
  }

  /** Plain data, from which another encoder goes on: after the events so far, in the middle of a chunk too. */
  saveState(): EncoderState {
    return {
      eventCount: this.eventCount, nowNs: this.#nowNs, vcpus: [...this.#slots.values()].map((slot) => ({ ...slot })), names: this.#names.names,
      chunk: { firstEvent: this.#firstEvent, nowNs: this.#chunkNowNs, vcpus: this.#chunkVcpus, landmarks: [...this.#landmarks], bytes: this.buffer.slice(0, this.position) },
    };
  }

  restoreState(state: EncoderState): void {
    const { chunk = { firstEvent: state.eventCount, nowNs: state.nowNs, vcpus: state.vcpus.filter((base) => base.retired > 0), landmarks: [], bytes: new Uint8Array(0) } } = state;
    this.position = 0;
    this.#grow(chunk.bytes.length);
    this.buffer.set(chunk.bytes);
    this.position = chunk.bytes.length;
    this.lastStart = -1;
    this.eventCount = state.eventCount;
    this.#firstEvent = chunk.firstEvent;
    this.#chunkEnd = (Math.floor(chunk.firstEvent / EVENTS_PER_CHUNK) + 1) * EVENTS_PER_CHUNK;
    this.#nowNs = state.nowNs;
    this.#chunkNowNs = chunk.nowNs;
    this.#landmarks = [...chunk.landmarks];
    this.#slot = undefined;
    this.#slots.clear();
    for (const base of state.vcpus) this.#slots.set(slotKey(base.domId, base.vcpuId), { ...base });
    this.#chunkVcpus = chunk.vcpus.map((base) => ({ ...base }));
    this.#names.restore(state.names);
  }

  #findSlot(domId: number, vcpuId: number): VcpuSlot {
    const key = slotKey(domId, vcpuId);
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = { domId, vcpuId, retired: 0 };
      this.#slots.set(key, slot);
    }
    this.#slot = slot;
    return slot;
  }

  #grow(needed: number): void {
    if (needed <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(needed, this.buffer.length * 2));
    grown.set(this.buffer.subarray(0, this.position));
    this.buffer = grown;
  }
}

export interface EncoderState {
  readonly eventCount: number;
  readonly nowNs: number;
  readonly vcpus: readonly VcpuBase[];
  readonly names: readonly string[];
  /** The chunk that is open; without it the next event begins one. */
  readonly chunk?: Omit<RawChunk, 'eventCount'>;
}

/** A failed assertion. Called after the test, so that messages are only made when they are needed. */
const bad = (message: string): never => {
  throw new InvariantViolation(message);
};

const slotKey = (domId: number, vcpuId: number): number => domId * 0x1_0000 + vcpuId;

/** Makes room for a length of more than one byte before buffer[from..to); returns the new end. */
function insertLength(buffer: Uint8Array, from: number, to: number): number {
  const length = to - from;
  const extra = length < 1 << 14 ? 1 : length < 1 << 21 ? 2 : length < 1 << 28 ? 3 : 4;
  buffer.copyWithin(from + extra, from, to);
  writeVarint32(buffer, from - 1, length);
  return to + extra;
}
