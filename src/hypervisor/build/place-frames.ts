// Which machine frames a new domain gets: runs of the free pool, in an order that the world chooses,
// so that frame numbers are never pseudo-physical ones by accident. Runs stand for the 2 MiB extents
// that a real toolstack asks for; a large domain gets longer ones, so that its choices stay few.
import { assert } from '../../base/assert.ts';
import type { Domain } from '../domain.ts';
import { assignFrame, type Hypervisor } from '../hypervisor.ts';

const EXTENT_FRAMES = 512;
const MOST_RUNS = 32;

/** mfns by pfn; all belong to the domain then and are in the machine-to-phys table. The caller has made sure that there are enough. */
export function placeFrames(hv: Hypervisor, domain: Domain, count: number): number[] {
  const { frames } = hv;
  assert(frames.freeCount >= count, `${count} frames wanted, ${frames.freeCount} are free`);
  const runFrames = Math.max(EXTENT_FRAMES, Math.ceil(count / MOST_RUNS / EXTENT_FRAMES) * EXTENT_FRAMES);
  const mfns: number[] = [];
  while (mfns.length < count) {
    const length = Math.min(runFrames, count - mfns.length);
    const slots = Math.floor(frames.freeCount / length);
    // The list is a stack with the lowest frame on top: runs are counted from the top.
    const at = frames.freeCount - (hv.world.choose('memory.placement', slots) + 1) * length;
    for (let i = at + length - 1; i >= at; i--) mfns.push(frames.freeList[i] as number);
    frames.freeList.copyWithin(at, at + length, frames.freeCount);
    frames.freeCount -= length;
  }
  mfns.forEach((mfn, pfn) => {
    assignFrame(hv, domain, mfn);
    frames.setM2p(mfn, pfn);
  });
  return mfns;
}
