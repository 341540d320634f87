// The first pass over a recording: packet by packet from the front, each checked against its CRC
// and against the laws in the schema's comments. What remains in memory is one small record per
// chunk, so the length of a recording does not matter.
import { sameBytes } from '../base/hash.ts';
import { readVarint, varint } from '../base/varint.ts';
import { recordingDigest, EventsDigest } from './digest.ts';
import { MAX_PACKET_BYTES, decodeMessage, openPacket, packetSize, packetSizeFromTail, TAIL_BYTES, type ChunkHead, type IndexBody, type Named, type OpenPacket, type StateDigest, type Trailer, type World } from './packets.ts';
import type { ByteSource } from './reader.ts';
import { RecordingError } from './recording-error.ts';
import { FORMAT_VERSION, MAGIC } from './schema.ts';

interface Payload {
  readonly payloadOffset: number;
  readonly payloadBytes: number;
  readonly compressed: boolean;
}
export interface ScannedChunk extends ChunkHead, Payload {
  /** Of the packet. */
  readonly offset: number;
}
export interface ScannedImage extends Payload {
  readonly blake3: Uint8Array;
}
interface HeaderFacts {
  readonly formatVersion: number;
  readonly engineRevision: number;
  readonly eventVocabulary: number;
  readonly world: World;
  /** As they stand in the file: what the digest covers. */
  readonly worldBytes: Uint8Array;
  readonly info: readonly Named[];
}
export interface ScannedRecording extends HeaderFacts {
  readonly chunks: readonly ScannedChunk[];
  readonly images: readonly ScannedImage[];
  readonly stateDigests: readonly StateDigest[];
  readonly trailer: Trailer | undefined;
  /** Where reading stopped: the file's size unless it was cut. */
  readonly endOffset: number;
}

/** A ScannedRecording while it is being read. */
interface Growing extends HeaderFacts {
  readonly chunks: ScannedChunk[];
  readonly images: ScannedImage[];
  readonly stateDigests: StateDigest[];
  trailer: Trailer | undefined;
  endOffset: number;
}
export interface Place {
  readonly source: ByteSource;
  /** Of the packet in the file. */
  readonly offset: number;
  readonly packet: OpenPacket;
  /** Of the body's message in the file. */
  readonly messageOffset: number;
}

export const DAMAGED_ADVICE = 'the recording is damaged or was changed; record it again or fetch a good copy';
const damaged = (place: { source: ByteSource; offset: number }, what: string): RecordingError => new RecordingError('damaged', place.source.name, place.offset, what, DAMAGED_ADVICE);

/** Reads and checks all packets. Throws RecordingError for anything but a file that is merely cut short. */
export function scanPackets(source: ByteSource): ScannedRecording {
  const header = readHeader(source);
  const scanned: Growing = { ...header.facts, chunks: [], images: [], stateDigests: [], trailer: undefined, endOffset: header.size };
  let index: { body: IndexBody; offset: number } | undefined;
  const stateDigestOffsets: number[] = [];
  let offset = header.size;
  while (offset < source.sizeBytes) {
    const place = { source, offset };
    if (scanned.trailer !== undefined) throw damaged(place, 'something follows the end of the recording');
    const size = packetSize(source.read(offset, 6));
    if (size === 0) throw damaged(place, 'a packet does not begin as it should');
    if (size === undefined || offset + size > source.sizeBytes) {
      // Either the end is missing or this length is wrong; a whole trailer at the end tells.
      if (endsInTrailer(source)) throw damaged(place, 'a packet has a wrong length');
      return scanned;
    }
    const bytes = source.read(offset, size);
    const packet = openPacket(bytes);
    if (packet === undefined) throw damaged(place, 'a packet does not match its checksum');
    const at: Place = { source, offset, packet, messageOffset: offset + size - TAIL_BYTES - packet.message.length };
    if (index !== undefined && packet.body !== 'trailer') throw damaged(place, 'something comes between index and trailer');
    switch (packet.body) {
      case 'chunk':
        scanned.chunks.push(readChunk(at, scanned.chunks.at(-1)));
        break;
      case 'stateDigest':
        scanned.stateDigests.push(readStateDigest(at, scanned.stateDigests.at(-1)));
        stateDigestOffsets.push(offset);
        break;
      case 'image':
        scanned.images.push(readImage(at));
        break;
      case 'index':
        index = { body: readIndex(at, scanned.chunks, stateDigestOffsets), offset };
        break;
      case 'trailer':
        scanned.trailer = readTrailer(at, scanned, index?.offset);
        break;
      case 'segment':
        readSegment(at, header.crc32c);
        break;
      case 'header':
        throw damaged(place, 'a second header comes in the middle');
    }
    offset += size;
    scanned.endOffset = offset;
  }
  return scanned;
}

export function readHeader(source: ByteSource): { facts: HeaderFacts; size: number; crc32c: number } {
  const file = source.name;
  const start = source.read(0, 64);
  if (start.length === 0) throw new RecordingError('empty', file, 0, 'the file is empty', 'record it again');
  // The magic stands a few bytes into the file, behind the lengths of packet and header.
  const looksLikeOne = new TextDecoder('latin1').decode(start).indexOf(MAGIC) >= 0;
  const size = packetSize(start.subarray(0, 6));
  if (!looksLikeOne) {
    const cut = start.length < 32 && size !== 0;
    if (cut) throw new RecordingError('truncated', file, start.length, 'the file ends inside its header', 'nothing of it can be used; record it again');
    throw new RecordingError('foreign', file, 0, 'this is not a Rexen recording', 'give a file made by "rexen record"');
  }
  if (size === undefined || size > source.sizeBytes) {
    if (size !== undefined && endsInTrailer(source)) throw damaged({ source, offset: 0 }, 'the header has a wrong length');
    throw new RecordingError('truncated', file, source.sizeBytes, 'the file ends inside its header', 'nothing of it can be used; record it again');
  }
  const packet = size === 0 ? undefined : openPacket(source.read(0, size));
  if (packet === undefined || packet.body !== 'header') throw damaged({ source, offset: 0 }, 'the header does not match its checksum');
  const version = decodeMessage<{ magic: string; formatVersion: number }>('HeaderStart', packet.message);
  if (version === undefined || version.magic !== MAGIC) throw damaged({ source, offset: 0 }, 'the header cannot be decoded');
  if (version.formatVersion > FORMAT_VERSION) {
    throw new RecordingError('newer', file, 0, `the recording has format version ${version.formatVersion}, and this Rexen reads up to ${FORMAT_VERSION}`, 'use a newer Rexen, for example "npx rexen@latest"');
  }
  const header = decodeMessage<{ engineRevision: number; eventVocabulary: number; world: World | null; info: Named[] }>('Header', packet.message);
  const raw = decodeMessage<{ world: Uint8Array }>('HeaderStart', packet.message);
  const world = header?.world;
  if (header === undefined || raw === undefined || world === null || world === undefined) throw damaged({ source, offset: 0 }, 'the header cannot be decoded');
  if (version.formatVersion < 1 || world.nsPerInsnNumerator < 1 || world.nsPerInsnDenominator < 1) throw damaged({ source, offset: 0 }, 'the header holds impossible values');
  return { facts: { formatVersion: version.formatVersion, engineRevision: header.engineRevision, eventVocabulary: header.eventVocabulary, world, worldBytes: raw.world.slice(), info: header.info }, size, crc32c: packet.crc32c };
}

/** Does the file end in a whole, undamaged trailer? */
function endsInTrailer(source: ByteSource): boolean {
  const size = packetSizeFromTail(source.read(Math.max(0, source.sizeBytes - TAIL_BYTES), TAIL_BYTES));
  if (size === 0 || size > source.sizeBytes) return false;
  return openPacket(source.read(source.sizeBytes - size, size))?.body === 'trailer';
}

// -- bodies --------------------------------------------------------------------------------------

/** A message whose last field is one of some byte strings: what stands before it, and where it is. */
function splitPayload(place: Place, fields: { readonly raw: number; readonly deflated: readonly number[] }): (Payload & { readonly field: number; readonly head: Uint8Array }) | undefined {
  const { message } = place.packet;
  let at = 0;
  while (at < message.length) {
    const fieldAt = at;
    at = readVarint(message, at, message.length);
    if (at < 0) return undefined;
    const tag = varint.lo;
    at = readVarint(message, at, message.length);
    if (at < 0) return undefined;
    if ((tag & 7) === 0) continue;
    if ((tag & 7) !== 2) return undefined;
    const end = at + varint.lo;
    const field = tag >>> 3;
    if (field === fields.raw || fields.deflated.includes(field)) {
      if (end !== message.length) return undefined;
      return { field, head: message.subarray(0, fieldAt), payloadOffset: place.messageOffset + at, payloadBytes: varint.lo, compressed: field !== fields.raw };
    }
    at = end;
  }
  return undefined;
}

const COLUMNS_FIELD = 13;
/** Columns are hardly ever longer than the events in a row: what claims to be is damage, and is not waited for. */
const MOST_COLUMN_BYTES = 4;

export function readChunk(place: Place, previous: Pick<ScannedChunk, 'firstEvent' | 'eventCount'> | undefined): ScannedChunk {
  const payload = splitPayload(place, { deflated: [COLUMNS_FIELD, 14], raw: 15 });
  const head = payload && decodeMessage<ChunkHead>('Chunk', payload.head);
  if (payload === undefined || head === undefined) throw damaged(place, 'a chunk cannot be decoded');
  const expected = previous === undefined ? 0 : previous.firstEvent + previous.eventCount;
  if (head.firstEvent !== expected) throw damaged(place, `a chunk begins at event ${head.firstEvent} where ${expected} is next`);
  if (head.eventCount < 1 || head.rawBytes < head.eventCount || head.rawBytes > MAX_PACKET_BYTES) throw damaged(place, `a chunk claims ${head.eventCount} events in ${head.rawBytes} bytes`);
  const inColumns = payload.field === COLUMNS_FIELD;
  if (inColumns !== (head.columnBytes > 0) || head.columnBytes > head.rawBytes * MOST_COLUMN_BYTES) throw damaged(place, `a chunk claims ${head.columnBytes} bytes of columns`);
  if (!payload.compressed && payload.payloadBytes !== head.rawBytes) throw damaged(place, 'a chunk has another size than it claims');
  return {
    firstEvent: head.firstEvent, eventCount: head.eventCount, nowNs: head.nowNs, vcpus: head.vcpus, landmarks: head.landmarks, rawBytes: head.rawBytes,
    eventsDigest: head.eventsDigest.slice(), offset: place.offset, payloadOffset: payload.payloadOffset, payloadBytes: payload.payloadBytes, compressed: payload.compressed, columnBytes: head.columnBytes,
  };
}

function readImage(place: Place): ScannedImage {
  const payload = splitPayload(place, { raw: 2, deflated: [3] });
  const head = payload && decodeMessage<{ blake3: Uint8Array }>('Image', payload.head);
  if (payload === undefined || head === undefined) throw damaged(place, 'an embedded image cannot be decoded');
  return { blake3: head.blake3.slice(), payloadOffset: payload.payloadOffset, payloadBytes: payload.payloadBytes, compressed: payload.compressed };
}

export function readStateDigest(place: Place, previous: StateDigest | undefined): StateDigest {
  const digest = decodeMessage<StateDigest>('StateDigest', place.packet.message);
  if (digest === undefined) throw damaged(place, 'a state digest cannot be decoded');
  if (previous !== undefined && digest.atEvent < previous.atEvent) throw damaged(place, `a state digest at event ${digest.atEvent} follows one at ${previous.atEvent}`);
  return { atEvent: digest.atEvent, parts: digest.parts.map((part) => ({ name: part.name, digest: part.digest.slice() })) };
}

function readIndex(place: Place, chunks: readonly ScannedChunk[], stateDigestOffsets: readonly number[]): IndexBody {
  const index = decodeMessage<IndexBody>('Index', place.packet.message);
  if (index === undefined) throw damaged(place, 'the index cannot be decoded');
  const agrees = index.chunks.length === chunks.length && index.chunks.every((row, at) => row.offset === chunks[at]?.offset && row.firstEvent === chunks[at]?.firstEvent && sameBytes(row.eventsDigest, chunks[at]?.eventsDigest ?? row.eventsDigest.subarray(1)));
  const digestsAgree = index.stateDigestOffsets.length === stateDigestOffsets.length && index.stateDigestOffsets.every((row, at) => row === stateDigestOffsets[at]);
  if (!agrees || !digestsAgree) throw damaged(place, 'the index does not agree with the packets before it');
  return index;
}

function readTrailer(place: Place, scanned: Growing, indexOffset: number | undefined): Trailer {
  const trailer = decodeMessage<Trailer>('Trailer', place.packet.message);
  if (trailer === undefined) throw damaged(place, 'the trailer cannot be decoded');
  const last = scanned.chunks.at(-1);
  const events = last === undefined ? 0 : last.firstEvent + last.eventCount;
  if (trailer.events !== events) throw damaged(place, `the trailer counts ${trailer.events} events where the chunks hold ${events}`);
  if (trailer.indexOffset !== indexOffset) throw damaged(place, 'the trailer names another place for the index');
  const digest = recordingDigest(scanned.worldBytes, last?.eventsDigest ?? new EventsDigest().last);
  if (!sameBytes(trailer.digest, digest)) throw damaged(place, 'the trailer holds another digest than header and events give');
  return { ...trailer, digest: trailer.digest.slice() };
}

function readSegment(place: Place, headerCrc32c: number): void {
  const segment = decodeMessage<{ number: number; headerCrc32c: number }>('Segment', place.packet.message);
  if (segment === undefined) throw damaged(place, 'a segment cannot be decoded');
  if (segment.headerCrc32c !== headerCrc32c) throw new RecordingError('segment', place.source.name, place.offset, `segment ${segment.number} belongs to another recording`, 'put the segments of one recording together (FILE, FILE.001, ...)');
}
