// Checkpoints of a recording in a file beside it (FILE.rxc). It can be thrown away at any time: a replay
// makes it again. It belongs to one recording (by digest) and one revision of the engine; whatever else is
// found there is ignored, with one sentence.
//
//   "rexen checkpoints 1\n" | contents, deflated, one behind the other | index, deflated | footer (20 bytes)
//
// Contents are pages, blocks of page numbers, processors and records, each once, found by BLAKE3. They are
// read when they are wanted, and checked against their hash then.
import { ENGINE_REVISION } from '../abi/revision.ts';
import { crc32c } from '../base/crc.ts';
import { blake3, bytesToHex, sameBytes } from '../base/hash.ts';
import type { Codec } from '../log/codec.ts';
import type { ByteSource, Recording } from '../log/reader.ts';
import { MemoryStore } from '../sim/content-store.ts';
import type { Block, Snapshot, VcpuPlace } from '../sim/snapshot.ts';

const MAGIC = 'rexen checkpoints 1\n';
const FOOTER_BYTES = 20;
const MOST_INDEX_BYTES = 1 << 28;

/** A content of the file is not what its hash says. */
export class CheckpointDamage extends Error {
  override readonly name = 'CheckpointDamage';
}

interface Index {
  readonly engine: number;
  readonly recording: string;
  /** hash, offset, bytes in the file, bytes of the content */
  readonly contents: readonly (readonly [string, number, number, number])[];
  readonly checkpoints: readonly {
    readonly insns: number;
    readonly eventCount: number;
    readonly vcpus: readonly VcpuPlace[];
    /** Blocks as contents, 0 for a block of zeros. */
    readonly memory: readonly number[];
    readonly frameTable: readonly number[];
    readonly processors: readonly number[];
    readonly records: number;
  }[];
}

export interface LoadedCheckpoints {
  readonly store: MemoryStore;
  readonly snapshots: readonly Snapshot[];
}

/** Writes the file's bytes piece by piece. */
export function writeCheckpoints(write: (bytes: Uint8Array) => void, digest: Uint8Array, store: MemoryStore, snapshots: readonly Snapshot[], codec: Codec): void {
  const contents: [string, number, number, number][] = [];
  const known = new Map<string, number>();
  let offset = 0;
  const put = (bytes: Uint8Array): number => {
    write(bytes);
    offset += bytes.length;
    return bytes.length;
  };
  put(new TextEncoder().encode(MAGIC));
  const keep = (bytes: Uint8Array, hash: Uint8Array): number => {
    const hex = bytesToHex(hash);
    const found = known.get(hex);
    if (found !== undefined) return found;
    const at = offset;
    contents.push([hex, at, put(codec.deflate(bytes, false)), bytes.length]);
    known.set(hex, contents.length);
    return contents.length;
  };
  const numbers = new Map<number, number>([[0, 0]]);
  const content = (number: number): number => {
    let kept = numbers.get(number);
    if (kept === undefined) numbers.set(number, (kept = keep(store.bytes(number), store.hash(number))));
    return kept;
  };
  const blocks = new Map<Block, number>();
  const block = (pages: Block): number => {
    let kept = blocks.get(pages);
    if (kept === undefined) {
      const bytes = new Uint8Array(Uint32Array.from(pages, content).buffer);
      kept = bytes.every((byte) => byte === 0) ? 0 : keep(bytes, blake3(bytes));
      blocks.set(pages, kept);
    }
    return kept;
  };
  const checkpoints = snapshots.map(({ insns, eventCount, vcpus, memory, frameTable, processors, records }) => ({
    insns, eventCount, vcpus, memory: memory.map(block), frameTable: frameTable.map(block), processors: processors.map(content), records: content(records),
  }));
  const index: Index = { engine: ENGINE_REVISION, recording: bytesToHex(digest), contents, checkpoints };
  const raw = new TextEncoder().encode(JSON.stringify(index));
  const at = offset;
  const packed = codec.deflate(raw, false);
  put(packed);
  const footer = new DataView(new ArrayBuffer(FOOTER_BYTES));
  footer.setFloat64(0, at, true);
  footer.setUint32(8, raw.length, true);
  footer.setUint32(12, crc32c(packed), true);
  footer.setUint32(16, crc32c(new Uint8Array(footer.buffer, 0, 16)), true);
  put(new Uint8Array(footer.buffer));
}

/** The checkpoints of a file, or what is wrong with it, as a clause after its name. */
export function readCheckpoints(source: ByteSource, recording: Recording, codec: Codec): LoadedCheckpoints | { readonly problem: string } {
  const index = readIndex(source, codec);
  if (typeof index === 'string') return { problem: index };
  if (index.recording !== bytesToHex(recording.digest)) return { problem: 'holds the checkpoints of another recording' };
  if (index.engine !== ENGINE_REVISION) return { problem: `holds checkpoints of engine revision ${index.engine}, this is ${ENGINE_REVISION}` };
  const store = new MemoryStore();
  const load = (number: number): Uint8Array => {
    const [hex, offset, fileBytes, rawBytes] = index.contents[number - 1] as Index['contents'][number];
    const bytes = codec.inflate(source.read(offset, fileBytes), rawBytes);
    if (bytes === undefined || bytesToHex(blake3(bytes)) !== hex) throw new CheckpointDamage(`${source.name} is damaged at byte ${offset}`);
    return bytes;
  };
  const numbers = [0, ...index.contents.map(([hex], at) => store.addLater(hexBytes(hex), () => load(at + 1)))];
  const blocks = new Map<number, Block>();
  const block = (number: number): Block => {
    let pages = blocks.get(number);
    if (pages === undefined) {
      const bytes = number === 0 ? new Uint8Array(1024) : load(number);
      pages = Uint32Array.from(new Uint32Array(bytes.slice().buffer), (page) => numbers[page] as number);
      blocks.set(number, pages);
    }
    return pages;
  };
  const content = (number: number): number => numbers[number] as number;
  try {
    return {
      store,
      snapshots: index.checkpoints.map(({ insns, eventCount, vcpus, memory, frameTable, processors, records }) => ({
        insns, eventCount, vcpus, memory: memory.map(block), frameTable: frameTable.map(block), processors: processors.map(content), records: content(records),
      })),
    };
  } catch (error) {
    if (error instanceof CheckpointDamage) return { problem: 'is damaged' };
    throw error;
  }
}

function readIndex(source: ByteSource, codec: Codec): Index | string {
  const magic = new TextEncoder().encode(MAGIC);
  if (source.sizeBytes < magic.length + FOOTER_BYTES || !sameBytes(source.read(0, magic.length), magic)) return 'is no file of checkpoints';
  const bytes = source.read(source.sizeBytes - FOOTER_BYTES, FOOTER_BYTES).slice();
  const footer = new DataView(bytes.buffer);
  const at = footer.getFloat64(0, true);
  const rawBytes = footer.getUint32(8, true);
  const end = source.sizeBytes - FOOTER_BYTES;
  if (crc32c(bytes.subarray(0, 16)) !== footer.getUint32(16, true) || !(at >= magic.length && at <= end) || rawBytes > MOST_INDEX_BYTES) return 'is damaged or was cut short';
  const packed = source.read(at, end - at);
  const raw = crc32c(packed) === footer.getUint32(12, true) ? codec.inflate(packed, rawBytes) : undefined;
  return raw === undefined ? 'is damaged' : (JSON.parse(new TextDecoder().decode(raw)) as Index);
}

const hexBytes = (hex: string): Uint8Array => Uint8Array.from({ length: hex.length / 2 }, (_, i) => Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16));
