// Pinning: a whole tree of tables becomes Xen's to check, and read-only to the kernel, or is taken back.
//
//   pin      every table of the tree is mapped read-only, then the root is pinned: one batch
//   unpin    the root is unpinned, then every table is mapped writable: one batch
//
// Late (as in Linux): at the first switch to an address space, or when a fork has filled it; unpinned
// before it is torn down. Early: when the root is made, unpinned when it is let go, so that all that
// happens in between is requests. The kernel's own L1 tables belong to init_mm, which is always pinned.
import { pfnToVaddr } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import type { Mm } from '../paravirt-ops/types.ts';
import { entryOf, frameOf, highHalf, isPresent, joinHalves, lowHalf, PTE } from '../pte.ts';
import { MMUEXT, type Batch } from './batch.ts';
import { HC, type XenState } from './state.ts';

const LOWMEM = PTE.present | PTE.accessed | PTE.dirty;
/** User slots of a two-level root, and of a PAE root. */
const USER_ROOT_ENTRIES = { nopae: 768, pae: 3 } as const;

export class Pinning {
  readonly #xen: XenState;
  readonly #batch: Batch;

  constructor(xen: XenState, batch: Batch) {
    this.#xen = xen;
    this.#batch = batch;
  }

  /** Maps a frame of the direct map read-only or writable: one request. */
  *setReadOnly(pfn: number, readOnly: boolean): Task {
    const pte = entryOf(yield* this.#xen.pfnToMfn(pfn), LOWMEM | (readOnly ? 0 : PTE.rw));
    yield* this.#batch.add(readOnly ? 'a read-only mapping of a page table' : 'a writable mapping of a former page table', HC.update_va_mapping, pfnToVaddr(pfn), lowHalf(pte), highHalf(pte), 0);
  }

  /** The frame, a table of a pinned tree, joins it or leaves it. */
  *join(pfn: number): Task {
    this.#xen.pinned[pfn] = 1;
    yield* this.setReadOnly(pfn, true);
  }
  *leave(pfn: number): Task {
    this.#xen.pinned[pfn] = 0;
    yield* this.setReadOnly(pfn, false);
  }

  /** `reversed`: a planted mistake, the batch goes backwards. */
  *pin(mm: Mm, reversed = false): Task {
    const { options, counts, pinned, shape } = this.#xen;
    if (pinned[mm.pgdPfn] === 1) return;
    const tables = yield* this.#tablesOf(mm);
    // The planted mistake: one L1 table, the first, stays writable.
    const skipped = options.bug === 'missed-readonly' && tables.length > (shape.levels === 2 ? 1 : 5) ? tables[0] : undefined;
    for (const pfn of tables) {
      if (pfn === skipped) pinned[pfn] = 1;
      else yield* this.join(pfn);
    }
    counts.pins++;
    yield* this.#batch.mmuext('to pin a page table', shape.levels === 2 ? MMUEXT.PIN_L2 : MMUEXT.PIN_L3, yield* this.#xen.pfnToMfn(mm.pgdPfn));
    yield* this.#batch.flush(reversed);
  }

  *unpin(mm: Mm): Task {
    const { counts, pinned } = this.#xen;
    if (pinned[mm.pgdPfn] !== 1) return;
    counts.unpins++;
    yield* this.#batch.mmuext('to unpin a page table', MMUEXT.UNPIN, yield* this.#xen.pfnToMfn(mm.pgdPfn));
    for (const pfn of yield* this.#tablesOf(mm)) yield* this.leave(pfn);
    yield* this.#batch.issue();
  }

  /** A planted mistake: the tables count as plain memory before they are. */
  *forget(mm: Mm): Task {
    for (const pfn of yield* this.#tablesOf(mm)) this.#xen.pinned[pfn] = 0;
  }

  /** Frames of all tables of an address space but the kernel's: L1s first, the root last. */
  *#tablesOf(mm: Mm): Task<number[]> {
    const { shape, kernel } = this.#xen;
    const root = yield* this.#entriesOf(mm.pgdPfn, USER_ROOT_ENTRIES[shape.paging]);
    const tables: number[] = [];
    if (shape.levels === 2) for (const entry of root) tables.push(yield* this.#xen.mfnToPfn(frameOf(entry)));
    else {
      const upper: number[] = [];
      for (const entry of root) {
        const pfn = yield* this.#xen.mfnToPfn(frameOf(entry));
        for (const below of yield* this.#entriesOf(pfn, shape.entries)) tables.push(yield* this.#xen.mfnToPfn(frameOf(below)));
        upper.push(pfn);
      }
      const [kernelEntry] = (yield* this.#entriesOf(mm.pgdPfn, 4)).slice(-1);
      if (kernelEntry !== undefined && mm.pgdPfn !== kernel.initMm.pgdPfn) upper.push(yield* this.#xen.mfnToPfn(frameOf(kernelEntry)));
      tables.push(...upper);
    }
    tables.push(mm.pgdPfn);
    return tables;
  }

  /** The present ones of a table's first entries, read in one go. */
  *#entriesOf(pfn: number, count: number): Task<number[]> {
    const { m, shape } = this.#xen;
    const wide = shape.entryBytes === 8;
    yield* m.takeWords(pfnToVaddr(pfn), wide ? count * 2 : count);
    const { words } = m;
    const found: number[] = [];
    for (let i = 0; i < count; i++) {
      const lo = words[wide ? i * 2 : i] as number;
      if (isPresent(lo)) found.push(wide ? joinHalves(lo, words[i * 2 + 1] as number) : lo);
    }
    return found;
  }

  /** The tree that Xen's builder made is pinned since before the start: its tables are noted. */
  *adopt(mm: Mm): Task {
    yield* this.#adoptTable(mm.pgdPfn, this.#xen.shape.levels);
  }
  *#adoptTable(pfn: number, level: number): Task {
    const { pinned } = this.#xen;
    if (pinned[pfn] === 1) return;
    pinned[pfn] = 1;
    if (level === 1) return;
    for (const entry of yield* this.#entriesOf(pfn, level === 3 ? 4 : this.#guestEntries())) yield* this.#adoptTable(yield* this.#xen.mfnToPfn(frameOf(entry)), level - 1);
  }
  /** Entries of the L2 that maps the kernel which are not Xen's. */
  #guestEntries(): number {
    const { shape, kernel } = this.#xen;
    return (kernel.hypervisorStart >>> shape.l2Shift) & (shape.entries - 1);
  }
}
