// CPUID: what the simulated hardware reports, and what Xen reports to a PV guest that asks through
// the forced-emulation prefix (ud2a "xen" cpuid). Plain CPUID does not trap on this processor, so a
// PV guest sees the hardware's leaves; only the forced form shows Xen's signature and hides what
// PV guests may not use. Features are those that the x86 core really has.
// Sources: SDM vol. 2 CPUID; xen/arch/x86/cpuid.c, xen/include/public/arch-x86/cpufeatureset.h.
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';
import { timeScale } from './time.ts';
import { XEN_VERSION } from './xen-identity.ts';

export type CpuidLeaf = readonly [number, number, number, number];
const NONE: CpuidLeaf = [0, 0, 0, 0];

const F1_EDX = { FPU: 1 << 0, PSE: 1 << 3, TSC: 1 << 4, MSR: 1 << 5, PAE: 1 << 6, CX8: 1 << 8, PGE: 1 << 13, CMOV: 1 << 15, CLFSH: 1 << 19, MMX: 1 << 23, FXSR: 1 << 24, SSE: 1 << 25, SSE2: 1 << 26 } as const;
/** `CX16`: CMPXCHG16B, an instruction of 64-bit code. */
const F1_ECX = { CX16: 1 << 13, HYPERVISOR: 0x8000_0000 } as const;
/** LAHF and SAHF in 64-bit code. */
const FE_ECX_LAHF = 1;
const FE_EDX = { SYSCALL: 1 << 11, NX: 1 << 20, LM: 1 << 29 } as const;
/**
 * i386: family 6, model 8, stepping 3. x86-64: family 6, model 28, stepping 10, a processor that executes in
 * order and does not speculate; neither does this one, and kernels then patch nothing against it.
 */
const SIGNATURE = { 32: 0x683, 64: 0x106ca } as const;

/** Four letters as a little-endian word. */
const word = (text: string): number =>
  [...text.padEnd(4, '\0')].reduce((sum, char, index) => (sum | (char.charCodeAt(0) << (8 * index))) >>> 0, 0);
const words = (text: string): CpuidLeaf => [word(text.slice(0, 4)), word(text.slice(4, 8)), word(text.slice(8, 12)), word(text.slice(12, 16))];
const BRAND = { 32: 'Rexen simulated i686', 64: 'Rexen simulated x86-64' } as const;

const COMMON_EDX = F1_EDX.FPU | F1_EDX.PSE | F1_EDX.TSC | F1_EDX.MSR | F1_EDX.PAE | F1_EDX.CX8 | F1_EDX.PGE | F1_EDX.CMOV;
/** Bytes that CLFLUSH speaks of, in units of eight, where leaf 1 has it. */
const F1_EBX_CACHE_LINE = 8 << 8;
const VECTOR_EDX = F1_EDX.CLFSH | F1_EDX.MMX | F1_EDX.FXSR | F1_EDX.SSE | F1_EDX.SSE2;
/** 40 bits of physical, 48 of linear addresses. */
const ADDRESS_SIZES = 0x3028;

type Leaves = Readonly<Record<number, CpuidLeaf>>;
function hardwareLeaves(wordBits: 32 | 64): Leaves {
  const brand = BRAND[wordBits].padEnd(48, '\0');
  const wide = wordBits === 64;
  return {
    0: [2, word('Genu'), word('ntel'), word('ineI')],
    1: [SIGNATURE[wordBits], F1_EBX_CACHE_LINE, wide ? F1_ECX.CX16 : 0, COMMON_EDX | VECTOR_EDX],
    // Leaf 2 is asked once; no descriptors.
    2: [1, 0, 0, 0],
    0x8000_0000: [wide ? 0x8000_0008 : 0x8000_0004, 0, 0, 0],
    0x8000_0001: [0, 0, wide ? FE_ECX_LAHF : 0, FE_EDX.NX | (wide ? FE_EDX.SYSCALL | FE_EDX.LM : 0)],
    0x8000_0002: words(brand.slice(0, 16)),
    0x8000_0003: words(brand.slice(16, 32)),
    0x8000_0004: words(brand.slice(32, 48)),
    ...(wide ? { 0x8000_0008: [ADDRESS_SIZES, 0, 0, 0] as const } : {}),
  };
}
const HARDWARE: Readonly<Record<32 | 64, Leaves>> = { 32: hardwareLeaves(32), 64: hardwareLeaves(64) };

function hardwareLeaf(wordBits: 32 | 64, leaf: number): CpuidLeaf {
  const asked = leaf >>> 0;
  const row = HARDWARE[wordBits][asked];
  if (row !== undefined) return row;
  // Intel: a leaf beyond the last basic one answers as the last basic leaf.
  return asked >= 0x4000_0000 ? NONE : (HARDWARE[wordBits][2] as CpuidLeaf);
}

/** The hardware under a 32-bit guest, or a 64-bit one: give this to the processor (CpuOptions.cpuid). Pure. */
export const pvCpuid = (leaf: number, _subleaf: number): CpuidLeaf => hardwareLeaf(32, leaf);
export const pvCpuid64 = (leaf: number, _subleaf: number): CpuidLeaf => hardwareLeaf(64, leaf);

/** Hidden from PV guests: large pages, global pages. */
const PV_HIDDEN_F1_EDX = F1_EDX.PSE | F1_EDX.PGE;
const XEN_BASE = 0x4000_0000;
const XEN_LEAVES = 5;
const FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1;

/** What Xen answers to the forced form. cpuid_hypervisor_leaves() and the PV policy. */
export function forcedCpuid(hv: Hypervisor, vcpu: Vcpu, leaf: number, subleaf: number): CpuidLeaf {
  const asked = leaf >>> 0;
  if (asked >= XEN_BASE && asked <= XEN_BASE + XEN_LEAVES) return xenLeaf(hv, vcpu, asked - XEN_BASE, subleaf >>> 0);
  const [a, b, c, d] = hardwareLeaf(vcpu.domain.abi.wordBits, asked);
  if (asked !== 1) return [a, b, c, d];
  return [a, ((b & 0x00ff_ffff) | (vcpu.vcpuId << 25)) >>> 0, (c | F1_ECX.HYPERVISOR) >>> 0, (d & ~PV_HIDDEN_F1_EDX) >>> 0];
}

function xenLeaf(hv: Hypervisor, vcpu: Vcpu, index: number, subleaf: number): CpuidLeaf {
  const khz = hv.world.tscKhz();
  switch (index) {
    case 0:
      return [XEN_BASE + XEN_LEAVES, word('XenV'), word('MMXe'), word('nVMM')];
    case 1:
      return [XEN_VERSION.major * 0x1_0000 + XEN_VERSION.minor, 0, 0, 0];
    case 2:
      return [1, XEN_BASE, FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0];
    case 3: {
      const { mul, shift } = timeScale(khz * 1000);
      // Subleaf 0: not emulated, host TSC safe, default mode; 1: offset 0 and scale; 2: host kHz.
      return subleaf === 0 ? [2, 0, khz, 0] : subleaf === 1 ? [0, 0, mul, shift & 0xff] : subleaf === 2 ? [khz, 0, 0, 0] : NONE;
    }
    case 5: {
      const addressBits = 32 - Math.clz32(hv.machine.frameCount - 1) + 12;
      return vcpu.domain.abi.wordBits > 0 && subleaf === 0 ? [0, addressBits, 0, 0] : NONE;
    }
    default:
      return NONE;
  }
}
