// Requests of a block ring as values: one copy of a slot, read in the frontend's layout, checked as far
// as it can be without looking at the disk. What cannot be carried out says with which status.
// Source: drivers/block/xen-blkback/blkback.c (dispatch_rw_block_io, xen_blkbk_parse_indirect).
import {
  BLKIF_LAYOUTS, BLKIF_MAX_INDIRECT_PAGES, BLKIF_MAX_SEGMENTS, BLKIF_OP, BLKIF_RESPONSE, BLKIF_RSP, BLKIF_SECTOR_BYTES, BLKIF_SEGMENT, BLKIF_SEGMENT_BYTES, BLKIF_SEGMENTS_PER_INDIRECT_PAGE, type BlkifProtocol,
} from '../abi/blkif.ts';

/** Part of a granted page, in sectors of 512 bytes: both ends count. */
export interface BlkSegment {
  readonly gref: number;
  readonly firstSector: number;
  readonly lastSector: number;
}

export interface BlkRequest {
  /** The operation that the answer names. */
  readonly operation: number;
  /** What is to be done: READ or WRITE for an indirect request. */
  readonly action: number;
  readonly idLow: number;
  readonly idHigh: number;
  /** Of 512 bytes; NaN: a number that no disk has. */
  readonly firstSector512: number;
  readonly segments: readonly BlkSegment[];
  /** Pages in which the segments are, for indirect requests. */
  readonly indirectGrefs: readonly number[];
  readonly segmentCount: number;
  readonly discardSectors: number;
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Below 2^53, or NaN. */
function sector(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high >= 0x20_0000 ? NaN : high * 0x1_0000_0000 + view.getUint32(at, true);
}

export function segmentsOf(bytes: Uint8Array, at: number, count: number): BlkSegment[] {
  const view = viewOf(bytes);
  const { gref, first_sect, last_sect } = BLKIF_SEGMENT.fields;
  return Array.from({ length: count }, (_, index) => {
    const from = at + index * BLKIF_SEGMENT_BYTES;
    return { gref: view.getUint32(from + gref.at, true), firstSector: view.getUint8(from + first_sect.at), lastSector: view.getUint8(from + last_sect.at) };
  });
}

/** `bytes`: a copy of the whole slot. More segments than a slot has room for give none. */
export function parseBlkRequest(bytes: Uint8Array, protocol: BlkifProtocol): BlkRequest {
  const view = viewOf(bytes);
  const at = BLKIF_LAYOUTS[protocol];
  const operation = view.getUint8(0);
  const indirect = operation === BLKIF_OP.INDIRECT;
  const segmentCount = indirect ? view.getUint16(2, true) : view.getUint8(1);
  const direct = !indirect && operation !== BLKIF_OP.DISCARD && segmentCount <= BLKIF_MAX_SEGMENTS;
  const indirectPages = Math.min(BLKIF_MAX_INDIRECT_PAGES, Math.ceil(segmentCount / BLKIF_SEGMENTS_PER_INDIRECT_PAGE));
  return {
    operation, segmentCount,
    action: indirect ? view.getUint8(1) : operation,
    idLow: view.getUint32(at.id, true),
    idHigh: view.getUint32(at.id + 4, true),
    firstSector512: sector(view, at.sector),
    segments: direct ? segmentsOf(bytes, at.segments, segmentCount) : [],
    indirectGrefs: indirect ? Array.from({ length: indirectPages }, (_, index) => view.getUint32(at.indirectGrefs + 4 * index, true)) : [],
    discardSectors: operation === BLKIF_OP.DISCARD ? sector(view, at.discardSectors) : 0,
  };
}

export function blkResponse(protocol: BlkifProtocol, request: Pick<BlkRequest, 'idLow' | 'idHigh' | 'action'>, status: number): Uint8Array {
  const bytes = new Uint8Array(BLKIF_LAYOUTS[protocol].responseBytes);
  const view = viewOf(bytes);
  view.setUint32(BLKIF_RESPONSE.id, request.idLow, true);
  view.setUint32(BLKIF_RESPONSE.id + 4, request.idHigh, true);
  // Of an indirect request: what it wanted done. Frontends compare it (blkif_interrupt() in Linux).
  view.setUint8(BLKIF_RESPONSE.operation, request.action);
  view.setInt16(BLKIF_RESPONSE.status, status, true);
  return bytes;
}

/** What the disk allows. */
export interface BlkLimits {
  readonly sectors512: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly maxIndirectSegments: number;
  readonly flush: boolean;
  readonly barrier: boolean;
  readonly discard: boolean;
}

export const bytesOf = (segments: readonly BlkSegment[]): number => segments.reduce((sum, row) => sum + (row.lastSector - row.firstSector + 1) * BLKIF_SECTOR_BYTES, 0);

/** Before the segments of an indirect request are read: undefined, or the status that answers. */
export function refuseUnread(request: BlkRequest, limits: BlkLimits): number | undefined {
  const { operation, action, segmentCount } = request;
  const { READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE, DISCARD, INDIRECT } = BLKIF_OP;
  switch (operation) {
    case READ:
    case WRITE:
      return segmentCount === 0 || segmentCount > BLKIF_MAX_SEGMENTS ? BLKIF_RSP.ERROR : undefined;
    case WRITE_BARRIER:
      // Without data it is a flush that waits: mini-os sends such.
      if (!limits.barrier) return BLKIF_RSP.EOPNOTSUPP;
      return segmentCount > BLKIF_MAX_SEGMENTS ? BLKIF_RSP.ERROR : undefined;
    case FLUSH_DISKCACHE:
      if (!limits.flush) return BLKIF_RSP.EOPNOTSUPP;
      return segmentCount > BLKIF_MAX_SEGMENTS ? BLKIF_RSP.ERROR : undefined;
    case DISCARD:
      return limits.discard ? undefined : BLKIF_RSP.EOPNOTSUPP;
    case INDIRECT:
      return (action !== READ && action !== WRITE) || segmentCount === 0 || segmentCount > limits.maxIndirectSegments ? BLKIF_RSP.ERROR : undefined;
    default:
      return BLKIF_RSP.EOPNOTSUPP;
  }
}

/** With the segments: undefined, or the status that answers. */
export function refuseRead(request: BlkRequest, segments: readonly BlkSegment[], limits: BlkLimits): number | undefined {
  const { action, firstSector512, discardSectors } = request;
  if (segments.some((row) => row.lastSector >= 4096 / BLKIF_SECTOR_BYTES || row.firstSector > row.lastSector)) return BLKIF_RSP.ERROR;
  if (action !== BLKIF_OP.READ && limits.readOnly && (action === BLKIF_OP.DISCARD || segments.length > 0)) return BLKIF_RSP.ERROR;
  // A flush or a barrier may come without data, and then its sector says nothing.
  if ((action === BLKIF_OP.FLUSH_DISKCACHE || action === BLKIF_OP.WRITE_BARRIER) && segments.length === 0) return undefined;
  const sectors = action === BLKIF_OP.DISCARD ? discardSectors : bytesOf(segments) / BLKIF_SECTOR_BYTES;
  // Written so that NaN is refused.
  if (!(firstSector512 + sectors <= limits.sectors512)) return BLKIF_RSP.ERROR;
  const unit = limits.sectorBytes / BLKIF_SECTOR_BYTES;
  const aligned = firstSector512 % unit === 0 && sectors % unit === 0 && segments.every((row) => row.firstSector % unit === 0 && (row.lastSector + 1) % unit === 0);
  return aligned ? undefined : BLKIF_RSP.ERROR;
}
