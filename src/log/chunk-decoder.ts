// A chunk's events as numbers, in a batch: what a replay compares its own with, made while it runs (node/read-ahead.ts).
// Encoded again they must give the chunk's very bytes, so that an event that equals the numbers equals the bytes.
import { BODY_FIELD_OFFSET } from '../abi/events.ts';
import { readVarint, unzigzag, varint, varintSigned, varintUnsigned } from '../base/varint.ts';
import type { EventBatch } from './event-batch.ts';
import { BYTES_TAG, EventEncoder, EVENT_TAG, HAS_BYTES, PLANS, type TimeRate, type VcpuBase } from './event-encoder.ts';

/** Where a chunk begins, as its packet says. */
export interface ChunkStart {
  readonly nowNs: number;
  readonly vcpus: readonly { readonly domain: number; readonly vcpu: number; readonly retired: number }[];
}

export const basesOf = (chunk: ChunkStart | undefined): VcpuBase[] => (chunk?.vcpus ?? []).map(({ domain, vcpu, retired }) => ({ domId: domain, vcpuId: vcpu, retired }));

/** The numbers of each kind's fields, wide ones as two halves. */
const WIDTHS = PLANS.map((plan) => plan?.reduce((sum, field) => sum + (field < 0x200 ? 1 : 2), 0) ?? 0);

export class ChunkDecoder {
  readonly #rate: TimeRate;
  readonly #encoder: EventEncoder;
  readonly #retired = new Map<number, { readonly domId: number; readonly vcpuId: number; retired: number }>();
  #nowNs = 0;
  readonly #values = WIDTHS.map((width) => new Array<number>(width).fill(0));

  constructor(rate: TimeRate) {
    this.#rate = rate;
    this.#encoder = new EventEncoder(undefined, rate);
  }

  /** Fills the batch with all events of the chunk; false if it has no room, or the bytes are not those that an encoder would write. */
  decode(bytes: Uint8Array, start: ChunkStart, batch: EventBatch): boolean {
    batch.clear();
    return this.#fill(bytes, start, batch) && this.#isEncoded(bytes, start, batch);
  }

  /** What was decoded last ends where a chunk begins. */
  endsAt(start: ChunkStart): boolean {
    return this.#nowNs === start.nowNs && isStart(start, this.#retired.values());
  }

  #isEncoded(bytes: Uint8Array, start: ChunkStart, batch: EventBatch): boolean {
    const { length, events } = batch;
    const encoder = this.#encoder;
    encoder.restoreState({ eventCount: 0, nowNs: start.nowNs, vcpus: basesOf(start), names: [] });
    encoder.emitBatch(batch);
    batch.length = length;
    batch.events = events;
    return encoder.position === bytes.length && beginsWith(encoder.buffer, bytes);
  }

  #fill(bytes: Uint8Array, start: ChunkStart, batch: EventBatch): boolean {
    const { numerator, denominator } = this.#rate;
    const retiredBy = this.#retired;
    retiredBy.clear();
    for (const { domId, vcpuId, retired } of basesOf(start)) retiredBy.set(slotKey(domId, vcpuId), { domId, vcpuId, retired });
    let { nowNs } = start;
    for (let at = 0; at < bytes.length; ) {
      if (batch.full || bytes[at] !== EVENT_TAG) return false;
      at = readVarint(bytes, at + 1, bytes.length);
      const end = at + varint.lo;
      let domId = 0;
      let vcpuId = 0;
      let insnsDelta = 0;
      let skewNs = 0;
      if (bytes[at] === 8) {
        at = readVarint(bytes, at + 1, end);
        domId = varintUnsigned();
      }
      if (bytes[at] === 16) {
        at = readVarint(bytes, at + 1, end);
        vcpuId = varintUnsigned();
      }
      if (bytes[at] === 24) {
        at = readVarint(bytes, at + 1, end);
        insnsDelta = varintUnsigned();
      }
      if (bytes[at] === 32) {
        at = readVarint(bytes, at + 1, end);
        unzigzag();
        skewNs = varintSigned();
      }
      at = readVarint(bytes, at, end);
      const kind = (varint.lo >>> 3) - BODY_FIELD_OFFSET;
      const plan = PLANS[kind];
      if (at < 0 || plan === undefined) return false;
      at = readVarint(bytes, at, end);
      const values = this.#values[kind] as number[];
      at = readFields(bytes, at, end, plan, values);
      let string: Uint8Array | undefined;
      if (at >= 0 && at < end && HAS_BYTES[kind] === 1 && bytes[at] === BYTES_TAG) {
        at = readVarint(bytes, at + 1, end);
        string = bytes.subarray(at, end);
        if (!batch.hasRoomFor(string.length)) return false;
        at = end;
      }
      if (at !== end) return false;
      const key = slotKey(domId, vcpuId);
      let slot = retiredBy.get(key);
      if (slot === undefined) retiredBy.set(key, (slot = { domId, vcpuId, retired: 0 }));
      const retired = (slot.retired += insnsDelta);
      nowNs += (denominator === 1 ? insnsDelta * numerator : Math.floor((insnsDelta * numerator) / denominator)) + skewNs;
      if (vcpuId > 0xffff) return false;
      batch.put(kind, domId, vcpuId, retired, nowNs, values, string, fieldValues);
    }
    this.#nowNs = nowNs;
    return true;
  }
}

/** The counts of all vCPUs are those with which a chunk begins, which leaves zeros out. */
export function isStart(start: ChunkStart, vcpus: Iterable<VcpuBase>): boolean {
  const counted = [...vcpus].filter(({ retired }) => retired > 0);
  return counted.length === start.vcpus.length && counted.every(({ domId, vcpuId, retired }) => start.vcpus.some((base) => base.domain === domId && base.vcpu === vcpuId && base.retired === retired));
}

const slotKey = (domId: number, vcpuId: number): number => domId * 0x1_0000 + vcpuId;

/** Of the fields that were read last: the values up to the last field that is there. */
let fieldValues = 0;

/** The fields of a body, those left out as zeros; the position after the last, or -1. */
function readFields(bytes: Uint8Array, from: number, end: number, plan: Int32Array, values: number[]): number {
  let at = from;
  let value = 0;
  fieldValues = 0;
  for (let step = 0; step < plan.length && at >= 0; step++) {
    const field = plan[step] as number;
    const there = at < end && bytes[at] === (field & 0xff);
    if (there) at = readVarint(bytes, at + 1, end);
    if ((field & 0x100) !== 0 && there) unzigzag();
    if (field < 0x200) values[value++] = !there ? 0 : field < 0x100 ? varintUnsigned() : varintSigned();
    else {
      values[value++] = there ? varint.lo : 0;
      values[value++] = there ? varint.hi : 0;
    }
    if (there) fieldValues = value;
  }
  return at;
}

/** `buffer` begins with these bytes. */
function beginsWith(buffer: Uint8Array, bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) if (buffer[at] !== bytes[at]) return false;
  return true;
}
