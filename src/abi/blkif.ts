// The block device protocol: operations, answers, and the layouts of requests and responses, which
// differ between 32-bit and 64-bit frontends because u64 has another alignment.
// Source: xen/include/public/io/blkif.h, protocols.h; drivers/block/xen-blkback/common.h in Linux.
import { layout } from '../base/layout.ts';

export const BLKIF_OP = { READ: 0, WRITE: 1, WRITE_BARRIER: 2, FLUSH_DISKCACHE: 3, RESERVED_1: 4, DISCARD: 5, INDIRECT: 6 } as const;
export const BLKIF_RSP = { OKAY: 0, ERROR: -1, EOPNOTSUPP: -2 } as const;
export const BLKIF_MAX_SEGMENTS = 11;
export const BLKIF_MAX_INDIRECT_PAGES = 8;
export const BLKIF_SEGMENT_BYTES = 8;
export const BLKIF_SEGMENTS_PER_INDIRECT_PAGE = 4096 / BLKIF_SEGMENT_BYTES;
export const VDISK = { CDROM: 1, REMOVABLE: 2, READONLY: 4 } as const;
/** Sectors of requests and segments, whatever the sector size of the disk. */
export const BLKIF_SECTOR_BYTES = 512;

export const BLKIF_SEGMENT = layout({
  sizeBytes: BLKIF_SEGMENT_BYTES, source: 'xen/include/public/io/blkif.h struct blkif_request_segment',
  fields: { gref: { at: 0, type: 'u32' }, first_sect: { at: 4, type: 'u8' }, last_sect: { at: 5, type: 'u8' } },
});

export type BlkifProtocol = 'x86_32-abi' | 'x86_64-abi';

/** Where the fields of an entry are; the three kinds of request and the response share the ring's slots. */
export interface BlkifLayout {
  readonly entryBytes: number;
  readonly responseBytes: number;
  readonly id: number;
  readonly sector: number;
  readonly segments: number;
  readonly discardSectors: number;
  readonly indirectGrefs: number;
}

/** Common to both: operation at 0, segment count at 1 (indirect: operation at 1, count u16 at 2), handle u16 at 2. */
export const BLKIF_LAYOUTS: Readonly<Record<BlkifProtocol, BlkifLayout>> = {
  'x86_32-abi': { entryBytes: 108, responseBytes: 12, id: 4, sector: 12, segments: 20, discardSectors: 20, indirectGrefs: 24 },
  'x86_64-abi': { entryBytes: 112, responseBytes: 16, id: 8, sector: 16, segments: 24, discardSectors: 24, indirectGrefs: 28 },
};
/** In both layouts of a response: id at 0. */
export const BLKIF_RESPONSE = { id: 0, operation: 8, status: 10 } as const;
