// Promotion and demotion of page tables: what each level's entries must be and what they hold.
//
//   an L1 entry holds a reference of the frame, and a writable type if it is writable
//   an entry above holds a reference and the type of the level below; or, read-only, a table of its
//   own level that is validated already (a linear page table)
//
// Tables above L1 may be interrupted between entries (validEntries, partialFlags of the frame).
// Source: promote_l*_table(), demote_l*_table(), get_page_from_l*e(), xen/arch/x86/mm.c.
import { ERRNO } from '../abi/errno.ts';
import { DOMID } from '../abi/domid.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import type { Domain } from './domain.ts';
import { PER_DOMAIN_ROOT_SLOT_64, PER_DOMAIN_VIRT_START_32 } from './per-domain.ts';
import { adjustedHi, adjustEntry, CACHE_FLAGS, flagsOf, frameOf, PAE_FIRST_XEN_SLOT, PTE_FLAG, PV64_FIRST_XEN_SLOT, PV64_LAST_XEN_SLOT, tableEntries, TWO_LEVEL_FIRST_XEN_SLOT } from './pte-rules.ts';
import {
  EINTR, EINVAL, ERESTART, getPage, getPageAndOwner, getPageAndTypeFor, getType, oldTableHolder, PAE_XEN_L2, preemptCheck, PUT, putPage, putPageAndType, putType, uninterrupted,
} from './page-types.ts';

const PAE_4GB_MFN = 0x10_0000;
/** VMASST_TYPE_* numbers, xen/include/public/xen.h. */
export const VMASST = { writablePagetables: 2, paeExtendedCr3: 3, m2pStrict: 32 } as const;
/** vmAssist is a number; type 32 is its bit 32. */
export const hasAssist = (domain: Domain, type: number): boolean => Math.floor(domain.vmAssist / 2 ** type) % 2 === 1;

// -- entries as halves ----------------------------------------------------------------------------

/** Index into machine.u32 of a table's first entry. */
export const tableBase = (hv: Hypervisor, mfn: number): number => (hv.machine.ramBase + mfn * 4096) / 4;

/** Writes an entry; two-level tables have no high half. */
export function writeEntry(hv: Hypervisor, mfn: number, index: number, wide: boolean, lo: number, hi: number): void {
  hv.machine.touch(mfn);
  const at = tableBase(hv, mfn) + (wide ? index * 2 : index);
  hv.machine.u32[at] = lo;
  if (wide) hv.machine.u32[at + 1] = hi;
}

// -- L1 entries -----------------------------------------------------------------------------------

/** Flags that the domain may not use in L1 entries; a privileged one may choose cache attributes. */
export function l1Disallowed(hv: Hypervisor, domain: Domain): number {
  const mask = (hv.rules.disallowed[domain.abi.name][1] as number) | (hv.build.grantPteMark ? hv.rules.grantMark : 0);
  return domain.privileged ? mask & ~CACHE_FLAGS : mask;
}

/**
 * Takes what a present L1 entry of `owner`'s holds, for a frame that belongs to `pageDomId`.
 * 0 or negative errno: -EINVAL flags, -EPERM no RAM or I/O space, -EBUSY owner or type.
 */
export function getPageFromL1(hv: Hypervisor, lo: number, hi: number, owner: Domain, pageDomId: number): number {
  const flags = flagsOf(lo, hi);
  if ((flags & l1Disallowed(hv, owner)) !== 0) return EINVAL;
  const { frames } = hv;
  const mfn = frameOf(lo, hi);
  const valid = frames.has(mfn);
  const realOwner = valid ? getPageAndOwner(hv, mfn) : DOMID.IO;
  if (realOwner === DOMID.IO) {
    if (valid) putPage(hv, mfn);
    if (owner.privileged) return 0;
    // All address bits set is INVALID_MFN: a mistake rather than an attempt.
    return mfn === 0xff_ffff_ffff ? EINVAL : -ERRNO.EPERM;
  }
  let pageOwner = pageDomId;
  if (realOwner !== pageOwner) {
    // A privileged domain may pass on its right to map its target's pages.
    const allowed = realOwner !== FREE_OWNER && pageOwner !== owner.domId && hv.domains.get(pageOwner)?.privileged === true;
    if (!allowed) return refuse(hv, mfn, realOwner);
    pageOwner = realOwner;
  }
  if ((flags & PTE_FLAG.rw) !== 0 && hv.rules.writableTakesType && getType(hv, mfn, FRAME_TYPE.writable, false) !== 0) return refuse(hv, mfn, realOwner);
  if ((flags & CACHE_FLAGS) !== 0 && ((frames.flags[mfn] as number) & FRAME.xenHeap) !== 0) {
    if ((flags & PTE_FLAG.rw) !== 0) putPageAndType(hv, mfn);
    else putPage(hv, mfn);
    return -ERRNO.EACCES;
  }
  return 0;
}

function refuse(hv: Hypervisor, mfn: number, realOwner: number): number {
  if (realOwner !== FREE_OWNER) putPage(hv, mfn);
  return -ERRNO.EBUSY;
}

/** Gives back what an L1 entry held. */
export function putPageFromL1(hv: Hypervisor, lo: number, hi: number, owner: Domain): void {
  if ((lo & PTE_FLAG.present) === 0) return;
  const mfn = frameOf(lo, hi);
  if (!hv.frames.has(mfn) || hv.frames.owner[mfn] === DOMID.IO) return;
  // A grant mapping must be undone by the grant interface; debug builds tell the guest.
  if (hv.build.grantPteMark && (flagsOf(lo, hi) & hv.rules.grantMark) !== 0 && owner.life.kind === 'running') hv.pendingGp = true;
  if ((lo & PTE_FLAG.rw) !== 0 && hv.rules.writableTakesType) putPageAndType(hv, mfn);
  else putPage(hv, mfn);
}

function promoteL1(hv: Hypervisor, mfn: number, domain: Domain): number {
  const { u32 } = hv.machine;
  const wide = domain.abi.pteBytes === 8;
  const step = wide ? 2 : 1;
  const base = tableBase(hv, mfn);
  const entries = tableEntries(domain.abi, 1);
  hv.uncountedWork += entries;
  hv.machine.touch(mfn);
  for (let i = 0; i < entries; i++) {
    const at = base + i * step;
    const lo = u32[at] as number;
    if ((lo & PTE_FLAG.present) === 0) continue;
    const hi = wide ? (u32[at + 1] as number) : 0;
    const rc = getPageFromL1(hv, lo, hi, domain, domain.domId);
    if (rc < 0) {
      if (hv.rules.failedTableIsUndone) demoteL1(hv, mfn, domain, i);
      return rc;
    }
    u32[at] = adjustEntry(hv.rules, domain.abi.name, 1, lo, hi);
    if (wide) u32[at + 1] = adjustedHi;
  }
  return 0;
}

/** Puts entries 0..end-1; the order is that of the failing or the finishing case in Xen, which nobody can tell apart. */
function demoteL1(hv: Hypervisor, mfn: number, domain: Domain, end: number): void {
  const { u32 } = hv.machine;
  const wide = domain.abi.pteBytes === 8;
  const base = tableBase(hv, mfn);
  for (let i = 0; i < end; i++) {
    const at = wide ? base + i * 2 : base + i;
    const lo = u32[at] as number;
    if ((lo & PTE_FLAG.present) !== 0) putPageFromL1(hv, lo, wide ? (u32[at + 1] as number) : 0, domain);
  }
}

// -- entries of the levels above ------------------------------------------------------------------

/** Takes what a present entry of a table of `level` (2..4) holds. */
export function getPageFromUpper(hv: Hypervisor, level: number, lo: number, hi: number, tableMfn: number, domain: Domain, how: number): number {
  const abi = domain.abi;
  if ((flagsOf(lo, hi) & (hv.rules.disallowed[abi.name][level] as number)) !== 0) return EINVAL;
  const rc = getPageAndTypeFor(hv, frameOf(lo, hi), domain.domId, level - 1, how | (level > 2 ? PUT.preemptible : 0));
  if (rc === EINVAL && hv.rules.linear[abi.name][level] === true && getLinear(hv, level, lo, hi, tableMfn, domain)) return 0;
  return rc;
}

/** An entry that maps a table of its own level: read-only, validated, and no chains. The self reference holds nothing. */
function getLinear(hv: Hypervisor, level: number, lo: number, hi: number, tableMfn: number, domain: Domain): boolean {
  const { frames, rules } = hv;
  if (rules.linearReadOnly && (lo & PTE_FLAG.rw) !== 0) return false;
  const mfn = frameOf(lo, hi);
  if (mfn === tableMfn) return true;
  if (frames.owner[tableMfn] !== domain.domId || !getPage(hv, mfn, domain.domId)) return false;
  const entries = frames.linearCount[tableMfn] as number;
  const uses = frames.linearCount[mfn] as number;
  const typed = frames.type[mfn] === level && ((frames.flags[mfn] as number) & FRAME.validated) !== 0 && (frames.typeCount[mfn] as number) > 0;
  if (!typed || (rules.linearDepthOne && (entries < 0 || uses > 0)) || Math.abs(entries) >= 0x7ffe || Math.abs(uses) >= 0x7ffe) {
    putPage(hv, mfn);
    return false;
  }
  frames.linearCount[tableMfn] = entries + 1;
  frames.linearCount[mfn] = uses - 1;
  frames.typeCount[mfn] = (frames.typeCount[mfn] as number) + 1;
  return true;
}

/** Gives back what an entry held. 1: nothing to give back; 0: done (or deferred); negative: interrupted. */
export function putPageFromUpper(hv: Hypervisor, lo: number, hi: number, tableMfn: number, how: number): number {
  if ((lo & PTE_FLAG.present) === 0) return 1;
  const mfn = frameOf(lo, hi);
  if (mfn === tableMfn) return 1;
  if ((how & PUT.defer) !== 0) {
    oldTableHolder(hv).oldTable = { mfn, parentMfn: tableMfn, partial: false };
    return 0;
  }
  const rc = putType(hv, mfn, how | PUT.preemptible, tableMfn);
  if (rc === 0) putPage(hv, mfn);
  return rc;
}

// -- whole tables ---------------------------------------------------------------------------------

/** Validates a table and takes what its entries hold, from where an interruption left it. */
export function promoteTable(hv: Hypervisor, mfn: number, level: number): number {
  const domain = hv.domains.get(hv.frames.owner[mfn] as number);
  if (domain === undefined || level > domain.abi.levels) return EINVAL;
  if (level === 1) return promoteL1(hv, mfn, domain);
  const { abi } = domain;
  const paeRoot = level === 3 && abi.levels === 3;
  if (paeRoot) {
    if (mfn >= PAE_4GB_MFN && !hasAssist(domain, VMASST.paeExtendedCr3)) return -ERRNO.ERANGE;
    // On 64-bit Xen the processor sees the whole page as a table.
    if (!abi.onXen3) hv.machine.writeBytes(mfn * 4096 + 32, new Uint8Array(4096 - 32));
  }
  const rc = promoteUpper(hv, mfn, level, domain, paeRoot);
  if (rc === 0) fillXenSlots(hv, mfn, level, domain);
  return rc;
}

function promoteUpper(hv: Hypervisor, mfn: number, level: number, domain: Domain, paeRoot: boolean): number {
  const { frames, rules } = hv;
  const { u32 } = hv.machine;
  const { abi } = domain;
  const step = abi.pteBytes / 4;
  const base = tableBase(hv, mfn);
  const entries = tableEntries(abi, level);
  const start = frames.validEntries[mfn] as number;
  const flags = frames.flags[mfn] as number;
  const retain = level > 2 && rules.restartKeepsReference ? PUT.retainRefOnRestart : 0;
  let how = frames.partialFlags[mfn] as number;
  let rc = 0;
  let i = start;
  hv.machine.touch(mfn);
  for (; i < entries; i++, how = 0) {
    const at = base + i * step;
    const lo = u32[at] as number;
    const hi = step === 2 ? (u32[at + 1] as number) : 0;
    if (level !== 4 && i > start && rules.promotionPreempts && preemptCheck(hv)) rc = EINTR;
    else if (!rules.isGuestSlot(abi, level, flags, i)) continue;
    else if (paeRoot && i === 3) rc = getXenL2(hv, lo, hi, domain, how);
    else if ((lo & PTE_FLAG.present) === 0) continue;
    else rc = getPageFromUpper(hv, level, lo, hi, mfn, domain, how | retain);
    if (rc === ERESTART) {
      frames.validEntries[mfn] = i;
      frames.partialFlags[mfn] = rules.restartRemembersEntry ? PUT.partialSet : 0;
    } else if (rc === EINTR && i > 0) {
      frames.validEntries[mfn] = i;
      frames.partialFlags[mfn] = how;
      rc = ERESTART;
    }
    if (rc < 0) break;
    u32[at] = adjustEntry(rules, abi.name, level, lo, hi);
    if (step === 2) u32[at + 1] = adjustedHi;
    if (paeRoot && i === 3) break;
  }
  if (rc < 0 && rc !== ERESTART && rc !== EINTR) {
    // If the first entry's own table was refused half-way, that one waits as oldTable: a root leaves
    // it there, as Xen does; a table with one above it takes it over, or the one above would forget it.
    // A first entry begun before an interruption holds a reference that is to be given back as well.
    const holder = oldTableHolder(hv);
    const takesOver = level < abi.levels && holder.oldTable !== undefined;
    const begun = i === 0 && (how & PUT.partialSet) !== 0 && holder.oldTable === undefined;
    const first = frameOf(u32[base] as number, step === 2 ? (u32[base + 1] as number) : 0);
    if (begun && ((frames.flags[first] as number) & FRAME.partial) === 0) putPage(hv, first);
    else if ((i > 0 || begun || takesOver) && rules.failedTableIsUndone) {
      // Half a table is torn down later, as an interrupted one: the caller's vCPU keeps it.
      frames.validEntries[mfn] = i;
      frames.partialFlags[mfn] = holder.oldTable !== undefined ? PUT.partialSet : how;
      holder.oldTable = { mfn, parentMfn: -1, partial: true };
    }
    if (level === 3) while (i-- > 0) unadjust(hv, base + i * step, domain);
  }
  return rc;
}

/** Slot 3 of a PAE root: an L2 that will hold Xen's entries, in this root only. */
function getXenL2(hv: Hypervisor, lo: number, hi: number, domain: Domain, how: number): number {
  if ((lo & PTE_FLAG.present) === 0 || (flagsOf(lo, hi) & hv.rules.disallowed[domain.abi.name][3]) !== 0) return EINVAL;
  const l2 = frameOf(lo, hi);
  const rc = getPageAndTypeFor(hv, l2, domain.domId, FRAME_TYPE.l2 | PAE_XEN_L2, how | PUT.preemptible | PUT.retainRefOnRestart);
  // Shared: refused, and the references stay taken for ever, as in the real hypervisor.
  if (rc !== 0 || !hv.rules.paeXenL2Unshared || hv.frames.typeCount[l2] === 1) return rc;
  domain.leakedTables.push(l2);
  return EINVAL;
}

/** A 32-bit root's entry loses what Xen added (unadjust_guest_l3e). */
function unadjust(hv: Hypervisor, at: number, domain: Domain): void {
  const lo = hv.machine.u32[at] as number;
  if ((lo & PTE_FLAG.present) !== 0) hv.machine.u32[at] = lo & ~hv.rules.removedFromL3[domain.abi.name];
}

/** Takes back what a table's entries hold, last entry first. 0 or an interruption. */
export function demoteTable(hv: Hypervisor, mfn: number, level: number, wasPartial: boolean): number {
  const { frames, rules } = hv;
  const domain = hv.domains.get(frames.owner[mfn] as number) as Domain;
  const { abi } = domain;
  const entries = tableEntries(abi, level);
  if (level === 1) {
    hv.uncountedWork += entries;
    demoteL1(hv, mfn, domain, entries);
    return 0;
  }
  if (!wasPartial) {
    frames.validEntries[mfn] = entries;
    frames.partialFlags[mfn] = 0;
  }
  const { u32 } = hv.machine;
  const step = abi.pteBytes / 4;
  const base = tableBase(hv, mfn);
  const flags = frames.flags[mfn] as number;
  let how = frames.partialFlags[mfn] as number;
  let i = (frames.validEntries[mfn] as number) - ((how & PUT.partialSet) !== 0 ? 0 : 1);
  let rc = 0;
  hv.machine.touch(mfn);
  for (;;) {
    const at = base + i * step;
    const whole = level > 2 && !rules.upperDemotionPreempts ? 1 : 0;
    uninterrupted.depth += whole;
    if (rules.isGuestSlot(abi, level, flags, i)) rc = putPageFromUpper(hv, u32[at] as number, step === 2 ? (u32[at + 1] as number) : 0, mfn, how);
    uninterrupted.depth -= whole;
    if (rc < 0) break;
    how = 0;
    if (level === 3 && rc === 0) unadjust(hv, at, domain);
    if (i-- === 0) break;
    if (level !== 4 && rules.demotionPreempts && preemptCheck(hv)) {
      rc = EINTR;
      break;
    }
  }
  if (rc >= 0) {
    if (level === 2) frames.flags[mfn] = (frames.flags[mfn] as number) & ~FRAME.paeXenL2;
    return 0;
  }
  if (rc === ERESTART) {
    frames.validEntries[mfn] = i;
    frames.partialFlags[mfn] = rules.restartRemembersEntry ? PUT.partialSet : 0;
  } else if (rc === EINTR && i < entries - 1) {
    frames.validEntries[mfn] = i + ((how & PUT.partialSet) !== 0 ? 0 : 1);
    frames.partialFlags[mfn] = how;
    rc = ERESTART;
  }
  return rc;
}

// -- Xen's slots ----------------------------------------------------------------------------------

/** present, RW, accessed, dirty: Xen's tables that lead to read-only L1 entries. */
const XEN_TABLE_FLAGS = 0x63;
const XEN_TABLE_USER_FLAGS = 0x67;

/** Puts Xen's entries into a table that just became a root, or the slot-3 L2 of one. */
function fillXenSlots(hv: Hypervisor, mfn: number, level: number, domain: Domain): void {
  const { abi } = domain;
  if (level === 4) {
    for (let slot = PV64_FIRST_XEN_SLOT; slot <= PV64_LAST_XEN_SLOT; slot++) writeEntry(hv, mfn, slot, true, 0, 0);
    // The self reference; supervisor only.
    writeEntry(hv, mfn, PV64_FIRST_XEN_SLOT + 2, true, ((mfn << 12) | XEN_TABLE_FLAGS) >>> 0, mfn >>> 20);
    if (hasAssist(domain, VMASST.m2pStrict)) fillM2pSlot(hv, mfn);
    const window = domain.perDomain?.slotMfn;
    if (window !== undefined) writeEntry(hv, mfn, PER_DOMAIN_ROOT_SLOT_64, true, ((window << 12) | XEN_TABLE_FLAGS) >>> 0, window >>> 20);
  } else if (level === 2 && (abi.levels === 2 || ((hv.frames.flags[mfn] as number) & FRAME.paeXenL2) !== 0)) {
    const wide = abi.pteBytes === 8;
    const first = wide ? PAE_FIRST_XEN_SLOT : TWO_LEVEL_FIRST_XEN_SLOT;
    const l1s = wide ? hv.xenTables.paeL1Mfns : hv.xenTables.twoLevelL1Mfns;
    const windowSlot = (PER_DOMAIN_VIRT_START_32 >>> (wide ? 21 : 22)) % tableEntries(abi, 2);
    for (let slot = first; slot < tableEntries(abi, 2); slot++) {
      const l1 = slot === windowSlot ? domain.perDomain?.slotMfn : l1s[slot - first];
      if (l1 === undefined) writeEntry(hv, mfn, slot, wide, 0, 0);
      else writeEntry(hv, mfn, slot, wide, ((l1 << 12) | XEN_TABLE_FLAGS) >>> 0, l1 >>> 20);
    }
  }
}

/** pv64: the read-only machine-to-phys table appears in a root when it is loaded (fill_ro_mpt). */
export function fillM2pSlot(hv: Hypervisor, mfn: number): void {
  const l3 = hv.xenTables.fourLevelL3Mfn;
  writeEntry(hv, mfn, PV64_FIRST_XEN_SLOT, true, ((l3 << 12) | XEN_TABLE_USER_FLAGS) >>> 0, l3 >>> 20);
}
export function zapM2pSlot(hv: Hypervisor, mfn: number): void {
  writeEntry(hv, mfn, PV64_FIRST_XEN_SLOT, true, 0, 0);
}
