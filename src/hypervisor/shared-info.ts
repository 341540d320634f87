// The page that Xen shares with a domain, and the part of it (or of guest memory) that belongs to
// one vCPU (abi/shared-info.ts): the few accessors that the hypervisor needs. Guests may
// write anything here at any time, so nothing is cached and nothing read here is trusted.
import { SHARED_INFO_32, SHARED_INFO_64, VCPU_INFO_32, VCPU_INFO_64, VCPU_TIME_INFO } from '../abi/shared-info.ts';
import type { Domain, Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

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
  const base = vcpu.vcpuInfoMaddr + VCPU_INFO_32.fields.time.at;
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
