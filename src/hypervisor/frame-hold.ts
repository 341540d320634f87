// Frames of a guest that Xen itself keeps mapped writable while it needs them: control blocks and
// arrays of the FIFO event ABI, registered vcpu_info. Each holds one reference and one "writable"
// type count, so that the guest can neither free the frame nor turn it into a page table.
// Source: map_guest_page() in xen/common/event_fifo.c, map_guest_area() in xen/common/domain.c.
import type { Domain } from './domain.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';

/** get_page_from_gfn() and get_page_type(PGT_writable_page): false when either is refused. */
export function holdWritableFrame(hv: Hypervisor, domain: Domain, mfn: number): boolean {
  const { frames } = hv;
  if (!frames.has(mfn) || frames.owner[mfn] !== domain.domId || frames.refCount[mfn] === 0) return false;
  const count = frames.typeCount[mfn] as number;
  if (frames.type[mfn] !== FRAME_TYPE.writable) {
    if (count !== 0) return false;
    frames.type[mfn] = FRAME_TYPE.writable;
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.validated;
  }
  frames.typeCount[mfn] = count + 1;
  frames.refCount[mfn] = (frames.refCount[mfn] as number) + 1;
  return true;
}

/** put_page_and_type(). */
export function releaseWritableFrame(hv: Hypervisor, _domain: Domain, mfn: number): void {
  const { frames } = hv;
  frames.typeCount[mfn] = (frames.typeCount[mfn] as number) - 1;
  frames.refCount[mfn] = (frames.refCount[mfn] as number) - 1;
}
