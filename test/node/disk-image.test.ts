import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bytesToHex, blake3 } from '../../src/base/hash.ts';
import { blankSize, hashFile, openDiskFile, openDiskImage } from '../../src/node/disk-image.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { loggedNames, portableSpec } from '../../src/node/load-images.ts';
import { SPEC_DEFAULTS, specFrom, type WorldSpec } from '../../src/sim/spec.ts';

const folder = mkdtempSync(join(tmpdir(), 'rexen-disk-'));
const path = join(folder, 'disk.img');
const content = Uint8Array.from({ length: 700_001 }, (_, at) => (at * 2654435761) >>> 24);

beforeAll(async () => {
  await loadHashes();
  writeFileSync(path, content);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a disk image on the host', () => {
  test('is read wherever one likes, and has the hash of its bytes', () => {
    const { reader, blake3: hash } = openDiskFile(path);
    expect(reader.sizeBytes).toBe(content.length);
    expect(bytesToHex(hash as Uint8Array)).toBe(bytesToHex(blake3(content)));
    for (const [at, size] of [[0, 512], [262_000, 1000], [512, 300_000], [699_000, 5000], [5, 0], [524_287, 2], [0, 700_001]] as const) {
      expect(Buffer.compare(reader.read(at, size), content.subarray(at, at + size)), `${size} bytes at ${at}`).toBe(0);
    }
    expect(bytesToHex(hashFile(path))).toBe(bytesToHex(blake3(content)));
  });

  test('is noticed when others write to it', () => {
    const other = join(folder, 'other.img');
    writeFileSync(other, content);
    const image = openDiskFile(other);
    expect(image.changed()).toBe(false);
    appendFileSync(other, 'x');
    expect(image.changed()).toBe(true);
  });

  test.each([['blank:1K', 1024], ['blank:64MiB', 2 ** 26], ['blank:2G', 2 ** 31], ['disk.img', undefined]])('%s', (name, sizeBytes) => {
    expect(blankSize(name)).toBe(sizeBytes);
  });
  test.each(['blank:', 'blank:0M', 'blank:12', 'blank:-1M', 'blank:1MB', 'blank:999999T'])('%s is refused with a sentence', (name) => {
    expect(() => openDiskImage(name)).toThrow(/write the size of a blank disk/);
  });

  test('what is no disk is refused with a sentence', () => {
    expect(() => openDiskImage(join(folder, 'none.img'))).toThrow(/there is no such disk image/);
    expect(() => openDiskImage(folder)).toThrow(/must be a file/);
    writeFileSync(join(folder, 'tiny.img'), 'x');
    expect(() => openDiskImage(join(folder, 'tiny.img'))).toThrow(/are no disk/);
  });
});

describe('names in a recording', () => {
  const spec: WorldSpec = {
    ...SPEC_DEFAULTS,
    domains: [
      { name: 'a', kernel: { name: '/boot/vmlinuz' }, cmdline: '', memoryMib: 16, disks: [{ vdev: 'xvda', mode: 'w', image: { name: '/a/disk.img' } }, { vdev: 'xvdb', mode: 'r', image: { name: '/b/disk.img' } }] },
      { name: 'b', kernel: { name: '/boot/vmlinuz' }, cmdline: '', memoryMib: 16, disks: [{ vdev: 'xvda', mode: 'w', image: { name: '/a/disk.img' } }, { vdev: 'xvdb', mode: 'w', image: { name: 'blank:1M' } }] },
    ],
  };
  test('leave out folders, and tell two files of one name apart', () => {
    expect([...loggedNames(spec).values()]).toEqual(['vmlinuz', 'disk.img', 'disk.img~2', 'blank:1M']);
    const portable = portableSpec(spec);
    expect(portable.domains.flatMap((domain) => (domain.disks ?? []).map((disk) => disk.image.name))).toEqual(['disk.img', 'disk.img~2', 'disk.img', 'blank:1M']);
    expect(portableSpec(portable), 'as it is in a recording, it stays').toEqual(portable);
  });

  test('a spec in a recording must be one, its disks and interfaces too', () => {
    const portable = JSON.parse(JSON.stringify(portableSpec(spec))) as { domains: Record<string, unknown>[] };
    expect(specFrom(portable)).toBeDefined();
    const good = { vdev: 'xvda', mode: 'w', image: { name: 'x' } };
    const spoiled: readonly (readonly [string, unknown])[] = [
      ['disks', {}], ['disks', [null]], ['disks', [{ ...good, mode: 'x' }]], ['disks', [{ ...good, image: 'x' }]], ['disks', [{ ...good, sectorBytes: 1 }]], ['disks', [{ ...good, features: { maxRingPageOrder: 9 } }]], ['disks', [{ ...good, vdev: 1 }]],
      ['vifs', [{}]], ['vifs', [{ mac: 'x', bridge: 1 }]], ['vifs', 'x'],
    ];
    for (const [key, value] of spoiled) expect(specFrom({ ...portable, domains: [{ ...portable.domains[0], [key]: value }] }), JSON.stringify(value)).toBeUndefined();
  });
});
