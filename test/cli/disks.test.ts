// A domain with disks, from an xl.cfg file to a recording, its replay elsewhere, and its disks as files.
import { copyFileSync, mkdtempSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runLive } from '../../src/cli/live-run.ts';
import { runReplay } from '../../src/cli/replay-run.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import type { Disk } from '../../src/dom0/disk.ts';

const folder = mkdtempSync(join(tmpdir(), 'rexen-disks-'));
const at = (name: string): string => join(folder, name);
const content = Uint8Array.from({ length: 300_000 }, (_, index) => index % 251);
const replay = (images: readonly string[], atEnd?: (disk: Disk | undefined) => void): ReturnType<typeof runReplay> =>
  runReplay({ file: at('g.rxr'), until: undefined, images, showConsole: false, progress: false, ...(atEnd === undefined ? {} : { atEnd: (world) => atEnd(world.disk(1, 'xvda')) }) });

beforeAll(async () => {
  await loadHashes();
  mkdirSync(at('here'));
  writeFileSync(at('here/disk.img'), content);
  writeFileSync(at('guest.cfg'), `kernel = "builtin:pv-i386-pae.elf"\nmemory = 64\ndisk = [ '${at('here/disk.img')},raw,xvda,rw', 'vdev=xvdb,target=blank:2T' ]\n`);
  const scenario = await findScenario(at('guest.cfg'));
  const result = await runLive({ scenario, seed: '1', file: at('g.rxr'), compression: 'deflate', log: 'all', interactive: false, showConsole: false, progress: false, profile: false });
  expect(result.outcome).toBe('poweroff');
});
afterAll(() => rmSync(folder, { recursive: true }));

test('the recording replays, and its disk is the image: where the folders were called otherwise too', async () => {
  let disk: Disk | undefined;
  expect((await replay([], (found) => void (disk = found))).outcome).toBe('exact');
  expect(Buffer.compare(disk?.read(0, content.length) as Uint8Array, content)).toBe(0);
  mkdirSync(at('there'));
  renameSync(at('here/disk.img'), at('there/renamed.img'));
  await expect(replay([])).rejects.toThrow(/its image disk\.img \(300000 bytes, blake3 [0-9a-f]{16}\.\.\.\) is not here, or what is here differs/);
  expect((await replay([at('there')])).outcome).toBe('exact');
  // One byte of another content is another disk.
  copyFileSync(at('there/renamed.img'), at('here/disk.img'));
  const other = readFileSync(at('here/disk.img'));
  other[77] = 1;
  writeFileSync(at('here/disk.img'), other);
  await expect(replay([])).rejects.toThrow(/is not here, or what is here differs/);
});

test('a kernel that is not there, a disk that is none', async () => {
  writeFileSync(at('bad.cfg'), `kernel = "builtin:pv-i386-pae.elf"\ndisk = [ '${at('nowhere.img')},raw,xvda,rw' ]\n`);
  const scenario = await findScenario(at('bad.cfg'));
  await expect(runLive({ scenario, seed: '1', file: undefined, compression: 'deflate', log: 'all', interactive: false, showConsole: false, progress: false, profile: false })).rejects.toThrow(/nowhere\.img: there is no such disk image/);
});
