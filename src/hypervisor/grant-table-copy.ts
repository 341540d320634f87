// GNTTABOP_copy: bytes from a frame or grant to a frame or grant, without mapping anything. Elements
// of a batch keep their source and destination as long as the next one names the same.
// Source: acquire_grant_for_copy(), gnttab_copy_one() and around in xen/common/grant_table.c.
import { DOMID } from '../abi/domid.ts';
import type { Domain } from './domain.ts';
import { dom0GrantRefusal, domainById } from './foreign-domain.ts';
import { FRAME_TYPE } from './frame-table.ts';
import {
  entryCount, GNTST, GTF, holdGrantedFrame, isPinnedForWriting, noPins, PIN_LIMIT, readEntry, reduceStatus, setStatus, unpin, type GrantTable, type SharedEntry,
} from './grant-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { getPage, getType, putPage, putType } from './page-types.ts';

export const GNTCOPY = { source_gref: 1, dest_gref: 2 } as const;

export interface CopySide {
  /** A grant reference, or a frame of the caller's own. */
  readonly gref: number;
  readonly frame: number;
  readonly domId: number;
  readonly offset: number;
}
export interface CopyRequest {
  readonly source: CopySide;
  readonly dest: CopySide;
  readonly sizeBytes: number;
  readonly flags: number;
}

interface Claim {
  readonly isGref: boolean;
  readonly name: number;
  readonly domain: Domain;
  readonly mfn: number;
  /** The granted bytes of the page. */
  readonly start: number;
  readonly length: number;
  readonly hasType: boolean;
}

/** What a batch holds between elements. */
export interface CopyBatch {
  source: { domId: number; domain: Domain; claim: Claim | undefined } | undefined;
  dest: { domId: number; domain: Domain; claim: Claim | undefined } | undefined;
}
export const newCopyBatch = (): CopyBatch => ({ source: undefined, dest: undefined });

// ---- grants ------------------------------------------------------------------------------------

type Acquired = { readonly status: number } & Partial<{ mfn: number; start: number; length: number }>;

/** Takes one use of a grant and one reference of its frame. */
export function acquireForCopy(hv: Hypervisor, granter: Domain, gref: number, domId: number, readOnly: boolean, allowTransitive: boolean): Acquired {
  const table = granter.grants;
  const dom0Status = dom0GrantRefusal(hv, granter, gref);
  if (dom0Status !== undefined) return { status: dom0Status };
  if (gref >= entryCount(table)) return { status: GNTST.bad_gntref };
  const kind = readOnly ? 'hostRead' : 'hostWrite';
  const old = table.active[gref];
  if (old !== undefined && (old.domId !== domId || (old.pin[kind] >= PIN_LIMIT && hv.grantRules.pinOverflowRefused))) return { status: GNTST.general_error };
  const entry = readEntry(hv, table, gref);
  const needsStatus = old === undefined || (!readOnly && !isPinnedForWriting(old.pin));
  const isTransitive = table.version === 2 && (entry.flags & GTF.type_mask) === GTF.transitive;
  if (needsStatus) {
    const status = setStatus(hv, table, gref, entry, old !== undefined, readOnly, false, domId);
    if (status !== GNTST.okay) return { status };
  }
  const refuse = (status: number): Acquired => {
    reduceStatus(hv, table, gref, old?.pin ?? noPins(), readOnly);
    return { status };
  };
  let got: { mfn: number; isSubPage: boolean; start: number; length: number; sourceDomId: number; sourceGref: number };
  if (isTransitive) {
    if (!allowTransitive || entry.sourceDomId === granter.domId) return refuse(GNTST.general_error);
    const far = domainById(hv, entry.sourceDomId);
    if (far === undefined) return refuse(GNTST.general_error);
    const inner = acquireForCopy(hv, far, entry.sourceGref, granter.domId, readOnly, false);
    if (inner.status !== GNTST.okay) return refuse(inner.status);
    // Treated as a sub-page grant, which keeps it from being mapped.
    got = { mfn: inner.mfn as number, isSubPage: true, start: inner.start as number, length: inner.length as number, sourceDomId: far.domId, sourceGref: entry.sourceGref };
  } else if (needsStatus) {
    const held = holdGrantedFrame(hv, granter, entry.frame);
    if (held !== GNTST.okay) return refuse(held);
    got = wholeOrPart(table, entry, granter, gref);
  } else {
    const active = old as NonNullable<typeof old>;
    if (!getPage(hv, active.mfn, granter.domId)) return refuse(GNTST.bad_domain);
    got = active;
  }
  if (old !== undefined && needsStatus && !isTransitive) {
    const same = old.mfn === got.mfn && old.sourceDomId === got.sourceDomId && old.sourceGref === got.sourceGref;
    const samePart = !old.isSubPage || (got.isSubPage && old.start === got.start && old.length === got.length);
    if (!same || !samePart) {
      putPage(hv, got.mfn);
      return refuse(GNTST.general_error);
    }
  }
  const active = old ?? { ...got, pin: noPins(), domId };
  if (old === undefined) table.active[gref] = active;
  active.pin[kind]++;
  return { status: GNTST.okay, mfn: active.mfn, start: active.start, length: active.length };
}

function wholeOrPart(table: GrantTable, entry: SharedEntry, granter: Domain, gref: number) {
  const isSubPage = table.version === 2 && (entry.flags & GTF.sub_page) !== 0;
  return { mfn: entry.frame, isSubPage, start: isSubPage ? entry.pageOffset : 0, length: isSubPage ? entry.length : 4096, sourceDomId: granter.domId, sourceGref: gref };
}

/** Undoes acquireForCopy() but for the frame's reference. release_grant_for_copy(). */
export function releaseForCopy(hv: Hypervisor, granter: Domain, gref: number, readOnly: boolean): void {
  const active = granter.grants.active[gref];
  if (active === undefined) return;
  const { sourceDomId, sourceGref } = active;
  unpin(hv, granter.grants, gref, [readOnly ? 'hostRead' : 'hostWrite'], readOnly);
  const far = sourceDomId === granter.domId ? undefined : hv.domain(sourceDomId);
  if (far !== undefined) releaseForCopy(hv, far, sourceGref, readOnly);
}

// ---- one side ----------------------------------------------------------------------------------

function lookupSide(hv: Hypervisor, current: Domain, side: CopySide, isGref: boolean): { domId: number; domain: Domain; claim: undefined } | number {
  // Frames may be named in the caller's own memory only.
  if (side.domId !== DOMID.SELF && !isGref) return GNTST.permission_denied;
  const domain = side.domId === DOMID.SELF ? current : domainById(hv, side.domId);
  return domain === undefined || domain.life.kind === 'destroyed' ? GNTST.bad_domain : { domId: side.domId, domain, claim: undefined };
}

function release(hv: Hypervisor, claim: Claim | undefined, readOnly: boolean): void {
  if (claim === undefined) return;
  if (claim.isGref) releaseForCopy(hv, claim.domain, claim.name, readOnly);
  if (claim.hasType) putType(hv, claim.mfn, 0, -1);
  putPage(hv, claim.mfn);
}

function claimSide(hv: Hypervisor, current: Domain, domain: Domain, side: CopySide, isGref: boolean, readOnly: boolean): Claim | number {
  let mfn = side.frame;
  let start = 0;
  let length = 4096;
  if (isGref) {
    const got = acquireForCopy(hv, domain, side.gref, current.domId, readOnly, true);
    if (got.status !== GNTST.okay) return got.status;
    mfn = got.mfn as number;
    start = got.start as number;
    length = got.length as number;
  } else {
    const held = holdGrantedFrame(hv, domain, mfn);
    if (held !== GNTST.okay) return held;
  }
  const claim: Claim = { isGref, name: isGref ? side.gref : side.frame, domain, mfn, start, length, hasType: !readOnly && hv.grantRules.writableTakesType };
  if (claim.hasType && getType(hv, mfn, FRAME_TYPE.writable, false) !== 0) {
    release(hv, { ...claim, hasType: false }, readOnly);
    return GNTST.general_error;
  }
  return claim;
}

// ---- one element -------------------------------------------------------------------------------

/** Gives back everything the batch holds. */
export function releaseBatch(hv: Hypervisor, batch: CopyBatch): void {
  release(hv, batch.source?.claim, true);
  release(hv, batch.dest?.claim, false);
  if (batch.source !== undefined) batch.source.claim = undefined;
  if (batch.dest !== undefined) batch.dest.claim = undefined;
}

/** Copies, keeping claims for the next element; the status for the guest. */
export function copyOne(hv: Hypervisor, current: Domain, batch: CopyBatch, request: CopyRequest): number {
  const status = tryCopy(hv, current, batch, request);
  if (status !== GNTST.okay) releaseBatch(hv, batch);
  return status;
}

function tryCopy(hv: Hypervisor, current: Domain, batch: CopyBatch, { source, dest, sizeBytes, flags }: CopyRequest): number {
  if (sizeBytes === 0) return GNTST.okay;
  const sourceGref = (flags & GNTCOPY.source_gref) !== 0;
  const destGref = (flags & GNTCOPY.dest_gref) !== 0;
  const named = (source.domId !== DOMID.SELF && !sourceGref) || (dest.domId !== DOMID.SELF && !destGref);
  if (named && hv.grantRules.copyAsksEachElement && batch.source?.domId === source.domId && batch.dest?.domId === dest.domId) return GNTST.permission_denied;
  if (batch.source?.domId !== source.domId || batch.dest?.domId !== dest.domId) {
    releaseBatch(hv, batch);
    batch.source = batch.dest = undefined;
    const from = lookupSide(hv, current, source, sourceGref);
    if (typeof from === 'number') return from;
    const to = lookupSide(hv, current, dest, destGref);
    if (typeof to === 'number') return to;
    batch.source = from;
    batch.dest = to;
  }
  const from = batch.source as NonNullable<typeof batch.source>;
  const to = batch.dest as NonNullable<typeof batch.dest>;
  if (!stillFits(from.claim, source, sourceGref)) {
    release(hv, from.claim, true);
    from.claim = undefined;
    const claim = claimSide(hv, current, from.domain, source, sourceGref, true);
    if (typeof claim === 'number') return claim;
    from.claim = claim;
  }
  if (!stillFits(to.claim, dest, destGref)) {
    release(hv, to.claim, false);
    to.claim = undefined;
    const claim = claimSide(hv, current, to.domain, dest, destGref, false);
    if (typeof claim === 'number') return claim;
    to.claim = claim;
  }
  return copyBytes(hv, from.claim as Claim, source.offset, to.claim as Claim, dest.offset, sizeBytes);
}

const stillFits = (claim: Claim | undefined, side: CopySide, isGref: boolean): boolean =>
  claim !== undefined && claim.isGref === isGref && claim.name === (isGref ? side.gref : side.frame);

function copyBytes(hv: Hypervisor, from: Claim, fromAt: number, to: Claim, toAt: number, sizeBytes: number): number {
  if (hv.grantRules.copyInsideBounds) {
    if (fromAt + sizeBytes > 4096 || toAt + sizeBytes > 4096) return GNTST.bad_copy_arg;
    if (fromAt < from.start || fromAt + sizeBytes > from.start + from.length) return GNTST.general_error;
    if (toAt < to.start || toAt + sizeBytes > to.start + to.length) return GNTST.general_error;
  }
  const { machine } = hv;
  if (!machine.contains(from.mfn * 4096 + fromAt, sizeBytes) || !machine.contains(to.mfn * 4096 + toAt, sizeBytes)) return GNTST.bad_copy_arg;
  machine.writeBytes(to.mfn * 4096 + toAt, machine.readBytes(from.mfn * 4096 + fromAt, sizeBytes));
  return GNTST.okay;
}
