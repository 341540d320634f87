// HYPERVISOR_grant_table_op: argument structures in and out, batches and their continuation. What the
// operations do is in grant-table-*.ts.
//
// 32-bit guests of 64-bit Xen go through Xen's translation layer, which answers empty batches of some
// operations without looking at them (`translated` below).
// Source: do_grant_table_op() in xen/common/grant_table.c, compat/grant_table.c.
import { ERRNO } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Domain, Vcpu } from '../domain.ts';
import { domainByAnyId } from '../foreign-domain.ts';
import { GNTST, growGrantTable, statusFramesFor } from '../grant-table.ts';
import { setVersion, swapEntries } from '../grant-table-control.ts';
import { copyOne, newCopyBatch, releaseBatch, type CopyBatch, type CopySide } from '../grant-table-copy.ts';
import { completeUnmap, mapGrant, unmapGrant, type UnmapRest } from '../grant-table-map.ts';
import { transferFrame } from '../grant-table-transfer.ts';
import { guestRangeOk } from '../guest-access.ts';
import { done, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { flushDomainTlb } from '../page-types.ts';

export const GNTTABOP = {
  map_grant_ref: 0, unmap_grant_ref: 1, setup_table: 2, dump_table: 3, transfer: 4, copy: 5, query_size: 6, unmap_and_replace: 7, set_version: 8,
  get_status_frames: 9, get_version: 10, swap_grant_ref: 11, cache_flush: 12,
} as const;
const COMMAND_MASK = 0xfff;
/** Frame list that the translation layer has room for. */
const TRANSLATED_MAX_FRAMES = 1021;
/** Unmaps between two TLB flushes. */
const UNMAP_BATCH = 32;

const EFAULT = done(-ERRNO.EFAULT);
const EINVAL = done(-ERRNO.EINVAL);
const OK = done(0);
const isWide = (vcpu: Vcpu): boolean => vcpu.domain.abi.wordBits === 64;
const isTranslated = (vcpu: Vcpu): boolean => !isWide(vcpu) && !vcpu.domain.abi.onXen3;
const mayTarget = (current: Domain, target: Domain): boolean => current === target || current.privileged;

/** 64 bits as a signed number: exact for guest addresses and machine addresses. */
const signed64 = (view: DataView, at: number): number => view.getInt32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
const unsigned64 = (view: DataView, at: number): number => view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
const frameAt = (view: DataView, at: number, wide: boolean): number => (wide ? unsigned64(view, at) : view.getUint32(at, true));
/** What an event row takes: addresses modulo 2^48, never negative; wild frames cut. */
const shownAddress = (addr: number): number => ((addr % 2 ** 48) + 2 ** 48) % 2 ** 48;
const shownFrame = (mfn: number): number => Math.min(Math.max(mfn, 0), 2 ** 40);

// ---- batches -----------------------------------------------------------------------------------

interface BatchRow {
  readonly sizeBytes: (wide: boolean) => number;
  /** Offset of the i16 status. */
  readonly statusAt: (wide: boolean) => number;
  /** The whole structure is copied back, not only the status. */
  readonly copiesBack?: boolean;
  /** Performs one element on the private copy; returns its status. */
  readonly run: (hv: Hypervisor, vcpu: Vcpu, view: DataView, wide: boolean, state: BatchState) => number;
  /** After so many elements, and at the end of the batch. */
  readonly finishEvery?: number;
}
interface BatchState {
  readonly copies: CopyBatch;
  readonly rests: UnmapRest[];
}

/** References of what was unmapped go after the flush. */
function finishUnmaps(hv: Hypervisor, vcpu: Vcpu, state: BatchState): void {
  flushDomainTlb(hv, vcpu.domain);
  for (const rest of state.rests.splice(0)) completeUnmap(hv, rest);
}

const map: BatchRow = {
  sizeBytes: () => 32, statusAt: () => 18, copiesBack: true,
  run: (hv, vcpu, view) => {
    const request = { hostAddr: signed64(view, 0), flags: view.getUint32(8, true), gref: view.getUint32(12, true), domId: view.getUint16(16, true) };
    const answer = mapGrant(hv, vcpu, request);
    if (answer.status === GNTST.okay) {
      view.setUint32(20, answer.handle, true);
      view.setUint32(24, (answer.mfn * 4096) >>> 0, true);
      view.setUint32(28, Math.floor(answer.mfn / 0x10_0000), true);
    }
    hv.world.emit(EVENT.grantMap, vcpu.domain.domId, vcpu.vcpuId, [request.domId, request.gref, request.flags, shownAddress(request.hostAddr), answer.handle, shownFrame(answer.mfn), answer.status]);
    return answer.status;
  },
};

function unmapRow(replace: boolean): BatchRow {
  return {
    sizeBytes: () => 24, statusAt: () => 20, finishEvery: UNMAP_BATCH,
    run: (hv, vcpu, view, _wide, state) => {
      const hostAddr = signed64(view, 0);
      const second = replace ? signed64(view, 8) : unsigned64(view, 8);
      const handle = view.getUint32(16, true);
      const answer = unmapGrant(hv, vcpu, { hostAddr, devBusAddr: replace ? 0 : second, newAddr: replace ? second : 0, handle });
      if (answer.rest !== undefined) state.rests.push(answer.rest);
      const { domId = 0, gref = 0, mfn = 0 } = answer.mapping ?? {};
      hv.world.emit(EVENT.grantUnmap, vcpu.domain.domId, vcpu.vcpuId, [handle, shownAddress(hostAddr), domId, gref, shownFrame(mfn), answer.status]);
      return answer.status;
    },
  };
}

const transfer: BatchRow = {
  sizeBytes: (wide) => (wide ? 24 : 16), statusAt: (wide) => (wide ? 16 : 12),
  run: (hv, vcpu, view, wide) => {
    const mfn = frameAt(view, 0, wide);
    const at = wide ? 8 : 4;
    const domId = view.getUint16(at, true);
    const gref = view.getUint32(at + 4, true);
    const status = transferFrame(hv, vcpu.domain, mfn, domId, gref);
    hv.world.emit(EVENT.grantTransfer, vcpu.domain.domId, vcpu.vcpuId, [shownFrame(mfn), domId, gref, status]);
    return status;
  },
};

const copy: BatchRow = {
  sizeBytes: (wide) => (wide ? 40 : 24), statusAt: (wide) => (wide ? 36 : 20),
  run: (hv, vcpu, view, wide, state) => {
    const sideBytes = wide ? 16 : 8;
    const side = (at: number): CopySide => ({
      gref: view.getUint32(at, true), frame: frameAt(view, at, wide), domId: view.getUint16(at + sideBytes / 2, true), offset: view.getUint16(at + sideBytes / 2 + 2, true),
    });
    const source = side(0);
    const dest = side(sideBytes);
    const sizeBytes = view.getUint16(sideBytes * 2, true);
    const flags = view.getUint16(sideBytes * 2 + 2, true);
    const status = copyOne(hv, vcpu.domain, state.copies, { source, dest, sizeBytes, flags });
    hv.world.emit(EVENT.grantCopy, vcpu.domain.domId, vcpu.vcpuId, [source.domId, shownFrame(source.frame), source.offset, dest.domId, shownFrame(dest.frame), dest.offset, sizeBytes, flags, status]);
    return status;
  },
};

const swap: BatchRow = {
  sizeBytes: () => 12, statusAt: () => 8,
  run: (hv, vcpu, view) => swapEntries(hv, vcpu.domain, view.getUint32(0, true), view.getUint32(4, true)),
};

const BATCHES: Readonly<Record<number, BatchRow>> = {
  [GNTTABOP.map_grant_ref]: map, [GNTTABOP.unmap_grant_ref]: unmapRow(false), [GNTTABOP.unmap_and_replace]: unmapRow(true), [GNTTABOP.transfer]: transfer,
  [GNTTABOP.copy]: copy, [GNTTABOP.swap_grant_ref]: swap,
};

function runBatch(hv: Hypervisor, vcpu: Vcpu, command: number, row: BatchRow, first: number, count: number): HypercallOutcome {
  const wide = isWide(vcpu);
  const sizeBytes = row.sizeBytes(wide);
  if (!guestRangeOk(vcpu.domain.abi, first, count * sizeBytes)) return EFAULT;
  const state: BatchState = { copies: newCopyBatch(), rests: [] };
  const finish = (outcome: HypercallOutcome): HypercallOutcome => {
    if (row.finishEvery !== undefined) finishUnmaps(hv, vcpu, state);
    releaseBatch(hv, state.copies);
    return outcome;
  };
  for (let index = 0; index < count; index++) {
    // Unmaps are flushed and preempted in groups, all others between any two elements.
    if (index > 0 && index % (row.finishEvery ?? 1) === 0) {
      if (row.finishEvery !== undefined) finishUnmaps(hv, vcpu, state);
      const rest = hv.grantRules.continuationSkipsDone ? index : index - 1;
      if (hv.world.preempt(row.finishEvery ?? 1)) return finish({ kind: 'continuation', args: [command, first + rest * sizeBytes, count - rest] });
    }
    const vaddr = first + index * sizeBytes;
    const bytes = hv.access.copyFromGuest(vcpu, vaddr, sizeBytes);
    if (bytes === undefined) return finish(EFAULT);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const statusAt = row.statusAt(wide);
    view.setInt16(statusAt, row.run(hv, vcpu, view, wide, state), true);
    const written = row.copiesBack === true ? hv.access.copyToGuest(vcpu, vaddr, bytes) : hv.access.copyToGuest(vcpu, vaddr + statusAt, bytes.subarray(statusAt, statusAt + 2));
    if (!written) return finish(EFAULT);
  }
  return finish(OK);
}

// ---- single operations -------------------------------------------------------------------------

/** Domain argument of the table's own operations: the domain, or the status that refuses. */
function tableDomain(hv: Hypervisor, vcpu: Vcpu, domId: number): Domain | number {
  const domain = domainByAnyId(hv, vcpu.domain, domId);
  if (domain === undefined) return GNTST.bad_domain;
  return mayTarget(vcpu.domain, domain) ? domain : GNTST.permission_denied;
}
function writeStatus(hv: Hypervisor, vcpu: Vcpu, vaddr: number, status: number): HypercallOutcome {
  return hv.access.copyToGuest(vcpu, vaddr, Uint8Array.of(status & 0xff, (status >> 8) & 0xff)) ? OK : EFAULT;
}

function setupTable(hv: Hypervisor, vcpu: Vcpu, vaddr: number, count: number): HypercallOutcome {
  const wide = isWide(vcpu);
  if (count === 0 && isTranslated(vcpu)) return OK;
  if (count !== 1) return EINVAL;
  if (!hv.access.read(vcpu, vaddr, wide ? 24 : 16)) return EFAULT;
  const { view } = hv.access;
  const domId = view.getUint16(0, true);
  const frames = view.getUint32(4, true);
  const list = wide ? signed64(view, 16) : view.getUint32(12, true);
  const entryBytes = wide ? 8 : 4;
  if (!guestRangeOk(vcpu.domain.abi, list, frames * entryBytes)) return EFAULT;
  const domain = tableDomain(hv, vcpu, domId);
  let status = typeof domain === 'number' ? domain : setupFrames(hv, domain, frames, isTranslated(vcpu));
  if (typeof domain !== 'number') {
    hv.world.emit(EVENT.grantSetup, vcpu.domain.domId, vcpu.vcpuId, [domain.grants.version, frames, status]);
    for (let index = 0; status === GNTST.okay && index < frames; index++) {
      const mfn = domain.grants.sharedMfns[index] as number;
      const written = wide ? hv.access.writeU64(vcpu, list + index * 8, mfn) : hv.access.writeU32(vcpu, list + index * 4, mfn);
      if (!written) status = GNTST.bad_virt_addr;
    }
  }
  return writeStatus(hv, vcpu, vaddr + 8, status);
}
function setupFrames(hv: Hypervisor, domain: Domain, frames: number, translated: boolean): number {
  const { grants } = domain;
  if (frames > grants.maxGrantFrames || (translated && frames > TRANSLATED_MAX_FRAMES)) return GNTST.general_error;
  const missing = frames > grants.sharedMfns.length || (grants.version === 2 && statusFramesFor(frames) > grants.statusMfns.length);
  if (!missing) return GNTST.okay;
  return (hv.world.fault?.('grant.grow', domain.domId) ?? 0) > 0 || !growGrantTable(hv, domain, frames) ? GNTST.general_error : GNTST.okay;
}

function querySize(hv: Hypervisor, vcpu: Vcpu, vaddr: number, count: number): HypercallOutcome {
  if (count !== 1) return EINVAL;
  const bytes = hv.access.copyFromGuest(vcpu, vaddr, 16);
  if (bytes === undefined) return EFAULT;
  const view = new DataView(bytes.buffer);
  const domain = tableDomain(hv, vcpu, view.getUint16(0, true));
  if (typeof domain !== 'number') {
    const { sharedMfns, maxGrantFrames } = domain.grants;
    const full = sharedMfns.length < maxGrantFrames && (hv.world.fault?.('grant.limit', domain.domId) ?? 0) > 0;
    view.setUint32(4, sharedMfns.length, true);
    view.setUint32(8, full ? sharedMfns.length : maxGrantFrames, true);
  }
  view.setInt16(12, typeof domain === 'number' ? domain : GNTST.okay, true);
  return hv.access.copyToGuest(vcpu, vaddr, bytes) ? OK : EFAULT;
}

function setVersionOp(hv: Hypervisor, vcpu: Vcpu, vaddr: number): HypercallOutcome {
  const version = hv.access.readU32(vcpu, vaddr);
  if (version === undefined) return EFAULT;
  const refusal = version === 1 || version === 2 ? setVersion(hv, vcpu.domain, version) : 'EINVAL';
  const { grants } = vcpu.domain;
  const rc = refusal === undefined ? 0 : -ERRNO[refusal];
  hv.world.emit(EVENT.grantSetup, vcpu.domain.domId, vcpu.vcpuId, [grants.version, grants.sharedMfns.length, rc]);
  return hv.access.writeU32(vcpu, vaddr, grants.version) ? done(rc) : EFAULT;
}

function getVersion(hv: Hypervisor, vcpu: Vcpu, vaddr: number): HypercallOutcome {
  const bytes = hv.access.copyFromGuest(vcpu, vaddr, 8);
  if (bytes === undefined) return EFAULT;
  const domain = domainByAnyId(hv, vcpu.domain, new DataView(bytes.buffer).getUint16(0, true));
  if (domain === undefined) return done(-ERRNO.ESRCH);
  if (!mayTarget(vcpu.domain, domain)) return done(-ERRNO.EPERM);
  return hv.access.writeU32(vcpu, vaddr + 4, domain.grants.version) ? OK : EFAULT;
}

/** The list holds 64-bit frame numbers for either word size. */
function getStatusFrames(hv: Hypervisor, vcpu: Vcpu, vaddr: number, count: number): HypercallOutcome {
  const wide = isWide(vcpu);
  if (count === 0 && isTranslated(vcpu)) return OK;
  if (count !== 1) return EINVAL;
  if (!hv.access.read(vcpu, vaddr, wide ? 16 : 12)) return EFAULT;
  const { view } = hv.access;
  const frames = view.getUint32(0, true);
  const domId = view.getUint16(4, true);
  const list = wide ? signed64(view, 8) : view.getUint32(8, true);
  if (!guestRangeOk(vcpu.domain.abi, list, frames * 8)) return EFAULT;
  const domain = tableDomain(hv, vcpu, domId);
  let status: number = typeof domain === 'number' ? domain : GNTST.okay;
  if (typeof domain !== 'number') {
    const { statusMfns } = domain.grants;
    if (frames > statusMfns.length && hv.grantRules.statusFramesBounded) status = GNTST.general_error;
    // Without the bound Xen would read beyond its list; here the frame after the last one is told.
    for (let index = 0; status === GNTST.okay && index < Math.min(frames, 4096); index++) {
      const mfn = statusMfns[index] ?? (statusMfns.at(-1) ?? 0) + 1 + index - statusMfns.length;
      if (!hv.access.writeU64(vcpu, list + index * 8, mfn)) status = GNTST.bad_virt_addr;
    }
  }
  return writeStatus(hv, vcpu, vaddr + 6, status);
}

// ---- the hypercall -----------------------------------------------------------------------------

/** Operations whose empty batch the translation layer answers itself. */
const TRANSLATED_BATCHES: ReadonlySet<number> = new Set([GNTTABOP.transfer, GNTTABOP.copy]);

function grantTableOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const word = args.u32(0);
  const vaddr = args.addr(1);
  const count = args.u32(2);
  const command = word & COMMAND_MASK;
  if (count > 0x7fff_ffff) return EINVAL;
  // The upper bits continue a cache flush, which x86 does not have.
  if (word !== command) return command === GNTTABOP.cache_flush ? done(-ERRNO.ENOSYS) : EINVAL;
  const batch = BATCHES[command];
  if (batch !== undefined) {
    if (count === 0 && isTranslated(vcpu) && TRANSLATED_BATCHES.has(command)) return guestRangeOk(vcpu.domain.abi, vaddr, 0) ? OK : EFAULT;
    return runBatch(hv, vcpu, command, batch, vaddr, count);
  }
  switch (command) {
    case GNTTABOP.setup_table: return setupTable(hv, vcpu, vaddr, count);
    case GNTTABOP.query_size: return querySize(hv, vcpu, vaddr, count);
    case GNTTABOP.set_version: return setVersionOp(hv, vcpu, vaddr);
    case GNTTABOP.get_version: return getVersion(hv, vcpu, vaddr);
    case GNTTABOP.get_status_frames: return getStatusFrames(hv, vcpu, vaddr, count);
    default: return done(-ERRNO.ENOSYS);
  }
}

export const GRANT_TABLE_ROWS: HypercallRows = {
  [HYPERCALL.grant_table_op]: {
    name: 'grant_table_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'uop', kind: 'handle' }, { name: 'count', kind: 'count' }],
    commands: Object.fromEntries(Object.entries(GNTTABOP).map(([name, nr]) => [nr, name])), handle: grantTableOp,
  },
};
