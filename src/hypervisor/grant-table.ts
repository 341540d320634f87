// A domain's grant table as Xen keeps it: the shared frames, the active entries that shadow what has
// been mapped, and the handles of what this domain has mapped of others.
// Source: xen/common/grant_table.c. The operations are hypercalls/grant-table.ts.

/** Counts of uses of one grant: by the host's page tables and by devices, writable and read-only. */
export interface PinCounts {
  hostWrite: number;
  hostRead: number;
  devWrite: number;
  devRead: number;
}

/** struct active_grant_entry. */
export interface ActiveGrant {
  pin: PinCounts;
  /** The domain that was granted access. */
  domId: number;
  mfn: number;
  isSubPage: boolean;
  start: number;
  length: number;
  /** Transitive grants: where the frame really comes from. */
  sourceDomId: number;
  sourceGref: number;
}

/** struct grant_mapping: one handle. */
export interface GrantMapping {
  gref: number;
  /** GNTMAP_* bits; 0 = free. */
  flags: number;
  /** The granting domain. */
  domId: number;
  vcpuId: number;
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
  /** By handle; free ones are reused in the order of `freeHandles` (a queue, oldest first). */
  maptrack: GrantMapping[];
  freeHandles: number[];
}

export interface GrantTableOptions {
  readonly maxVersion?: 1 | 2;
  readonly maxGrantFrames?: number;
  readonly maxMaptrackFrames?: number;
}

/** Version 1, no frames yet: the domain builder adds the first (growGrantTable). Defaults as xl's. */
export function newGrantTable(options: GrantTableOptions = {}): GrantTable {
  return {
    version: 1, maxVersion: options.maxVersion ?? 2, maxGrantFrames: options.maxGrantFrames ?? 64, maxMaptrackFrames: options.maxMaptrackFrames ?? 1024,
    sharedMfns: [], statusMfns: [], active: {}, maptrack: [], freeHandles: [],
  };
}
