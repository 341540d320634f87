// The few doors of memory management that traps and emulation go through.
import type { Exception } from '../x86/exit.ts';
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

/** A page fault that Xen handles itself (a store to a page table): true if the guest goes on. */
export function handlePageFault(_hv: Hypervisor, _vcpu: Vcpu, _exception: Exception): boolean {
  return false;
}

/** MOV to CR3 by the guest kernel: true if the vCPU runs on that table now. */
export function switchBaseByCr3(_hv: Hypervisor, _vcpu: Vcpu, _mfn: number): boolean {
  return false;
}
