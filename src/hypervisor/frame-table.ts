// The frame table: what Xen knows of every machine frame. One record per frame, as typed arrays in
// the machine's arena, so that a checkpoint or a digest is a copy of bytes.
//
//   owner      domid, or FREE_OWNER; DOMID_XEN for Xen's own frames, DOMID_IO for the low I/O area
//   type       what the frame is used as (FRAME_TYPE); stays behind when the count drops to zero
//   typeCount  uses as that type; refCount: references (one of them for "allocated to its owner")
//   flags      validated, partial, pinned, PAE-Xen-L2, allocated, Xen heap
//
// The machine-to-phys tables (4-byte and 8-byte entries) are frames of RAM owned by DOMID_XEN, which
// guests map read-only in Xen's range. Source of the rules: xen/arch/x86/include/asm/mm.h.
// Not here: when a type may be taken (page-types.ts).
import { assert } from '../base/assert.ts';
import { PAGE_SIZE } from '../base/brand.ts';
import { DOMID } from '../abi/domid.ts';
import type { MachineMemory } from '../machine/memory.ts';

export const FRAME_TYPE = { none: 0, l1: 1, l2: 2, l3: 3, l4: 4, segDesc: 5, writable: 6 } as const;
export type FrameType = (typeof FRAME_TYPE)[keyof typeof FRAME_TYPE];
export const FRAME_TYPE_NAMES = ['none', 'l1', 'l2', 'l3', 'l4', 'segDesc', 'writable'] as const;

/** Bits of `flags`. */
export const FRAME = {
  /** The type's rules hold for the content (PGT_validated). */
  validated: 0x01,
  /** (De)validation was interrupted; `validEntries` and `partialFlags` say where (PGT_partial). */
  partial: 0x02,
  /** The guest pinned it: one type count and one reference are the pin's (PGT_pinned). */
  pinned: 0x04,
  /** An L2 used in slot 3 of a 32-bit PAE root: it holds Xen's entries (PGT_pae_xen_l2). */
  paeXenL2: 0x08,
  /** Given to its owner: one reference is the allocation's (PGC_allocated). */
  allocated: 0x10,
  /** Xen's own memory, shared with its owner (PGC_xen_heap): shared_info, grant frames. */
  xenHeap: 0x20,
} as const;

/** `owner` of a frame that belongs to nobody: free, or held back (frame 0). */
export const FREE_OWNER = 0xffff;
/** m2p entry of a frame without a pseudo-physical number. */
export const INVALID_M2P = 0xffff_ffff;

export class FrameTable {
  readonly machine: MachineMemory;
  readonly frameCount: number;
  readonly owner: Uint16Array;
  readonly type: Uint8Array;
  readonly flags: Uint8Array;
  readonly typeCount: Uint32Array;
  readonly refCount: Uint32Array;
  /** Partial (de)validation: entries 0..validEntries-1 hold references. */
  readonly validEntries: Uint16Array;
  /** Partial (de)validation: PARTIAL bits of page-types.ts for entry `validEntries`. */
  readonly partialFlags: Uint8Array;
  /** Uses as a linear page table (> 0) or as an entry of one (< 0); both must not mix. */
  readonly linearCount: Int32Array;
  /** TLB clock when the last use as the current type was dropped. */
  readonly tlbStamp: Uint32Array;
  /** Free frames, as a stack: `freeList[0..freeCount-1]`. */
  readonly freeList: Uint32Array;
  readonly #scalars: Uint32Array;
  /** First frames of the two machine-to-phys tables; 0 until placeM2p(). */
  m2p32Mfn = 0;
  m2p64Mfn = 0;
  readonly #areaBase: number;
  readonly #areaBytes: number;

  constructor(machine: MachineMemory) {
    const n = machine.frameCount;
    const align4 = (bytes: number): number => Math.ceil(bytes / 64) * 64;
    const sizes = [2, 1, 1, 4, 4, 2, 1, 4, 4, 4].map((bytes) => align4(bytes * n));
    this.#areaBytes = sizes.reduce((sum, size) => sum + size, 64);
    this.#areaBase = machine.reserve(this.#areaBytes);
    let at = this.#areaBase;
    const take = (): number => {
      const mine = at;
      at += sizes.shift() as number;
      return mine;
    };
    const buffer = machine.wasm.buffer;
    this.machine = machine;
    this.frameCount = n;
    this.owner = new Uint16Array(buffer, take(), n);
    this.type = new Uint8Array(buffer, take(), n);
    this.flags = new Uint8Array(buffer, take(), n);
    this.typeCount = new Uint32Array(buffer, take(), n);
    this.refCount = new Uint32Array(buffer, take(), n);
    this.validEntries = new Uint16Array(buffer, take(), n);
    this.partialFlags = new Uint8Array(buffer, take(), n);
    this.linearCount = new Int32Array(buffer, take(), n);
    this.tlbStamp = new Uint32Array(buffer, take(), n);
    this.freeList = new Uint32Array(buffer, take(), n);
    this.#scalars = new Uint32Array(buffer, at, 4);
    this.owner.fill(FREE_OWNER);
  }

  /** The table's bytes in the arena: linear base and size. Everything but m2p*Mfn, which placement decides. */
  area(): { base: number; sizeBytes: number } {
    return { base: this.#areaBase, sizeBytes: this.#areaBytes };
  }

  /** Forgets everything: as after the constructor. */
  clear(): void {
    this.machine.u8.fill(0, this.#areaBase, this.#areaBase + this.#areaBytes);
    this.owner.fill(FREE_OWNER);
  }

  get freeCount(): number {
    return this.#scalars[0] as number;
  }
  set freeCount(count: number) {
    this.#scalars[0] = count;
  }

  /** Counts full TLB flushes of vCPUs; a stamp at or above a vCPU's last flush means it may hold stale translations. */
  get tlbClock(): number {
    return this.#scalars[1] as number;
  }
  set tlbClock(clock: number) {
    this.#scalars[1] = clock;
  }

  /** True for RAM and other frames that have a record (mfn_valid). */
  has(mfn: number): boolean {
    return mfn >= 0 && mfn < this.frameCount;
  }

  /** Takes frames for Xen's own use from the start of the free range; not on the free list yet. */
  makeXenFrame(mfn: number): void {
    assert(this.owner[mfn] === FREE_OWNER, () => `mfn ${mfn} already belongs to ${this.owner[mfn]}`);
    this.owner[mfn] = DOMID.XEN;
    this.refCount[mfn] = 1;
    this.flags[mfn] = FRAME.allocated | FRAME.xenHeap;
    // Xen frames that guests may map at all are mapped read-only: the type is "none", held once.
    this.type[mfn] = FRAME_TYPE.none;
    this.typeCount[mfn] = 1;
  }

  /** Frames needed by a machine-to-phys table with entries of that size. */
  m2pFrames(entryBytes: 4 | 8): number {
    return Math.ceil((this.frameCount * entryBytes) / PAGE_SIZE);
  }

  getM2p(mfn: number): number {
    return this.machine.readU32(this.m2p32Mfn * PAGE_SIZE + mfn * 4);
  }

  /** Sets both tables. `pfn` is u32; INVALID_M2P marks "none" (all ones in the 8-byte table). */
  setM2p(mfn: number, pfn: number, hi = pfn === INVALID_M2P ? 0xffff_ffff : 0): void {
    this.machine.writeU32(this.m2p32Mfn * PAGE_SIZE + mfn * 4, pfn);
    this.machine.writeU32(this.m2p64Mfn * PAGE_SIZE + mfn * 8, pfn);
    this.machine.writeU32(this.m2p64Mfn * PAGE_SIZE + mfn * 8 + 4, hi);
  }

  /** One line for reports: `mfn 1a2b d1 l2 types 1 refs 2 validated pinned`. */
  describe(mfn: number): string {
    if (!this.has(mfn)) return `mfn ${mfn.toString(16)} no RAM`;
    const flags = this.flags[mfn] as number;
    const names = Object.entries(FRAME).filter(([, bit]) => (flags & bit) !== 0).map(([name]) => name);
    return `mfn ${mfn.toString(16)} d${this.owner[mfn]} ${FRAME_TYPE_NAMES[this.type[mfn] as number]} types ${this.typeCount[mfn]} refs ${this.refCount[mfn]} ${names.join(' ')}`;
  }
}
