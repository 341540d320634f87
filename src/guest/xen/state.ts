// What the parts of the Xen back end share: where Xen's pages are, which frames are page tables in
// use, how many hypercalls were made, and the two number spaces of frames.
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import type { PlantedBug } from '../../abi/planted.ts';
import { PAGE_OFFSET } from '../entries.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import { pfnToVaddr, vaddrToPfn } from '../kernel/page-tables.ts';
import type { MachinePort, Task } from '../operations.ts';
import type { KernelServices, LazyMode } from '../paravirt-ops/types.ts';
import type { TableShape } from '../pte.ts';

/**
 * When whole trees of tables are pinned. `writable` is late too, but entries of tables in use are plain
 * stores: they fault, and Xen carries them out (the assist writable_pagetables).
 */
export type PinDiscipline = 'late' | 'early' | 'writable';

/** Mistakes of a kernel's pinning discipline, one at a time, for tests of what finds them. */
export const PINNING_BUGS = ['pin-too-late', 'unpin-too-late', 'missed-readonly', 'freed-while-pinned', 'batch-out-of-order'] as const;
export type PinningBug = (typeof PINNING_BUGS)[number];

export interface XenOptions {
  readonly discipline: PinDiscipline;
  readonly bug?: PinningBug | undefined;
  /** A mistake of the drivers'. */
  readonly planted?: PlantedBug | undefined;
}

/** What a run cost, as the guest counted it. */
export interface XenCounts {
  /** Traps into Xen. */
  hypercalls: number;
  /** Elements of multicalls, and requests of mmu_update and mmuext_op. */
  requests: number;
  pins: number;
  unpins: number;
}

export interface StartInfo {
  readonly pages: number;
  readonly sharedInfoMaddr: number;
  /** SIF_*. */
  readonly flags: number;
  readonly storeMfn: number;
  readonly storePort: number;
  readonly consoleMfn: number;
  readonly consolePort: number;
  readonly pgdVaddr: number;
  readonly p2mVaddr: number;
  /** First frame behind everything that the builder made. */
  readonly firstFreePfn: number;
}

export class XenState {
  readonly m: MachinePort;
  readonly shape: TableShape;
  readonly options: XenOptions;
  readonly counts: XenCounts = { hypercalls: 0, requests: 0, pins: 0, unpins: 0 };
  kernel!: KernelServices & { hypervisorStart: number; panic(why: string): Task };
  startInfo!: StartInfo;
  /** Address of start_info and first stack pointer, as the registers had them. */
  bootEsi = 0;
  bootEsp = 0;
  m2pVaddr = 0;
  lazy: LazyMode = 'none';
  /** By pfn: the frame is part of a tree that Xen has typed, and mapped read-only. */
  pinned = new Uint8Array(0);
  readonly sharedVaddr = KERNEL_PAGES.shared;

  constructor(m: MachinePort, shape: TableShape, options: XenOptions) {
    this.m = m;
    this.shape = shape;
    this.options = options;
  }

  /** A hypercall; the answer as a signed number. */
  *call(number: number, a = 0, b = 0, c = 0, d = 0, e = 0): Task<number> {
    this.counts.hypercalls++;
    return (yield this.m.hypercall(number, a, b, c, d, e)) | 0;
  }
  /** One that may not fail. */
  *must(what: string, number: number, a = 0, b = 0, c = 0, d = 0, e = 0): Task<number> {
    const rc = yield* this.call(number, a, b, c, d, e);
    if (rc < 0) yield* this.refused(what, rc);
    return rc;
  }
  /** A structure in the scratch page, and a hypercall that takes its address (and how many there are, where it asks). */
  *withStruct(what: string, number: number, command: number, words: readonly number[], count = 0): Task<number> {
    yield this.m.writeBytes(KERNEL_PAGES.scratch, wordBytes(words));
    return yield* this.must(what, number, command, KERNEL_PAGES.scratch, count);
  }
  *refused(what: string, rc: number): Task {
    yield* this.kernel.panic(`Xen refused ${what}: ${rc}`);
  }

  // -- frames ---------------------------------------------------------------------------------------

  pfnToMfn(pfn: number): Task<number> {
    return this.m.read32(this.startInfo.p2mVaddr + pfn * 4);
  }
  mfnToPfn(mfn: number): Task<number> {
    return this.m.read32(this.m2pVaddr + mfn * 4);
  }
  /** Machine address of a byte in the direct map. */
  *machineAddress(vaddr: number): Task<number> {
    return (yield* this.pfnToMfn(vaddrToPfn(vaddr))) * 4096 + (vaddr % 4096);
  }
  isPinned(tableVaddr: number): boolean {
    return this.pinned[(tableVaddr - PAGE_OFFSET) >>> 12] === 1;
  }
  *vaddrOfMfn(mfn: number): Task<number> {
    return pfnToVaddr(yield* this.mfnToPfn(mfn));
  }
}

export function wordBytes(words: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(words.length * 4);
  const view = new DataView(bytes.buffer);
  words.forEach((word, index) => view.setUint32(index * 4, word >>> 0, true));
  return bytes;
}

export const HC = HYPERCALL;
