// A file made from the events of a recording, one after another: what `export --pcap` and `--trace` share. A full
// recording has its events; one of inputs alone is replayed, and its events are those of the replay. The file appears
// under its name only when it is whole.
import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';
import type { PositionedEvent, Recording } from '../log/reader.ts';
import { withRecordingFile } from '../node/recording-files.ts';
import { logModeOf } from '../replay/whole-digest.ts';
import type { PositionArgument } from './arguments.ts';
import { runReplay } from './replay-run.ts';

export interface EventsToFile {
  readonly output: string;
  readonly until: PositionArgument | undefined;
  readonly images: readonly string[];
  readonly progress: boolean;
}

/** What goes into the file before, for each event, and after. */
export interface FileShape {
  readonly begin: Uint8Array;
  readonly of: (event: PositionedEvent) => Uint8Array | undefined;
  readonly end: () => Uint8Array | undefined;
}

export interface FileSummary {
  readonly bytes: number;
  /** The recording has an end, and we came to it. */
  readonly complete: boolean;
  /** The recording itself was cut short. */
  readonly truncated: boolean;
}

/** Pieces are gathered up to this size before they are written. */
const BATCH_BYTES = 1 << 16;

export const eventsToFile = (file: string, options: EventsToFile, shapeOf: (recording: Recording) => FileShape): Promise<FileSummary> =>
  withRecordingFile(file, (recording) => writeEvents(file, recording, options, shapeOf));

async function writeEvents(file: string, recording: Recording, options: EventsToFile, shapeOf: (recording: Recording) => FileShape): Promise<FileSummary> {
  const isFull = logModeOf(recording.world) === 'all';
  if (isFull && options.until !== undefined && options.until.event > recording.eventCount) throw new UsageError(`--until ${options.until.event}: the recording has ${recording.eventCount} events`);
  const shape = shapeOf(recording);
  const partial = `${options.output}.partial`;
  const fd = openSync(partial, 'w');
  let [bytes, gathered] = [0, 0];
  let batch: Uint8Array[] = [];
  const flush = (): void => {
    bytes += writeSync(fd, Buffer.concat(batch));
    [batch, gathered] = [[], 0];
  };
  const put = (piece: Uint8Array | undefined): void => {
    if (piece === undefined) return;
    batch.push(piece);
    if ((gathered += piece.length) >= BATCH_BYTES) flush();
  };
  let complete = !recording.truncated && options.until === undefined;
  try {
    put(shape.begin);
    if (isFull) for (const event of recording.events(0, Math.min(recording.eventCount, options.until?.event ?? Infinity))) put(shape.of(event));
    else complete = await replayed(file, options, (event) => put(shape.of(event)));
    put(shape.end());
    flush();
    closeSync(fd);
    renameSync(partial, options.output);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
  return { bytes, complete, truncated: recording.truncated };
}

/** True if it came to the end of the recording. */
async function replayed(file: string, { images, until, progress }: EventsToFile, take: (event: PositionedEvent) => void): Promise<boolean> {
  let index = 0;
  const result = await runReplay({
    file, images, until, showConsole: false, progress,
    onEvent: (kind, domId, vcpuId, retired, nowNs, values, bytes) => take({ index: index++, kind, domId, vcpuId, retired, nowNs, values: [...values], bytes, insnsDelta: 0, timeSkewNs: 0 }),
  });
  if (result.outcome === 'diverged' || result.outcome === 'broken') throw new UsageError(`${file}: the replay is not what was recorded, so its events are not either; \`rexen replay ${file}\` says where they part`);
  return result.outcome === 'exact';
}
