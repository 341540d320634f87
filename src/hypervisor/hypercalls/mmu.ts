// mmu_update and update_va_mapping: entries of page tables change, one by one or in batches.
// Source: do_mmu_update() and __do_update_va_mapping(), xen/arch/x86/mm.c. The steps of a batch:
//   1. finish the table an earlier call left half torn down
//   2. for each element: copy it, check the owner, change the entry by the type of its frame
//   3. preempted: hand back the rest with bit 31 of the count set; else flush if an upper level changed
//   4. add the number of elements done to *pdone
import { DOMID } from '../../abi/domid.ts';
import { EVENT } from '../../abi/events.ts';
import { ERRNO } from '../../abi/errno.ts';
import type { Domain, Vcpu } from '../domain.ts';
import { domainById, mayControl, pageOwnerId } from '../foreign-domain.ts';
import { FRAME, FRAME_TYPE } from '../frame-table.ts';
import { guestAddressOk } from '../guest-access.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { change, emitMm, emitPtUpdate, HOW } from '../mm-events.ts';
import { findL1, found } from '../page-walk.ts';
import { EINTR, EINVAL, ERESTART, flushDomainTlb, flushVcpuTlb, getPage, getType, preemptCheck, putOldTable, putPage, putType } from '../page-types.ts';
import { writeEntry } from '../page-tables.ts';
import { modL1Entry, modUpperEntry } from '../pte-update.ts';

/** Bit 31 of a count: the call goes on where preemption stopped it (MMU_UPDATE_PREEMPTED). */
export const PREEMPTED = 0x8000_0000;
const ESRCH = -ERRNO.ESRCH;
const EPERM = -ERRNO.EPERM;
const EFAULT = -ERRNO.EFAULT;

/** Low bits of an element's address. */
const CMD = { normal: 0, machphys: 1, preserveAd: 2, noTranslate: 3 } as const;

/** Adds finished elements to the guest's counter, best effort. */
export function reportDone(hv: Hypervisor, vcpu: Vcpu, pdone: number, before: number, count: number): void {
  if (pdone !== 0) hv.access.writeU32(vcpu, pdone, (before + count) >>> 0);
}

/** How a batch ends: preempted, or with a table still to tear down (the result waits in the arguments), or done. */
export function batchOutcome(vcpu: Vcpu, rc: number, restAddress: number, rest: number, pdone: number, domArg: number): HypercallOutcome {
  if (rc === ERESTART) return { kind: 'continuation', args: [restAddress, (rest | PREEMPTED) >>> 0, pdone, domArg] };
  if (vcpu.oldTable !== undefined) return { kind: 'continuation', args: [0, PREEMPTED, 0, rc >>> 0] };
  return done(rc);
}

function mmuUpdate(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const caller = vcpu.domain;
  const requests = args.addr(0);
  let count = args.u32(1);
  const pdone = args.addr(2);
  const domArg = args.u32(3);
  if (putOldTable(hv, vcpu) !== 0) return { kind: 'continuation', args: [requests, count, pdone, domArg] };
  if (count === PREEMPTED && requests === 0) return done(domArg | 0);
  let before = 0;
  if (count >= PREEMPTED) {
    count -= PREEMPTED;
    if (pdone !== 0) before = hv.access.readU32(vcpu, pdone) ?? 0;
  }
  if (!guestAddressOk(caller.abi, requests)) return done(EFAULT);

  let tableOwner: Domain = caller;
  const tableDom = domArg >>> 16;
  if (tableDom !== 0) {
    const other = domainById(hv, tableDom - 1);
    if (other === undefined) return done(ESRCH);
    tableOwner = other;
  }
  let rc = 0;
  let i = 0;
  let flush = false;
  let outcome: HypercallOutcome | undefined;
  const pageDomId = pageOwnerId(hv, caller, domArg & 0xffff);
  if (tableOwner.vcpus.length === 0 && tableOwner !== hv.dom0) rc = EINVAL;
  else if (pageDomId === undefined) rc = ESRCH;
  else {
    const { view } = hv.access;
    for (; i < count; i++) {
      if (vcpu.oldTable !== undefined || (i > 0 && preemptCheck(hv))) rc = ERESTART;
      else if (!hv.access.read(vcpu, requests + i * 16, 16)) rc = EFAULT;
      else {
        const ptrLo = view.getUint32(0, true);
        const ptrHi = view.getUint32(4, true);
        const lo = view.getUint32(8, true);
        const hi = view.getUint32(12, true);
        const cmd = ptrLo & (caller.abi.pteBytes - 1);
        if (cmd === CMD.machphys) rc = updateM2p(hv, caller, tableOwner, pageDomId, ptrLo, ptrHi, lo, hi);
        else if (cmd > CMD.noTranslate) rc = -ERRNO.ENOSYS;
        else {
          const level = updateEntry(hv, caller, tableOwner, pageDomId, ptrLo - cmd, ptrHi, lo, hi, cmd === CMD.preserveAd);
          if (level > 1) flush = true;
          rc = Math.min(level, 0);
        }
      }
      if (rc !== 0) break;
    }
    outcome = batchOutcome(vcpu, rc, requests + i * 16, count - i, pdone, domArg);
    if (flush) flushDomainTlb(hv, tableOwner);
  }
  reportDone(hv, vcpu, pdone, before, i);
  return outcome ?? done(rc);
}

/** Writes one entry. Negative errno, or the level of the table that changed (0: a plain page). */
function updateEntry(hv: Hypervisor, caller: Domain, tableOwner: Domain, pageDomId: number, ptrLo: number, ptrHi: number, lo: number, hi: number, preserveAd: boolean): number {
  if ((pageDomId !== DOMID.IO && !mayControl(caller, pageDomId)) || !mayControl(caller, tableOwner.domId)) return EPERM;
  const { frames } = hv;
  const mfn = ptrHi * 0x10_0000 + (ptrLo >>> 12);
  if (!getPage(hv, mfn, tableOwner.domId)) return EINVAL;
  const wide = tableOwner.abi.pteBytes === 8;
  const index = (ptrLo & 0xfff) >>> (wide ? 3 : 2);
  const maddr = mfn * 4096 + (ptrLo & 0xfff);
  const type = frames.type[mfn] as number;
  let rc = EINVAL;
  if (((frames.flags[mfn] as number) & FRAME.validated) !== 0 && (frames.typeCount[mfn] as number) > 0) {
    if (type === FRAME_TYPE.l1) {
      rc = modL1Entry(hv, mfn, index, lo, hi, tableOwner, pageDomId, preserveAd);
      emitPtUpdate(hv, HOW.mmuUpdate, 1, maddr, rc);
      if (rc === 0) rc = 1;
    } else if (type >= FRAME_TYPE.l2 && type <= FRAME_TYPE.l4) {
      if (pageDomId === tableOwner.domId) {
        rc = modUpperEntry(hv, type, mfn, index, lo, hi, tableOwner, preserveAd);
        if (rc !== ERESTART && rc !== EINTR) emitPtUpdate(hv, HOW.mmuUpdate, type, maddr, rc);
      }
      if (rc === 0) rc = type;
    } else if (type === FRAME_TYPE.writable) {
      rc = writePlain(hv, mfn, index, wide, maddr, lo, hi);
    }
    if (rc === EINTR) rc = ERESTART;
  } else if (getType(hv, mfn, FRAME_TYPE.writable, false) === 0) {
    rc = writePlain(hv, mfn, index, wide, maddr, lo, hi);
    putType(hv, mfn, 0, -1);
  }
  putPage(hv, mfn);
  return rc;
}

/** The frame is no table: the update is a store of data. */
function writePlain(hv: Hypervisor, mfn: number, index: number, wide: boolean, maddr: number, lo: number, hi: number): 0 {
  change.oldLo = hv.machine.readU32(maddr);
  change.oldHi = wide ? hv.machine.readU32(maddr + 4) : 0;
  change.newLo = lo;
  change.newHi = wide ? hi : 0;
  writeEntry(hv, mfn, index, wide, lo, hi);
  emitPtUpdate(hv, HOW.mmuUpdate, 0, maddr, 0);
  return 0;
}

/** MMU_MACHPHYS_UPDATE: the guest says which of its pseudo-physical frames a machine frame is. */
function updateM2p(hv: Hypervisor, caller: Domain, tableOwner: Domain, pageDomId: number, ptrLo: number, ptrHi: number, lo: number, hi: number): number {
  if (tableOwner !== caller) return EPERM;
  if (pageDomId !== DOMID.IO && !mayControl(caller, pageDomId)) return EPERM;
  const mfn = ptrHi * 0x10_0000 + (ptrLo >>> 12);
  if (!getPage(hv, mfn, hv.rules.m2pOwnerChecked ? pageDomId : (hv.frames.owner[mfn] ?? pageDomId))) return EINVAL;
  hv.frames.setM2p(mfn, lo, hi);
  emitMm(hv, EVENT.m2pUpdate, mfn, lo);
  putPage(hv, mfn);
  return 0;
}

// -- update_va_mapping ----------------------------------------------------------------------------

/** Low bits of `flags`, UVMF_*; the rest is 0 (this vCPU), 4 (all), or a pointer to a vCPU bitmap. */
const UVMF = { typeMask: 3, tlbFlush: 1, invlpg: 2, local: 0, all: 4 } as const;

function updateVa(hv: Hypervisor, vcpu: Vcpu, vaddr: number, lo: number, hi: number, flags: number, pageDomId: number | undefined): HypercallOutcome {
  const domain = vcpu.domain;
  if (pageDomId === undefined) return done(ESRCH);
  if (!mayControl(domain, pageDomId)) return done(EPERM);
  if (!guestAddressOk(domain.abi, vaddr) || !findL1(hv.machine, domain.abi.levels, vcpu.guestTableMfn, vaddr)) return done(EINVAL);
  const tableMfn = Math.floor(found.maddr / 4096);
  const { frames } = hv;
  const isL1 = frames.type[tableMfn] === FRAME_TYPE.l1 && ((frames.flags[tableMfn] as number) & FRAME.validated) !== 0 && (frames.typeCount[tableMfn] as number) > 0;
  if (!isL1 || !getPage(hv, tableMfn, domain.domId)) return done(EINVAL);
  const index = (found.maddr % 4096) / domain.abi.pteBytes;
  const maddr = found.maddr;
  const rc = modL1Entry(hv, tableMfn, index, lo, hi, domain, pageDomId, false);
  emitPtUpdate(hv, HOW.updateVa, 1, maddr, rc);
  putPage(hv, tableMfn);
  if (rc !== 0) return done(rc);
  const kind = flags & UVMF.typeMask;
  if (kind !== UVMF.tlbFlush && kind !== UVMF.invlpg) return done(0);
  const whom = flags - kind;
  const targets = whom === UVMF.local ? [vcpu] : whom === UVMF.all ? domain.vcpus : vcpusOfBitmap(hv, vcpu, whom);
  if (targets === undefined) return done(EFAULT);
  for (const target of targets) {
    if (kind === UVMF.tlbFlush) flushVcpuTlb(hv, target);
    else target.cpu?.invlpg(vaddr);
  }
  return done(0);
}

/** The vCPUs named by a bitmap in guest memory, or undefined (a fault while reading it). */
export function vcpusOfBitmap(hv: Hypervisor, vcpu: Vcpu, bitmap: number): Vcpu[] | undefined {
  const { vcpus, abi } = vcpu.domain;
  const named: Vcpu[] = [];
  for (let first = 0; first < vcpus.length; first += abi.wordBits) {
    if (!hv.access.read(vcpu, bitmap + first / 8, abi.wordBits / 8)) return undefined;
    for (let bit = 0; bit < abi.wordBits; bit++) {
      const target = vcpus[first + bit];
      if (target !== undefined && ((hv.access.bytes[bit >>> 3] as number) & (1 << (bit & 7))) !== 0) named.push(target);
    }
  }
  return named;
}

/** 64-bit: (va, entry, flags [, dom]); 32-bit: (va, low, high, flags [, dom]). */
function updateVaMapping(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const own = vcpu.domain.domId;
  if (vcpu.domain.abi.wordBits === 64) return updateVa(hv, vcpu, args.addr(0), args.lo[1] as number, args.hi[1] as number, args.addr(2), own);
  return updateVa(hv, vcpu, args.u32(0), args.u32(1), args.u32(2), args.u32(3), own);
}
function updateVaMappingOther(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const wide = vcpu.domain.abi.wordBits === 64;
  const owner = pageOwnerId(hv, vcpu.domain, args.u32(wide ? 3 : 4) & 0xffff);
  if (wide) return updateVa(hv, vcpu, args.addr(0), args.lo[1] as number, args.hi[1] as number, args.addr(2), owner);
  return updateVa(hv, vcpu, args.u32(0), args.u32(1), args.u32(2), args.u32(3), owner);
}

export const mmuRows: Record<number, HypercallRow> = {
  1: {
    name: 'mmu_update', handle: mmuUpdate,
    args: [{ name: 'requests', kind: 'handle' }, { name: 'count', kind: 'count' }, { name: 'pdone', kind: 'handle' }, { name: 'domains', kind: 'u32' }],
  },
  14: {
    name: 'update_va_mapping', handle: updateVaMapping,
    args: [{ name: 'va', kind: 'vaddr' }, { name: 'entry', kind: 'pte' }, { name: 'flags', kind: 'flags' }],
  },
  22: {
    name: 'update_va_mapping_otherdomain', handle: updateVaMappingOther,
    args: [{ name: 'va', kind: 'vaddr' }, { name: 'entry', kind: 'pte' }, { name: 'flags', kind: 'flags' }, { name: 'domid', kind: 'domid' }],
  },
};
