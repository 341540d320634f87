// Two recordings of one command, as timelines, with the symbols of their first domain's kernel.
import { readFileSync } from 'node:fs';
import { openTimeline, type Recording, type Timeline } from '../node/timeline.ts';
import { Symbols, symbolsFrom } from '../replay/symbols.ts';
import { recordedWorld } from '../node/recorded-world.ts';

export interface TwoTimelines {
  readonly a: Timeline;
  readonly b: Timeline;
  readonly symbols: Symbols | undefined;
}

/** `map`: a System.map, instead of the kernel's own symbol table. Throws RecordingError. */
export async function openTwo(a: string, b: string, options: { readonly images: readonly string[]; readonly map?: string }): Promise<TwoTimelines> {
  const [left, right] = [await openTimeline(a, options), await openTimeline(b, options)];
  return { a: left, b: right, symbols: await kernelSymbols(left.recording, options) };
}

/** Of the first domain's kernel; undefined: it has none. */
export async function kernelSymbols(recording: Recording, options: { readonly images: readonly string[]; readonly map?: string }): Promise<Symbols | undefined> {
  const kernel = (await recordedWorld(recording, options.images)).images.domains[0]?.kernel.bytes;
  const bytes = options.map === undefined ? kernel : new Uint8Array(readFileSync(options.map));
  const symbols = bytes === undefined ? undefined : symbolsFrom(bytes);
  return symbols === undefined || symbols.count === 0 ? undefined : symbols;
}

/** Why a comparison of states is not one of the recordings; undefined: it is. */
export function strayedText({ a, b }: TwoTimelines): string | undefined {
  const strayed = a.diverged ? 'A' : b.diverged ? 'B' : undefined;
  return strayed === undefined ? undefined : `this build of Rexen does not make ${strayed} again as it was recorded, so it cannot have its states: compare with the build that recorded it`;
}
