// recordings/ holds small recordings with their images embedded: what was recorded must replay as long
// as nobody says otherwise. A change of the engine or the format that breaks one has to make it anew
// (recordings/README.md) and say so in its commit.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { reportDivergence, divergenceLines } from '../../src/replay/divergence-report.ts';
import { replayBytes } from './boots.ts';

const FOLDER = join(import.meta.dirname, '../../recordings');
const files = readdirSync(FOLDER).filter((name) => name.endsWith('.rxr'));

test('both shapes of our guest are among the golden recordings', () => {
  expect(files).toEqual(expect.arrayContaining(['pv-i386-nopae.rxr', 'pv-i386-pae.rxr']));
});

describe.each(files)('recordings/%s', (name) => {
  test('replays exactly, state digests included', async () => {
    const replayed = await replayBytes(new Uint8Array(readFileSync(join(FOLDER, name))));
    const report = reportDivergence(replayed.world, replayed.replayer);
    expect(report === undefined ? '' : divergenceLines(report).join('\n')).toBe('');
    expect(replayed.verdict).toBe('exact');
    expect(replayed.recording.stateDigests.length).toBeGreaterThan(0);
  });

  test('carries its images', async () => {
    await loadHashes();
    const recording = openRecording(bytesSource(name, new Uint8Array(readFileSync(join(FOLDER, name)))), { codec: zlibCodec(1) });
    expect(recording.world.images.length).toBeGreaterThan(0);
    for (const image of recording.world.images) expect(recording.image(image)).toBeDefined();
  });
});
