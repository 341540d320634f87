// Memory management of processes: what faults, fork, exec, exit, mmap, munmap and mprotect do to
// address spaces. Order is everything here, and the same for every back end:
//
//   pages leave     entries are cleared (batched), the TLB is flushed, then the frames are free
//   fork            entries become read-only in the parent, the child gets copies, the TLB is flushed,
//                   then dup_mmap
//   exit            another address space is loaded, exit_mmap, then everything is taken apart
import type { MachinePort, Task } from '../operations.ts';
import type { ParavirtOps } from '../paravirt-ops/index.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import { entryOf, frameOf, isPresent, PTE, withFrame, type Pte, type PteVal } from '../pte.ts';
import { AddressSpace } from './address-space.ts';
import type { FrameAllocator } from './frames.ts';
import { pfnToVaddr, type PageTables } from './page-tables.ts';

export const ERRNO = { EFAULT: -14, ENOMEM: -12, EINVAL: -22, EAGAIN: -11, ECHILD: -10, ENOEXEC: -8 } as const;

const PAGE_READ = PTE.present | PTE.user | PTE.accessed;
/** Error code of a page fault. */
const FAULT = { present: 1, write: 2 } as const;

export type FaultAnswer = 'done' | 'segv' | 'oom';

export class Memory {
  readonly tables: PageTables;
  readonly #m: MachinePort;
  readonly #ops: ParavirtOps;
  readonly #frames: FrameAllocator;
  readonly #init: Mm;
  /** A frame of zeros that everybody may read. */
  readonly #zeroPfn: number;
  readonly live: AddressSpace[] = [];
  /** The one whose tables are loaded. */
  active: Mm;

  constructor(tables: PageTables, init: Mm, zeroPfn: number) {
    this.tables = tables;
    this.#m = tables.m;
    this.#ops = tables.ops;
    this.#frames = tables.frames;
    this.#init = init;
    this.#zeroPfn = zeroPfn;
    this.active = init;
  }

  // -- faults ---------------------------------------------------------------------------------------

  /** A page fault of user code (or of the kernel on its behalf). */
  *fault(mm: AddressSpace, vaddr: number, errorCode: number): Task<FaultAnswer> {
    const page = vaddr - (vaddr % 4096);
    const area = mm.areaAt(page);
    const write = (errorCode & FAULT.write) !== 0;
    if (area === undefined || !area.readable || (write && !area.writable)) return 'segv';
    const ptep = yield* this.tables.makeL1(mm, page);
    if (ptep === 0) return 'oom';
    const pte = (yield* this.tables.read(ptep)) as Pte;
    if (!isPresent(pte)) return yield* this.#missing(mm, page, ptep, write);
    if (write && (pte & PTE.rw) === 0) return yield* this.#copyOnWrite(mm, page, ptep, pte);
    // The entry allows it: a translation was stale.
    yield* this.#ops.mmu.flush_tlb_single(page);
    return 'done';
  }

  *#missing(mm: AddressSpace, page: number, ptep: number, write: boolean): Task<FaultAnswer> {
    const { mmu } = this.#ops;
    let value = entryOf(this.#zeroPfn, PAGE_READ);
    if (write) {
      const pfn = yield* this.tables.zeroedFrame();
      if (pfn === undefined) return 'oom';
      value = entryOf(pfn, PAGE_READ | PTE.rw | PTE.dirty);
    }
    yield* mmu.set_pte_at(mm, page, ptep, yield* mmu.make_pte(value as PteVal));
    return 'done';
  }

  *#copyOnWrite(mm: AddressSpace, page: number, ptep: number, pte: Pte): Task<FaultAnswer> {
    const { mmu } = this.#ops;
    const value = yield* mmu.pte_val(pte);
    const old = frameOf(value);
    let fresh = old;
    if (old === this.#zeroPfn || this.#frames.users(old) > 1) {
      const pfn = this.#frames.take();
      if (pfn === undefined) return 'oom';
      yield* this.#m.duplicatePage(pfnToVaddr(pfn), pfnToVaddr(old));
      fresh = pfn;
    }
    yield* mmu.set_pte_at(mm, page, ptep, yield* mmu.make_pte((withFrame(value, fresh) + ((value & PTE.rw) === 0 ? PTE.rw : 0) + ((value & PTE.dirty) === 0 ? PTE.dirty : 0)) as PteVal));
    yield* mmu.flush_tlb_single(page);
    if (fresh !== old && old !== this.#zeroPfn) this.#frames.put(old);
    return 'done';
  }

  // -- areas ----------------------------------------------------------------------------------------

  *mmap(mm: AddressSpace, from: number, pages: number, prot: number): Task<number> {
    if (!AddressSpace.rangeOk(from, pages)) return ERRNO.EINVAL;
    yield* this.#dropPages(mm, from, pages);
    return mm.map(from, pages, prot) ? from : ERRNO.ENOMEM;
  }
  *munmap(mm: AddressSpace, from: number, pages: number): Task<number> {
    if (!AddressSpace.rangeOk(from, pages)) return ERRNO.EINVAL;
    yield* this.#dropPages(mm, from, pages);
    return mm.unmap(from, pages) ? 0 : ERRNO.ENOMEM;
  }
  *mprotect(mm: AddressSpace, from: number, pages: number, prot: number): Task<number> {
    if (!AddressSpace.rangeOk(from, pages)) return ERRNO.EINVAL;
    if (!mm.protect(from, pages, prot)) return ERRNO.ENOMEM;
    if (prot === 0) {
      // Nothing may be reached any more, but the pages' content stays: entries lose their user bit.
      yield* this.#change(mm, from, pages, (value) => value - (value & PTE.user));
      return 0;
    }
    const writable = (prot & 2) !== 0;
    // Write access comes back by faults, page by page, so that shared frames stay shared.
    yield* this.#change(mm, from, pages, (value) => value + PTE.user - (value & PTE.user) - (writable ? 0 : value & PTE.rw));
    return 0;
  }

  /** Changes every present entry of the range by its value. */
  *#change(mm: AddressSpace, from: number, pages: number, change: (value: number) => number): Task {
    const { mmu } = this.#ops;
    const { tables } = this;
    const step = tables.shape.entryBytes;
    let changed = false;
    yield* mmu.lazy_mode.enter();
    yield* tables.eachTable(mm, from, from + pages * 4096, function* (entry, vaddr, count) {
      const entries = yield* tables.readRun(entry, count);
      for (let i = 0; i < count; i++) {
        const pte = entries[i] as Pte;
        if (!isPresent(pte)) continue;
        const value = yield* mmu.pte_val(pte);
        const now = change(value);
        if (now === value) continue;
        yield* mmu.set_pte_at(mm, vaddr + i * 4096, entry + i * step, yield* mmu.make_pte(now as PteVal));
        changed = true;
      }
    });
    if (changed) yield* mmu.flush_tlb_user();
    yield* mmu.lazy_mode.leave();
  }

  /** The pages of a range go. */
  *#dropPages(mm: AddressSpace, from: number, pages: number): Task {
    const { mmu } = this.#ops;
    const { tables } = this;
    const zeroPfn = this.#zeroPfn;
    const step = tables.shape.entryBytes;
    const freed: number[] = [];
    let any = false;
    yield* mmu.lazy_mode.enter();
    yield* tables.eachTable(mm, from, from + pages * 4096, function* (entry, vaddr, count) {
      const entries = yield* tables.readRun(entry, count);
      for (let i = 0; i < count; i++) {
        const pte = entries[i] as Pte;
        if (!isPresent(pte)) continue;
        const pfn = frameOf(yield* mmu.pte_val(pte));
        yield* mmu.pte_clear(mm, vaddr + i * 4096, entry + i * step);
        any = true;
        if (pfn !== zeroPfn) freed.push(pfn);
      }
    });
    if (any && !mm.exiting) yield* mmu.flush_tlb_user();
    yield* mmu.lazy_mode.leave();
    for (const pfn of freed) this.#frames.put(pfn);
  }

  // -- fork, exec, exit -----------------------------------------------------------------------------

  *create(): Task<AddressSpace | undefined> {
    const mm = yield* this.tables.create(this.#init);
    if (mm !== undefined) this.live.push(mm);
    return mm;
  }

  /** A copy of `mm`, pages shared until somebody writes; undefined: no memory. */
  *fork(mm: AddressSpace): Task<AddressSpace | undefined> {
    const { mmu } = this.#ops;
    const child = yield* this.create();
    if (child === undefined) return undefined;
    child.areas = mm.areas;
    let complete = true;
    for (const { from, to } of mm.areas) if (complete) complete = yield* this.#copyRange(mm, child, from, to);
    yield* mmu.flush_tlb_user();
    if (!complete) {
      yield* this.destroy(child);
      return undefined;
    }
    yield* mmu.dup_mmap(mm, child);
    child.activated = true;
    return child;
  }

  *#copyRange(mm: AddressSpace, child: AddressSpace, from: number, to: number): Task<boolean> {
    const { mmu } = this.#ops;
    const { tables } = this;
    const frames = this.#frames;
    const zeroPfn = this.#zeroPfn;
    const step = tables.shape.entryBytes;
    let complete = true;
    yield* tables.eachTable(mm, from, to, function* (entry, vaddr, count) {
      // The child's table is there before batching begins: an entry that waits in a batch cannot be read.
      const target = complete ? yield* tables.makeL1(child, vaddr) : 0;
      if (target === 0) {
        complete = false;
        return;
      }
      const entries = yield* tables.readRun(entry, count);
      yield* mmu.lazy_mode.enter();
      for (let i = 0; i < count; i++) {
        const pte = entries[i] as Pte;
        if (!isPresent(pte)) continue;
        const page = vaddr + i * 4096;
        let value = yield* mmu.pte_val(pte);
        let shared = pte;
        if ((value & PTE.rw) !== 0) {
          value = (value - PTE.rw) as PteVal;
          shared = yield* mmu.make_pte(value);
          yield* mmu.set_pte_at(mm, page, entry + i * step, shared);
        }
        const pfn = frameOf(value);
        if (pfn !== zeroPfn) frames.share(pfn);
        yield* mmu.set_pte_at(child, page, target + i * step, shared);
      }
      yield* mmu.lazy_mode.leave();
    });
    return complete;
  }

  /** Loads `next`'s tables, if they are not. */
  *switchTo(next: Mm): Task {
    if (this.active === next) return;
    const previous = this.active;
    if (next instanceof AddressSpace && !next.activated) {
      yield* this.#ops.mmu.activate_mm(previous, next);
      next.activated = true;
    }
    this.active = next;
    yield* this.#ops.mmu.write_cr3(next.pgdPfn * 4096);
  }

  /** The end of an address space that nobody uses. */
  *destroy(mm: AddressSpace): Task {
    if (this.active === mm) yield* this.switchTo(this.#init);
    mm.exiting = true;
    yield* this.#ops.mmu.exit_mmap(mm);
    for (const { from, to } of mm.areas) yield* this.#dropPages(mm, from, (to - from) / 4096);
    yield* this.tables.freeL1s(mm);
    yield* this.tables.destroy(mm);
    this.live.splice(this.live.indexOf(mm), 1);
  }
}
