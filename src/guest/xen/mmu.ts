// Group mmu on Xen, with direct page tables: what the kernel writes is what the processor walks. Tables
// hold machine frames, so make_* and *_val translate. A table of a pinned tree is read-only: its entries
// change by hypercall; any other table is plain memory, and building or tearing down costs no hypercall.
import { HC, type XenState } from './state.ts';
import { MMUEXT, type Batch } from './batch.ts';
import type { Pinning } from './pinning.ts';
import { pfnToVaddr } from '../kernel/page-tables.ts';
import { entryStores } from '../native/mmu.ts';
import { nothing, NOT_NOW, over, type Task } from '../operations.ts';
import type { PvMmu } from '../paravirt-ops/index.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import { frameOf, highHalf, lowHalf, PTE, withFrame, type Pgd, type PgdVal, type Pmd, type PmdVal, type Pte, type PteVal } from '../pte.ts';

/** cr2 in vcpu_info of the shared page. */
const CR2_AT = 8;

/** Entries between the two number spaces: one look into a table. Written out, since nothing runs more often. */
function translations(xen: XenState) {
  const { m } = xen;
  function* onLookedUp(entry: number, at: number): Task<number> {
    return withFrame(entry, yield m.load32(at));
  }
  const lookedUp = (entry: number, table: number): Task<number> => {
    if ((entry & PTE.present) === 0) return over(entry);
    const at = table + frameOf(entry) * 4;
    const frame = m.peek32(at);
    return frame === NOT_NOW ? onLookedUp(entry, at) : over(withFrame(entry, frame));
  };
  const toMachine = (value: number): Task<number> => lookedUp(value, xen.startInfo.p2mVaddr);
  const toPseudo = (entry: number): Task<number> => lookedUp(entry, xen.m2pVaddr);
  return {
    pte_val: toPseudo as (pte: Pte) => Task<PteVal>, make_pte: toMachine as (value: PteVal) => Task<Pte>,
    pmd_val: toPseudo as (pmd: Pmd) => Task<PmdVal>, make_pmd: toMachine as (value: PmdVal) => Task<Pmd>,
    pgd_val: toPseudo as (pgd: Pgd) => Task<PgdVal>, make_pgd: toMachine as (value: PgdVal) => Task<Pgd>,
  };
}

/** The life of an address space, by discipline. */
type LifeHooks = Pick<PvMmu, 'activate_mm' | 'dup_mmap' | 'exit_mmap' | 'alloc_pt' | 'alloc_pd' | 'alloc_pd_clone' | 'release_pt' | 'release_pd'>;

/** What both disciplines share: a table that comes to or goes from a pinned tree. */
function tableHooks(xen: XenState, batch: Batch, pinning: Pinning) {
  return {
    *join(mm: Mm, pfn: number): Task {
      if (xen.pinned[mm.pgdPfn] !== 1) return;
      yield* pinning.join(pfn);
      yield* batch.issue();
    },
    *leave(pfn: number): Task {
      if (xen.pinned[pfn] !== 1) return;
      yield* pinning.leave(pfn);
      yield* batch.issue();
    },
  };
}

function lateLife(xen: XenState, batch: Batch, pinning: Pinning): LifeHooks {
  const { join, leave } = tableHooks(xen, batch, pinning);
  return {
    *activate_mm(_previous, next) { yield* pinning.pin(next); },
    *dup_mmap(_from, mm) { yield* pinning.pin(mm); },
    *exit_mmap(mm) { yield* pinning.unpin(mm); },
    alloc_pt: join, alloc_pd: join,
    *alloc_pd_clone(mm, pfn) { yield* join(mm, pfn); },
    *release_pt(pfn) { yield* leave(pfn); },
    *release_pd(pfn) { yield* leave(pfn); },
    ...plantedBug(xen, pinning),
  };
}

/** Hooks with one mistake in them; the others of PINNING_BUGS are where their code is. */
function plantedBug(xen: XenState, pinning: Pinning): Partial<LifeHooks> {
  switch (xen.options.bug) {
    case 'pin-too-late':
      // The fork's child is left to be pinned at its first switch, which believes that it was.
      return { dup_mmap: nothing };
    case 'unpin-too-late':
      return { *exit_mmap(mm) { yield* pinning.forget(mm); } };
    case 'freed-while-pinned': {
      // Exec lets the old address space go while the new one runs, and was forgotten.
      const forgetFrame = function* (pfn: number): Task { xen.pinned[pfn] = 0; };
      return { *exit_mmap(mm) { if (xen.kernel.activeMm() === xen.kernel.initMm) yield* pinning.unpin(mm); }, release_pt: forgetFrame, release_pd: forgetFrame };
    }
    case 'batch-out-of-order':
      return { *dup_mmap(_from, mm) { yield* pinning.pin(mm, true); } };
    case 'missed-readonly':
    case undefined:
      return {};
  }
}

function earlyLife(xen: XenState, batch: Batch, pinning: Pinning): LifeHooks {
  const { join, leave } = tableHooks(xen, batch, pinning);
  const roots = new Map<number, Mm>();
  function* rootIsThere(mm: Mm): Task {
    roots.set(mm.pgdPfn, mm);
    yield* pinning.pin(mm);
  }
  return {
    activate_mm: nothing, dup_mmap: nothing, exit_mmap: nothing,
    *alloc_pt(mm, pfn) { yield* join(mm, pfn); },
    *alloc_pd(mm, pfn) { yield* (pfn === mm.pgdPfn ? rootIsThere(mm) : join(mm, pfn)); },
    *alloc_pd_clone(mm, pfn) { yield* (pfn === mm.pgdPfn ? rootIsThere(mm) : join(mm, pfn)); },
    *release_pt(pfn) { yield* leave(pfn); },
    *release_pd(pfn) {
      const mm = roots.get(pfn);
      if (mm === undefined) return yield* leave(pfn);
      roots.delete(pfn);
      yield* pinning.unpin(mm);
    },
  };
}

/** Before the allocator runs: new tables are init_mm's, which Xen's builder pinned. */
function bootLife(batch: Batch, pinning: Pinning): LifeHooks {
  return {
    activate_mm: nothing, dup_mmap: nothing, exit_mmap: nothing, alloc_pd: nothing, alloc_pd_clone: nothing, release_pt: nothing, release_pd: nothing,
    *alloc_pt(_mm, pfn) {
      yield* pinning.join(pfn);
      yield* batch.issue();
    },
  };
}

export function lifeHooks(xen: XenState, batch: Batch, pinning: Pinning): LifeHooks {
  return (xen.options.discipline === 'early' ? earlyLife : lateLife)(xen, batch, pinning);
}

export function xenMmu(xen: XenState, batch: Batch, pinning: Pinning): PvMmu {
  const { m } = xen;
  const { store, clear } = entryStores(m, xen.shape);
  const set = (at: number, entry: number): Task => (xen.isPinned(at) ? ask(at, entry) : store(at, entry));
  function* ask(at: number, entry: number): Task {
    yield* batch.mmuUpdate(yield* xen.machineAddress(at), entry);
    yield* batch.issue();
  }
  function setAt(mm: Mm, vaddr: number, ptep: number, pte: number): Task {
    // With writable page tables a store to one in use faults, and Xen performs it; batches stay requests.
    const plain = !xen.isPinned(ptep) || (xen.options.discipline === 'writable' && xen.lazy === 'none');
    if (plain) return pte === 0 ? clear(ptep) : store(ptep, pte);
    // Through the tables in use an entry is found by the page that it maps.
    if (mm === xen.kernel.activeMm()) return batch.request('an update of a mapping', HC.update_va_mapping, vaddr, lowHalf(pte), highHalf(pte), 0);
    return ask(ptep, pte);
  }
  return {
    *pagetable_setup_start(mm) { yield* pinning.adopt(mm); },
    *pagetable_setup_done() { yield* mapShared(xen); },
    read_cr2: () => m.read32(xen.sharedVaddr + CR2_AT),
    *write_cr2(vaddr) { yield m.store32(xen.sharedVaddr + CR2_AT, vaddr); },
    *read_cr3() { return xen.kernel.activeMm().pgdPfn * 4096; },
    *write_cr3(paddr) { yield* batch.command('another root table', MMUEXT.NEW_BASEPTR, yield* xen.pfnToMfn(paddr / 4096)); },
    flush_tlb_user: () => batch.command('a TLB flush', MMUEXT.TLB_FLUSH_LOCAL, 0),
    flush_tlb_kernel: () => batch.command('a TLB flush', MMUEXT.TLB_FLUSH_LOCAL, 0),
    flush_tlb_single: (vaddr) => batch.command('a flush of one page', MMUEXT.INVLPG_LOCAL, vaddr),
    flush_tlb_others: nothing,
    ...bootLife(batch, pinning),
    set_pte: set,
    set_pte_at: setAt,
    set_pmd: set, set_pud: set, set_pgd: set,
    pte_update: nothing, pte_update_defer: nothing,
    set_pte_atomic: set,
    set_pte_present: setAt,
    pte_clear: (mm, vaddr, ptep) => setAt(mm, vaddr, ptep, 0),
    pmd_clear: (pmdp) => set(pmdp, 0),
    ...translations(xen),
    *kmap_atomic_pte(pfn) { return pfnToVaddr(pfn); },
    lazy_mode: {
      *enter() { xen.lazy = 'mmu'; },
      *leave() {
        xen.lazy = 'none';
        yield* batch.flush();
      },
    },
  };
}

/** shared_info appears in the page that the kernel keeps for it. */
export function* mapShared(xen: XenState): Task {
  const entry = xen.startInfo.sharedInfoMaddr + 0x63;
  yield* xen.must('the mapping of shared_info', HC.update_va_mapping, xen.sharedVaddr, lowHalf(entry), highHalf(entry), 2);
}
