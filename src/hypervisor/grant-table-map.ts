// Mapping a grant and undoing it: the entry in the mapper's page table, the references on the frame,
// the pin counts of the grant and the mapper's handle all change together or not at all.
//
//   map     1 handle  2 offer checked, status shown  3 reference  4 type if writable  5 entry  6 handle filled
//   unmap   entry cleared or replaced, handle freed; the references go after the TLB flush of the batch
//
// Source: map_grant_ref(), unmap_common(), unmap_common_complete() in xen/common/grant_table.c;
// create_grant_pv_mapping(), replace_grant_pv_mapping() in xen/arch/x86/pv/grant_table.c.
import type { Domain, Vcpu } from './domain.ts';
import { dom0GrantRefusal, domainById } from './foreign-domain.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import {
  entryCount, GNTMAP, GNTST, holdGrantedFrame, isPinned, isPinnedForWriting, noPins, PIN_LIMIT, readEntry, reduceStatus, setStatus, unpin, type ActiveGrant, type GrantTable, type PinKind,
} from './grant-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { addressOk, findL1, found } from './page-walk.ts';
import { putPageFromL1, writeEntry } from './page-tables.ts';
import { getPage, getType, putPage, putType } from './page-types.ts';
import { adjustedHi, adjustEntry, frameOf, PTE_FLAG } from './pte-rules.ts';

// ---- handles -----------------------------------------------------------------------------------

const HANDLES_PER_FRAME = 256;

/**
 * The oldest free handle; when only one is left, a frame of new ones comes before it. Freed handles go
 * to the end, so that a stale one stays invalid for long. get_maptrack_handle(). undefined: the
 * domain has as many mappings as it may.
 */
function takeHandle(table: GrantTable): number | undefined {
  if (table.freeHandles.length > 1) return table.freeHandles.shift();
  const first = table.maptrack.length;
  if (first >= table.maxMaptrackFrames * HANDLES_PER_FRAME) return undefined;
  const fresh = Array.from({ length: HANDLES_PER_FRAME }, (_, index) => first + index);
  for (let i = 0; i < HANDLES_PER_FRAME; i++) table.maptrack.push({ gref: 0, flags: 0, domId: 0, vcpuId: 0 });
  table.freeHandles.unshift(...fresh.slice(1));
  return first;
}

// ---- the granter's side, for guests and back ends --------------------------------------------------

export interface AcquiredGrant {
  readonly status: number;
  readonly mfn: number;
}

/** Which counters a mapping uses. */
export function pinKinds(flags: number): PinKind[] {
  const readOnly = (flags & GNTMAP.readonly) !== 0;
  const kinds: PinKind[] = [];
  if ((flags & GNTMAP.device_map) !== 0) kinds.push(readOnly ? 'devRead' : 'devWrite');
  if ((flags & GNTMAP.host_map) !== 0) kinds.push(readOnly ? 'hostRead' : 'hostWrite');
  return kinds;
}

/** Pins a grant for `domId` and takes one reference on its frame. */
export function acquireForMap(hv: Hypervisor, granter: Domain, gref: number, domId: number, flags: number): AcquiredGrant {
  const table = granter.grants;
  const refused = (status: number): AcquiredGrant => ({ status, mfn: -1 });
  const dom0Status = dom0GrantRefusal(hv, granter, gref);
  if (dom0Status !== undefined) return refused(dom0Status);
  if (gref >= entryCount(table)) return refused(GNTST.bad_gntref);
  const kinds = pinKinds(flags);
  const readOnly = (flags & GNTMAP.readonly) !== 0;
  const old = table.active[gref];
  const overflows = old !== undefined && kinds.some((kind) => old.pin[kind] >= PIN_LIMIT) && hv.grantRules.pinOverflowRefused;
  if (old !== undefined && (old.domId !== domId || overflows || old.isSubPage)) return refused(GNTST.general_error);
  let held = false;
  let active = old;
  if (old === undefined || (!readOnly && !isPinnedForWriting(old.pin))) {
    const entry = readEntry(hv, table, gref);
    const status = setStatus(hv, table, gref, entry, old !== undefined, readOnly, true, domId);
    if (status !== GNTST.okay) return refused(status);
    if (old === undefined) {
      const got = holdGrantedFrame(hv, granter, entry.frame);
      if (got !== GNTST.okay) {
        reduceStatus(hv, table, gref, noPins(), readOnly);
        return refused(got);
      }
      held = true;
      active = { pin: noPins(), domId, mfn: entry.frame, isSubPage: false, start: 0, length: 4096, sourceDomId: granter.domId, sourceGref: gref };
      table.active[gref] = active;
    }
  }
  const grant = active as ActiveGrant;
  for (const kind of kinds) grant.pin[kind]++;
  if (!held && !getPage(hv, grant.mfn, granter.domId)) {
    unpin(hv, table, gref, kinds, readOnly);
    return refused(GNTST.general_error);
  }
  return { status: GNTST.okay, mfn: grant.mfn };
}

// ---- map ---------------------------------------------------------------------------------------

export interface MapRequest {
  /** A guest address (signed canonical number), or a machine address. */
  readonly hostAddr: number;
  readonly flags: number;
  readonly gref: number;
  readonly domId: number;
}
export interface MapAnswer {
  readonly status: number;
  readonly handle: number;
  readonly mfn: number;
}

export function mapGrant(hv: Hypervisor, vcpu: Vcpu, request: MapRequest): MapAnswer {
  const { flags, gref } = request;
  const refused = (status: number): MapAnswer => ({ status, handle: 0, mfn: -1 });
  const mapper = vcpu.domain;
  if ((flags & (GNTMAP.device_map | GNTMAP.host_map)) === 0) return refused(GNTST.bad_gntref);
  const granter = domainById(hv, request.domId);
  if (granter === undefined || granter.life.kind === 'destroyed') return refused(GNTST.bad_domain);
  const handle = takeHandle(mapper.grants);
  if (handle === undefined) return refused(GNTST.no_space);
  const fail = (status: number): MapAnswer => {
    mapper.grants.freeHandles.push(handle);
    return refused(status);
  };
  const acquired = acquireForMap(hv, granter, gref, mapper.domId, flags);
  if (acquired.status !== GNTST.okay) return fail(acquired.status);
  const { mfn } = acquired;
  const status = holdAndEnter(hv, vcpu, granter, mfn, request);
  if (status !== GNTST.okay) {
    if (hv.grantRules.failedMapIsUndone) unpin(hv, granter.grants, gref, pinKinds(flags), (flags & GNTMAP.readonly) !== 0);
    return fail(status);
  }
  mapper.grants.maptrack[handle] = { gref, flags, domId: request.domId, vcpuId: vcpu.vcpuId };
  return { status: GNTST.okay, handle, mfn };
}

/** Steps 3 to 5: on refusal everything taken here, and the reference of acquireForMap, is given back. */
function holdAndEnter(hv: Hypervisor, vcpu: Vcpu, granter: Domain, mfn: number, { hostAddr, flags }: MapRequest): number {
  const writable = (flags & GNTMAP.readonly) === 0;
  const isDevice = (flags & GNTMAP.device_map) !== 0;
  const isHost = (flags & GNTMAP.host_map) !== 0;
  let refs = 1;
  let types = 0;
  const undo = (): number => {
    if (hv.grantRules.failedMapIsUndone) {
      while (types-- > 0) putType(hv, mfn, 0, -1);
      while (refs-- > 0) putPage(hv, mfn);
    }
    return GNTST.general_error;
  };
  const takeType = (): boolean => {
    if (!writable || !hv.grantRules.writableTakesType) return true;
    if (getType(hv, mfn, FRAME_TYPE.writable, false) !== 0) return false;
    types++;
    return true;
  };
  if (isDevice && !takeType()) return undo();
  if (isHost) {
    if (isDevice && hv.grantRules.eachMappingHoldsReference) {
      if (!getPage(hv, mfn, granter.domId)) return undo();
      refs++;
    }
    if (!takeType()) return undo();
    if (!enterMapping(hv, vcpu, hostAddr, mfn, flags)) return undo();
  }
  return GNTST.okay;
}

/** Bits of an entry that a grant map makes, before Xen's additions for the guest's shape. grant_to_pte_flags(). */
function grantEntry(hv: Hypervisor, domain: Domain, mfn: number, flags: number): { lo: number; hi: number } {
  const wide = domain.abi.pteBytes === 8;
  const user = (flags & GNTMAP.application_map) !== 0 ? PTE_FLAG.user : 0;
  const rw = (flags & GNTMAP.readonly) === 0 ? PTE_FLAG.rw : 0;
  const avail = ((flags >>> 16) & 7) << 9;
  const lo = ((mfn << 12) | PTE_FLAG.present | ACCESSED_DIRTY | user | rw | avail) >>> 0;
  if (!wide) return { lo, hi: 0 };
  const mark = hv.build.grantPteMark ? GRANT_MARK_HI : 0;
  // Never executable; Xen 3.x did not say so.
  const nx = domain.abi.onXen3 ? 0 : NX_HI;
  const adjusted = adjustEntry(hv.rules, domain.abi.name, 1, lo, (Math.floor(mfn / 0x10_0000) | mark | nx) >>> 0);
  return { lo: adjusted, hi: adjustedHi };
}
const ACCESSED_DIRTY = 0x60;
const NX_HI = 0x8000_0000;
const GRANT_MARK_HI = 0x4000_0000;

interface EntryPlace {
  readonly tableMfn: number;
  /** Bytes by which the address misses the entry: 0 while `pteAligned` holds. */
  readonly skewBytes: number;
  readonly index: number;
  readonly lo: number;
  readonly hi: number;
}

/** The L1 entry that `addr` names: an entry's machine address, or the address it maps. undefined: not an entry of an L1 of the domain's. */
function locate(hv: Hypervisor, vcpu: Vcpu, addr: number, containsPte: boolean): EntryPlace | undefined {
  const { domain } = vcpu;
  const bytes = domain.abi.pteBytes;
  let maddr = addr;
  if (containsPte) {
    if (addr % bytes !== 0 && hv.grantRules.pteAligned) return undefined;
  } else {
    if (!addressOk(domain.abi.levels, addr) || !findL1(hv.machine, domain.abi.levels, vcpu.guestTableMfn, addr)) return undefined;
    maddr = found.maddr;
  }
  const tableMfn = Math.floor(maddr / 4096);
  const { frames } = hv;
  if (!frames.has(tableMfn) || frames.owner[tableMfn] !== domain.domId || frames.refCount[tableMfn] === 0) return undefined;
  // page_lock() succeeds only on a validated, used type.
  const usable = ((frames.flags[tableMfn] as number) & FRAME.validated) !== 0 && (frames.typeCount[tableMfn] as number) > 0 && frames.type[tableMfn] === FRAME_TYPE.l1;
  if (!usable) return undefined;
  const index = Math.floor((maddr % 4096) / bytes);
  const at = tableMfn * 4096 + index * bytes;
  return { tableMfn, index, skewBytes: maddr % bytes, lo: hv.machine.readU32(at), hi: bytes === 8 ? hv.machine.readU32(at + 4) : 0 };
}

function enterMapping(hv: Hypervisor, vcpu: Vcpu, addr: number, mfn: number, flags: number): boolean {
  const place = locate(hv, vcpu, addr, (flags & GNTMAP.contains_pte) !== 0);
  if (place === undefined) return false;
  const entry = grantEntry(hv, vcpu.domain, mfn, flags);
  if (place.skewBytes !== 0) {
    const at = place.tableMfn * 4096 + place.index * vcpu.domain.abi.pteBytes + place.skewBytes;
    hv.machine.writeU32(at, entry.lo);
    if (vcpu.domain.abi.pteBytes === 8) hv.machine.writeU32(at + 4, entry.hi);
    return true;
  }
  writeEntry(hv, place.tableMfn, place.index, vcpu.domain.abi.pteBytes === 8, entry.lo, entry.hi);
  putPageFromL1(hv, place.lo, place.hi, vcpu.domain);
  return true;
}

// ---- unmap -------------------------------------------------------------------------------------

export interface UnmapRequest {
  readonly hostAddr: number;
  readonly devBusAddr: number;
  /** unmap_and_replace: move the entry that maps this address here; 0 = none. */
  readonly newAddr: number;
  readonly handle: number;
}
/** What is still to be given back after the TLB flush: unmap_common_complete(). */
export interface UnmapRest {
  readonly granter: Domain;
  readonly gref: number;
  readonly mfn: number;
  readonly done: number;
}
export interface UnmapAnswer {
  readonly status: number;
  readonly rest: UnmapRest | undefined;
  /** Whose grant it was, for the log. */
  readonly mapping: { readonly domId: number; readonly gref: number; readonly mfn: number } | undefined;
}

export function unmapGrant(hv: Hypervisor, vcpu: Vcpu, request: UnmapRequest): UnmapAnswer {
  const mapper = vcpu.domain;
  const mapping = mapper.grants.maptrack[request.handle];
  const refused = (status: number): UnmapAnswer => ({ status, rest: undefined, mapping: undefined });
  if (mapping === undefined || mapping.flags === 0) return refused(GNTST.bad_handle);
  const granter = hv.domain(mapping.domId);
  const active = granter?.grants.active[mapping.gref];
  if (granter === undefined || active === undefined) return refused(GNTST.bad_handle);
  const { flags, gref } = mapping;
  const shown = { domId: mapping.domId, gref, mfn: active.mfn };
  const readOnly = hv.grantRules.unmapKeepsReadOnly ? flags & GNTMAP.readonly : 0;
  const wantsDevice = request.devBusAddr !== 0 && (flags & GNTMAP.device_map) !== 0;
  if (wantsDevice && request.devBusAddr !== active.mfn * 4096) return { ...refused(GNTST.bad_dev_addr), mapping: shown };
  let gone = 0;
  if (request.hostAddr !== 0 && (flags & GNTMAP.host_map) !== 0) {
    const status = replaceMapping(hv, vcpu, request.hostAddr, active.mfn, request.newAddr, flags);
    if (status !== GNTST.okay) return { ...refused(status), mapping: shown };
    gone |= GNTMAP.host_map;
  }
  if (wantsDevice) gone |= GNTMAP.device_map;
  mapping.flags &= ~gone;
  if ((mapping.flags & (GNTMAP.host_map | GNTMAP.device_map)) === 0) {
    mapping.flags = 0;
    mapper.grants.freeHandles.push(request.handle);
  }
  // (All kinds of the mapping in each step: how it was once counted.)
  const counted = hv.grantRules.unmapStepsCountedOnce ? gone : flags & (GNTMAP.host_map | GNTMAP.device_map);
  const rest = gone === 0 ? undefined : { granter, gref, mfn: active.mfn, done: counted | readOnly };
  return { status: GNTST.okay, rest, mapping: shown };
}

/** Gives back references, types and pins of what was unmapped. After the flush. */
export function completeUnmap(hv: Hypervisor, { granter, gref, mfn, done }: UnmapRest): void {
  const readOnly = (done & GNTMAP.readonly) !== 0;
  const takesType = !readOnly && hv.grantRules.writableTakesType;
  const kinds = pinKinds(done);
  const puts = hv.grantRules.eachMappingHoldsReference ? kinds.length : 1;
  if (takesType) for (let i = 0; i < kinds.length; i++) putType(hv, mfn, 0, -1);
  for (let i = 0; i < puts; i++) putPage(hv, mfn);
  unpin(hv, granter.grants, gref, kinds, readOnly);
}

/** Takes an entry out of its place for unmap_and_replace. steal_linear_address(). */
function stealEntry(hv: Hypervisor, vcpu: Vcpu, addr: number): { lo: number; hi: number } | undefined {
  const place = locate(hv, vcpu, addr, false);
  if (place === undefined) return undefined;
  writeEntry(hv, place.tableMfn, place.index, vcpu.domain.abi.pteBytes === 8, 0, 0);
  return { lo: place.lo, hi: place.hi };
}

/** Clears the grant's entry, or puts another in its place. replace_grant_pv_mapping(). */
function replaceMapping(hv: Hypervisor, vcpu: Vcpu, addr: number, mfn: number, newAddr: number, flags: number): number {
  const { domain } = vcpu;
  const containsPte = (flags & GNTMAP.contains_pte) !== 0;
  if (newAddr !== 0 && (containsPte || (domain.abi.wordBits === 32 && newAddr > 0xffff_ffff))) return GNTST.general_error;
  let entry = { lo: 0, hi: 0 };
  if (newAddr !== 0) {
    const stolen = stealEntry(hv, vcpu, newAddr);
    if (stolen === undefined) return GNTST.general_error;
    entry = stolen;
  }
  const place = locate(hv, vcpu, addr, containsPte);
  const wanted = PTE_FLAG.present | ((flags & GNTMAP.readonly) === 0 ? PTE_FLAG.rw : 0);
  const matches = place !== undefined && frameOf(place.lo, place.hi) === mfn && (place.lo & (PTE_FLAG.present | PTE_FLAG.rw)) === wanted;
  if (place === undefined || (!matches && hv.grantRules.unmapChecksEntry)) {
    // A stolen entry is ours to give back.
    putPageFromL1(hv, entry.lo, entry.hi, domain);
    return GNTST.general_error;
  }
  writeEntry(hv, place.tableMfn, place.index, domain.abi.pteBytes === 8, entry.lo, entry.hi);
  return GNTST.okay;
}

// ---- the end of a domain ------------------------------------------------------------------------

/**
 * Everything the domain has mapped of others is let go; host mappings' references go with its page
 * tables, not here. gnttab_release_mappings().
 */
export function releaseMappings(hv: Hypervisor, domain: Domain): void {
  domain.grants.maptrack.forEach((mapping) => {
    const granter = hv.domain(mapping.domId);
    const active = granter?.grants.active[mapping.gref];
    const flags = mapping.flags & (GNTMAP.host_map | GNTMAP.device_map);
    if (flags !== 0 && granter !== undefined && active !== undefined) {
      const readOnly = (mapping.flags & GNTMAP.readonly) !== 0;
      if ((flags & GNTMAP.device_map) !== 0) {
        if (!readOnly) putType(hv, active.mfn, 0, -1);
        putPage(hv, active.mfn);
      }
      unpin(hv, granter.grants, mapping.gref, pinKinds(mapping.flags), readOnly);
    }
    mapping.flags = 0;
  });
  domain.grants.maptrack = [];
  domain.grants.freeHandles = [];
}

/** True while somebody uses a grant of this domain. */
export const hasActiveGrants = (table: GrantTable): boolean => Object.values(table.active).some(({ pin }) => isPinned(pin));
