// Stale translations. A processor may keep them; Xen makes sure that they are gone before a frame
// becomes something that they must not reach. A clock counts full flushes; a frame remembers the
// clock of its last use, a vCPU that of its last flush: only who was not flushed since is.
// Source: page_set_tlbflush_timestamp(), tlbflush_filter() and the flushes in _get_page_type() and
// alloc_heap_pages() in Xen. Xen asks the owner's processors when a type changes; here all vCPUs are
// asked, since every vCPU has a TLB of its own that lives on while another domain runs.
import type { Domain, Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

/** The vCPU's whole TLB is dropped; the clock tells later type changes that it was. */
export function flushVcpuTlb(hv: Hypervisor, vcpu: Vcpu): void {
  vcpu.cpu?.flushTlb(false);
  hv.frames.tlbClock++;
  vcpu.tlbFlushedAt = hv.frames.tlbClock;
}

export function flushDomainTlb(hv: Hypervisor, domain: Domain): void {
  for (const vcpu of domain.vcpus) flushVcpuTlb(hv, vcpu);
}

/** Flushes the vCPUs that have not been flushed since the frame was last used as what it was. */
export function flushIfStale(hv: Hypervisor, mfn: number): void {
  const stamp = hv.frames.tlbStamp[mfn] as number;
  for (const domain of hv.domains.values()) for (const vcpu of domain.vcpus) if (stamp >= vcpu.tlbFlushedAt) flushVcpuTlb(hv, vcpu);
}

/** A frame from the pool is about to be somebody's. One that was never released has the stamp 0 and is in no TLB. */
export function flushBeforeReuse(hv: Hypervisor, mfn: number): void {
  if (hv.frames.tlbStamp[mfn] !== 0) flushIfStale(hv, mfn);
}
