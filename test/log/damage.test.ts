// Recordings that are not what they were: cut anywhere, any bit turned over, joined, reordered. What
// must never happen: a reader that finds other events, or other images, and says nothing.
import { beforeAll, describe, expect, test } from 'vitest';
import { EVENT_VOCABULARY } from '../../src/abi/events.ts';
import { blake3, bytesToHex } from '../../src/base/hash.ts';
import { PrngStream } from '../../src/base/prng.ts';
import { encodeMessage, framePacket, packetSize } from '../../src/log/packets.ts';
import { positionText, type Recording } from '../../src/log/reader.ts';
import { RecordingError, type RecordingFault } from '../../src/log/recording-error.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { MAGIC } from '../../src/log/schema.ts';
import { open, recordBytes, storm, WORLD } from './synthetic.ts';

beforeAll(loadHashes);

const LONG = process.env['REXEN_DEPTH'] === 'long';
const IMAGE = new TextEncoder().encode('an image, such as a kernel would be');

/** Small, with every kind of packet, several chunks and an image. */
function sample(compression: 'none' | 'deflate' = 'deflate'): Uint8Array {
  const world = { ...WORLD, images: [{ name: 'kernel', sizeBytes: IMAGE.length, blake3: blake3(IMAGE) }] };
  return recordBytes((encoder, writer) => {
    writer.image(blake3(IMAGE), IMAGE);
    storm({ emit: (...args) => { encoder.emit(...args); if (encoder.eventCount % 50 === 0) encoder.endChunk(); }, nameNumber: (...args) => encoder.nameNumber(...args) }, 40);
    writer.stateDigest({ atEvent: 50, parts: [{ name: 'registers', digest: new Uint8Array(32).fill(5) }] });
  }, { world, compression });
}

/** Everything a reader can learn from a recording that matters to a replay. */
function contents(recording: Recording): string {
  recording.verify();
  const events = [...recording.events()].map((event) => `${positionText(event)} ${event.kind} ${event.values.join(',')} ${event.bytes === undefined ? '' : bytesToHex(event.bytes)}`);
  const images = recording.world.images.map((ref) => { const bytes = recording.image(ref); return bytes && bytesToHex(bytes); });
  return JSON.stringify([recording.world.scenario, recording.world.seed, recording.world.options, recording.stateDigests.map(({ atEvent, parts }) => [atEvent, parts.map((part) => bytesToHex(part.digest))]), recording.trailer?.outcome, images, events]);
}

/** What a reader makes of bytes: their contents if it takes them for whole, or how it refuses. */
function verdict(bytes: Uint8Array): { whole: string } | { refused: RecordingFault } | { cut: number; events: string[] } {
  try {
    const recording = open(bytes);
    const all = contents(recording);
    return recording.truncated ? { cut: recording.eventCount, events: [...recording.events()].map(positionText) } : { whole: all };
  } catch (error) {
    if (!(error instanceof RecordingError)) throw error;
    return { refused: error.fault };
  }
}

describe('a recording that was cut short', () => {
  test.each(['deflate', 'none'] as const)('at any byte reads up to its last whole chunk (%s)', (compression) => {
    const bytes = sample(compression);
    const whole = open(bytes);
    const all = [...whole.events()].map(positionText);
    const ends = whole.chunks.map((chunk) => ({ at: chunk.offset + (packetSize(bytes.subarray(chunk.offset)) ?? 0), events: chunk.firstEvent + chunk.eventCount }));
    const headerBytes = packetSize(bytes) as number;
    for (let size = 0; size < bytes.length; size++) {
      const got = verdict(bytes.slice(0, size));
      if (size < headerBytes) {
        expect(got, `cut at ${size}`).toEqual({ refused: size === 0 ? 'empty' : 'truncated' });
        continue;
      }
      const readable = ends.filter((end) => end.at <= size).at(-1)?.events ?? 0;
      expect(got, `cut at ${size}`).toEqual({ cut: readable, events: all.slice(0, readable) });
    }
    expect(verdict(bytes)).toEqual({ whole: contents(whole) });
  });

  test('and then filled with zeros, as a file system may after a crash, is refused', () => {
    const bytes = sample();
    const chunk = open(bytes).chunks[1]!;
    const zeroed = bytes.slice();
    zeroed.fill(0, chunk.offset);
    expect(verdict(zeroed)).toEqual({ refused: 'damaged' });
  });
});

describe('a recording with one bit turned over', () => {
  const flips = (bytes: Uint8Array): number[] => {
    if (LONG) return Array.from({ length: bytes.length * 8 }, (_, bit) => bit);
    const chance = new PrngStream('flips', 'test');
    return Array.from({ length: 500 }, () => chance.below(bytes.length * 8));
  };

  test.each(['deflate', 'none'] as const)('is refused, or at most taken for a shorter one with the same events (%s)', (compression) => {
    const bytes = sample(compression);
    const all = [...open(bytes).events()].map(positionText);
    const seen = new Map<string, number>();
    for (const bit of flips(bytes)) {
      const flipped = bytes.slice();
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      const got = verdict(flipped);
      expect(got, `bit ${bit}`).not.toHaveProperty('whole');
      if ('cut' in got) expect(got.events, `bit ${bit}`).toEqual(all.slice(0, got.cut));
      const how = 'refused' in got ? got.refused : 'cut';
      seen.set(how, (seen.get(how) ?? 0) + 1);
    }
    // Nearly all must be told as damage; flips in the magic make a file foreign.
    expect(seen.get('damaged') ?? 0).toBeGreaterThan(flips(bytes).length * 0.9);
  });

  test('the checks notice: with the checksum repaired, a changed event is still found by its digest', () => {
    const bytes = sample('none');
    const recording = open(bytes);
    const chunk = recording.chunks[1]!;
    const size = packetSize(bytes.subarray(chunk.offset)) as number;
    const original = bytes.slice(chunk.offset, chunk.offset + size);
    const payloadAt = chunk.payloadOffset - chunk.offset;
    const head = original.subarray(0, payloadAt);
    // The body's message begins after packet tag and length, body tag and length.
    const messageAt = size - 10 - (payloadAt + chunk.payloadBytes - bodyStart(head)) ;
    const message = original.slice(messageAt, size - 10);
    message[message.length - 1] = (message[message.length - 1] as number) ^ 1;
    const forged = new Uint8Array([...bytes.subarray(0, chunk.offset), ...framePacket('chunk', [message]), ...bytes.subarray(chunk.offset + size)]);
    expect(forged.length).toBe(bytes.length);
    expect(() => open(forged)).not.toThrow();
    expect(() => open(forged).verify()).toThrow(/do not have the digest/);
  });
});

/** Offset of the body's message in a packet, from its first bytes. */
function bodyStart(packet: Uint8Array): number {
  let at = 1;
  while ((packet[at++] as number) >= 128);
  at++;
  while ((packet[at++] as number) >= 128);
  return at;
}

describe('a recording put together wrongly', () => {
  const packets = (bytes: Uint8Array): Uint8Array[] => {
    const found: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += found.at(-1)!.length) found.push(bytes.slice(at, at + (packetSize(bytes.subarray(at)) as number)));
    return found;
  };
  const join = (parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]));

  test('each packet on its own is intact, but left out, doubled or swapped it is noticed', () => {
    const all = packets(sample());
    expect(verdict(join(all))).toHaveProperty('whole');
    for (let at = 0; at < all.length; at++) {
      const without = verdict(join(all.toSpliced(at, 1)));
      expect(without, `without ${at}`).toHaveProperty(at === all.length - 1 ? 'cut' : 'refused');
      expect(verdict(join(all.toSpliced(at, 0, all[at]!))), `doubled ${at}`).toHaveProperty('refused');
      if (at + 1 < all.length) expect(verdict(join(all.with(at, all[at + 1]!).with(at + 1, all[at]!))), `swapped ${at}`).toHaveProperty('refused');
    }
    expect(verdict(join([...all, all.at(-1)!]))).toEqual({ refused: 'damaged' });
    expect(verdict(join([...all, ...all]))).toEqual({ refused: 'damaged' });
    expect(verdict(join([...all, Uint8Array.of(10)]))).toEqual({ refused: 'damaged' });
  });

  test('a newer format version is refused in one sentence, whatever else it holds', () => {
    const header = framePacket('header', [encodeMessage('Header', { magic: MAGIC, formatVersion: 2 }), Uint8Array.of(0xfa, 0x07, 1, 0)]);
    expect(() => open(header)).toThrow(/^test\.rxr: the recording has format version 2, and this Rexen reads up to 1; use a newer Rexen/);
  });

  test('an event that a newer Rexen has added is told from damage', () => {
    // Kind 200, which no row here has: field number 204.
    const bytes = Uint8Array.of(10, 4, 0xe2, 0x0c, 1, 0);
    const chunk = { firstEvent: 0, eventCount: 1, nowNs: 0, vcpus: [], landmarks: [], bytes };
    const withVocabulary = (eventVocabulary: number): Recording => open(recordBytes((_, writer) => writer.chunk(chunk), { eventVocabulary }));
    expect(() => withVocabulary(EVENT_VOCABULARY + 3).verify()).toThrow(/event 0 is of a kind that a newer Rexen has added \(at byte \d+\); use a newer Rexen/);
    expect(() => withVocabulary(EVENT_VOCABULARY).verify()).toThrow(/event 0 cannot be decoded/);
  });

  test('other files are foreign, whatever they begin with', () => {
    const chance = new PrngStream('foreign', 'test');
    for (let round = 0; round < 500; round++) {
      const bytes = Uint8Array.from({ length: 1 + chance.below(300) }, () => chance.below(256));
      if (chance.below(2) === 0) bytes[0] = 10;
      const got = verdict(bytes);
      expect(got).toHaveProperty('refused');
      expect(['foreign', 'truncated']).toContain((got as { refused: string }).refused);
      if (bytes.length >= 32) expect(got).toEqual({ refused: 'foreign' });
    }
  });
});
