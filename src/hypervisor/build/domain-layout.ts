// Plans a PV domain's start of day: which pseudo-physical page is what, and which page tables map
// them. Pure arithmetic, no frames yet. The order, the alignments and the counts are those of
// libxenguest, because kernels rely on them (PV GRUB and mini-os count on the padding, Linux on the
// order):
//
//   VIRT_BASE ─► [padding][kernel][ramdisk][p2m][start_info][store][console][page tables][stack][padding]
//                pfn 0 ...                     all mapped, up to the next 4 MiB, at least 512 KiB spare
//
// With MOD_START_PFN the ramdisk, and with INIT_P2M the p2m list with tables of its own, follow
// behind the mapped part. Source: tools/libs/guest/xg_dom_core.c (xc_dom_build_image) and
// xg_dom_x86.c (count_pgtables, alloc_pgtables_pv, setup_pgtables_pv).
import { assert } from '../../base/assert.ts';
import type { Abi } from '../personality.ts';
import type { KernelImage, KernelProblem } from './kernel-image.ts';

/** A run of pages: `vaddr` undefined when it is not mapped. */
export interface PlannedSegment {
  readonly pfn: number;
  readonly pages: number;
  readonly vaddr: number | undefined;
}

/** The tables of one level for one mapping: `tables` pages from `pfn` on cover [from, to]. */
export interface TableRun {
  from: number;
  to: number;
  pfn: number;
  tables: number;
}

/** A mapped range of unsigned addresses (48 or 32 bits), its first pfn, and its tables; levels[0] are L1s. */
export interface PlannedMapping {
  readonly from: number;
  readonly to: number;
  readonly pfn: number;
  readonly levels: readonly TableRun[];
  /** Pages of all its tables together, from the highest level's first pfn on. */
  readonly tablePages: number;
  /** First pfn of the tables. */
  readonly tablesPfn: number;
}

export interface DomainPlan {
  readonly totalPages: number;
  readonly kernel: PlannedSegment;
  readonly ramdisk: PlannedSegment | undefined;
  readonly p2m: PlannedSegment;
  readonly startInfo: PlannedSegment;
  readonly store: PlannedSegment;
  readonly console: PlannedSegment;
  readonly pageTables: PlannedSegment;
  readonly bootStack: PlannedSegment;
  readonly mappings: readonly PlannedMapping[];
}

/** One entry of a table to be written: entry `index` of the table at `tablePfn` points to `pfn`. Level 1 is L1. */
export interface PlannedEntry {
  readonly level: number;
  readonly tablePfn: number;
  readonly index: number;
  readonly pfn: number;
  readonly writable: boolean;
}

const PAGE = 4096;
/** Spare room behind the boot stack, and the alignment of the end. */
const PADDING_PAGES = (512 * 1024) / PAGE;
const END_ALIGN = 4 * 1024 * 1024;

const levelShift = (abi: Abi): number => (abi.pteBytes === 8 ? 9 : 10);
/** 2 ** bits without rounding; `bits` < 53. */
const power = (bits: number): number => 2 ** bits;
const addressBits = (abi: Abi): number => (abi.levels === 4 ? 48 : 32);
/** Addresses in tables are unsigned: signed canonical ones are folded into 48 bits. */
export const unsignedVaddr = (abi: Abi, vaddr: number): number => (vaddr < 0 ? vaddr + power(addressBits(abi)) : vaddr);

/** The plan, or what stands in its way. `ramdiskBytes` 0: none. */
export function planDomain(image: KernelImage, abi: Abi, totalPages: number, ramdiskBytes: number): DomainPlan | KernelProblem {
  let pfn = 0;
  /** What did not fit any more, in order. */
  const lacking: string[] = [];
  const tooSmall = (): KernelProblem => ({ problem: `does not fit into ${Math.floor(totalPages / 256)} MiB: there is no room for ${lacking[0]}, and what must be in its memory at the start takes ${Math.ceil(pfn / 256)} MiB or more; give the domain more memory` });
  const take = (pages: number, what: string): PlannedSegment => {
    const segment = { pfn, pages, vaddr: image.virtBase + pfn * PAGE };
    pfn += pages;
    if (pfn > totalPages) lacking.push(what);
    return segment;
  };
  const pagesFor = (bytes: number): number => Math.ceil(bytes / PAGE);

  take((image.virtStart - image.virtBase) / PAGE, 'the gap below the kernel');
  const kernel = take(pagesFor(image.virtEnd - image.virtStart), `the kernel (${Math.ceil((image.virtEnd - image.virtStart) / 1024)} KiB)`);
  const ramdiskText = `the ramdisk (${Math.ceil(ramdiskBytes / 1024)} KiB)`;
  let ramdisk = ramdiskBytes > 0 && !image.unmappedInitrd ? take(pagesFor(ramdiskBytes), ramdiskText) : undefined;
  const p2mPages = pagesFor(totalPages * (abi.wordBits / 8));
  let p2m = image.initP2m === undefined ? take(p2mPages, 'the list of its frames') : undefined;
  const startInfo = take(1, 'start_info');
  const store = take(1, 'the xenstore page');
  const console = take(1, 'the console page');
  if (lacking.length > 0) return tooSmall();

  const first = planTables(abi, image.virtBase, pfn, 0, 1 + PADDING_PAGES, []);
  const mappings = [first];
  const pageTables = take(first.tablePages, 'its first page tables');
  const bootStack = take(1, 'its boot stack');
  take((first.to + 1 - first.from) / PAGE - pfn, 'the padding behind it');
  if (ramdiskBytes > 0 && image.unmappedInitrd) ramdisk = { ...take(pagesFor(ramdiskBytes), ramdiskText), vaddr: undefined };
  if (p2m === undefined) {
    const from = unsignedVaddr(abi, image.initP2m as number);
    const second = countTables(abi, from, from + p2mPages * PAGE - 1, pfn, pfn + p2mPages, mappings);
    mappings.push(second);
    p2m = { ...take(p2mPages + second.tablePages, 'the list of its frames'), vaddr: image.initP2m as number };
  }
  if (lacking.length > 0) return tooSmall();
  return { totalPages, kernel, ramdisk, p2m, startInfo, store, console, pageTables, bootStack, mappings };
}

/** alloc_pgtables_pv(): the mapping grows until it holds its own tables, the stack and the padding. */
function planTables(abi: Abi, virtBase: number, allocatedPages: number, pfn: number, extraPages: number, mappings: readonly PlannedMapping[]): PlannedMapping {
  const from = unsignedVaddr(abi, virtBase);
  const allocEnd = from + allocatedPages * PAGE;
  for (let pages = extraPages; ; ) {
    const wanted = allocEnd + pages * PAGE;
    const to = wanted - (wanted % END_ALIGN) + END_ALIGN - 1;
    const mapping = countTables(abi, from, to, pfn, allocatedPages, mappings);
    pages = mapping.tablePages + extraPages;
    if (allocEnd + pages * PAGE <= to + 1) return mapping;
  }
}

/** count_pgtables(): the tables of each level, highest first, without those that an earlier mapping has. */
function countTables(abi: Abi, from: number, to: number, pfn: number, tablesPfn: number, mappings: readonly PlannedMapping[]): PlannedMapping {
  const top = abi.levels - 1;
  const levels: TableRun[] = [];
  let tablePages = 0;
  for (let level = top; level >= 0; level--) {
    const run: TableRun = { from: 0, to: 0, pfn: tablesPfn + tablePages, tables: 0 };
    levels[level] = run;
    if (level === top) {
      if (mappings.length > 0) continue;
      run.to = power(addressBits(abi)) - 1;
      run.tables = 1;
      tablePages++;
      continue;
    }
    const span = power(12 + (level + 1) * levelShift(abi));
    run.from = from - (from % span);
    run.to = to - (to % span) + span - 1;
    // Slot 3 of a PAE root must have an L2, since Xen's entries are in it.
    if (abi.levels === 3 && level === 1 && mappings.length === 0 && to < 0xc000_0000) run.to = 0xffff_ffff;
    for (const other of mappings) withoutOther(run, other.levels[level] as TableRun);
    if (run.from < run.to) run.tables = Math.floor((run.to - run.from) / span) + 1;
    tablePages += run.tables;
  }
  return { from, to, pfn, levels, tablePages, tablesPfn };
}

function withoutOther(run: TableRun, other: TableRun): void {
  if (other.from === other.to || run.from === run.to) return;
  if (run.from >= other.from && run.to <= other.to) {
    run.from = 0;
    run.to = 0;
    return;
  }
  if (run.from >= other.from && run.from <= other.to) run.from = other.to + 1;
  if (run.to >= other.from && run.to <= other.to) run.to = other.from - 1;
}

/** setup_pgtables_pv(): every entry of every table, tables of the highest level first. */
export function plannedEntries(abi: Abi, plan: DomainPlan): PlannedEntry[] {
  const perTable = PAGE / abi.pteBytes;
  const entries: PlannedEntry[] = [];
  const isTable = (pfn: number): boolean => plan.mappings.some((mapping) => pfn >= mapping.tablesPfn && pfn < mapping.tablesPfn + mapping.tablePages);
  for (let level = abi.levels - 1; level >= 0; level--) {
    const span = power(12 + level * levelShift(abi));
    for (const holder of plan.mappings) {
      const run = holder.levels[level] as TableRun;
      if (run.tables === 0) continue;
      for (const held of plan.mappings) {
        const below = level > 0 ? (held.levels[level - 1] as TableRun) : { from: held.from, to: held.to, pfn: held.pfn, tables: 1 };
        if (below.tables === 0 || below.from >= run.to || below.to <= run.from) continue;
        const low = Math.max(run.from, below.from);
        const high = Math.min(run.to, below.to);
        let pfn = below.pfn + Math.floor((low - below.from) / span);
        for (let slot = Math.floor((low - run.from) / span); slot <= Math.floor((high - run.from) / span); slot++, pfn++) {
          const tablePfn = run.pfn + Math.floor(slot / perTable);
          assert(tablePfn < run.pfn + run.tables, `entry ${slot} of level ${level + 1} is past its ${run.tables} tables`);
          entries.push({ level: level + 1, tablePfn, index: slot % perTable, pfn, writable: level > 0 || !isTable(pfn) });
        }
      }
    }
  }
  return entries;
}
