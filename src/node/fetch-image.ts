// Gets an image that the product knows of, from Debian's archive, or takes one that the user has: a
// kernel, or a Debian package. A Linux kernel comes with an initramfs of its own modules and a disk.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { downloadPackage } from './debian-archive.ts';
import { debianPackageFiles, isDebianPackage, type PackageFile } from './debian-package.ts';
import { bootDiskNameOf, initramfsNameOf, KNOWN_IMAGES, knownImage, LINUX_DISK, type KnownImage } from './image-registry.ts';
import { resolveImage, storedImage, storeImage, type StoredImage } from './image-store.ts';
import { linuxBootDisk, linuxInitramfs, linuxRootDisk } from './linux/guest-files.ts';
import { isModuleFile } from './linux/kernel-modules.ts';

type Say = (line: string) => void;

/** A known name, or a path with `as` to name what is in it. `say` gets lines about what goes on. */
export async function fetchImage(nameOrPath: string, as: string | undefined, say: Say): Promise<StoredImage[]> {
  const row = knownImage(nameOrPath);
  if (row !== undefined && as === undefined) return fetchKnown(row, say);
  if (!existsSync(nameOrPath)) throw new UsageError(`${nameOrPath}: neither a known image (${KNOWN_IMAGES.map((known) => known.name).join(', ')}) nor a file`);
  return takeFile(nameOrPath, as, say);
}

/** A Debian package gives every known image that is in it; any other file is an image itself. */
async function takeFile(path: string, as: string | undefined, say: Say): Promise<StoredImage[]> {
  const bytes = new Uint8Array(readFileSync(path));
  if (!isDebianPackage(bytes)) {
    const byName = KNOWN_IMAGES.find((row) => row.inside.test(`usr/lib/grub-xen/${basename(path)}`) || row.inside.test(`boot/${basename(path)}`));
    return [storeImage(as ?? byName?.name ?? basename(path), bytes, path)];
  }
  // Rows of other suites hold the same file; a package that somebody gives is the plain row's.
  const rows = KNOWN_IMAGES.filter((row) => (as === undefined ? row.suite === undefined : row.name === as));
  const stored = await takePackage(rows, bytes, basename(path), say);
  if (stored.length === 0) throw new UsageError(`${path}: this package has none of the known images${as === undefined ? '' : ` named ${as}`} (${KNOWN_IMAGES.map((row) => `${row.name} is in ${row.debianPackage}`).join(', ')})`);
  return stored;
}

async function fetchKnown(row: KnownImage, say: Say): Promise<StoredImage[]> {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-fetch-'));
  try {
    const file = downloadPackage(row, folder, say);
    const stored = await takePackage([row], new Uint8Array(readFileSync(join(folder, file))), file, say);
    if (stored.length === 0) throw new UsageError(`${file} does not contain ${row.name} any more; give the file yourself: \`rexen fetch FILE --as ${row.name}\``);
    return stored;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Stores what the package has of the rows' images, and what is made from them. */
async function takePackage(rows: readonly KnownImage[], bytes: Uint8Array, name: string, say: Say): Promise<StoredImage[]> {
  const linux = rows.some((row) => row.linux === true);
  const files = await debianPackageFiles(bytes, name, (inside) => rows.some((row) => row.inside.test(inside)) || (linux && isModuleFile(inside)));
  const stored: StoredImage[] = [];
  for (const row of rows) {
    const file = files.find((candidate) => row.inside.test(candidate.path));
    if (file === undefined) continue;
    stored.push(storeImage(row.name, file.bytes, `${name}: ${file.path}`));
    if (row.linux === true) stored.push(...(await linuxCompanions(row, file.bytes, files, name, say)));
  }
  return stored;
}

async function linuxCompanions(row: KnownImage, kernel: Uint8Array, files: readonly PackageFile[], origin: string, say: Say): Promise<StoredImage[]> {
  const busybox = knownImage('busybox') as KnownImage;
  const fetched = storedImage(busybox.name) === undefined ? await fetchKnown(busybox, say) : [];
  const modules = files.filter((file) => isModuleFile(file.path));
  const initramfs = await linuxInitramfs(resolveImage(busybox.name).bytes, modules);
  return [
    ...fetched,
    storeImage(initramfsNameOf(row.name), initramfs, `made of ${storedImage(busybox.name)?.origin ?? 'busybox'} and the modules of ${origin}`),
    storeImage(LINUX_DISK, linuxRootDisk(), 'made by Rexen'),
    ...(row.bootDisk === true ? [storeImage(bootDiskNameOf(row.name), linuxBootDisk(kernel, initramfs), `made of ${origin}`)] : []),
  ];
}
