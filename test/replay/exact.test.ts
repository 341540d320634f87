// What a recording promises: the same seed makes the same run, a replay is exact, a change is noticed
// at the event where it shows, and no damaged file is ever taken for an exact one.
import { describe, expect, test } from 'vitest';
import { EVENT, eventRow } from '../../src/abi/events.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import { PrngStream } from '../../src/base/prng.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { bytesSource, openRecording, type Recording } from '../../src/log/reader.ts';
import { RecordingError } from '../../src/log/recording-error.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { reportDivergence } from '../../src/replay/divergence-report.ts';
import { WHOLE_PART } from '../../src/replay/whole-digest.ts';
import type { WorldSpec } from '../../src/sim/spec.ts';
import { recordBoot, replayBytes } from './boots.ts';

const long = process.env['REXEN_DEPTH'] === 'long';
const GUESTS = ['pv-i386-pae', 'pv-i386-nopae'];
const WITH_GRUB = storedImage('grub-i386') === undefined ? GUESTS : [...GUESTS, 'grub-i386'];
const FLIPS = long ? 500 : 60;
const CUTS = long ? 200 : 12;
/** Each is a replay at worst. */
const DAMAGE_MS = long ? 1_800_000 : 120_000;

const open = (bytes: Uint8Array): Recording => openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) });
const digestOf = (bytes: Uint8Array): string => bytesToHex(open(bytes).digest);
const kindsOf = (bytes: Uint8Array): number[] => [...open(bytes).events()].map((event) => event.kind);

describe.each(WITH_GRUB)('%s', (name) => {
  test('is recorded and replays exactly', async () => {
    const { bytes } = await recordBoot(name);
    const replayed = await replayBytes(bytes);
    expect(replayed.verdict).toBe('exact');
    expect(replayed.world.eventCount).toBe(replayed.recording.eventCount);
  });
});

describe('a run', () => {
  test('is decided by its seed: the same seed gives the same digest, in every tier of compression', async () => {
    const [first, second, plain] = [await recordBoot('pv-i386-pae'), await recordBoot('pv-i386-pae'), await recordBoot('pv-i386-pae', { compression: 'none' })];
    expect(digestOf(second.bytes)).toBe(digestOf(first.bytes));
    expect(digestOf(plain.bytes)).toBe(digestOf(first.bytes));
    expect(second.bytes).toEqual(first.bytes);
  });

  test('has another order of events with another seed', async () => {
    const kinds = await Promise.all(['1', '2', '3'].map(async (seed) => kindsOf((await recordBoot('pv-i386-pae', { seed })).bytes).join()));
    expect(new Set(kinds).size).toBe(3);
  });

  test('has the same state digests when it is replayed', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', { change: (spec) => ({ ...spec, digestEveryInsns: 100_000 }) });
    expect(open(bytes).stateDigests.length).toBeGreaterThan(5);
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });
});

describe('a recording of inputs alone', () => {
  const often = { log: 'inputs', change: (spec: WorldSpec) => ({ ...spec, digestEveryInsns: 100_000 }) } as const;
  const KEYS: WorldSpec['input'] = [{ domain: 'pae', after: 'page tables', send: 'typed\r' }];

  test('holds the inputs and digests of everything else, and replays exactly', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', { log: 'inputs', change: (spec) => ({ ...spec, digestEveryInsns: 100_000, input: KEYS }) });
    const recording = open(bytes);
    expect([...new Set([...recording.events()].map((event) => eventRow(event.kind)?.role))]).toEqual(['input']);
    expect(recording.stateDigests.length).toBeGreaterThan(5);
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });

  test('notices a hypercall that answers differently by the next digest', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', often);
    const replayed = await withWrongResult(bytes, HYPERCALL.update_va_mapping, 10);
    expect(replayed.verdict).toBe('diverged');
    expect(replayed.replayer.stateDivergence?.parts.map((part) => part.name)).toEqual([WHOLE_PART]);
  });

  test('notices an event that differs although the state does not', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', often);
    let changed = false;
    const replayed = await replayBytes(bytes, (sink) => ({
      get over() { return sink.over ?? false; },
      event: (kind, domId, vcpuId, retired, nowNs, values, data) => {
        const tamper = !changed && kind === EVENT.upcall;
        changed ||= tamper;
        sink.event(kind, domId, vcpuId, retired, nowNs, tamper ? [(values[0] as number) + 1, ...values.slice(1)] : values, data);
      },
      stateDigest: (count, insns) => sink.stateDigest?.(count, insns),
    }));
    expect(changed).toBe(true);
    expect(replayed.verdict).toBe('diverged');
  });

  test('that was cut short is verified up to its last digest', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', often);
    const replayed = await replayBytes(bytes.subarray(0, Math.floor(bytes.length * 0.6)));
    expect(replayed.verdict).toBe('truncated');
    expect(replayed.recording.stateDigests.length).toBeGreaterThan(3);
  });
});

/** Replays with one call of `nr` answering differently. */
async function withWrongResult(bytes: Uint8Array, nr: number, which: number) {
  return replayBytes(bytes, (sink, world) => {
    const row = world.hv.hypercallRows[nr];
    if (row === undefined) throw new Error(`no row ${nr}`);
    let calls = 0;
    const handle: typeof row.handle = (hv, vcpu, args) => {
      const outcome = row.handle(hv, vcpu, args);
      return calls++ === which && outcome.kind === 'done' ? { kind: 'done', rc: outcome.rc + 1 } : outcome;
    };
    world.hv.hypercallRows = { ...world.hv.hypercallRows, [nr]: { ...row, handle } };
    return sink;
  });
}

describe('a change', () => {
  test.each([
    ['xen_version', 0],
    ['update_va_mapping', 3],
    ['event_channel_op', 15],
  ] as const)('of the result of %s number %d is reported at that very event', async (name, which) => {
    const { bytes } = await recordBoot('pv-i386-pae');
    const nr = HYPERCALL[name];
    const calls = [...open(bytes).events()].filter((event) => event.kind === EVENT.hypercall && event.values[0] === nr);
    const { verdict, replayer, world } = await withWrongResult(bytes, nr, which);
    expect(verdict).toBe('diverged');
    expect(replayer.divergence?.index).toBe(calls[which]?.index);
    const report = reportDivergence(world, replayer);
    expect(report?.expected).toContain('hypercall');
    expect(report?.actual).not.toBe(report?.expected);
    expect(report?.registers.find(({ name }) => name === 'eip')).toBeDefined();
    expect(report?.code.length).toBeGreaterThan(0);
    expect(report?.history.length).toBe(20);
  });

  test('of a byte of guest memory that no event shows is reported by the next state digest', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', { change: (spec) => ({ ...spec, digestEveryInsns: 100_000 }) });
    let seen = 0;
    const { verdict, replayer } = await replayBytes(bytes, (sink, world) => ({
      event: (...args) => {
        // The last page of the guest's memory is never used by it.
        if (++seen === 400) world.machine.writeU8((world.machine.frameCount - 1) * 4096, 1);
        sink.event(...args);
      },
      stateDigest: (...args) => sink.stateDigest?.(...args),
    }));
    expect(verdict).toBe('diverged');
    expect(replayer.divergence).toBeUndefined();
    expect(replayer.stateDivergence?.parts.map((part) => part.name)).toEqual(['memory']);
  });
});

describe.each(long ? WITH_GRUB : GUESTS)('a damaged recording of %s', (name) => {
  test(`with one bit flipped is never exact with other content (${FLIPS} places)`, { timeout: DAMAGE_MS }, async () => {
    const { bytes } = await recordBoot(name);
    const good = digestOf(bytes);
    const prng = new PrngStream('flips', name);
    for (let i = 0; i < FLIPS; i++) {
      const at = prng.below(bytes.length);
      const flipped = bytes.slice();
      flipped[at] = (flipped[at] as number) ^ (1 << prng.below(8));
      try {
        const replayed = await replayBytes(flipped);
        expect(replayed.verdict === 'exact' && bytesToHex(replayed.recording.digest) !== good, `bit flip at byte ${at}`).toBe(false);
      } catch (error) {
        expect(error, `bit flip at byte ${at}`).toBeInstanceOf(RecordingError);
      }
    }
  });

  test(`cut at any byte replays up to its last whole chunk or is refused cleanly (${CUTS} places)`, { timeout: DAMAGE_MS }, async () => {
    const { bytes } = await recordBoot(name);
    const prng = new PrngStream('cuts', name);
    for (let i = 0; i < CUTS; i++) {
      const length = prng.below(bytes.length);
      try {
        const replayed = await replayBytes(bytes.subarray(0, length));
        expect(replayed.verdict, `cut at byte ${length}`).toBe('truncated');
        expect(replayed.replayer.encoder.matchedAll, `cut at byte ${length}`).toBe(true);
      } catch (error) {
        expect(error, `cut at byte ${length}`).toBeInstanceOf(RecordingError);
      }
    }
  });
});
