// Events that wait to be encoded: one after the other in one piece of memory, as numbers.
//
//   one event:  | kind, count of values, vCPU | domain |  retired  |   nowNs   | value | value | ... | [length | byte string]
//                 int32                         int32     float64     float64     float64              float64
//
// A loop over some hundred events is cheaper than the same encoding done between two pieces of the hypervisor's code, and a
// batch in shared memory is encoded by another thread: of a storm of events (bench) recording took 19 percent of the plain
// run's CPU time event by event, 13 to 16 in batches.
import { InvariantViolation } from '../base/assert.ts';

/** Places of an event before its values; a value takes one more each. */
export const HEAD_PLACES = 3;
export const PLACE_BYTES = 8;
/** No row of abi/events.ts has more: 14 fields, of two halves each. */
const MOST_VALUES = 28;
const MOST_PLACES = HEAD_PLACES + MOST_VALUES;
/** In an event's first word, above the count of its values: a byte string follows them. */
const WITH_BYTES = 0x8000;

/** Places that a byte string of so many bytes takes, its length included. */
const placesOfBytes = (sizeBytes: number): number => 1 + Math.ceil(sizeBytes / PLACE_BYTES);

export class EventBatch {
  readonly numbers: Float64Array;
  /** The same memory: two words a place. */
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  /** Places taken. */
  length = 0;
  /** Events put since the batch was empty. */
  events = 0;
  readonly #full: number;

  /** In that memory, whose size is a multiple of a place's. */
  constructor(memory: ArrayBufferLike, offsetBytes = 0, sizeBytes = memory.byteLength - offsetBytes) {
    this.numbers = new Float64Array(memory, offsetBytes, sizeBytes / PLACE_BYTES);
    this.words = new Int32Array(memory, offsetBytes, sizeBytes / 4);
    this.#bytes = new Uint8Array(memory, offsetBytes, sizeBytes);
    this.#full = this.numbers.length - MOST_PLACES;
  }

  /** With room for so many events of any size at least, the last with a byte string of up to `roomBytes`. */
  static of(events: number, roomBytes = 0): EventBatch {
    return new EventBatch(new ArrayBuffer((events * MOST_PLACES + placesOfBytes(roomBytes)) * PLACE_BYTES));
  }

  /** There may be no room for another event. */
  get full(): boolean {
    return this.length > this.#full;
  }

  /** There is room for an event with that byte string. */
  hasRoomFor(sizeBytes: number): boolean {
    return this.length + placesOfBytes(sizeBytes) <= this.#full;
  }

  /** Arguments as EventEncoder.emit; not `full`, and with room for the byte string. `count`: of the values, the first so many. */
  put(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes?: Uint8Array, count = values.length): void {
    const { numbers, words } = this;
    if (count > MOST_VALUES || kind > 0xff || vcpuId > 0xffff) throw new InvariantViolation(`an event of kind ${kind} at vCPU ${vcpuId} has ${count} values`);
    let at = this.length;
    words[2 * at] = kind | (count << 8) | (vcpuId << 16);
    words[2 * at + 1] = domId;
    numbers[at + 1] = retired;
    numbers[at + 2] = nowNs;
    at += HEAD_PLACES;
    for (let index = 0; index < count; index++) numbers[at + index] = values[index] as number;
    at += count;
    if (bytes !== undefined) {
      words[2 * this.length] = (words[2 * this.length] as number) | WITH_BYTES;
      numbers[at] = bytes.length;
      this.#bytes.set(bytes, (at + 1) * PLACE_BYTES);
      at += placesOfBytes(bytes.length);
    }
    this.length = at;
    this.events++;
  }

  kindAt(place: number): number {
    return (this.words[2 * place] as number) & 0xff;
  }

  /** The event at that place: how many values it has. */
  countAt(place: number): number {
    return ((this.words[2 * place] as number) >>> 8) & 0x7f;
  }

  /** Its value of that number; zeros at the end may be left out. */
  valueAt(place: number, index: number): number {
    return index < this.countAt(place) ? (this.numbers[place + HEAD_PLACES + index] as number) : 0;
  }

  /** Its byte string, in this batch's memory, if it has one. */
  bytesAt(place: number): Uint8Array | undefined {
    if (((this.words[2 * place] as number) & WITH_BYTES) === 0) return undefined;
    const at = place + HEAD_PLACES + this.countAt(place);
    const from = (at + 1) * PLACE_BYTES;
    return this.#bytes.subarray(from, from + (this.numbers[at] as number));
  }

  /**
   * Is the event at that place this one, number by number? Where the one behind it begins; or -1. Zeros at the end of the
   * values may be left out there (and are, by chunk-decoder.ts), not here.
   */
  matchAt(place: number, kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): number {
    const { numbers, words } = this;
    const head = words[2 * place] as number;
    const there = (head >>> 8) & 0x7f;
    const withBytes = bytes !== undefined && bytes.length > 0;
    if ((head & ~0x7f00) !== (kind | (vcpuId << 16) | (withBytes ? WITH_BYTES : 0)) || words[2 * place + 1] !== domId) return -1;
    if (numbers[place + 1] !== retired || numbers[place + 2] !== nowNs) return -1;
    const from = place + HEAD_PLACES;
    const count = values.length;
    if (count < there) return -1;
    let index = 0;
    for (; index < there; index++) if (numbers[from + index] !== values[index]) return -1;
    for (; index < count; index++) if (values[index] !== 0) return -1;
    return withBytes ? this.#matchBytes(place, bytes) : from + there;
  }

  #matchBytes(place: number, bytes: Uint8Array): number {
    const there = this.bytesAt(place) as Uint8Array;
    if (there.length !== bytes.length) return -1;
    for (let index = 0; index < bytes.length; index++) if (there[index] !== bytes[index]) return -1;
    return this.placeAfter(place, there);
  }

  /** Where the event behind it begins. */
  placeAfter(place: number, bytes: Uint8Array | undefined): number {
    return place + HEAD_PLACES + this.countAt(place) + (bytes === undefined ? 0 : placesOfBytes(bytes.length));
  }

  clear(): void {
    this.length = 0;
    this.events = 0;
  }

  /** The places taken, as memory of their own. */
  copy(): ArrayBuffer {
    return this.#bytes.slice(0, this.length * PLACE_BYTES).buffer as ArrayBuffer;
  }
}
