// The kernel's page tables, walked and changed through the hooks of group mmu alone: a table holds what
// make_* gave, and is read back with *_val. Tables lie in the direct map.
//
//   root ─► L2 (PAE: four of them, made with the root; two levels: the root itself) ─► L1 ─► pages
//
// Kernel addresses (the upper quarter) are the same in every address space: the entries of the
// kernel's own tables are copied into each new root and never change afterwards.
import { PAGE_OFFSET } from '../entries.ts';
import { NOT_NOW, over, type MachinePort, type Task } from '../operations.ts';
import type { ParavirtOps } from '../paravirt-ops/index.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import { entryOf, frameOf, highHalf, isPresent, joinHalves, l1Index, l2Index, lowHalf, PAE_ROOT_FLAGS, TABLE_FLAGS, type Pgd, type PgdVal, type Pmd, type PmdVal, type PteVal, type TableShape } from '../pte.ts';
import { AddressSpace } from './address-space.ts';
import type { FrameAllocator } from './frames.ts';

export const pfnToVaddr = (pfn: number): number => PAGE_OFFSET + pfn * 4096;
export const vaddrToPfn = (vaddr: number): number => (vaddr - PAGE_OFFSET) >>> 12;

/** First root entry of the kernel's quarter. */
const KERNEL_ROOT_PAE = 3;
const KERNEL_ROOT_TWO_LEVEL = PAGE_OFFSET >>> 22;

export class PageTables {
  readonly m: MachinePort;
  readonly ops: ParavirtOps;
  readonly shape: TableShape;
  readonly frames: FrameAllocator;
  readonly hypervisorStart: () => number;
  #nextId = 1;

  constructor(m: MachinePort, ops: ParavirtOps, shape: TableShape, frames: FrameAllocator, hypervisorStart: () => number) {
    this.m = m;
    this.ops = ops;
    this.shape = shape;
    this.frames = frames;
    this.hypervisorStart = hypervisorStart;
  }

  /** An entry as the table holds it. */
  read(vaddr: number): Task<number> {
    if (this.shape.entryBytes === 4) return this.m.read32(vaddr);
    const lo = this.m.peek64(vaddr);
    return lo === NOT_NOW ? this.#readWide(vaddr) : over(joinHalves(lo, this.m.hi));
  }
  *#readWide(vaddr: number): Task<number> {
    const lo = yield this.m.load64(vaddr);
    return joinHalves(lo, this.m.hi);
  }

  /** `count` entries as the table holds them, read in one go: nothing else changes them meanwhile. */
  *readRun(vaddr: number, count: number): Task<readonly number[]> {
    const wide = this.shape.entryBytes === 8;
    yield* this.m.takeWords(vaddr, wide ? count * 2 : count);
    const { words } = this.m;
    const entries: number[] = new Array(count);
    for (let i = 0; i < count; i++) entries[i] = wide ? joinHalves(words[i * 2] as number, words[i * 2 + 1] as number) : (words[i] as number);
    return entries;
  }

  /** A frame of zeros in the direct map, or undefined. */
  *zeroedFrame(): Task<number | undefined> {
    const pfn = this.frames.take();
    if (pfn !== undefined) yield* this.m.fillPage(pfnToVaddr(pfn));
    return pfn;
  }

  // -- walking --------------------------------------------------------------------------------------

  /** Address of the L2 entry (two levels: root entry) for `vaddr`. */
  *l2Entry(mm: Mm, vaddr: number): Task<number> {
    const { shape } = this;
    if (shape.levels === 2) return mm.pgdVaddr + l2Index(shape, vaddr) * 4;
    const root = (yield* this.read(mm.pgdVaddr + (vaddr >>> 30) * 8)) as Pgd;
    const pmdPfn = frameOf(yield* this.ops.mmu.pgd_val(root));
    return pfnToVaddr(pmdPfn) + l2Index(shape, vaddr) * 8;
  }
  /** Address of the first L1 entry of the table that a present L2 entry names. */
  *tableOf(l2: number): Task<number> {
    return pfnToVaddr(frameOf(yield* this.ops.mmu.pmd_val(l2 as Pmd)));
  }
  /** Address of the L1 entry for `vaddr`, 0 if there is no table. */
  *findL1(mm: Mm, vaddr: number): Task<number> {
    const l2 = yield* this.read(yield* this.l2Entry(mm, vaddr));
    if (!isPresent(l2)) return 0;
    return (yield* this.tableOf(l2)) + l1Index(this.shape, vaddr) * this.shape.entryBytes;
  }
  /** The same; a missing table is made. 0: no memory. */
  *makeL1(mm: AddressSpace, vaddr: number): Task<number> {
    const { mmu } = this.ops;
    const l2p = yield* this.l2Entry(mm, vaddr);
    const l2 = yield* this.read(l2p);
    const offset = l1Index(this.shape, vaddr) * this.shape.entryBytes;
    if (isPresent(l2)) return (yield* this.tableOf(l2)) + offset;
    const pfn = yield* this.zeroedFrame();
    if (pfn === undefined) return 0;
    yield* mmu.alloc_pt(mm, pfn);
    yield* mmu.set_pmd(l2p, yield* mmu.make_pmd(entryOf(pfn, TABLE_FLAGS) as PmdVal));
    mm.tableSlots.add(vaddr >>> this.shape.l2Shift);
    return pfnToVaddr(pfn) + offset;
  }

  // -- address spaces -------------------------------------------------------------------------------

  /** A new address space with nothing but the kernel in it; undefined: no memory. */
  *create(init: Mm): Task<AddressSpace | undefined> {
    const pfn = yield* this.zeroedFrame();
    if (pfn === undefined) return undefined;
    const mm = new AddressSpace(this.#nextId++, pfnToVaddr(pfn), pfn);
    const made = this.shape.levels === 2 ? yield* this.#copyKernelRoot(mm, init) : yield* this.#makeL2s(mm, init);
    if (made) return mm;
    this.frames.put(pfn);
    return undefined;
  }

  *#copyKernelRoot(mm: AddressSpace, init: Mm): Task<boolean> {
    const last = Math.ceil(this.hypervisorStart() / 2 ** this.shape.l2Shift);
    for (let i = KERNEL_ROOT_TWO_LEVEL; i < last; i++) {
      const entry = yield this.m.load32(init.pgdVaddr + i * 4);
      if (entry !== 0) yield this.m.store32(mm.pgdVaddr + i * 4, entry);
    }
    yield* this.ops.mmu.alloc_pd_clone(mm, mm.pgdPfn, init.pgdPfn, KERNEL_ROOT_TWO_LEVEL, last - KERNEL_ROOT_TWO_LEVEL);
    return true;
  }

  *#makeL2s(mm: AddressSpace, init: Mm): Task<boolean> {
    const { mmu, info } = this.ops;
    for (let slot = 0; slot < KERNEL_ROOT_PAE; slot++) {
      const pfn = yield* this.zeroedFrame();
      if (pfn === undefined) return yield* this.#undoL2s(mm, slot);
      yield* mmu.alloc_pd(mm, pfn);
      yield* this.#setRoot(mm, slot, pfn);
    }
    const kernelRoot = (yield* this.read(init.pgdVaddr + KERNEL_ROOT_PAE * 8)) as Pgd;
    const kernelL2 = frameOf(yield* mmu.pgd_val(kernelRoot));
    if (info.shared_kernel_pmd) yield* this.#setRoot(mm, KERNEL_ROOT_PAE, kernelL2);
    else {
      const pfn = this.frames.take();
      if (pfn === undefined) return yield* this.#undoL2s(mm, KERNEL_ROOT_PAE);
      yield* this.m.duplicatePage(pfnToVaddr(pfn), pfnToVaddr(kernelL2));
      yield* mmu.alloc_pd_clone(mm, pfn, kernelL2, 0, this.shape.entries);
      yield* this.#setRoot(mm, KERNEL_ROOT_PAE, pfn);
    }
    yield* mmu.alloc_pd(mm, mm.pgdPfn);
    return true;
  }

  *#setRoot(mm: AddressSpace, slot: number, pfn: number): Task {
    const { mmu } = this.ops;
    yield* mmu.set_pud(mm.pgdVaddr + slot * 8, yield* mmu.make_pgd(entryOf(pfn, PAE_ROOT_FLAGS) as PgdVal));
  }

  *#undoL2s(mm: AddressSpace, made: number): Task<false> {
    for (let slot = 0; slot < made; slot++) yield* this.#freeL2(mm, slot);
    return false;
  }
  *#freeL2(mm: AddressSpace, slot: number): Task {
    const root = (yield* this.read(mm.pgdVaddr + slot * 8)) as Pgd;
    const pfn = frameOf(yield* this.ops.mmu.pgd_val(root));
    yield* this.ops.mmu.release_pd(pfn);
    this.frames.put(pfn);
  }

  /** The tables of an address space whose pages are gone already. Nothing may run on it. */
  *destroy(mm: AddressSpace): Task {
    const { mmu, info } = this.ops;
    yield* mmu.release_pd(mm.pgdPfn);
    if (this.shape.levels === 3) for (let slot = 0; slot < (info.shared_kernel_pmd ? KERNEL_ROOT_PAE : 4); slot++) yield* this.#freeL2(mm, slot);
    this.frames.put(mm.pgdPfn);
  }

  /**
   * Calls `each` for every L1 table that covers part of [from, to), with the address of its first entry
   * in the range, the linear address that it maps, and the number of entries.
   */
  *eachTable(mm: Mm, from: number, to: number, each: (entryVaddr: number, vaddr: number, count: number, l2Vaddr: number) => Task): Task {
    const span = 2 ** this.shape.l2Shift;
    for (let vaddr = from; vaddr < to; ) {
      const end = Math.min(to, vaddr - (vaddr % span) + span);
      const l2Vaddr = yield* this.l2Entry(mm, vaddr);
      const l2 = yield* this.read(l2Vaddr);
      if (isPresent(l2)) {
        const entry = (yield* this.tableOf(l2)) + l1Index(this.shape, vaddr) * this.shape.entryBytes;
        yield* each(entry, vaddr, (end - vaddr) / 4096, l2Vaddr);
      }
      vaddr = end;
    }
  }

  /** Takes the L1 tables of user space out and frees them: their entries are 0 already. */
  *freeL1s(mm: AddressSpace): Task {
    const { mmu } = this.ops;
    const span = 2 ** this.shape.l2Shift;
    const freed: number[] = [];
    yield* mmu.lazy_mode.enter();
    for (const slot of [...mm.tableSlots].sort((a, b) => a - b)) {
      const l2Vaddr = yield* this.l2Entry(mm, slot * span);
      const pfn = vaddrToPfn(yield* this.tableOf(yield* this.read(l2Vaddr)));
      yield* mmu.pmd_clear(l2Vaddr);
      yield* mmu.release_pt(pfn);
      freed.push(pfn);
    }
    yield* mmu.lazy_mode.leave();
    for (const pfn of freed) this.frames.put(pfn);
    mm.tableSlots.clear();
  }

  // -- the kernel's own -----------------------------------------------------------------------------

  /** Maps frames [from, to) of the direct map into `init`, where they are not mapped yet. False: no memory for the tables. */
  *mapDirect(init: Mm, fromPfn: number, toPfn: number, flags: number): Task<boolean> {
    const { mmu } = this.ops;
    const perTable = this.shape.entries;
    for (let first = fromPfn - (vaddrSlot(this.shape, fromPfn)); first < toPfn; first += perTable) {
      const l2p = yield* this.l2Entry(init, pfnToVaddr(first));
      if (isPresent(yield* this.read(l2p))) continue;
      const table = yield* this.zeroedFrame();
      if (table === undefined) return false;
      // Nobody knows this frame as a table yet: it is filled like any other.
      const bytes = new Uint8Array(4096);
      const view = new DataView(bytes.buffer);
      for (let pfn = first; pfn < Math.min(first + perTable, toPfn); pfn++) {
        const pte = yield* mmu.make_pte(entryOf(pfn, flags) as PteVal);
        const at = (pfn - first) * this.shape.entryBytes;
        view.setUint32(at, lowHalf(pte), true);
        if (this.shape.entryBytes === 8) view.setUint32(at + 4, highHalf(pte), true);
      }
      yield this.m.writeBytes(pfnToVaddr(table), bytes);
      yield* mmu.alloc_pt(init, table);
      yield* mmu.set_pmd(l2p, yield* mmu.make_pmd(entryOf(table, TABLE_FLAGS) as PmdVal));
    }
    return true;
  }
}

/** Entries between the start of the L1 table that maps the frame and the frame's own. */
const vaddrSlot = (shape: TableShape, pfn: number): number => l1Index(shape, pfnToVaddr(pfn));
