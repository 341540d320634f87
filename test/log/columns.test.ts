// Events turned into columns and back: the same bytes, or a clear no.
import { beforeAll, describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { fromColumns, toColumns } from '../../src/log/columns.ts';
import { EventEncoder } from '../../src/log/event-encoder.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { storm, zoo } from './synthetic.ts';

beforeAll(loadHashes);

function eventBytes(run: (encoder: EventEncoder) => void): Uint8Array {
  const parts: Uint8Array[] = [];
  const encoder = new EventEncoder({ chunk: (chunk) => void parts.push(chunk.bytes.slice()) });
  run(encoder);
  encoder.endChunk();
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}
const ZOO = eventBytes((encoder) => zoo(encoder, 4000));

describe('columns', () => {
  test.each([1, 2, 3, 700])('of the first %d events of every kind give them back', (count) => {
    const bytes = eventBytes((encoder) => zoo(encoder, count, `zoo ${count}`));
    expect(fromColumns(toColumns(bytes)!, bytes.length)).toEqual(bytes);
  });

  test('of wild values on several vCPUs give them back', () => {
    expect(Buffer.compare(fromColumns(toColumns(ZOO)!, ZOO.length)!, ZOO)).toBe(0);
  });

  test('of no events are none', () => {
    expect(fromColumns(toColumns(new Uint8Array(0))!, 0)).toEqual(new Uint8Array(0));
  });

  test('compress better than the events in a row', () => {
    const { deflate } = zlibCodec();
    const bytes = eventBytes((encoder) => storm(encoder, 2000));
    expect(deflate(toColumns(bytes)!, true).length).toBeLessThan(deflate(bytes, true).length * 0.9);
  });

  test('are not made of what is no event in canonical form', () => {
    for (const bytes of [[0x0a], [0x0a, 5, 8], [0x0b, 0], [0x0a, 2, 8, 1], [0x0a, 4, 16, 1, 8, 1], [0x0a, 4, 0x2a, 1, 0x0d, 0], [0x0a, 5, 0x2a, 3, 8, 1, 8], [0x0a, 6, 0x2a, 4, 16, 1, 8, 1]]) {
      expect(toColumns(Uint8Array.from(bytes)), String(bytes)).toBeUndefined();
    }
  });

  test('that are damaged give other bytes of the same length at most, and never an error', () => {
    const bytes = ZOO.slice(0, 4000);
    const events = eventBytes((encoder) => zoo(encoder, 60));
    const columns = toColumns(events)!;
    const chance = new PrngStream('columns', 'test');
    for (let run = 0; run < 1000; run++) {
      const damaged = columns.slice(0, chance.below(4) === 0 ? chance.below(columns.length) : columns.length);
      for (let flips = 1 + chance.below(3); flips > 0 && damaged.length > 0; flips--) damaged[chance.below(damaged.length)] = chance.below(256);
      expect([undefined, events.length]).toContain(fromColumns(damaged, events.length)?.length);
      expect(() => fromColumns(bytes.subarray(0, run), run)).not.toThrow();
    }
  });
});
