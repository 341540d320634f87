// Kernel and user mode of a 64-bit guest. Both run in ring 3: what tells them apart is a flag of Xen's,
// the base table (MMUEXT_NEW_BASEPTR, NEW_USER_BASEPTR) and the GS base, which Xen swaps as the
// processor's own SWAPGS would. The base of the mode that is not running is kept in the vCPU's record.
//
// The translations of the two modes are kept apart, as a processor with process-context identifiers
// keeps them, so that a switch flushes nothing.
// Source: toggle_guest_mode() and _toggle_guest_pt() in xen/arch/x86/pv/domain.c.
import type { Cpu } from '../x86/cpu.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { writeStaleAreas } from './time.ts';

export const segmentBase = (vcpu: Vcpu, index: number): number => (vcpu.cpu as Cpu).segment(index).base;
/** Only the hidden base changes: the selector stays, as with WRMSR of FS_BASE and GS_BASE. */
export const setSegmentBase = (vcpu: Vcpu, index: number, base: number): void => vcpu.cpu?.setSegmentBase(index, base);

/** The table that the processor walks in the vCPU's present mode. */
export const baseTableMfn = (vcpu: Vcpu): number => (vcpu.domain.abi.levels === 4 && !vcpu.kernelMode ? vcpu.userTableMfn : vcpu.guestTableMfn);

/** Into the other mode. The caller has made sure that there is a user table to go to. */
export function toggleGuestMode(hv: Hypervisor, vcpu: Vcpu): void {
  const { segmentBases } = vcpu;
  const active = segmentBase(vcpu, SEG.gs);
  if (vcpu.kernelMode) segmentBases.gsKernel = active;
  else segmentBases.gsUser = active;
  vcpu.kernelMode = !vcpu.kernelMode;
  setSegmentBase(vcpu, SEG.gs, vcpu.kernelMode ? segmentBases.gsKernel : segmentBases.gsUser);
  vcpu.cpu?.switchTables(!vcpu.kernelMode, baseTableMfn(vcpu) * 4096);
  // What could not be written through the user's tables.
  if (vcpu.kernelMode) writeStaleAreas(hv, vcpu);
}
