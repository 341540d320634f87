// What programs import as `rexen/timeline`: a recording on disk, opened as a timeline.
//
//   const timeline = await openTimeline('grub.rxr');
//   timeline.seek({ event: 118 });
//   timeline.world.hv.frames.describe(0x1a2b);
//   timeline.close();
import { Timeline, type TimelineOptions } from '../replay/timeline.ts';
import { findCheckpoints } from './checkpoint-files.ts';
import { loadHashes } from './load-hashes.ts';
import { openRecordingFile } from './recording-files.ts';
import { recordedWorld } from './recorded-world.ts';

export { RecordingError } from '../log/recording-error.ts';
export { positionText, type PositionedEvent, type Recording } from '../log/reader.ts';
export { eventLine } from '../log/event-text.ts';
export type { Snapshot, VcpuPlace } from '../sim/snapshot.ts';
export type { World } from '../sim/world.ts';
export { Timeline, type Place, type Target, type TimelineOptions } from '../replay/timeline.ts';

export interface OpenTimelineOptions extends Pick<TimelineOptions, 'everyInsns' | 'memoryBytes' | 'observers'> {
  /** Files and folders in which to look for images first. */
  readonly images?: readonly string[];
}

/** With the checkpoints of the file beside it, if there are any; close() it at the end. Throws RecordingError for a file that cannot be used, or whose images are not here. */
export async function openTimeline(path: string, options: OpenTimelineOptions = {}): Promise<Timeline> {
  await loadHashes();
  const recording = await openRecordingFile(path);
  let timeline: Timeline | undefined;
  let beside: ReturnType<typeof findCheckpoints>;
  try {
    const { spec, images } = await recordedWorld(recording, options.images ?? []);
    const { everyInsns, memoryBytes, observers } = options;
    beside = findCheckpoints(path, recording);
    timeline = new Timeline({
      recording, spec, images: images.domains,
      ...(beside === undefined || 'problem' in beside ? {} : { checkpoints: beside }),
      ...(everyInsns === undefined ? {} : { everyInsns }), ...(memoryBytes === undefined ? {} : { memoryBytes }), ...(observers === undefined ? {} : { observers }),
    });
    return timeline;
  } finally {
    if (timeline === undefined) {
      recording.close();
      if (beside !== undefined && 'close' in beside) beside.close();
    }
  }
}
