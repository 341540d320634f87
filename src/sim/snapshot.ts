// A world at rest as data, and back. Memory and the frame table are trees of content: pages of 4 KiB in
// blocks of 256, each a number of a content store, so that two checkpoints share what did not change and
// are compared block by block.
//
//   Snapshot ─┬─ memory   blocks ─ frames
//             ├─ frames   blocks ─ pages of the frame table
//             ├─ processors   registers and TLB, as bytes in pieces
//             └─ records      everything else, as texts (world-records.ts)
//
// Taking one hashes what was written since the last and nothing else; restoring one writes the frames that
// differ, by the machine's own door, so that code made from unchanged frames stands.
import { assert } from '../base/assert.ts';
import { sameBytes } from '../base/hash.ts';
import { PAGE_SIZE } from '../base/brand.ts';
import type { Cpu } from '../x86/cpu.ts';
import type { ContentStore } from './content-store.ts';
import type { World } from './world.ts';
import { WorldRecords } from './world-records.ts';

/** Numbers of contents, 0 for a page of zeros. */
export type Block = Uint32Array;
export const BLOCK_PAGES = 256;

export interface VcpuPlace {
  readonly domId: number;
  readonly vcpuId: number;
  readonly retired: number;
}

export interface Snapshot {
  /** Of all vCPUs together. */
  readonly insns: number;
  readonly eventCount: number;
  readonly vcpus: readonly VcpuPlace[];
  /** Lengths of the two lists that follow, which may have to be read from a file. */
  readonly blockCounts: readonly [memory: number, frameTable: number];
  readonly memory: readonly Block[];
  readonly frameTable: readonly Block[];
  /** By vCPU, in the order of `vcpus`: contents of its processor, PIECE_BYTES each. */
  readonly processors: readonly (readonly number[])[];
  /** By part. */
  readonly records: readonly number[];
}
/** Of most of a processor's TLB a checkpoint has what the one before had. */
const PIECE_BYTES = 4096;

/** False: a guest of this world can only be run again from its start. */
export const isRestorable = (world: World): boolean => [...world.hv.domains.values()].every(({ vcpus }) => vcpus.every(({ cpu }) => cpu === undefined || cpu.restorable));

/** Takes and restores snapshots of one world, which must be restorable. */
export class Snapshots {
  readonly store: ContentStore;
  readonly #world: World;
  readonly #records: WorldRecords;
  /** What memory and frame table held when they were last looked at. */
  readonly #written: Set<number>;
  #memory: readonly Block[];
  #table: readonly Block[];
  readonly #tableCopy: Uint8Array;
  readonly #cpus: readonly { readonly domId: number; readonly vcpuId: number; readonly cpu: Cpu }[];

  constructor(world: World, store: ContentStore) {
    assert(isRestorable(world), 'a snapshot is wanted of a world that cannot be restored');
    this.#world = world;
    this.store = store;
    this.#records = new WorldRecords(world, store);
    this.#written = world.frameHashes.track();
    this.#memory = emptyBlocks(world.machine.frameCount);
    const { sizeBytes } = world.hv.frames.area();
    this.#table = emptyBlocks(Math.ceil(sizeBytes / PAGE_SIZE));
    this.#tableCopy = new Uint8Array(this.#table.length * BLOCK_PAGES * PAGE_SIZE);
    this.#cpus = [...world.hv.domains.values()].flatMap(({ domId, vcpus }) => vcpus.flatMap(({ vcpuId, cpu }) => (cpu === undefined ? [] : [{ domId, vcpuId, cpu }])));
  }

  take(): Snapshot {
    const world = this.#world;
    this.#lookAtMemory();
    this.#lookAtTable();
    return {
      insns: world.insns(),
      eventCount: world.eventCount,
      vcpus: this.vcpus(),
      blockCounts: [this.#memory.length, this.#table.length],
      memory: this.#memory,
      frameTable: this.#table,
      processors: this.#cpus.map(({ cpu }) => this.#pieces(cpu.saveState())),
      records: this.#records.save().map((text) => this.store.add(new TextEncoder().encode(text))),
    };
  }

  vcpus(): VcpuPlace[] {
    return this.#cpus.map(({ domId, vcpuId, cpu }) => ({ domId, vcpuId, retired: cpu.retired() }));
  }

  /** Could it be one of this world's? Of another spec or shape it is not. */
  fits(snapshot: Snapshot): boolean {
    return snapshot.blockCounts[0] === this.#memory.length && snapshot.blockCounts[1] === this.#table.length && snapshot.processors.length === this.#cpus.length;
  }

  restore(snapshot: Snapshot): void {
    assert(this.fits(snapshot), 'the snapshot is of another world');
    this.#restoreMemory(snapshot.memory);
    this.#restoreTable(snapshot.frameTable);
    this.#cpus.forEach(({ cpu }, index) => cpu.restoreState(this.#joined(snapshot.processors[index] as readonly number[]), true));
    this.#records.restore(snapshot.records.map((content) => new TextDecoder().decode(this.store.bytes(content))));
  }

  #pieces(bytes: Uint8Array): number[] {
    return Array.from({ length: Math.ceil(bytes.length / PIECE_BYTES) }, (_, at) => this.store.add(bytes.subarray(at * PIECE_BYTES, (at + 1) * PIECE_BYTES)));
  }
  #joined(contents: readonly number[]): Uint8Array {
    const pieces = contents.map((content) => this.store.bytes(content));
    const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
    pieces.forEach((piece, at) => bytes.set(piece, at * PIECE_BYTES));
    return bytes;
  }

  /** Brings #memory up to date: the number of what each written frame holds. */
  #lookAtMemory(): void {
    const { frameHashes, machine } = this.#world;
    const hashes = frameHashes.current();
    this.#memory = withChanges(this.#memory, this.#written, (mfn) => {
      const hash = hashes.get(mfn);
      const at = machine.ramBase + mfn * PAGE_SIZE;
      return hash === undefined ? 0 : (this.store.find(hash) ?? this.store.add(machine.u8.subarray(at, at + PAGE_SIZE), hash));
    });
    this.#written.clear();
  }

  #restoreMemory(wanted: readonly Block[]): void {
    const { frameHashes } = this.#world;
    // What was written holds nobody knows what: it is not hashed only to be overwritten.
    frameHashes.giveUpDirty();
    const current = withChanges(this.#memory, this.#written, () => UNKNOWN);
    forEachDifference(current, wanted, (mfn, content) => {
      if (content === 0) frameHashes.write(mfn, undefined, undefined);
      else frameHashes.write(mfn, this.store.bytes(content), this.store.hash(content));
    });
    this.#written.clear();
    this.#memory = wanted;
  }

  #lookAtTable(): void {
    const changed = this.#changedTablePages();
    const { base } = this.#world.hv.frames.area();
    const { u8 } = this.#world.machine;
    this.#table = withChanges(this.#table, changed, (page) => {
      const [from, to] = this.#tablePage(page);
      this.#tableCopy.set(u8.subarray(base + from, base + to), from);
      return this.store.add(this.#tableCopy.subarray(from, to));
    });
  }

  #restoreTable(wanted: readonly Block[]): void {
    const changed = this.#changedTablePages();
    const current = withChanges(this.#table, changed, () => UNKNOWN);
    const { base } = this.#world.hv.frames.area();
    const { u8 } = this.#world.machine;
    forEachDifference(current, wanted, (page, content) => {
      const [from, to] = this.#tablePage(page);
      if (content === 0) u8.fill(0, base + from, base + to);
      else u8.set(this.store.bytes(content), base + from);
      this.#tableCopy.set(u8.subarray(base + from, base + to), from);
    });
    this.#table = wanted;
  }

  #tablePage(page: number): [from: number, to: number] {
    const from = page * PAGE_SIZE;
    return [from, Math.min(from + PAGE_SIZE, this.#world.hv.frames.area().sizeBytes)];
  }

  #changedTablePages(): number[] {
    const { base, sizeBytes } = this.#world.hv.frames.area();
    const words = new Uint32Array(this.#tableCopy.buffer);
    const { u32 } = this.#world.machine;
    const changed: number[] = [];
    for (let page = 0; page * PAGE_SIZE < sizeBytes; page++) {
      const [from, to] = this.#tablePage(page);
      for (let at = from >>> 2, live = (base + from) >>> 2; at < to >>> 2; at++, live++) {
        if (words[at] === u32[live]) continue;
        changed.push(page);
        break;
      }
    }
    return changed;
  }
}

/** A page that holds something that the store may not have: unlike everything. */
const UNKNOWN = 0xffff_ffff;
const EMPTY: Block = new Uint32Array(BLOCK_PAGES);
const emptyBlocks = (pages: number): Block[] => new Array<Block>(Math.ceil(pages / BLOCK_PAGES)).fill(EMPTY);

/** Blocks with some pages changed; the others are the same objects. */
function withChanges(blocks: readonly Block[], pages: Iterable<number>, contentOf: (page: number) => number): readonly Block[] {
  const copy = [...blocks];
  for (const page of pages) {
    const index = Math.floor(page / BLOCK_PAGES);
    const content = contentOf(page);
    if ((copy[index] as Block)[page % BLOCK_PAGES] === content) continue;
    if (copy[index] === blocks[index]) copy[index] = (blocks[index] as Block).slice();
    (copy[index] as Block)[page % BLOCK_PAGES] = content;
  }
  return copy;
}

/** Calls with the page and what `b` has there, for each page that differs. */
export function forEachDifference(a: readonly Block[], b: readonly Block[], call: (page: number, content: number) => void): void {
  for (let index = 0; index < b.length; index++) {
    const from = a[index] as Block;
    const to = b[index] as Block;
    if (from === to) continue;
    for (let i = 0; i < BLOCK_PAGES; i++) if (from[i] !== to[i]) call(index * BLOCK_PAGES + i, to[i] as number);
  }
}

/** Do two snapshots of the same store hold the same state? */
export function sameState(store: ContentStore, a: Snapshot, b: Snapshot): boolean {
  let same = a.records.join() === b.records.join() && a.processors.join() === b.processors.join();
  for (const part of ['memory', 'frameTable'] as const) forEachDifference(a[part], b[part], (page, content) => {
    const other = (a[part][Math.floor(page / BLOCK_PAGES)] as Block)[page % BLOCK_PAGES] as number;
    if (other === 0 || content === 0 || !sameBytes(store.hash(other), store.hash(content))) same = false;
  });
  return same;
}
