// The part of a processor that a scripted guest has: translation with a TLB of unlimited size, and
// nothing that runs instructions. Stale translations live until Xen flushes them, as on the machine
// that recorded the corpus (QEMU): a hit needs the rights of the access, a miss walks the tables.
// There a 32-bit guest's kernel (ring 1) shares its TLB slots with Xen, whose own accesses push the
// guest's entries out at every hypercall: no stale translation was ever seen, so none is kept.
import type { Cpu } from '../x86/cpu.ts';
import type { Exception } from '../x86/exit.ts';
import type { Vcpu } from '../hypervisor/domain.ts';
import { findL1, found, PTE, walkAsProcessor } from '../hypervisor/page-walk.ts';
import type { MachineMemory } from '../machine/memory.ts';

interface Translation {
  readonly frameMaddr: number;
  /** Writable, and dirty already when it was cached. */
  readonly writable: boolean;
  readonly user: boolean;
}

const PAGE_FAULT = 14;
const pageOf = (vaddr: number): number => Math.floor(vaddr / 4096);

export class ScriptCpu {
  readonly machine: MachineMemory;
  readonly #vcpu: Vcpu;
  readonly #tlb = new Map<number, Translation>();

  constructor(machine: MachineMemory, vcpu: Vcpu) {
    this.machine = machine;
    this.#vcpu = vcpu;
  }

  /** Machine address, or -1 - errorCode. */
  walk(vaddr: number, write: boolean, user: boolean): number {
    const cached = this.#tlb.get(pageOf(vaddr));
    if (cached !== undefined && (!write || cached.writable) && (!user || cached.user)) return cached.frameMaddr + (((vaddr % 4096) + 4096) % 4096);
    const maddr = walkAsProcessor(this.machine, this.#vcpu, vaddr, write, user);
    if (maddr >= 0 && this.#vcpu.domain.abi.kernelRing === 3) {
      const { levels } = this.#vcpu.domain.abi;
      const root = levels === 4 && !this.#vcpu.kernelMode ? this.#vcpu.userTableMfn : this.#vcpu.guestTableMfn;
      const dirty = findL1(this.machine, levels, root, vaddr) && (found.lo & PTE.dirty) !== 0;
      // Whether the levels above allow writing shows only by trying; a store is its own proof.
      const writable = write || (dirty && (found.lo & PTE.rw) !== 0 && allWritable(this.machine, levels, root, vaddr));
      this.#tlb.set(pageOf(vaddr), { frameMaddr: maddr - (maddr % 4096), writable, user });
    }
    return maddr;
  }

  translate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { ok: true; maddr: number } | { ok: false; exception: Exception } {
    const maddr = this.walk(vaddr, access === 'write', user);
    return maddr >= 0 ? { ok: true, maddr } : { ok: false, exception: { vector: PAGE_FAULT, errorCode: -1 - maddr, cr2: vaddr } };
  }
  flushTlb(_keepGlobal: boolean): void {
    this.#tlb.clear();
  }
  invlpg(vaddr: number): void {
    this.#tlb.delete(pageOf(vaddr));
  }
  setCr(_n: number, _value: number): void {
    this.#tlb.clear();
  }

  /** As the processor of a vCPU: callers use only what is here. */
  asCpu(): Cpu {
    return this as unknown as Cpu;
  }
}

/** Do all levels allow writing? */
function allWritable(machine: MachineMemory, levels: 2 | 3 | 4, rootMfn: number, vaddr: number): boolean {
  let mfn = rootMfn;
  for (let level = levels as number; level >= 1; level--) {
    const shift = 12 + (levels === 2 ? 10 : 9) * (level - 1);
    const entries = levels === 2 ? 1024 : 512;
    const index = ((Math.floor(vaddr / 2 ** shift) % entries) + entries) % entries;
    const lo = machine.readU32(mfn * 4096 + index * (levels === 2 ? 4 : 8));
    if (!(levels === 3 && level === 3) && (lo & PTE.rw) === 0) return false;
    mfn = lo >>> 12;
  }
  return true;
}
