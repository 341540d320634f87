import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sha256Of } from '../../../src/node/image-store.ts';
import { writeCpio } from '../../../src/node/linux/cpio.ts';
import { writeExt4 } from '../../../src/node/linux/ext4-image.ts';
import { linuxBootDisk, linuxInitramfs, linuxRootDisk } from '../../../src/node/linux/guest-files.ts';
import { planModules } from '../../../src/node/linux/kernel-modules.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'rexen-test-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
/** Whether the program is here; CI installs them, a fresh machine need not have them. */
const has = (program: string): boolean => spawnSync(program, ['--version'], { env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` } }).error === undefined;
function run(program: string, args: readonly string[], input?: Uint8Array): { status: number | null; out: string } {
  const result = spawnSync(program, args, { input, encoding: 'utf8', cwd: folder, env: { ...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` } });
  return { status: result.status, out: `${result.stdout}${result.stderr}` };
}

/** The least of a module: an ELF header and a .modinfo section. */
function moduleWith(info: Readonly<Record<string, string>>): Uint8Array {
  const modinfo = bytesOf(Object.entries(info).map(([key, value]) => `${key}=${value}\0`).join(''));
  const names = bytesOf('\0.modinfo\0.shstrtab\0');
  const sections = 64 + modinfo.length + names.length;
  const bytes = new Uint8Array(sections + 3 * 64);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(18, 62, true);
  view.setUint32(40, sections, true);
  view.setUint16(58, 64, true);
  view.setUint16(60, 3, true);
  view.setUint16(62, 2, true);
  bytes.set(modinfo, 64);
  bytes.set(names, 64 + modinfo.length);
  const section = (index: number, name: number, offset: number, size: number): void => {
    view.setUint32(sections + index * 64, name, true);
    view.setUint32(sections + index * 64 + 24, offset, true);
    view.setUint32(sections + index * 64 + 32, size, true);
  };
  section(1, 1, 64, modinfo.length);
  section(2, 10, 64 + modinfo.length, names.length);
  return bytes;
}
const PACKAGE = [
  { path: 'lib/modules/6.1/kernel/fs/ext4.ko', bytes: moduleWith({ depends: 'mbcache,crc16', softdep: 'pre: crc32c' }) },
  { path: 'lib/modules/6.1/kernel/fs/mbcache.ko', bytes: moduleWith({ depends: '' }) },
  { path: 'usr/lib/modules/6.1/kernel/drivers/xen-blkfront.ko', bytes: moduleWith({}) },
  { path: 'lib/modules/6.1/modules.builtin', bytes: bytesOf('kernel/lib/crc16.ko\nkernel/drivers/net/xen-netfront.ko\n') },
];

describe('modules of a kernel package', () => {
  test('come in loading order, without what is built in and without soft dependencies that are not there', async () => {
    expect((await planModules(PACKAGE, ['xen-blkfront', 'xen-netfront', 'ext4'])).map((module) => module.name)).toEqual(['xen_blkfront', 'mbcache', 'ext4']);
  });
  test('that the package lacks are named', async () => {
    await expect(planModules(PACKAGE, ['zfs'])).rejects.toThrow(/neither has the module zfs nor says that it is built in/);
    await expect(planModules(PACKAGE.slice(0, 1), ['ext4'])).rejects.toThrow(/module mbcache/);
  });
});

describe('an initramfs', () => {
  test('is the same bytes every time', async () => {
    expect(sha256Of(await linuxInitramfs(bytesOf('busybox'), PACKAGE))).toBe(sha256Of(await linuxInitramfs(bytesOf('busybox'), PACKAGE)));
  });
  test.skipIf(!has('cpio'))('is a cpio archive as cpio reads it', async () => {
    const archive = writeCpio([{ path: 'a', kind: 'directory' }, { path: 'a/b', kind: 'file', bytes: bytesOf('hello'), executable: true }, { path: 'a/c', kind: 'link', target: 'b' }]);
    expect(run('cpio', ['-it', '--quiet'], archive)).toEqual({ status: 0, out: 'a\na/b\na/c\n' });
    expect(run('cpio', ['-idm', '--quiet'], archive).status).toBe(0);
    expect(readFileSync(join(folder, 'a/c'), 'utf8')).toBe('hello');
  });
});

describe('an ext4 image', () => {
  const disk = linuxRootDisk();
  test('is the same bytes on every machine', () => {
    expect(disk.length).toBe(16 * 1024 * 1024);
    // Recordings name the disk by its hash: a change is meant, or a mistake.
    expect(sha256Of(disk)).toBe('72011e6d7f58bd7e8a5b10739b2ead9c969a092dcd7b86e722003c6e2f4913f3');
  });
  test.skipIf(!has('e2fsck'))('has nothing that e2fsck would mend, and gives its files back', () => {
    const path = join(folder, 'disk.img');
    writeFileSync(path, disk);
    expect(run('e2fsck', ['-fn', path])).toMatchObject({ status: 0 });
    expect(run('debugfs', ['-R', 'cat etc/hostname', path]).out).toContain('rexen\n');
    expect(run('debugfs', ['-R', `dump data/noise ${join(folder, 'noise')}`, path]).status).toBe(0);
    const sums = /(\S+) {2}data\/noise/.exec(run('debugfs', ['-R', 'cat SHA256SUMS', path]).out)?.[1];
    expect(run('sha256sum', ['noise']).out).toContain(sums as string);
  });
  test.skipIf(!has('e2fsck'))('from which GRUB boots holds kernel, initramfs and menu, and is as clean', () => {
    const path = join(folder, 'boot.img');
    writeFileSync(path, linuxBootDisk(bytesOf('the kernel'), bytesOf('the initramfs')));
    expect(run('e2fsck', ['-fn', path])).toMatchObject({ status: 0 });
    expect(run('debugfs', ['-R', 'cat boot/vmlinuz', path]).out).toContain('the kernel');
    expect(run('debugfs', ['-R', 'cat boot/initrd.img', path]).out).toContain('the initramfs');
    expect(run('debugfs', ['-R', 'cat boot/grub/grub.cfg', path]).out).toMatch(/linux \/boot\/vmlinuz console=hvc0\n {2}initrd \/boot\/initrd.img/);
    expect(run('debugfs', ['-R', 'cat SHA256SUMS', path]).out).toMatch(/ {2}boot\/vmlinuz\n/);
  });
  test('says what does not fit', () => {
    const options = { sizeMib: 8, uuid: new Uint8Array(16), label: 'x', timeSec: 0 };
    expect(() => writeExt4([{ path: 'big', bytes: new Uint8Array(5 * 1024 * 1024) }], options)).toThrow(/do not fit into 8 MiB/);
    expect(() => writeExt4([], { ...options, sizeMib: 4 })).toThrow(/8 to 128 MiB/);
  });
});
