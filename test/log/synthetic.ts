// Synthetic runs for the tests of the recording: no world behind them, only events as one would
// make them. Everything follows from the seed.
import { EVENT, EVENT_ROWS, hypercallValues, type EventRow } from '../../src/abi/events.ts';
import { PrngStream } from '../../src/base/prng.ts';
import type { EventEmitter } from '../../src/log/event-encoder.ts';
import { EventEncoder } from '../../src/log/event-encoder.ts';
import type { World } from '../../src/log/packets.ts';
import { openRecording, bytesSource, type Recording } from '../../src/log/reader.ts';
import { MemorySink, RecordingWriter, type WriterOptions } from '../../src/log/writer.ts';

export const WORLD: World = {
  scenario: 'test/synthetic', options: [{ name: 'memory', value: '32' }], seed: '1',
  images: [{ name: 'kernel', sizeBytes: 4, blake3: new Uint8Array(32).fill(7) }], nsPerInsnNumerator: 1, nsPerInsnDenominator: 1,
};

/** What both EventEncoder and ReplayEncoder can do. */
export interface Emitter extends EventEmitter {
  nameNumber(name: string, domId: number, vcpuId: number, retired: number, nowNs: number): number;
}

/** An event storm as a guest makes it that sends to itself: hypercall, send, pending, upcall, and now and then more. */
export function storm(emitter: Emitter, rounds: number, seed = 'storm'): void {
  const chance = new PrngStream(seed, 'test');
  const args = { lo: new Uint32Array(6), hi: new Uint32Array(6) };
  let retired = 0;
  let idleNs = 0;
  const emit = (kind: number, values: readonly number[], bytes?: Uint8Array): void => emitter.emit(kind, 1, 0, retired, retired + idleNs, values, bytes);
  for (let round = 0; round < rounds; round++) {
    retired += 180 + chance.below(3) * 7;
    args.lo.set([4, 0xc040bef0]);
    emit(EVENT.hypercall, hypercallValues(32, 0, 'done', args, 2));
    emit(EVENT.evtchnSend, [3, 1, 4]);
    emit(EVENT.evtchnPending, [4]);
    emit(EVENT.upcall, [0xc0101000 + chance.below(4) * 2, 0xc0100100]);
    if (chance.below(16) === 0) {
      const name = emitter.nameNumber('slice', 1, 0, retired, retired + idleNs);
      emit(EVENT.choice, [name, 3, chance.below(3)]);
    }
    if (chance.below(64) === 0) {
      idleNs += chance.below(1_000_000);
      emit(EVENT.timerFired, [0, retired + idleNs]);
    }
    if (chance.below(200) === 0) emit(EVENT.consoleIn, [], Uint8Array.of(97 + chance.below(26)));
  }
}

/** Random values for every field of a row: small, big, negative where allowed, wild in the halves. */
export function randomValues(row: EventRow, chance: PrngStream): number[] {
  const number = (): number => [0, 1, chance.below(100), chance.u32(), chance.u32() * 0x10_0000 + chance.below(0x10_0000), 2 ** 53 - 1][chance.below(6)] as number;
  return row.fields.flatMap((field) => {
    if (field.type === 'uint') return [number()];
    if (field.type === 'sint') return [chance.below(2) === 0 ? number() : -number() + 0];
    return [chance.below(3) === 0 ? 0 : chance.u32(), chance.below(2) === 0 ? 0 : chance.u32()];
  });
}

/** Events of every kind on several vCPUs. */
export function zoo(emitter: Emitter, events: number, seed = 'zoo'): void {
  const chance = new PrngStream(seed, 'test');
  const retired = [0, 0, 0, 0];
  let nowNs = 0;
  const rows: readonly EventRow[] = EVENT_ROWS;
  for (let count = 0; count < events; count++) {
    const row = rows[count % rows.length] as EventRow;
    const who = chance.below(4);
    retired[who] = (retired[who] as number) + [0, 1, chance.below(200), chance.u32()][chance.below(4)]!;
    nowNs += chance.below(3) === 0 ? chance.below(1_000_000_000) : 0;
    const bytes = row.bytes === undefined ? undefined : Uint8Array.from({ length: chance.below(300) }, () => chance.below(256));
    emitter.emit(row.kind, who >> 1, who & 1, retired[who] as number, nowNs, randomValues(row, chance), bytes);
  }
}

/** Records what `run` emits and gives the file's bytes. */
export function recordBytes(run: (emitter: EventEncoder, writer: RecordingWriter) => void, options: Partial<WriterOptions> = {}): Uint8Array {
  const sink = new MemorySink();
  const writer = new RecordingWriter(sink, { world: WORLD, ...options });
  const encoder = new EventEncoder(writer, { numerator: (options.world ?? WORLD).nsPerInsnNumerator, denominator: (options.world ?? WORLD).nsPerInsnDenominator });
  run(encoder, writer);
  encoder.endChunk();
  writer.finish({ instructions: 1000, virtualTimeNs: 2000, outcome: 'shutdown', outcomeText: 'poweroff' });
  return sink.bytes();
}

export const open = (bytes: Uint8Array): Recording => openRecording(bytesSource('test.rxr', bytes));
