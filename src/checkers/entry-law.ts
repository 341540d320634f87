// What page-table entries of a guest may look like, written down a second time. The hypervisor has
// rows of its own (pte-rules.ts); these come from Xen's sources and the processor's manual alone, so
// that a hypervisor with a wrong row is not its own judge.
//
// Sources: Intel SDM vol. 3, 4.4 and 4.5 (entry formats); base_disallow_mask and L*_DISALLOW_MASK in
// xen/arch/x86/mm.c and xen/arch/x86/include/asm/x86_64/page.h; for 32-bit Xen 3.x
// xen/include/asm-x86/x86_32/page-{2,3}level.h; ROOT_PAGETABLE_*_XEN_SLOT in asm/config.h;
// adjust_guest_l*e() in xen/arch/x86/pv/mm.h.
import type { Abi, AbiName } from '../hypervisor/personality.ts';

/** Bits of an entry's low half. */
export const PTE_LO = { present: 0x1, writable: 0x2, user: 0x4, pwt: 0x8, pcd: 0x10, accessed: 0x20, dirty: 0x40, sizeOrPat: 0x80, global: 0x100 } as const;
/** Bits of the high half: 52 (_PAGE_GUEST_KERNEL), 62 (_PAGE_GNTTAB), 63 (NX). */
export const PTE_HI = { frameMask: 0x000f_ffff, guestKernel: 0x0010_0000, grant: 0x4000_0000, nx: 0x8000_0000 } as const;

/** Cache attributes (bits 3, 4, 7) are the hardware domain's; a large page or PAT bit is nobody's. */
const CACHE = PTE_LO.pwt | PTE_LO.pcd | PTE_LO.sizeOrPat;
const ALL_HI = 0xfff0_0000;
/** Bits 52..62: software bits on 64-bit Xen, reserved on 32-bit Xen. */
const SOFTWARE_HI = 0x7ff0_0000;

/** For a present entry: bits that must be clear, bits that must be set, by half. */
export interface EntryLaw {
  readonly clearLo: number;
  readonly clearHi: number;
  readonly setLo: number;
}
const law = (clearLo: number, clearHi = 0, setLo = 0): EntryLaw => ({ clearLo, clearHi, setLo });
const NONE = law(0xfff);

/** Index is the level. */
export const ENTRY_LAWS: Readonly<Record<AbiName, readonly [EntryLaw, EntryLaw, EntryLaw, EntryLaw, EntryLaw]>> = {
  // Every page of a 64-bit guest is a user page to the processor, since its kernel runs in ring 3.
  pv64: [NONE, law(CACHE, 0, PTE_LO.user), law(CACHE | PTE_LO.global, 0, PTE_LO.user), law(CACHE | PTE_LO.global, 0, PTE_LO.user), law(CACHE | PTE_LO.global, 0, PTE_LO.user)],
  // The root's entries are third-level ones to the processor and PDPTEs to the guest.
  pv32pae: [NONE, law(CACHE), law(CACHE | PTE_LO.global), law(CACHE | PTE_LO.global, ALL_HI, PTE_LO.user | PTE_LO.writable), NONE],
  // Bits 1..8 and 52..63 of a PDPTE are reserved or ignored.
  'xen3-pae': [NONE, law(CACHE | PTE_LO.global, SOFTWARE_HI), law(CACHE | PTE_LO.global, SOFTWARE_HI), law(0x1fe, ALL_HI), NONE],
  'xen3-nopae': [NONE, law(CACHE | PTE_LO.global), law(CACHE | PTE_LO.global), NONE, NONE],
};
export const CACHE_BITS = CACHE;

/** Entries of a table of that level as the processor sees it. */
export function entriesOf(abi: Abi, level: number): number {
  if (abi.levels === 2) return 1024;
  return abi.levels === 3 && level === 3 ? 4 : 512;
}

/** First and last+1 slot that is Xen's, in tables that have any. */
export const XEN_SLOTS = {
  /** 0xffff800000000000 .. 0xffff87ffffffffff. */
  fourLevelRoot: { first: 256, end: 272, m2p: 256, self: 258, perDomain: 260 },
  /** 0xf5800000 in the fourth L2 of a PAE guest; the descriptor windows at 0xfe800000. */
  paeL2: { first: 428, end: 512, perDomain: 500 },
  /** 0xfc000000 in a two-level root. */
  twoLevelRoot: { first: 1008, end: 1024, perDomain: 1018 },
} as const;

/** The part of a table that is Xen's: [first, end). Empty for most tables. */
export function xenSlots(abi: Abi, level: number, holdsXenEntries: boolean): { readonly first: number; readonly end: number } {
  if (abi.levels === 4 && level === 4) return XEN_SLOTS.fourLevelRoot;
  if (abi.levels === 3 && level === 2 && holdsXenEntries) return XEN_SLOTS.paeL2;
  if (abi.levels === 2 && level === 2) return XEN_SLOTS.twoLevelRoot;
  return NO_SLOTS;
}
const NO_SLOTS = { first: 4096, end: 4096 } as const;
