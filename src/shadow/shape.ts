// The two shapes of page tables of a 32-bit processor, for guest tables and shadows alike. SDM vol. 3, 4.3 and 4.4.
export interface Shape {
  readonly levels: 2 | 3;
  readonly entryBytes: 4 | 8;
}
export const TWO_LEVEL: Shape = { levels: 2, entryBytes: 4 };
export const PAE: Shape = { levels: 3, entryBytes: 8 };

export const BIT = { present: 1, rw: 2, user: 4, accessed: 0x20, dirty: 0x40, large: 0x80 } as const;
export const NX_HIGH = 0x8000_0000;

/** Entries of a table of that level. */
export const entriesOf = (shape: Shape, level: number): number => (level === 3 ? 4 : 4096 / shape.entryBytes);
/** Address bits below an entry of that level. */
export const shiftOf = (shape: Shape, level: number): number => (level === 3 ? 30 : level === 1 ? 12 : shape.levels === 3 ? 21 : 22);
export const indexOf = (shape: Shape, level: number, vaddr: number): number => (vaddr >>> shiftOf(shape, level)) & (entriesOf(shape, level) - 1);
/** The frame that an entry names; it may be any number of 28 bits (PAE: 40 bits of address). */
export const frameIn = (lo: number, hi: number): number => (hi & 0x7fff_ffff) * 0x10_0000 + (lo >>> 12);
