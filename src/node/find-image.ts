// Finds an image by its hash, wherever it is: a name proves nothing.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { sameBytes } from '../base/hash.ts';
import type { ImageRef } from '../log/packets.ts';
import { hashFile } from './disk-image.ts';

/** The path of a file with exactly that hash, or undefined. */
export type ImageResolver = (ref: ImageRef) => string | undefined;

function hasContent(path: string, ref: ImageRef): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat !== undefined && stat.isFile() && stat.size === ref.sizeBytes && sameBytes(hashFile(path), ref.blake3);
}

/** Looks at the image's own name as a path, and at every file below the given files and folders. */
export function imagesIn(places: readonly string[]): ImageResolver {
  for (const place of places) if (!existsSync(place)) throw new UsageError(`${place}: there is no such file or folder to look for images in`);
  return (ref) => {
    const candidates = places.flatMap((place) => (statSync(place).isDirectory() ? readdirSync(place, { recursive: true, encoding: 'utf8' }).map((name) => join(place, name)) : [place]));
    return [ref.name, ...candidates].find((path) => hasContent(path, ref));
  };
}
