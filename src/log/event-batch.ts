// Events that wait to be encoded: one after the other in one piece of memory, as numbers.
//
//   one event:  | kind, count of values, vCPU | domain |  retired  |   nowNs   | value | value | ...
//                 int32                         int32     float64     float64     float64
//
// A loop over some hundred events is cheaper than the same encoding done between two pieces of the hypervisor's code: of a
// storm of them (bench) it took 19 percent of the plain run's CPU time event by event, 13 to 16 in batches.
import { InvariantViolation } from '../base/assert.ts';

/** Places of an event before its values; a value takes one more each. */
export const HEAD_PLACES = 3;
/** No row of abi/events.ts has more: 14 fields, of two halves each. */
const MOST_VALUES = 28;
const MOST_PLACES = HEAD_PLACES + MOST_VALUES;

export class EventBatch {
  readonly numbers: Float64Array;
  /** The same memory: two words a place. */
  readonly words: Int32Array;
  /** Places taken. */
  length = 0;
  readonly #full: number;

  /** Room for so many events of any size at least. */
  constructor(events: number) {
    this.numbers = new Float64Array(events * MOST_PLACES);
    this.words = new Int32Array(this.numbers.buffer);
    this.#full = this.numbers.length - MOST_PLACES;
  }

  /** There may be no room for another event. */
  get full(): boolean {
    return this.length > this.#full;
  }

  /** Arguments as EventEncoder.emit; not `full`. */
  put(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[]): void {
    const { numbers, words } = this;
    const count = values.length;
    if (count > MOST_VALUES || kind > 0xff || vcpuId > 0xffff) throw new InvariantViolation(`an event of kind ${kind} at vCPU ${vcpuId} has ${count} values`);
    let at = this.length;
    words[2 * at] = kind | (count << 8) | (vcpuId << 16);
    words[2 * at + 1] = domId;
    numbers[at + 1] = retired;
    numbers[at + 2] = nowNs;
    at += HEAD_PLACES;
    for (let index = 0; index < count; index++) numbers[at + index] = values[index] as number;
    this.length = at + count;
  }
}
