// Model-specific registers as a PV guest may read and write them. One row per register; what has no
// row faults (#GP), except that Xen fakes a zero for guests that have set no #GP handler yet.
// Source: read_msr() and write_msr() in xen/arch/x86/pv/emul-priv-op.c, xen/arch/x86/msr.c.
import { VECTOR } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { segmentBase, setSegmentBase } from './guest-mode.ts';
import { isCanonical, vaddrToWord, wordToVaddr, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';

export type MsrValue = Word;

interface MsrRow {
  readonly name: string;
  readonly read: (hv: Hypervisor, vcpu: Vcpu) => MsrValue;
  /** Default: refused. 'same': only what it reads as. 'ignored': any value, without effect. */
  readonly write?: 'same' | 'ignored' | ((vcpu: Vcpu, vaddr: number) => void);
  /** There is none for 32-bit guests. */
  readonly wideOnly?: true;
}

const word = (lo: number, hi = 0): MsrValue => ({ lo: lo >>> 0, hi: hi >>> 0 });
const constant = (lo: number, hi = 0) => (): MsrValue => word(lo, hi);

const APIC_BASE_ENABLED = 0xfee0_0800;
const APIC_BASE_BSP = 0x100;
const EFER_NXE = 0x800;
/** SCE, LME and LMA: shown to 64-bit guests alone. */
const EFER_LONG = 0x501;

/** A segment's base: any canonical address may be written. */
const baseRow = (name: string, read: (vcpu: Vcpu) => number, write: (vcpu: Vcpu, vaddr: number) => void): MsrRow => ({
  name, wideOnly: true, read: (_hv, vcpu) => vaddrToWord(read(vcpu)), write,
});

export const MSR_ROWS: Readonly<Record<number, MsrRow>> = {
  0x10: { name: 'TSC', read: (_hv, vcpu) => word(Number((vcpu.cpu?.tsc() ?? 0n) & 0xffff_ffffn), Number(((vcpu.cpu?.tsc() ?? 0n) >> 32n) & 0xffff_ffffn)) },
  0x17: { name: 'IA32_PLATFORM_ID', read: constant(0) },
  0x1b: { name: 'APIC_BASE', read: (_hv, vcpu) => word(APIC_BASE_ENABLED | (vcpu.vcpuId === 0 ? APIC_BASE_BSP : 0)) },
  0x3a: { name: 'IA32_FEATURE_CONTROL', read: constant(1) },
  0x8b: { name: 'IA32_UCODE_REV', read: constant(0), write: 'ignored' },
  0xce: { name: 'INTEL_PLATFORM_INFO', read: constant(0) },
  0x140: { name: 'INTEL_MISC_FEATURES_ENABLES', read: constant(0), write: 'same' },
  0x179: { name: 'IA32_MCG_CAP', read: constant(0) },
  0x17a: { name: 'IA32_MCG_STATUS', read: constant(0), write: 'ignored' },
  0x198: { name: 'IA32_PERF_STATUS', read: constant(0) },
  0x199: { name: 'IA32_PERF_CTL', read: constant(0), write: 'ignored' },
  0x19c: { name: 'IA32_THERM_STATUS', read: constant(0) },
  // Fast strings, and the bits of guest_misc_enable(): no BTS, no PEBS, xTPR messages disabled.
  0x1a0: { name: 'IA32_MISC_ENABLE', read: constant(0x0080_1801), write: 'ignored' },
  0x277: { name: 'IA32_CR_PAT', read: constant(0x0007_0406, 0x0005_0100) },
  0x345: { name: 'IA32_PERF_CAPABILITIES', read: constant(0) },
  0xc000_0080: { name: 'EFER', read: (_hv, vcpu) => word((vcpu.cpu?.efer() ?? 0) & (EFER_NXE | (vcpu.domain.abi.wordBits === 64 ? EFER_LONG : 0))), write: 'same' },
  0xc000_0100: baseRow('FS_BASE', (vcpu) => segmentBase(vcpu, SEG.fs), (vcpu, base) => setSegmentBase(vcpu, SEG.fs, base)),
  0xc000_0101: baseRow('GS_BASE', (vcpu) => segmentBase(vcpu, SEG.gs), (vcpu, base) => setSegmentBase(vcpu, SEG.gs, base)),
  // The base of the other mode: only the kernel asks.
  0xc000_0102: baseRow('SHADOW_GS_BASE', (vcpu) => vcpu.segmentBases.gsUser, (vcpu, base) => void (vcpu.segmentBases.gsUser = base)),
};

function rowFor(vcpu: Vcpu, msr: number): MsrRow | undefined {
  const row = MSR_ROWS[msr];
  return row?.wideOnly === true && vcpu.domain.abi.wordBits === 32 ? undefined : row;
}

/** undefined: #GP. */
export function readMsr(hv: Hypervisor, vcpu: Vcpu, msr: number): MsrValue | undefined {
  const row = rowFor(vcpu, msr);
  if (row !== undefined) return row.read(hv, vcpu);
  const hasHandler = (vcpu.traps[VECTOR.GP]?.address ?? 0) !== 0;
  return hasHandler || msr >>> 16 === 0x4000 ? undefined : word(0);
}

/** False: #GP. */
export function writeMsr(hv: Hypervisor, vcpu: Vcpu, msr: number, value: MsrValue): boolean {
  const row = rowFor(vcpu, msr);
  if (row?.write === undefined) return false;
  if (row.write === 'ignored') return true;
  if (typeof row.write === 'function') {
    if (!isCanonical(value)) return false;
    row.write(vcpu, wordToVaddr(value));
    return true;
  }
  const now = row.read(hv, vcpu);
  return now.lo === value.lo && now.hi === value.hi;
}
