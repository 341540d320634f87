// Group init on Xen: what start_info says, and what the kernel registers.
import { START_INFO_32 } from '../../abi/start-info.ts';
import { entryVaddr, PAGE_OFFSET } from '../entries.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import { kernelCs } from '../kernel/segments.ts';
import { REG, type Task } from '../operations.ts';
import type { PvInit, PvMmu } from '../paravirt-ops/index.ts';
import type { KernelServices } from '../paravirt-ops/types.ts';
import type { Batch } from './batch.ts';
import { lifeHooks } from './mmu.ts';
import type { Pinning } from './pinning.ts';
import { HC, wordBytes, type XenState } from './state.ts';

const AT = START_INFO_32.fields;
const XENMEM_MACHPHYS_MAPPING = 12;
const SCHEDOP_SHUTDOWN = 2;
const SHUTDOWN = { poweroff: 0, reboot: 1, suspend: 2, crash: 3 } as const;
const RPL = 1;
const VMASST_ENABLE = 0;
const VMASST_WRITABLE_PAGETABLES = 2;

const DISCIPLINE_TEXT = { late: 'pinned late', early: 'pinned early', writable: 'pinned late, stores to them emulated' } as const;

export function xenInit(xen: XenState, batch: Batch, pinning: Pinning, mmu: PvMmu): PvInit {
  const { m } = xen;
  return {
    patch: () => 0,
    attach(kernel: KernelServices) {
      xen.kernel = kernel as XenState['kernel'];
      xen.bootEsi = m.registers.reg(REG.esi);
      xen.bootEsp = m.registers.reg(REG.esp);
    },
    banner: () => `Booting paravirtualized kernel on Xen (${xen.shape.paging === 'pae' ? 'PAE' : 'two-level'} tables, ${DISCIPLINE_TEXT[xen.options.discipline]})`,
    *arch_setup() {
      yield* xen.must('the callbacks', HC.set_callbacks, kernelCs(RPL), entryVaddr('event'), kernelCs(RPL), entryVaddr('failsafe'));
      if (xen.options.discipline === 'writable') yield* xen.must('writable page tables', HC.vm_assist, VMASST_ENABLE, VMASST_WRITABLE_PAGETABLES);
    },
    *memory_setup() {
      yield* readStartInfo(xen);
      yield* findMachphys(xen);
      const { pages, firstFreePfn, pgdVaddr } = xen.startInfo;
      const direct = Math.min(pages, (xen.kernel.hypervisorStart - PAGE_OFFSET) / 4096);
      xen.pinned = new Uint8Array(pages);
      return { pgdVaddr, ranges: [{ fromPfn: 0, toPfn: firstFreePfn, free: false }, { fromPfn: firstFreePfn, toPfn: direct, free: true }] };
    },
    *post_allocator_init() {
      yield m.compute(1);
      Object.assign(mmu, lifeHooks(xen, batch, pinning));
    },
    *shutdown(reason) {
      yield m.writeBytes(KERNEL_PAGES.scratch, wordBytes([SHUTDOWN[reason]]));
      yield* xen.call(HC.sched_op, SCHEDOP_SHUTDOWN, KERNEL_PAGES.scratch);
    },
  };
}

/** At the start, and after a restore: what Xen and the builder left there. */
export function* readStartInfo(xen: XenState): Task {
  const { m } = xen;
  const word = function* (field: { at: number }): Task<number> {
    return yield m.load32(xen.bootEsi + field.at);
  };
  xen.startInfo = {
    pages: yield* word(AT.nr_pages), sharedInfoMaddr: yield* word(AT.shared_info), flags: yield* word(AT.flags),
    storeMfn: yield* word(AT.store_mfn), storePort: yield* word(AT.store_evtchn),
    consoleMfn: yield* word(AT.console_mfn), consolePort: yield* word(AT.console_evtchn),
    pgdVaddr: yield* word(AT.pt_base), p2mVaddr: yield* word(AT.mfn_list),
    // The boot stack is the last page that the builder made.
    firstFreePfn: Math.ceil((xen.bootEsp - PAGE_OFFSET) / 4096),
  };
}

/** Where the machine-to-phys table is, and with it where Xen begins. */
function* findMachphys(xen: XenState): Task {
  yield* xen.withStruct('to say where the machine-to-phys table is', HC.memory_op, XENMEM_MACHPHYS_MAPPING, [0, 0, 0]);
  xen.m2pVaddr = yield xen.m.load32(KERNEL_PAGES.scratch);
  xen.kernel.hypervisorStart = xen.m2pVaddr;
}
