// One entry of a validated table changes: take what the new entry holds, write it, give back what
// the old one held. Changes of harmless flags only take the fast path, without counting.
// Source: mod_l1_entry() .. mod_l4_entry(), xen/arch/x86/mm.c.
import { ERRNO } from '../abi/errno.ts';
import type { Domain } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { change } from './mm-events.ts';
import { adjustedHi, adjustEntry, flagsOf, PTE_FLAG } from './pte-rules.ts';
import { EINVAL, PUT } from './page-types.ts';
import { getPageFromL1, getPageFromUpper, l1Disallowed, putPageFromL1, putPageFromUpper, tableBase } from './page-tables.ts';

const AD = PTE_FLAG.accessed | PTE_FLAG.dirty;

/** Do two entries differ in anything but the flags that the level's fast path allows? */
function changed(hv: Hypervisor, level: number, oldLo: number, oldHi: number, lo: number, hi: number): boolean {
  const free = hv.rules.fastPath[level] as number;
  const difLo = (oldLo ^ lo) & ~(free & 0xfff);
  const difHi = (oldHi ^ hi) & ~((free >>> 12) << 20);
  return difLo !== 0 || difHi !== 0;
}

/**
 * Changes entry `index` of the validated L1 `tableMfn`, a table of `owner`'s, to map a frame of
 * `pageDomId`'s. 0, -EINVAL (flags), -EPERM (no RAM), -EBUSY (owner or type of the frame).
 */
export function modL1Entry(hv: Hypervisor, tableMfn: number, index: number, lo: number, hi: number, owner: Domain, pageDomId: number, preserveAd: boolean): number {
  const { u32 } = hv.machine;
  const wide = owner.abi.pteBytes === 8;
  const at = tableBase(hv, tableMfn) + (wide ? index * 2 : index);
  const oldLo = u32[at] as number;
  const oldHi = wide ? (u32[at + 1] as number) : 0;
  let release = true;
  change.oldLo = oldLo;
  change.oldHi = oldHi;
  change.newLo = lo;
  change.newHi = hi;
  if ((lo & PTE_FLAG.present) !== 0) {
    if ((flagsOf(lo, hi) & l1Disallowed(hv, owner)) !== 0) return EINVAL;
    lo = adjustEntry(hv.rules, owner.abi.name, 1, lo, hi);
    hi = adjustedHi;
    if (!changed(hv, 1, oldLo, oldHi, lo, hi)) release = false;
    else {
      const rc = getPageFromL1(hv, lo, hi, owner, pageDomId);
      if (rc < 0) return rc;
    }
  }
  if (preserveAd) lo |= oldLo & AD;
  hv.machine.touch(tableMfn);
  u32[at] = lo;
  if (wide) u32[at + 1] = hi;
  change.newLo = lo >>> 0;
  change.newHi = hi;
  if (release && hv.rules.oldEntryReleased) putPageFromL1(hv, oldLo, oldHi, owner);
  return 0;
}

/** A slot that guests may not write: the errno differs by level. */
const XEN_SLOT_ERRNO = [0, 0, -ERRNO.EPERM, EINVAL, EINVAL] as const;

/**
 * Changes an entry of a validated table of level 2..4. The old entry's table is dropped later (it
 * becomes the vCPU's oldTable). 0 or negative errno, also an interruption.
 */
export function modUpperEntry(hv: Hypervisor, level: number, tableMfn: number, index: number, lo: number, hi: number, owner: Domain, preserveAd: boolean): number {
  const { rules } = hv;
  const { u32 } = hv.machine;
  const { abi } = owner;
  // Slot 3 of a PAE root holds Xen's entries, and what follows does not exist.
  const paeFixed = level === 3 && abi.levels === 3 && index >= 3;
  const wide = abi.pteBytes === 8;
  const at = tableBase(hv, tableMfn) + (wide ? index * 2 : index);
  const oldLo = u32[at] as number;
  const oldHi = wide ? (u32[at + 1] as number) : 0;
  let release = true;
  change.oldLo = oldLo;
  change.oldHi = oldHi;
  change.newLo = lo;
  change.newHi = hi;
  if (paeFixed || !rules.isGuestSlot(abi, level, hv.frames.flags[tableMfn] as number, index)) return XEN_SLOT_ERRNO[level] as number;
  if ((lo & PTE_FLAG.present) !== 0) {
    if ((flagsOf(lo, hi) & (rules.disallowed[abi.name][level] as number)) !== 0) return EINVAL;
    lo = adjustEntry(rules, abi.name, level, lo, hi);
    hi = adjustedHi;
    if (!changed(hv, level, oldLo, oldHi, lo, hi)) release = false;
    else {
      const rc = getPageFromUpper(hv, level, lo, hi, tableMfn, owner, 0);
      if (rc < 0) return rc;
    }
  }
  if (preserveAd) lo |= oldLo & AD;
  hv.machine.touch(tableMfn);
  u32[at] = lo;
  if (wide) u32[at + 1] = hi;
  change.newLo = lo >>> 0;
  change.newHi = hi;
  if (release && rules.oldEntryReleased) putPageFromUpper(hv, oldLo, oldHi, tableMfn, PUT.defer);
  return 0;
}
