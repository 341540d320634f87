// Disk images as files of the host: opened for reading, read piece by piece when the guest does, hashed
// once as a whole. A file may be larger than memory. It must not change while a world runs on it, or
// the recording's hash would be a lie: whoever ran the world asks afterwards.
import { closeSync, existsSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';
import { runningHash } from '../base/hash.ts';
import { blankImage, bytesImage } from '../dom0/disk.ts';
import type { ImageReader } from '../dom0/ports.ts';
import type { ImageRef as LoggedImage } from '../log/packets.ts';
import { resolveImagePath } from './image-store.ts';

/** Guests read in small pieces, and what lies beside each other. */
const WINDOW_BYTES = 256 * 1024;
const HASH_BYTES = 4 * 1024 * 1024;
const SMALLEST_DISK_BYTES = 512;

export interface DiskImage {
  readonly reader: ImageReader;
  /** Undefined: its name says everything (blank:64MiB). */
  readonly blake3: Uint8Array | undefined;
  /** The file is not what it was when it was opened. */
  changed(): boolean;
}

function readFully(fd: number, offset: number, into: Uint8Array): number {
  let done = 0;
  while (done < into.length) {
    const got = readSync(fd, into, done, into.length - done, offset + done);
    if (got === 0) break;
    done += got;
  }
  return done;
}

/** One window of the file stays in memory. */
class FileReader implements ImageReader {
  readonly sizeBytes: number;
  readonly #fd: number;
  #window = new Uint8Array(0);
  #windowAt = 0;

  constructor(fd: number, sizeBytes: number) {
    this.#fd = fd;
    this.sizeBytes = sizeBytes;
  }

  read(offset: number, wanted: number): Uint8Array {
    const sizeBytes = Math.max(0, Math.min(wanted, this.sizeBytes - offset));
    if (offset < this.#windowAt || offset + sizeBytes > this.#windowAt + this.#window.length) {
      const at = offset - (offset % 4096);
      const bytes = new Uint8Array(Math.min(Math.max(WINDOW_BYTES, offset + sizeBytes - at), this.sizeBytes - at));
      this.#window = bytes.subarray(0, readFully(this.#fd, at, bytes));
      this.#windowAt = at;
    }
    return this.#window.slice(offset - this.#windowAt, offset - this.#windowAt + sizeBytes);
  }
}

/** BLAKE3 of a file that need not fit into memory. */
export function hashFile(path: string): Uint8Array {
  const fd = openSync(path, 'r');
  try {
    const hash = runningHash();
    const piece = new Uint8Array(HASH_BYTES);
    for (let at = 0; ; ) {
      const got = readFully(fd, at, piece);
      if (got === 0) return hash.snapshot();
      hash.update(piece.subarray(0, got));
      at += got;
    }
  } finally {
    closeSync(fd);
  }
}

const UNITS: Readonly<Record<string, number>> = { K: 2 ** 10, KiB: 2 ** 10, M: 2 ** 20, MiB: 2 ** 20, G: 2 ** 30, GiB: 2 ** 30, T: 2 ** 40, TiB: 2 ** 40 };

/** `blank:64MiB`: undefined for other names. Throws UsageError for sizes that are none. */
export function blankSize(name: string): number | undefined {
  if (!name.startsWith('blank:')) return undefined;
  const match = /^blank:(\d{1,6})(K|KiB|M|MiB|G|GiB|T|TiB)$/.exec(name);
  const sizeBytes = match === null ? NaN : Number(match[1]) * (UNITS[match[2] as string] as number);
  if (!(sizeBytes > 0 && sizeBytes <= 2 ** 46)) throw new UsageError(`${name}: write the size of a blank disk as a number and a unit, such as blank:64MiB`);
  return sizeBytes;
}

/** `name` as a spec has it: blank:SIZE, builtin:FILE, a name of `rexen fetch`, or a path. Throws UsageError. */
export function openDiskImage(name: string): DiskImage {
  const blank = blankSize(name);
  if (blank !== undefined) return { reader: blankImage(blank), blake3: undefined, changed: () => false };
  return openDiskFile(resolveImagePath(name));
}

export function openDiskFile(path: string): DiskImage {
  if (!existsSync(path)) throw new UsageError(`${path}: there is no such disk image`);
  if (!statSync(path).isFile()) throw new UsageError(`${path}: a disk image must be a file; a device would change under the recording (copy it: dd if=${path} of=disk.img)`);
  const fd = openSync(path, 'r');
  const { size, mtimeMs } = fstatSync(fd);
  if (size < SMALLEST_DISK_BYTES) {
    closeSync(fd);
    throw new UsageError(`${path}: ${size} bytes are no disk; a disk image has at least one sector of 512 bytes`);
  }
  const blake3 = hashFile(path);
  return {
    reader: new FileReader(fd, size),
    blake3,
    changed: () => {
      const now = fstatSync(fd);
      return now.size !== size || now.mtimeMs !== mtimeMs;
    },
  };
}

/** An image that a recording carries within itself. */
export const embeddedDisk = (bytes: Uint8Array, blake3: Uint8Array): DiskImage => ({ reader: bytesImage(bytes), blake3, changed: () => false });

export const loggedDisk = (name: string, image: DiskImage): LoggedImage | undefined => (image.blake3 === undefined ? undefined : { name, sizeBytes: image.reader.sizeBytes, blake3: image.blake3 });
