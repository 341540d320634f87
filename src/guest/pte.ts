// Page-table entries as numbers. An entry is a number below 2^53 whose low 40 bits are those of the
// hardware's entry; NX, the hardware's bit 63, is bit 52 here, so that an entry needs no halves and no
// bigint on its way through the kernel. Only who stores or loads one splits it.
//
//   Pte, Pmd, Pgd          what a table holds: the frame number is whatever the paging unit walks
//   PteVal, PmdVal, PgdVal what the kernel reckons with: the frame number is a pseudo-physical one
//
// The paravirt_ops hooks make_* and *_val go from one to the other.
import type { Brand } from '../base/brand.ts';

export type Pte = Brand<number, 'Pte'>;
export type Pmd = Brand<number, 'Pmd'>;
/** PAE: an entry of the four-entry root. Two levels: the same as the Pmd. */
export type Pgd = Brand<number, 'Pgd'>;
export type PteVal = Brand<number, 'PteVal'>;
export type PmdVal = Brand<number, 'PmdVal'>;
export type PgdVal = Brand<number, 'PgdVal'>;
export type AnyEntry = Pte | Pmd | Pgd;

/** SDM vol. 3, 4.4; `nx` in our place for it. `cow` is one of the bits that software may use. */
export const PTE = { present: 0x1, rw: 0x2, user: 0x4, accessed: 0x20, dirty: 0x40, pse: 0x80, global: 0x100, cow: 0x200, nx: 2 ** 52 } as const;
/** Upper tables: what the builder of a kernel gives them. The four entries of a PAE root have no rights bits. */
export const TABLE_FLAGS = PTE.present | PTE.rw | PTE.user | PTE.accessed | PTE.dirty;
export const PAE_ROOT_FLAGS = PTE.present;

const HI_NX = 0x10_0000;
export const lowHalf = (entry: number): number => entry >>> 0;
/** As the hardware has it. */
export const highHalf = (entry: number): number => {
  const hi = Math.floor(entry / 0x1_0000_0000);
  return (hi & HI_NX) === 0 ? hi : ((hi & ~HI_NX) | 0x8000_0000) >>> 0;
};
/** From the hardware's halves. */
export const joinHalves = (lo: number, hi: number): number => ((hi & 0x7fff_ffff) + (hi >>> 31) * HI_NX) * 0x1_0000_0000 + lo;

export const flagsOf = (entry: number): number => entry & 0xfff;
export const isPresent = (entry: number): boolean => (entry & PTE.present) !== 0;
/** The number above the low twelve bits, whatever kind of frame it names. */
export const frameOf = (entry: number): number => Math.floor((entry % PTE.nx) / 4096);
export const isNx = (entry: number): boolean => entry >= PTE.nx;
/** The same flags on another frame. */
export const withFrame = (entry: number, frame: number): number => frame * 4096 + (entry & 0xfff) + (entry >= PTE.nx ? PTE.nx : 0);
export const entryOf = (frame: number, flags: number): number => frame * 4096 + flags;

export type Paging = 'pae' | 'nopae';

/** The shape of a kernel's tables. `levels` counts as the processor does. */
export interface TableShape {
  readonly paging: Paging;
  readonly levels: 2 | 3;
  readonly entryBytes: 4 | 8;
  readonly entries: number;
  /** Entries of the root: 1024, or the 4 of a PAE root. */
  readonly rootEntries: number;
  /** Address bits below an L2 entry: what one L1 table maps. */
  readonly l2Shift: 22 | 21;
}
export const SHAPES: Readonly<Record<Paging, TableShape>> = {
  nopae: { paging: 'nopae', levels: 2, entryBytes: 4, entries: 1024, rootEntries: 1024, l2Shift: 22 },
  pae: { paging: 'pae', levels: 3, entryBytes: 8, entries: 512, rootEntries: 4, l2Shift: 21 },
};
export const l1Index = (shape: TableShape, vaddr: number): number => (vaddr >>> 12) & (shape.entries - 1);
export const l2Index = (shape: TableShape, vaddr: number): number => (vaddr >>> shape.l2Shift) & (shape.entries - 1);
