// mmuext_op: pinning, base pointers, TLB flushes, LDT, clearing and copying pages. Each command is a
// row. Source: do_mmuext_op() and new_guest_cr3(), xen/arch/x86/mm.c; for 32-bit callers
// compat_mmuext_op(), xen/arch/x86/x86_64/compat/mm.c.
import { ERRNO } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import { wide } from '../../base/wide.ts';
import type { Vcpu } from '../domain.ts';
import { mayControl, pageOwnerId } from '../foreign-domain.ts';
import { FRAME, FRAME_TYPE } from '../frame-table.ts';
import { guestAddressOk } from '../guest-access.ts';
import { baseTableMfn } from '../guest-mode.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { loadLdt } from '../ldt.ts';
import { emitMm } from '../mm-events.ts';
import { fillM2pSlot, hasAssist, VMASST, zapM2pSlot } from '../page-tables.ts';
import {
  EINTR, EINVAL, ERESTART, flushDomainTlb, flushVcpuTlb, getPage, getPageAndType, getPageAndTypeFor, getType, keepOldTable, oldTableHolder, preemptCheck,
  PUT, putOldTable, putPage, putPageAndType, putPageAndTypePreemptible,
} from '../page-types.ts';
import { mapLdtPage } from '../per-domain.ts';
import { batchOutcome, PREEMPTED, reportDone, vcpusOfBitmap } from './mmu.ts';

const EPERM = -ERRNO.EPERM;

/** One element. Arguments as unsigned numbers (frames, counts) or signed ones (addresses). */
interface ExtOp {
  cmd: number;
  arg1: number;
  arg1Addr: number;
  arg2: number;
  arg2Addr: number;
}
const op: ExtOp = wide({ cmd: 0, arg1: 0, arg1Addr: 0, arg2: 0, arg2Addr: 0 });

interface ExtRow {
  readonly name: string;
  /** Only for the caller's own domain (-EPERM otherwise). */
  readonly own?: true;
  readonly run: (hv: Hypervisor, vcpu: Vcpu, op: ExtOp, pageDomId: number) => number;
}

// -- pinning --------------------------------------------------------------------------------------

/** Levels that the caller's tables do not have are ignored, without an error. */
function pin(hv: Hypervisor, vcpu: Vcpu, level: number, mfn: number, pageDomId: number): number {
  const levels = hv.domains.get(pageDomId)?.abi.levels ?? 0;
  // 64-bit Xen knows L3 for 32-bit guests as well; only L4 is beyond them.
  if (level > levels) return 0;
  if (!getPage(hv, mfn, pageDomId)) return EINVAL;
  const rc = getType(hv, mfn, level, true);
  if (rc !== 0) {
    if (oldTableHolder(hv).oldTable?.mfn !== mfn || !hv.rules.deferredKeepsReference) putPage(hv, mfn);
    return rc === EINTR ? ERESTART : rc;
  }
  const flags = hv.frames.flags[mfn] as number;
  if ((flags & FRAME.pinned) !== 0 && hv.rules.pinnedOnce) {
    if (level === 1) putPageAndType(hv, mfn);
    else vcpu.oldTable = { mfn, parentMfn: -1, partial: false };
    return EINVAL;
  }
  hv.frames.flags[mfn] = flags | FRAME.pinned;
  return 0;
}

function unpin(hv: Hypervisor, _vcpu: Vcpu, { arg1: mfn }: ExtOp, pageDomId: number): number {
  if (!getPage(hv, mfn, pageDomId)) return EINVAL;
  const flags = hv.frames.flags[mfn] as number;
  if ((flags & FRAME.pinned) === 0) {
    putPage(hv, mfn);
    return EINVAL;
  }
  hv.frames.flags[mfn] = flags & ~FRAME.pinned;
  const rc = putPageAndTypePreemptible(hv, mfn);
  if (rc !== 0) keepOldTable(hv, mfn, rc);
  putPage(hv, mfn);
  return 0;
}

// -- base pointers --------------------------------------------------------------------------------

/** Drops the reference of a table that is loaded no longer. 0 or -ERESTART (kept for later). */
function putBase(hv: Hypervisor, mfn: number): number {
  if (mfn === 0) return 0;
  const rc = putPageAndTypePreemptible(hv, mfn);
  if (rc === 0) return 0;
  keepOldTable(hv, mfn, rc);
  return ERESTART;
}

/** The processor walks the new tables from now on; every translation is dropped. */
export function loadBase(hv: Hypervisor, vcpu: Vcpu): void {
  // Linux reloads its tables tens of thousands of times while it boots: one flush each is enough.
  if (vcpu.domain.abi.levels === 4) vcpu.cpu?.switchTables(!vcpu.kernelMode, baseTableMfn(vcpu) * 4096);
  else vcpu.cpu?.setCr(3, baseTableMfn(vcpu) * 4096);
  flushVcpuTlb(hv, vcpu);
}

function newBasePtr(hv: Hypervisor, vcpu: Vcpu, { arg1: mfn }: ExtOp): number {
  const { abi } = vcpu.domain;
  const old = vcpu.guestTableMfn;
  if (abi.levels !== 4) {
    // 64-bit Xen holds a 32-bit guest's root in an entry of its own L4: the old one is put later.
    if (mfn !== old) {
      const rc = getPageAndTypeFor(hv, mfn, vcpu.domain.domId, abi.levels, PUT.preemptible);
      if (rc !== 0) return rc === EINTR ? ERESTART : rc;
      vcpu.guestTableMfn = mfn;
      if (old !== 0) vcpu.oldTable = { mfn: old, parentMfn: -1, partial: false };
    }
    dropLdt(hv, vcpu);
    loadBase(hv, vcpu);
    return 0;
  }
  const rc = putOldTable(hv, vcpu);
  if (rc !== 0) return rc;
  if (mfn === old) {
    loadBase(hv, vcpu);
    return 0;
  }
  const got = getPageAndTypeFor(hv, mfn, vcpu.domain.domId, FRAME_TYPE.l4, PUT.preemptible);
  if (got !== 0) return got === EINTR ? ERESTART : got;
  dropLdt(hv, vcpu);
  if (!hasAssist(vcpu.domain, VMASST.m2pStrict)) fillM2pSlot(hv, mfn);
  vcpu.guestTableMfn = mfn;
  loadBase(hv, vcpu);
  return putBase(hv, old);
}

/** A base switch outside a hypercall (MOV to CR3): never interrupted. 0 or negative errno; the vCPU's old table may be left for later. */
export function switchBase(hv: Hypervisor, vcpu: Vcpu, mfn: number): number {
  const before = hv.current;
  hv.current = undefined;
  const rc = newBasePtr(hv, vcpu, { cmd: 5, arg1: mfn, arg1Addr: mfn, arg2: 0, arg2Addr: 0 });
  // Nobody is there to continue: what was refused half-way, and the table that was loaded, go now.
  putOldTable(hv, hv.idle);
  putOldTable(hv, vcpu);
  hv.current = before;
  return rc;
}

function newUserBasePtr(hv: Hypervisor, vcpu: Vcpu, { arg1: mfn }: ExtOp): number {
  const old = vcpu.userTableMfn;
  if (mfn === old) return 0;
  if (mfn !== 0) {
    const rc = getPageAndTypeFor(hv, mfn, vcpu.domain.domId, FRAME_TYPE.l4, PUT.preemptible);
    if (rc !== 0) return rc === EINTR ? ERESTART : rc;
    if (hasAssist(vcpu.domain, VMASST.m2pStrict)) zapM2pSlot(hv, mfn);
  }
  vcpu.userTableMfn = mfn;
  // The switch to user mode flushes nothing (guest-mode.ts): what was cached of the old table goes now.
  vcpu.cpu?.flushTlb(true);
  return putBase(hv, old);
}

// -- descriptors, pages ---------------------------------------------------------------------------

/** Unmaps the LDT's pages and gives up their types (pv_destroy_ldt). */
export function dropLdt(hv: Hypervisor, vcpu: Vcpu): void {
  let dropped = false;
  for (let page = 0; page < vcpu.ldtFrames.length; page++) {
    const mfn = vcpu.ldtFrames[page] as number;
    if (mfn === 0) continue;
    vcpu.ldtFrames[page] = 0;
    if (vcpu.domain.perDomain !== undefined) mapLdtPage(hv, vcpu, page, undefined);
    putPageAndType(hv, mfn);
    dropped = true;
  }
  if (dropped) flushVcpuTlb(hv, vcpu);
}

function setLdt(hv: Hypervisor, vcpu: Vcpu, { arg1Addr, arg2 }: ExtOp): number {
  const entries = arg2 >>> 0;
  const base = entries === 0 ? 0 : arg1Addr;
  if (entries > 8192 || (entries > 0 && (base % 4096 !== 0 || !guestAddressOk(vcpu.domain.abi, base)))) return EINVAL;
  if (vcpu.ldtEntries === entries && vcpu.ldtBase === base) return 0;
  dropLdt(hv, vcpu);
  vcpu.ldtBase = base;
  vcpu.ldtEntries = entries;
  loadLdt(hv, vcpu);
  return 0;
}

function clearPage(hv: Hypervisor, _vcpu: Vcpu, { arg1: mfn }: ExtOp, pageDomId: number): number {
  if (!getPageAndType(hv, mfn, pageDomId, FRAME_TYPE.writable)) return EINVAL;
  hv.machine.fillFrame(mfn, 0);
  putPageAndType(hv, mfn);
  return 0;
}

function copyPage(hv: Hypervisor, _vcpu: Vcpu, { arg1: to, arg2: from }: ExtOp, pageDomId: number): number {
  if (!getPage(hv, from, pageDomId)) return EINVAL;
  if (!getPageAndType(hv, to, pageDomId, FRAME_TYPE.writable)) {
    putPage(hv, from);
    return EINVAL;
  }
  hv.machine.writeBytes(to * 4096, hv.machine.readBytes(from * 4096, 4096));
  putPageAndType(hv, to);
  putPage(hv, from);
  return 0;
}

// -- TLB ------------------------------------------------------------------------------------------

function invlpgAll(vcpus: readonly Vcpu[], own: Vcpu, vaddr: number): void {
  if (guestAddressOk(own.domain.abi, vaddr)) for (const vcpu of vcpus) vcpu.cpu?.invlpg(vaddr);
}
function onBitmap(hv: Hypervisor, vcpu: Vcpu, bitmap: number, act: (targets: readonly Vcpu[]) => void): number {
  const targets = vcpusOfBitmap(hv, vcpu, bitmap);
  if (targets === undefined) return EINVAL;
  act(targets);
  return 0;
}
const flushCache = (_hv: Hypervisor, vcpu: Vcpu): number => (vcpu.domain.privileged ? 0 : -ERRNO.EACCES);

/** By command number, xen/include/public/xen.h (MMUEXT_*). */
export const MMUEXT_ROWS: Readonly<Record<number, ExtRow>> = {
  0: { name: 'pin_l1_table', run: (hv, vcpu, { arg1 }, dom) => pin(hv, vcpu, 1, arg1, dom) },
  1: { name: 'pin_l2_table', run: (hv, vcpu, { arg1 }, dom) => pin(hv, vcpu, 2, arg1, dom) },
  2: { name: 'pin_l3_table', run: (hv, vcpu, { arg1 }, dom) => pin(hv, vcpu, 3, arg1, dom) },
  3: { name: 'pin_l4_table', run: (hv, vcpu, { arg1 }, dom) => pin(hv, vcpu, 4, arg1, dom) },
  4: { name: 'unpin_table', run: unpin },
  5: { name: 'new_baseptr', own: true, run: newBasePtr },
  6: { name: 'tlb_flush_local', own: true, run: (hv, vcpu) => (flushVcpuTlb(hv, vcpu), 0) },
  7: { name: 'invlpg_local', own: true, run: (_hv, vcpu, { arg1Addr }) => (vcpu.cpu?.invlpg(arg1Addr), 0) },
  8: { name: 'tlb_flush_multi', own: true, run: (hv, vcpu, { arg2Addr }) => onBitmap(hv, vcpu, arg2Addr, (targets) => targets.forEach((target) => flushVcpuTlb(hv, target))) },
  9: { name: 'invlpg_multi', own: true, run: (hv, vcpu, { arg1Addr, arg2Addr }) => onBitmap(hv, vcpu, arg2Addr, (targets) => invlpgAll(targets, vcpu, arg1Addr)) },
  10: { name: 'tlb_flush_all', own: true, run: (hv, vcpu) => (flushDomainTlb(hv, vcpu.domain), 0) },
  11: { name: 'invlpg_all', own: true, run: (_hv, vcpu, { arg1Addr }) => (invlpgAll(vcpu.domain.vcpus, vcpu, arg1Addr), 0) },
  12: { name: 'flush_cache', own: true, run: flushCache },
  13: { name: 'set_ldt', own: true, run: setLdt },
  15: { name: 'new_user_baseptr', own: true, run: newUserBasePtr },
  16: { name: 'clear_page', run: clearPage },
  17: { name: 'copy_page', run: copyPage },
  18: { name: 'flush_cache_global', own: true, run: flushCache },
  19: { name: 'mark_super', run: () => -ERRNO.EOPNOTSUPP },
  20: { name: 'unmark_super', run: () => -ERRNO.EOPNOTSUPP },
};
const NEW_USER_BASEPTR = 15;

// -- the batch ------------------------------------------------------------------------------------

/** Copies an element; false: a fault. */
function readOp(hv: Hypervisor, vcpu: Vcpu, vaddr: number): boolean {
  const { access } = hv;
  if (vcpu.domain.abi.wordBits === 32) {
    if (!access.read(vcpu, vaddr, 12)) return false;
    op.cmd = access.view.getUint32(0, true);
    op.arg1 = op.arg1Addr = access.view.getUint32(4, true);
    op.arg2 = op.arg2Addr = access.view.getUint32(8, true);
    return true;
  }
  if (!access.read(vcpu, vaddr, 24)) return false;
  op.cmd = access.view.getUint32(0, true);
  op.arg1 = access.view.getUint32(12, true) * 0x1_0000_0000 + access.view.getUint32(8, true);
  op.arg1Addr = access.view.getInt32(12, true) * 0x1_0000_0000 + access.view.getUint32(8, true);
  op.arg2 = access.view.getUint32(20, true) * 0x1_0000_0000 + access.view.getUint32(16, true);
  op.arg2Addr = access.view.getInt32(20, true) * 0x1_0000_0000 + access.view.getUint32(16, true);
  return true;
}

/** Does the translation layer pass that element on? */
const translates = (hv: Hypervisor, vcpu: Vcpu, vaddr: number): boolean => readOp(hv, vcpu, vaddr) && op.cmd !== NEW_USER_BASEPTR;

function mmuextOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const domain = vcpu.domain;
  const compat = domain.abi.wordBits === 32;
  const elements = args.addr(0);
  let count = args.u32(1);
  const pdone = args.addr(2);
  const domArg = args.u32(3);
  if (compat && count === 0) return done(0);
  if (putOldTable(hv, vcpu) !== 0) return { kind: 'continuation', args: [elements, count, pdone, domArg] };
  if (count === PREEMPTED && elements === 0) return done(domArg | 0);
  let before = 0;
  if (count >= PREEMPTED) {
    count -= PREEMPTED;
    if (pdone !== 0) before = hv.access.readU32(vcpu, pdone) ?? 0;
  }
  if (!guestAddressOk(domain.abi, elements)) return done(-ERRNO.EFAULT);
  const translated = compat && !domain.abi.onXen3;
  if (translated && count === 0) return done(0);
  const step = compat ? 12 : 24;
  const pageDomId = pageOwnerId(hv, domain, domArg);
  if (pageDomId === undefined) return done(-ERRNO.ESRCH);
  if (!mayControl(domain, pageDomId)) return done(EPERM);
  let rc = 0;
  let i = 0;
  for (; i < count; i++) {
    const interrupted = vcpu.oldTable !== undefined || (i > 0 && preemptCheck(hv));
    // Elements of 32-bit callers are translated before the first one runs: a batch that has to wait just
    // before one that cannot be translated ends with the last result, and that one is never heard of.
    if (translated && vcpu.oldTable !== undefined && !translates(hv, vcpu, elements + i * step)) break;
    if (interrupted) rc = ERESTART;
    else if (!readOp(hv, vcpu, elements + i * step)) rc = -ERRNO.EFAULT;
    else {
      const row = MMUEXT_ROWS[op.cmd];
      if (compat && op.cmd === NEW_USER_BASEPTR) rc = EINVAL;
      else if (row === undefined) rc = -ERRNO.ENOSYS;
      else if (row.own === true && pageDomId !== domain.domId) rc = EPERM;
      else rc = row.run(hv, vcpu, op, pageDomId);
      if (rc !== ERESTART) emitOp(hv, op, rc);
    }
    if (rc !== 0) break;
  }
  const outcome = batchOutcome(vcpu, rc, elements + i * step, count - i, pdone, domArg);
  reportDone(hv, vcpu, pdone, before, i);
  return outcome;
}

const EXT = { pinL1: 0, pinL4: 3, unpin: 4, newBaseptr: 5, newUserBaseptr: 15 } as const;

/** One event for an element: what it did if that has a kind of its own, else the element itself. */
function emitOp(hv: Hypervisor, { cmd, arg1, arg2 }: ExtOp, rc: number): void {
  if (cmd >= EXT.pinL1 && cmd <= EXT.pinL4 && arg1 <= Number.MAX_SAFE_INTEGER) emitMm(hv, EVENT.pin, arg1, cmd + 1, rc);
  else if (cmd === EXT.unpin && arg1 <= Number.MAX_SAFE_INTEGER) emitMm(hv, EVENT.unpin, arg1, hv.frames.has(arg1) ? (hv.frames.type[arg1] as number) : 0, rc);
  else if ((cmd === EXT.newBaseptr || cmd === EXT.newUserBaseptr) && rc === 0) emitMm(hv, EVENT.baseSwitch, arg1, cmd === EXT.newBaseptr ? 0 : 1);
  else emitMm(hv, EVENT.mmuextOp, cmd, arg1 >>> 0, Math.floor(arg1 / 0x1_0000_0000) >>> 0, arg2 >>> 0, Math.floor(arg2 / 0x1_0000_0000) >>> 0, rc);
}

export const mmuextRows: Record<number, HypercallRow> = {
  26: {
    name: 'mmuext_op', handle: mmuextOp,
    args: [{ name: 'ops', kind: 'handle' }, { name: 'count', kind: 'count' }, { name: 'pdone', kind: 'handle' }, { name: 'foreigndom', kind: 'domid' }],
  },
};
