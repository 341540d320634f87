// lguest: the guest's tables hold guest-physical numbers and are plain memory. Every change is a store
// and a call that says where: `setPte` names the address space and the page, `setPmd` the table and the
// index. An entry of which neither is known costs all shadows.
import { SHADOW_CALL } from '../../abi/shadow-calls.ts';
import { PAGE_OFFSET } from '../entries.ts';
import { entryStores, nativeMmu } from '../native/mmu.ts';
import { OP, type MachinePort, type Task } from '../operations.ts';
import type { PvMmu } from '../paravirt-ops/index.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import type { TableShape } from '../pte.ts';
import type { CallQueue } from './queue.ts';

export function lguestMmu(m: MachinePort, shape: TableShape, queue: CallQueue): PvMmu {
  const native = nativeMmu(m, shape);
  const { store, clear, storeAtomic } = entryStores(m, shape);
  const changed = (mm: Mm, vaddr: number): Task => queue.call(SHADOW_CALL.setPte, mm.pgdPfn * 4096, vaddr);
  const upperChanged = (at: number): Task => queue.call(SHADOW_CALL.setPmd, at - (at % 4096) - PAGE_OFFSET, (at % 4096) / shape.entryBytes);
  const everything = (): Task => queue.call(SHADOW_CALL.flushTlb, 1);
  return {
    ...native,
    // The processor's CR3 is the host's: the host says what the guest's is.
    *read_cr3() { return yield m.op(OP.readCr3); },
    *write_cr3(paddr) { yield* queue.call(SHADOW_CALL.newPageTable, paddr); },
    flush_tlb_user: () => queue.call(SHADOW_CALL.flushTlb, 0),
    flush_tlb_kernel: everything,
    // Whatever the host has made of the entry goes: the next access makes it anew.
    *flush_tlb_single(vaddr) { yield* queue.call(SHADOW_CALL.setPte, yield m.op(OP.readCr3), vaddr); },
    *set_pte(ptep, pte) {
      yield* store(ptep, pte);
      yield* everything();
    },
    *set_pte_atomic(ptep, pte) {
      yield* storeAtomic(ptep, pte);
      yield* everything();
    },
    *set_pte_at(mm, vaddr, ptep, pte) {
      yield* store(ptep, pte);
      yield* changed(mm, vaddr);
    },
    *set_pte_present(mm, vaddr, ptep, pte) {
      yield* store(ptep, pte);
      yield* changed(mm, vaddr);
    },
    *pte_clear(mm, vaddr, ptep) {
      yield* clear(ptep);
      yield* changed(mm, vaddr);
    },
    *pte_update(mm, vaddr) { yield* changed(mm, vaddr); },
    *pte_update_defer(mm, vaddr) { yield* changed(mm, vaddr); },
    *set_pmd(pmdp, pmd) {
      yield* storeAtomic(pmdp, pmd);
      yield* upperChanged(pmdp);
    },
    *pmd_clear(pmdp) {
      yield* clear(pmdp);
      yield* upperChanged(pmdp);
    },
    lazy_mode: queue.lazyMode,
  };
}
