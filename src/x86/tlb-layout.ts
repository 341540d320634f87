// The TLB: architectural state of fixed size and replacement (direct-mapped), one per vCPU, in
// linear memory. A translation once cached stays until it is evicted by a fill of the same slot,
// INVLPG, or a flush, exactly as stale as hardware may be.
//
// An entry has an architectural half (vpn, maddr, perm, valid) and a fast half (tags). A tag equals
// the page's linear address when the inline check may pass, or NO_TAG when the access must take the
// slow path. Dirty tracking, frames with translated code, recording and the like may set tags to
// NO_TAG at any time; they never touch the architectural half. Tags are recomputed by the slow path.
//
// Inline check of an access of `size` bytes at linear address A (must not cross the page):
//    slot = tlbBase + ((A >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES
//    ((A + size - 1) & ~0xfff) == load(slot + tag of {read, write} x {supervisor, user})  ->  hit
//    linear memory address = A + load(slot + addend)        (addend = ramBase + maddr - vaddr of the page)
// A + size - 1 in another page never equals the tag of A's slot, so crossing accesses are misses.

export const TLB_ENTRIES = 2048;
export const TLB_ENTRY_BYTES = 64;
export const TLB = {
  readSup: 0, writeSup: 8, execSup: 16, readUser: 24, writeUser: 32, execUser: 40,
  addend: 48, // u32 (wraps modulo 2^32)
  /** bit 0 valid, bits 1.. permissions of the walk (tlb.ts), bit 31: global. */
  arch: 52,
  /** Machine address of the page, u64. The vpn of an entry is kept in `archVpn`. */
  maddr: 56,
} as const;
/** 32-bit mode compares u32 halves; no page address has low bits set. */
export const NO_TAG = 1;
/** Separate area: the vpn (u64) of each slot, valid with arch bit 0. */
export const TLB_VPN_BYTES = 8;
/** Separate area: slots (u16) that were filled since they were empty, which is what a flush has to look at. A count above `max`: all of them. Derived. */
export const FILLED = { count: 0, slots: 4, max: 2 * TLB_ENTRIES, bytes: 4 + 2 * 2 * TLB_ENTRIES } as const;
