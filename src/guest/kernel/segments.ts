// The kernel's segment descriptors: flat ones for kernel and user, three slots for thread-local
// storage, a task state segment. Slots and selectors are those of Linux on i386.
import type { Descriptor } from '../paravirt-ops/types.ts';

export const GDT_ENTRY = { tls: 6, kernelCs: 12, kernelDs: 13, userCs: 14, userDs: 15, tss: 16 } as const;
export const GDT_ENTRIES = 32;
export const USER_CS = GDT_ENTRY.userCs * 8 + 3;
export const USER_DS = GDT_ENTRY.userDs * 8 + 3;
export const kernelCs = (rpl: number): number => GDT_ENTRY.kernelCs * 8 + rpl;
export const kernelDs = (rpl: number): number => GDT_ENTRY.kernelDs * 8 + rpl;

/** Present, code or data, accessed, 4 GiB, 32 bits. */
const flat = (type: number, dpl: number): Descriptor => ({ lo: 0x0000_ffff, hi: (0x00cf_0000 | ((0x90 | (dpl << 5) | type) << 8)) >>> 0 });
const CODE = 0xb;
const DATA = 0x3;

/** Slot and descriptor; the task state segment is the back end's. */
export const flatDescriptors = (rpl: number): readonly (readonly [number, Descriptor])[] => [
  [GDT_ENTRY.kernelCs, flat(CODE, rpl)], [GDT_ENTRY.kernelDs, flat(DATA, rpl)], [GDT_ENTRY.userCs, flat(CODE, 3)], [GDT_ENTRY.userDs, flat(DATA, 3)],
];
