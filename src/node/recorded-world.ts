// From a recording's header to what its world is built of: the spec, and the images it names, embedded or
// found on this machine.
import { bytesToHex } from '../base/hash.ts';
import type { ImageRef } from '../log/packets.ts';
import type { Recording } from '../log/reader.ts';
import { RecordingError } from '../log/recording-error.ts';
import { specFrom, type WorldSpec } from '../sim/spec.ts';
import { rememberedPlaces } from './image-places.ts';
import { loadImages, loggedName, type LoadedImages } from './load-images.ts';
import { findProductImage } from './product-images.ts';

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

/** The bytes of an image of the recording: embedded, among the product's own, or where the user says. */
async function imageBytes(recording: Recording, ref: ImageRef, places: readonly string[]): Promise<Uint8Array> {
  const bytes = recording.image(ref) ?? (await findProductImage(ref, [...places, ...rememberedPlaces(recording, ref)]));
  if (bytes !== undefined) return bytes;
  throw new RecordingError('image', recording.source.name, 0, `its image ${ref.name} (${ref.sizeBytes} bytes, blake3 ${bytesToHex(ref.blake3).slice(0, 16)}...) is not here, or what is here differs`, 'name the file or folder that has it with --images, or have the recording packed where it was made (rexen pack)');
}

/** Everything that the recorded world was built of; `places` are looked at first. Throws RecordingError. */
export async function recordedWorld(recording: Recording, places: readonly string[]): Promise<{ readonly spec: WorldSpec; readonly images: LoadedImages }> {
  const spec = specOf(recording);
  const images = await loadImages(spec, async (name) => {
    const ref = recording.world.images.find((image) => image.name === loggedName(name));
    if (ref === undefined) throw new RecordingError('damaged', recording.source.name, 0, `its world needs ${name}, which its header does not list`, 'record it again');
    return imageBytes(recording, ref, places);
  });
  return { spec, images };
}
