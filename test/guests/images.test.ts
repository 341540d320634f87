/** What a loader and a reader of reports find in the committed guest images. */
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { kernelSymbols, parseKernel, type KernelImage } from '../../src/hypervisor/build/kernel-image.ts';

const imagePath = (name: string): string => resolve(import.meta.dirname, '../../scenarios/guests/images', `${name}.elf`);

function kernel(name: string): KernelImage {
  const image = parseKernel(readFileSync(imagePath(name)));
  if ('problem' in image) throw new Error(`${name} ${image.problem}`);
  return image;
}

const SHAPES = [
  { name: 'pv-i386-pae', pae: 'extended-cr3', source: 'notes' },
  { name: 'pv-i386-nopae', pae: 'no', source: 'notes' },
  { name: 'pv-i386-legacy', pae: 'no', source: '__xen_guest' },
] as const;

describe.each(SHAPES)('$name', ({ name, pae, source }) => {
  test('says what it is in the place that its name promises', () => {
    const image = kernel(name);
    expect(image).toMatchObject({
      machine: 'i386', pae, source, guestOs: 'rexen-pv-i386', guestVersion: '1',
      virtBase: 0xc000_0000, entry: 0xc010_0000, hypercallVaddr: 0xc010_1000,
    });
  });

  test('loads in less than 200 KiB, without the working set of the compute kernels', () => {
    const image = kernel(name);
    expect(image.virtStart).toBe(0xc010_0000);
    expect(image.virtEnd - image.virtStart).toBeLessThan(200 * 1024);
    expect(statSync(imagePath(name)).size).toBeLessThan(100 * 1024);
  });

  test('names its functions, static ones too, for symbolised reports', () => {
    const names = new Set(kernelSymbols(kernel(name)).map((symbol) => symbol.name));
    expect([...names]).toEqual(expect.arrayContaining(['_start', 'hypercall_page', 'trap_common', 'step_memory', 'k_int', 'qsort32']));
  });
});

test('the bare-metal bench has its multiboot header where loaders look for it', () => {
  const bytes = readFileSync(imagePath('bench-paging'));
  const words = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + 8192));
  const at = words.indexOf(0x1bad_b002);
  expect(at).toBeGreaterThanOrEqual(0);
  expect((words[at]! + words[at + 1]! + words[at + 2]!) >>> 0).toBe(0);
});
