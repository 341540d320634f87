// Debug registers of a PV guest: what it wrote, checked as Xen checks, and loaded into the processor.
// Source: set_debugreg() in xen/arch/x86/pv/misc-hypercalls.c, x86emul_read_dr(), arch/x86/debug.c.
// Not here: I/O breakpoints (Xen emulates them; here they are kept but never hit).
import type { Vcpu } from './domain.ts';

const CR4_DE = 0x8;
const DR6_FIXED_ONES = 0xffff_0ff0;
const DR6_ZEROS = 0x1000;
const DR7_FIXED_ONE = 0x400;
const DR7_ZEROS = 0xd000 | 0x800;
const DR7_GENERAL_DETECT = 0x2000;
const DR7_ACTIVE = 0xff;
const DR_IO = 2;

/** Registers 4 and 5 are the old names of 6 and 7 unless CR4.DE is set. */
const canonical = (vcpu: Vcpu, register: number): number | undefined => {
  if (register !== 4 && register !== 5) return register >= 0 && register <= 7 ? register : undefined;
  return (vcpu.cr4Guest & CR4_DE) !== 0 ? undefined : register + 2;
};

/** undefined: no such register (#UD, ENODEV). DR0 to DR3 of 64-bit guests are signed canonical. */
export function readDebugRegister(vcpu: Vcpu, register: number): number | undefined {
  const index = canonical(vcpu, register);
  return index === undefined ? undefined : (vcpu.debugRegs[index] as number);
}

/** May a breakpoint lie there? Not in Xen's own range. breakpoint_addr_ok(). */
const breakpointOk = (vcpu: Vcpu, value: number): boolean =>
  vcpu.domain.abi.wordBits === 32 ? value < 0x1_0000_0000 : value >= 0 || value >= -0x7800_0000_0000;

/** `value` is 32 bits, or for DR0 to DR3 of 64-bit guests an address. Returns the refusal, or undefined when written. */
export function writeDebugRegister(vcpu: Vcpu, register: number, value: number): 'ENODEV' | 'EPERM' | 'EINVAL' | undefined {
  const index = canonical(vcpu, register);
  if (index === undefined) return 'ENODEV';
  if (index <= 3) {
    if (!breakpointOk(vcpu, value)) return 'EPERM';
    vcpu.debugRegs[index] = value;
    vcpu.cpu?.setDr(index, value);
    return undefined;
  }
  if (value < 0 || value > 0xffff_ffff) return 'EINVAL';
  const fixed = index === 6 ? ((value | DR6_FIXED_ONES) & ~DR6_ZEROS) >>> 0 : ((value & ~DR7_ZEROS) | DR7_FIXED_ONE) >>> 0;
  if (index === 7) {
    if ((value & DR7_GENERAL_DETECT) !== 0) return 'EPERM';
    if ((value & DR7_ACTIVE) !== 0 && (vcpu.cr4Guest & CR4_DE) === 0) {
      for (let shift = 16; shift < 32; shift += 4) if (((value >>> shift) & 3) === DR_IO) return 'EPERM';
    }
  }
  vcpu.debugRegs[index] = fixed;
  vcpu.cpu?.setDr(index, fixed);
  return undefined;
}
