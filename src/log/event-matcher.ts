// Is the next recorded event the one that a replay has just made? The encoder's work without its writing: what it would
// write is compared with the bytes that stand there, field by field, and small numbers, which most are, where they stand.
// Since the encoding is canonical, the answer is that of encoding and comparing the bytes.
//
// A no says nothing of the event that was made, and leaves the matcher where it was: encode it then, and see.
import { BODY_FIELD_OFFSET } from '../abi/events.ts';
import { MAX_VARINT_BYTES, writeSigned, writeSignedHalves, writeUnsigned, writeVarint32, writeVarint64 } from '../base/varint.ts';
import { BYTES_TAG, EVENT_TAG, HAS_BYTES, PLANS, type TimeRate, type VcpuBase } from './event-encoder.ts';

/** Numbers of more than one byte are written here, and compared. */
const scratch = new Uint8Array(MAX_VARINT_BYTES);

export class EventMatcher {
  readonly #numerator: number;
  readonly #denominator: number;
  readonly #slots = new Map<number, { readonly domId: number; readonly vcpuId: number; retired: number }>();
  #slot: { readonly domId: number; readonly vcpuId: number; retired: number } | undefined;
  #nowNs = 0;

  constructor({ numerator, denominator }: TimeRate) {
    this.#numerator = numerator;
    this.#denominator = denominator;
  }

  /** Where vCPUs and the clock stood at the last event that matched. */
  get nowNs(): number {
    return this.#nowNs;
  }
  get vcpus(): readonly VcpuBase[] {
    return [...this.#slots.values()].map((slot) => ({ ...slot }));
  }
  restore(nowNs: number, vcpus: Iterable<VcpuBase>): void {
    this.#nowNs = nowNs;
    this.#slot = undefined;
    this.#slots.clear();
    for (const { domId, vcpuId, retired } of vcpus) this.#slots.set(slotKey(domId, vcpuId), { domId, vcpuId, retired });
  }

  /** Where the event's bytes end in `expected`, if they stand at `at`; or -1. The event as for EventEncoder.emit. */
  match(expected: Uint8Array, at: number, kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): number {
    const plan = PLANS[kind];
    if (plan === undefined || expected[at] !== EVENT_TAG) return -1;
    let slot = this.#slot;
    if (slot === undefined || slot.domId !== domId || slot.vcpuId !== vcpuId) slot = this.#slots.get(slotKey(domId, vcpuId));
    const insnsDelta = retired - (slot === undefined ? 0 : slot.retired);
    if (!(insnsDelta >= 0)) return -1;
    const skewNs = nowNs - this.#nowNs - (this.#denominator === 1 ? insnsDelta * this.#numerator : Math.floor((insnsDelta * this.#numerator) / this.#denominator));

    // Lengths are looked at last: what they should be is known then.
    const bodyAt = lengthEnd(expected, at + 1);
    let cursor = bodyAt;
    if (domId !== 0) cursor = matchNumber(expected, matchByte(expected, cursor, 8), domId);
    if (vcpuId !== 0) cursor = matchNumber(expected, matchByte(expected, cursor, 16), vcpuId);
    if (insnsDelta !== 0) cursor = matchNumber(expected, matchByte(expected, cursor, 24), insnsDelta);
    if (skewNs !== 0) cursor = matchWritten(expected, matchByte(expected, cursor, 32), writeSigned(scratch, 0, skewNs));
    cursor = matchNumber(expected, cursor, ((kind + BODY_FIELD_OFFSET) << 3) | 2);
    if (cursor < 0) return -1;
    const lengthAt = cursor;
    const fieldsAt = lengthEnd(expected, lengthAt);
    cursor = matchFields(expected, fieldsAt, plan, values);
    if (bytes !== undefined && bytes.length > 0) cursor = HAS_BYTES[kind] === 1 ? matchBytes(expected, cursor, bytes) : -1;
    if (cursor < 0 || matchNumber(expected, lengthAt, cursor - fieldsAt) !== fieldsAt || matchNumber(expected, at + 1, cursor - bodyAt) !== bodyAt) return -1;

    if (slot === undefined) {
      slot = { domId, vcpuId, retired };
      this.#slots.set(slotKey(domId, vcpuId), slot);
    } else slot.retired = retired;
    this.#slot = slot;
    this.#nowNs = nowNs;
    return cursor;
  }
}

const slotKey = (domId: number, vcpuId: number): number => domId * 0x1_0000 + vcpuId;

// Each takes a position, or -1 from the one before it, and gives the next.

const matchByte = (expected: Uint8Array, at: number, byte: number): number => (at >= 0 && expected[at] === byte ? at + 1 : -1);

/** An unsigned number. */
function matchNumber(expected: Uint8Array, at: number, value: number): number {
  if (at < 0) return -1;
  // Not -0, and no fraction.
  if (value < 0x80 && (value & 0x7f) === value) return expected[at] === value ? at + 1 : -1;
  return matchWritten(expected, at, writeUnsigned(scratch, 0, value));
}

/** The first `length` bytes of the scratch. */
function matchWritten(expected: Uint8Array, at: number, length: number): number {
  if (at < 0) return -1;
  for (let i = 0; i < length; i++) if (expected[at + i] !== scratch[i]) return -1;
  return at + length;
}

function matchFields(expected: Uint8Array, from: number, plan: Int32Array, values: readonly number[]): number {
  const count = values.length;
  let at = from;
  let value = 0;
  for (let step = 0; step < plan.length && value < count && at >= 0; step++) {
    const field = plan[step] as number;
    const lo = values[value++] as number;
    if (field < 0x200) {
      if (lo === 0) continue;
      if (expected[at] !== (field & 0xff)) return -1;
      at = field >= 0x100 ? matchWritten(expected, at + 1, writeSigned(scratch, 0, lo)) : matchNumber(expected, at + 1, lo);
    } else {
      const hi = values[value++] as number;
      if (lo === 0 && hi === 0) continue;
      if (expected[at] !== (field & 0xff)) return -1;
      at = field < 0x300 && hi === 0 ? matchNumber(expected, at + 1, lo >>> 0) : matchWritten(expected, at + 1, field >= 0x300 ? writeSignedHalves(scratch, 0, lo, hi) : writeVarint64(scratch, 0, lo, hi));
    }
  }
  return value === count ? at : -1;
}

function matchBytes(expected: Uint8Array, from: number, bytes: Uint8Array): number {
  const at = matchWritten(expected, matchByte(expected, from, BYTES_TAG), writeVarint32(scratch, 0, bytes.length));
  if (at < 0) return -1;
  for (let i = 0; i < bytes.length; i++) if (expected[at + i] !== bytes[i]) return -1;
  return at + bytes.length;
}

/** Behind the length that stands there, whatever it is. */
function lengthEnd(expected: Uint8Array, at: number): number {
  let end = at;
  while (end < at + MAX_VARINT_BYTES && (expected[end] as number) >= 0x80) end++;
  return end + 1;
}
