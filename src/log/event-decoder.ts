// Protobuf bytes back to events, by the same rows. A damaged chunk never gets here (its packet has
// a CRC), but nothing relies on that: bytes that no encoder writes are refused by a value.
//
// Two views: a `DecodedEvent` has the numbers as they were handed to the encoder, for replay and
// comparison; `eventJson` gives them names, as protobuf's JSON form of the message Event does.
import { BODY_FIELD_OFFSET, BYTES_FIELD_NUMBER, eventRow, type EventField, type EventRow } from '../abi/events.ts';
import { assert, unreachable } from '../base/assert.ts';
import { readVarint, unzigzag, varint, varintSigned, varintUnsigned } from '../base/varint.ts';

export interface DecodedEvent {
  readonly domId: number;
  readonly vcpuId: number;
  readonly insnsDelta: number;
  readonly timeSkewNs: number;
  readonly kind: number;
  /** In the order of the row, u64 and s64 as two halves; all fields are there. */
  readonly values: readonly number[];
  readonly bytes: Uint8Array | undefined;
}

const EVENT_TAG = (1 << 3) | 2;
const BYTES_TAG = (BYTES_FIELD_NUMBER << 3) | 2;

/**
 * Where the event at `at` ends, and where its body begins (`eventBodyStart`); -1 if there is no
 * whole event there.
 */
export function eventEnd(raw: Uint8Array, at: number): number {
  if (at >= raw.length || raw[at] !== EVENT_TAG) return -1;
  const from = readVarint(raw, at + 1, raw.length);
  if (from < 0 || varint.hi !== 0 || varint.lo > raw.length - from) return -1;
  return from + varint.lo;
}

/** The kind of the event at `at` without decoding the rest; 0 if it has none. */
export function eventKind(raw: Uint8Array, at: number): number {
  const end = eventEnd(raw, at);
  if (end < 0) return 0;
  let cursor = readVarint(raw, at + 1, end);
  while (cursor >= 0 && cursor < end) {
    cursor = readVarint(raw, cursor, end);
    if (cursor < 0) return 0;
    if ((varint.lo & 7) === 2) return (varint.lo >>> 3) - BODY_FIELD_OFFSET;
    cursor = readVarint(raw, cursor, end);
  }
  return 0;
}

/** The event at `at`, or undefined if these bytes are not one that the encoder would write. */
export function decodeEvent(raw: Uint8Array, at: number): DecodedEvent | undefined {
  const end = eventEnd(raw, at);
  if (end < 0) return undefined;
  let cursor = readVarint(raw, at + 1, end);
  let domId = 0;
  let vcpuId = 0;
  let insnsDelta = 0;
  let timeSkewNs = 0;
  let previousField = 0;
  while (cursor < end) {
    cursor = readVarint(raw, cursor, end);
    if (cursor < 0) return undefined;
    const tag = varint.lo;
    const field = tag >>> 3;
    if (field <= previousField) return undefined;
    previousField = field;
    cursor = readVarint(raw, cursor, end);
    if (cursor < 0) return undefined;
    if (field > BODY_FIELD_OFFSET) {
      const row = eventRow(field - BODY_FIELD_OFFSET);
      if (row === undefined || (tag & 7) !== 2 || cursor + varint.lo !== end) return undefined;
      const values: number[] = [];
      const bytes = decodeBody(row, raw, cursor, end, values);
      return bytes === null ? undefined : { domId, vcpuId, insnsDelta, timeSkewNs, kind: row.kind, values, bytes };
    }
    if ((tag & 7) !== 0) return undefined;
    if (field === 1) domId = varintUnsigned();
    else if (field === 2) vcpuId = varintUnsigned();
    else if (field === 3) insnsDelta = varintUnsigned();
    else {
      unzigzag();
      timeSkewNs = varintSigned();
    }
  }
  return undefined;
}

const isWide = (field: EventField): boolean => field.type === 'u64' || field.type === 's64';

/** Fills `values` and returns the byte string; null if the body is not one that the encoder would write. */
function decodeBody(row: EventRow, raw: Uint8Array, from: number, end: number, values: number[]): Uint8Array | undefined | null {
  const { fields } = row;
  let next = 0;
  let cursor = from;
  let bytes: Uint8Array | undefined;
  while (cursor < end) {
    const tag = raw[cursor] as number;
    const index = (tag >>> 3) - 1;
    cursor = readVarint(raw, cursor + 1, end);
    if (cursor < 0) return null;
    if (tag === BYTES_TAG && row.bytes !== undefined) {
      if (varint.hi !== 0 || cursor + varint.lo !== end) return null;
      bytes = raw.subarray(cursor, end);
      break;
    }
    const field = fields[index];
    if (field === undefined || (tag & 7) !== 0 || index < next) return null;
    for (; next < index; next++) pushZero(fields[next] as EventField, values);
    next = index + 1;
    switch (field.type) {
      case 'uint':
        values.push(varintUnsigned());
        break;
      case 'sint':
        unzigzag();
        values.push(varintSigned());
        break;
      case 's64':
        unzigzag();
        values.push(varint.lo, varint.hi);
        break;
      case 'u64':
        values.push(varint.lo, varint.hi);
        break;
      default:
        unreachable(field.type);
    }
  }
  for (; next < fields.length; next++) pushZero(fields[next] as EventField, values);
  return bytes;
}

function pushZero(field: EventField, values: number[]): void {
  values.push(0);
  if (isWide(field)) values.push(0);
}

export type JsonValue = number | string | { readonly [name: string]: JsonValue };

/** 64-bit numbers as protobuf's JSON form takes them: a number if it is exact, else a decimal string. */
const jsonNumber = (value: bigint): number | string => (value >= -9007199254740991n && value <= 9007199254740991n ? Number(value) : value.toString());

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
export function bytesToBase64(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 3) {
    const group = ((bytes[at] as number) << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    const left = bytes.length - at;
    text += (BASE64[group >>> 18] as string) + (BASE64[(group >>> 12) & 63] as string) + (left > 1 ? (BASE64[(group >>> 6) & 63] as string) : '=') + (left > 2 ? (BASE64[group & 63] as string) : '=');
  }
  return text;
}

/** The event in protobuf's JSON form of the message Event: zeros left out, bytes in base64. */
export function eventJson(event: DecodedEvent): { readonly [name: string]: JsonValue } {
  const row = eventRow(event.kind);
  assert(row !== undefined, `event kind ${event.kind} has no row`);
  const body: Record<string, JsonValue> = {};
  let value = 0;
  for (const field of row.fields) {
    const lo = event.values[value++] as number;
    if (field.type === 'uint' || field.type === 'sint') {
      if (lo !== 0) body[field.name] = Number.isSafeInteger(lo) ? lo : jsonNumber(BigInt(lo));
    } else {
      const bits = (BigInt(event.values[value++] as number) << 32n) | BigInt(lo);
      if (bits !== 0n) body[field.name] = jsonNumber(field.type === 's64' ? BigInt.asIntN(64, bits) : bits);
    }
  }
  if (row.bytes !== undefined && event.bytes !== undefined) body[row.bytes.name] = bytesToBase64(event.bytes);
  const json: Record<string, JsonValue> = {};
  if (event.domId !== 0) json['domain'] = event.domId;
  if (event.vcpuId !== 0) json['vcpu'] = event.vcpuId;
  if (event.insnsDelta !== 0) json['insnsDelta'] = event.insnsDelta;
  if (event.timeSkewNs !== 0) json['timeSkewNs'] = event.timeSkewNs;
  json[row.name] = body;
  return json;
}
