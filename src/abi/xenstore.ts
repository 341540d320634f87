// Xenstore's wire format: the shared ring page, message headers, operations, errors, limits.
// Sources: xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt.
import { layout } from '../base/layout.ts';

export const XS_RING_BYTES = 1024;
export const XS_RING = layout({
  sizeBytes: 4096, source: 'xen/include/public/io/xs_wire.h struct xenstore_domain_interface',
  fields: {
    req: { at: 0, type: 'u8', count: XS_RING_BYTES }, rsp: { at: 1024, type: 'u8', count: XS_RING_BYTES }, req_cons: { at: 2048, type: 'u32' },
    req_prod: { at: 2052, type: 'u32' }, rsp_cons: { at: 2056, type: 'u32' }, rsp_prod: { at: 2060, type: 'u32' }, server_features: { at: 2064, type: 'u32' },
    connection: { at: 2068, type: 'u32' }, error: { at: 2072, type: 'u32' }, evtchn_port: { at: 2076, type: 'u32' },
  },
});
export const XS_HEADER = layout({
  sizeBytes: 16, source: 'xen/include/public/io/xs_wire.h struct xsd_sockmsg',
  fields: { type: { at: 0, type: 'u32' }, req_id: { at: 4, type: 'u32' }, tx_id: { at: 8, type: 'u32' }, len: { at: 12, type: 'u32' } },
});

export const XS = {
  CONTROL: 0, DIRECTORY: 1, READ: 2, GET_PERMS: 3, WATCH: 4, UNWATCH: 5, TRANSACTION_START: 6, TRANSACTION_END: 7, INTRODUCE: 8, RELEASE: 9,
  GET_DOMAIN_PATH: 10, WRITE: 11, MKDIR: 12, RM: 13, SET_PERMS: 14, WATCH_EVENT: 15, ERROR: 16, IS_DOMAIN_INTRODUCED: 17, RESUME: 18,
  SET_TARGET: 19, RESET_WATCHES: 21, DIRECTORY_PART: 22, GET_FEATURE: 23, SET_FEATURE: 24, GET_QUOTA: 25, SET_QUOTA: 26,
} as const;
const NAMES: string[] = [];
for (const [name, type] of Object.entries(XS)) NAMES[type] = name;
/** 2 → 'READ', 99 → 'type 99'. */
export const xsOperationName = (type: number): string => NAMES[type] ?? `type ${type}`;

/** Errors that have a name on the wire; others are sent as EINVAL. */
export type XsError = 'EINVAL' | 'EACCES' | 'EEXIST' | 'EISDIR' | 'ENOENT' | 'ENOMEM' | 'ENOSPC' | 'EIO' | 'ENOTEMPTY' | 'ENOSYS' | 'EROFS' | 'EBUSY' | 'EAGAIN' | 'EISCONN' | 'E2BIG' | 'EPERM';

export const XS_PAYLOAD_MAX = 4096;
export const XS_ABS_PATH_MAX = 3072;
export const XS_REL_PATH_MAX = 2048;
/** In a permission: everybody. */
export const DOMID_ANY = 0x7ff5;
/** server_features: the error field, WATCH with a depth, DOMID_ANY in permissions (bit 1, reconnection, is not offered). */
export const XS_FEATURE = { reconnection: 1, error: 2, watchDepth: 4, domidAny: 8 } as const;
/** The error field of the ring. */
export const XS_RING_ERROR = { none: 0, comm: 1, ringIndex: 2, protocol: 3 } as const;
