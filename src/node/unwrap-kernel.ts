// From a kernel file as users have it to the ELF kernel inside: gzip, or a bzImage packed with gzip,
// xz, lz4 or zstd. Asynchronous because the xz codec is; a world starts only when this is done.
// Codecs: fflate, xz-decompress (through xz.ts), lz4js, fzstd; none needs native code.
import { gunzipSync } from 'fflate';
import { decompress as unpackZstd } from 'fzstd';
import { decompressBlock, makeBuffer } from 'lz4js';
import { UsageError } from '../base/assert.ts';
import { kernelContainer, type Codec } from '../hypervisor/build/kernel-container.ts';
import { unpackXz } from './xz.ts';

/** A kernel larger than this is none. */
const MOST_BYTES = 512 * 1024 * 1024;
/** A legacy lz4 frame is a row of blocks of at most this much when unpacked. */
const LZ4_LEGACY_BLOCK = 8 * 1024 * 1024;

const CODECS: Record<Codec, (bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>> = {
  gzip: (bytes) => {
    const size = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(bytes.length - 4, true);
    if (size > MOST_BYTES) throw new Error(`says that it unpacks to ${size} bytes`);
    return gunzipSync(bytes);
  },
  xz: unpackXz,
  lz4: unpackLegacyLz4,
  zstd: (bytes) => unpackZstd(bytes),
};

function unpackLegacyLz4(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts: Uint8Array[] = [];
  for (let at = 4; at + 4 <= bytes.length; ) {
    const size = view.getUint32(at, true);
    if (size === 0 || at + 4 + size > bytes.length) throw new Error(`has an lz4 block of ${size} bytes at ${at}, past its end`);
    const block = makeBuffer(LZ4_LEGACY_BLOCK) as Uint8Array;
    const end = decompressBlock(bytes, block, at + 4, size, 0);
    parts.push(block.subarray(0, end));
    at += 4 + size;
  }
  return Buffer.concat(parts);
}

/** The ELF file inside. Throws UsageError that names `name`. */
export async function unwrapKernel(bytes: Uint8Array, name: string): Promise<Uint8Array> {
  let current = bytes;
  // A gzip file may hold a bzImage; more layers are nobody's kernel.
  for (let layer = 0; layer < 3; layer++) {
    const container = kernelContainer(current);
    if (container.kind === 'elf') return current;
    if (container.kind === 'unknown') throw new UsageError(`${name} ${container.problem}`);
    const { codec, payload, trailer } = container;
    try {
      current = Uint8Array.from(await CODECS[codec](trailer ? payload.subarray(0, payload.length - 4) : payload));
    } catch (error) {
      // Codecs throw Errors and, on wild input, RangeErrors; all mean damaged data.
      if (!(error instanceof Error) || error instanceof UsageError) throw error;
      throw new UsageError(`${name} cannot be unpacked: its ${codec} data is damaged (${error.message})`);
    }
  }
  throw new UsageError(`${name} is packed more than three times over; unpack it first`);
}
