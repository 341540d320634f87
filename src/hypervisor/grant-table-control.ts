// What changes a grant table as a whole: switching between versions 1 and 2, swapping two entries,
// and its end. Source: gnttab_set_version(), swap_grant_ref(), grant_table_destroy() in Xen.
import type { ErrnoName } from '../abi/errno.ts';
import type { Domain } from './domain.ts';
import { entryCount, entryMaddr, GNTST, growStatusFrames, GTF, RESERVED_ENTRIES, statusMaddr, type GrantTable } from './grant-table.ts';
import { unmapForBackend } from './grant-table-backend.ts';
import { releaseMappings } from './grant-table-map.ts';
import { releaseFrame, type Hypervisor } from './hypervisor.ts';
import { putAllocation } from './page-types.ts';

/** A reserved entry as it is carried over. */
interface Kept {
  readonly flags: number;
  readonly domId: number;
  readonly frame: number;
}
const NOTHING: Kept = { flags: 0, domId: 0, frame: 0 };

/** The first eight entries (console, xenstore) survive; all others must be out of use and are cleared. */
export function setVersion(hv: Hypervisor, domain: Domain, version: 1 | 2): ErrnoName | undefined {
  const { grants } = domain;
  if (version > grants.maxVersion) return 'ENOSYS';
  if (version === grants.version) return undefined;
  for (const gref of Object.keys(grants.active)) if (Number(gref) >= RESERVED_ENTRIES) return 'EBUSY';
  const kept = Array.from({ length: RESERVED_ENTRIES }, (_, gref) => keep(hv, grants, gref));
  if (version === 2) {
    if (!growStatusFrames(hv, domain, grants.sharedMfns.length)) return 'ENOMEM';
  } else {
    if (kept.includes(undefined)) return 'ERANGE';
    if (!dropStatusFrames(hv, domain)) return 'EBUSY';
  }
  for (const mfn of grants.sharedMfns) hv.machine.fillFrame(mfn, 0);
  grants.version = version;
  kept.forEach((entry, gref) => restore(hv, grants, gref, entry ?? NOTHING));
  return undefined;
}

/** undefined: version 1 has no room for it. */
function keep(hv: Hypervisor, grants: GrantTable, gref: number): Kept | undefined {
  const { machine } = hv;
  const at = entryMaddr(grants, gref);
  const flags = machine.readU16(at);
  const domId = machine.readU16(at + 2);
  if (grants.version === 1) return { flags, domId, frame: machine.readU32(at + 4) };
  const kind = flags & GTF.type_mask;
  if (kind === GTF.transitive || (kind === GTF.permit_access && machine.readU32(at + 12) !== 0)) return undefined;
  if (kind !== GTF.permit_access) return NOTHING;
  return { flags: flags | machine.readU16(statusMaddr(grants, gref)), domId, frame: machine.readU32(at + 8) };
}

function restore(hv: Hypervisor, grants: GrantTable, gref: number, { flags, domId, frame }: Kept): void {
  const { machine } = hv;
  const at = entryMaddr(grants, gref);
  const inUse = GTF.reading | GTF.writing;
  if (grants.version === 2) machine.writeU16(statusMaddr(grants, gref), flags & inUse);
  machine.writeU16(at, grants.version === 2 ? flags & ~inUse : flags);
  machine.writeU16(at + 2, domId);
  machine.writeU32(at + (grants.version === 1 ? 4 : 8), frame);
}

/** False: the guest still has one of them mapped, and all stay. */
function dropStatusFrames(hv: Hypervisor, domain: Domain): boolean {
  const { grants } = domain;
  const isUnused = (mfn: number): boolean => hv.frames.refCount[mfn] === 1;
  if (hv.grantRules.statusFramesUnusedBeforeFree && !grants.statusMfns.every(isUnused)) return false;
  // Without the look they were freed whoever mapped them.
  for (const mfn of grants.statusMfns) hv.grantRules.statusFramesUnusedBeforeFree ? freeSharedFrame(hv, mfn) : releaseFrame(hv, mfn);
  grants.statusMfns = [];
  return true;
}

/** Gives up the reference that sharing took; the frame goes when nobody maps it any more. */
const freeSharedFrame = (hv: Hypervisor, mfn: number): void => putAllocation(hv, mfn);

/** The offers of two references change places; neither may be in use. */
export function swapEntries(hv: Hypervisor, domain: Domain, a: number, b: number): number {
  const { grants } = domain;
  const count = entryCount(grants);
  if (a >= count || b >= count) return GNTST.bad_gntref;
  if (a === b) return GNTST.okay;
  if (grants.active[a] !== undefined || grants.active[b] !== undefined) return GNTST.eagain;
  const swap = (atA: number, atB: number, sizeBytes: number): void => {
    const first = hv.machine.readBytes(atA, sizeBytes);
    hv.machine.writeBytes(atA, hv.machine.readBytes(atB, sizeBytes));
    hv.machine.writeBytes(atB, first);
  };
  swap(entryMaddr(grants, a), entryMaddr(grants, b), grants.version === 1 ? 8 : 16);
  if (grants.version === 2) swap(statusMaddr(grants, a), statusMaddr(grants, b), 2);
  return GNTST.okay;
}

/** The end of the domain: what it mapped, what back ends mapped of it, then its own frames. */
export function destroyGrantTable(hv: Hypervisor, domain: Domain): void {
  releaseMappings(hv, domain);
  const { grants } = domain;
  for (const { gref, readOnly } of [...grants.backendMappings]) unmapForBackend(hv, domain.domId, gref, readOnly);
  for (const mfn of [...grants.sharedMfns, ...grants.statusMfns]) freeSharedFrame(hv, mfn);
  grants.sharedMfns = [];
  grants.statusMfns = [];
}
