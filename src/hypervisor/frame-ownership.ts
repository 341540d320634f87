// Frames change hands: a guest returns one, gets one, or has one stolen for a transfer or an exchange.
// Source: guest_remove_page() in xen/common/memory.c, steal_page() in xen/arch/x86/mm.c,
// assign_pages() in xen/common/page_alloc.c.
import { assert } from '../base/assert.ts';
import { ERRNO } from '../abi/errno.ts';
import type { Domain } from './domain.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER } from './frame-table.ts';
import { assignFrame, releaseFrame, takeFreeFrame, type Hypervisor } from './hypervisor.ts';
import { getPage, getPageAndOwner, putAllocation, putPage } from './page-types.ts';
import { flushBeforeReuse } from './tlb-clock.ts';

/** The domain gives a frame back; it is freed when the last mapping goes. 0, -EINVAL (no RAM), -ENXIO (not its own). */
export function removeFrame(hv: Hypervisor, domain: Domain, mfn: number): number {
  if (!hv.frames.has(mfn)) return -ERRNO.EINVAL;
  if (!getPage(hv, mfn, domain.domId)) return -ERRNO.ENXIO;
  putAllocation(hv, mfn);
  putPage(hv, mfn);
  return 0;
}

/**
 * Takes a frame away from its owner, who must hold the only reference. The frame then belongs to
 * nobody: give it on with adoptFrame() or free it with releaseFrame(). `counted`: the owner's total
 * goes down. `sole`: refuse a frame that anything else holds (always, but for tests). 0 or -EINVAL.
 */
export function stealFrame(hv: Hypervisor, domain: Domain, mfn: number, counted: boolean, sole = true): number {
  const { frames } = hv;
  if (!frames.has(mfn) || frames.refCount[mfn] === 0) return -ERRNO.EINVAL;
  const owner = getPageAndOwner(hv, mfn);
  const flags = frames.flags[mfn] as number;
  if (owner !== domain.domId || (flags & FRAME.xenHeap) !== 0 || (frames.refCount[mfn] !== 2 && sole) || (flags & FRAME.allocated) === 0) {
    if (owner !== FREE_OWNER) putPage(hv, mfn);
    return -ERRNO.EINVAL;
  }
  assert(!sole || frames.typeCount[mfn] === 0, () => `stolen while typed: ${frames.describe(mfn)}`);
  frames.refCount[mfn] = 0;
  frames.flags[mfn] = 0;
  frames.type[mfn] = FRAME_TYPE.none;
  frames.owner[mfn] = FREE_OWNER;
  if (counted) domain.totPages--;
  return 0;
}

/** A frame that belongs to nobody (stolen, or drawn from the pool) becomes the domain's. False: the domain has its limit. */
export function adoptFrame(hv: Hypervisor, domain: Domain, mfn: number, counted: boolean): boolean {
  if (counted && domain.totPages >= domain.maxPages) return false;
  assignFrame(hv, domain, mfn);
  if (!counted) domain.totPages--;
  return true;
}

/** Draws 2^order frames in a row, aligned; the first one, or undefined. They belong to nobody yet. */
export function takeFreeRun(hv: Hypervisor, order: number): number | undefined {
  if (order === 0) return takeFreeFrame(hv);
  const { frames } = hv;
  const length = 2 ** order;
  if (frames.freeCount < length) return undefined;
  // Which frames are in the pool, as bytes: only for this search.
  const pooled = new Uint8Array(frames.frameCount);
  for (let i = 0; i < frames.freeCount; i++) pooled[frames.freeList[i] as number] = 1;
  for (let first = 0; first + length <= frames.frameCount; first += length) {
    let n = 0;
    while (n < length && pooled[first + n] === 1) n++;
    if (n < length) continue;
    let kept = 0;
    for (let i = 0; i < frames.freeCount; i++) {
      const mfn = frames.freeList[i] as number;
      if (mfn < first || mfn >= first + length) frames.freeList[kept++] = mfn;
    }
    frames.freeCount = kept;
    for (let i = 0; i < length; i++) flushBeforeReuse(hv, first + i);
    return first;
  }
  return undefined;
}

/** Draws 2^order frames for the domain: the first one, or undefined (its limit, or no memory). */
export function allocRun(hv: Hypervisor, domain: Domain, order: number): number | undefined {
  if (domain.totPages + 2 ** order > domain.maxPages) return undefined;
  const first = takeFreeRun(hv, order);
  if (first !== undefined) for (let i = 0; i < 2 ** order; i++) assignFrame(hv, domain, first + i);
  return first;
}

/** Frees frames that belong to nobody. */
export function freeRun(hv: Hypervisor, first: number, order: number): void {
  for (let i = 0; i < 2 ** order; i++) releaseFrame(hv, first + i);
}
