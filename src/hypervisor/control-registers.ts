// Control registers of a PV guest: what MOV reads and may write. Only TS of CR0 and two bits of CR4 are
// the guest's own. Source: read_cr() and write_cr() in xen/arch/x86/pv/emul-priv-op.c.
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { switchBaseByCr3 } from './mm-doors.ts';
import { setSharedCr2 } from './shared-info.ts';

/** CR0 as a PV guest sees it: PG AM WP NE ET MP PE, and its own TS. */
const CR0_FIXED = 0x8005_0033;
const CR0_TS = 0x8;
/** Guest-controlled CR4 bits that exist here (TSD, DE), and the hardware bit it is shown. */
const CR4_GUEST = 0x4 | 0x8;
const CR4_PAE = 0x20;
/** OSFXSR and OSXMMEXCPT, of a processor with SSE. */
const CR4_SSE = 0x600;

/** HYPERVISOR_fpu_taskswitch and CLTS. */
export function setTaskSwitched(vcpu: Vcpu, on: boolean): void {
  vcpu.taskSwitched = on;
  const cpu = vcpu.cpu;
  if (cpu !== undefined) cpu.setCr(0, on ? cpu.cr(0) | CR0_TS : cpu.cr(0) & ~CR0_TS);
}

/** A frame number in CR3; folded into 32 bits for 32-bit guests: xen_pfn_to_cr3(), compat_pfn_to_cr3(). */
const mfnToCr3 = (vcpu: Vcpu, mfn: number): number => (vcpu.domain.abi.wordBits === 64 ? mfn * 4096 : ((mfn << 12) | (mfn >>> 20)) >>> 0);
const cr3ToMfn = (vcpu: Vcpu, cr3: number): number => (vcpu.domain.abi.wordBits === 64 ? Math.floor(cr3 / 4096) : ((cr3 >>> 12) | (cr3 << 20)) >>> 0);

/** What MOV from the register gives (CR2 of a 64-bit guest: signed canonical); undefined: there is none of that number. */
export function readControlRegister(vcpu: Vcpu, register: number): number | undefined {
  switch (register) {
    case 0: return (CR0_FIXED | (vcpu.taskSwitched ? CR0_TS : 0)) >>> 0;
    case 2: return vcpu.cr2Guest;
    case 3: return mfnToCr3(vcpu, vcpu.guestTableMfn);
    case 4: return (vcpu.cr4Guest & CR4_GUEST) | (vcpu.domain.abi.levels > 2 ? CR4_PAE : 0) | CR4_SSE;
    default: return undefined;
  }
}

/** MOV to the register. False: the guest gets its #GP. */
export function writeControlRegister(hv: Hypervisor, vcpu: Vcpu, register: number, value: number): boolean {
  switch (register) {
    case 0:
      if (value < 0 || value > 0xffff_ffff || ((value ^ CR0_FIXED) & ~CR0_TS) !== 0) return false;
      setTaskSwitched(vcpu, (value & CR0_TS) !== 0);
      return true;
    case 2:
      vcpu.cr2Guest = value;
      setSharedCr2(hv, vcpu, value);
      return true;
    case 3:
      return value >= 0 && switchBaseByCr3(hv, vcpu, cr3ToMfn(vcpu, value));
    case 4: {
      const { cpu } = vcpu;
      vcpu.cr4Guest = value & CR4_GUEST;
      cpu?.setCr(4, (cpu.cr(4) & ~CR4_GUEST) | vcpu.cr4Guest);
      return true;
    }
    default:
      return false;
  }
}
