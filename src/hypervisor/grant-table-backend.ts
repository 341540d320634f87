// How a simulated back end of dom0 uses a guest's grants: the same checks, pins and references as a
// mapping or copy by domain 0 in Xen, without page tables, since a back end has none.
import { EVENT } from '../abi/events.ts';
import type { Domain } from './domain.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { GNTMAP, GNTST, unpin, type BackendMapping } from './grant-table.ts';
import { acquireForCopy, releaseForCopy } from './grant-table-copy.ts';
import { acquireForMap } from './grant-table-map.ts';
import type { Hypervisor } from './hypervisor.ts';
import { getType, putPage, putType } from './page-types.ts';

/** The domain that back ends belong to. */
const BACKEND_DOMID = 0;

/** status is GNTST.okay, or why not; `mfn` is the frame to read and (if writable) write. */
export interface BackendGrant {
  readonly status: number;
  readonly mfn: number;
}

const granterOf = (hv: Hypervisor, domId: number): Domain | undefined => {
  const domain = hv.domain(domId);
  return domain === undefined || domain.life.kind === 'destroyed' ? undefined : domain;
};

/** Keeps the granted frame until unmapForBackend(). */
export function mapForBackend(hv: Hypervisor, domId: number, gref: number, readOnly: boolean): BackendGrant {
  const granter = granterOf(hv, domId);
  const flags = GNTMAP.host_map | (readOnly ? GNTMAP.readonly : 0);
  const answer = granter === undefined ? { status: GNTST.bad_domain as number, mfn: -1 } : hold(hv, granter, gref, flags);
  hv.world.emit(EVENT.grantMap, BACKEND_DOMID, 0, [domId, gref, flags, 0, 0, Math.max(answer.mfn, 0), answer.status]);
  return answer;
}

function hold(hv: Hypervisor, granter: Domain, gref: number, flags: number): BackendGrant {
  const readOnly = (flags & GNTMAP.readonly) !== 0;
  const acquired = acquireForMap(hv, granter, gref, BACKEND_DOMID, flags);
  if (acquired.status !== GNTST.okay) return acquired;
  if (!readOnly && getType(hv, acquired.mfn, FRAME_TYPE.writable, false) !== 0) {
    putPage(hv, acquired.mfn);
    unpin(hv, granter.grants, gref, ['hostWrite'], readOnly);
    return { status: GNTST.general_error, mfn: -1 };
  }
  granter.grants.backendMappings.push({ gref, readOnly, mfn: acquired.mfn });
  return acquired;
}

/** Gives a mapping back. False: there is none like it. */
export function unmapForBackend(hv: Hypervisor, domId: number, gref: number, readOnly: boolean): boolean {
  const grants = hv.domain(domId)?.grants;
  const at = grants?.backendMappings.findIndex((mapping) => mapping.gref === gref && mapping.readOnly === readOnly) ?? -1;
  if (grants === undefined || at < 0) return false;
  const [mapping] = grants.backendMappings.splice(at, 1) as [BackendMapping];
  if (!readOnly) putType(hv, mapping.mfn, 0, -1);
  putPage(hv, mapping.mfn);
  unpin(hv, grants, gref, [readOnly ? 'hostRead' : 'hostWrite'], readOnly);
  hv.world.emit(EVENT.grantUnmap, BACKEND_DOMID, 0, [0, 0, domId, gref, mapping.mfn, GNTST.okay]);
  return true;
}

/** Copies out of a grant, as GNTTABOP_copy by domain 0 does: the bytes, or the status that refuses. */
export function readThroughGrant(hv: Hypervisor, domId: number, gref: number, offset: number, sizeBytes: number): Uint8Array | number {
  let bytes = new Uint8Array(0);
  const status = throughGrant(hv, domId, gref, offset, sizeBytes, true, (maddr) => { bytes = new Uint8Array(hv.machine.readBytes(maddr, sizeBytes)); });
  hv.world.emit(EVENT.grantCopy, BACKEND_DOMID, 0, [domId, gref, offset, BACKEND_DOMID, 0, 0, sizeBytes, 1, status]);
  return status === GNTST.okay ? bytes : status;
}

/** Copies into a grant; the status. */
export function writeThroughGrant(hv: Hypervisor, domId: number, gref: number, offset: number, bytes: Uint8Array): number {
  const status = throughGrant(hv, domId, gref, offset, bytes.length, false, (maddr) => hv.machine.writeBytes(maddr, bytes));
  hv.world.emit(EVENT.grantCopy, BACKEND_DOMID, 0, [BACKEND_DOMID, 0, 0, domId, gref, offset, bytes.length, 2, status]);
  return status;
}

function throughGrant(hv: Hypervisor, domId: number, gref: number, offset: number, sizeBytes: number, readOnly: boolean, move: (maddr: number) => void): number {
  const granter = granterOf(hv, domId);
  if (granter === undefined) return GNTST.bad_domain;
  if (offset + sizeBytes > 4096) return GNTST.bad_copy_arg;
  const got = acquireForCopy(hv, granter, gref, BACKEND_DOMID, readOnly, true);
  if (got.status !== GNTST.okay) return got.status;
  const { mfn = 0, start = 0, length = 0 } = got;
  const inside = offset >= start && offset + sizeBytes <= start + length;
  const typed = readOnly || getType(hv, mfn, FRAME_TYPE.writable, false) === 0;
  if (inside && typed) move(mfn * 4096 + offset);
  if (!readOnly && typed) putType(hv, mfn, 0, -1);
  releaseForCopy(hv, granter, gref, readOnly);
  putPage(hv, mfn);
  return inside && typed ? GNTST.okay : GNTST.general_error;
}
