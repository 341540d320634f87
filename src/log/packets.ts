// Packets in the file: how one is framed and guarded, and the plain objects that stand for the
// packets' bodies. On disk:
//
//   0a  length  | body (tag, length, message) | 75 size_bytes | 7d crc32c |
//   '-- covered by crc32c -----------------------------------'
//
// Every packet ends in the same ten bytes, so that a file can be walked from either end.
import type protobuf from 'protobufjs';
import { assert } from '../base/assert.ts';
import { crc32c } from '../base/crc.ts';
import { readVarint, varint, writeVarint32 } from '../base/varint.ts';
import { messageType } from './schema.ts';

export const PACKET_TAG = (1 << 3) | 2;
const SIZE_TAG = (14 << 3) | 5;
const CRC_TAG = (15 << 3) | 5;
export const TAIL_BYTES = 10;
/** No packet is longer: a bigger length is damage. Images are the biggest packets. */
export const MAX_PACKET_BYTES = 1 << 30;

export const BODY = { header: 1, chunk: 2, stateDigest: 3, image: 4, index: 5, trailer: 6, segment: 7 } as const;
export type BodyName = keyof typeof BODY;
const BODY_NAMES = new Map<number, BodyName>(Object.entries(BODY).map(([name, field]) => [field, name as BodyName]));

export interface Named {
  readonly name: string;
  readonly value: string;
}
export interface ImageRef {
  readonly name: string;
  readonly sizeBytes: number;
  readonly blake3: Uint8Array;
}
/** What decides the events, apart from inputs: see World in the schema. */
export interface World {
  readonly scenario: string;
  readonly options: readonly Named[];
  readonly seed: string;
  readonly images: readonly ImageRef[];
  readonly nsPerInsnNumerator: number;
  readonly nsPerInsnDenominator: number;
  readonly parentDigest?: Uint8Array;
  readonly parentEvents?: number;
}
export interface ChunkHead {
  readonly firstEvent: number;
  readonly eventCount: number;
  readonly nowNs: number;
  readonly vcpus: readonly { readonly domain: number; readonly vcpu: number; readonly retired: number }[];
  readonly landmarks: readonly number[];
  readonly rawBytes: number;
  readonly eventsDigest: Uint8Array;
  /** 0: the payload is not in columns. */
  readonly columnBytes: number;
}
export interface StateDigest {
  /** So many events had happened. */
  readonly atEvent: number;
  readonly parts: readonly { readonly name: string; readonly digest: Uint8Array }[];
}
export interface IndexBody {
  readonly chunks: readonly { readonly offset: number; readonly firstEvent: number; readonly eventsDigest: Uint8Array }[];
  readonly stateDigestOffsets: readonly number[];
}
/** How the recorded run ended. */
export interface RunEnd {
  readonly instructions: number;
  readonly virtualTimeNs: number;
  /** One word, as in the summary of `record`: shutdown, crashed, limit, ... */
  readonly outcome: string;
  readonly outcomeText: string;
}
export interface Trailer extends RunEnd {
  readonly events: number;
  readonly digest: Uint8Array;
  readonly indexOffset: number;
}

/** Encodes a message of the schema; absent and zero fields are left out. */
export function encodeMessage(name: string, fields: object): Uint8Array {
  const type = messageType(name);
  return type.encode(type.fromObject(fields)).finish();
}

const PLAIN: protobuf.IConversionOptions = { longs: Number, defaults: true, arrays: true };
/** Decodes a message into a plain object with all fields; undefined if the bytes are no such message. */
export function decodeMessage<T>(name: string, bytes: Uint8Array): T | undefined {
  const type = messageType(name);
  try {
    return type.toObject(type.decode(bytes), PLAIN) as T;
  } catch (error) {
    // protobufjs throws RangeError past the end, ProtocolError or plain Error on bad wire types.
    if (error instanceof Error) return undefined;
    throw error;
  }
}

/** The bytes of one packet; `parts` joined are the body's message. */
export function framePacket(body: BodyName, parts: readonly Uint8Array[]): Uint8Array {
  const bodyBytes = parts.reduce((sum, part) => sum + part.length, 0);
  const head = new Uint8Array(16);
  const contentHeadEnd = writeVarint32(head, writeVarint32(head, 0, (BODY[body] << 3) | 2), bodyBytes);
  const contentBytes = contentHeadEnd + bodyBytes + TAIL_BYTES;
  const frame = new Uint8Array(8);
  frame[0] = PACKET_TAG;
  const frameEnd = writeVarint32(frame, 1, contentBytes);
  const packet = new Uint8Array(frameEnd + contentBytes);
  assert(packet.length <= MAX_PACKET_BYTES, `a packet of ${packet.length} bytes cannot be written`);
  packet.set(frame.subarray(0, frameEnd));
  packet.set(head.subarray(0, contentHeadEnd), frameEnd);
  let at = frameEnd + contentHeadEnd;
  for (const part of parts) {
    packet.set(part, at);
    at += part.length;
  }
  const view = new DataView(packet.buffer);
  packet[at] = SIZE_TAG;
  view.setUint32(at + 1, packet.length, true);
  packet[at + 5] = CRC_TAG;
  view.setUint32(at + 6, crc32c(packet, 0, at + 5), true);
  return packet;
}

/** The total size of the packet that begins with these bytes; undefined: too few bytes; 0: not a packet. */
export function packetSize(start: Uint8Array): number | undefined {
  if (start.length === 0) return undefined;
  if (start[0] !== PACKET_TAG) return 0;
  const at = readVarint(start, 1, Math.min(start.length, 6));
  if (at < 0) return start.length < 6 ? undefined : 0;
  const size = at + varint.lo;
  return varint.hi !== 0 || varint.lo < TAIL_BYTES + 2 || size > MAX_PACKET_BYTES ? 0 : size;
}

/** The last packet's size, from the file's last ten bytes; 0 if they are no packet's end. */
export function packetSizeFromTail(tail: Uint8Array): number {
  if (tail.length !== TAIL_BYTES || tail[0] !== SIZE_TAG || tail[5] !== CRC_TAG) return 0;
  return new DataView(tail.buffer, tail.byteOffset).getUint32(1, true);
}

export interface OpenPacket {
  readonly body: BodyName;
  /** The body's message. */
  readonly message: Uint8Array;
  readonly crc32c: number;
}

/** Checks one whole packet and opens it; undefined if it is damaged. */
export function openPacket(packet: Uint8Array): OpenPacket | undefined {
  const tailAt = packet.length - TAIL_BYTES;
  if (tailAt < 0 || packetSize(packet.subarray(0, 6)) !== packet.length) return undefined;
  if (packetSizeFromTail(packet.subarray(tailAt)) !== packet.length) return undefined;
  const crc = new DataView(packet.buffer, packet.byteOffset).getUint32(packet.length - 4, true);
  if (crc32c(packet, 0, tailAt + 5) !== crc) return undefined;
  let at = readVarint(packet, 1, tailAt);
  at = readVarint(packet, at, tailAt);
  const body = at < 0 || (varint.lo & 7) !== 2 ? undefined : BODY_NAMES.get(varint.lo >>> 3);
  if (body === undefined) return undefined;
  at = readVarint(packet, at, tailAt);
  if (at < 0 || at + varint.lo !== tailAt) return undefined;
  return { body, message: packet.subarray(at, tailAt), crc32c: crc };
}
