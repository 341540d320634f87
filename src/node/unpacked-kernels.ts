// Kernels that were unpacked before: xz takes two seconds for Debian's, so what came out is kept in the cache folder, by
// the hash of what went in. A file is the SHA-256 of the kernel, then the kernel: what does not match is unpacked anew.
//
//   $REXEN_CACHE/unpacked/<sha256 of the packed file>
import { mkdirSync, readdirSync, readFileSync, statSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, sha256Of, writeWhole } from './image-store.ts';
import { unwrapKernel } from './unwrap-kernel.ts';

/** Smaller ones are unpacked in no time. */
const WORTH_BYTES = 1024 * 1024;
/** Some 60 MB each. */
const MOST_KEPT = 6;
const HASH_CHARS = 64;

/** As unwrapKernel(). Throws UsageError. */
export async function unpackedKernel(bytes: Uint8Array, name: string): Promise<Uint8Array> {
  if (bytes.length < WORTH_BYTES) return unwrapKernel(bytes, name);
  const folder = join(cacheFolder(), 'unpacked');
  const path = join(folder, sha256Of(bytes));
  const kept = readKept(path);
  if (kept !== undefined) return kept;
  const kernel = await unwrapKernel(bytes, name);
  if (kernel !== bytes) keep(folder, path, kernel);
  return kernel;
}

function readKept(path: string): Uint8Array | undefined {
  try {
    const file = readFileSync(path);
    if (file.length <= HASH_CHARS) return undefined;
    const kernel = new Uint8Array(file.buffer, file.byteOffset + HASH_CHARS, file.length - HASH_CHARS);
    if (file.toString('latin1', 0, HASH_CHARS) !== sha256Of(kernel)) return undefined;
    return kernel;
  } catch (error) {
    return ofFiles(error);
  }
}

/** A folder that cannot be written to only costs time. */
function keep(folder: string, path: string, kernel: Uint8Array): void {
  try {
    mkdirSync(folder, { recursive: true });
    writeWhole(path, Buffer.concat([Buffer.from(sha256Of(kernel), 'latin1'), kernel]));
    const byAge = readdirSync(folder).map((file) => ({ file, at: statSync(join(folder, file)).mtimeMs })).sort((a, b) => b.at - a.at);
    for (const { file } of byAge.slice(MOST_KEPT)) unlinkSync(join(folder, file));
  } catch (error) {
    ofFiles(error);
  }
}

function ofFiles(error: unknown): undefined {
  if (!(error instanceof Error) || !('code' in error)) throw error;
  return undefined;
}
