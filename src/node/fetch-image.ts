// Gets an image that the product knows of, from Debian's archive, or takes one that the user has: a
// kernel, or a Debian package. A Linux kernel comes with an initramfs of its own modules and a disk.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { downloadPackage } from './debian-archive.ts';
import { debianPackageFiles, isDebianPackage, type PackageFile } from './debian-package.ts';
import { bootDiskNameOf, initramfsNameOf, kernelRelease, KNOWN_IMAGES, knownImage, LINUX_DISK, otherLinux, type KnownImage } from './image-registry.ts';
import { resolveImage, storedImage, storeImage, type StoredImage } from './image-store.ts';
import { linuxBootDisk, linuxInitramfs, linuxRootDisk } from './linux/guest-files.ts';
import { isModuleFile } from './linux/kernel-modules.ts';

type Say = (line: string) => void;

/** Known names, or paths; with `as` to name what is in them. `say` gets lines about what goes on. */
export async function fetchImages(names: readonly string[], as: string | undefined, say: Say): Promise<StoredImage[]> {
  const stored: StoredImage[] = [];
  const packages: Package[] = [];
  for (const name of names) {
    const row = knownImage(name);
    if (row !== undefined && as === undefined) {
      stored.push(...(await fetchKnown(row, say)));
      continue;
    }
    if (!existsSync(name)) throw new UsageError(`${name}: neither a known image (${KNOWN_IMAGES.map((known) => known.name).join(', ')}) nor a file`);
    const bytes = new Uint8Array(readFileSync(name));
    if (isDebianPackage(bytes)) packages.push({ name: basename(name), bytes });
    else stored.push(takeFile(name, bytes, as));
  }
  if (as !== undefined && stored.length + Math.min(packages.length, 1) > 1) throw new UsageError(`--as ${as} names one image: a file, or the Debian packages of one kernel; fetch the others without it`);
  // Together, since Debian 14 has a kernel and its modules in packages of their own.
  return packages.length === 0 ? stored : [...stored, ...(await takeLocalPackages(packages, as, say))];
}

export const fetchImage = (nameOrPath: string, as: string | undefined, say: Say): Promise<StoredImage[]> => fetchImages([nameOrPath], as, say);

interface Package {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** A file that is an image itself. */
function takeFile(path: string, bytes: Uint8Array, as: string | undefined): StoredImage {
  const byName = KNOWN_IMAGES.find((row) => row.inside.test(`usr/lib/grub-xen/${basename(path)}`) || row.inside.test(`boot/${basename(path)}`));
  return storeImage(as ?? byName?.name ?? basename(path), bytes, path);
}

/** Packages give every known image that is in them, a kernel that is not known by its release, or what `as` is to name. */
async function takeLocalPackages(packages: readonly Package[], as: string | undefined, say: Say): Promise<StoredImage[]> {
  const names = packages.map((one) => one.name).join(', ');
  // Rows of other suites hold the same file; a package that somebody gives is the plain row's.
  const plain = KNOWN_IMAGES.filter((row) => row.suite === undefined);
  const files = await unpackPackages(packages, (inside) => kernelRelease(inside) !== undefined || isModuleFile(inside) || plain.some((row) => row.inside.test(inside)));
  const rows = rowsFor(files, plain, as, names);
  if (rows.length > 0) return storeFrom(rows, files, names, say);
  const parts = packages.find((one) => /^linux-(?:image|modules|base)-/.test(one.name)) !== undefined ? '; since Debian 14 a kernel is in three packages, give all of them in one command: linux-binary-VERSION, linux-modules-VERSION and linux-base-VERSION' : '';
  throw new UsageError(`${names}: no image is in there${as === undefined ? '' : ` that could be named ${as}`} (${plain.map((row) => `${row.name} is in ${row.debianPackage}`).join(', ')})${parts}`);
}

function rowsFor(files: readonly PackageFile[], plain: readonly KnownImage[], as: string | undefined, names: string): KnownImage[] {
  const kernel = files.map((file) => kernelRelease(file.path)).find((release) => release !== undefined);
  const here = plain.filter((row) => files.some((file) => row.inside.test(file.path)));
  if (as === undefined) return here.length > 0 || kernel === undefined ? here : [otherLinux(`linux-${kernel}`, names)];
  const known = knownImage(as);
  if (known !== undefined && files.some((file) => known.inside.test(file.path))) return [known];
  if (kernel !== undefined && known === undefined) return [otherLinux(as, names)];
  if (known !== undefined || here.length === 0) return [];
  if (here.length > 1) throw new UsageError(`${names}: several images are in there (${here.map((row) => row.name).join(', ')}), and --as names one; fetch them without it`);
  return here.map((row) => ({ ...row, name: as }));
}

async function unpackPackages(packages: readonly Package[], wanted: (inside: string) => boolean): Promise<PackageFile[]> {
  const files: PackageFile[] = [];
  for (const { name, bytes } of packages) files.push(...(await debianPackageFiles(bytes, name, wanted)));
  return files;
}

async function fetchKnown(row: KnownImage, say: Say): Promise<StoredImage[]> {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-fetch-'));
  try {
    const packages = downloadPackage(row, folder, say).map((name) => ({ name, bytes: new Uint8Array(readFileSync(join(folder, name))) }));
    const names = packages.map((one) => one.name).join(', ');
    const files = await unpackPackages(packages, (inside) => row.inside.test(inside) || (row.linux === true && isModuleFile(inside)));
    const stored = await storeFrom([row], files, names, say);
    if (stored.length === 0) throw new UsageError(`${names} does not contain ${row.name} any more; give the file yourself: \`rexen fetch FILE --as ${row.name}\``);
    return stored;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Stores what the packages have of the rows' images, and what is made from them. */
async function storeFrom(rows: readonly KnownImage[], files: readonly PackageFile[], name: string, say: Say): Promise<StoredImage[]> {
  const stored: StoredImage[] = [];
  for (const row of rows) {
    const file = files.find((candidate) => row.inside.test(candidate.path));
    if (file === undefined) continue;
    // Made first: a kernel whose modules are missing is refused whole.
    const companions = row.linux === true ? await linuxCompanions(row, file.bytes, files, name, say) : [];
    stored.push(storeImage(row.name, file.bytes, `${name}: ${file.path}`), ...companions);
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
