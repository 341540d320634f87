// Where a recording's images may be without being embedded: named by the user, fetched, or shipped.
import { readFileSync } from 'node:fs';
import type { ImageRef } from '../log/packets.ts';
import { imagesIn } from './find-image.ts';
import { imageFolders } from './image-store.ts';

/** The file with the image's hash; places that the user names are looked at first. */
export const findProductFile = (ref: ImageRef, places: readonly string[] = []): string | undefined => imagesIn(places)(ref) ?? imagesIn(imageFolders())(ref);

/** Its bytes. */
export function findProductImage(ref: ImageRef, places: readonly string[] = []): Uint8Array | undefined {
  const path = findProductFile(ref, places);
  return path === undefined ? undefined : new Uint8Array(readFileSync(path));
}
