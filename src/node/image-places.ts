// Where the files of the user's own were when a recording was made: remarks in its header, outside its
// digest, so that it replays on the same machine without being told. What is found there counts only
// if it has the recorded hash.
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { ImageRef } from '../log/packets.ts';
import type { Recording } from '../log/reader.ts';
import type { LoadedImages } from './load-images.ts';

const IMAGE_PATH = 'image-path:';

export function rememberPlaces(images: LoadedImages): { name: string; value: string }[] {
  return images.files.filter(({ name }) => existsSync(name)).map(({ ref, name }) => ({ name: `${IMAGE_PATH}${ref.name}`, value: resolve(name) }));
}

export function rememberedPlaces(recording: Recording, ref: ImageRef): string[] {
  return recording.info.filter(({ name, value }) => name === `${IMAGE_PATH}${ref.name}` && existsSync(value)).map(({ value }) => value);
}
