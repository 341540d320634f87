// Chunks to a recording, front to back, never going back. It may run beside the simulation (inline)
// or in a worker thread (node/recording-worker.ts): it takes only plain data and gives only bytes.
//
// Not here: files and segments (the ByteSink's business), events (the encoder's).
import { EVENT_VOCABULARY } from '../abi/events.ts';
import { ENGINE_REVISION } from '../abi/revision.ts';
import { assert } from '../base/assert.ts';
import type { Codec, Compression } from './codec.ts';
import { fflateCodec } from './codec.ts';
import { toColumns } from './columns.ts';
import { EventsDigest, recordingDigest } from './digest.ts';
import type { ChunkSink, RawChunk } from './event-encoder.ts';
import { encodeMessage, framePacket, type BodyName, type Named, type RunEnd, type StateDigest, type World } from './packets.ts';
import { writeVarint32 } from '../base/varint.ts';
import { FORMAT_VERSION, MAGIC } from './schema.ts';

/** Takes the file's bytes, whole packets at a time. */
export interface ByteSink {
  write(packet: Uint8Array): void;
  /**
   * Asked after each packet: is this file full? Then the sink has opened the next one and gives its
   * number (1 for FILE.001), and the writer begins it with a Segment packet.
   */
  nextSegment?(): number | undefined;
}

/** Collects the bytes in memory: tests, browsers, small recordings. */
export class MemorySink implements ByteSink {
  readonly packets: Uint8Array[] = [];
  write(packet: Uint8Array): void {
    this.packets.push(packet);
  }
  bytes(): Uint8Array {
    const all = new Uint8Array(this.packets.reduce((sum, packet) => sum + packet.length, 0));
    let at = 0;
    for (const packet of this.packets) {
      all.set(packet, at);
      at += packet.length;
    }
    return all;
  }
}

/** What a finished recording comes to. */
export interface RecordingTotals {
  readonly events: number;
  readonly bytes: number;
  readonly rawBytes: number;
  readonly digest: Uint8Array;
}

export interface WriterOptions {
  readonly world: World;
  /** Remarks (command line, package version): kept, but not part of the digest. */
  readonly info?: readonly Named[];
  readonly compression?: Compression;
  readonly codec?: Codec;
  /** Take the time to compress well: nothing waits. */
  readonly small?: boolean;
  readonly engineRevision?: number;
  readonly eventVocabulary?: number;
  /** World as another recording holds it: for rewriting one without changing its digest. */
  readonly worldBytes?: Uint8Array;
}

/** Of a RecordingWriter between two packets. */
export interface WriterState {
  readonly digest: Uint8Array;
  readonly places: readonly { offset: number; firstEvent: number; eventsDigest: Uint8Array }[];
  readonly stateDigestOffsets: readonly number[];
  readonly offset: number;
  readonly headerCrc32c: number;
  readonly events: number;
  readonly rawBytes: number;
  readonly lastStateDigestAt: number;
}

const PAYLOAD_TAG = { columns: (13 << 3) | 2, deflated: (14 << 3) | 2, events: (15 << 3) | 2 };

/** A byte field: tag, length, then the bytes themselves as the next part. */
function fieldHead(tag: number, length: number): Uint8Array {
  const head = new Uint8Array(8);
  return head.subarray(0, writeVarint32(head, writeVarint32(head, 0, tag), length));
}

export class RecordingWriter implements ChunkSink {
  readonly #sink: ByteSink;
  readonly #compression: Compression;
  readonly #codec: Codec;
  readonly #small: boolean;
  readonly #world: Uint8Array;
  readonly #digest: EventsDigest;
  readonly #places: { offset: number; firstEvent: number; eventsDigest: Uint8Array }[];
  readonly #stateDigestOffsets: number[];
  #offset = 0;
  #headerCrc32c = 0;
  #events = 0;
  #rawBytes = 0;
  #lastStateDigestAt = 0;
  #finished = false;

  /** Writes the header at once; with `resume` goes on where another writer of the same options stopped. */
  constructor(sink: ByteSink, options: WriterOptions, resume?: WriterState) {
    this.#sink = sink;
    this.#compression = options.compression ?? 'deflate';
    this.#codec = options.codec ?? fflateCodec;
    this.#small = options.small === true;
    this.#world = options.worldBytes ?? encodeMessage('World', options.world);
    this.#digest = new EventsDigest(resume?.digest);
    this.#places = [...(resume?.places ?? [])];
    this.#stateDigestOffsets = [...(resume?.stateDigestOffsets ?? [])];
    if (resume !== undefined) {
      ({ offset: this.#offset, headerCrc32c: this.#headerCrc32c, events: this.#events, rawBytes: this.#rawBytes, lastStateDigestAt: this.#lastStateDigestAt } = resume);
      return;
    }
    const head = encodeMessage('Header', { magic: MAGIC, formatVersion: FORMAT_VERSION, engineRevision: options.engineRevision ?? ENGINE_REVISION });
    const info = encodeMessage('Header', { info: options.info ?? [], eventVocabulary: options.eventVocabulary ?? EVENT_VOCABULARY });
    this.#write('header', [head, fieldHead((4 << 3) | 2, this.#world.length), this.#world, info]);
  }

  /** What another writer needs to go on: plain data, for another thread. */
  save(): WriterState {
    return {
      digest: this.#digest.save(), places: this.#places, stateDigestOffsets: this.#stateDigestOffsets,
      offset: this.#offset, headerCrc32c: this.#headerCrc32c, events: this.#events, rawBytes: this.#rawBytes, lastStateDigestAt: this.#lastStateDigestAt,
    };
  }

  chunk(chunk: RawChunk): void {
    assert(!this.#finished, 'a chunk came after the recording was finished');
    assert(chunk.firstEvent === this.#events, `chunk begins at event ${chunk.firstEvent}, not ${this.#events}`);
    assert(chunk.eventCount > 0, 'an empty chunk came');
    this.#events += chunk.eventCount;
    this.#rawBytes += chunk.bytes.length;
    const eventsDigest = this.#digest.add(chunk.bytes);
    this.#places.push({ offset: this.#offset, firstEvent: chunk.firstEvent, eventsDigest });
    const deflate = this.#compression === 'deflate';
    // A short recording is one chunk, and its size is all there is; in a long one nobody notices.
    const small = this.#small || chunk.firstEvent === 0;
    const columns = deflate && small ? toColumns(chunk.bytes) : undefined;
    const head = encodeMessage('Chunk', {
      firstEvent: chunk.firstEvent,
      eventCount: chunk.eventCount,
      nowNs: chunk.nowNs,
      vcpus: chunk.vcpus.map(({ domId, vcpuId, retired }) => ({ domain: domId, vcpu: vcpuId, retired })),
      landmarks: chunk.landmarks,
      rawBytes: chunk.bytes.length,
      eventsDigest,
      columnBytes: columns?.length ?? 0,
    });
    const payload = deflate ? this.#codec.deflate(columns ?? chunk.bytes, small) : chunk.bytes;
    const form = columns !== undefined ? 'columns' : deflate ? 'deflated' : 'events';
    this.#write('chunk', [head, fieldHead(PAYLOAD_TAG[form], payload.length), payload]);
  }

  /** What the state hashed to after `digest.atEvent` events; those may still be in the encoder. */
  stateDigest(digest: StateDigest): void {
    assert(digest.atEvent >= this.#lastStateDigestAt, `state digest at event ${digest.atEvent} after one at ${this.#lastStateDigestAt}`);
    this.#lastStateDigestAt = digest.atEvent;
    this.#stateDigestOffsets.push(this.#offset);
    this.#write('stateDigest', [encodeMessage('StateDigest', digest)]);
  }

  /** Embeds an image that the header names by this hash. */
  image(hash: Uint8Array, bytes: Uint8Array): void {
    const head = encodeMessage('Image', { blake3: hash });
    const deflated = this.#compression === 'deflate' ? this.#codec.deflate(bytes, this.#small) : undefined;
    const smaller = deflated !== undefined && deflated.length < bytes.length;
    const payload = smaller ? deflated : bytes;
    this.#write('image', [head, fieldHead(((smaller ? 3 : 2) << 3) | 2, payload.length), payload]);
  }

  /** Writes index and trailer. Nothing may follow. */
  finish(end: RunEnd): RecordingTotals {
    assert(!this.#finished, 'the recording is finished twice');
    const digest = recordingDigest(this.#world, this.#digest.last);
    const indexOffset = this.#offset;
    this.#write('index', [encodeMessage('Index', { chunks: this.#places, stateDigestOffsets: this.#stateDigestOffsets })]);
    this.#write('trailer', [encodeMessage('Trailer', { ...end, events: this.#events, digest, indexOffset })]);
    this.#finished = true;
    return { events: this.#events, bytes: this.#offset, rawBytes: this.#rawBytes, digest };
  }

  #write(body: BodyName, parts: readonly Uint8Array[]): void {
    const packet = framePacket(body, parts);
    if (body === 'header') this.#headerCrc32c = new DataView(packet.buffer).getUint32(packet.length - 4, true);
    this.#sink.write(packet);
    this.#offset += packet.length;
    const segment = body === 'trailer' ? undefined : this.#sink.nextSegment?.();
    if (segment !== undefined) this.#write('segment', [encodeMessage('Segment', { number: segment, headerCrc32c: this.#headerCrc32c })]);
  }
}
