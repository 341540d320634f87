import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { kernelContainer } from '../../src/hypervisor/build/kernel-container.ts';
import { kernelSymbols, parseKernel, type KernelImage } from '../../src/hypervisor/build/kernel-image.ts';
import { symtabBytes } from '../../src/hypervisor/build/symtab-copy.ts';
import { BASIC_NOTES, makeElf, type ElfRecipe } from './elf-maker.ts';

const IMAGES = join(import.meta.dirname, '../../scenarios/guests/images');
const shipped = (name: string): Uint8Array => new Uint8Array(readFileSync(join(IMAGES, name)));

function parsed(recipe: ElfRecipe): KernelImage {
  const image = parseKernel(makeElf(recipe));
  if ('problem' in image) throw new Error(image.problem);
  return image;
}
const problem = (recipe: ElfRecipe): string => {
  const image = parseKernel(makeElf(recipe));
  return 'problem' in image ? image.problem : 'none';
};

describe('what a kernel says of itself', () => {
  test('notes give base, entry, hypercall page, features and PAE mode', () => {
    const image = parsed({
      notes: [...BASIC_NOTES, [3, 0xc000_0000], [4, 0], [1, 0xc010_0010], [2, 0xc010_1000], [9, 'yes'], [10, '!writable_page_tables|pae_pgdir_above_4gb'], [17, 0x8801], [12, 0xf580_0000], [16, 1]],
      segments: [{ paddr: 0x10_0000n, bytes: new Uint8Array(0x3000) }],
    });
    expect(image).toMatchObject({
      abi: 'pv32pae', pae: 'extended-cr3', virtBase: 0xc000_0000, entry: 0xc010_0010, virtStart: 0xc010_0000, virtEnd: 0xc010_3000, hypercallVaddr: 0xc010_1000,
      featuresSupported: 0x8811, featuresRequired: 1, hvStartLow: 0xf580_0000, unmappedInitrd: true, guestOs: 'test',
    });
    expect(image.notes).toContainEqual({ name: 'SUPPORTED_FEATURES', text: '0x8801' });
  });

  test('eight-byte notes of a 64-bit kernel are canonical addresses', () => {
    const image = parsed({
      wordBits: 64, entry: 0xffff_ffff_8100_0000n,
      notes: [...BASIC_NOTES, [3, 0xffff_ffff_8000_0000n], [15, 0x80_0000_0000n], [1, 0xffff_ffff_8100_0000n]],
      segments: [{ paddr: 0x100_0000n, vaddr: 0n, bytes: new Uint8Array(0x1000) }],
    });
    expect(image).toMatchObject({ abi: 'pv64', virtBase: -0x8000_0000, entry: -0x7f00_0000, virtStart: -0x7f00_0000, initP2m: 0x80_0000_0000 });
  });

  test('a segment is placed by its physical address, whatever its virtual one', () => {
    const image = parsed({
      entry: 0xc010_0000n, notes: [...BASIC_NOTES, [3, 0xc000_0000]],
      segments: [{ paddr: 0x10_0000n, bytes: new Uint8Array(16) }, { paddr: 0x10_2000n, vaddr: 0n, bytes: new Uint8Array(8), memBytes: 0x1000 }],
    });
    expect(image.segments.map((segment) => [segment.vaddr, segment.memBytes])).toEqual([[0xc010_0000, 16], [0xc010_2000, 0x1000]]);
  });

  test('the older section says the same in text, with physical addresses that are virtual ones', () => {
    const image = parsed({
      entry: 0xc010_0000n, guestSection: 'GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,HYPERCALL_PAGE=0x101,PAE=yes[extended-cr3],LOADER=generic,FEATURES=writable_page_tables',
      segments: [{ paddr: 0xc010_0000n, bytes: new Uint8Array(0x2000) }],
    });
    expect(image).toMatchObject({ source: '__xen_guest', abi: 'pv32pae', pae: 'extended-cr3', hypercallVaddr: 0xc010_1000, virtStart: 0xc010_0000, guestVersion: '2.6', featuresSupported: 1 });
    const withOffset = parsed({ entry: 0xc010_0000n, guestSection: 'LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,ELF_PADDR_OFFSET=0x0,PAE=no', segments: [{ paddr: 0x10_0000n, bytes: new Uint8Array(0x2000) }] });
    expect(withOffset).toMatchObject({ abi: 'xen3-nopae', virtStart: 0xc010_0000 });
  });

  test.each([
    ['PAE=yes', 'yes', 'pv32pae'], ['PAE=bimodal', 'bimodal', 'pv32pae'], ['PAE=no', 'no', 'xen3-nopae'], ['GUEST_OS=other', 'no', 'xen3-nopae'],
  ] as const)('%s means %s', (text, pae, abi) => {
    expect(parsed({ guestSection: `LOADER=generic,XEN_VER=xen-3.0,${text}` })).toMatchObject({ pae, abi });
  });

  test('a note may claim more bytes than its segment has, as the last one of PV GRUB does', () => {
    const bytes = makeElf({ notes: [...BASIC_NOTES, [9, 'yes']] });
    const at = bytes.lastIndexOf(0x79); // the y of "yes"
    new DataView(bytes.buffer).setUint32(at - 12, 12, true);
    expect(parseKernel(bytes)).toMatchObject({ pae: 'extended-cr3' });
  });

  test('symbols come in the order of their addresses', () => {
    expect(kernelSymbols(parsed({ notes: BASIC_NOTES, symbols: [{ name: 'second', value: 0x10_0100n }, { name: 'first', value: 0x10_0000n }] })).map((symbol) => symbol.name)).toEqual(['first', 'second']);
  });

  test('a BSD kernel gets its symbol table behind itself, as an ELF file of its own', () => {
    const image = parsed({ notes: [...BASIC_NOTES, [11, 'yes']], symbols: [{ name: 'kernel_text', value: 0x10_0000n }], segments: [{ paddr: 0x10_0000n, bytes: new Uint8Array(4096) }] });
    const plan = image.bsdSymtab;
    if (plan === undefined) throw new Error('no symbol table was planned');
    expect(plan.vaddr).toBe(0x10_1000);
    const copy = symtabBytes(image, plan);
    expect(image.virtEnd).toBe(plan.vaddr + copy.length);
    const view = new DataView(copy.buffer);
    const shoff = view.getUint32(4 + 32, true);
    const strtab = 4 + shoff + 2 * 40;
    const offset = view.getUint32(strtab + 16, true);
    expect(new TextDecoder().decode(copy.subarray(4 + offset, 4 + offset + view.getUint32(strtab + 20, true)))).toBe('\0kernel_text\0');
  });
});

describe('what cannot be loaded is refused with one clause', () => {
  test.each<[string, ElfRecipe, RegExp]>([
    ['no notes', {}, /no Xen ELF notes and no __xen_guest section/],
    ['a foreign machine', { machine: 40, notes: BASIC_NOTES }, /ELF machine 40/],
    ['another loader', { notes: [[5, 'xen-3.0'], [8, 'special'], [6, 'x']] }, /loader "special"/],
    ['no loader', { notes: [[5, 'xen-3.0']] }, /^has no ELF note LOADER/],
    ['a kernel for PVH', { notes: [[18, 0x10_0000]] }, /^was built for PVH domains alone/],
    ['another interface', { notes: [[5, 'xen-2.0'], [8, 'generic']] }, /interface "xen-2.0"/],
    ['a feature of dom0', { notes: [...BASIC_NOTES, [10, '!dom0']] }, /requires the feature dom0/],
    ['a feature of nobody', { notes: [...BASIC_NOTES, [10, '!telepathy']] }, /requires the feature telepathy, which no Xen has/],
    ['an offset without base', { notes: [...BASIC_NOTES, [4, 0]] }, /PADDR_OFFSET without VIRT_BASE/],
    ['an entry outside', { notes: [...BASIC_NOTES, [1, 0x9999_0000]] }, /entry 0x99990000 .* outside/],
    ['a start inside a page', { notes: BASIC_NOTES, segments: [{ paddr: 0x10_0010n, bytes: new Uint8Array(16) }] }, /not the start of a page/],
    ['nothing to load', { notes: BASIC_NOTES, segments: [], entry: 0n }, /no segments to load/],
  ])('%s', (_what, recipe, expected) => {
    expect(problem(recipe)).toMatch(expected);
  });

  test('every prefix of a kernel is refused or parses; nothing throws', () => {
    const whole = makeElf({ notes: [...BASIC_NOTES, [3, 0]], symbols: [{ name: 'a', value: 0x10_0000n }] });
    for (let length = 0; length < whole.length; length += 7) {
      const image = parseKernel(whole.subarray(0, length));
      expect('problem' in image, `${length} bytes`).toBe(true);
    }
  });

  test('random damage is refused or parses; nothing throws', () => {
    const whole = makeElf({ notes: [...BASIC_NOTES, [3, 0]], guestSection: 'LOADER=generic,XEN_VER=xen-3.0', symbols: [{ name: 'a', value: 0x10_0000n }] });
    const small = whole.length;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(small - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }), (changes) => {
        const bytes = Uint8Array.from(whole);
        for (const [at, value] of changes) bytes[at < 4096 + 200 && at > 200 ? at % 200 : at] = value;
        const image = parseKernel(bytes);
        if (!('problem' in image)) kernelSymbols(image);
        return true;
      }),
      { seed: 20, numRuns: 400 },
    );
  });
});

describe('our own guests', () => {
  test.each([['pv-i386-pae.elf', 'pv32pae'], ['pv-i386-nopae.elf', 'xen3-nopae'], ['pv-i386-legacy.elf', 'xen3-nopae']])('%s parses as %s', (name, abi) => {
    const image = parseKernel(shipped(name));
    expect(image).toMatchObject({ abi, virtBase: 0xc000_0000 });
    if (!('problem' in image)) expect(kernelSymbols(image).length).toBeGreaterThan(10);
  });
});

describe('containers', () => {
  const bzImage = (payload: number[], version = 0x20f): Uint8Array => {
    const bytes = new Uint8Array(1024 + payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint8(0x1f1, 1);
    view.setUint16(0x1fe, 0xaa55, true);
    view.setUint32(0x202, 0x5372_6448, true);
    view.setUint16(0x206, version, true);
    view.setUint32(0x248, 0, true);
    view.setUint32(0x24c, payload.length, true);
    bytes.set(payload, 1024);
    return bytes;
  };
  test.each([['gzip', [0x1f, 0x8b, 8]], ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]], ['lz4', [2, 0x21, 0x4c, 0x18]], ['zstd', [0x28, 0xb5, 0x2f, 0xfd]]])('a bzImage with %s inside is known', (codec, magic) => {
    expect(kernelContainer(bzImage([...magic, 1, 2, 3, 4]))).toMatchObject({ kind: 'packed', codec });
  });
  test('other payloads, old protocols and cut files are refused by name', () => {
    expect(kernelContainer(bzImage([0x42, 0x5a, 0x68, 1, 2, 3]))).toMatchObject({ problem: expect.stringContaining('bzip2') });
    expect(kernelContainer(bzImage([0x1f, 0x8b], 0x206))).toMatchObject({ problem: expect.stringContaining('2.06') });
    expect(kernelContainer(bzImage([0x1f, 0x8b, 0, 0]).subarray(0, 1026))).toMatchObject({ problem: expect.stringContaining('truncated') });
    expect(kernelContainer(Uint8Array.of(1, 2, 3))).toMatchObject({ problem: expect.stringContaining('not an ELF kernel') });
  });
});
