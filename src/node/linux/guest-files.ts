// The files of a Linux guest beside its kernel: an initramfs from Debian's static busybox and the
// kernel package's own modules, and a root disk. Both are the same bytes wherever they are made.
import { createHash } from 'node:crypto';
import type { PackageFile } from '../debian-package.ts';
import { writeCpio, type CpioEntry } from './cpio.ts';
import { writeExt4, type Ext4File, type Ext4Options } from './ext4-image.ts';
import { INIT_SCRIPT, UDHCPC_SCRIPT } from './init-script.ts';
import { planModules } from './kernel-modules.ts';

/** The frontends and the file system are modules in Debian's kernels. */
const MODULES = ['xen-blkfront', 'xen-netfront', 'ext4'];
/** ext4 asks for a checksum by name, which its dependencies do not say in every version. */
const OPTIONAL_MODULES = ['crc32c_generic'];
const FOLDERS = ['bin', 'dev', 'mnt', 'modules', 'proc', 'run', 'sys', 'tmp'];

const DISK = { sizeMib: 16, label: 'rexen-root', timeSec: 1_167_609_600, uuid: Uint8Array.from([...'Rexen root disk!'], (char) => char.charCodeAt(0)) } as const;
const NOISE_BYTES = 1 << 20;
/** A kernel and an initramfs have some 15 MiB. */
const BOOT_DISK_MIB = 64;
const GRUB_MENU = `set timeout=0
set default=0
menuentry "Debian GNU/Linux" {
  linux /boot/vmlinuz console=hvc0
  initrd /boot/initrd.img
}
`;

const text = (content: string): Uint8Array => new TextEncoder().encode(content);

export async function linuxInitramfs(busybox: Uint8Array, moduleFiles: readonly PackageFile[]): Promise<Uint8Array> {
  const modules = await planModules(moduleFiles, MODULES, OPTIONAL_MODULES);
  const entries: CpioEntry[] = [
    ...FOLDERS.map((path): CpioEntry => ({ path, kind: 'directory' })),
    { path: 'init', kind: 'file', bytes: text(INIT_SCRIPT), executable: true },
    { path: 'udhcpc.sh', kind: 'file', bytes: text(UDHCPC_SCRIPT), executable: true },
    { path: 'bin/busybox', kind: 'file', bytes: busybox, executable: true },
    { path: 'bin/sh', kind: 'link', target: 'busybox' },
    { path: 'modules/order', kind: 'file', bytes: text(modules.map((module) => `${module.name}\n`).join('')) },
    ...modules.map((module): CpioEntry => ({ path: `modules/${module.name}.ko`, kind: 'file', bytes: module.bytes })),
  ];
  return writeCpio(entries);
}

const rootFiles = (): Ext4File[] => [
  { path: 'etc/hostname', bytes: text('rexen\n') },
  { path: 'README', bytes: text('The root disk of the Linux guests of Rexen.\n') },
  { path: 'data/noise', bytes: noise(NOISE_BYTES) },
];

/** 16 MiB, ext4: a few files and their checksums. */
export const linuxRootDisk = (): Uint8Array => withSums(rootFiles(), DISK);

/** As the root disk, with a kernel, its initramfs and a menu for GRUB, as an installed system has them. */
export function linuxBootDisk(kernel: Uint8Array, initramfs: Uint8Array): Uint8Array {
  const files = [...rootFiles(), { path: 'boot/vmlinuz', bytes: kernel }, { path: 'boot/initrd.img', bytes: initramfs }, { path: 'boot/grub/grub.cfg', bytes: text(GRUB_MENU) }];
  return withSums(files, { ...DISK, sizeMib: BOOT_DISK_MIB, label: 'rexen-boot' });
}

function withSums(files: readonly Ext4File[], options: Ext4Options): Uint8Array {
  const sums = files.map((file) => `${createHash('sha256').update(file.bytes).digest('hex')}  ${file.path}\n`).join('');
  return writeExt4([...files, { path: 'SHA256SUMS', bytes: text(sums) }], options);
}

/** Bytes without a pattern that a compressor or a careless copy would get right by luck (xorshift32). */
function noise(sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  let x = 0x9e3779b9;
  for (let i = 0; i < sizeBytes; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x >>> 24;
  }
  return bytes;
}
