// A finished recording opened by its index: header, trailer and index are read and checked, chunks and
// state digests when they are asked for. What a comparison of two long recordings reads of them is then a
// handful of chunks, found by binary search over the index's cumulative digests.
//
//   header ····································· index ◄── trailer ◄── end of the file
//
// A file without a trailer has no index: open it whole (reader.ts). Not checked: what nobody asks for.
import { assert } from '../base/assert.ts';
import { sameBytes } from '../base/hash.ts';
import { fflateCodec } from './codec.ts';
import { recordingDigest, EventsDigest } from './digest.ts';
import { decodeMessage, openPacket, packetSize, packetSizeFromTail, TAIL_BYTES, type ChunkHead, type IndexBody, type OpenPacket, type StateDigest, type Trailer } from './packets.ts';
import { openRecording, Recording, type ByteSource, type ReaderOptions } from './reader.ts';
import { RecordingError } from './recording-error.ts';
import { DAMAGED_ADVICE, readChunk, readHeader, readStateDigest, type Place, type ScannedChunk } from './scan.ts';

/** Counts what is read. */
export class CountedSource implements ByteSource {
  readonly #source: ByteSource;
  bytesRead = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }
  get name(): string {
    return this.#source.name;
  }
  get sizeBytes(): number {
    return this.#source.sizeBytes;
  }
  read(offset: number, length: number): Uint8Array {
    const bytes = this.#source.read(offset, length);
    this.bytesRead += bytes.length;
    return bytes;
  }
}

/** A chunk that is read, and checked, when something of it is wanted that the index does not say. */
class IndexedChunk implements ScannedChunk {
  readonly offset: number;
  readonly firstEvent: number;
  readonly eventCount: number;
  readonly eventsDigest: Uint8Array;
  readonly #read: (chunk: IndexedChunk) => ScannedChunk;
  #whole: ScannedChunk | undefined;

  constructor(row: IndexBody['chunks'][number], nextEvent: number, read: (chunk: IndexedChunk) => ScannedChunk) {
    this.offset = row.offset;
    this.firstEvent = row.firstEvent;
    this.eventCount = nextEvent - row.firstEvent;
    this.eventsDigest = row.eventsDigest.slice();
    this.#read = read;
  }

  get #chunk(): ScannedChunk {
    return (this.#whole ??= this.#read(this));
  }
  get nowNs(): number {
    return this.#chunk.nowNs;
  }
  get vcpus(): ChunkHead['vcpus'] {
    return this.#chunk.vcpus;
  }
  get landmarks(): readonly number[] {
    return this.#chunk.landmarks;
  }
  get rawBytes(): number {
    return this.#chunk.rawBytes;
  }
  get payloadOffset(): number {
    return this.#chunk.payloadOffset;
  }
  get payloadBytes(): number {
    return this.#chunk.payloadBytes;
  }
  get compressed(): boolean {
    return this.#chunk.compressed;
  }
  get columnBytes(): number {
    return this.#chunk.columnBytes;
  }
}

export interface IndexedRecording {
  readonly recording: Recording;
  readonly stateDigestCount: number;
  stateDigest(number: number): StateDigest;
}

/** Throws RecordingError. What has no index is read as a whole. */
export function openIndexed(source: ByteSource, options: ReaderOptions = {}): IndexedRecording {
  const header = readHeader(source);
  const end = trailerOf(source);
  if (end === undefined) {
    const recording = openRecording(source, options);
    return { recording, stateDigestCount: recording.stateDigests.length, stateDigest: (number) => recording.stateDigests[number] as StateDigest };
  }
  const { trailer, index } = end;
  const chunks = index.chunks.map((row, at): ScannedChunk => new IndexedChunk(row, index.chunks[at + 1]?.firstEvent ?? trailer.events, (chunk) => readIndexed(source, chunk)));
  const digest = recordingDigest(header.facts.worldBytes, chunks.at(-1)?.eventsDigest ?? new EventsDigest().last);
  if (!sameBytes(digest, trailer.digest) || chunks.some(({ eventCount }) => eventCount < 1)) throw damaged(source, trailer.indexOffset, 'index, trailer and header do not agree');
  const recording = new Recording(source, { ...header.facts, chunks, images: [], stateDigests: [], trailer, endOffset: source.sizeBytes }, options.codec ?? fflateCodec);
  return {
    recording,
    stateDigestCount: index.stateDigestOffsets.length,
    stateDigest: (number) => {
      const offset = index.stateDigestOffsets[number];
      assert(offset !== undefined, `state digest ${number} of ${index.stateDigestOffsets.length}`);
      return readStateDigest(placeAt(source, offset, 'stateDigest'), undefined);
    },
  };
}

function trailerOf(source: ByteSource): { trailer: Trailer; index: IndexBody } | undefined {
  const size = packetSizeFromTail(source.read(Math.max(0, source.sizeBytes - TAIL_BYTES), TAIL_BYTES));
  if (size === 0 || size > source.sizeBytes) return undefined;
  const packet = openPacket(source.read(source.sizeBytes - size, size));
  if (packet?.body !== 'trailer') return undefined;
  const trailer = decodeMessage<Trailer>('Trailer', packet.message);
  const index = trailer === undefined ? undefined : decodeMessage<IndexBody>('Index', placeAt(source, trailer.indexOffset, 'index').packet.message);
  if (trailer === undefined || index === undefined) throw damaged(source, source.sizeBytes - size, 'the trailer or the index cannot be decoded');
  return { trailer: { ...trailer, digest: trailer.digest.slice() }, index };
}

/** A whole packet, checked. */
function placeAt(source: ByteSource, offset: number, body: OpenPacket['body']): Place {
  const size = packetSize(source.read(offset, 6));
  const packet = size === undefined || size === 0 || offset + size > source.sizeBytes ? undefined : openPacket(source.read(offset, size));
  if (packet === undefined || size === undefined) throw damaged(source, offset, 'a packet does not match its checksum');
  if (packet.body !== body) throw damaged(source, offset, `the index says that a ${body} is here`);
  return { source, offset, packet, messageOffset: offset + size - TAIL_BYTES - packet.message.length };
}

function readIndexed(source: ByteSource, { offset, firstEvent, eventCount, eventsDigest }: ScannedChunk): ScannedChunk {
  const place = placeAt(source, offset, 'chunk');
  const chunk = readChunk(place, firstEvent === 0 ? undefined : { firstEvent, eventCount: 0 });
  if (chunk.eventCount !== eventCount || !sameBytes(chunk.eventsDigest, eventsDigest)) throw damaged(source, offset, 'a chunk is not what the index says');
  return chunk;
}

const damaged = (source: ByteSource, offset: number, what: string): RecordingError => new RecordingError('damaged', source.name, offset, what, DAMAGED_ADVICE);
