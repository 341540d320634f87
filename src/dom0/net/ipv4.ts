// IPv4 as a host speaks it: datagrams out of frames, and frames of a datagram, in fragments if need be.
// Source: RFC 791, 815. Not here: options (skipped), routing.
import { ETHER, ETHERTYPE, ethernetFrame, IP_PROTOCOL, macAt, MTU_BYTES, putU16, putU32, u16At, u32At, type Packet } from './packet.ts';
import { checksumAt, checksumHolds, findTransport, internetChecksum, IPV4_HEADER_BYTES, writeChecksum, writeIpv4HeaderChecksum, type Transport } from './transport.ts';
import { bytesToText, textToBytes } from '../../base/byte-text.ts';

export interface Datagram {
  /** Who the frame came from: the way back. */
  readonly mac: number;
  readonly source: number;
  readonly dest: number;
  readonly protocol: number;
  readonly payload: Uint8Array;
}

const TTL = 64;
const FLAGS = { more: 0x2000, offset: 0x1fff } as const;
/** Payload bytes of a fragment: a multiple of 8. */
const FRAGMENT_BYTES = (MTU_BYTES - IPV4_HEADER_BYTES) & ~7;
const LONGEST_PAYLOAD = 0xffff - IPV4_HEADER_BYTES;

/** Fragments of a datagram that is not whole. */
interface Pieces {
  readonly key: string;
  readonly sinceNs: number;
  /** Ordered by offset, without overlaps. */
  parts: { readonly at: number; readonly bytes: Uint8Array }[];
  /** Known when the last one has come. */
  total: number | undefined;
}
/** So many datagrams are put together at a time, so long (RFC 1122: 60 to 120 s; Linux: 30 s). */
const MOST_PIECES = 16;
const PATIENCE_NS = 30_000_000_000;

export class Ipv4Receiver {
  #pieces: Pieces[] = [];

  /** The datagram of a frame, or of the last of several; undefined if there is none (yet) or it is damaged. */
  take(packet: Packet, nowNs: number): Datagram | undefined {
    const transport = findTransport(packet.bytes);
    if (transport === undefined || transport.version !== 4) return undefined;
    const { bytes } = packet;
    const { ipAt, protocol, at, end } = transport;
    if (ipAt !== ETHER.headerBytes || internetChecksum(bytes, ipAt, at) !== 0) return undefined;
    const datagram: Datagram = { mac: macAt(bytes, ETHER.sourceAt), source: u32At(bytes, ipAt + 12), dest: u32At(bytes, ipAt + 16), protocol, payload: bytes.slice(at, end) };
    if (!transport.isFragment) return packet.checksum === 'none' && !isIntact(bytes, transport) ? undefined : datagram;
    const whole = this.#collect(datagram, u16At(bytes, ipAt + 4), u16At(bytes, ipAt + 6), nowNs);
    return whole === undefined || !isWholeIntact(whole) ? undefined : whole;
  }

  #collect(datagram: Datagram, id: number, field: number, nowNs: number): Datagram | undefined {
    const key = `${datagram.source}>${datagram.dest}/${datagram.protocol}:${id}`;
    this.#pieces = this.#pieces.filter((pieces) => nowNs - pieces.sinceNs < PATIENCE_NS);
    let pieces = this.#pieces.find((candidate) => candidate.key === key);
    if (pieces === undefined) {
      pieces = { key, sinceNs: nowNs, parts: [], total: undefined };
      if (this.#pieces.length >= MOST_PIECES) this.#pieces.shift();
      this.#pieces.push(pieces);
    }
    const forget = (): undefined => void (this.#pieces = this.#pieces.filter((candidate) => candidate !== pieces));
    const at = (field & FLAGS.offset) * 8;
    const { payload } = datagram;
    const isLast = (field & FLAGS.more) === 0;
    if (at + payload.length > LONGEST_PAYLOAD || (!isLast && (payload.length === 0 || payload.length % 8 !== 0))) return forget();
    if (isLast && pieces.total === undefined) pieces.total = at + payload.length;
    const overlaps = pieces.parts.some((part) => at < part.at + part.bytes.length && part.at < at + payload.length);
    const same = pieces.parts.some((part) => part.at === at && part.bytes.length === payload.length);
    // An overlap is an attack or a mistake; Linux drops the whole datagram (a plain repetition only itself).
    if (overlaps && !same) return forget();
    if (!same) pieces.parts = [...pieces.parts, { at, bytes: payload }].sort((a, b) => a.at - b.at);
    const gathered = pieces.parts.reduce((sum, part) => sum + part.bytes.length, 0);
    if (pieces.total === undefined || gathered < pieces.total) return undefined;
    forget();
    const lastPart = pieces.parts.at(-1);
    if (lastPart === undefined || lastPart.at + lastPart.bytes.length !== pieces.total || gathered !== pieces.total) return undefined;
    const whole = new Uint8Array(pieces.total);
    for (const part of pieces.parts) whole.set(part.bytes, part.at);
    return { ...datagram, payload: whole };
  }

  save(): unknown {
    return this.#pieces.map((pieces) => ({ ...pieces, parts: pieces.parts.map((part) => ({ at: part.at, bytes: bytesToText(part.bytes) })), total: pieces.total ?? null }));
  }
  restore(state: unknown): void {
    const saved = state as { key: string; sinceNs: number; parts: { at: number; bytes: string }[]; total: number | null }[];
    this.#pieces = saved.map((pieces) => ({ ...pieces, parts: pieces.parts.map((part) => ({ at: part.at, bytes: textToBytes(part.bytes) })), total: pieces.total ?? undefined }));
  }
}

function isIntact(bytes: Uint8Array, transport: Transport): boolean {
  if (transport.protocol === IP_PROTOCOL.icmp) return internetChecksum(bytes, transport.at, transport.end) === 0;
  const fieldAt = checksumAt(transport);
  return fieldAt === undefined || checksumHolds(bytes, transport, fieldAt);
}

/** Fragments carry one checksum over the whole. */
function isWholeIntact(datagram: Datagram): boolean {
  const { header, transport } = headerFor(datagram, datagram.payload, 0, 0);
  const frame = new Uint8Array(ETHER.headerBytes + IPV4_HEADER_BYTES + datagram.payload.length);
  frame.set(header, ETHER.headerBytes);
  frame.set(datagram.payload, transport.at);
  return isIntact(frame, transport);
}

function headerFor(datagram: Omit<Datagram, 'mac'>, payload: Uint8Array, id: number, field: number): { header: Uint8Array; transport: Transport } {
  const header = new Uint8Array(IPV4_HEADER_BYTES);
  header[0] = 0x45;
  putU16(header, 2, IPV4_HEADER_BYTES + payload.length);
  putU16(header, 4, id);
  putU16(header, 6, field);
  header[8] = TTL;
  header[9] = datagram.protocol;
  putU32(header, 12, datagram.source);
  putU32(header, 16, datagram.dest);
  writeIpv4HeaderChecksum(header, 0);
  const at = ETHER.headerBytes + IPV4_HEADER_BYTES;
  return { header, transport: { version: 4, protocol: datagram.protocol, ipAt: ETHER.headerBytes, at, end: at + payload.length, isFragment: false } };
}

/**
 * The frames of a datagram to `mac`, from `ownMac`; its TCP or UDP checksum is filled in. `id` names
 * the datagram among those under way.
 */
export function datagramFrames(datagram: Datagram, ownMac: number, id: number): Packet[] {
  const { payload, mac } = datagram;
  const whole = new Uint8Array(ETHER.headerBytes + IPV4_HEADER_BYTES + payload.length);
  const { header, transport } = headerFor(datagram, payload, id, 0);
  whole.set(header, ETHER.headerBytes);
  whole.set(payload, transport.at);
  const fieldAt = checksumAt(transport);
  if (fieldAt !== undefined) writeChecksum(whole, transport, fieldAt);
  const frames: Packet[] = [];
  const body = whole.subarray(transport.at);
  for (let from = 0; from < body.length || from === 0; ) {
    const count = body.length <= MTU_BYTES - IPV4_HEADER_BYTES ? body.length : Math.min(FRAGMENT_BYTES, body.length - from);
    const part = body.subarray(from, from + count);
    const more = from + count < body.length ? FLAGS.more : 0;
    const packet = new Uint8Array(IPV4_HEADER_BYTES + count);
    packet.set(headerFor(datagram, part, id, more | (from / 8)).header);
    packet.set(part, IPV4_HEADER_BYTES);
    frames.push({ bytes: ethernetFrame(mac, ownMac, ETHERTYPE.ipv4, packet), checksum: 'none' });
    from += count;
    if (count === 0) break;
  }
  return frames;
}
