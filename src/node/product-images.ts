// Where a recording's images may be without being embedded: named by the user, fetched, or shipped.
import type { ImageRef } from '../log/packets.ts';
import { imagesIn } from './find-image.ts';
import { imageFolders } from './image-store.ts';

/** The bytes with the image's hash; places that the user names are looked at first. */
export async function findProductImage(ref: ImageRef, places: readonly string[] = []): Promise<Uint8Array | undefined> {
  return (await imagesIn(places)(ref)) ?? (await imagesIn(imageFolders())(ref));
}
