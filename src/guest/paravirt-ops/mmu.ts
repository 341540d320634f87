// Group `mmu`: everything about page tables. This is where direct and shadow tables differ through the
// same rows (PTE numbers in pte.ts):
//
//   direct (Xen)      the tables that the kernel writes are those that the processor walks: they hold
//                     machine frames, are checked as whole trees when pinned, and are read-only then
//   shadow (others)   the tables hold pseudo-physical frames and stay the kernel's own; the hypervisor
//                     is told of changes, or traps them, and keeps copies that the processor walks
//   native            no hypervisor: stores
//
// Life of an address space, and who calls what:
//
//   exec, fork      a new root: alloc_pd (PAE: alloc_pd_clone for the copied kernel part)
//   fork            copies entries of the parent's tables into the child's: alloc_pt, set_pmd, set_pte...
//                   then dup_mmap(child)
//   first run       activate_mm(previous, next), before the write_cr3 that loads it
//   page faults     set_pte_at, set_pmd, flush_tlb_single
//   exit            exit_mmap(mm) before anything is torn down, then pte_clear.., release_pt, release_pd
import type { Task } from '../operations.ts';
import type { Pgd, PgdVal, Pmd, PmdVal, Pte, PteVal } from '../pte.ts';
import type { Mm } from './types.ts';

export interface PvMmu {
  /** Around the construction of the kernel's own tables at boot: `mm` is init_mm with the root as it was found. */
  pagetable_setup_start(mm: Mm): Task;
  pagetable_setup_done(mm: Mm): Task;

  /** The address of the last page fault. */
  read_cr2(): Task<number>;
  write_cr2(vaddr: number): Task;
  /** Pseudo-physical address of the root in use. */
  read_cr3(): Task<number>;
  /** Loads a root by its pseudo-physical address; everything cached of the old one goes. */
  write_cr3(paddr: number): Task;

  /** The first switch to `next` is about to happen (its tables are complete). Direct tables: pin. */
  activate_mm(previous: Mm, next: Mm): Task;
  /** Fork has copied `from`'s tables into `mm`, which has not run yet. Direct tables: pin. */
  dup_mmap(from: Mm, mm: Mm): Task;
  /** `mm` is about to be torn down; another one is active. Direct tables: unpin. */
  exit_mmap(mm: Mm): Task;

  /** Cached translations of user space go; of everything, global ones too; of one page. */
  flush_tlb_user(): Task;
  flush_tlb_kernel(): Task;
  flush_tlb_single(vaddr: number): Task;
  /** Other processors that may have `mm` cached drop `vaddr` (-1: everything). One vCPU: nothing to do. */
  flush_tlb_others(mm: Mm, vaddr: number): Task;

  /** Frame `pfn` (zeroed, or filled with entries) becomes a table of `mm`: an L1; an L2 (PAE) or two-level root. Called before it is hung in. */
  alloc_pt(mm: Mm, pfn: number): Task;
  alloc_pd(mm: Mm, pfn: number): Task;
  /** The same for a table whose entries [start, start + count) were copied from those of `fromPfn`. */
  alloc_pd_clone(mm: Mm, pfn: number, fromPfn: number, start: number, count: number): Task;
  /** The frame is no table any more: called after it was taken out, before it is freed. */
  release_pt(pfn: number): Task;
  release_pd(pfn: number): Task;

  /** Stores an L1 entry at the direct-map address `ptep`: of the kernel, or of an address space not known here. */
  set_pte(ptep: number, pte: Pte): Task;
  /** The same where it is known which page of which address space changes. */
  set_pte_at(mm: Mm, vaddr: number, ptep: number, pte: Pte): Task;
  /** PAE: an L2 entry. Two levels: the root's entry. */
  set_pmd(pmdp: number, pmd: Pmd): Task;
  /** PAE: an entry of the four-entry root, in use by the processor only after the next write_cr3. */
  set_pud(pudp: number, pud: Pgd): Task;
  /** Four levels only; kernels of this interface that have fewer never call it. */
  set_pgd(pgdp: number, pgd: Pgd): Task;
  /** The processor (not a hook) changed bits of the entry in a way the kernel now tells of: accessed or dirty cleared. At once, or by the next flush. */
  pte_update(mm: Mm, vaddr: number, ptep: number): Task;
  pte_update_defer(mm: Mm, vaddr: number, ptep: number): Task;
  /** PAE: all eight bytes in one store, for entries in use. */
  set_pte_atomic(ptep: number, pte: Pte): Task;
  /** PAE: an entry that is not present becomes present: high half first. */
  set_pte_present(mm: Mm, vaddr: number, ptep: number, pte: Pte): Task;
  /** The entry becomes 0. */
  pte_clear(mm: Mm, vaddr: number, ptep: number): Task;
  pmd_clear(pmdp: number): Task;

  /** The kernel's number of an entry, and an entry from the kernel's number. Not-present entries pass unchanged. */
  pte_val(pte: Pte): Task<PteVal>;
  make_pte(value: PteVal): Task<Pte>;
  pmd_val(pmd: Pmd): Task<PmdVal>;
  make_pmd(value: PmdVal): Task<Pmd>;
  pgd_val(pgd: Pgd): Task<PgdVal>;
  make_pgd(value: PgdVal): Task<Pgd>;

  /** Maps a page table for a moment, writable if it may be: its direct-map address here, where there is no high memory. */
  kmap_atomic_pte(pfn: number): Task<number>;

  /** Lazy MMU mode: updates between these two may be carried out at the end, together and in order. Never nested; reads in between see old entries. */
  readonly lazy_mode: { enter(): Task; leave(): Task };
}
