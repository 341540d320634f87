// A page-table walk in software, for two callers: scripted guests without a processor (conformance,
// model guests), whose accesses go through here as the processor's would, accessed and dirty bits
// included; and Xen's own look-ups of the entry that maps an address (guest_get_eff_l1e).
// Three shapes: two-level with 4-byte entries, PAE, four-level. Entries travel as u32 halves.
import type { MachineMemory } from '../machine/memory.ts';
import type { Vcpu } from './domain.ts';

export const PTE = {
  present: 0x1, rw: 0x2, user: 0x4, pwt: 0x8, pcd: 0x10, accessed: 0x20, dirty: 0x40, pse: 0x80, pat: 0x80, global: 0x100,
} as const;
/** Bit 63, in the high half. */
export const PTE_HI_NX = 0x8000_0000;

const PF = { present: 1, write: 2, user: 4 } as const;

/** Low and high half of the entry, and where it is. Reused: copy what you keep. */
export const found = { lo: 0, hi: 0, maddr: 0 };

/** Index into the table of that level (1 = L1) for an address. */
export function tableIndex(levels: 2 | 3 | 4, level: number, vaddr: number): number {
  if (levels === 2) return level === 1 ? (vaddr >>> 12) & 0x3ff : vaddr >>> 22;
  if (levels === 3) return level === 1 ? (vaddr >>> 12) & 0x1ff : level === 2 ? (vaddr >>> 21) & 0x1ff : vaddr >>> 30;
  const shifted = Math.floor(vaddr / 2 ** (12 + 9 * (level - 1)));
  return ((shifted % 512) + 512) % 512;
}

/** Is the address canonical (pv64), or a u32? */
export function addressOk(levels: 2 | 3 | 4, vaddr: number): boolean {
  return levels === 4 ? vaddr >= -0x8000_0000_0000 && vaddr < 0x8000_0000_0000 : vaddr >= 0 && vaddr <= 0xffff_ffff;
}

const frameOf = (lo: number, hi: number): number => (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);

/**
 * Finds the L1 entry of an address without touching accessed bits; `found` holds it. False when an
 * upper level is missing, is a superpage, or leads outside RAM.
 */
export function findL1(machine: MachineMemory, levels: 2 | 3 | 4, rootMfn: number, vaddr: number): boolean {
  let mfn = rootMfn;
  const shift = levels === 2 ? 2 : 3;
  for (let level = levels as number; level >= 1; level--) {
    if (mfn >= machine.frameCount) return false;
    const maddr = mfn * 4096 + (tableIndex(levels, level, vaddr) << shift);
    const lo = machine.readU32(maddr);
    const hi = shift === 3 ? machine.readU32(maddr + 4) : 0;
    if (level === 1) {
      found.lo = lo;
      found.hi = hi;
      found.maddr = maddr;
      return true;
    }
    if ((lo & PTE.present) === 0 || (lo & PTE.pse) !== 0) return false;
    mfn = frameOf(lo, hi);
  }
  return false;
}

/**
 * Machine address as the processor would translate (CR0.WP on), setting accessed and dirty bits; or
 * -1 - errorCode. A wrong address (not canonical) gives -1 - 0 with no walk.
 */
export function walkAsProcessor(machine: MachineMemory, vcpu: Vcpu, vaddr: number, write: boolean, user: boolean): number {
  const levels = vcpu.domain.abi.levels;
  const fault = (write ? PF.write : 0) | (user ? PF.user : 0);
  if (!addressOk(levels, vaddr)) return -1 - fault;
  const rootMfn = levels === 4 && !vcpu.kernelMode ? vcpu.userTableMfn : vcpu.guestTableMfn;
  const shift = levels === 2 ? 2 : 3;
  let mfn = rootMfn;
  let allRw = true;
  let allUser = true;
  const entryMaddrs: number[] = [];
  for (let level = levels as number; level >= 1; level--) {
    if (mfn >= machine.frameCount) return -1 - fault;
    const maddr = mfn * 4096 + (tableIndex(levels, level, vaddr) << shift);
    const lo = machine.readU32(maddr);
    if ((lo & PTE.present) === 0) return -1 - fault;
    // The PAE root's entries carry no rights of their own.
    if (!(levels === 3 && level === 3)) {
      allRw &&= (lo & PTE.rw) !== 0;
      allUser &&= (lo & PTE.user) !== 0;
      entryMaddrs.push(maddr);
    }
    mfn = frameOf(lo, shift === 3 ? machine.readU32(maddr + 4) : 0);
    if (level === 2 && (lo & PTE.pse) !== 0) {
      const spanFrames = levels === 2 ? 1024 : 512;
      mfn = mfn - (mfn % spanFrames) + (Math.floor(((vaddr % 2 ** 32) + 2 ** 32) / 4096) % spanFrames);
      break;
    }
  }
  if ((write && !allRw) || (user && !allUser)) return -1 - (fault | PF.present);
  entryMaddrs.forEach((maddr, index) => {
    const bits = PTE.accessed | (write && index === entryMaddrs.length - 1 ? PTE.dirty : 0);
    const lo = machine.readU32(maddr);
    if ((lo & bits) !== bits) machine.writeU32(maddr, lo | bits);
  });
  return mfn * 4096 + (((vaddr % 4096) + 4096) % 4096);
}
