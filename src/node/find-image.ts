// Finds the bytes of an image by its hash, wherever they are: a name proves nothing.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { blake3, sameBytes } from '../base/hash.ts';
import type { ImageRef } from '../log/packets.ts';

/** Bytes with exactly that hash, or undefined. */
export type ImageResolver = (ref: ImageRef) => Uint8Array | undefined | Promise<Uint8Array | undefined>;

function fileWith(path: string, ref: ImageRef): Uint8Array | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isFile() || stat.size !== ref.sizeBytes) return undefined;
  const bytes = readFileSync(path);
  return sameBytes(blake3(bytes), ref.blake3) ? bytes : undefined;
}

/** Looks at the image's own name as a path, and at every file below the given files and folders. */
export function imagesIn(places: readonly string[]): ImageResolver {
  for (const place of places) if (!existsSync(place)) throw new UsageError(`${place}: there is no such file or folder to look for images in`);
  return (ref) => {
    const candidates = places.flatMap((place) => (statSync(place).isDirectory() ? readdirSync(place, { recursive: true, encoding: 'utf8' }).map((name) => join(place, name)) : [place]));
    for (const path of [ref.name, ...candidates]) {
      const bytes = fileWith(path, ref);
      if (bytes !== undefined) return bytes;
    }
    return undefined;
  };
}
