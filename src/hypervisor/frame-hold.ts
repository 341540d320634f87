// Frames of a guest that Xen itself keeps mapped writable while it needs them: control blocks and
// arrays of the FIFO event ABI, registered vcpu_info. Each holds one reference and one "writable"
// type count, so that the guest can neither free the frame nor turn it into a page table.
// Source: map_guest_page() in xen/common/event_fifo.c, map_guest_area() in xen/common/domain.c.
import type { Domain } from './domain.ts';
import { FRAME_TYPE } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { getPageAndType, putPageAndType } from './page-types.ts';

/** get_page_from_gfn() and get_page_type(PGT_writable_page): false when either is refused. */
export const holdWritableFrame = (hv: Hypervisor, domain: Domain, mfn: number): boolean => getPageAndType(hv, mfn, domain.domId, FRAME_TYPE.writable);

/** put_page_and_type(). */
export const releaseWritableFrame = (hv: Hypervisor, _domain: Domain, mfn: number): void => putPageAndType(hv, mfn);
