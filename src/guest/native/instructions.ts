// Hooks that are the same on bare hardware and on Xen: instructions that Xen lets a guest execute or emulates for it, and
// devices that neither has here.
import { nothing, OP, REG, type MachinePort } from '../operations.ts';
import type { PvApic, PvCpu } from '../paravirt-ops/index.ts';

type SharedCpu = Pick<PvCpu, 'read_cr0' | 'read_cr4' | 'read_cr4_safe' | 'wbinvd' | 'io_delay' | 'cpuid' | 'read_msr' | 'write_msr' | 'read_tsc' | 'read_pmc' | 'irq_enable_sysexit'>;

export const sharedCpu = (m: MachinePort): SharedCpu => ({
  *read_cr0() { return yield m.op(OP.readCr0); },
  *read_cr4() { return yield m.op(OP.readCr4); },
  *read_cr4_safe() { return yield m.op(OP.readCr4); },
  *wbinvd() { yield m.op(OP.wbinvd); },
  io_delay: nothing,
  *cpuid(leaf, subleaf) {
    const op = m.op(OP.cpuid, 0, leaf);
    op.c = subleaf;
    const eax = yield op;
    return [eax, m.registers.reg(REG.ebx), m.registers.reg(REG.ecx), m.registers.reg(REG.edx)];
  },
  *read_msr(msr) {
    const op = m.op(OP.rdmsr);
    op.c = msr;
    const lo = yield op;
    return { lo, hi: m.hi };
  },
  *write_msr(msr, lo, hi) {
    const op = m.op(OP.wrmsr, 0, lo);
    op.c = msr;
    op.d = hi;
    yield op;
    return 0;
  },
  *read_tsc() {
    const lo = yield m.tsc();
    return m.hi * 0x1_0000_0000 + lo;
  },
  *read_pmc() { return 0; },
  irq_enable_sysexit: nothing,
});

/** No APIC: writes vanish, reads give 0. */
export const noApic: PvApic = { apic_write: nothing, *apic_read() { return 0; }, setup_boot_clock: nothing, setup_secondary_clock: nothing, startup_ipi_hook: nothing };
