// `rexen pack`: every image into the recording, so that the one file replays anywhere; also the way
// to another compression. The rewritten file has the digest of the old one.
import { existsSync, renameSync, rmSync } from 'node:fs';
import { Option, type Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { bytesToHex } from '../../base/hash.ts';
import type { Compression } from '../../log/codec.ts';
import type { Recording } from '../../log/reader.ts';
import { RecordingError } from '../../log/recording-error.ts';
import { repack } from '../../log/repack.ts';
import type { RecordingTotals } from '../../log/writer.ts';
import { rememberedPlaces } from '../../node/image-places.ts';
import { findProductImage } from '../../node/product-images.ts';
import { FileSink, withRecordingFile, segmentPath } from '../../node/recording-files.ts';
import { zlibCodec } from '../../node/zlib-codec.ts';
import { truncationText } from '../recording-argument.ts';

/** A packet of a recording is in memory as a whole. */
const MOST_EMBEDDED_BYTES = 256 * 1024 * 1024;

interface PackOptions {
  readonly output?: string;
  readonly compress: Compression;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('pack')
    .description('embed every image into a recording, so that the one file replays anywhere')
    .argument('<file>', 'a recording')
    .option('-o, --output <file>', 'where to write (default: the recording itself)')
    .addOption(new Option('--compress <how>', 'how chunks of events are stored; with none every event is readable by protoc').choices(['none', 'deflate']).default('deflate'))
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action((file: string, options: PackOptions) => withRecordingFile(file, (recording) => pack(file, recording, options)));
}

async function pack(file: string, recording: Recording, options: PackOptions): Promise<void> {
  if (recording.truncated) throw new UsageError(`${truncationText(recording)}, but it cannot be packed; replay it, or record it again`);
  if (options.output === undefined && existsSync(segmentPath(file, 1))) throw new UsageError(`${file}: the recording is in several files; say with -o where to write`);
  recording.verify();
  const images = await findImages(file, recording, options.images);
  const output = options.output ?? file;
  const totals = embedImages(recording, output, images, options.compress);
  const summary = { file: output, bytes: totals.bytes, events: totals.events, images: images.size, digest: bytesToHex(totals.digest) };
  process.stdout.write(options.json === true ? `${JSON.stringify(summary)}\n` : `${output}: ${totals.events} events, ${images.size} image${images.size === 1 ? '' : 's'}, ${totals.bytes} bytes, digest ${summary.digest}\n`);
}

/** Writes the recording anew, with these images (by the index of their row in the header) inside. It may take its own place. */
export function embedImages(recording: Recording, output: string, images: ReadonlyMap<number, Uint8Array>, compression: Compression): RecordingTotals {
  const partial = `${output}.partial`;
  const sink = new FileSink(partial);
  let totals;
  try {
    totals = repack(recording, sink, { compression, codec: zlibCodec(), images });
  } finally {
    sink.close();
    if (totals === undefined) forEachSegment(partial, (path) => rmSync(path));
  }
  // The new file takes the old one's place in one step; segments that only the old one had go last.
  let segments = 0;
  forEachSegment(partial, (path, number) => {
    renameSync(path, segmentPath(output, number));
    segments = number + 1;
  });
  for (let number = segments; existsSync(segmentPath(output, number)); number++) rmSync(segmentPath(output, number));
  return totals;
}

function forEachSegment(path: string, work: (path: string, number: number) => void): void {
  for (let number = 0; existsSync(segmentPath(path, number)); number++) work(segmentPath(path, number), number);
}

async function findImages(file: string, recording: Recording, places: readonly string[]): Promise<Map<number, Uint8Array>> {
  const images = new Map<number, Uint8Array>();
  for (const [index, ref] of recording.world.images.entries()) {
    if (ref.sizeBytes > MOST_EMBEDDED_BYTES) throw new UsageError(`${file}: its image ${ref.name} has ${ref.sizeBytes} bytes; at most ${MOST_EMBEDDED_BYTES} can be embedded. Keep the image beside the recording and name it with --images`);
    const bytes = recording.image(ref) ?? findProductImage(ref, [...places, ...rememberedPlaces(recording, ref)]);
    if (bytes === undefined) {
      throw new RecordingError('image', file, 0, `its image ${ref.name} (${ref.sizeBytes} bytes, blake3 ${bytesToHex(ref.blake3).slice(0, 16)}...) was not found, or what is there differs`, 'name the file or folder that has it with --images');
    }
    images.set(index, bytes);
  }
  return images;
}
