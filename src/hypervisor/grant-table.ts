// A domain's grant table: the frames it shares with the guest, what has been mapped of it (active
// entries), and the handles of what the domain itself has mapped of others.
//
//   shared entry (guest memory)   flags, domid, frame     the offer; Xen sets reading, writing here (v1)
//   status entry (v2)             reading, writing        or there
//   active entry (Xen's)          pin counts, frame       what is in use, whatever the guest writes now
//   mapping (Xen's, by handle)    whose grant, how        held by the domain that mapped
//
// Source: xen/common/grant_table.c. Operations: grant-table-{map,copy,transfer,control}.ts.
import type { Domain } from './domain.ts';
import { allocSharedFrame, type Hypervisor } from './hypervisor.ts';
import { getPage } from './page-types.ts';

/** GNTST_*, xen/include/public/grant_table.h. */
export const GNTST = {
  okay: 0, general_error: -1, bad_domain: -2, bad_gntref: -3, bad_handle: -4, bad_virt_addr: -5, bad_dev_addr: -6, no_device_space: -7, permission_denied: -8,
  bad_page: -9, bad_copy_arg: -10, address_too_big: -11, eagain: -12, no_space: -13,
} as const;
/** GTF_*: flags of a shared entry. */
export const GTF = {
  invalid: 0, permit_access: 1, accept_transfer: 2, transitive: 3, type_mask: 3, readonly: 4, reading: 8, writing: 0x10, sub_page: 0x100,
  transfer_committed: 4, transfer_completed: 8,
} as const;
/** GNTMAP_*: how a grant is mapped. */
export const GNTMAP = { device_map: 1, host_map: 2, readonly: 4, application_map: 8, contains_pte: 0x10 } as const;

/** Entries that keep their content when the version changes (console, xenstore). */
export const RESERVED_ENTRIES = 8;
const V1_BYTES = 8;
const V2_BYTES = 16;
const STATUS_BYTES = 2;

/** Uses of one grant by page tables and by devices, writable and read-only. Eight bits each in Xen. */
export interface PinCounts {
  hostWrite: number;
  hostRead: number;
  devWrite: number;
  devRead: number;
}
export type PinKind = keyof PinCounts;
/** A counter at or above this refuses another use (its top bit is set). */
export const PIN_LIMIT = 0x80;

/** struct active_grant_entry. */
export interface ActiveGrant {
  pin: PinCounts;
  /** The domain that was granted access. */
  domId: number;
  mfn: number;
  isSubPage: boolean;
  start: number;
  length: number;
  /** Transitive grants: where the frame really comes from; else the granter and the reference itself. */
  sourceDomId: number;
  sourceGref: number;
}

/** struct grant_mapping: one handle. */
export interface GrantMapping {
  gref: number;
  /** GNTMAP_* bits that are in force; 0 = free. */
  flags: number;
  /** The granting domain. */
  domId: number;
  vcpuId: number;
}

/** A grant of this domain's that a simulated back end of dom0 has mapped. */
export interface BackendMapping {
  readonly gref: number;
  readonly readOnly: boolean;
  readonly mfn: number;
}

export interface GrantTable {
  version: 1 | 2;
  /** Limits of the toolstack. */
  readonly maxVersion: 1 | 2;
  readonly maxGrantFrames: number;
  readonly maxMaptrackFrames: number;
  /** Frames shared with the guest, in order; Xen's own frames. */
  sharedMfns: number[];
  statusMfns: number[];
  /** By grant reference; absent = not in use. */
  active: Record<number, ActiveGrant>;
  /** By handle; free ones are used again, oldest first. */
  maptrack: GrantMapping[];
  freeHandles: number[];
  /** In the order they were mapped. */
  backendMappings: BackendMapping[];
}

export interface GrantTableOptions {
  readonly maxVersion?: 1 | 2;
  readonly maxGrantFrames?: number;
  readonly maxMaptrackFrames?: number;
}

/** Version 1, no frames yet: growGrantTable(hv, domain, 1) adds the first. Defaults as Xen's. */
export function newGrantTable(options: GrantTableOptions = {}): GrantTable {
  return {
    version: 1, maxVersion: options.maxVersion ?? 2, maxGrantFrames: options.maxGrantFrames ?? 64, maxMaptrackFrames: options.maxMaptrackFrames ?? 1024,
    sharedMfns: [], statusMfns: [], active: {}, maptrack: [], freeHandles: [], backendMappings: [],
  };
}

// ---- frames ------------------------------------------------------------------------------------

/** Status frames that so many grant frames need in version 2. */
export const statusFramesFor = (grantFrames: number): number => Math.ceil((grantFrames * (4096 / V2_BYTES)) / (4096 / STATUS_BYTES));

/** Adds zeroed frames of Xen's, shared writable. False: no memory, nothing added. */
function addFrames(hv: Hypervisor, domain: Domain, list: number[], count: number): boolean {
  if (hv.frames.freeCount < count - list.length) return false;
  while (list.length < count) {
    const mfn = allocSharedFrame(hv, domain) as number;
    hv.machine.fillFrame(mfn, 0);
    list.push(mfn);
  }
  return true;
}

export const growStatusFrames = (hv: Hypervisor, domain: Domain, grantFrames: number): boolean => addFrames(hv, domain, domain.grants.statusMfns, statusFramesFor(grantFrames));

/** gnttab_grow_table(): at least one frame, at most the domain's limit (the caller has checked). */
export function growGrantTable(hv: Hypervisor, domain: Domain, frames: number): boolean {
  const { grants } = domain;
  const wanted = Math.max(frames, 1);
  return addFrames(hv, domain, grants.sharedMfns, wanted) && (grants.version === 1 || growStatusFrames(hv, domain, wanted));
}

// ---- entries -----------------------------------------------------------------------------------

export const entryCount = ({ version, sharedMfns }: GrantTable): number => (sharedMfns.length * 4096) / (version === 1 ? V1_BYTES : V2_BYTES);

/** Machine address of a shared entry; the reference is below entryCount. */
export function entryMaddr({ version, sharedMfns }: GrantTable, gref: number): number {
  const bytes = version === 1 ? V1_BYTES : V2_BYTES;
  const perPage = 4096 / bytes;
  return (sharedMfns[Math.floor(gref / perPage)] as number) * 4096 + (gref % perPage) * bytes;
}
/** Machine address of the 16 bits in which Xen shows reading and writing. */
export function statusMaddr(table: GrantTable, gref: number): number {
  if (table.version === 1) return entryMaddr(table, gref);
  const perPage = 4096 / STATUS_BYTES;
  return (table.statusMfns[Math.floor(gref / perPage)] as number) * 4096 + (gref % perPage) * STATUS_BYTES;
}

/** One copy of what the guest offers; never read twice. */
export interface SharedEntry {
  readonly flags: number;
  readonly domId: number;
  readonly frame: number;
  /** Sub-page grants (v2). */
  readonly pageOffset: number;
  readonly length: number;
  /** Transitive grants (v2). */
  readonly sourceDomId: number;
  readonly sourceGref: number;
}
export function readEntry(hv: Hypervisor, table: GrantTable, gref: number): SharedEntry {
  const at = entryMaddr(table, gref);
  const { machine } = hv;
  const flags = machine.readU16(at);
  const domId = machine.readU16(at + 2);
  if (table.version === 1) return { flags, domId, frame: machine.readU32(at + 4), pageOffset: 0, length: 4096, sourceDomId: 0, sourceGref: 0 };
  return {
    flags, domId, frame: machine.readU32(at + 12) * 0x1_0000_0000 + machine.readU32(at + 8),
    pageOffset: machine.readU16(at + 4), length: machine.readU16(at + 6),
    sourceDomId: machine.readU16(at + 4), sourceGref: machine.readU32(at + 8),
  };
}

/** Writes a version 1 offer: for the domain builder (console, xenstore) and tests. */
export function seedGrant(hv: Hypervisor, domain: Domain, gref: number, domId: number, mfn: number): void {
  const at = entryMaddr(domain.grants, gref);
  hv.machine.writeU16(at, GTF.permit_access);
  hv.machine.writeU16(at + 2, domId);
  hv.machine.writeU32(at + 4, mfn);
}

/** get_paged_frame(): a reference on a frame that the granter owns. */
export const holdGrantedFrame = (hv: Hypervisor, granter: Domain, frame: number): number => (getPage(hv, frame, granter.domId) ? GNTST.okay : GNTST.bad_page);

// ---- pins and status ---------------------------------------------------------------------------

export const isPinned = (pin: PinCounts): boolean => pin.hostWrite + pin.hostRead + pin.devWrite + pin.devRead > 0;
export const isPinnedForWriting = (pin: PinCounts): boolean => pin.hostWrite + pin.devWrite > 0;

/**
 * Checks the offer and shows the guest that it is used: 0 or GNTST.general_error. `mapping` forbids
 * sub-page and transitive grants. _set_status().
 */
export function setStatus(hv: Hypervisor, table: GrantTable, gref: number, entry: SharedEntry, pinned: boolean, readOnly: boolean, mapping: boolean, domId: number): number {
  const mask = GTF.type_mask | (mapping ? GTF.sub_page : 0);
  const kind = entry.flags & mask;
  const offered = kind === GTF.permit_access || (table.version === 2 && !mapping && kind === GTF.transitive);
  if (!pinned && (!offered || entry.domId !== domId)) return GNTST.general_error;
  if (!readOnly && (entry.flags & GTF.readonly) !== 0 && hv.grantRules.readOnlyRefusesWriting) return GNTST.general_error;
  const at = statusMaddr(table, gref);
  hv.machine.writeU16(at, hv.machine.readU16(at) | GTF.reading | (readOnly ? 0 : GTF.writing));
  return GNTST.okay;
}

/** Takes back what the guest is shown beyond what is in use. reduce_status_for_pin(). */
export function reduceStatus(hv: Hypervisor, table: GrantTable, gref: number, pin: PinCounts, readOnly: boolean): void {
  if (table.version === 2 && gref >= entryCount(table)) return;
  const clear = (isPinned(pin) ? 0 : GTF.reading) | (!readOnly && !isPinnedForWriting(pin) ? GTF.writing : 0);
  if (clear === 0) return;
  const at = statusMaddr(table, gref);
  hv.machine.writeU16(at, hv.machine.readU16(at) & ~clear);
}

export const noPins = (): PinCounts => ({ hostWrite: 0, hostRead: 0, devWrite: 0, devRead: 0 });

/** Drops uses of an active entry; the entry goes with the last one. */
export function unpin(hv: Hypervisor, table: GrantTable, gref: number, kinds: readonly PinKind[], readOnly: boolean): void {
  const active = table.active[gref];
  if (active === undefined) return;
  for (const kind of kinds) active.pin[kind]--;
  reduceStatus(hv, table, gref, active.pin, readOnly);
  if (!isPinned(active.pin)) delete table.active[gref];
}
