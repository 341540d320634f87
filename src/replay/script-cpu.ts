// The processor of a scripted guest: registers as plain values, and translation with a TLB of
// unlimited size; it runs no instructions. Stale translations live until Xen flushes them, as on the
// machine that recorded the corpus (QEMU): a hit needs the rights of the access, a miss walks the
// tables. There a 32-bit guest's kernel (ring 1) shares its TLB slots with Xen, whose own accesses
// push the guest's entries out at every hypercall: no stale translation was ever seen, so none is kept.
import { InvariantViolation } from '../base/assert.ts';
import type { Cpu, CpuCounters, SegmentState } from '../x86/cpu.ts';
import { VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from '../hypervisor/domain.ts';
import { findL1, found, PTE, tableIndex, walkAsProcessor } from '../hypervisor/page-walk.ts';
import type { MachineMemory } from '../machine/memory.ts';

interface Translation {
  readonly frameMaddr: number;
  /** Writable, and dirty already when it was cached. */
  readonly writable: boolean;
  readonly user: boolean;
}

const pageOf = (vaddr: number): number => Math.floor(vaddr / 4096);
const offsetOf = (vaddr: number): number => ((vaddr % 4096) + 4096) % 4096;
const FLAT: SegmentState = { selector: 0, base: 0, limit: 0xffff_ffff, access: 0xcf93 };
const EFLAGS_RESET = 0x2;

/** What only a processor that runs instructions can do. */
function cannot(what: string): never {
  throw new InvariantViolation(`a scripted guest's processor cannot ${what}`);
}

export class ScriptCpu implements Cpu {
  readonly restorable = false;
  readonly machine: MachineMemory;
  readonly stateBase = 0;
  readonly tlbBases = [];
  readonly tlbVpnBases = [];
  readonly counters: CpuCounters = { evaluatedInsns: 0, interpretedInsns: 0, translatedInsns: 0, regionsTranslated: 0, modulesCompiled: 0, translateMs: 0 };
  readonly #vcpu: Vcpu;
  readonly #tlb = new Map<number, Translation>();
  readonly #regs = new Uint32Array(16);
  readonly #highs = new Uint32Array(16);
  readonly #crs = new Map<number, number>();
  readonly #drs = new Map<number, number>();
  readonly #segments = new Map<number, SegmentState>();
  #kernelGsBase = 0;
  #eip = 0;
  #eflags = EFLAGS_RESET;
  #efer = 0;
  #retired = 0;
  #ldtr = FLAT;
  #tr = FLAT;
  #gdtr = { base: 0, limit: 0 };
  #idtr = { base: 0, limit: 0 };

  constructor(machine: MachineMemory, vcpu: Vcpu) {
    this.machine = machine;
    this.#vcpu = vcpu;
  }

  // -- translation --------------------------------------------------------------------------------

  /** Machine address, or -1 - errorCode. */
  walk(vaddr: number, write: boolean, user: boolean): number {
    const cached = this.#tlb.get(pageOf(vaddr));
    if (cached !== undefined && (!write || cached.writable) && (!user || cached.user)) return cached.frameMaddr + offsetOf(vaddr);
    const maddr = walkAsProcessor(this.machine, this.#vcpu, vaddr, write, user);
    if (maddr >= 0 && this.#vcpu.domain.abi.kernelRing === 3) {
      const { levels } = this.#vcpu.domain.abi;
      const root = levels === 4 && !this.#vcpu.kernelMode ? this.#vcpu.userTableMfn : this.#vcpu.guestTableMfn;
      const dirty = findL1(this.machine, levels, root, vaddr) && (found.lo & PTE.dirty) !== 0;
      // Whether the levels above allow writing shows only by looking; a store is its own proof.
      const writable = write || (dirty && (found.lo & PTE.rw) !== 0 && allWritable(this.machine, levels, root, vaddr));
      this.#tlb.set(pageOf(vaddr), { frameMaddr: maddr - offsetOf(vaddr), writable, user });
    }
    return maddr;
  }
  translate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { ok: true; maddr: number } | { ok: false; exception: Exception } {
    const maddr = this.walk(vaddr, access === 'write', user);
    return maddr >= 0 ? { ok: true, maddr } : { ok: false, exception: { vector: VECTOR.PF, errorCode: -1 - maddr, cr2: vaddr } };
  }
  locate = (vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): number => this.walk(vaddr, access === 'write', user);
  readLinear(vaddr: number, sizeBytes: number, user: boolean): { ok: true; bytes: Uint8Array } | { ok: false; exception: Exception } {
    const bytes = new Uint8Array(sizeBytes);
    for (let i = 0; i < sizeBytes; i++) {
      const at = this.translate(vaddr + i, 'read', user);
      if (!at.ok) return at;
      bytes[i] = this.machine.readU8(at.maddr);
    }
    return { ok: true, bytes };
  }
  writeLinear(vaddr: number, bytes: Uint8Array, user: boolean): { ok: true } | { ok: false; exception: Exception } {
    const maddrs: number[] = [];
    for (let i = 0; i < bytes.length; i++) {
      const at = this.translate(vaddr + i, 'write', user);
      if (!at.ok) return at;
      maddrs.push(at.maddr);
    }
    maddrs.forEach((maddr, i) => this.machine.writeU8(maddr, bytes[i] as number));
    return { ok: true };
  }
  switchTables(_second: boolean, cr3: number): void {
    this.setCr(3, cr3);
  }
  flushTlb(_keepGlobal: boolean): void {
    this.#tlb.clear();
  }
  invlpg(vaddr: number): void {
    this.#tlb.delete(pageOf(vaddr));
  }
  dropWriteFastPaths(): void {}
  invalidateCode(_mfn: number): void {}

  /** Every translation that is cached: the frame, and whether a store may go through it. */
  *cached(): Generator<{ readonly page: number; readonly mfn: number; readonly writable: boolean }> {
    for (const [page, { frameMaddr, writable }] of this.#tlb) yield { page, mfn: frameMaddr / 4096, writable };
  }

  // -- registers ----------------------------------------------------------------------------------

  reg = (index: number): number => this.#regs[index] as number;
  setReg(index: number, value: number): void {
    this.#regs[index] = value;
  }
  regHigh = (index: number): number => this.#highs[index] as number;
  setRegHigh(index: number, value: number): void {
    this.#highs[index] = value;
  }
  reg64 = (index: number): bigint => (BigInt(this.regHigh(index) >>> 0) << 32n) | BigInt(this.reg(index) >>> 0);
  setReg64(index: number, value: bigint): void {
    this.#regs[index] = Number(value & 0xffff_ffffn);
    this.#highs[index] = Number((value >> 32n) & 0xffff_ffffn);
  }
  rip = (): number => this.#eip;
  setRip(vaddr: number): void {
    this.#eip = vaddr;
  }
  eip = (): number => this.#eip;
  setEip(value: number): void {
    this.#eip = value;
  }
  eflags = (): number => this.#eflags;
  setEflags(value: number): void {
    this.#eflags = (value | EFLAGS_RESET) >>> 0;
  }
  cpl = (): number => this.#vcpu.domain.abi.kernelRing;
  segment = (index: number): SegmentState => this.#segments.get(index) ?? FLAT;
  segmentSelector = (index: number): number => this.segment(index).selector;
  segmentAccess = (index: number): number => this.segment(index).access;
  setSegment(index: number, state: SegmentState): void {
    this.#segments.set(index, state);
  }
  setCodeAndStack(cs: SegmentState, ss: SegmentState): void {
    this.setSegment(SEG.cs, cs);
    this.setSegment(SEG.ss, ss);
  }
  setSegmentBase(index: number, base: number): void {
    this.#segments.set(index, { ...this.segment(index), base });
  }
  kernelGsBase = (): number => this.#kernelGsBase;
  setKernelGsBase(base: number): void {
    this.#kernelGsBase = base;
  }
  msr = (_index: number): undefined => undefined;
  setMsr = (_index: number, _value: bigint): boolean => false;
  ldtr = (): SegmentState => this.#ldtr;
  setLdtr(state: SegmentState): void {
    this.#ldtr = state;
  }
  tr = (): SegmentState => this.#tr;
  setTr(state: SegmentState): void {
    this.#tr = state;
  }
  gdtr = (): { base: number; limit: number } => this.#gdtr;
  setGdtr(base: number, limit: number): void {
    this.#gdtr = { base, limit };
  }
  idtr = (): { base: number; limit: number } => this.#idtr;
  setIdtr(base: number, limit: number): void {
    this.#idtr = { base, limit };
  }
  cr = (n: 0 | 2 | 3 | 4): number => this.#crs.get(n) ?? 0;
  setCr(n: 0 | 2 | 3 | 4, value: number): void {
    this.#crs.set(n, value);
    if (n === 3) this.#tlb.clear();
  }
  efer = (): number => this.#efer;
  setEfer(value: number): void {
    this.#efer = value;
  }
  dr = (n: number): number => this.#drs.get(n) ?? 0;
  setDr(n: number, value: number): void {
    this.#drs.set(n, value);
  }
  setTsc(_baseAtRetiredZero: bigint, _perInsn: number): void {}
  tsc = (): bigint => 0n;
  setShadow(_on: boolean): void {}
  retired = (): number => this.#retired;
  addRetired(insns: number): void {
    this.#retired += insns;
  }
  loadSegment = (_index: number, selector: number): Exception | undefined => (selector === 0 ? undefined : { vector: VECTOR.GP, errorCode: selector & 0xfffc });

  // -- what needs instructions --------------------------------------------------------------------

  run = (): never => cannot('run');
  deliver = (): never => cannot('deliver exceptions');
  completeIo = (): never => cannot('complete port accesses');
  saveState = (): Uint8Array => Uint8Array.from(this.#regs);
  restoreState = (): never => cannot('restore a state');
  registers = (): readonly never[] => [];
  disassemble = (): readonly never[] => [];
}

/** Do all levels allow writing? */
function allWritable(machine: MachineMemory, levels: 2 | 3 | 4, rootMfn: number, vaddr: number): boolean {
  let mfn = rootMfn;
  for (let level = levels as number; level >= 1; level--) {
    const lo = machine.readU32(mfn * 4096 + tableIndex(levels, level, vaddr) * (levels === 2 ? 4 : 8));
    if (!(levels === 3 && level === 3) && (lo & PTE.rw) === 0) return false;
    mfn = lo >>> 12;
  }
  return true;
}
