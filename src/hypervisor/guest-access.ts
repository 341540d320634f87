// The one door to guest memory for hypercall arguments: check the range, translate, copy once; the
// caller decides on the copy and never reads again. Xen copies as supervisor: a read-only page
// refuses writes, the USER bit does not matter (copy_from_guest/copy_to_guest, xen/arch/x86/usercopy.c).
// Translation comes from the vCPU's processor, or for scripted guests without one from a walker in
// software over the same tables (page-walk.ts). Not here: permissions of grants and foreign frames.
import { PAGE_SIZE } from '../base/brand.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Abi } from './personality.ts';
import type { Vcpu } from './domain.ts';
import { walkAsProcessor } from './page-walk.ts';

export type GuestAccessKind = 'read' | 'write';

/** Longest single copy; longer requests of guests are refused by their handlers long before. */
const SCRATCH_BYTES = 65536;

/**
 * Machine address for an access by Xen (supervisor) or by the guest itself (`user` decides), or
 * -1 - errorCode when it faults.
 */
export function translateGuest(machine: MachineMemory, vcpu: Vcpu, vaddr: number, access: GuestAccessKind, user: boolean): number {
  const cpu = vcpu.cpu;
  if (cpu === undefined) return walkAsProcessor(machine, vcpu, vaddr, access === 'write', user);
  return cpu.locate(vaddr, access, user);
}

/** First address above Xen's range in 64-bit address spaces (HYPERVISOR_VIRT_END), as a signed number. */
const PV64_XEN_END = -0x7800_0000_0000;

/**
 * May a guest pass this address at all (__addr_ok)? 64-bit: outside Xen's range and canonical in the
 * low half. 32-bit guests on 64-bit Xen: every address; what Xen keeps there is read-only.
 */
export function guestAddressOk(abi: Abi, vaddr: number): boolean {
  if (abi.wordBits === 32) return vaddr >= 0 && vaddr <= 0xffff_ffff && (!abi.onXen3 || vaddr < abi.hypervisorVirtStart);
  return vaddr >= 0 ? vaddr < 0x8000_0000_0000 : vaddr >= PV64_XEN_END;
}

/** The same for a range: neither end may be Xen's. */
export const guestRangeOk = (abi: Abi, vaddr: number, sizeBytes: number): boolean =>
  guestAddressOk(abi, vaddr) && (sizeBytes === 0 || guestAddressOk(abi, vaddr + sizeBytes - 1));

export class GuestAccess {
  readonly machine: MachineMemory;
  /** What read() copied last. */
  readonly bytes = new Uint8Array(SCRATCH_BYTES);
  readonly view = new DataView(this.bytes.buffer);

  /** Are addresses in Xen's range refused? Always, but for a test of a caller that forgot to ask (XSA-212). */
  refusesXenRange = true;

  /** Told of every write, for the log. Wiring, not state. */
  onWrite: ((vcpu: Vcpu, vaddr: number, data: Uint8Array) => void) | undefined;

  constructor(machine: MachineMemory) {
    this.machine = machine;
  }

  /** Copies into `bytes` (from 0). False: a fault or a range that guests may not name (EFAULT). */
  read(vcpu: Vcpu, vaddr: number, sizeBytes: number): boolean {
    if (sizeBytes > SCRATCH_BYTES || (!guestAddressOk(vcpu.domain.abi, vaddr) && this.refusesXenRange)) return false;
    let done = 0;
    while (done < sizeBytes) {
      const at = vaddr + done;
      const chunk = Math.min(sizeBytes - done, PAGE_SIZE - pageOffset(at));
      const maddr = translateGuest(this.machine, vcpu, at, 'read', false);
      if (maddr < 0 || !this.machine.contains(maddr, chunk)) return false;
      const from = this.machine.ramBase + maddr;
      if (chunk <= 32) for (let i = 0; i < chunk; i++) this.bytes[done + i] = this.machine.u8[from + i] as number;
      else this.bytes.set(this.machine.u8.subarray(from, from + chunk), done);
      done += chunk;
    }
    return true;
  }

  /** Writes page by page, as Xen does: pages before a fault keep what was written. */
  write(vcpu: Vcpu, vaddr: number, data: Uint8Array, sizeBytes = data.length): boolean {
    if (!guestAddressOk(vcpu.domain.abi, vaddr) && this.refusesXenRange) return false;
    let done = 0;
    while (done < sizeBytes) {
      const at = vaddr + done;
      const chunk = Math.min(sizeBytes - done, PAGE_SIZE - pageOffset(at));
      const maddr = translateGuest(this.machine, vcpu, at, 'write', false);
      if (maddr < 0 || !this.machine.contains(maddr, chunk)) return false;
      this.machine.writeBytes(maddr, chunk === data.length ? data : data.subarray(done, done + chunk));
      done += chunk;
    }
    this.onWrite?.(vcpu, vaddr, sizeBytes === data.length ? data : data.subarray(0, sizeBytes));
    return true;
  }

  /** A copy of guest memory, or undefined (EFAULT). */
  copyFromGuest(vcpu: Vcpu, vaddr: number, sizeBytes: number): Uint8Array | undefined {
    return this.read(vcpu, vaddr, sizeBytes) ? this.bytes.slice(0, sizeBytes) : undefined;
  }
  copyToGuest(vcpu: Vcpu, vaddr: number, data: Uint8Array): boolean {
    return this.write(vcpu, vaddr, data);
  }

  readU8(vcpu: Vcpu, vaddr: number): number | undefined {
    return this.read(vcpu, vaddr, 1) ? this.view.getUint8(0) : undefined;
  }
  readU16(vcpu: Vcpu, vaddr: number): number | undefined {
    return this.read(vcpu, vaddr, 2) ? this.view.getUint16(0, true) : undefined;
  }
  readU32(vcpu: Vcpu, vaddr: number): number | undefined {
    if ((vaddr & 3) === 0 && (guestAddressOk(vcpu.domain.abi, vaddr) || !this.refusesXenRange)) {
      // Inside a page: no copy is needed to read it once.
      const maddr = translateGuest(this.machine, vcpu, vaddr, 'read', false);
      return maddr < 0 || !this.machine.contains(maddr, 4) ? undefined : this.machine.readU32(maddr);
    }
    return this.read(vcpu, vaddr, 4) ? this.view.getUint32(0, true) : undefined;
  }
  /** u64 as a number; exact below 2^53. */
  readU64(vcpu: Vcpu, vaddr: number): number | undefined {
    return this.read(vcpu, vaddr, 8) ? this.view.getUint32(4, true) * 0x1_0000_0000 + this.view.getUint32(0, true) : undefined;
  }
  /** A guest `unsigned long`: 4 bytes unsigned, or 8 bytes as a signed canonical number. */
  readWord(vcpu: Vcpu, vaddr: number): number | undefined {
    if (vcpu.domain.abi.wordBits === 32) return this.readU32(vcpu, vaddr);
    return this.read(vcpu, vaddr, 8) ? this.view.getInt32(4, true) * 0x1_0000_0000 + this.view.getUint32(0, true) : undefined;
  }
  writeU8(vcpu: Vcpu, vaddr: number, value: number): boolean {
    return this.write(vcpu, vaddr, Uint8Array.of(value));
  }
  writeU32(vcpu: Vcpu, vaddr: number, value: number): boolean {
    const data = new Uint8Array(4);
    for (let at = 0; at < 4; at++) data[at] = value >>> (at * 8);
    return this.write(vcpu, vaddr, data);
  }
  /** `value` a non-negative integer below 2^53, or a signed number (sign-extended). */
  writeU64(vcpu: Vcpu, vaddr: number, value: number): boolean {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigInt64(0, BigInt(value), true);
    return this.write(vcpu, vaddr, data);
  }
  writeWord(vcpu: Vcpu, vaddr: number, value: number): boolean {
    return vcpu.domain.abi.wordBits === 32 ? this.writeU32(vcpu, vaddr, value) : this.writeU64(vcpu, vaddr, value);
  }
}

/** Of a number of up to 53 bits with a sign: `&` takes the low 32 of them. */
const pageOffset = (vaddr: number): number => vaddr & (PAGE_SIZE - 1);
