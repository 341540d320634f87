// Loads the model kernel as a boot loader does on a machine without Xen: its text, tables that map the
// first 4 MiB at PAGE_OFFSET, a page that says how much memory there is, and the registers.
import { entryVaddr, kernelTextPage, PAGE_OFFSET } from '../../guest/entries.ts';
import { KERNEL_IMAGE_PAGES, KERNEL_PAGES } from '../../guest/kernel/layout.ts';
import { kernelCs, kernelDs } from '../../guest/kernel/segments.ts';
import { BOOT_WORDS } from '../../guest/native/index.ts';
import { REG } from '../../guest/operations.ts';
import type { TableShape } from '../../guest/pte.ts';
import type { Cpu } from '../../x86/cpu.ts';
import { SEG } from '../../x86/state-layout.ts';

/** PG, WP, NE, ET, MP, PE; PGE and PAE; NXE. */
export const BOOT_CR0 = 0x8001_0033;
const CR4 = { pge: 0x80, pae: 0x20 } as const;
export const bootCr4 = (shape: TableShape): number => CR4.pge | (shape.levels === 3 ? CR4.pae : 0);
const EFER_NXE = 0x800;
const TABLE = 0x67;
const LEAF = 0x63;
const MAPPED_PAGES = 1024;
/** Image, loader's page, tables: no more than this. */
export const LEAST_PAGES = 1024;

/** Memory by guest-physical address. */
export interface LoadMemory {
  writeBytes(at: number, bytes: Uint8Array): void;
  writeU32(at: number, value: number): void;
}

export interface Loaded {
  /** Guest-physical addresses of the root and of the page that ESI names. */
  readonly rootGpa: number;
  readonly wordsGpa: number;
}

/** Everything but CR3, which must be loaded before CR0 has paging on: by `setRoot`. */
export function loadKernel(memory: LoadMemory, cpu: Cpu, shape: TableShape, pages: number, setRoot: (rootGpa: number) => void): Loaded {
  memory.writeBytes(KERNEL_PAGES.text - PAGE_OFFSET, kernelTextPage());
  const bootPfn = (KERNEL_PAGES.text - PAGE_OFFSET) / 4096 + KERNEL_IMAGE_PAGES;
  const rootPfn = bootPfn + 1;
  const firstFreePfn = mapFirst(memory, shape, rootPfn);
  const words = bootPfn * 4096;
  memory.writeU32(words + BOOT_WORDS.pages, pages);
  memory.writeU32(words + BOOT_WORDS.pgdVaddr, PAGE_OFFSET + rootPfn * 4096);
  memory.writeU32(words + BOOT_WORDS.firstFreePfn, firstFreePfn);
  cpu.setEfer(EFER_NXE);
  cpu.setCr(4, bootCr4(shape));
  setRoot(rootPfn * 4096);
  cpu.setCr(0, BOOT_CR0);
  const flat = (selector: number, access: number) => ({ selector, base: 0, limit: 0xffff_ffff, access });
  cpu.setSegment(SEG.cs, flat(kernelCs(0), 0xc09b));
  for (const index of [SEG.es, SEG.ss, SEG.ds, SEG.fs, SEG.gs]) cpu.setSegment(index, flat(kernelDs(0), 0xc093));
  cpu.setReg(REG.esi, PAGE_OFFSET + words);
  cpu.setReg(REG.esp, KERNEL_PAGES.bootStack + 4096);
  cpu.setEip(entryVaddr('start'));
  cpu.setEflags(2);
  return { rootGpa: rootPfn * 4096, wordsGpa: words };
}

/** Tables for the first 4 MiB, from `rootPfn` on; the first frame behind them. */
function mapFirst(memory: LoadMemory, shape: TableShape, rootPfn: number): number {
  const put = (table: number, index: number, pfn: number, flags: number): void => memory.writeU32(table * 4096 + index * shape.entryBytes, pfn * 4096 + flags);
  let next = rootPfn + 1;
  let l2 = rootPfn;
  if (shape.levels === 3) {
    l2 = next++;
    put(rootPfn, 3, l2, 1);
  }
  for (let pfn = 0; pfn < MAPPED_PAGES; pfn += shape.entries) {
    const l1 = next++;
    put(l2, ((PAGE_OFFSET >>> shape.l2Shift) & (shape.entries - 1)) + pfn / shape.entries, l1, TABLE);
    for (let i = 0; i < shape.entries; i++) put(l1, i, pfn + i, LEAF);
  }
  return next;
}
