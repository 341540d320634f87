// The jump cache: where translated code is found without asking TypeScript. Direct-mapped, in linear memory.
//
//    entry (32 bytes):  rip u64 | key u32 | slot u32 | label u32 | hops left u32 | hops at first u32 | unused
//    key   = machine address of the page | number of the mode (below 4096)
//    valid when rip and key equal those of the moment; an empty entry has key NO_KEY
//    hops  = entries through the dispatcher until TypeScript looks whether regions should be joined
//
// Only a cache: what exists is recorded in translator.ts. Not architectural, never saved.
export const JUMP_CACHE = { rip: 0, key: 8, slot: 12, label: 16, hops: 20, firstHops: 24, entryBytes: 32, entries: 16384 } as const;
/** No page is at machine address 0xfffff000: memory ends below 4 GiB. */
export const NO_KEY = 0xffffffff;

/** Byte offset of a rip's entry: ((rip ^ rip >>> 12) & mask) * 32 over its low 32 bits, which the generated code computes likewise. */
export function jumpCacheOffset(rip: number): number {
  return (((rip ^ (rip >>> 12)) & (JUMP_CACHE.entries - 1)) << 5) >>> 0;
}
