// A replay whose recording is decoded ahead of it says what it says without: chunks that are there, that are not, and that
// are damaged.
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { ChunkDecoder } from '../../src/log/chunk-decoder.ts';
import { rateOf } from '../../src/log/encoding-writer.ts';
import { EventBatch } from '../../src/log/event-batch.ts';
import { EventEncoder } from '../../src/log/event-encoder.ts';
import type { Recording } from '../../src/log/reader.ts';
import { ReplayEncoder, type DecodedChunks } from '../../src/log/replay-encoder.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { anyEvent, play, RUNS, type Made } from './any-event.ts';
import { open, recordBytes, storm, WORLD } from './synthetic.ts';

beforeAll(loadHashes);

/** The chunks of which `there` says yes, decoded; `served` counts them. */
class Decoded implements DecodedChunks {
  served = 0;
  readonly #decoder: ChunkDecoder;
  readonly #recording: Recording;
  readonly #there: (index: number) => boolean;
  constructor(recording: Recording, there: (index: number) => boolean) {
    this.#recording = recording;
    this.#there = there;
    this.#decoder = new ChunkDecoder(rateOf(recording.world));
  }
  chunk(index: number): EventBatch | undefined {
    if (!this.#there(index)) return undefined;
    const batch = EventBatch.of(8192, 100_000);
    const decoded = this.#decoder.decode(this.#recording.chunkBytes(index), this.#recording.chunks[index]!, batch);
    expect(decoded).toBe(true);
    this.served++;
    return batch;
  }
}

/** All that a replay says on the way and at its end. */
function said(recording: Recording, decoded: DecodedChunks | undefined, run: (replay: ReplayEncoder, emit: EventEncoder['emit']) => void): unknown {
  const replay = new ReplayEncoder(recording, true, decoded);
  const picks: unknown[] = [];
  run(replay, (...args) => {
    if (args[0] === EVENT.choice || args[0] === EVENT.nameDefined) picks.push(replay.peekChoice());
    replay.emit(...args);
  });
  const divergence = replay.finish();
  return { divergence, picks, pastEnd: replay.pastEnd, matchedAll: replay.matchedAll, eventCount: replay.eventCount };
}

test('of any events, changed anywhere, in chunks of any size of which any are decoded', () => {
  fc.assert(fc.property(
    fc.array(anyEvent, { minLength: 1, maxLength: 30 }), fc.option(fc.tuple(fc.nat(), anyEvent), { nil: undefined }), fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 9 }), fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }), fc.integer({ min: -2, max: 2 }),
    (events, change, every, numerator, denominator, there, more) => {
      const world = { ...WORLD, nsPerInsnNumerator: numerator, nsPerInsnDenominator: denominator };
      const recording = open(recordBytes((encoder) => void play(events, { emit: (...args) => { encoder.emit(...args); if (encoder.eventCount % every === 0) encoder.endChunk(); } }), { world, compression: 'none' }));
      const made = change === undefined ? events : events.with(change[0] % events.length, change[1]);
      const played = more < 0 ? made.slice(0, Math.max(0, made.length + more)) : [...made, ...made.slice(0, more)];
      const run = (_replay: ReplayEncoder, emit: EventEncoder['emit']): void => void play(played, { emit });
      expect(said(recording, new Decoded(recording, (index) => there[index] === true), run)).toEqual(said(recording, undefined, run));
    }), RUNS);
});

test('of a storm of several chunks: all of them are compared as numbers, and halves may be signed', () => {
  const recording = open(recordBytes((encoder) => storm(encoder, 9000)));
  for (const victim of [-1, 0, 4711, 8191, 8192, recording.eventCount - 1]) {
    const run = (replay: ReplayEncoder, emit: EventEncoder['emit']): void => storm({
      nameNumber: (...args) => replay.nameNumber(...args),
      emit: (kind, domId, vcpuId, retired, nowNs, values, bytes) => emit(kind, domId, vcpuId, retired, nowNs, replay.eventCount === victim ? values.map((value) => value + 1) : kind === EVENT.hypercall ? values.map((value) => (value > 0x7fff_ffff ? value | 0 : value)) : values, bytes),
    }, 9000);
    const decoded = new Decoded(recording, () => true);
    const whole = said(recording, decoded, run);
    expect(whole).toEqual(said(recording, undefined, run));
    expect((whole as { matchedAll: boolean }).matchedAll).toBe(victim < 0);
    if (victim < 0) expect(decoded.served).toBe(recording.chunks.length);
  }
});

test('bytes that another event would have are never taken for these, and what no encoder writes is not decoded', () => {
  const rate = { numerator: 3, denominator: 2 };
  const decoder = new ChunkDecoder(rate);
  const batch = EventBatch.of(64, 10_000);
  const start = { nowNs: 0, vcpus: [] };
  fc.assert(fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 10 }), fc.nat(), fc.integer({ min: 1, max: 255 }), (events, where, flip) => {
    const encoder = new EventEncoder(undefined, rate);
    const made: Made[] = [];
    play(events, { emit: (...args) => { encoder.emit(...args); made.push(args as Made); } });
    const right = encoder.buffer.slice(0, encoder.position);
    const matched = (): number => {
      let place = 0;
      let count = 0;
      for (; count < made.length && place < batch.length; count++) {
        place = batch.matchAt(place, ...(made[count] as Made));
        if (place < 0) break;
      }
      return count;
    };
    expect(decoder.decode(right, start, batch)).toBe(true);
    expect(matched()).toBe(made.length);
    const spoiled = right.with(where % right.length, (right[where % right.length] as number) ^ flip);
    if (decoder.decode(spoiled, start, batch)) expect(matched()).toBeLessThan(made.length);
  }), RUNS);
  // A count of instructions in two bytes where one is enough; a zero that is left out.
  const one = new EventEncoder(undefined);
  one.emit(EVENT.vcpuSwitch, 1, 0, 5, 5, []);
  const bytes = [...one.buffer.slice(0, one.position)];
  expect(bytes.slice(2, 6)).toEqual([8, 1, 24, 5]);
  const longer = [bytes[0]!, bytes[1]! + 1, 8, 1, 24, 0x85, 0, ...bytes.slice(6)];
  const zero = [bytes[0]!, bytes[1]! + 2, 8, 1, 16, 0, ...bytes.slice(4)];
  const plain = new ChunkDecoder({ numerator: 1, denominator: 1 });
  expect([bytes, longer, zero].map((each) => plain.decode(Uint8Array.from(each), start, batch))).toEqual([true, false, false]);
});

test('a chunk that does not begin where the one before it ended is left to the replay', () => {
  const recording = open(recordBytes((encoder) => storm(encoder, 5000)));
  const decoder = new ChunkDecoder(rateOf(recording.world));
  const [first, second] = recording.chunks;
  expect(decoder.decode(recording.chunkBytes(0), first!, EventBatch.of(8192, 1000))).toBe(true);
  expect(decoder.endsAt(second!)).toBe(true);
  expect(decoder.endsAt({ ...second!, nowNs: second!.nowNs + 1 })).toBe(false);
  expect(decoder.endsAt({ ...second!, vcpus: second!.vcpus.map((vcpu) => ({ ...vcpu, retired: vcpu.retired + 1 })) })).toBe(false);
  const moved = new Decoded(recording, () => true);
  const chunk = moved.chunk.bind(moved);
  let asked = 0;
  moved.chunk = (index) => { asked++; return index === 1 ? undefined : chunk(index); };
  const replay = new ReplayEncoder(recording, true, moved);
  storm(replay, 5000);
  expect([replay.finish(), replay.matchedAll, asked]).toEqual([undefined, true, recording.chunks.length]);
});
