// KVM: the kernel writes its tables as on bare hardware. The host has write-protected those of which it
// has shadows, and carries out the store that faults. That is a trap for each entry; so in lazy mode
// entries go in a queue, and a page that is a table no more is given up by a call.
import { SHADOW_CALL } from '../../abi/shadow-calls.ts';
import { PAGE_OFFSET } from '../entries.ts';
import { entryStores, nativeMmu } from '../native/mmu.ts';
import type { MachinePort, Task } from '../operations.ts';
import type { PvMmu } from '../paravirt-ops/index.ts';
import { highHalf, lowHalf, type TableShape } from '../pte.ts';
import type { CallQueue } from './queue.ts';

export function kvmMmu(m: MachinePort, shape: TableShape, queue: CallQueue): PvMmu {
  const native = nativeMmu(m, shape);
  const stores = entryStores(m, shape);
  const queued = (at: number, entry: number): Task => queue.call(SHADOW_CALL.writePte, at - PAGE_OFFSET, lowHalf(entry), highHalf(entry));
  const store = (at: number, entry: number): Task => (queue.lazy ? queued(at, entry) : stores.store(at, entry));
  const storeAtomic = (at: number, entry: number): Task => (queue.lazy ? queued(at, entry) : stores.storeAtomic(at, entry));
  const clear = (at: number): Task => (queue.lazy ? queued(at, 0) : stores.clear(at));
  const flush = (): Task => queue.call(SHADOW_CALL.flushTlbKvm);
  const release = (pfn: number): Task => queue.call(SHADOW_CALL.releaseTable, pfn * 4096);
  return {
    ...native,
    flush_tlb_user: () => (queue.lazy ? flush() : native.flush_tlb_user()),
    flush_tlb_kernel: () => (queue.lazy ? flush() : native.flush_tlb_kernel()),
    flush_tlb_single: (vaddr) => (queue.lazy ? flush() : native.flush_tlb_single(vaddr)),
    release_pt: release, release_pd: release,
    set_pte: store,
    *set_pte_at(_mm, _vaddr, ptep, pte) { yield* store(ptep, pte); },
    set_pmd: storeAtomic, set_pud: storeAtomic, set_pgd: storeAtomic,
    set_pte_atomic: storeAtomic,
    *set_pte_present(_mm, _vaddr, ptep, pte) { yield* store(ptep, pte); },
    *pte_clear(_mm, _vaddr, ptep) { yield* clear(ptep); },
    pmd_clear: clear,
    lazy_mode: queue.lazyMode,
  };
}
