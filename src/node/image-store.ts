// Where fetched images are kept: a folder per name with the files by hash and a note which one is
// current. Older ones stay, since recordings name them by hash.
//
//   $REXEN_CACHE, or $XDG_CACHE_HOME/rexen, or ~/.cache/rexen
//     images/grub-i386/<sha256>.bin ...  images/grub-i386/current.json
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { fetchedWith, initramfsNameOf } from './image-registry.ts';
import { guestImagesFolder } from './package-info.ts';

export interface StoredImage {
  readonly name: string;
  readonly path: string;
  /** Hex. */
  readonly sha256: string;
  readonly sizeBytes: number;
  /** A Debian package with its version, or a file's path. */
  readonly origin: string;
}

export interface ImageFile extends StoredImage {
  readonly bytes: Uint8Array;
}

/** Prefix of images that come with the product. */
const BUILTIN = 'builtin:';

export function cacheFolder(): string {
  const own = process.env['REXEN_CACHE'];
  if (own !== undefined && own !== '') return resolve(own);
  const xdg = process.env['XDG_CACHE_HOME'];
  return join(xdg !== undefined && xdg !== '' ? xdg : join(homedir(), '.cache'), 'rexen');
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const folderOf = (name: string): string => join(cacheFolder(), 'images', name.replaceAll(/[^A-Za-z0-9._-]/g, '_'));

/** Keeps the bytes under that name and makes them the current ones. A crash leaves no half file. */
export function storeImage(name: string, bytes: Uint8Array, origin: string): StoredImage {
  const folder = folderOf(name);
  mkdirSync(folder, { recursive: true });
  const sha256 = sha256Of(bytes);
  const path = join(folder, `${sha256}.bin`);
  const stored: StoredImage = { name, path, sha256, sizeBytes: bytes.length, origin };
  writeWhole(path, bytes);
  writeWhole(join(folder, 'current.json'), `${JSON.stringify({ ...stored, path: `${sha256}.bin` }, null, 2)}\n`);
  return stored;
}

export function writeWhole(path: string, content: Uint8Array | string): void {
  const partial = `${path}.${process.pid}.partial`;
  writeFileSync(partial, content);
  renameSync(partial, path);
}

/** The current image of a name, or undefined if it was never fetched. */
export function storedImage(name: string): StoredImage | undefined {
  const folder = folderOf(name);
  const note = join(folder, 'current.json');
  if (!existsSync(note)) return undefined;
  try {
    const stored = JSON.parse(readFileSync(note, 'utf8')) as StoredImage;
    return { ...stored, path: join(folder, stored.path) };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new UsageError(`${note} is damaged; run \`rexen fetch ${name}\` again`);
  }
}

/** What was fetched under a name of the user's own, ordered by name; what was made for a kernel is not told apart from it. */
export function ownImages(): StoredImage[] {
  const folder = join(cacheFolder(), 'images');
  const names = existsSync(folder) ? readdirSync(folder).sort((a, b) => (a < b ? -1 : 1)) : [];
  const stored = names.map(storedImage).filter((image): image is StoredImage => image !== undefined && fetchedWith(image.name) === undefined);
  const made = new Set(stored.map(({ name }) => initramfsNameOf(name)));
  return stored.filter(({ name }) => !made.has(name));
}

/**
 * The image that a scenario or a user names: `builtin:FILE` of scenarios/guests/images, a name of
 * `rexen fetch`, or a path. Throws UsageError that says what to do.
 */
export function resolveImage(name: string): ImageFile {
  if (name.startsWith(BUILTIN)) {
    const path = join(guestImagesFolder(), name.slice(BUILTIN.length));
    if (!existsSync(path)) throw new UsageError(`${name}: there is no such image in ${guestImagesFolder()}`);
    return fileImage(name, path, 'this package');
  }
  const stored = storedImage(name);
  if (stored !== undefined && existsSync(stored.path)) {
    const bytes = new Uint8Array(readFileSync(stored.path));
    if (sha256Of(bytes) !== stored.sha256) throw new UsageError(`${stored.path} was changed since it was fetched; run \`rexen fetch ${name}\` again`);
    return { ...stored, bytes };
  }
  if (existsSync(name) && statSync(name).isFile()) return fileImage(name, name, name);
  const fetched = fetchedWith(name);
  if (fetched !== undefined) throw new UsageError(`the image ${name} is not here yet; run \`rexen fetch ${fetched}\` first, or \`rexen fetch FILE --as ${name}\` with a file that you have`);
  throw new UsageError(`${name}: there is no such kernel or ramdisk; give a path or a name from \`rexen fetch --list\``);
}

/** Where the image of that name is, without reading it. Throws UsageError. */
export function resolveImagePath(name: string): string {
  if (name.startsWith(BUILTIN)) return resolveImage(name).path;
  const stored = storedImage(name);
  if (stored !== undefined && existsSync(stored.path)) return stored.path;
  const fetched = fetchedWith(name);
  if (!existsSync(name) && fetched !== undefined) throw new UsageError(`the image ${name} is not here yet; run \`rexen fetch ${fetched}\` first`);
  return name;
}

function fileImage(name: string, path: string, origin: string): ImageFile {
  const bytes = new Uint8Array(readFileSync(path));
  return { name, path, sha256: sha256Of(bytes), sizeBytes: bytes.length, origin, bytes };
}

/** Folders that hold images by whatever name: for those who look by hash. */
export function imageFolders(): string[] {
  return [join(cacheFolder(), 'images'), guestImagesFolder()].filter((folder) => existsSync(folder));
}
