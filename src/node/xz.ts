// Unpacks .xz. The package xz-decompress (xz-embedded as WebAssembly) does LZMA2; it is built without
// the filter for x86 code that kernels are packed with. So a stream with that filter is rebuilt as
// one without (same compressed bytes, new headers, no check) and the filter is undone here.
//
//   [stream header][block header: x86, LZMA2][LZMA2 data][check][index][footer]
//
// Sources: the .xz file format 1.1.0; the filter as in LZMA SDK's Bra86.c. A rebuilt stream has no
// check for the package to verify: size and CRC-32 (what Linux uses) are verified here; not CRC-64.
import { crc32 } from 'node:zlib';
import xzDecompress from 'xz-decompress';

const X86_FILTER = 0x04;
const LZMA2_FILTER = 0x21;
const CHECK_CRC32 = 1;
/** Size of the check by its id. */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const;

/** Throws Error with a clause when the data is damaged or uses other filters. */
export async function unpackXz(bytes: Uint8Array): Promise<Uint8Array> {
  const block = firstBlock(bytes);
  const filters = block.filters.map((filter) => filter.id);
  if (filters.length === 1 && filters[0] === LZMA2_FILTER) return plainXz(bytes);
  if (filters.length !== 2 || filters[0] !== X86_FILTER || filters[1] !== LZMA2_FILTER) throw new Error(`uses xz filters (${filters.join(', ')}) that are not known here`);
  const stream = readIndex(bytes, block);
  const unpacked = await plainXz(withoutX86Filter(bytes, block, stream));
  undoX86Filter(unpacked);
  if (unpacked.length !== stream.unpackedBytes) throw new Error(`is a damaged xz file: it unpacks to ${unpacked.length} bytes instead of ${stream.unpackedBytes}`);
  const check = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (stream.checkId === CHECK_CRC32 && check.getUint32(stream.checkAt, true) !== crc32(unpacked)) throw new Error('is a damaged xz file: its content does not have its CRC-32');
  return unpacked;
}

async function plainXz(bytes: Uint8Array): Promise<Uint8Array> {
  const source = new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(bytes);
      controller.close();
    },
  });
  return new Uint8Array(await new Response(new xzDecompress.XzReadableStream(source)).arrayBuffer());
}

interface Block {
  readonly headerBytes: number;
  readonly filters: readonly { readonly id: number; readonly properties: Uint8Array }[];
}

const STREAM_HEADER_BYTES = 12;

function firstBlock(bytes: Uint8Array): Block {
  const sizeByte = bytes[STREAM_HEADER_BYTES] ?? 0;
  if (sizeByte === 0) throw new Error('is an empty xz stream');
  const reader = new Reader(bytes, STREAM_HEADER_BYTES + 1);
  const flags = reader.byte();
  if ((flags & 0x40) !== 0) reader.vli();
  if ((flags & 0x80) !== 0) reader.vli();
  const filters = Array.from({ length: (flags & 3) + 1 }, () => {
    const id = reader.vli();
    return { id, properties: reader.take(reader.vli()) };
  });
  return { headerBytes: (sizeByte + 1) * 4, filters };
}

/** Where the one block's data lies, and what the index says of it. */
interface StreamIndex {
  readonly dataAt: number;
  readonly dataBytes: number;
  readonly unpackedBytes: number;
  readonly checkId: number;
  readonly checkAt: number;
}

function readIndex(bytes: Uint8Array, block: Block): StreamIndex {
  const footer = bytes.length - 12;
  if (footer < STREAM_HEADER_BYTES) throw new Error('is a truncated xz file');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const indexBytes = (view.getUint32(footer + 4, true) + 1) * 4;
  const checkId = (bytes[7] ?? 0) & 15;
  const reader = new Reader(bytes, footer - indexBytes + 1);
  if (reader.vli() !== 1) throw new Error('is an xz file of several blocks with the x86 filter, which cannot be unpacked here');
  const dataBytes = reader.vli() - block.headerBytes - (CHECK_BYTES[checkId] as number);
  const unpackedBytes = reader.vli();
  const dataAt = STREAM_HEADER_BYTES + block.headerBytes;
  const checkAt = dataAt + Math.ceil(dataBytes / 4) * 4;
  if (dataBytes <= 0 || checkAt + (CHECK_BYTES[checkId] as number) > footer - indexBytes) throw new Error('is a damaged xz file: its index does not fit its data');
  return { dataAt, dataBytes, unpackedBytes, checkId, checkAt };
}

/** The same compressed data in a stream that names only LZMA2 and has no check. */
function withoutX86Filter(bytes: Uint8Array, block: Block, stream: StreamIndex): Uint8Array {
  const { dataAt, dataBytes, unpackedBytes } = stream;
  const lzma2 = block.filters[1] as Block['filters'][number];
  const headerFields = [0, 0, LZMA2_FILTER, lzma2.properties.length, ...lzma2.properties];
  while ((headerFields.length + 4) % 4 !== 0) headerFields.push(0);
  headerFields[0] = (headerFields.length + 4) / 4 - 1;
  const header = withCrc(headerFields);
  const index = withCrc(padTo4([0, 1, ...vli(header.length + dataBytes), ...vli(unpackedBytes)]));
  const backward = index.length / 4 - 1;
  const tail = [backward & 0xff, (backward >>> 8) & 0xff, (backward >>> 16) & 0xff, backward >>> 24, 0, 0];
  return concat([bytes.subarray(0, 6), withCrc([0, 0]), header, bytes.subarray(dataAt, dataAt + dataBytes), new Uint8Array((4 - (dataBytes % 4)) % 4), index, crcOf(Uint8Array.from(tail)), Uint8Array.from(tail), Uint8Array.of(0x59, 0x5a)]);
}

class Reader {
  readonly #bytes: Uint8Array;
  #at: number;
  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }
  byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw new Error('is a truncated xz file');
    return byte;
  }
  take(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.byte());
  }
  /** A variable-length integer, 7 bits a byte, the lowest first. */
  vli(): number {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = this.byte();
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return value;
      if (shift > 2 ** 49) throw new Error('is a damaged xz file');
    }
  }
}

function vli(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 0x80);
  }
}
const padTo4 = (bytes: number[]): number[] => [...bytes, ...new Array<number>((4 - (bytes.length % 4)) % 4).fill(0)];

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
const withCrc = (bytes: readonly number[]): Uint8Array => concat([Uint8Array.from(bytes), crcOf(Uint8Array.from(bytes))]);

/** CRC-32 as four bytes, the lowest first. */
function crcOf(bytes: Uint8Array): Uint8Array {
  const crc = crc32(bytes);
  return Uint8Array.of(crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24);
}

const isSignByte = (byte: number): boolean => byte === 0x00 || byte === 0xff;
/** By the bytes seen before (three bits): may an operand start here, and where is its odd byte? */
const MASK_ALLOWS = [true, true, true, false, true, false, false, false] as const;
const MASK_BIT = [0, 1, 2, 2, 3, 3, 3, 3] as const;

/** Turns the absolute targets of CALL and JMP back into relative ones, in place. */
export function undoX86Filter(code: Uint8Array): void {
  let mask = 0;
  let previous = -1;
  let at = 0;
  while (at + 5 <= code.length) {
    if (((code[at] as number) & 0xfe) !== 0xe8) {
      at++;
      continue;
    }
    const gap = at - previous;
    previous = at;
    if (gap > 3) mask = 0;
    else {
      mask = (mask << (gap - 1)) & 7;
      if (mask !== 0 && (!MASK_ALLOWS[mask] || isSignByte(code[at + 4 - (MASK_BIT[mask] as number)] as number))) {
        mask = ((mask << 1) & 7) | 1;
        at++;
        continue;
      }
    }
    if (!isSignByte(code[at + 4] as number)) {
      mask = ((mask << 1) & 7) | 1;
      at++;
      continue;
    }
    let source = ((code[at + 4] as number) << 24) | ((code[at + 3] as number) << 16) | ((code[at + 2] as number) << 8) | (code[at + 1] as number);
    let target: number;
    for (;;) {
      target = (source - (at + 5)) | 0;
      if (mask === 0) break;
      const bits = (MASK_BIT[mask] as number) * 8;
      if (!isSignByte((target >>> (24 - bits)) & 0xff)) break;
      source = target ^ (2 ** (32 - bits) - 1);
    }
    code[at + 1] = target & 0xff;
    code[at + 2] = (target >>> 8) & 0xff;
    code[at + 3] = (target >>> 16) & 0xff;
    code[at + 4] = ((target >>> 24) & 1) !== 0 ? 0xff : 0x00;
    at += 5;
    mask = 0;
  }
}
