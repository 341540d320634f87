// The names that a recording's kernels have for their addresses, from the images alone: no world is built. Names
// are an extra: where an image is not here, its addresses stay numbers.
import { readFileSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';
import type { Recording } from '../log/reader.ts';
import { RecordingError } from '../log/recording-error.ts';
import { symbolsByDomain, symbolsFrom, type SymbolsByDomain } from '../replay/symbols.ts';
import { recordedImages, specOf } from './recorded-world.ts';
import { unpackedKernel } from './unpacked-kernels.ts';

/** Of all kernels that are at hand; `map`: a System.map for the first domain's. */
export async function recordedSymbols(recording: Recording, places: readonly string[], map?: Uint8Array): Promise<SymbolsByDomain> {
  const source = recordedImages(recording, places);
  const kernels: (Uint8Array | undefined)[] = [];
  for (const { kernel, model } of specOf(recording).domains) kernels.push(model !== undefined || (map !== undefined && kernels.length === 0) ? undefined : await ifHere(async () => unpackedKernel(await source.bytes(kernel.name), kernel.name)));
  return symbolsByDomain(kernels, map);
}

async function ifHere(read: () => Promise<Uint8Array>): Promise<Uint8Array | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof RecordingError || error instanceof UsageError)) throw error;
    return undefined;
  }
}

/** The file of `--map`. Throws UsageError if there is none, or no symbol in it. */
export function mapOption(file: string | undefined): Uint8Array | undefined {
  if (file === undefined) return undefined;
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(readFileSync(file));
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error)) throw error;
    throw new UsageError(`--map ${file}: cannot be read (${String(error.code)})`);
  }
  if (symbolsFrom(bytes).count === 0) throw new UsageError(`--map ${file}: has no line such as "c0100000 T _text", and is no ELF file with symbols either`);
  return bytes;
}
