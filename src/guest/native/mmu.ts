// Group mmu where nothing stands between the kernel and its tables: stores, and the instructions of the
// processor. Other back ends take from here what their hypervisor leaves as it is.
import { pfnToVaddr } from '../kernel/page-tables.ts';
import { nothing, OP, over, type MachinePort, type Task } from '../operations.ts';
import type { PvMmu } from '../paravirt-ops/index.ts';
import { highHalf, lowHalf, type Pgd, type PgdVal, type Pmd, type PmdVal, type Pte, type PteVal, type TableShape } from '../pte.ts';

/** Plain stores of entries. */
export function entryStores(m: MachinePort, shape: TableShape) {
  const wide = shape.entryBytes === 8;
  return {
    /** High half first: the entry is not seen before it is whole, if it was not present. */
    store: (at: number, entry: number): Task => (wide ? m.write32Twice(at + 4, highHalf(entry), at, lowHalf(entry)) : m.write32(at, lowHalf(entry))),
    /** Low half first: the entry is gone before it changes. */
    clear: (at: number): Task => (wide ? m.write32Twice(at, 0, at + 4, 0) : m.write32(at, 0)),
    *storeAtomic(at: number, entry: number): Task {
      if (wide) yield m.store64(at, lowHalf(entry), highHalf(entry));
      else yield m.store32(at, lowHalf(entry));
    },
  };
}

/** Changes nothing on the way: entries hold pseudo-physical frames. */
export const sameNumbers: Pick<PvMmu, 'pte_val' | 'make_pte' | 'pmd_val' | 'make_pmd' | 'pgd_val' | 'make_pgd'> = {
  pte_val: (pte) => over(pte as number as PteVal),
  make_pte: (value) => over(value as number as Pte),
  pmd_val: (pmd) => over(pmd as number as PmdVal),
  make_pmd: (value) => over(value as number as Pmd),
  pgd_val: (pgd) => over(pgd as number as PgdVal),
  make_pgd: (value) => over(value as number as Pgd),
};

const CR4_PGE = 0x80;

export function nativeMmu(m: MachinePort, shape: TableShape): PvMmu {
  const { store, clear, storeAtomic } = entryStores(m, shape);
  const reload = function* (): Task {
    const cr3 = yield m.op(OP.readCr3);
    yield m.op(OP.writeCr3, 0, cr3);
  };
  return {
    pagetable_setup_start: nothing, pagetable_setup_done: nothing,
    *read_cr2() { return yield m.op(OP.readCr2); },
    *write_cr2(vaddr) { yield m.op(OP.writeCr2, 0, vaddr); },
    *read_cr3() { return yield m.op(OP.readCr3); },
    *write_cr3(paddr) { yield m.op(OP.writeCr3, 0, paddr); },
    activate_mm: nothing, dup_mmap: nothing, exit_mmap: nothing,
    flush_tlb_user: reload,
    *flush_tlb_kernel() {
      // Global translations survive a load of CR3; they go with CR4.PGE.
      const cr4 = yield m.op(OP.readCr4);
      yield m.op(OP.writeCr4, 0, cr4 & ~CR4_PGE);
      yield m.op(OP.writeCr4, 0, cr4);
      yield* reload();
    },
    *flush_tlb_single(vaddr) { yield m.op(OP.invlpg, vaddr); },
    flush_tlb_others: nothing,
    alloc_pt: nothing, alloc_pd: nothing, alloc_pd_clone: nothing, release_pt: nothing, release_pd: nothing,
    set_pte: store,
    set_pte_at: (_mm, _vaddr, ptep, pte) => store(ptep, pte),
    set_pmd: storeAtomic, set_pud: storeAtomic, set_pgd: storeAtomic,
    pte_update: nothing, pte_update_defer: nothing,
    set_pte_atomic: storeAtomic,
    set_pte_present: (_mm, _vaddr, ptep, pte) => store(ptep, pte),
    pte_clear: (_mm, _vaddr, ptep) => clear(ptep),
    pmd_clear: clear,
    ...sameNumbers,
    *kmap_atomic_pte(pfn) { return pfnToVaddr(pfn); },
    lazy_mode: { enter: nothing, leave: nothing },
  };
}
