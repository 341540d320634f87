import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { gzipSync } from 'fflate';
import { createTar } from 'nanotar';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { register } from '../../src/cli/commands/fetch.ts';
import { debianPackageFiles, isDebianPackage } from '../../src/node/debian-package.ts';
import { fetchImage, fetchImages } from '../../src/node/fetch-image.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { imageFolders, resolveImage, sha256Of, storedImage } from '../../src/node/image-store.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rexen-test-'));
  vi.stubEnv('REXEN_CACHE', join(folder, 'cache'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const silent = (): void => {};

/** A Debian package with those files. */
function debianPackage(files: Readonly<Record<string, string>>): Uint8Array {
  const data = gzipSync(createTar(Object.entries(files).map(([name, text]) => ({ name: `./${name}`, data: bytesOf(text) }))));
  const member = (name: string, content: Uint8Array): Uint8Array[] => [
    bytesOf(`${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(content.length).padEnd(10)}\`\n`),
    content,
    new Uint8Array(content.length % 2),
  ];
  return Buffer.concat([bytesOf('!<arch>\n'), ...member('debian-binary', bytesOf('2.0\n')), ...member('control.tar.gz', gzipSync(new Uint8Array(1024))), ...member('data.tar.gz', data)]);
}
function file(name: string, content: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const GRUB_DEB = debianPackage({ 'usr/lib/grub-xen/grub-i386-xen.bin': 'grub 32', 'usr/lib/grub-xen/grub-x86_64-xen.bin': 'grub 64', 'usr/lib/grub-xen/grub-i386-xen_pvh.bin': 'pvh', 'usr/share/doc/readme': 'x' });

describe('a Debian package', () => {
  test('is read without any tool of Debian', async () => {
    expect(isDebianPackage(GRUB_DEB)).toBe(true);
    const files = await debianPackageFiles(GRUB_DEB, 'p', (path) => path.endsWith('.bin'));
    expect(files.map((entry) => [entry.path, new TextDecoder().decode(entry.bytes)])).toEqual([
      ['usr/lib/grub-xen/grub-i386-xen.bin', 'grub 32'], ['usr/lib/grub-xen/grub-x86_64-xen.bin', 'grub 64'], ['usr/lib/grub-xen/grub-i386-xen_pvh.bin', 'pvh'],
    ]);
  });

  test('gives every known image in it', async () => {
    const images = await fetchImage(file('grub.deb', GRUB_DEB), undefined, silent);
    expect(images.map((image) => image.name)).toEqual(['grub-i386', 'grub-x86_64']);
    expect(new TextDecoder().decode(resolveImage('grub-x86_64').bytes)).toBe('grub 64');
  });

  test.each([
    ['cut', GRUB_DEB.subarray(0, 150), /damaged Debian package/],
    ['of something else', debianPackage({ 'usr/bin/ls': 'x' }), /no image is in there/],
  ])('that is %s is refused by name', async (_what, bytes, expected) => {
    await expect(fetchImage(file('bad.deb', bytes), undefined, silent)).rejects.toThrow(expected);
  });
});

describe('a kernel package that somebody brings', () => {
  // Nothing is loaded as a module, so that the packages need hold no modules.
  const BUILTIN = 'kernel/drivers/block/xen-blkfront.ko\nkernel/drivers/net/xen-netfront.ko\nkernel/fs/ext4.ko\n';
  const kernelPackage = (release: string): Uint8Array => debianPackage({ [`boot/vmlinuz-${release}`]: `kernel ${release}`, [`usr/lib/modules/${release}/modules.builtin`]: BUILTIN });
  beforeEach(async () => void (await fetchImage(file('busybox', bytesOf('busybox')), undefined, silent)));
  const names = async (...args: Parameters<typeof fetchImages>): Promise<string[]> => (await fetchImages(...args)).map((image) => image.name).filter((name) => name !== 'linux-root-disk');

  test('of another flavour has its release as its name, and leaves the plain kernel alone', async () => {
    expect(await names([file('plain.deb', kernelPackage('6.1.0-9-amd64'))], undefined, silent)).toEqual(['debian-linux', 'debian-linux-initramfs', 'debian-linux-boot-disk']);
    expect(await names([file('rt.deb', kernelPackage('6.1.0-9-rt-amd64'))], undefined, silent)).toEqual(['linux-6.1.0-9-rt-amd64', 'linux-6.1.0-9-rt-amd64-initramfs']);
    expect(new TextDecoder().decode(resolveImage('debian-linux').bytes)).toBe('kernel 6.1.0-9-amd64');
  });

  test('takes any name, by which it boots with its ramdisk, disk and network card', async () => {
    expect(await names([file('k.deb', kernelPackage('6.18.15+deb13-amd64'))], 'my-linux', silent)).toEqual(['my-linux', 'my-linux-initramfs']);
    expect((await findScenario('my-linux')).spec.domains[0]).toMatchObject({ kernel: { name: 'my-linux' }, ramdisk: { name: 'my-linux-initramfs' }, vifs: [{ bridge: 'xenbr0' }] });
    expect(await names([file('k.deb', kernelPackage('6.18.15+deb13-amd64'))], 'debian-linux-trixie', silent)).toContain('debian-linux-trixie-boot-disk');
    await expect(names([file('k.deb', kernelPackage('6.1-amd64'))], 'grub-i386', silent)).rejects.toThrow(/no image is in there that could be named grub-i386/);
    await expect(names([file('grub.deb', GRUB_DEB)], 'mine', silent)).rejects.toThrow(/several images are in there \(grub-i386, grub-x86_64\)/);
  });

  test('may be in parts, as since Debian 14, which are given together', async () => {
    const release = '7.2.13+deb14-amd64';
    const binary = file(`linux-binary-${release}.deb`, debianPackage({ [`usr/lib/modules/${release}/vmlinuz`]: 'seven' }));
    const base = file(`linux-base-${release}.deb`, debianPackage({ [`usr/lib/modules/${release}/modules.builtin`]: BUILTIN }));
    expect(await names([binary, base], undefined, silent)).toEqual(['debian-linux', 'debian-linux-initramfs', 'debian-linux-boot-disk']);
    expect(await names([base, binary], 'seven', silent)).toEqual(['seven', 'seven-initramfs']);
    await expect(names([binary], 'half', silent)).rejects.toThrow(/linux-modules-VERSION and linux-base-VERSION in one command/);
    expect(storedImage('half')).toBeUndefined();
    await expect(names([file(`linux-image-${release}.deb`, debianPackage({ 'usr/share/doc/x': '' }))], undefined, silent)).rejects.toThrow(/since Debian 14 a kernel is in three packages/);
    await expect(names([binary, file('vmlinux', bytesOf('k'))], 'two', silent)).rejects.toThrow(/--as two names one image/);
  });
});

describe('a local file', () => {
  test('is stored under its own name, a known one, or the one given', async () => {
    expect((await fetchImage(file('vmlinux', bytesOf('kernel')), undefined, silent))[0]?.name).toBe('vmlinux');
    expect((await fetchImage(file('grub-i386-xen.bin', bytesOf('g')), undefined, silent))[0]?.name).toBe('grub-i386');
    expect((await fetchImage(file('vmlinuz-6.1.0-9-cloud-amd64', bytesOf('l')), undefined, silent))[0]?.name).toBe('debian-linux-cloud');
    expect((await fetchImage(file('other', bytesOf('o')), 'my kernel', silent))[0]?.name).toBe('my kernel');
    expect(new TextDecoder().decode(resolveImage('my kernel').bytes)).toBe('o');
  });

  test('that is fetched again replaces the current one and leaves the old one to its recordings', async () => {
    const [first] = await fetchImage(file('k', bytesOf('one')), undefined, silent);
    const [second] = await fetchImage(file('k', bytesOf('two')), undefined, silent);
    expect(storedImage('k')?.sha256).toBe(sha256Of(bytesOf('two')));
    expect(readFileSync(first?.path ?? '', 'utf8')).toBe('one');
    expect(second?.path).not.toBe(first?.path);
    expect(imageFolders()[0]).toBe(join(folder, 'cache', 'images'));
  });
});

describe('names that lead nowhere say what to do', () => {
  test('a known image that was not fetched', () => {
    expect(() => resolveImage('grub-i386')).toThrow(/run `rexen fetch grub-i386` first/);
  });
  test('an unknown one', async () => {
    expect(() => resolveImage('nonsense')).toThrow(/nonsense: there is no such kernel/);
    await expect(fetchImage('nonsense', undefined, silent)).rejects.toThrow(/neither a known image \(grub-i386, /);
  });
  test('a builtin that does not exist', () => {
    expect(() => resolveImage('builtin:none.elf')).toThrow(/no such image/);
    expect(resolveImage('builtin:pv-i386-pae.elf').bytes.length).toBeGreaterThan(1000);
  });
  test('a stored image that somebody changed', async () => {
    const [image] = await fetchImage(file('k', bytesOf('one')), undefined, silent);
    writeFileSync(image?.path ?? '', 'changed');
    expect(() => resolveImage('k')).toThrow(/was changed since it was fetched/);
    writeFileSync(join(folder, 'cache', 'images', 'k', 'current.json'), '{');
    expect(() => resolveImage('k')).toThrow(/is damaged; run `rexen fetch k` again/);
  });
  test('a machine without apt-get', async () => {
    vi.stubEnv('PATH', folder);
    await expect(fetchImage('grub-i386', undefined, silent)).rejects.toThrow(/no apt-get; on a Debian machine run `apt-get download PACKAGE`/);
  });
  test('an archive that cannot be reached', async () => {
    const apt = file('apt-get', bytesOf('#!/bin/sh\necho "E: no network" >&2\nexit 100\n'));
    const { chmodSync } = await import('node:fs');
    chmodSync(apt, 0o755);
    vi.stubEnv('PATH', `${folder}:/bin:/usr/bin`);
    await expect(fetchImage('grub-i386', undefined, silent)).rejects.toThrow(/apt-get update says "no network"; on a machine that can, run `apt-get download grub-xen-host`/);
  });
});

describe('the command', () => {
  const run = async (...args: string[]): Promise<string> => {
    let out = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    });
    const program = new Command().exitOverride();
    register(program);
    await program.parseAsync(['node', 'rexen', 'fetch', ...args]);
    return out;
  };
  test('prints where the image is, or one JSON object', async () => {
    const path = file('kernel', bytesOf('k'));
    expect(await run(path)).toMatch(/^kernel: .*\.bin\n {2}1 bytes, sha256 [0-9a-f]{64}, from .*kernel\n$/);
    expect(JSON.parse(await run(path, '--json'))).toMatchObject({ images: [{ name: 'kernel', sizeBytes: 1 }] });
    expect(JSON.parse(await run('--list', '--json'))).toMatchObject({ images: expect.arrayContaining([expect.objectContaining({ name: 'grub-i386', path: null })]) });
  });
  test('takes the version of a Debian kernel as a name', async () => {
    expect(await run(file('kernel', bytesOf('k')), '--as', 'linux-6.18.15+deb13-amd64')).toMatch(/^linux-6\.18\.15\+deb13-amd64: /);
  });
  test('lists what has a name of the user, once', async () => {
    await run(file('kernel', bytesOf('k')), '--as', 'mine');
    await run(file('initrd', bytesOf('i')), '--as', 'mine-initramfs');
    await run(file('busybox', bytesOf('b')));
    const { images } = JSON.parse(await run('--list', '--json')) as { images: { name: string; title: string }[] };
    expect(images.filter(({ title }) => title === 'your own').map(({ name }) => name)).toEqual(['mine']);
  });
  test('wants something to fetch', async () => {
    await expect(run()).rejects.toThrow(/say what to fetch/);
  });
});

test('a Linux kernel of Debian boots by its name, with the ramdisk, disk and network card that fetch made', async () => {
  const { spec, expect: expected, needs } = await findScenario('debian-linux-trixie');
  expect(spec.domains[0]).toMatchObject({ kernel: { name: 'debian-linux-trixie' }, ramdisk: { name: 'debian-linux-trixie-initramfs' }, disks: [{ vdev: 'xvda', image: { name: 'linux-root-disk' } }], vifs: [{ bridge: 'xenbr0' }] });
  expect(expected.console).toEqual(['BOOT-OK', 'ALL-OK']);
  expect(needs).toEqual(['debian-linux-trixie']);
});
