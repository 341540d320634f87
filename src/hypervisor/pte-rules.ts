// The rules of page-table entries as rows: which flags an entry of each level may have, what Xen
// adds to it, which slots are Xen's, and what may change without a new check. The functions of
// page-types.ts, page-tables.ts and pte-update.ts read them from `hv.rules`, so that a test can
// replace one row (that is how a historical advisory becomes a mutant).
//
// Flags of an entry travel as 24 bits, as in Xen: bits 0..11 are entry bits 0..11, bits 12..23 are
// entry bits 52..63 (get_pte_flags() in xen/arch/x86/include/asm/x86_64/page.h).
import type { Abi, AbiName } from './personality.ts';
import { FRAME } from './frame-table.ts';

export const PTE_FLAG = {
  present: 0x001, rw: 0x002, user: 0x004, pwt: 0x008, pcd: 0x010, accessed: 0x020, dirty: 0x040, pat: 0x080, pse: 0x080,
  global: 0x100, avail: 0xe00,
  /** Bit 52: Xen's mark for "kernel page" of 64-bit guests (_PAGE_GUEST_KERNEL). */
  guestKernel: 0x1000,
  availHigh: 0x7ff000,
  /** Bit 62: entry made by the grant interface, debug builds only (_PAGE_GNTTAB). */
  grant: 0x400000,
  nx: 0x800000,
} as const;
export const CACHE_FLAGS = PTE_FLAG.pwt | PTE_FLAG.pcd | PTE_FLAG.pat;

/** The level's index is the level: [unused, L1, L2, L3, L4]. */
export type PerLevel = readonly [number, number, number, number, number];

export interface PageRules {
  /** Flags that a present entry may not have. PSE in L2: XSA-148. */
  readonly disallowed: Readonly<Record<AbiName, PerLevel>>;
  /** Refused in L1 entries by builds that mark grant entries. */
  readonly grantMark: number;
  /** Flags that a present entry gains. L1 of pv64 has rules of its own (`userBit`). */
  readonly added: Readonly<Record<AbiName, PerLevel>>;
  /** Flags that L3 entries lose when the table loses its type. */
  readonly removedFromL3: Readonly<Record<AbiName, number>>;
  /** pv64 keeps kernel and user pages apart by bit 52 and GLOBAL. */
  readonly userBit: Readonly<Record<AbiName, boolean>>;
  /** Flags that may change without a new check of the entry, by level. XSA-182: RW above L1. */
  readonly fastPath: PerLevel;
  /** May tables of this level be mapped as tables of the level below (linear page tables)? XSA-185: L3 of 32-bit guests. */
  readonly linear: Readonly<Record<AbiName, readonly [boolean, boolean, boolean, boolean, boolean]>>;
  /** Is slot `index` of that table the guest's? `flags` are the frame's (FRAME.paeXenL2 counts). */
  readonly isGuestSlot: (abi: Abi, level: number, flags: number, index: number) => boolean;
  /** A linear entry must be read-only. */
  readonly linearReadOnly: boolean;
  /** Linear uses and linear entries of one table exclude each other. XSA-240. */
  readonly linearDepthOne: boolean;
  /** A writable mapping takes a writable type reference. */
  readonly writableTakesType: boolean;
  /** A reference is taken only by the frame's owner. */
  readonly ownerChecked: boolean;
  /** A frame in use as one type is refused as another. */
  readonly typesExclude: boolean;
  /** A table's old entry gives back what it held when the entry changes. */
  readonly oldEntryReleased: boolean;
  /** What a refused table took up to the bad entry is given back. */
  readonly failedTableIsUndone: boolean;
  /** An entry whose table is half-way keeps its reference until the work goes on. XSA-299. */
  readonly restartKeepsReference: boolean;
  /** A half-way table remembers at which entry it stopped, and whether that one was begun. XSA-299, XSA-310. */
  readonly restartRemembersEntry: boolean;
  /** Taking a tree apart may be preempted between entries. XSA-290. */
  readonly demotionPreempts: boolean;
  /** ... also while entries of an L3 or L4 go. XSA-252. */
  readonly upperDemotionPreempts: boolean;
  /** Checking a tree may be preempted between entries. XSA-45. */
  readonly promotionPreempts: boolean;
  /** A table kept for a deferred teardown keeps its general reference too. XSA-58. */
  readonly deferredKeepsReference: boolean;
  /** A half-way table is held by the state itself, so that nobody frees it meanwhile. XSA-299. */
  readonly partialHoldsReference: boolean;
  /** When a frame's last use as a type ends, it is noted by which flush translations of that use are gone. XSA-241. */
  readonly stampRenewed: boolean;
  /** Stale translations go before a table is checked, not after. XSA-401. */
  readonly flushBeforeChecking: boolean;
  /** A store that Xen carries out for the guest is checked like any other update. */
  readonly emulatedStoreChecked: boolean;
  /** A pinned table keeps its type reference until it is unpinned, and is pinned once. */
  readonly pinnedOnce: boolean;
  /** Descriptors are checked and kept out of Xen's ring. */
  readonly descriptorsChecked: boolean;
  /** A frame is exchanged only if nothing but its owner holds it. XSA-287. */
  readonly exchangeNeedsSoleReference: boolean;
  /** The machine-to-phys entry of a frame is its owner's to change. */
  readonly m2pOwnerChecked: boolean;
  /** A type change flushes stale translations. XSA-401. */
  readonly flushOnTypeChange: boolean;
  /** The L2 of slot 3 may be in one PAE root only. */
  readonly paeXenL2Unshared: boolean;
}

/** _PAGE_PWT, _PAGE_PCD, _PAGE_PSE, _PAGE_GLOBAL: base_disallow_mask in arch_init_memory(). */
const BASE = 0x198;
const L1_BASE = BASE & ~PTE_FLAG.global;
/** 32-bit Xen 3.x refused GLOBAL everywhere and the bits above the address, NX excepted. */
const XEN3_PAE = 0x7ff198;
const FAST = PTE_FLAG.nx | PTE_FLAG.availHigh | PTE_FLAG.avail | PTE_FLAG.global | PTE_FLAG.dirty | PTE_FLAG.accessed | PTE_FLAG.user;

export const PAGE_RULES: PageRules = {
  disallowed: {
    pv64: [0, L1_BASE, BASE, BASE, BASE],
    // The root's entries are PDPTEs for old guests: everything but present, RW, USER, A, D, avail is refused.
    pv32pae: [0, L1_BASE, BASE, 0xfff198, 0],
    'xen3-pae': [0, XEN3_PAE, XEN3_PAE, 0xfff1fe, 0],
    'xen3-nopae': [0, BASE, BASE, 0, 0],
  },
  grantMark: PTE_FLAG.grant,
  added: {
    // adjust_guest_l2e() and its neighbours, xen/arch/x86/pv/mm.h. A root entry is always "accessed".
    pv64: [0, 0, PTE_FLAG.user, PTE_FLAG.user, PTE_FLAG.user | PTE_FLAG.accessed],
    pv32pae: [0, 0, 0, PTE_FLAG.user | PTE_FLAG.rw, 0],
    'xen3-pae': [0, 0, 0, 0, 0],
    'xen3-nopae': [0, 0, 0, 0, 0],
  },
  removedFromL3: { pv64: 0, pv32pae: PTE_FLAG.user | PTE_FLAG.rw | PTE_FLAG.accessed, 'xen3-pae': 0, 'xen3-nopae': 0 },
  userBit: { pv64: true, pv32pae: false, 'xen3-pae': false, 'xen3-nopae': false },
  fastPath: [0, FAST, FAST, FAST, FAST],
  linear: {
    pv64: [false, false, true, true, true],
    pv32pae: [false, false, true, false, false],
    'xen3-pae': [false, false, true, false, false],
    'xen3-nopae': [false, false, true, false, false],
  },
  isGuestSlot: (abi, level, flags, index) => {
    if (level === 2 && abi.levels === 3) return (flags & FRAME.paeXenL2) === 0 || index < PAE_FIRST_XEN_SLOT;
    if (level === 2 && abi.levels === 2) return index < TWO_LEVEL_FIRST_XEN_SLOT;
    if (level === 4) return index < PV64_FIRST_XEN_SLOT || index > PV64_LAST_XEN_SLOT;
    return true;
  },
  linearReadOnly: true,
  linearDepthOne: true,
  writableTakesType: true,
  ownerChecked: true, typesExclude: true, oldEntryReleased: true, failedTableIsUndone: true, restartKeepsReference: true, restartRemembersEntry: true,
  demotionPreempts: true, upperDemotionPreempts: true, promotionPreempts: true, deferredKeepsReference: true, partialHoldsReference: true, stampRenewed: true,
  flushBeforeChecking: true, emulatedStoreChecked: true, pinnedOnce: true, descriptorsChecked: true, exchangeNeedsSoleReference: true, m2pOwnerChecked: true,
  flushOnTypeChange: true,
  paeXenL2Unshared: true,
};

/** First slot of Xen's in the L2 of slot 3 (0xf5800000), in a two-level root (0xfc000000), and in an L4. */
export const PAE_FIRST_XEN_SLOT = 0x1ac;
export const TWO_LEVEL_FIRST_XEN_SLOT = 0x3f0;
export const PV64_FIRST_XEN_SLOT = 256;
export const PV64_LAST_XEN_SLOT = 271;

/** The 24 flag bits of an entry. */
export const flagsOf = (lo: number, hi: number): number => (lo & 0xfff) | ((hi >>> 20) << 12);
/** The 40-bit frame number of an entry. */
export const frameOf = (lo: number, hi: number): number => (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);

/** Entries of a table of that level. */
export function tableEntries(abi: Abi, level: number): number {
  if (abi.levels === 2) return 1024;
  return level === 3 && abi.levels === 3 && abi.onXen3 ? 4 : 512;
}

/** Low half of an entry after Xen's additions; the high half is `adjustedHi` afterwards. Source: xen/arch/x86/pv/mm.h. */
export function adjustEntry(rules: PageRules, abi: AbiName, level: number, lo: number, hi: number): number {
  adjustedHi = hi;
  if ((lo & PTE_FLAG.present) === 0) return lo;
  if (level === 1) {
    if (!rules.userBit[abi]) return lo;
    // The two rules in order: no USER makes a kernel page; what is no kernel page is global.
    if ((lo & PTE_FLAG.user) === 0) {
      adjustedHi = (hi | 0x10_0000) >>> 0;
      lo |= PTE_FLAG.user;
    }
    return (adjustedHi & 0x10_0000) === 0 ? (lo | PTE_FLAG.global | PTE_FLAG.user) >>> 0 : lo >>> 0;
  }
  return (lo | (rules.added[abi][level] as number)) >>> 0;
}
export let adjustedHi = 0;
