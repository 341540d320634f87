// Two recordings of one command, as timelines, with the symbols of their domains' kernels.
import { openTimeline, type Timeline } from '../node/timeline.ts';
import { mapOption, recordedSymbols } from '../node/recorded-symbols.ts';
import type { SymbolsByDomain } from '../replay/symbols.ts';

export interface TwoTimelines {
  readonly a: Timeline;
  readonly b: Timeline;
  readonly symbols: SymbolsByDomain | undefined;
}

/** `map`: a System.map, instead of what the first domain's kernel says of itself. Both are closed after the work. Throws RecordingError. */
export async function withTwo<T>(a: string, b: string, options: { readonly images: readonly string[]; readonly map?: string }, work: (two: TwoTimelines) => T): Promise<T> {
  const map = mapOption(options.map);
  const opened: Timeline[] = [];
  try {
    for (const file of [a, b]) opened.push(await openTimeline(file, options));
    const [left, right] = opened as [Timeline, Timeline];
    return work({ a: left, b: right, symbols: await recordedSymbols(left.recording, options.images, map) });
  } finally {
    for (const timeline of opened) timeline.close();
  }
}

/** Why a comparison of states is not one of the recordings; undefined: it is. */
export function strayedText({ a, b }: TwoTimelines): string | undefined {
  const strayed = a.diverged ? 'A' : b.diverged ? 'B' : undefined;
  return strayed === undefined ? undefined : `this build of Rexen does not make ${strayed} again as it was recorded, so it cannot have its states: compare with the build that recorded it`;
}
