// What a domain holds besides its memory is given back when it ends: event channels, grants, frames
// that Xen kept mapped for it. Step 0 of destroyDomain().
// Source: evtchn_destroy(), gnttab_release_mappings(), unmap_guest_area() in Xen.
import type { Domain } from './domain.ts';
import { releaseWritableFrame } from './frame-hold.ts';
import { destroyGrantTable } from './grant-table-control.ts';
import { resetEventChannels } from './hypercalls/event-channel.ts';
import type { Hypervisor } from './hypervisor.ts';

/** The domain runs no more; its page tables still stand. */
export function releaseChannelsAndGrants(hv: Hypervisor, domain: Domain): void {
  resetEventChannels(hv, domain);
  for (const vcpu of domain.vcpus) {
    if (vcpu.vcpuInfoMfn !== 0) releaseWritableFrame(hv, domain, vcpu.vcpuInfoMfn);
    vcpu.vcpuInfoMfn = 0;
    vcpu.vcpuInfoMaddr = 0;
  }
  if (domain.pirqEoiMfn !== undefined) releaseWritableFrame(hv, domain, domain.pirqEoiMfn);
  delete domain.pirqEoiMfn;
  destroyGrantTable(hv, domain);
}
