// What Xen does with a page fault of a guest before the guest's own handler sees it: a store to a
// page table that is mapped read-only is checked and performed for the guest ("writable page
// tables"), if it has the assist on; a touch of the LDT window maps the LDT's page.
// The store itself is the input here, not the instruction: whoever decodes it stands in front.
// Source: fixup_page_fault() in xen/arch/x86/traps.c, ptwr_emulated_update() in pv/ro-page-fault.c.
import type { Vcpu } from './domain.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import { guestAddressOk } from './guest-access.ts';
import type { Hypervisor } from './hypervisor.ts';
import { change, emitPtUpdate, HOW } from './mm-events.ts';
import { findL1, found } from './page-walk.ts';
import { adjustedHi, adjustEntry, frameOf, PTE_FLAG } from './pte-rules.ts';
import { getPage, putPage } from './page-types.ts';
import { getPageFromL1, hasAssist, putPageFromL1, tableBase, VMASST } from './page-tables.ts';

/** A store: 1, 2, 4 or 8 bytes; with `expected` only if memory holds that (compare and exchange). */
export interface Store {
  readonly vaddr: number;
  readonly sizeBytes: number;
  readonly lo: number;
  readonly hi: number;
  readonly expected?: { readonly lo: number; readonly hi: number };
}

/** done: performed. differs: the compare failed; `lo`, `hi` is what was found. guest: the fault is the guest's. */
export type StoreOutcome = { readonly kind: 'done' } | { readonly kind: 'differs'; readonly lo: number; readonly hi: number } | { readonly kind: 'guest' };
const GUEST: StoreOutcome = { kind: 'guest' };

/** Is a write fault at that address one that Xen may emulate: assist on, a present read-only mapping of an L1 table of the domain's? The table's mfn, or -1. */
export function writableTableAt(hv: Hypervisor, vcpu: Vcpu, vaddr: number): number {
  const { domain } = vcpu;
  if (!hasAssist(domain, VMASST.writablePagetables) || !guestAddressOk(domain.abi, vaddr)) return -1;
  if (!findL1(hv.machine, domain.abi.levels, vcpu.guestTableMfn, vaddr)) return -1;
  if ((found.lo & (PTE_FLAG.present | PTE_FLAG.rw)) !== PTE_FLAG.present) return -1;
  const mfn = frameOf(found.lo, found.hi);
  const { frames } = hv;
  const isL1 = frames.has(mfn) && frames.owner[mfn] === domain.domId && frames.type[mfn] === FRAME_TYPE.l1
    && ((frames.flags[mfn] as number) & FRAME.validated) !== 0 && (frames.typeCount[mfn] as number) > 0;
  return isL1 ? mfn : -1;
}

/** Performs a store of the guest's kernel that faulted as a write to a present page. */
export function emulateTableStore(hv: Hypervisor, vcpu: Vcpu, store: Store): StoreOutcome {
  const { domain } = vcpu;
  const { vaddr, sizeBytes } = store;
  const entryBytes = domain.abi.pteBytes;
  const mfn = writableTableAt(hv, vcpu, vaddr);
  const offset = ((vaddr % 4096) + 4096) % 4096;
  // Aligned stores no wider than an entry.
  if (mfn < 0 || sizeBytes > entryBytes || (sizeBytes & (sizeBytes - 1)) !== 0 || sizeBytes === 0 || offset % sizeBytes !== 0) return GUEST;
  const { u32 } = hv.machine;
  const wide = entryBytes === 8;
  const at = tableBase(hv, mfn) + (wide ? (offset >>> 3) * 2 : offset >>> 2);
  const oldLo = u32[at] as number;
  const oldHi = wide ? (u32[at + 1] as number) : 0;
  const inEntry = offset % entryBytes;

  if (store.expected !== undefined) {
    const nowLo = extract(oldLo, oldHi, inEntry, sizeBytes);
    const nowHi = sizeBytes === 8 ? oldHi : 0;
    if (nowLo !== store.expected.lo >>> 0 || (sizeBytes === 8 && nowHi !== store.expected.hi >>> 0)) return { kind: 'differs', lo: nowLo, hi: nowHi };
  }
  let lo = inEntry < 4 ? insert(oldLo, store.lo, inEntry, Math.min(sizeBytes, 4)) : oldLo;
  let hi = sizeBytes === 8 ? store.hi >>> 0 : inEntry >= 4 ? insert(oldHi, store.lo, inEntry - 4, sizeBytes) : oldHi;

  if (!getPage(hv, mfn, domain.domId)) return GUEST;
  if ((lo & PTE_FLAG.present) !== 0 && hv.rules.emulatedStoreChecked && getPageFromL1(hv, lo, hi, domain, domain.domId) !== 0) {
    // A 32-bit guest that writes the high half first: the low half is to follow, so hide the entry meanwhile.
    const highHalf = domain.abi.wordBits === 32 && wide && sizeBytes === 4 && inEntry === 4 && store.expected === undefined;
    if (!highHalf) {
      putPage(hv, mfn);
      return GUEST;
    }
    lo = (lo & ~PTE_FLAG.present) >>> 0;
  }
  lo = adjustEntry(hv.rules, domain.abi.name, 1, lo, hi);
  hi = adjustedHi;
  hv.machine.touch(mfn);
  u32[at] = lo;
  if (wide) u32[at + 1] = hi;
  putPageFromL1(hv, oldLo, oldHi, domain);
  putPage(hv, mfn);
  Object.assign(change, { oldLo, oldHi, newLo: lo, newHi: hi });
  emitPtUpdate(hv, HOW.writablePt, 1, mfn * 4096 + offset - inEntry, 0);
  return { kind: 'done' };
}

/** Replaces `bytes` bytes of a 32-bit word from byte `from` on. */
function insert(word: number, value: number, from: number, bytes: number): number {
  if (bytes === 4) return value >>> 0;
  const mask = (2 ** (bytes * 8) - 1) * 2 ** (from * 8);
  return ((word & ~mask) | ((value * 2 ** (from * 8)) & mask)) >>> 0;
}
function extract(lo: number, hi: number, from: number, bytes: number): number {
  const word = from < 4 ? lo : hi;
  if (bytes >= 4) return word >>> 0;
  return (word >>> ((from % 4) * 8)) & (2 ** (bytes * 8) - 1);
}
