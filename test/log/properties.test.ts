// Round trips as properties, known answers, and constants that must not move: a digest that changes
// here changes for every recording there is.
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { EVENT, EVENT_ROWS, MAX_KIND, eventRow, type EventRow } from '../../src/abi/events.ts';
import { crc32c } from '../../src/base/crc.ts';
import { blake3, bytesToHex, runningHash } from '../../src/base/hash.ts';
import { highHalf, readVarint, unzigzag, varint, varintSigned, varintUnsigned, writeVarint64, writeZigzag64 } from '../../src/base/varint.ts';
import { eventsToChunks } from '../../src/log/batched-encoder.ts';
import { decodeEvent, eventEnd, eventKind } from '../../src/log/event-decoder.ts';
import { EventEncoder, type ChunkSink, type EventEmitter, type RawChunk } from '../../src/log/event-encoder.ts';
import { EventMatcher } from '../../src/log/event-matcher.ts';
import { ReplayEncoder } from '../../src/log/replay-encoder.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { fflateCodec } from '../../src/log/codec.ts';
import { anyEvent, anyU32, play, RUNS, type AnyEvent, type Made } from './any-event.ts';
import { open, recordBytes, storm, WORLD, zoo } from './synthetic.ts';

beforeAll(loadHashes);

const rows: readonly EventRow[] = EVENT_ROWS;

describe('round trips', () => {
  test('events, under any time rate and any chunking', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 40 }), fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 9 }), (events, every, numerator, denominator) => {
        let positions: unknown[] = [];
        const world = { ...WORLD, nsPerInsnNumerator: numerator, nsPerInsnDenominator: denominator };
        const bytes = recordBytes((encoder) => {
          positions = play(events, { emit: (...args) => { encoder.emit(...args); if (encoder.eventCount % every === 0) encoder.endChunk(); } });
        }, { world, compression: 'none' });
        const recording = open(bytes);
        recording.verify();
        const read = [...recording.events()];
        expect(read.map(({ index, retired, nowNs }) => ({ index, retired, nowNs }))).toEqual(positions);
        expect(read.map(({ kind, domId, vcpuId, values, bytes: data }) => ({ kind, domId, vcpuId, values, bytes: [...(data ?? [])] }))).toEqual(
          events.map(({ kind, domId, vcpuId, values, bytes: data }) => ({ kind, domId, vcpuId, values, bytes: [...(data ?? [])] })),
        );
        const replay = new ReplayEncoder(recording);
        play(events, replay);
        expect(replay.finish()).toBeUndefined();
        for (let index = 0; index < events.length; index += 7) expect(recording.eventAt(index)).toEqual(read[index]);
      }),
      RUNS,
    );
  });

  test('events encoded in batches are those encoded one by one, chunk by chunk', () => {
    const chunksOf = (run: (sink: ChunkSink) => { endChunk(): void }): unknown[] => {
      const chunks: unknown[] = [];
      run({ chunk: (chunk) => void chunks.push({ ...chunk, bytes: bytesToHex(chunk.bytes), vcpus: [...chunk.vcpus], landmarks: [...chunk.landmarks] }) }).endChunk();
      return chunks;
    };
    const rate = { numerator: 3, denominator: 2 };
    const both = (run: (emitter: EventEmitter) => void): void => {
      const one = chunksOf((sink) => {
        const encoder = new EventEncoder(sink, rate);
        run(encoder);
        return encoder;
      });
      const many = chunksOf((sink) => {
        const encoder = eventsToChunks(sink, rate);
        run(encoder);
        return encoder;
      });
      expect(many).toEqual(one);
    };
    fc.assert(fc.property(fc.array(anyEvent, { maxLength: 40 }), (events) => both((emitter) => void play(events, emitter))), RUNS);
    // More than a batch holds, and more than a chunk.
    both((emitter) => zoo({ emit: emitter.emit.bind(emitter), nameNumber: () => 1 }, 3000));
    both((emitter) => storm({ emit: emitter.emit.bind(emitter), nameNumber: () => 1 }, 6000));
  });

  test('halves of 64 bits may be signed: the bytes are those of the same bits unsigned, and the matcher knows them', () => {
    const bytesOf = (values: number[]): Uint8Array => {
      const encoder = new EventEncoder(undefined);
      encoder.emit(EVENT.descriptor, 1, 0, 10, 10, values);
      return encoder.buffer.slice(0, encoder.position);
    };
    fc.assert(fc.property(anyU32, anyU32, (lo, hi) => {
      const unsigned = bytesOf([1, lo, hi, 0]);
      expect(bytesOf([1, lo | 0, hi | 0, 0])).toEqual(unsigned);
      expect(new EventMatcher({ numerator: 1, denominator: 1 }).match(unsigned, 0, EVENT.descriptor, 1, 0, 10, 10, [1, lo | 0, hi | 0, 0], undefined)).toBe(unsigned.length);
    }), RUNS);
  });

  test('a batch refuses what no event is: a count that goes back, too many values, a kind without a row', () => {
    const batched = (...events: Parameters<EventEncoder['emit']>[]): (() => void) => () => {
      const encoder = eventsToChunks({ chunk: () => {} }, { numerator: 1, denominator: 1 });
      for (const event of events) encoder.emit(...event);
      encoder.endChunk();
    };
    expect(batched([EVENT.upcall, 1, 0, 10, 10, [1, 2]], [EVENT.upcall, 1, 0, 9, 10, [1, 2]])).toThrow('d1v0 went back from 10 to 9 retired instructions at event 1');
    expect(batched([EVENT.upcall, 1, 0, 10, 10, [1, 2, 3]])).toThrow('event upcall has room for 2 values, not 3');
    expect(batched([EVENT.upcall, 1, 0, 10, 10, new Array<number>(40).fill(1)])).toThrow('has 40 values');
    expect(batched([MAX_KIND + 1, 1, 0, 10, 10, []])).toThrow('has no row');
    expect(batched([300, 1, 0, 10, 10, []])).toThrow('kind 300');
    expect(batched([EVENT.upcall, 1, 0, 10, 10, [1.5, 2]])).toThrow('1.5 is not an integer');
  });

  test('any change to any event makes a replay diverge at that event', () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 20 }), fc.nat(), anyEvent, (events, where, other) => {
        const at = where % events.length;
        const changed = events.with(at, other);
        const recording = open(recordBytes((encoder) => play(events, encoder), { compression: 'none' }));
        const replay = new ReplayEncoder(recording);
        play(changed, replay);
        const sameEvent = JSON.stringify([events[at], [...(events[at]!.bytes ?? [])]]) === JSON.stringify([other, [...(other.bytes ?? [])]]);
        if (!sameEvent) {
          const plain = (event: AnyEvent): string => JSON.stringify([event.kind, event.domId, event.vcpuId, event.insns, event.waitNs, event.values, [...(event.bytes ?? [])]]);
          if (plain(events[at]!) !== plain(other)) expect(replay.finish()?.index).toBe(at);
        }
      }),
      RUNS,
    );
  });

  test('the matcher says of any event and any bytes what encoding and comparing says', () => {
    const rate = { numerator: 3, denominator: 2 };
    fc.assert(fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 20 }), fc.nat(), fc.integer({ min: 1, max: 255 }), fc.nat(4), (events, where, flip, lost) => {
      const encoder = new EventEncoder(undefined, rate);
      const ends: number[] = [];
      play(events, { emit: (...args) => { encoder.emit(...args); ends.push(encoder.position); } });
      const right = encoder.buffer.slice(0, encoder.position);
      const whole = new EventMatcher(rate);
      const found: number[] = [];
      let at = 0;
      play(events, { emit: (...args) => { at = whole.match(right, at, ...(args as Made)); found.push(at); } });
      expect(found).toEqual(ends);
      // One byte that is another, or the last ones missing.
      const spoiled = lost > 0 ? right.slice(0, Math.max(0, right.length - lost)) : right.map((byte, index) => (index === where % right.length ? byte ^ flip : byte));
      const firstWrong = lost > 0 ? spoiled.length : where % right.length;
      const first = ends.findIndex((end) => end > firstWrong);
      const matcher = new EventMatcher(rate);
      at = 0;
      let index = 0;
      play(events, { emit: (...args) => {
        if (index > first) return;
        const end = matcher.match(spoiled, at, ...(args as Made));
        expect(end).toBe(index < first ? ends[index] : -1);
        // A no leaves it where it was.
        if (index === first) expect(matcher.match(right, at, ...(args as Made))).toBe(ends[index]);
        at = end;
        index++;
      } });
    }), RUNS);
  });

  test('64-bit varints, plain and zigzag, as protobuf defines them', () => {
    const buffer = new Uint8Array(16);
    fc.assert(
      fc.property(anyU32, anyU32, (lo, hi) => {
        const value = (BigInt(hi) << 32n) | BigInt(lo);
        let end = writeVarint64(buffer, 0, lo, hi);
        const expected: number[] = [];
        for (let rest = value; ; rest >>= 7n) {
          expected.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
          if (rest <= 127n) break;
        }
        expect([...buffer.subarray(0, end)]).toEqual(expected);
        expect(readVarint(buffer, 0, end)).toBe(end);
        expect([varint.lo, varint.hi]).toEqual([lo, hi]);
        expect(readVarint(buffer, 0, end - 1)).toBe(-1);
        end = writeZigzag64(buffer, 0, lo, hi);
        readVarint(buffer, 0, end);
        const signed = BigInt.asIntN(64, value);
        expect((BigInt(varint.hi) << 32n) | BigInt(varint.lo)).toBe(signed >= 0n ? signed * 2n : -signed * 2n - 1n);
        unzigzag();
        expect([varint.lo, varint.hi]).toEqual([lo, hi]);
      }),
      RUNS,
    );
    fc.assert(fc.property(fc.maxSafeInteger(), (value) => {
      const end = writeZigzag64(buffer, 0, value >>> 0, highHalf(value));
      readVarint(buffer, 0, end);
      unzigzag();
      expect(varintSigned()).toBe(value);
      if (value >= 0) {
        readVarint(buffer, 0, writeVarint64(buffer, 0, value >>> 0, highHalf(value)));
        expect(varintUnsigned()).toBe(value);
      }
    }), RUNS);
  });

  test('random bytes never crash the decoder', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      const framed = Uint8Array.of(10, bytes.length, ...bytes);
      for (const raw of [bytes, framed]) {
        const event = decodeEvent(raw, 0);
        if (event !== undefined) expect(eventKind(raw, 0)).toBe(event.kind);
        expect(eventEnd(raw, 0)).toBeLessThanOrEqual(raw.length);
      }
    }), RUNS);
  });

  test('both compressors read what either wrote, and refuse a wrong size', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 2000 }), fc.boolean(), fc.boolean(), (bytes, swap, small) => {
      const [one, other] = swap ? [zlibCodec(), fflateCodec] : [fflateCodec, zlibCodec()];
      const packed = one.deflate(bytes, small);
      expect([...(other.inflate(packed, bytes.length) ?? [-1])]).toEqual([...bytes]);
      expect(other.inflate(packed, bytes.length + 1)).toBeUndefined();
      if (bytes.length > 0) expect(other.inflate(packed, bytes.length - 1)).toBeUndefined();
    }), { ...RUNS, numRuns: 100 });
  });
});

describe('known answers', () => {
  test('CRC-32C of RFC 3720, whole and in parts', () => {
    const digits = new TextEncoder().encode('123456789');
    expect(crc32c(digits)).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(digits, 4, 9, crc32c(digits, 0, 4))).toBe(0xe3069283);
  });

  test('BLAKE3 of nothing and of its test vectors, running and at once', () => {
    expect(bytesToHex(blake3(new Uint8Array(0)))).toBe('af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262');
    const input = Uint8Array.from({ length: 1025 }, (_, at) => at % 251);
    expect(bytesToHex(blake3(input))).toBe('d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444');
    const [one, two] = [runningHash(), runningHash()];
    one.update(input.subarray(0, 500));
    two.update(new Uint8Array(3));
    one.snapshot();
    one.update(input.subarray(500));
    expect(bytesToHex(one.snapshot())).toBe(bytesToHex(blake3(input)));
  });

  test('the digests of these synthetic runs are for ever', () => {
    const digest = (bytes: Uint8Array): string => bytesToHex(open(bytes).verify()).slice(0, 32);
    expect([digest(recordBytes(() => {})), digest(recordBytes((encoder) => storm(encoder, 3000)))]).toEqual(['a4e0c3d00d636ec6cfcae82e234ea4ba', '57be115d23cc2b59324f6bb70fddb3a7']);
  });

  test('kinds, their names and the order of their fields are for ever', () => {
    const chunks: RawChunk[] = [];
    const encoder = new EventEncoder({ chunk: (chunk) => chunks.push({ ...chunk, bytes: chunk.bytes.slice() }) });
    for (let kind = 1; kind <= MAX_KIND; kind++) if (eventRow(kind) !== undefined) encoder.emit(kind, 1, 0, 0, 0, []);
    encoder.endChunk();
    expect(rows.slice(0, 11).map((row) => `${row.kind} ${row.name}(${row.fields.map((field) => field.name).join(' ')})`)).toEqual([
      '1 hypercall(nr result end a0 a1 a2 a3 a4 a5)', '2 upcall(ip handler)', '3 evtchnSend(port remoteDomId remotePort result)', '4 evtchnPending(port)',
      '5 ptUpdate(how level pteMaddr oldPte newPte result)', '6 choice(name options picked)', '7 exception(vector errorCode ip cr2 handler)', '8 emulated(what ip operand value)',
      '9 multicallEntry(index nr result end a0 a1 a2 a3 a4 a5)', '10 vcpuSwitch()', '11 pageType(mfn from to validated)',
    ]);
    expect(chunks[0]!.eventCount).toBe(rows.length);
  });
});
