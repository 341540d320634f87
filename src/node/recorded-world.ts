// From a recording's header to what its world is built of: the spec, and the images it names, embedded or
// found on this machine.
import { readFileSync } from 'node:fs';
import { bytesToHex } from '../base/hash.ts';
import type { ImageRef } from '../log/packets.ts';
import type { Recording } from '../log/reader.ts';
import { RecordingError } from '../log/recording-error.ts';
import { specFrom, type WorldSpec } from '../sim/spec.ts';
import { rememberedPlaces } from './image-places.ts';
import { blankSize, embeddedDisk, openDiskFile, openDiskImage } from './disk-image.ts';
import { loadImages, type ImageSource, type LoadedImages } from './load-images.ts';
import { findProductFile } from './product-images.ts';

/** Throws RecordingError. */
export function specOf(recording: Recording): WorldSpec {
  const text = recording.world.options.find((option) => option.name === 'spec')?.value;
  try {
    const spec = text === undefined ? undefined : specFrom(JSON.parse(text));
    if (spec !== undefined) return spec;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new RecordingError('damaged', recording.source.name, 0, 'its header describes no world', 'record it again');
}

/** What the recording's images are: embedded, among the product's own, or where the user says. */
export function recordedImages(recording: Recording, places: readonly string[]): ImageSource {
  const refOf = (name: string): ImageRef => {
    const ref = recording.world.images.find((image) => image.name === name);
    if (ref === undefined) throw new RecordingError('damaged', recording.source.name, 0, `its world needs ${name}, which its header does not list`, 'record it again');
    return ref;
  };
  const fileOf = (ref: ImageRef): string => {
    const path = findProductFile(ref, [...places, ...rememberedPlaces(recording, ref)]);
    if (path !== undefined) return path;
    throw new RecordingError('image', recording.source.name, 0, `its image ${ref.name} (${ref.sizeBytes} bytes, blake3 ${bytesToHex(ref.blake3).slice(0, 16)}...) is not here, or what is here differs`, 'name the file or folder that has it with --images, or have the recording packed where it was made (rexen pack)');
  };
  return {
    bytes: (name) => recording.image(refOf(name)) ?? new Uint8Array(readFileSync(fileOf(refOf(name)))),
    disk: (name) => {
      if (blankSize(name) !== undefined) return openDiskImage(name);
      const ref = refOf(name);
      const embedded = recording.image(ref);
      return embedded === undefined ? openDiskFile(fileOf(ref)) : embeddedDisk(embedded, ref.blake3);
    },
  };
}

/** Everything that the recorded world was built of; `places` are looked at first. Throws RecordingError. */
export async function recordedWorld(recording: Recording, places: readonly string[]): Promise<{ readonly spec: WorldSpec; readonly images: LoadedImages }> {
  const spec = specOf(recording);
  return { spec, images: await loadImages(spec, recordedImages(recording, places)) };
}
