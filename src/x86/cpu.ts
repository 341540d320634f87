// The public face of the processor; processor.ts implements it, create.ts is the door.
//
// Addresses (vaddr, rip, bases) are numbers: unsigned 32 bits outside long mode; in long mode (EFER.LMA) the signed
// number that a canonical address is, so that 0xffffffff81000000 is -0x7f000000. address.ts has the conversions:
// highHalf(v) and v >>> 0 are its halves, fromHalves() and addressOf() lead back, isCanonical(high) comes first.
// cr2 of a #PF, SegmentState.base, GDTR and IDTR, readLinear and the like all speak of such numbers.
import type { MachineMemory } from '../machine/memory.ts';
import type { CpuExit, Exception } from './exit.ts';

/** A segment register with its hidden part, or LDTR/TR. */
export interface SegmentState {
  readonly selector: number;
  /** An address: signed in long mode. Of FS and GS the one that FS_BASE and GS_BASE name. */
  readonly base: number;
  /** Inclusive, in bytes. */
  readonly limit: number;
  /** Descriptor bits 40..55 (type, S, DPL, P, AVL, L, D/B, G); 0x10000 = unusable (null). */
  readonly access: number;
}

export interface CpuOptions {
  /**
   * 'exit': every exception and INT n ends the run as a value (a hypervisor owns the IDT; PV guests).
   * 'idt': they are delivered through the guest's own IDT (bare metal; oracles, shadow-paging guests).
   */
  readonly exceptions: 'exit' | 'idt';
  /** CPUID as data: returns [eax, ebx, ecx, edx]. Pure. */
  readonly cpuid: (leaf: number, subleaf: number) => readonly [number, number, number, number];
  /** 'auto': cold code evaluated or interpreted, hot code translated. The others are for tests. */
  readonly tier?: 'auto' | 'evaluate' | 'interpret' | 'translate' | 'pairs';
  /** True: the four PAE PDPTEs are loaded with CR3, as 32-bit processors do. False: walked in memory, as for PV guests of a 64-bit Xen. */
  readonly pdpteCached?: boolean;
  /** Milliseconds, for the profile only; never seen by guests. */
  readonly clock?: (() => number) | undefined;
}

export interface Cpu {
  readonly machine: MachineMemory;
  /** Absent for processors that only have a paging unit. */
  readonly counters?: CpuCounters;
  /** Linear address of this vCPU's state (state-layout.ts) and TLB (tlb-layout.ts). */
  readonly stateBase: number;
  /** Of both sets of translations (switchTables); the second is empty unless it was used. */
  readonly tlbBases: readonly number[];
  /** Of the numbers of the pages that those are of. */
  readonly tlbVpnBases: readonly number[];

  /** Runs at most `budgetInsns` (1 <= n <= 2^30) instructions. Exact. */
  run(budgetInsns: number): CpuExit;
  /** Total retired instructions of this vCPU. */
  retired(): number;
  /** Adds instructions that somebody else performed for the guest (emulated instructions, hypercalls). */
  addRetired(insns: number): void;

  /** GPR by encoding number, 32-bit. 64-bit access by halves: reg(i), regHigh(i). */
  reg(index: number): number;
  setReg(index: number, value: number): void;
  regHigh(index: number): number;
  setRegHigh(index: number, value: number): void;
  /** All 64 bits, unsigned. */
  reg64(index: number): bigint;
  setReg64(index: number, value: bigint): void;
  /** The low 32 bits of rip; setEip clears the upper half. */
  eip(): number;
  setEip(value: number): void;
  /** As an address. setRip: the caller has made sure that it is canonical. */
  rip(): number;
  setRip(vaddr: number): void;
  /** The complete eflags image (bit 1 set). */
  eflags(): number;
  setEflags(value: number): void;
  cpl(): number;
  /** Loading CS also sets CPL from the selector's RPL... the caller has done all checks. */
  segment(index: number): SegmentState;
  /** Of segment(index) only that. */
  segmentSelector(index: number): number;
  segmentAccess(index: number): number;
  setSegment(index: number, state: SegmentState): void;
  /** The same for CS and SS together. */
  setCodeAndStack(cs: SegmentState, ss: SegmentState): void;
  /** Only the base: FS_BASE, GS_BASE and arch_prctl-like calls in long mode. Canonical. */
  setSegmentBase(index: number, base: number): void;
  /** KERNEL_GS_BASE, which SWAPGS exchanges with GS's base. A PV guest's is its GS base of the other mode. */
  kernelGsBase(): number;
  setKernelGsBase(base: number): void;
  /** What RDMSR at CPL 0 would read: undefined where it raises #GP (long mode's only if CPUID 0x80000001 EDX bit 29 promises it). */
  msr(index: number): bigint | undefined;
  /** False where WRMSR at CPL 0 raises #GP. */
  setMsr(index: number, value: bigint): boolean;
  ldtr(): SegmentState;
  setLdtr(state: SegmentState): void;
  tr(): SegmentState;
  setTr(state: SegmentState): void;
  /** Linear base and inclusive limit. */
  gdtr(): { base: number; limit: number };
  setGdtr(base: number, limit: number): void;
  idtr(): { base: number; limit: number };
  setIdtr(base: number, limit: number): void;
  /** n in 0, 2, 3, 4. setCr3 flushes non-global entries as hardware does; setCr0/4 flush on relevant changes. No reserved-bit checks: those are the instruction's. */
  cr(n: 0 | 2 | 3 | 4): number;
  setCr(n: 0 | 2 | 3 | 4, value: number): void;
  /**
   * IA32_EFER, low 32 bits: SCE 1, LME 0x100, LMA 0x400, NXE 0x800 (EFER in core.ts). setEfer takes LMA as given: with it paging has four
   * levels (CR4.PAE and CR0.PG are the caller's to set), and code is 64-bit code where CS has access bit 0x2000 (L), else compatibility code.
   */
  efer(): number;
  setEfer(value: number): void;
  dr(n: number): number;
  setDr(n: number, value: number): void;
  setTsc(baseAtRetiredZero: bigint, perInsn: number): void;
  tsc(): bigint;
  setShadow(on: boolean): void;

  /** Loads a data, stack or code segment register as MOV/POP/far transfers do, with all descriptor checks; undefined on success. */
  loadSegment(index: number, selector: number): Exception | undefined;

  /**
   * Loads CR3 and flushes nothing: the processor has two sets of translations, and this chooses one. For hosts that keep two base tables
   * for one vCPU: a 64-bit PV guest's kernel (first) and user (second) tables. Whoever changes the tables flushes as ever: flushTlb,
   * invlpg and setCr(3, ...) work on both sets, so a GLOBAL translation is forgotten in both, and survives flushTlb(true) in both.
   */
  switchTables(second: boolean, cr3: number): void;
  flushTlb(keepGlobal: boolean): void;
  invlpg(vaddr: number): void;
  /** Dirty tracking restarted: forget which pages are known dirty. Drops no translation. */
  dropWriteFastPaths(): void;
  /** Frames' code was changed behind our back (machine.onCodeWrite does this for you). */
  invalidateCode(mfn: number): void;

  /** Translation as an access of the given kind by `user` or supervisor would do it, with TLB and A/D effects. */
  translate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { ok: true; maddr: number } | { ok: false; exception: Exception };
  /** The same as a number: the machine address, or -1 - error code. A negative number also where there is no RAM. */
  locate(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): number;
  /** Reads/writes guest linear memory through the paging unit with the given privilege; page by page; all or nothing for writes (probed first). */
  readLinear(vaddr: number, sizeBytes: number, user: boolean): { ok: true; bytes: Uint8Array } | { ok: false; exception: Exception };
  writeLinear(vaddr: number, bytes: Uint8Array, user: boolean): { ok: true } | { ok: false; exception: Exception };

  /** bare mode: deliver an exception or interrupt through the IDT now. */
  deliver(exception: Exception, software: boolean): CpuExit | undefined;
  completeIo(value: number): void;

  /** False: restoreState() does not bring it back, it must be run again from its start (guests that are generators). */
  readonly restorable: boolean;
  /** Architectural state (registers and TLB) as bytes, and back: checkpoints, digests. */
  saveState(): Uint8Array;
  /** `codeStands`: memory has changed by the machine's write door only, so that what was made from code is still good. */
  restoreState(bytes: Uint8Array, codeStands?: boolean): void;
  /** One line per register that matters, for reports: stable names. */
  registers(): readonly { readonly name: string; readonly value: number | bigint }[];
  /** Disassembles up to `count` instructions at linear address (no side effects on TLB). */
  disassemble(vaddr: number, count: number): readonly { readonly vaddr: number; readonly bytes: string; readonly text: string }[];
}

/** How the evaluator and translator spend their time; for --profile and the bench. */
export interface CpuCounters {
  evaluatedInsns: number;
  /** In programs of cold 64-bit blocks. */
  interpretedInsns: number;
  translatedInsns: number;
  regionsTranslated: number;
  modulesCompiled: number;
  translateMs: number;
}

export type { MachineMemory };
