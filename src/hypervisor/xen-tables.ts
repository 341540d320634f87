// Xen's own frames and page tables: the machine-to-phys tables and the tables that map them
// read-only into every guest, one set per shape. Guests' roots (pv64: slots 256..271; PAE: slot 3's
// L2 from the index of hypervisorVirtStart; two-level: the L2 from there) point at these.
//
//   RAM:  [ low 1 MiB ][ "Xen image" ][ m2p 4-byte ][ m2p 8-byte ][ tables ]  then the pool
//
// Source of the places: xen/include/public/arch-x86/xen-x86_{32,64}.h. The real hypervisor maps the
// m2p with superpages where it can; guests cannot see the difference.
import { PAGE_SHIFT } from '../base/brand.ts';
import type { FrameTable } from './frame-table.ts';
import { INVALID_M2P } from './frame-table.ts';

export interface XenTables {
  /** A page of the Xen image, for tests that name one. */
  readonly imageMfn: number;
  /** PAE: entry values (frames) of the L1 tables for L2 slots from hypervisorVirtStart on. */
  readonly paeL1Mfns: readonly number[];
  /** Two-level: the same for 4-byte entries. */
  readonly twoLevelL1Mfns: readonly number[];
  /** Four-level: the L3 for root slot 256. */
  readonly fourLevelL3Mfn: number;
  /** First and last+1 frame of everything here. */
  readonly firstMfn: number;
  readonly endMfn: number;
}

/** Flags of Xen's entries that guests may read through: present, accessed; USER for pv64 (its kernel runs in ring 3). */
const XEN_RO = 0x21;
const XEN_RO_USER = 0x25;
const XEN_TABLE = 0x67;
const IMAGE_FRAMES = 4;

/** Takes frames from `firstMfn` up, fills them, and says where the pool begins. */
export function buildXenTables(frames: FrameTable, firstMfn: number): { tables: XenTables; nextMfn: number } {
  const { machine } = frames;
  let next = firstMfn;
  const take = (count: number): number => {
    const first = next;
    for (; next < first + count; next++) {
      frames.makeXenFrame(next);
      machine.fillFrame(next, 0);
    }
    return first;
  };
  const imageMfn = take(IMAGE_FRAMES);
  frames.m2p32Mfn = take(frames.m2pFrames(4));
  frames.m2p64Mfn = take(frames.m2pFrames(8));
  for (let mfn = frames.m2p32Mfn; mfn < next; mfn++) machine.fillFrame(mfn, INVALID_M2P & 0xff);

  const setEntry = (tableMfn: number, index: number, bytes: 4 | 8, mfn: number, flags: number): void => {
    const at = tableMfn * 4096 + index * bytes;
    machine.writeU32(at, ((mfn << PAGE_SHIFT) | flags) >>> 0);
    if (bytes === 8) machine.writeU32(at + 4, mfn >>> 20);
  };
  /** L1 tables that map `count` frames from `mfn` on. */
  const mapFrames = (mfn: number, count: number, bytes: 4 | 8, flags: number): number[] => {
    const perTable = 4096 / bytes;
    const tables: number[] = [];
    for (let i = 0; i < count; i++) {
      if (i % perTable === 0) tables.push(take(1));
      setEntry(tables[tables.length - 1] as number, i % perTable, bytes, mfn + i, flags);
    }
    return tables;
  };
  const paeL1Mfns = mapFrames(frames.m2p32Mfn, frames.m2pFrames(4), 8, XEN_RO);
  const twoLevelL1Mfns = mapFrames(frames.m2p32Mfn, frames.m2pFrames(4), 4, XEN_RO);
  const l1s = mapFrames(frames.m2p64Mfn, frames.m2pFrames(8), 8, XEN_RO_USER);
  const l2 = take(1);
  l1s.forEach((mfn, index) => setEntry(l2, index, 8, mfn, XEN_TABLE));
  const fourLevelL3Mfn = take(1);
  setEntry(fourLevelL3Mfn, 0, 8, l2, XEN_TABLE);
  return { tables: { imageMfn, paeL1Mfns, twoLevelL1Mfns, fourLevelL3Mfn, firstMfn, endMfn: next }, nextMfn: next };
}
