// What the parts of one processor share: its state in linear memory, its TLB, and the exception that
// the last failed access left behind. Parts are plain functions over a Core (paging.ts, segments.ts,
// system/, ...); the public face is processor.ts.
import type { MachineMemory } from '../machine/memory.ts';
import { fromHalves, highHalf } from './address.ts';
import type { armedBreakpoints } from './breakpoints.ts';
import type { CpuOptions } from './cpu.ts';
import type { Exception } from './exit.ts';
import { EFLAGS, EXPLICIT, FLAG_BIT, FLAG_ROWS, STATUS_FLAGS, STATUS_MASK, flagOpOf } from './flags.ts';
import { compileFlag, type FlagGetter } from './evaluate-expr.ts';
import { CS_FLAT, MODE, type ModeKey } from './mode.ts';
import { ARCH_STATE_BYTES, FPU_CONTROL_RESET, MXCSR_RESET, SEG, SEG_SLOT_BYTES, STATE, STATE_BYTES } from './state-layout.ts';
import { FILLED, TLB_ENTRIES, TLB_ENTRY_BYTES, TLB_VPN_BYTES } from './tlb-layout.ts';

export const UNUSABLE = 0x10000;
/** Access-rights bits. */
export const ACCESS = { typeMask: 0xf, accessed: 1, writable: 2, readable: 2, expandDown: 4, conforming: 4, code: 8, system: 0x10, dplShift: 5, present: 0x80, avl: 0x1000, long: 0x2000, big: 0x4000, granular: 0x8000 } as const;
export const CR0 = { PE: 1, MP: 2, EM: 4, TS: 8, ET: 0x10, NE: 0x20, WP: 0x10000, AM: 0x40000, NW: 0x20000000, CD: 0x40000000, PG: 0x80000000 } as const;
export const CR4 = { VME: 1, PVI: 2, TSD: 4, DE: 8, PSE: 0x10, PAE: 0x20, MCE: 0x40, PGE: 0x80, PCE: 0x100, OSFXSR: 0x200, OSXMMEXCPT: 0x400 } as const;
export const EFER = { SCE: 1, LME: 0x100, LMA: 0x400, NXE: 0x800 } as const;

/** By flagOpCode * 8 + flag. */
const flagGetters: (FlagGetter | undefined)[] = [];

const LONG_FLAT = (1 << (MODE.flatShift + SEG.es)) | (1 << (MODE.flatShift + SEG.cs)) | (1 << (MODE.flatShift + SEG.ss)) | (1 << (MODE.flatShift + SEG.ds));

export class Core {
  readonly machine: MachineMemory;
  readonly options: CpuOptions;
  readonly u32: Uint32Array;
  readonly u8: Uint8Array;
  readonly view: DataView;
  /** Linear addresses. */
  readonly stateBase: number;
  readonly tlbBases: readonly [number, number];
  readonly tlbVpnBases: readonly [number, number];
  /** Of the set of translations in use. */
  tlbBase: number;
  tlbVpnBase: number;
  readonly tlbFilledBases: readonly [number, number];
  /** The second set has been used: flushes have to look at it. */
  secondUsed = false;
  /** Long mode is active; 64-bit code runs. Both follow from EFER and CS (restoreMode). */
  lma = false;
  long = false;
  /** Word index of the state. */
  readonly s: number;
  /** Left behind by whatever returned "fault". */
  fault: Exception | undefined;
  /** What DR0 to DR3 and DR7 arm (breakpoints.ts), and what the current instruction hit of it (bits of DR6). Derived. */
  breakpoints: ReturnType<typeof armedBreakpoints>;
  breakpointsHit = 0;

  /** Instructions retired up to the current one. */
  readonly retiredNow: () => number;

  constructor(machine: MachineMemory, options: CpuOptions, retiredNow: () => number) {
    this.machine = machine;
    this.options = options;
    this.retiredNow = retiredNow;
    this.u32 = machine.u32;
    this.u8 = machine.u8;
    this.view = machine.view;
    this.stateBase = machine.reserve(STATE_BYTES, 64);
    const tlb = (): number => machine.reserve(TLB_ENTRIES * TLB_ENTRY_BYTES, 64);
    const vpns = (): number => machine.reserve(TLB_ENTRIES * TLB_VPN_BYTES, 64);
    this.tlbBases = [tlb(), tlb()];
    this.tlbVpnBases = [vpns(), vpns()];
    const filled = (): number => machine.reserve(FILLED.bytes, 64);
    this.tlbFilledBases = [filled(), filled()];
    this.allFilled();
    this.tlbBase = this.tlbBases[0];
    this.tlbVpnBase = this.tlbVpnBases[0];
    this.s = this.stateBase >>> 2;
    this.reset();
  }

  /** Flat protected mode, everything else zero: the owner sets what it wants. */
  reset(): void {
    this.u8.fill(0, this.stateBase, this.stateBase + STATE_BYTES);
    this.set32(STATE.flagOp, EXPLICIT);
    this.set32(STATE.cr0, CR0.PE | CR0.ET);
    for (const seg of Object.values(SEG)) this.setSegmentSlot(STATE.seg + seg * SEG_SLOT_BYTES, 0, 0, 0xffffffff, seg === SEG.cs ? 0xc09b : 0xc093);
    this.setSegmentSlot(STATE.ldtr, 0, 0, 0, UNUSABLE);
    this.setSegmentSlot(STATE.tr, 0, 0, 0xffff, 0x8b);
    this.set32(STATE.dr + 6 * 8, 0xffff0ff0);
    this.set32(STATE.dr + 7 * 8, 0x400);
    this.set32(STATE.tscPerInsn, 1);
    this.set32(STATE.mxcsr, MXCSR_RESET);
    // As FNINIT leaves it: what a guest of Xen finds.
    this.set32(STATE.fpuControl, FPU_CONTROL_RESET);
    this.dropFetchPage();
    this.updateMode();
  }

  /** Any slot may hold something. */
  allFilled(): void {
    for (const base of this.tlbFilledBases) this.u32[base >>> 2] = FILLED.max + 1;
  }

  get32(at: number): number {
    return this.u32[this.s + (at >> 2)] as number;
  }
  set32(at: number, value: number): void {
    this.u32[this.s + (at >> 2)] = value;
  }

  /** An address slot: rip, a base, cr2 (address.ts). */
  address(at: number): number {
    const w = this.s + (at >> 2);
    const high = this.u32[w + 1] as number;
    return high === 0 ? (this.u32[w] as number) : fromHalves(this.u32[w] as number, high);
  }
  setAddress(at: number, vaddr: number): void {
    const w = this.s + (at >> 2);
    this.u32[w] = vaddr;
    this.u32[w + 1] = highHalf(vaddr);
  }
  get rip(): number {
    return this.address(STATE.rip);
  }
  set rip(vaddr: number) {
    this.setAddress(STATE.rip, vaddr);
  }
  /** An address after arithmetic: outside long mode they wrap at 4 GiB. */
  wrap(vaddr: number): number {
    return this.lma ? vaddr : vaddr >>> 0;
  }

  setSegmentSlot(at: number, selector: number, base: number, limit: number, access: number): void {
    const w = this.s + (at >> 2);
    this.u32[w] = selector;
    this.u32[w + 2] = base;
    this.u32[w + 3] = highHalf(base);
    this.u32[w + 4] = limit;
    this.u32[w + 6] = access;
  }

  /** Recomputes STATE.mode; call after every change of a segment or CPL. */
  updateMode(): void {
    const before = this.get32(STATE.mode) & MODE.user;
    this.restoreMode();
    // Who crosses between user and supervisor fetches anew (law 1).
    if ((this.get32(STATE.mode) & MODE.user) !== before) this.dropFetchPage();
  }
  /** STATE.mode and what else is derived, as everything that they are made from says. */
  restoreMode(): void {
    const { u32 } = this;
    const user = this.get32(STATE.cpl) === 3;
    const second = this.get32(STATE.tables);
    this.lma = (this.get32(STATE.efer) & EFER.LMA) !== 0;
    this.long = this.lma && (this.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 24) & ACCESS.long) !== 0;
    this.tlbBase = this.tlbBases[second as 0 | 1];
    this.tlbVpnBase = this.tlbVpnBases[second as 0 | 1];
    if (second !== 0) this.secondUsed = true;
    const align = user && (this.get32(STATE.cr0) & CR0.AM) !== 0 && (this.get32(STATE.eflagsRest) & EFLAGS.AC) !== 0;
    let mode: ModeKey = (align ? MODE.align : 0) | (user ? MODE.user : 0) | (this.lma ? MODE.lma : 0) | (second !== 0 ? MODE.second : 0);
    if (this.long) {
      // No limits; only FS and GS have bases, which are looked up.
      this.set32(STATE.mode, mode | MODE.long | (align ? CS_FLAT : LONG_FLAT));
      return;
    }
    for (let seg = 0; seg < 6; seg++) {
      const w = this.s + ((STATE.seg + seg * SEG_SLOT_BYTES) >> 2);
      const access = u32[w + 6] as number;
      if ((access & (UNUSABLE | ACCESS.present)) !== ACCESS.present) continue;
      const base = u32[w + 2] as number;
      const limit = u32[w + 4] as number;
      const flat = base === 0 && limit === 0xffffffff;
      const code = (access & ACCESS.code) !== 0;
      if (seg === SEG.cs) {
        if (!code || (access & ACCESS.readable) === 0) continue;
        if (flat) mode |= 1 << (MODE.flatShift + seg);
        if (base === 0 && (limit & 0x3fffff) === 0x3fffff) mode |= ((limit >>> 22) + 1) << MODE.codeUnitsShift;
      } else if (!align && !code && (access & (ACCESS.writable | ACCESS.expandDown)) === ACCESS.writable) {
        mode |= 1 << (MODE.plainShift + seg);
        if (flat) mode |= 1 << (MODE.flatShift + seg);
      }
    }
    if ((this.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 24) & ACCESS.big) !== 0) mode |= MODE.code32;
    if ((this.get32(STATE.seg + SEG.ss * SEG_SLOT_BYTES + 24) & ACCESS.big) !== 0) mode |= MODE.stack32;
    this.set32(STATE.mode, mode);
  }
  get mode(): ModeKey {
    return this.get32(STATE.mode);
  }
  get csFlat(): boolean {
    return (this.mode & CS_FLAT) !== 0;
  }
  get user(): boolean {
    return this.get32(STATE.cpl) === 3;
  }

  dropFetchPage(): void {
    this.set32(STATE.fetchVpn, 0xffffffff);
    this.set32(STATE.fetchVpn + 4, 0xffffffff);
  }

  // -- flags ---------------------------------------------------------------------------------------

  /** One status flag, 0 or 1. */
  flag(index: number): number {
    const code = this.get32(STATE.flagOp);
    const key = code * 8 + index;
    let getter = flagGetters[key];
    if (getter === undefined) {
      const { op, width } = flagOpOf(code);
      getter = compileFlag((FLAG_ROWS[op] as (typeof FLAG_ROWS)[string])[STATUS_FLAGS[index] as 'cf'], width);
      flagGetters[key] = getter;
    }
    if ((code & 3) !== 3) return getter(this.get32(STATE.flagA), this.get32(STATE.flagB), this.get32(STATE.flagR), 0, 0, 0);
    return getter(this.get32(STATE.flagA), this.get32(STATE.flagB), this.get32(STATE.flagR), this.get32(STATE.flagA + 4), this.get32(STATE.flagB + 4), this.get32(STATE.flagR + 4));
  }

  /** The six status flags as in eflags. */
  status(): number {
    if (this.get32(STATE.flagOp) === EXPLICIT) return this.get32(STATE.flagR) & STATUS_MASK;
    let image = 0;
    for (let i = 0; i < 6; i++) image |= this.flag(i) << FLAG_BIT[STATUS_FLAGS[i] as 'cf'];
    return image;
  }

  setStatus(image: number): void {
    this.set32(STATE.flagOp, EXPLICIT);
    this.set32(STATE.flagA, 0);
    this.set32(STATE.flagB, 0);
    this.set32(STATE.flagR, image & STATUS_MASK);
    this.set32(STATE.flagA + 4, 0);
    this.set32(STATE.flagB + 4, 0);
    this.set32(STATE.flagR + 4, 0);
  }

  eflags(): number {
    return ((this.get32(STATE.eflagsRest) & ~STATUS_MASK) | this.status() | 2) >>> 0;
  }
  setEflags(value: number): void {
    const rest = ((value & ~STATUS_MASK) | 2) >>> 0;
    const changed = rest ^ this.get32(STATE.eflagsRest);
    this.set32(STATE.eflagsRest, rest);
    this.setStatus(value);
    if ((changed & EFLAGS.AC) !== 0) this.updateMode();
  }
  get iopl(): number {
    return (this.get32(STATE.eflagsRest) & EFLAGS.IOPL) >> 12;
  }

  /** Brings the lazy flags into the one canonical form, so that equal states have equal bytes. */
  canonicalise(): void {
    this.setStatus(this.status());
    this.set32(STATE.budget, 0);
    this.u8.fill(0, this.stateBase + ARCH_STATE_BYTES, this.stateBase + STATE_BYTES);
  }
}
