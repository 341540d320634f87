// A kernel is unpacked once.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { unpackedKernel } from '../../src/node/unpacked-kernels.ts';
import { Dice } from '../x86/random-program.ts';

let folder = '';
const before = process.env['REXEN_CACHE'];
beforeAll(() => {
  process.env['REXEN_CACHE'] = folder = mkdtempSync(join(tmpdir(), 'rexen-unpacked-'));
});
afterAll(() => {
  if (before === undefined) delete process.env['REXEN_CACHE'];
  else process.env['REXEN_CACHE'] = before;
  rmSync(folder, { recursive: true });
});

/** What no codec makes smaller, with the first bytes of an ELF file. */
function elf(seed: number): Uint8Array {
  const dice = new Dice(seed);
  const bytes = Uint8Array.from({ length: 1_200_000 }, () => dice.below(256));
  bytes.set([0x7f, 0x45, 0x4c, 0x46]);
  return bytes;
}

test('what came out is kept, taken from there the next time, and unpacked anew if it was damaged', async () => {
  const kernel = elf(1);
  const packed = new Uint8Array(gzipSync(kernel));
  expect(Buffer.compare(await unpackedKernel(packed, 'k'), kernel)).toBe(0);
  const [name] = readdirSync(join(folder, 'unpacked')) as [string];
  const path = join(folder, 'unpacked', name);
  expect(Buffer.compare(await unpackedKernel(packed, 'k'), kernel)).toBe(0);

  // It is really read: another kernel's file in its place is what comes.
  const other = elf(2);
  await unpackedKernel(new Uint8Array(gzipSync(other)), 'other');
  const otherName = readdirSync(join(folder, 'unpacked')).find((file) => file !== name) as string;
  const good = readFileSync(path);
  writeFileSync(path, readFileSync(join(folder, 'unpacked', otherName)));
  expect(Buffer.compare(await unpackedKernel(packed, 'k'), other)).toBe(0);

  good[good.length - 1] = (good[good.length - 1] as number) ^ 1;
  for (const damaged of [good, good.subarray(0, 1000), Buffer.alloc(0)]) {
    writeFileSync(path, damaged);
    expect(Buffer.compare(await unpackedKernel(packed, 'k'), kernel)).toBe(0);
  }
});

test('no more than six are kept, and a folder that cannot be made only costs time', async () => {
  for (let seed = 3; seed < 8; seed++) await unpackedKernel(new Uint8Array(gzipSync(elf(seed), { level: 0 })), 'k');
  expect(readdirSync(join(folder, 'unpacked'))).toHaveLength(6);
  writeFileSync(join(folder, 'file'), '');
  process.env['REXEN_CACHE'] = join(folder, 'file');
  const kernel = elf(9);
  expect(Buffer.compare(await unpackedKernel(new Uint8Array(gzipSync(kernel)), 'k'), kernel)).toBe(0);
  process.env['REXEN_CACHE'] = folder;
});
