import { beforeAll, describe, expect, test } from 'vitest';
import { bytesToHex } from '../../src/base/hash.ts';
import { decodeEvent, eventEnd, eventJson } from '../../src/log/event-decoder.ts';
import { EventEncoder, EVENTS_PER_CHUNK, type RawChunk } from '../../src/log/event-encoder.ts';
import { RecordingError } from '../../src/log/recording-error.ts';
import { ReplayEncoder } from '../../src/log/replay-encoder.ts';
import { messageType, schemaText } from '../../src/log/schema.ts';
import { positionText } from '../../src/log/reader.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { EVENT } from '../../src/abi/events.ts';
import { open, recordBytes, storm, WORLD, zoo, type Emitter } from './synthetic.ts';

beforeAll(loadHashes);

function chunksOf(run: (encoder: EventEncoder) => void): RawChunk[] {
  const chunks: RawChunk[] = [];
  const encoder = new EventEncoder({ chunk: (chunk) => chunks.push({ ...chunk, bytes: chunk.bytes.slice() }) });
  run(encoder);
  encoder.endChunk();
  return chunks;
}

describe('the encoding of events', () => {
  test('the committed schema is what the rows derive', async () => {
    await expect(schemaText()).toMatchFileSnapshot('../../schemas/rexen.proto');
  });

  test('protobufjs, which knows only the schema, reads every kind of event as our decoder does', () => {
    const type = messageType('Events');
    for (const chunk of chunksOf((encoder) => zoo(encoder, 3000))) {
      const theirs = type.decode(chunk.bytes) as unknown as { event: unknown[] };
      expect(theirs.event.length).toBe(chunk.eventCount);
      let at = 0;
      for (const event of theirs.event) {
        const ours = decodeEvent(chunk.bytes, at);
        expect(ours).toBeDefined();
        at = eventEnd(chunk.bytes, at);
        const plain = messageType('Event').toObject(event as never, { longs: String, bytes: String });
        expect(JSON.parse(JSON.stringify(eventJson(ours!)), (_, value) => (typeof value === 'number' ? String(value) : value))).toEqual(
          JSON.parse(JSON.stringify(plain), (_, value) => (typeof value === 'number' ? String(value) : value)),
        );
      }
    }
  });

  test('what goes in comes out, positions included', () => {
    const emitted: unknown[] = [];
    const bytes = recordBytes((encoder) =>
      zoo({
        emit: (kind, domId, vcpuId, retired, nowNs, values, data) => {
          emitted.push({ index: emitted.length, kind, domId, vcpuId, retired, nowNs, values: values.map((value) => value + 0), bytes: data && data.length > 0 ? [...data] : undefined });
          encoder.emit(kind, domId, vcpuId, retired, nowNs, values, data);
        },
        nameNumber: () => 0,
      }, 20_000));
    const read = [...open(bytes).events()].map(({ index, kind, domId, vcpuId, retired, nowNs, values, bytes: data }) => ({ index, kind, domId, vcpuId, retired, nowNs, values, bytes: data && [...data] }));
    expect(read).toEqual(emitted);
  });

  test('a wild value of a guest is kept as its 64-bit pattern, not refused', () => {
    const [chunk] = chunksOf((encoder) => encoder.emit(EVENT.upcall, 1, 0, 5, 5, [2 ** 60, -(2 ** 62)]));
    expect(eventJson(decodeEvent(chunk!.bytes, 0)!)).toEqual({ domain: 1, insnsDelta: 5, upcall: { ip: '1152921504606846976', handler: '-4611686018427387904' } });
  });

  test('a storm takes less than a byte an event in the file', () => {
    for (const options of [{}, { codec: zlibCodec() }]) {
      const bytes = recordBytes((encoder) => storm(encoder, 10_000), options);
      // Measured 0.7; the target is 4.
      expect(bytes.length / open(bytes).eventCount).toBeLessThan(1);
    }
  });
});

describe('the recording', () => {
  test('its digest does not depend on compression, on where chunks end, or on state digests', () => {
    const digests = [
      recordBytes((encoder) => storm(encoder, 5000)),
      recordBytes((encoder) => storm(encoder, 5000), { compression: 'none' }),
      recordBytes((encoder) => storm(encoder, 5000), { codec: zlibCodec(), info: [{ name: 'command', value: 'x' }], engineRevision: 99 }),
      recordBytes((encoder, writer) => {
        storm({ emit: (...args) => { encoder.emit(...args); if (encoder.eventCount % 1000 === 0) encoder.endChunk(); }, nameNumber: (...args) => encoder.nameNumber(...args) }, 5000);
        writer.stateDigest({ atEvent: 77, parts: [{ name: 'registers', digest: new Uint8Array(32) }] });
      }),
    ].map((bytes) => bytesToHex(open(bytes).verify()));
    expect(new Set(digests).size).toBe(1);
    expect(bytesToHex(open(recordBytes((encoder) => storm(encoder, 5000), { world: { ...WORLD, seed: '2' } })).digest)).not.toBe(digests[0]);
    expect(bytesToHex(open(recordBytes((encoder) => storm(encoder, 5000, 'other'))).digest)).not.toBe(digests[0]);
  });

  test('every multiple of 8192 begins a chunk, whatever was flushed before', () => {
    const recording = open(recordBytes((encoder) => {
      storm({ emit: (...args) => { encoder.emit(...args); if (encoder.eventCount === 5000) encoder.endChunk(); }, nameNumber: (...args) => encoder.nameNumber(...args) }, 9000);
    }));
    expect(recording.chunks.map((chunk) => chunk.firstEvent)).toEqual([0, 5000, EVENTS_PER_CHUNK, 2 * EVENTS_PER_CHUNK, 3 * EVENTS_PER_CHUNK, 4 * EVENTS_PER_CHUNK].filter((first) => first < recording.eventCount));
  });

  test('inputs are found with their positions, without reading the rest', () => {
    const recording = open(recordBytes((encoder) => storm(encoder, 9000)));
    const slow = [...recording.events()].filter((event) => event.kind === EVENT.consoleIn).map(positionText);
    expect(slow.length).toBeGreaterThan(10);
    expect([...recording.inputs()].map(positionText)).toEqual(slow);
    expect(positionText(recording.eventAt(8200)!)).toBe(positionText([...recording.events(8190, 8210)][10]!));
  });

  test('a newer format version, a foreign file and an empty file each get their sentence', () => {
    const newer = recordBytes((encoder) => storm(encoder, 10));
    expect(() => open(new Uint8Array(0))).toThrow(/test\.rxr: the file is empty/);
    expect(() => open(new TextEncoder().encode('#!/bin/sh\necho this is not a recording, it is a shell script that goes on\n'))).toThrow(/not a Rexen recording/);
    expect(newer.length).toBeGreaterThan(0);
  });
});

describe('replay', () => {
  test('the same events match to the end', () => {
    const recording = open(recordBytes((encoder) => storm(encoder, 9000)));
    const replay = new ReplayEncoder(recording);
    storm(replay, 9000);
    expect(replay.finish()).toBeUndefined();
    expect(replay.matchedAll).toBe(true);
  });

  test('the first event that differs is reported at once, both sides decoded', () => {
    const recording = open(recordBytes((encoder) => storm(encoder, 9000)));
    for (const victim of [0, 1, 4711, 8191, 8192, recording.eventCount - 1]) {
      const replay = new ReplayEncoder(recording);
      let noticedAt = -1;
      const hooked = {
        emit: (...[kind, domId, vcpuId, retired, nowNs, values, data]: Parameters<EventEncoder['emit']>): void => {
          const change = replay.eventCount === victim;
          replay.emit(kind, domId, vcpuId, retired, nowNs, change ? [(values[0] ?? 0) + 1, ...values.slice(1)] : values, data);
          if (noticedAt < 0 && replay.divergence !== undefined) noticedAt = replay.eventCount - 1;
        },
        nameNumber: (...args: Parameters<Emitter['nameNumber']>): number => replay.nameNumber(...args),
      };
      storm(hooked, 9000);
      expect(noticedAt).toBe(victim);
      expect(replay.divergence!.index).toBe(victim);
      expect(positionText(replay.divergence!.actual!)).toBe(positionText(replay.divergence!.expected!));
      expect(replay.divergence!.actual!.values).not.toEqual(replay.divergence!.expected!.values);
    }
  });

  test('a replay that stops early, or goes on past the end, has diverged', () => {
    const recording = open(recordBytes((encoder) => storm(encoder, 100)));
    const short = new ReplayEncoder(recording);
    storm(short, 99);
    expect(short.finish()).toMatchObject({ index: short.eventCount, actual: undefined });
    const long = new ReplayEncoder(recording);
    storm(long, 101);
    expect(long.finish()).toMatchObject({ index: recording.eventCount, expected: undefined });
  });

  test('choices are answered from the recording', () => {
    const picks = [2, 0, 1, 1, 2];
    const ask = (emitter: { emit: EventEncoder['emit']; nameNumber: EventEncoder['nameNumber'] }): void => picks.forEach((picked, at) => emitter.emit(EVENT.choice, 1, 0, at, at, [emitter.nameNumber('pick', 1, 0, at, at), 3, picked]));
    const recording = open(recordBytes(ask));
    const replay = new ReplayEncoder(recording);
    expect(picks.map((_, at) => replay.choice('pick', 3, 1, 0, at, at))).toEqual(picks);
    expect(replay.finish()).toBeUndefined();
    const other = new ReplayEncoder(recording);
    expect(other.choice('pick', 3, 1, 0, 0, 0)).toBe(2);
    expect(other.choice('pick', 4, 1, 0, 1, 1)).toBeUndefined();
    expect(other.divergence).toMatchObject({ index: 2, expected: { values: [1, 3, 0] }, actual: { values: [1, 4, 0] } });
  });
});

test('errors about recordings are usage errors that name file, offset and remedy', () => {
  try {
    open(new Uint8Array(100));
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(RecordingError);
    expect((error as RecordingError).message).toBe('test.rxr: this is not a Rexen recording; give a file made by "rexen record"');
  }
});
