// VMI: the host is told which pages are tables (AllocatePage, with a clone form; ReleasePage), and stores
// entries itself (SetPxE). Where the kernel or the processor has stored one, it is announced
// (UpdatePxE), at once or with the next call. In lazy mode calls wait in a queue.
import { SHADOW_CALL } from '../../abi/shadow-calls.ts';
import { PAGE_OFFSET } from '../entries.ts';
import { nativeMmu } from '../native/mmu.ts';
import { OP, type MachinePort, type Task } from '../operations.ts';
import type { PvMmu } from '../paravirt-ops/index.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import { highHalf, lowHalf, type TableShape } from '../pte.ts';
import type { CallQueue } from './queue.ts';

export function vmiMmu(m: MachinePort, shape: TableShape, queue: CallQueue): PvMmu {
  const set = (at: number, entry: number): Task => queue.call(SHADOW_CALL.setPxE, at - PAGE_OFFSET, lowHalf(entry), highHalf(entry));
  /** A root, or one of PAE's L2 tables. */
  const levelOf = (mm: Mm, pfn: number): number => (pfn === mm.pgdPfn ? shape.levels : 2);
  return {
    ...nativeMmu(m, shape),
    *read_cr3() { return yield m.op(OP.readCr3); },
    *write_cr3(paddr) { yield* queue.call(SHADOW_CALL.setPageTableBase, paddr); },
    flush_tlb_user: () => queue.call(SHADOW_CALL.flushTlbVmi, 0),
    flush_tlb_kernel: () => queue.call(SHADOW_CALL.flushTlbVmi, 1),
    *flush_tlb_single(vaddr) { yield* queue.call(SHADOW_CALL.invalPage, vaddr); },
    *alloc_pt(_mm, pfn) { yield* queue.call(SHADOW_CALL.allocatePage, pfn, 1); },
    *alloc_pd(mm, pfn) { yield* queue.call(SHADOW_CALL.allocatePage, pfn, levelOf(mm, pfn)); },
    *alloc_pd_clone(mm, pfn, fromPfn) { yield* queue.call(SHADOW_CALL.allocatePage, pfn, levelOf(mm, pfn), fromPfn); },
    *release_pt(pfn) { yield* queue.call(SHADOW_CALL.releasePage, pfn, 1); },
    *release_pd(pfn) { yield* queue.call(SHADOW_CALL.releasePage, pfn, 2); },
    set_pte: set,
    set_pte_atomic: set,
    *set_pte_at(_mm, _vaddr, ptep, pte) { yield* set(ptep, pte); },
    *set_pte_present(_mm, _vaddr, ptep, pte) { yield* set(ptep, pte); },
    *pte_clear(_mm, _vaddr, ptep) { yield* set(ptep, 0); },
    set_pmd: set, set_pud: set, set_pgd: set,
    *pmd_clear(pmdp) { yield* set(pmdp, 0); },
    *pte_update(_mm, _vaddr, ptep) { yield* queue.call(SHADOW_CALL.updatePxE, ptep - PAGE_OFFSET); },
    *pte_update_defer(_mm, _vaddr, ptep) { yield* queue.defer(SHADOW_CALL.updatePxE, ptep - PAGE_OFFSET); },
    lazy_mode: queue.lazyMode,
  };
}
