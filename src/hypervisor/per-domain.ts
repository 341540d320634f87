// The part of Xen's address range that differs between domains: the windows through which the
// processor reads a vCPU's descriptor tables. A guest gives Xen frames (set_gdt, MMUEXT_SET_LDT); the
// processor needs a linear address, so Xen maps the frames here, in slots of the page tables that the
// guest cannot change.
//
//   PER_DOMAIN_VIRT_START + vcpuId * 128 KiB:  [ 14 GDT pages | Xen's own page | - | 16 LDT pages ]
//
// Xen's own GDT page follows the guest's 14 * 512 entries: it holds the flat segments that every
// guest starts with (0xe019, 0xe021, ...). Pages are mapped read-only, since a 32-bit guest kernel
// runs in ring 1, for which paging is no barrier; so the processor faults when it wants to set a
// descriptor's accessed bit, and Xen sets it then (markDescriptorAccessed in ldt.ts).
//
// Sources: GDT_VIRT_START and FIRST_RESERVED_GDT_ENTRY in xen/arch/x86/include/asm; the descriptors
// of boot_gdt and boot_compat_gdt in xen/arch/x86/boot and desc.c; for i386 as in Xen 3.x.
import { assert } from '../base/assert.ts';
import type { Domain, Vcpu } from './domain.ts';
import { ABIS, MACHPHYS_VIRT_END, type Abi, type AbiName } from './personality.ts';
import { takeFreeFrame, type Hypervisor } from './hypervisor.ts';
import { PTE } from './page-walk.ts';

/** Start of the window in 32-bit guests' tables (both shapes), and in four-level ones (slot 260). */
export const PER_DOMAIN_VIRT_START_32 = 0xfe80_0000;
export const PER_DOMAIN_VIRT_START_64 = -0x7e00_0000_0000;
export const PER_DOMAIN_ROOT_SLOT_64 = 260;
/** Linear bytes for each vCPU: 16 pages of GDT and 16 of LDT. */
const VCPU_STRIDE = 0x2_0000;
const LDT_OFFSET = 0x1_0000;
/** Entries that a guest may own; Xen's follow. */
export const FIRST_RESERVED_GDT_ENTRY = 14 * 512;
export const GDT_LIMIT = (FIRST_RESERVED_GDT_ENTRY + 512) * 8 - 1;
/** vCPUs that fit one L1 table (PAE 512 entries; two-level ones have room for more). */
export const PER_DOMAIN_VCPUS = 16;

/** Index in Xen's GDT page, and the descriptor as high and low half. Accessed already. */
const FLAT_32: readonly (readonly [number, number, number])[] = [
  [3, 0x00cf_bb00, 0x0000_ffff], // 0xe019 ring 1 code
  [4, 0x00cf_b300, 0x0000_ffff], // 0xe021 ring 1 data
  [5, 0x00cf_fb00, 0x0000_ffff], // 0xe02b ring 3 code
  [6, 0x00cf_f300, 0x0000_ffff], // 0xe033 ring 3 data
];
const FLAT_64: readonly (readonly [number, number, number])[] = [
  [4, 0x00cf_fb00, 0x0000_ffff], // 0xe023 ring 3 code, 32-bit
  [5, 0x00cf_f300, 0x0000_ffff], // 0xe02b ring 3 data
  [6, 0x00af_fb00, 0x0000_ffff], // 0xe033 ring 3 code, 64-bit
];

/** The rows of an ABI; on 32-bit Xen they end where machine-to-phys does (GUEST_DESC, xen/arch/x86/boot/x86_32.S of 3.x). */
function flatRows(abi: Abi): typeof FLAT_32 {
  if (abi.wordBits === 64) return FLAT_64;
  if (!abi.onXen3) return FLAT_32;
  const last = MACHPHYS_VIRT_END[abi.name] / 4096 - 1;
  return FLAT_32.map(([index, high]) => [index, (high & ~0xf0000) | (last & 0xf0000), last & 0xffff]);
}

/** The flat descriptor of Xen's page that a selector names, undefined for others. */
export function reservedDescriptor(abi: AbiName, selector: number): { readonly lo: number; readonly hi: number } | undefined {
  const row = flatRows(ABIS[abi]).find(([index]) => FIRST_RESERVED_GDT_ENTRY + index === selector >>> 3);
  return row === undefined ? undefined : { hi: row[1], lo: row[2] };
}

export interface PerDomain {
  /** The frame that Xen's slot in the guest's tables points to: an L1 (32-bit) or an L3 (pv64). */
  readonly slotMfn: number;
  readonly l1Mfn: number;
  /** Xen's own page of the GDT. */
  readonly reservedGdtMfn: number;
  /** Zeros: what the processor reads where the guest has given no GDT frame (zero_page in Xen). */
  readonly zeroMfn: number;
}

/** Takes the frames (Xen's, not the domain's). undefined: the pool is empty. */
export function createPerDomain(hv: Hypervisor, domain: Domain): PerDomain | undefined {
  const wide = domain.abi.wordBits === 64;
  if (hv.frames.freeCount < 5) return undefined;
  const take = (): number => {
    const mfn = takeFreeFrame(hv) as number;
    hv.frames.makeXenFrame(mfn);
    hv.machine.fillFrame(mfn, 0);
    return mfn;
  };
  const reservedGdtMfn = take();
  for (const [index, high, low] of flatRows(domain.abi)) {
    hv.machine.writeU32(reservedGdtMfn * 4096 + index * 8, low);
    hv.machine.writeU32(reservedGdtMfn * 4096 + index * 8 + 4, high);
  }
  const l1Mfn = take();
  let slotMfn = l1Mfn;
  if (wide) {
    for (let level = 2; level <= 3; level++) {
      const above = take();
      writeEntry(hv, above, 0, 8, slotMfn, PTE.present | PTE.rw | PTE.accessed | PTE.dirty);
      slotMfn = above;
    }
  }
  return { slotMfn, l1Mfn, reservedGdtMfn, zeroMfn: take() };
}

const vcpuBase = (vcpu: Vcpu): number =>
  (vcpu.domain.abi.wordBits === 64 ? PER_DOMAIN_VIRT_START_64 : PER_DOMAIN_VIRT_START_32) + vcpu.vcpuId * VCPU_STRIDE;
export const gdtVaddr = (vcpu: Vcpu): number => vcpuBase(vcpu);
export const ldtVaddr = (vcpu: Vcpu): number => vcpuBase(vcpu) + LDT_OFFSET;

/** Maps vcpu.gdtFrames and Xen's page into the vCPU's window and loads GDTR. The caller has checked and counted the frames. */
export function loadGdt(hv: Hypervisor, vcpu: Vcpu): void {
  const { perDomain } = vcpu.domain;
  assert(perDomain !== undefined, () => `d${vcpu.domain.domId} has no per-domain window`);
  assert(vcpu.vcpuId < PER_DOMAIN_VCPUS, () => `vCPU ${vcpu.vcpuId} has no window`);
  for (let page = 0; page < 14; page++) mapPage(hv, vcpu, page, vcpu.gdtFrames[page] ?? perDomain.zeroMfn);
  mapPage(hv, vcpu, 14, perDomain.reservedGdtMfn);
  vcpu.cpu?.setGdtr(gdtVaddr(vcpu), GDT_LIMIT);
}

/** Maps one page of an LDT (0..15), or with undefined unmaps it. */
export function mapLdtPage(hv: Hypervisor, vcpu: Vcpu, page: number, mfn: number | undefined): void {
  assert(page >= 0 && page < 16, () => `LDT page ${page}`);
  mapPage(hv, vcpu, 16 + page, mfn);
}

function mapPage(hv: Hypervisor, vcpu: Vcpu, page: number, mfn: number | undefined): void {
  const { l1Mfn } = vcpu.domain.perDomain as PerDomain;
  const bytes = vcpu.domain.abi.pteBytes;
  const index = vcpu.vcpuId * (VCPU_STRIDE / 4096) + page;
  writeEntry(hv, l1Mfn, index, bytes, mfn ?? 0, mfn === undefined ? 0 : PTE.present | PTE.accessed);
  vcpu.cpu?.invlpg(vcpuBase(vcpu) + page * 4096);
}

function writeEntry(hv: Hypervisor, tableMfn: number, index: number, bytes: 4 | 8, mfn: number, flags: number): void {
  const at = tableMfn * 4096 + index * bytes;
  hv.machine.writeU32(at, ((mfn << 12) | flags) >>> 0);
  if (bytes === 8) hv.machine.writeU32(at + 4, mfn >>> 20);
}
