// The jump cache: where translated code and block programs are found without asking TypeScript. Direct-mapped, in linear memory.
//
//    entry (32 bytes):  rip u64 | key u32 | slot u32 | label u32 | hops left u32 | hops at first u32 | unused
//    key   = machine address of the page | number of the mode (below 4096)
//    slot  = of the dispatch table; 0: `label` is the address of a block program (../interpret/)
//    valid when rip and key equal those of the moment; an empty entry has key NO_KEY
//    hops  = entries through the dispatcher until TypeScript looks whether regions should be joined
//
// Only a cache: what exists is recorded in translator.ts. Not architectural, never saved.
import type { MachineMemory } from '../../machine/memory.ts';
import { highHalf } from '../address.ts';

export const JUMP_CACHE = { rip: 0, key: 8, slot: 12, label: 16, hops: 20, firstHops: 24, entryBytes: 32, entries: 32768 } as const;
/** No page is at machine address 0xfffff000: memory ends below 4 GiB. */
export const NO_KEY = 0xffffffff;

/** Byte offset of a rip's entry: ((rip ^ rip >>> 12) & mask) * 32 over its low 32 bits, which the generated code computes likewise. */
export function jumpCacheOffset(rip: number): number {
  return (((rip ^ (rip >>> 12)) & (JUMP_CACHE.entries - 1)) << 5) >>> 0;
}

/** Words of an entry. */
const [KEY, SLOT, LABEL, LEFT_HOPS, FIRST_HOPS] = [JUMP_CACHE.key / 4, JUMP_CACHE.slot / 4, JUMP_CACHE.label / 4, JUMP_CACHE.hops / 4, JUMP_CACHE.firstHops / 4] as const;
const NO_MORE_HOPS = 0xffffffff;
export const PROGRAM_SLOT = 0;

export class JumpCache {
  /** Linear address. */
  readonly base: number;
  readonly #u32: Uint32Array;

  constructor(machine: MachineMemory) {
    this.base = machine.reserve(JUMP_CACHE.entries * JUMP_CACHE.entryBytes, 64);
    this.#u32 = machine.u32;
    this.reset();
  }
  reset(): void {
    this.#u32.fill(NO_KEY, this.base >>> 2, (this.base >>> 2) + JUMP_CACHE.entries * (JUMP_CACHE.entryBytes / 4));
  }

  #at(rip: number): number {
    return (this.base + jumpCacheOffset(rip)) >>> 2;
  }
  #holds(at: number, rip: number): boolean {
    return this.#u32[at] === rip >>> 0 && this.#u32[at + 1] === highHalf(rip);
  }
  finds(rip: number, key: number): boolean {
    const at = this.#at(rip);
    return this.#holds(at, rip) && this.#u32[at + KEY] === key;
  }
  fill(rip: number, key: number, slot: number, label: number, hops: number): void {
    const u32 = this.#u32;
    const at = this.#at(rip);
    u32[at] = rip;
    u32[at + 1] = highHalf(rip);
    u32[at + KEY] = key;
    u32[at + SLOT] = slot;
    u32[at + LABEL] = label;
    u32[at + LEFT_HOPS] = hops;
    u32[at + FIRST_HOPS] = hops;
  }
  /** Forgets the entry, if it leads to that slot. */
  forget(rip: number, slot: number): void {
    const at = this.#at(rip);
    if (this.#holds(at, rip) && this.#u32[at + SLOT] === slot) this.#u32.fill(NO_KEY, at, at + JUMP_CACHE.entryBytes / 4);
  }
  /** Entries by the dispatcher since it was filled, if it leads to that slot. */
  hops(rip: number, slot: number): number {
    const at = this.#at(rip);
    return this.#holds(at, rip) && this.#u32[at + SLOT] === slot ? ((this.#u32[at + FIRST_HOPS] as number) - (this.#u32[at + LEFT_HOPS] as number)) >>> 0 : 0;
  }
  dropHopLimit(rip: number): void {
    this.#u32[this.#at(rip) + LEFT_HOPS] = NO_MORE_HOPS;
  }
}
