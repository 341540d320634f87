// A timeline is anywhere in a recording, in any order, as if it had been replayed up to there.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { Timeline, type Target } from '../../src/replay/timeline.ts';
import { imagesOf, recordBoot } from './boots.ts';

const long = process.env['REXEN_DEPTH'] === 'long';
const GUESTS = ['pv-i386-pae', 'pv-i386-nopae', 'boot-pae', 'two-domains'];
const WORLDS = storedImage('grub-i386') === undefined ? GUESTS : [...GUESTS, 'grub-i386'];

async function open(bytes: Uint8Array, everyInsns: number): Promise<Timeline> {
  const recording = openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) });
  const spec = specOf(recording);
  return new Timeline({ recording, spec, images: (await imagesOf(spec)).domains, everyInsns });
}

const stateOf = (timeline: Timeline): string => `${JSON.stringify(timeline.place())} ${timeline.digest().map(({ name, digest }) => `${name}=${bytesToHex(digest)}`).join(' ')}`;

describe.each(WORLDS)('%s', (name) => {
  test('is sought at any position, in any order, and has the state of a straight replay', async () => {
    const { bytes } = await recordBoot(name, { change: (spec) => ({ ...spec, digestEveryInsns: 5_000_000 }) });
    const straight = await open(bytes, 0);
    const { eventCount } = straight.recording;
    const prng = new PrngStream('seek', name);
    const end = (await open(bytes, 0)).seekEnd();
    const targets: Target[] = Array.from({ length: long ? 60 : 8 }, (_, i) => (i % 2 === 0 ? { event: prng.below(eventCount + 1) } : { vcpu: { domId: 1, vcpuId: 0, retired: prng.below(end.insns) } }));
    targets.push({ event: 0 }, { event: eventCount }, { insns: Infinity });
    const expected = new Map<Target, string>();
    const byPlace = targets.map((target) => ({ target, insns: new Map([[target, 0]]) }));
    // One after the other in the order of time, without checkpoints: nothing but running.
    const placed = await Promise.all(byPlace.map(async ({ target }) => ({ target, insns: target.event === undefined ? Math.min(end.insns, target.insns ?? target.vcpu?.retired ?? 0) : (straight.recording.eventAt(target.event)?.retired ?? end.insns) })));
    placed.sort((a, b) => a.insns - b.insns);
    for (const { target } of placed) {
      straight.seek(target);
      expected.set(target, stateOf(straight));
      expect(straight.diverged).toBe(false);
    }
    const timeline = await open(bytes, Math.ceil(end.insns / 10));
    for (let i = 0; i < (long ? 150 : 8); i++) {
      const target = targets[prng.below(targets.length)] as Target;
      timeline.seek(target);
      expect(timeline.diverged).toBe(false);
      expect(stateOf(timeline), JSON.stringify(target)).toBe(expected.get(target));
    }
    if (name !== 'boot-pae') expect(timeline.checkpoints.length).toBeGreaterThan(5);
  });
});

test('seeking backwards runs no more than what lies between two checkpoints', async () => {
  const { bytes } = await recordBoot('pv-i386-pae');
  const timeline = await open(bytes, 100_000);
  const end = timeline.seekEnd();
  const prng = new PrngStream('backwards', '1');
  for (let i = 0; i < 6; i++) {
    const before = timeline.insnsRun;
    timeline.seek({ vcpu: { domId: 1, vcpuId: 0, retired: prng.below(end.insns) } });
    expect(timeline.insnsRun - before).toBeLessThan(160_000);
  }
});

test('a divergence is noticed after a seek too, at its event', async () => {
  const { bytes } = await recordBoot('pv-i386-pae');
  const timeline = await open(bytes, 100_000);
  timeline.seekEnd();
  timeline.seek({ event: 900 });
  // A byte of the console ring's page: what is printed next differs.
  const { world } = timeline;
  const row = world.hv.hypercallRows[17];
  world.hv.hypercallRows = { ...world.hv.hypercallRows, 29: { ...(world.hv.hypercallRows[29] as NonNullable<typeof row>), handle: () => ({ kind: 'done', rc: -1 }) } };
  timeline.seek({ insns: Infinity });
  expect(timeline.diverged).toBe(true);
  const { divergence } = timeline.run.replayer;
  expect(divergence?.index).toBeGreaterThanOrEqual(900);
  expect(divergence?.expected?.index).toBe(divergence?.actual?.index);
});
