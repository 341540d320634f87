// Checkpoints of a recording in a file beside it (FILE.rxc). It can be thrown away at any time: a replay
// makes it again. It belongs to one recording (by digest) and one revision of the engine; whatever else is
// found there is ignored, with one sentence.
//
//   "rexen checkpoints 2\n" | packs of contents, deflated | index, deflated | footer (20 bytes)
//
// Contents are pages, blocks of page numbers, pieces of processors and records, each once, found by BLAKE3. A
// pack has those that came one after the other, since they are wanted together; it is read when one of them
// is, and checked against its hash then. What the world holds at its beginning is not in the file: the index
// has only its hash. A writer keeps nothing but hashes, so that checkpoints cost no memory.
import { ENGINE_REVISION } from '../abi/revision.ts';
import { assert } from '../base/assert.ts';
import { crc32c } from '../base/crc.ts';
import { blake3, bytesToHex, DIGEST_BYTES, sameBytes } from '../base/hash.ts';
import type { Codec } from '../log/codec.ts';
import type { ByteSource, Recording } from '../log/reader.ts';
import { contentKey, type ContentStore, type MemoryStore } from '../sim/content-store.ts';
import { BLOCK_PAGES, type Block, type Snapshot, type VcpuPlace } from '../sim/snapshot.ts';

const MAGIC = new TextEncoder().encode('rexen checkpoints 2\n');
const FOOTER_BYTES = 20;
const MOST_INDEX_BYTES = 1 << 28;
/** Contents of a pack: larger ones compress better, smaller ones bring less along that nobody asked for. */
const PACK_BYTES = 1 << 17;
/** Packs that were read are kept up to so many bytes. */
const KEPT_BYTES = 1 << 28;

/** A content of the file is not what its hash says. */
export class CheckpointDamage extends Error {
  override readonly name = 'CheckpointDamage';
}

interface IndexHead {
  readonly engine: number;
  readonly recording: string;
  /** offset, bytes in the file, contents, bytes of them */
  readonly packs: readonly (readonly [number, number, number, number])[];
  /** So many contents come first which the world has at its beginning. */
  readonly given: number;
  readonly contents: number;
  readonly checkpoints: readonly {
    readonly insns: number;
    readonly eventCount: number;
    readonly vcpus: readonly VcpuPlace[];
    readonly blockCounts: readonly [number, number];
    /** Content: of all blocks one after the other, the content that each is; 0 for a block of zeros. */
    readonly blocks: number;
    readonly processors: readonly (readonly number[])[];
    readonly records: readonly number[];
  }[];
}

/** Writes checkpoints as they come: the store into which Snapshots puts contents. Numbers are those of the file. */
export class CheckpointWriter implements ContentStore {
  readonly #write: (bytes: Uint8Array) => void;
  readonly #codec: Codec;
  readonly #numbers = new Map<string, number>();
  readonly #hashes: Uint8Array[] = [];
  readonly #sizes: number[] = [];
  readonly #packs: [number, number, number, number][] = [];
  readonly #packHashes: Uint8Array[] = [];
  readonly #blocks = new WeakMap<Block, number>();
  readonly #checkpoints: IndexHead['checkpoints'][number][] = [];
  readonly #pack = new Uint8Array(PACK_BYTES);
  #packed = 0;
  #packedCount = 0;
  #given: number | undefined;
  /** Bytes of the file so far. */
  sizeBytes = 0;

  constructor(write: (bytes: Uint8Array) => void, codec: Codec) {
    this.#write = write;
    this.#codec = codec;
    this.#put(MAGIC);
  }

  get count(): number {
    return this.#checkpoints.length;
  }

  /**
   * What was added so far is what every world of that spec holds at its beginning, and is not kept; except for the records
   * of `first`, of which a run that is recorded and its replay have some of their own (where inputs come from).
   */
  begin(first: Snapshot): void {
    assert(this.#given === undefined, 'a file of checkpoints begins once');
    this.#given = this.#hashes.length;
    for (const record of first.records) this.#numbers.delete(contentKey(this.hash(record)));
  }

  add(bytes: Uint8Array, hash = blake3(bytes)): number {
    const key = contentKey(hash);
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    if (this.#given !== undefined) this.#keep(bytes);
    this.#sizes.push(bytes.length);
    const number = this.#hashes.push(hash.slice());
    this.#numbers.set(key, number);
    return number;
  }
  find(hash: Uint8Array): number | undefined {
    return this.#numbers.get(contentKey(hash));
  }
  hash(number: number): Uint8Array {
    const hash = this.#hashes[number - 1];
    assert(hash !== undefined, () => `there is no content ${number}`);
    return hash;
  }
  bytes(number: number): Uint8Array {
    assert(false, () => `content ${number} was written away`);
  }

  checkpoint({ insns, eventCount, vcpus, blockCounts, memory, frameTable, processors, records }: Snapshot): void {
    const all = Uint32Array.from([...memory, ...frameTable], (block) => this.#block(block));
    this.#checkpoints.push({ insns, eventCount, vcpus, blockCounts, blocks: this.add(new Uint8Array(all.buffer)), processors, records });
  }

  finish(digest: Uint8Array): void {
    this.#endPack();
    const head: IndexHead = { engine: ENGINE_REVISION, recording: bytesToHex(digest), packs: this.#packs, given: this.#given ?? 0, contents: this.#hashes.length, checkpoints: this.#checkpoints };
    const json = new TextEncoder().encode(JSON.stringify(head));
    const raw = joined([new Uint8Array(Uint32Array.of(json.length).buffer), json, ...this.#packHashes, ...this.#hashes, new Uint8Array(Uint32Array.from(this.#sizes).buffer)]);
    const at = this.sizeBytes;
    const packed = this.#codec.deflate(raw, false);
    this.#put(packed);
    const footer = new DataView(new ArrayBuffer(FOOTER_BYTES));
    footer.setFloat64(0, at, true);
    footer.setUint32(8, raw.length, true);
    footer.setUint32(12, crc32c(packed), true);
    footer.setUint32(16, crc32c(new Uint8Array(footer.buffer, 0, 16)), true);
    this.#put(new Uint8Array(footer.buffer));
  }

  #block(block: Block): number {
    let kept = this.#blocks.get(block);
    if (kept === undefined) {
      kept = block.every((page) => page === 0) ? 0 : this.add(new Uint8Array(block.slice().buffer));
      this.#blocks.set(block, kept);
    }
    return kept;
  }

  #keep(bytes: Uint8Array): void {
    if (this.#packed + bytes.length > PACK_BYTES) this.#endPack();
    if (bytes.length > PACK_BYTES) return this.#writePack(bytes, 1);
    this.#pack.set(bytes, this.#packed);
    this.#packed += bytes.length;
    this.#packedCount++;
  }
  #endPack(): void {
    if (this.#packedCount > 0) this.#writePack(this.#pack.subarray(0, this.#packed), this.#packedCount);
    this.#packed = this.#packedCount = 0;
  }
  #writePack(raw: Uint8Array, contents: number): void {
    const bytes = this.#codec.deflate(raw, false);
    this.#packs.push([this.sizeBytes, bytes.length, contents, raw.length]);
    this.#packHashes.push(blake3(bytes));
    this.#put(bytes);
  }
  #put(bytes: Uint8Array): void {
    this.#write(bytes);
    this.sizeBytes += bytes.length;
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

export interface LoadedCheckpoints {
  /** The checkpoints, with their contents in a store that has what the world holds at its beginning. */
  into(store: MemoryStore): readonly Snapshot[];
}

/** The checkpoints of a file, or what is wrong with it, as a clause after its name. */
export function readCheckpoints(source: ByteSource, recording: Recording, codec: Codec): LoadedCheckpoints | { readonly problem: string } {
  const index = readIndex(source, codec);
  if (typeof index === 'string') return { problem: index };
  const { head } = index;
  if (head.recording !== bytesToHex(recording.digest)) return { problem: 'holds the checkpoints of another recording' };
  if (head.engine !== ENGINE_REVISION) return { problem: `holds checkpoints of engine revision ${head.engine}, this is ${ENGINE_REVISION}` };
  const packs = new Packs(source, codec, index);
  return {
    into: (store) => {
      const contents = new FileContents(store, packs.into(store));
      return head.checkpoints.map((checkpoint) => new StoredSnapshot(checkpoint, contents));
    },
  };
}

interface Index {
  readonly head: IndexHead;
  readonly packHashes: Uint8Array;
  readonly hashes: Uint8Array;
  readonly sizes: Uint32Array;
}

function readIndex(source: ByteSource, codec: Codec): Index | string {
  if (source.sizeBytes < MAGIC.length + FOOTER_BYTES || !sameBytes(source.read(0, MAGIC.length), MAGIC)) return 'is no file of checkpoints of this version';
  const bytes = source.read(source.sizeBytes - FOOTER_BYTES, FOOTER_BYTES).slice();
  const footer = new DataView(bytes.buffer);
  const at = footer.getFloat64(0, true);
  const rawBytes = footer.getUint32(8, true);
  const end = source.sizeBytes - FOOTER_BYTES;
  if (crc32c(bytes.subarray(0, 16)) !== footer.getUint32(16, true) || !(at >= MAGIC.length && at <= end) || rawBytes > MOST_INDEX_BYTES) return 'is damaged or was cut short';
  const packed = source.read(at, end - at);
  const raw = crc32c(packed) === footer.getUint32(12, true) ? codec.inflate(packed, rawBytes) : undefined;
  if (raw === undefined) return 'is damaged';
  const jsonBytes = new DataView(raw.buffer, raw.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + jsonBytes))) as IndexHead;
  let next = 4 + jsonBytes;
  const take = (length: number): Uint8Array => raw.slice(next, (next += length));
  return { head, packHashes: take(head.packs.length * DIGEST_BYTES), hashes: take(head.contents * DIGEST_BYTES), sizes: new Uint32Array(take(head.contents * 4).buffer) };
}

/** Contents of a file by number, a pack at a time. */
class Packs {
  readonly #source: ByteSource;
  readonly #codec: Codec;
  readonly #index: Index;
  /** By content, from `given` on: its pack and where it begins there. */
  readonly #packOf: Uint32Array;
  readonly #offsetOf: Uint32Array;
  /** The longest unused first. */
  readonly #kept = new Map<number, Uint8Array>();
  #keptBytes = 0;

  constructor(source: ByteSource, codec: Codec, index: Index) {
    this.#source = source;
    this.#codec = codec;
    this.#index = index;
    const { contents, given, packs } = index.head;
    this.#packOf = new Uint32Array(contents);
    this.#offsetOf = new Uint32Array(contents);
    let content = given;
    packs.forEach(([, , count], pack) => {
      for (let i = 0, offset = 0; i < count; i++, content++) {
        this.#packOf[content] = pack;
        this.#offsetOf[content] = offset;
        offset += index.sizes[content] as number;
      }
    });
  }

  /** Numbers of the store by numbers of the file. */
  into(store: MemoryStore): Uint32Array {
    const { head, hashes } = this.#index;
    const numbers = new Uint32Array(head.contents + 1);
    // From the end: a record that is there twice is only kept the second time.
    for (let content = head.contents - 1; content >= 0; content--) {
      const hash = hashes.subarray(content * DIGEST_BYTES, (content + 1) * DIGEST_BYTES);
      numbers[content + 1] = store.addLater(hash, () => this.#load(content));
    }
    return numbers;
  }

  #load(content: number): Uint8Array {
    if (content < this.#index.head.given) throw new CheckpointDamage(`${this.#source.name} is of a world that began otherwise`);
    const bytes = this.#bytesOf(this.#packOf[content] as number);
    const from = this.#offsetOf[content] as number;
    return bytes.subarray(from, from + (this.#index.sizes[content] as number));
  }

  #bytesOf(pack: number): Uint8Array {
    let raw = this.#kept.get(pack);
    if (raw === undefined) {
      const [offset, fileBytes, , rawBytes] = this.#index.head.packs[pack] as IndexHead['packs'][number];
      const bytes = this.#source.read(offset, fileBytes);
      const hash = this.#index.packHashes.subarray(pack * DIGEST_BYTES, (pack + 1) * DIGEST_BYTES);
      raw = sameBytes(blake3(bytes), hash) ? this.#codec.inflate(bytes, rawBytes) : undefined;
      if (raw === undefined) throw new CheckpointDamage(`${this.#source.name} is damaged at byte ${offset}`);
      this.#keptBytes += raw.length;
    } else this.#kept.delete(pack);
    this.#kept.set(pack, raw);
    for (const [oldest, { length }] of this.#kept) {
      if (this.#keptBytes <= KEPT_BYTES) break;
      this.#kept.delete(oldest);
      this.#keptBytes -= length;
    }
    return raw;
  }
}

/** What a file brings into a store. */
class FileContents {
  readonly #store: MemoryStore;
  /** Numbers of the store by numbers of the file. */
  readonly #numbers: Uint32Array;
  /** The same object for the same block: that is how differences are found fast. */
  readonly #blocks = new Map<number, Block>([[0, new Uint32Array(BLOCK_PAGES)]]);

  constructor(store: MemoryStore, numbers: Uint32Array) {
    this.#store = store;
    this.#numbers = numbers;
  }

  number(content: number): number {
    return this.#numbers[content] as number;
  }
  words(content: number): Uint32Array {
    return new Uint32Array(this.#store.bytes(this.number(content)).slice().buffer);
  }
  block(content: number): Block {
    let block = this.#blocks.get(content);
    if (block === undefined) this.#blocks.set(content, (block = this.words(content).map((page) => this.number(page))));
    return block;
  }
}

/** A checkpoint of a file: its blocks are read when it is restored. */
class StoredSnapshot implements Snapshot {
  readonly insns: number;
  readonly eventCount: number;
  readonly vcpus: readonly VcpuPlace[];
  readonly blockCounts: readonly [number, number];
  readonly processors: readonly (readonly number[])[];
  readonly records: readonly number[];
  readonly #blocks: () => readonly Block[];

  constructor(stored: IndexHead['checkpoints'][number], contents: FileContents) {
    const number = (content: number): number => contents.number(content);
    ({ insns: this.insns, eventCount: this.eventCount, vcpus: this.vcpus, blockCounts: this.blockCounts } = stored);
    this.processors = stored.processors.map((pieces) => pieces.map(number));
    this.records = stored.records.map(number);
    this.#blocks = () => Array.from(contents.words(stored.blocks), (content) => contents.block(content));
  }

  get memory(): readonly Block[] {
    return this.#blocks().slice(0, this.blockCounts[0]);
  }
  get frameTable(): readonly Block[] {
    return this.#blocks().slice(this.blockCounts[0]);
  }
}
