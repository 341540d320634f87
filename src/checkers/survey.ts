// One reading of everything that holds a frame: page tables, pins, base pointers, descriptor tables,
// grants, frames that Xen keeps mapped. All memory checkers judge from it.
//
//   for each frame     references and types that should be counted, and what it is used as
//   odd                entries that break a law of their own (flags, reach, type of the target)
//   foreign            leaf entries that map another domain's frame; only grants may make those
//
// Tables that are being built or torn down (a preempted hypercall) are read as far as they hold:
// entries below `validEntries`, and one reference for the next one if it is half-way itself.
// Nothing here depends on an earlier survey.
import { DOMID } from '../abi/domid.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Domain } from '../hypervisor/domain.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER, type FrameTable } from '../hypervisor/frame-table.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { CACHE_BITS, ENTRY_LAWS, entriesOf, PTE_HI, PTE_LO, xenSlots } from './entry-law.ts';

/** Uses of a frame, as bits. `l1`..`l4` are 1 << level. */
export const USE = { l1: 2, l2: 4, l3: 8, l4: 16, segDesc: 32, writable: 64 } as const;
const TABLE_USES = USE.l1 | USE.l2 | USE.l3 | USE.l4 | USE.segDesc;
export { TABLE_USES };

export const ODD = {
  badFlags: 'has flags that it may not have, or lacks some that it must',
  noFrame: 'points to no RAM',
  ioFrame: 'maps I/O space',
  foreignTable: 'points to a table of another owner',
  wrongType: 'points to a frame that is no table of the level below',
  writableSelf: 'maps a page table writable at its own level',
  badLinear: 'maps a table of its own level in a shape that has no such tables',
  xenL2: "points to an L2 with Xen's entries, or slot 3 to one without",
  notTyped: 'a table is in use, but was never checked',
} as const;
export type OddKind = keyof typeof ODD;

export interface OddEntry {
  readonly kind: OddKind;
  readonly tableMfn: number;
  readonly index: number;
  readonly lo: number;
  readonly hi: number;
}
/** A leaf entry of `domain` that maps a frame of another's. */
export interface ForeignEntry {
  readonly domain: Domain;
  readonly tableMfn: number;
  readonly index: number;
  readonly targetMfn: number;
  readonly writable: boolean;
}

/** Bit of `partialFlags`: entry `validEntries` itself is half-way and holds a reference (PTF_partial_set). */
const PARTIAL_SET = 1;

export class Survey {
  readonly hv: Hypervisor;
  readonly frames: FrameTable;
  readonly machine: MachineMemory;
  /** By mfn. */
  readonly refs: Uint32Array;
  readonly types: Uint32Array;
  readonly uses: Uint8Array;
  /** By mfn: roots of PAE guests that have the frame in slot 3. */
  readonly xenL2Uses: Uint8Array;
  readonly linear: Int32Array;
  readonly odd: OddEntry[] = [];
  readonly foreign: ForeignEntry[] = [];
  /** Entries that map another table of their own level, as (table, target) pairs in a row. */
  readonly linearPairs: number[] = [];
  /** Tables in use, in the order of their frames. */
  readonly tables: number[] = [];
  /** Frames that belong to somebody, ascending: the first `usedCount` elements. */
  readonly used: Uint32Array;
  usedCount = 0;
  /** Runs of frames that belong to nobody: first, end, first, end, ... */
  readonly freeRuns: number[] = [];
  /** Frames that were counted although nobody has them. */
  readonly #strays: number[] = [];

  /** Frames from this one on belong to nobody, by the caller's word, and are not looked at. */
  readonly limit: number;

  constructor(hv: Hypervisor, limit: number = hv.frames.frameCount) {
    const n = hv.frames.frameCount;
    this.hv = hv;
    this.limit = Math.min(limit, n);
    this.frames = hv.frames;
    this.machine = hv.machine;
    this.refs = new Uint32Array(n);
    this.types = new Uint32Array(n);
    this.uses = new Uint8Array(n);
    this.xenL2Uses = new Uint8Array(n);
    this.linear = new Int32Array(n);
    this.used = new Uint32Array(n);
  }

  /** Reads everything anew. */
  take(): this {
    this.#clear();
    this.odd.length = 0;
    this.foreign.length = 0;
    this.tables.length = 0;
    this.linearPairs.length = 0;
    this.freeRuns.length = 0;
    this.#readFrames();
    for (const domain of this.hv.domains.values()) this.#readHolders(domain);
    if (this.hv.idle.oldTable !== undefined) this.#readOldTable(this.hv.idle.oldTable);
    return this;
  }

  /** Only what the last survey counted can be other than zero: frames in use, and strays. */
  #clear(): void {
    const { refs, types, uses, xenL2Uses, linear, used, usedCount } = this;
    for (const { targetMfn } of this.foreign) this.#strays.push(targetMfn);
    if (usedCount > refs.length / 8) for (const array of [refs, types, uses, xenL2Uses, linear]) array.fill(0);
    for (let i = usedCount > refs.length / 8 ? usedCount : 0; i < usedCount; i++) {
      const mfn = used[i] as number;
      refs[mfn] = types[mfn] = uses[mfn] = xenL2Uses[mfn] = linear[mfn] = 0;
    }
    for (const mfn of this.#strays) refs[mfn] = types[mfn] = uses[mfn] = xenL2Uses[mfn] = linear[mfn] = 0;
    this.#strays.length = 0;
  }

  // -- what the frame table says of its frames ----------------------------------------------------

  #readFrames(): void {
    const { owner, flags, type, typeCount } = this.frames;
    const { refs, types, used, freeRuns, limit } = this;
    // Imported bindings are slow to read where modules are transformed.
    const free: number = FREE_OWNER;
    const { allocated, xenHeap, pinned, partial, validated } = FRAME;
    const { l1, l4 } = FRAME_TYPE;
    const { IO, FIRST_RESERVED } = DOMID;
    let domain: Domain | undefined;
    let count = 0;
    for (let mfn = 0; mfn < limit; mfn++) {
      const of = owner[mfn] as number;
      if (of === free) {
        const first = mfn;
        while (mfn < limit && owner[mfn] === free) mfn++;
        freeRuns.push(first, mfn--);
        continue;
      }
      used[count++] = mfn;
      const bits = flags[mfn] as number;
      if ((bits & allocated) !== 0) refs[mfn] = (refs[mfn] as number) + 1;
      // Xen's own memory is typed once for good (share_xen_page_with_guest), low memory too.
      if ((bits & xenHeap) !== 0 || of === IO) types[mfn] = (types[mfn] as number) + 1;
      if (of >= FIRST_RESERVED) continue;
      const kind = type[mfn] as number;
      if ((bits & pinned) !== 0) this.hold(mfn, 1 << kind, true);
      if ((bits & partial) !== 0) {
        // The state itself holds one of each, so that nobody frees or types the frame meanwhile.
        refs[mfn] = (refs[mfn] as number) + 1;
        types[mfn] = (types[mfn] as number) + 1;
      }
      if (typeCount[mfn] === 0 || kind < l1 || kind > l4) continue;
      if (domain === undefined || domain.domId !== of) domain = this.hv.domains.get(of);
      if (domain === undefined) continue;
      this.tables.push(mfn);
      if ((bits & (validated | partial)) === 0) this.#odd('notTyped', mfn, 0, 0, 0);
      else this.#readTable(domain, mfn, kind, bits);
    }
    this.usedCount = count;
  }


  #readTable(domain: Domain, mfn: number, level: number, bits: number): void {
    const partial = (bits & FRAME.partial) !== 0;
    const limit = partial ? (this.frames.validEntries[mfn] as number) : 4096;
    if (level === FRAME_TYPE.l1) this.#readL1(domain, mfn);
    else this.#readUpper(domain, mfn, level, bits, limit, partial && ((this.frames.partialFlags[mfn] as number) & PARTIAL_SET) !== 0);
  }

  #readL1(domain: Domain, mfn: number): void {
    const { refs, types, uses } = this;
    const { owner, frameCount } = this.frames;
    const { u32, ramBase } = this.machine;
    const { abi, domId } = domain;
    const rules = ENTRY_LAWS[abi.name][1];
    const clearLo = domain.privileged ? rules.clearLo & ~CACHE_BITS : rules.clearLo;
    const clearHi = domain.build.grantPteMark ? rules.clearHi & ~PTE_HI.grant : rules.clearHi;
    const { setLo } = rules;
    const wide = abi.pteBytes === 8;
    const fourLevel = abi.levels === 4;
    const step = wide ? 2 : 1;
    const start = (ramBase + mfn * 4096) >>> 2;
    const { present, writable, global } = PTE_LO;
    const { frameMask, guestKernel } = PTE_HI;
    const writableUse = USE.writable;
    const io: number = DOMID.IO;
    for (let at = start; at < start + 1024; at += step) {
      const lo = u32[at] as number;
      if ((lo & present) === 0) continue;
      const hi = wide ? (u32[at + 1] as number) : 0;
      const target = (hi & frameMask) === 0 ? lo >>> 12 : (hi & frameMask) * 0x10_0000 + (lo >>> 12);
      if ((lo & clearLo) !== 0 || (hi & clearHi) !== 0 || (lo & setLo) !== setLo || (fourLevel && (lo & global) === 0 && (hi & guestKernel) === 0)) this.#odd('badFlags', mfn, (at - start) / step, lo, hi);
      if (target >= frameCount) {
        if (!domain.privileged) this.#odd('noFrame', mfn, (at - start) / step, lo, hi);
        continue;
      }
      const of = owner[target] as number;
      if (of !== domId) {
        if (of === io) {
          if (!domain.privileged) this.#odd('ioFrame', mfn, (at - start) / step, lo, hi);
          continue;
        }
        this.foreign.push({ domain, tableMfn: mfn, index: (at - start) / step, targetMfn: target, writable: (lo & writable) !== 0 });
      }
      refs[target] = (refs[target] as number) + 1;
      if ((lo & writable) !== 0) {
        types[target] = (types[target] as number) + 1;
        uses[target] = (uses[target] as number) | writableUse;
      }
    }
  }

  /** `half`: entry `limit` holds a reference but no type. */
  #readUpper(domain: Domain, mfn: number, level: number, bits: number, limit: number, half: boolean): void {
    const { abi } = domain;
    const { machine } = this;
    const xen = xenSlots(abi, level, (bits & FRAME.paeXenL2) !== 0);
    const step = abi.pteBytes / 4;
    const end = Math.min(entriesOf(abi, level), half ? limit + 1 : limit);
    const start = (machine.ramBase + mfn * 4096) >>> 2;
    for (let index = 0; index < end; index++) {
      if (index === xen.first) {
        index = xen.end - 1;
        continue;
      }
      const lo = machine.u32[start + index * step] as number;
      if ((lo & PTE_LO.present) === 0) continue;
      this.#upperEntry(domain, mfn, level, index, lo, step === 2 ? (machine.u32[start + index * step + 1] as number) : 0, index === limit);
    }
  }

  #upperEntry(domain: Domain, mfn: number, level: number, index: number, lo: number, hi: number, half: boolean): void {
    const { frames } = this;
    const rules = ENTRY_LAWS[domain.abi.name][level] ?? ENTRY_LAWS[domain.abi.name][0];
    const target = (hi & PTE_HI.frameMask) * 0x10_0000 + (lo >>> 12);
    // An entry that is half-way was not adjusted yet, or is already back to what the guest wrote.
    if (!half && ((lo & rules.clearLo) !== 0 || (hi & rules.clearHi) !== 0 || (lo & rules.setLo) !== rules.setLo)) this.#odd('badFlags', mfn, index, lo, hi);
    if (!frames.has(target)) return this.#odd('noFrame', mfn, index, lo, hi);
    if (frames.owner[target] !== domain.domId) this.#odd('foreignTable', mfn, index, lo, hi);
    if (half) {
      if (target !== mfn) this.hold(target, 0, false);
      return;
    }
    const isLinear = target === mfn || frames.type[target] === level;
    if (isLinear) {
      if (level === 3 && domain.abi.levels === 3) this.#odd('badLinear', mfn, index, lo, hi);
      if ((lo & PTE_LO.writable) !== 0) this.#odd('writableSelf', mfn, index, lo, hi);
      // The table itself needs no reference on itself.
      if (target === mfn) return;
      this.linearPairs.push(mfn, target);
      this.linear[mfn] = (this.linear[mfn] as number) + 1;
      this.linear[target] = (this.linear[target] as number) - 1;
    } else if (frames.type[target] !== level - 1) this.#odd('wrongType', mfn, index, lo, hi);
    if (level === 3 && domain.abi.levels === 3 && index === 3) this.xenL2Uses[target] = (this.xenL2Uses[target] as number) + 1;
    const isXenL2 = ((frames.flags[target] as number) & FRAME.paeXenL2) !== 0;
    // A read-only linear entry may show an L2 with Xen's entries: what lies below is read-only as well.
    if (!isLinear && isXenL2 !== (level === 3 && domain.abi.levels === 3 && index === 3)) this.#odd('xenL2', mfn, index, lo, hi);
    this.hold(target, isLinear ? 1 << level : 1 << (level - 1), true);
  }

  #odd(kind: OddKind, tableMfn: number, index: number, lo: number, hi: number): void {
    this.odd.push({ kind, tableMfn, index, lo: lo >>> 0, hi: hi >>> 0 });
  }

  // -- who else holds frames ----------------------------------------------------------------------

  /** One reference; with `typed` also a type count, as a use (USE bits). Public for holders that no state shows. */
  hold(mfn: number, use: number, typed: boolean): void {
    if (!this.frames.has(mfn)) return;
    if (this.frames.owner[mfn] === FREE_OWNER || mfn >= this.limit) this.#strays.push(mfn);
    this.refs[mfn] = (this.refs[mfn] as number) + 1;
    if (typed) this.types[mfn] = (this.types[mfn] as number) + 1;
    this.uses[mfn] = (this.uses[mfn] as number) | use;
  }

  #readOldTable({ mfn, parentMfn, partial }: { readonly mfn: number; readonly parentMfn: number; readonly partial: boolean }): void {
    // Half torn down, its type is the partial state's; else it is still the vCPU's.
    const kind = this.frames.type[mfn] as number;
    this.hold(mfn, partial ? 0 : 1 << kind, !partial);
    if (parentMfn < 0 || partial || this.frames.type[parentMfn] !== kind) return;
    this.linear[mfn] = (this.linear[mfn] as number) - 1;
    this.linear[parentMfn] = (this.linear[parentMfn] as number) + 1;
  }

  #readHolders(domain: Domain): void {
    const root = 1 << domain.abi.levels;
    for (const vcpu of domain.vcpus) {
      if (vcpu.guestTableMfn !== 0) this.hold(vcpu.guestTableMfn, root, true);
      if (vcpu.userTableMfn !== 0) this.hold(vcpu.userTableMfn, root, true);
      for (const mfn of vcpu.gdtFrames) if (mfn !== 0) this.hold(mfn, USE.segDesc, true);
      for (const mfn of vcpu.ldtFrames) if (mfn !== 0) this.hold(mfn, USE.segDesc, true);
      if (vcpu.vcpuInfoMfn !== 0) this.hold(vcpu.vcpuInfoMfn, USE.writable, true);
      if (vcpu.oldTable !== undefined) this.#readOldTable(vcpu.oldTable);
    }
    for (const mfn of domain.leakedTables) this.hold(mfn, USE.l2, true);
    if (domain.pirqEoiMfn !== undefined) this.hold(domain.pirqEoiMfn, USE.writable, true);
    const { fifo } = domain.events;
    if (fifo !== undefined) {
      for (const { controlMaddr } of fifo.vcpus) if (controlMaddr !== 0) this.hold(Math.floor(controlMaddr / 4096), USE.writable, true);
      for (const mfn of fifo.arrayMfns) this.hold(mfn, USE.writable, true);
    }
    for (const { readOnly, mfn } of domain.grants.backendMappings) this.hold(mfn, readOnly ? 0 : USE.writable, !readOnly);
    for (const mapping of domain.grants.maptrack) if ((mapping.flags & GNTMAP_DEVICE) !== 0) this.#readDeviceMapping(mapping);
  }

  /** A device mapping shows in no page table: its reference and type are the handle's. */
  #readDeviceMapping({ domId, gref, flags }: { readonly domId: number; readonly gref: number; readonly flags: number }): void {
    const active = this.hv.domains.get(domId)?.grants.active[gref];
    if (active === undefined) return;
    const isReadOnly = (flags & GNTMAP_READONLY) !== 0;
    this.hold(active.mfn, isReadOnly ? 0 : USE.writable, !isReadOnly);
  }
}

/** GNTMAP_device_map and GNTMAP_readonly, xen/include/public/grant_table.h. */
const GNTMAP_DEVICE = 1;
const GNTMAP_READONLY = 4;
