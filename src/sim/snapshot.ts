// A world at rest as data, and back. Memory and the frame table are trees of content: pages of 4 KiB in
// blocks of 256, each a number of a content store, so that two checkpoints share what did not change and
// are compared block by block.
//
//   Snapshot ─┬─ memory   blocks ─ frames
//             ├─ frames   blocks ─ pages of the frame table
//             ├─ processors   registers and TLB, as bytes
//             └─ records      everything else, as text (world-records.ts)
//
// Taking one hashes what was written since the last; restoring one writes the frames that differ, by
// the machine's own door, so that code made from unchanged frames stands.
import { assert } from '../base/assert.ts';
import { sameBytes } from '../base/hash.ts';
import { PAGE_SIZE } from '../base/brand.ts';
import type { Cpu } from '../x86/cpu.ts';
import type { ContentStore } from './content-store.ts';
import type { World } from './world.ts';
import { WorldRecords } from './world-records.ts';

/** Numbers of contents, 0 for a page of zeros. */
export type Block = Uint32Array;
const BLOCK_PAGES = 256;

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
  readonly memory: readonly Block[];
  readonly frameTable: readonly Block[];
  /** By vCPU, in the order of `vcpus`: content of its processor. */
  readonly processors: readonly number[];
  readonly records: number;
}

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
    this.#records = new WorldRecords(world);
    this.#written = world.frameHashes.track();
    this.#memory = emptyBlocks(world.machine.frameCount);
    const { sizeBytes } = world.hv.frames.area();
    this.#table = emptyBlocks(Math.ceil(sizeBytes / PAGE_SIZE));
    this.#tableCopy = new Uint8Array(this.#table.length * BLOCK_PAGES * PAGE_SIZE);
    this.#cpus = [...world.hv.domains.values()].flatMap(({ domId, vcpus }) => vcpus.flatMap(({ vcpuId, cpu }) => (cpu === undefined ? [] : [{ domId, vcpuId, cpu }])));
  }

  take(): Snapshot {
    const world = this.#world;
    this.#lookAtMemory((mfn, hash) => {
      const at = world.machine.ramBase + mfn * PAGE_SIZE;
      return this.store.find(hash) ?? this.store.add(world.machine.u8.subarray(at, at + PAGE_SIZE), hash);
    });
    this.#lookAtTable();
    return {
      insns: world.insns(),
      eventCount: world.eventCount,
      vcpus: this.vcpus(),
      memory: this.#memory,
      frameTable: this.#table,
      processors: this.#cpus.map(({ cpu }) => this.store.add(cpu.saveState())),
      records: this.store.add(new TextEncoder().encode(this.#records.save())),
    };
  }

  vcpus(): VcpuPlace[] {
    return this.#cpus.map(({ domId, vcpuId, cpu }) => ({ domId, vcpuId, retired: cpu.retired() }));
  }

  /** Could it be one of this world's? Of another spec or shape it is not. */
  fits(snapshot: Snapshot): boolean {
    return snapshot.memory.length === this.#memory.length && snapshot.frameTable.length === this.#table.length && snapshot.processors.length === this.#cpus.length;
  }

  restore(snapshot: Snapshot): void {
    assert(this.fits(snapshot), 'the snapshot is of another world');
    // Contents that no store has are of no interest: what is there is going to be overwritten.
    this.#lookAtMemory((_, hash) => this.store.find(hash) ?? UNKNOWN);
    this.#restoreMemory(snapshot.memory);
    this.#restoreTable(snapshot.frameTable);
    this.#cpus.forEach(({ cpu }, index) => cpu.restoreState(this.store.bytes(snapshot.processors[index] as number), true));
    this.#records.restore(new TextDecoder().decode(this.store.bytes(snapshot.records)));
  }

  /** Brings #memory up to date: `numberOf` says what a frame that is not zero holds. */
  #lookAtMemory(numberOf: (mfn: number, hash: Uint8Array) => number): void {
    const hashes = this.#world.frameHashes.current();
    const changed = [...this.#written];
    this.#written.clear();
    this.#memory = withChanges(this.#memory, changed, (mfn) => {
      const hash = hashes.get(mfn);
      return hash === undefined ? 0 : numberOf(mfn, hash);
    });
  }

  #restoreMemory(wanted: readonly Block[]): void {
    const { frameHashes } = this.#world;
    forEachDifference(this.#memory, wanted, (mfn, content) => {
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
function withChanges(blocks: readonly Block[], pages: readonly number[], contentOf: (page: number) => number): readonly Block[] {
  if (pages.length === 0) return blocks;
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
  let same = a.records === b.records && a.processors.every((content, index) => content === b.processors[index]);
  for (const part of ['memory', 'frameTable'] as const) forEachDifference(a[part], b[part], (page, content) => {
    const other = (a[part][Math.floor(page / BLOCK_PAGES)] as Block)[page % BLOCK_PAGES] as number;
    if (other === 0 || content === 0 || !sameBytes(store.hash(other), store.hash(content))) same = false;
  });
  return same;
}
