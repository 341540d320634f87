// Checkpoints in a file: they lead to the same states, and no damaged or foreign file ever leads anywhere else.
import { expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { CheckpointWriter, readCheckpoints } from '../../src/replay/checkpoint-file.ts';
import { buildReplayWorld } from '../../src/replay/replay-world.ts';
import { Timeline } from '../../src/replay/timeline.ts';
import { Snapshots } from '../../src/sim/snapshot.ts';
import { imagesOf, recordBoot } from './boots.ts';

const codec = zlibCodec();
const FLIPS = process.env['REXEN_DEPTH'] === 'long' ? 100 : 3;

async function prepared() {
  const { bytes } = await recordBoot('pv-i386-nopae');
  const recording = openRecording(bytesSource('test.rxr', bytes), { codec });
  const spec = specOf(recording);
  const base = { recording, spec, images: (await imagesOf(spec)).domains };
  const { world } = buildReplayWorld(base);
  const pieces: Uint8Array[] = [];
  const writer = new CheckpointWriter((piece) => void pieces.push(piece.slice()), codec);
  const snapshots = new Snapshots(world, writer);
  writer.begin(snapshots.take());
  while (world.ended === undefined) {
    world.advance(150_000);
    if (world.ended === undefined) writer.checkpoint(snapshots.take());
  }
  writer.finish(recording.digest);
  return { base, file: new Uint8Array(Buffer.concat(pieces)), count: writer.count };
}

const stateAt = (timeline: Timeline, event: number): string => {
  timeline.seek({ event });
  return timeline.digest().map(({ name, digest }) => `${name} ${bytesToHex(digest)}`).join('\n');
};

test('checkpoints from a file lead to the states of a straight replay; damage and strangers do not', async () => {
  const { base, file, count } = await prepared();
  const events = [300, 1500, 900];
  const straight = new Timeline({ ...base, everyInsns: 0 });
  const expected = events.map((event) => stateAt(straight, event));
  const open = (bytes: Uint8Array) => {
    const loaded = readCheckpoints(bytesSource('test.rxc', bytes), base.recording, codec);
    return 'problem' in loaded ? loaded.problem : new Timeline({ ...base, checkpoints: loaded, everyInsns: 0 });
  };
  const good = open(file) as Timeline;
  expect(good.checkpoints.length).toBe(count + 1);
  expect(events.map((event) => stateAt(good, event))).toEqual(expected);
  expect(good.insnsRun).toBeLessThan(events.length * 200_000);
  expect(good.damage).toBeUndefined();

  const prng = new PrngStream('sidecar', 'test');
  for (let i = 0; i < FLIPS; i++) {
    const flipped = file.slice();
    const at = prng.below(file.length);
    flipped[at] = (flipped[at] as number) ^ (1 << prng.below(8));
    const timeline = open(flipped);
    if (typeof timeline === 'string') continue;
    expect(stateAt(timeline, 1500), `bit flip at byte ${at}`).toBe(expected[1]);
  }
  expect(open(file.subarray(0, file.length - 1))).toBe('is damaged or was cut short');
  expect(open(new Uint8Array(100))).toBe('is no file of checkpoints of this version');

  const other = openRecording(bytesSource('b.rxr', (await recordBoot('pv-i386-nopae', { seed: '2' })).bytes), { codec });
  expect(readCheckpoints(bytesSource('test.rxc', file), other, codec)).toEqual({ problem: 'holds the checkpoints of another recording' });
});

test('a content that is damaged is noticed when it is wanted, and the way is run from the beginning', async () => {
  const { base, file } = await prepared();
  const straight = new Timeline({ ...base, everyInsns: 0 });
  const expected = stateAt(straight, 1500);
  // All contents: what a checkpoint holds is wrong wherever one looks.
  const footer = new DataView(file.buffer, file.byteOffset + file.length - 20);
  const damaged = file.slice();
  damaged.fill(0x55, 20, footer.getFloat64(0, true));
  const loaded = readCheckpoints(bytesSource('test.rxc', damaged), base.recording, codec);
  if ('problem' in loaded) throw new Error(loaded.problem);
  const timeline = new Timeline({ ...base, checkpoints: loaded, everyInsns: 0 });
  expect(stateAt(timeline, 1500)).toBe(expected);
  expect(timeline.damage).toContain('is damaged at byte');
});
