import { gzipSync } from 'fflate';
import { describe, expect, test } from 'vitest';
import { parseKernel } from '../../src/hypervisor/build/kernel-image.ts';
import { unwrapKernel } from '../../src/node/unwrap-kernel.ts';
import { undoX86Filter, unpackXz } from '../../src/node/xz.ts';
import { PACKED, packedKernel } from './packed-kernel.ts';

const fromBase64 = (text: string): Uint8Array => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

/** A bzImage with that payload; Linux's build appends the unpacked size to all but gzip. */
function bzImage(payload: Uint8Array, unpackedBytes: number | undefined): Uint8Array {
  const trailer = unpackedBytes === undefined ? [] : [unpackedBytes & 0xff, (unpackedBytes >>> 8) & 0xff, (unpackedBytes >>> 16) & 0xff, unpackedBytes >>> 24];
  const bytes = new Uint8Array(1024 + 100 + payload.length + trailer.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0x1f1, 1);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint32(0x202, 0x5372_6448, true);
  view.setUint16(0x206, 0x20f, true);
  view.setUint32(0x248, 100, true);
  view.setUint32(0x24c, payload.length + trailer.length, true);
  bytes.set(payload, 1124);
  bytes.set(trailer, 1124 + payload.length);
  return bytes;
}

describe('kernels come out of their wrappings whole', () => {
  const kernel = packedKernel();
  const cases: readonly (readonly [string, Uint8Array])[] = [
    ['a plain ELF file', kernel],
    ['gzip', gzipSync(kernel)],
    ['a bzImage with gzip', bzImage(gzipSync(kernel), undefined)],
    ['a bzImage with xz and the x86 filter', bzImage(fromBase64(PACKED.xz), kernel.length)],
    ['a bzImage with legacy lz4', bzImage(fromBase64(PACKED.lz4), kernel.length)],
    ['a bzImage with zstd', bzImage(fromBase64(PACKED.zstd), kernel.length)],
    ['a bzImage inside gzip', gzipSync(bzImage(fromBase64(PACKED.xz), kernel.length))],
  ];
  test.each(cases)('%s', async (_what, bytes) => {
    const unwrapped = await unwrapKernel(bytes, 'k');
    expect(Buffer.compare(Buffer.from(unwrapped), Buffer.from(kernel))).toBe(0);
    expect(parseKernel(unwrapped)).toMatchObject({ abi: 'pv32pae' });
  });

  test('the x86 filter had something to do', async () => {
    const unpacked = await unpackXz(fromBase64(PACKED.xz));
    const twice = Uint8Array.from(unpacked);
    undoX86Filter(twice);
    expect(Buffer.compare(Buffer.from(twice), Buffer.from(unpacked))).not.toBe(0);
  });
});

describe('damaged ones are refused with a sentence that names the file', () => {
  test.each([
    ['text', new TextEncoder().encode('#!/bin/sh\n'), /k is not an ELF kernel/],
    ['nothing', new Uint8Array(0), /k is not an ELF kernel/],
    ['cut gzip', gzipSync(packedKernel()).subarray(0, 200), /k cannot be unpacked: its gzip data is damaged/],
    ['cut xz', bzImage(fromBase64(PACKED.xz).subarray(0, 300), 9), /k cannot be unpacked: its xz data is damaged/],
    ['cut lz4', bzImage(fromBase64(PACKED.lz4).subarray(0, 300), 9), /k cannot be unpacked: its lz4 data is damaged/],
    ['cut zstd', bzImage(fromBase64(PACKED.zstd).subarray(0, 300), 9), /k cannot be unpacked: its zstd data is damaged/],
    ['gzip in gzip in gzip in gzip', gzipSync(gzipSync(gzipSync(gzipSync(packedKernel())))), /k is packed more than three times/],
  ])('%s', async (_what, bytes, expected) => {
    await expect(unwrapKernel(bytes, 'k')).rejects.toThrow(expected);
  });

  test('a flipped bit anywhere in a packed payload gives a UsageError or other bytes, never another error', async () => {
    for (const codec of ['xz', 'lz4', 'zstd'] as const) {
      const packed = fromBase64(PACKED[codec]);
      for (let at = 6; at < packed.length; at += 97) {
        const damaged = Uint8Array.from(packed);
        damaged[at] = (damaged[at] as number) ^ (1 << at % 8);
        const result = await unwrapKernel(bzImage(damaged, 0), 'k').catch((error: unknown) => error);
        if (result instanceof Error) expect(result.name, `${codec} at ${at}`).toBe('UsageError');
        // xz carries a checksum: other bytes never pass.
        else if (codec === 'xz') expect(Buffer.compare(Buffer.from(result as Uint8Array), Buffer.from(packedKernel())), `at ${at}`).toBe(0);
      }
    }
  });
});
