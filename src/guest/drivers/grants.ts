// The grant table, version 1: entries of eight bytes (flags, domain, frame) in pages that Xen gives, a
// free list of references, and the rule that an entry is taken back only when nobody uses it.
//
// Xen may refuse pages beyond the first, which every domain has: then there are fewer references, whoever
// finds none waits until somebody gives one back, and more pages are asked for when references run out.
//
//   grant:  frame first, then domain and permit_access in one store
//   end:    compare-and-exchange of flags without reading and writing to 0; whoever maps it sets one of
//           them first, so that it fails and the page stays the other domain's
//
// Source: xen/include/public/grant_table.h (the protocol of version 1).
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Kernel } from '../kernel/kernel.ts';
import { pfnToVaddr } from '../kernel/page-tables.ts';
import type { Task } from '../operations.ts';
import { highHalf, lowHalf } from '../pte.ts';
import { DOMID_SELF } from '../xen/batch.ts';
import { HC, type XenState } from '../xen/state.ts';

const GNTTABOP_setup_table = 2;
const GTF = { permit_access: 1, readonly: 4, reading: 8, writing: 16 } as const;
const RESERVED_ENTRIES = 8;
const ENTRY_BYTES = 8;
const ENTRIES_PER_PAGE = 4096 / ENTRY_BYTES;
const TABLE_PAGES = 4;
const LIST_AT = KERNEL_PAGES.scratch + 64;
const PAGE_FLAGS = 0x63;
const UVMF_INVLPG = 2;

export class GrantTable {
  readonly #kernel: Kernel;
  readonly #xen: XenState;
  /** Pages of the direct map behind which Xen's frames lie. */
  #pages: number[] = [];
  #free: number[] = [];
  #used = 0;
  /** Pages that Xen has given; the others are there for it. */
  #given = 0;
  /** The fewest that somebody waits for. */
  #wanted = Infinity;
  readonly #freed: () => void;

  /** `freed`: there are references for whoever waits for them. */
  constructor(kernel: Kernel, xen: XenState, freed: () => void) {
    this.#kernel = kernel;
    this.#xen = xen;
    this.#freed = freed;
  }

  /** References that have been given out. */
  get usedCount(): number {
    return this.#used;
  }

  /** Once before the first use; and after a restore, when all references have become void. */
  *setUp(): Task {
    while (this.#pages.length < TABLE_PAGES) {
      const pfn = this.#kernel.frames.take();
      if (pfn === undefined) return yield* this.#kernel.panic('no memory for the grant table');
      this.#pages.push(pfn);
    }
    this.#used = this.#given = 0;
    this.#free = [];
    this.#wanted = Infinity;
    if ((yield* this.#grow(TABLE_PAGES)) === 0) return;
    const status = yield* this.#grow(1);
    if (status !== 0) yield* this.#xen.refused('the grant table', status);
  }

  /** To so many pages; the answer is Xen's, GNTST_*. */
  *#grow(pages: number): Task<number> {
    const { m } = this.#xen;
    yield* this.#xen.withStruct('the grant table', HC.grant_table_op, GNTTABOP_setup_table, [DOMID_SELF, pages, 0, LIST_AT], 1);
    const status = ((yield m.load32(KERNEL_PAGES.scratch + 8)) << 16) >> 16;
    if (status !== 0) return status;
    yield m.readWords(LIST_AT, pages);
    const mfns = [...m.words.subarray(0, pages)];
    const first = this.#given;
    // Given before they are mapped: somebody else may want references meanwhile.
    this.#given = pages;
    for (let i = first; i < pages; i++) yield* this.#map(this.#pages[i] as number, mfns[i] as number);
    for (let gref = pages * ENTRIES_PER_PAGE - 1; gref >= Math.max(RESERVED_ENTRIES, first * ENTRIES_PER_PAGE); gref--) this.#free.push(gref);
    return 0;
  }

  /** Before a suspension: a saved domain has no frames of Xen's in its tables. */
  *unmap(): Task {
    for (const pfn of this.#pages) yield* this.#map(pfn, yield* this.#xen.pfnToMfn(pfn));
  }
  *#map(pfn: number, mfn: number): Task {
    const entry = mfn * 4096 + PAGE_FLAGS;
    yield* this.#xen.must('a mapping of the grant table', HC.update_va_mapping, pfnToVaddr(pfn), lowHalf(entry), highHalf(entry), UVMF_INVLPG);
  }

  #entry(gref: number): number {
    return pfnToVaddr(this.#pages[Math.floor(gref / ENTRIES_PER_PAGE)] as number) + (gref % ENTRIES_PER_PAGE) * ENTRY_BYTES;
  }

  /** Are so many references free? If not, everybody is woken when they are. */
  *enough(count: number): Task<boolean> {
    while (this.#free.length < count && this.#given < TABLE_PAGES && (yield* this.#grow(this.#given + 1)) === 0);
    if (this.#free.length >= count) return true;
    this.#wanted = Math.min(this.#wanted, count);
    return false;
  }

  /** The frame may be used by `domId` from now on; undefined: not enough(1). */
  *grant(pfn: number, domId: number, readOnly: boolean): Task<number | undefined> {
    if (!(yield* this.enough(1))) return undefined;
    const gref = this.#free.pop() as number;
    this.#used++;
    const { m } = this.#xen;
    const at = this.#entry(gref);
    const mfn = yield* this.#xen.pfnToMfn(pfn);
    yield m.store32(at + 4, mfn);
    yield m.store32(at, (domId << 16) | GTF.permit_access | (readOnly ? GTF.readonly : 0));
    return gref;
  }

  /** False: it is in use, and the page is not ours yet. */
  *end(gref: number): Task<boolean> {
    const { m } = this.#xen;
    const at = this.#entry(gref);
    for (;;) {
      const word = yield m.load32(at);
      if ((word & (GTF.reading | GTF.writing)) !== 0 && this.#xen.options.planted !== 'grant-ended-early') return false;
      if ((yield m.compareExchange32(at, word, 0)) === word) break;
    }
    this.#free.push(gref);
    this.#used--;
    if (this.#free.length >= this.#wanted) {
      this.#wanted = Infinity;
      this.#freed();
    }
    return true;
  }
}
