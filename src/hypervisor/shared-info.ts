// The page that Xen shares with a domain, and the part of it (or of guest memory) that belongs to
// one vCPU: layouts for both word sizes, and the few accessors that the hypervisor needs. Guests may
// write anything here at any time, so nothing is cached and nothing read here is trusted.
import { layout } from '../base/layout.ts';
import type { Domain, Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

const TIME_AT = 32;

export const VCPU_TIME_INFO = layout({
  sizeBytes: 32, source: 'xen/include/public/xen.h struct vcpu_time_info',
  fields: {
    version: { at: 0, type: 'u32' }, tsc_timestamp: { at: 8, type: 'u64' }, system_time: { at: 16, type: 'u64' },
    tsc_to_system_mul: { at: 24, type: 'u32' }, tsc_shift: { at: 28, type: 'u8' }, flags: { at: 29, type: 'u8' },
  },
});

export const VCPU_INFO_32 = layout({
  sizeBytes: 64, source: 'xen/include/public/xen.h struct vcpu_info, arch-x86/xen-x86_32.h struct arch_vcpu_info',
  fields: {
    evtchn_upcall_pending: { at: 0, type: 'u8' }, evtchn_upcall_mask: { at: 1, type: 'u8' },
    evtchn_pending_sel: { at: 4, type: 'u32' }, cr2: { at: 8, type: 'u32' }, time: { at: TIME_AT, type: 'u8', count: 32 },
  },
});
export const VCPU_INFO_64 = layout({
  sizeBytes: 64, source: 'xen/include/public/xen.h struct vcpu_info, arch-x86/xen-x86_64.h struct arch_vcpu_info',
  fields: {
    evtchn_upcall_pending: { at: 0, type: 'u8' }, evtchn_upcall_mask: { at: 1, type: 'u8' },
    evtchn_pending_sel: { at: 8, type: 'u64' }, cr2: { at: 16, type: 'u64' }, time: { at: TIME_AT, type: 'u8', count: 32 },
  },
});

export const SHARED_INFO_32 = layout({
  sizeBytes: 4096, source: 'xen/include/public/xen.h struct shared_info (i386)',
  fields: {
    vcpu_info: { at: 0, type: 'u8', count: 2048 }, evtchn_pending: { at: 2048, type: 'u32', count: 32 }, evtchn_mask: { at: 2176, type: 'u32', count: 32 },
    wc_version: { at: 2304, type: 'u32' }, wc_sec: { at: 2308, type: 'u32' }, wc_nsec: { at: 2312, type: 'u32' },
    max_pfn: { at: 2316, type: 'u32' }, pfn_to_mfn_frame_list_list: { at: 2320, type: 'u32' }, nmi_reason: { at: 2324, type: 'u32' },
    p2m_cr3: { at: 2328, type: 'u32' }, p2m_vaddr: { at: 2332, type: 'u32' }, p2m_generation: { at: 2336, type: 'u32' },
    wc_sec_hi: { at: 2340, type: 'u32' },
  },
});
export const SHARED_INFO_64 = layout({
  sizeBytes: 4096, source: 'xen/include/public/xen.h struct shared_info (x86_64)',
  fields: {
    vcpu_info: { at: 0, type: 'u8', count: 2048 }, evtchn_pending: { at: 2048, type: 'u64', count: 64 }, evtchn_mask: { at: 2560, type: 'u64', count: 64 },
    wc_version: { at: 3072, type: 'u32' }, wc_sec: { at: 3076, type: 'u32' }, wc_nsec: { at: 3080, type: 'u32' }, wc_sec_hi: { at: 3084, type: 'u32' },
    max_pfn: { at: 3088, type: 'u64' }, pfn_to_mfn_frame_list_list: { at: 3096, type: 'u64' }, nmi_reason: { at: 3104, type: 'u64' },
    p2m_cr3: { at: 3112, type: 'u64' }, p2m_vaddr: { at: 3120, type: 'u64' }, p2m_generation: { at: 3128, type: 'u64' },
  },
});

const is64 = (domain: Domain): boolean => domain.abi.wordBits === 64;
const sharedMaddr = (domain: Domain): number => domain.sharedInfoMfn * 4096;

/** Ports of the two-level ABI: one word of words. */
export const twoLevelPorts = (domain: Domain): number => (is64(domain) ? 4096 : 1024);

/** Which bitmap of the two-level event ABI. */
export type EventBitmap = 'evtchn_pending' | 'evtchn_mask';
const bitmapMaddr = (domain: Domain, map: EventBitmap): number =>
  sharedMaddr(domain) + (is64(domain) ? SHARED_INFO_64 : SHARED_INFO_32).fields[map].at;

/** Little-endian bit maps: bit n is bit n % 8 of byte n / 8 for either word size. */
export function testBit(hv: Hypervisor, maddr: number, bit: number): boolean {
  return ((hv.machine.readU8(maddr + (bit >>> 3)) >>> (bit & 7)) & 1) === 1;
}
/** Returns what the bit was. A bit that is already as wanted is not stored again. */
export function assignBit(hv: Hypervisor, maddr: number, bit: number, on: boolean): boolean {
  const at = maddr + (bit >>> 3);
  const old = hv.machine.readU8(at);
  const next = on ? old | (1 << (bit & 7)) : old & ~(1 << (bit & 7));
  if (next !== old) hv.machine.writeU8(at, next);
  return ((old >>> (bit & 7)) & 1) === 1;
}

export const testEventBit = (hv: Hypervisor, domain: Domain, map: EventBitmap, port: number): boolean => testBit(hv, bitmapMaddr(domain, map), port);
export const assignEventBit = (hv: Hypervisor, domain: Domain, map: EventBitmap, port: number, on: boolean): boolean => assignBit(hv, bitmapMaddr(domain, map), port, on);

/** Sets bit `port / word bits` of the vCPU's selector; returns what it was. */
export function setPendingSelector(hv: Hypervisor, vcpu: Vcpu, port: number): boolean {
  const wordBits = vcpu.domain.abi.wordBits;
  const at = (wordBits === 64 ? VCPU_INFO_64 : VCPU_INFO_32).fields.evtchn_pending_sel.at;
  return assignBit(hv, vcpu.vcpuInfoMaddr + at, Math.floor(port / wordBits), true);
}
/** All bits of the selector, as register_vcpu_info does so that nothing is lost. */
export function fillPendingSelector(hv: Hypervisor, vcpu: Vcpu): void {
  const wide = is64(vcpu.domain);
  const at = vcpu.vcpuInfoMaddr + (wide ? VCPU_INFO_64 : VCPU_INFO_32).fields.evtchn_pending_sel.at;
  hv.machine.writeU32(at, 0xffffffff);
  if (wide) hv.machine.writeU32(at + 4, 0xffffffff);
}

export const upcallPending = (hv: Hypervisor, vcpu: Vcpu): boolean => hv.machine.readU8(vcpu.vcpuInfoMaddr) !== 0;
/** Sets bit 0 of the byte; true if it was set. The guest's other bits stay, and ask for an upcall as well. */
export const markUpcallPending = (hv: Hypervisor, vcpu: Vcpu): boolean => assignBit(hv, vcpu.vcpuInfoMaddr, 0, true);
/** The raw byte: any non-zero value masks. */
export const upcallMask = (hv: Hypervisor, vcpu: Vcpu): number => hv.machine.readU8(vcpu.vcpuInfoMaddr + 1);
export const setUpcallMask = (hv: Hypervisor, vcpu: Vcpu, value: number): void => hv.machine.writeU8(vcpu.vcpuInfoMaddr + 1, value);

/** Where a page fault's address is shown to the guest: arch_set_cr2() in Xen. */
export function setSharedCr2(hv: Hypervisor, vcpu: Vcpu, vaddr: number): void {
  if (!is64(vcpu.domain)) return hv.machine.writeU32(vcpu.vcpuInfoMaddr + VCPU_INFO_32.fields.cr2.at, vaddr >>> 0);
  const at = vcpu.vcpuInfoMaddr + VCPU_INFO_64.fields.cr2.at;
  hv.machine.writeU32(at, vaddr >>> 0);
  hv.machine.writeU32(at + 4, Math.floor(vaddr / 0x1_0000_0000) >>> 0);
}

function writeU64(hv: Hypervisor, maddr: number, value: number): void {
  hv.machine.writeU32(maddr, value >>> 0);
  hv.machine.writeU32(maddr + 4, Math.floor(value / 0x1_0000_0000) >>> 0);
}

/** One time record under its version protocol: odd while it changes, even when whole. */
export interface TimeRecord {
  readonly tscTimestamp: number;
  readonly systemTimeNs: number;
  readonly tscToSystemMul: number;
  readonly tscShift: number;
}
/** Writes vcpu_info.time and returns its 32 bytes (for the registered secondary copy). */
export function writeTimeRecord(hv: Hypervisor, vcpu: Vcpu, record: TimeRecord): Uint8Array {
  const base = vcpu.vcpuInfoMaddr + TIME_AT;
  const at = VCPU_TIME_INFO.fields;
  const version = (hv.machine.readU32(base) + 1) | 1; // version_update_begin()
  hv.machine.writeU32(base, version >>> 0);
  writeU64(hv, base + at.tsc_timestamp.at, record.tscTimestamp);
  writeU64(hv, base + at.system_time.at, record.systemTimeNs);
  hv.machine.writeU32(base + at.tsc_to_system_mul.at, record.tscToSystemMul);
  hv.machine.writeU8(base + at.tsc_shift.at, record.tscShift & 0xff);
  // The TSC is virtual time itself, so a guest may rely on this one record: XEN_PVCLOCK_TSC_STABLE_BIT.
  hv.machine.writeU8(base + at.flags.at, 1);
  hv.machine.writeU32(base, (version + 1) >>> 0);
  return hv.machine.readBytes(base, VCPU_TIME_INFO.sizeBytes);
}

/** update_domain_wallclock_time(): seconds and nanoseconds since 1970 at system time 0. */
export function writeWallClock(hv: Hypervisor, domain: Domain): void {
  const table = is64(domain) ? SHARED_INFO_64.fields : SHARED_INFO_32.fields;
  const base = sharedMaddr(domain);
  const version = (hv.machine.readU32(base + table.wc_version.at) + 1) | 1;
  const sec = hv.world.wallClockAtZeroSec();
  hv.machine.writeU32(base + table.wc_version.at, version >>> 0);
  hv.machine.writeU32(base + table.wc_sec.at, sec >>> 0);
  hv.machine.writeU32(base + table.wc_nsec.at, 0);
  hv.machine.writeU32(base + table.wc_sec_hi.at, Math.floor(sec / 0x1_0000_0000) >>> 0);
  hv.machine.writeU32(base + table.wc_version.at, (version + 1) >>> 0);
}
