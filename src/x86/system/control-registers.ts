// Control, debug and model-specific registers, descriptor-table registers, CPUID, time stamps.
import { addressOf, bitsOf, fromHalves, highHalf, inCanonicalRange } from '../address.ts';
import { ACCESS, CR0, CR4, EFER, UNUSABLE, type Core } from '../core.ts';
import { debugRegistersChanged, flushTlb, invlpg, loadPdptes } from '../paging.ts';
import { descriptorAccess, descriptorLimit, gp, isException, readDescriptor, systemBase } from '../segments.ts';
import { writeLinear } from '../memory-access.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { GP0, UD, gpr, gpr64, loadMem, loadMem64, memLinear, offsetOf, readRm16, setGpr, setGpr16, setGpr64, storeMem, storeMem64, type SystemRow } from './row.ts';

const cpl = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;
const CR0_RESERVED = 0x1ffaffc0;
const CR4_KNOWN = CR4.VME | CR4.PVI | CR4.TSD | CR4.DE | CR4.PSE | CR4.PAE | CR4.MCE | CR4.PGE | CR4.PCE | CR4.OSFXSR | CR4.OSXMMEXCPT;

/** Effects of new values; checks are the instruction's. */
const nativePae = (core: Core, cr0: number, cr4: number): boolean => core.options.pdpteCached === true && (cr0 & CR0.PG) !== 0 && (cr4 & CR4.PAE) !== 0;
/** Loads the held PDPTEs again, where the processor holds them; false if one of them is malformed. */
export const reloadPdptes = (core: Core): boolean => !nativePae(core, core.get32(STATE.cr0), core.get32(STATE.cr4)) || loadPdptes(core, core.get32(STATE.cr3));

export function setCr0(core: Core, value: number): void {
  const old = core.get32(STATE.cr0);
  core.set32(STATE.cr0, (value | CR0.ET) >>> 0);
  // Long mode is active while paging is on and EFER.LME set.
  const efer = core.get32(STATE.efer);
  const active = (value & CR0.PG) !== 0 && (efer & EFER.LME) !== 0;
  if (active !== ((efer & EFER.LMA) !== 0)) {
    core.set32(STATE.efer, efer ^ EFER.LMA);
    core.updateMode();
  }
  if (((old ^ value) & (CR0.PG | CR0.WP | CR0.PE)) !== 0) flushTlb(core, false);
  if (((old ^ value) & CR0.AM) !== 0) core.updateMode();
  if (((old ^ value) & CR0.PG) !== 0) reloadPdptes(core);
}
export function setCr3(core: Core, value: number): void {
  core.set32(STATE.cr3, value);
  reloadPdptes(core);
  flushTlb(core, (core.get32(STATE.cr4) & CR4.PGE) !== 0);
}
export function setCr4(core: Core, value: number): void {
  const old = core.get32(STATE.cr4);
  core.set32(STATE.cr4, value);
  if (((old ^ value) & (CR4.PAE | CR4.PSE | CR4.PGE)) !== 0) flushTlb(core, false);
  if (((old ^ value) & (CR4.PAE | CR4.PSE | CR4.PGE)) !== 0) reloadPdptes(core);
}

/** May CR0 become `value`? */
function cr0Allowed(core: Core, value: number): boolean {
  const old = core.get32(STATE.cr0);
  if ((value & CR0_RESERVED) !== 0 || ((value & CR0.PG) !== 0 && (value & CR0.PE) === 0) || ((value & CR0.NW) !== 0 && (value & CR0.CD) === 0)) return false;
  if (core.long && (value & CR0.PG) === 0) return false;
  if ((old & CR0.PG) !== 0 || (value & CR0.PG) === 0) return true;
  if ((core.get32(STATE.efer) & EFER.LME) !== 0) return (core.get32(STATE.cr4) & CR4.PAE) !== 0 && (core.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 24) & ACCESS.long) === 0;
  return !nativePae(core, value, core.get32(STATE.cr4)) || loadPdptes(core, core.get32(STATE.cr3));
}
function cr4Allowed(core: Core, value: number): boolean {
  if ((value & ~CR4_KNOWN) !== 0) return false;
  const old = core.get32(STATE.cr4);
  if (core.lma) return (value & CR4.PAE) !== 0;
  return (old & CR4.PAE) !== 0 || !nativePae(core, core.get32(STATE.cr0), value) || loadPdptes(core, core.get32(STATE.cr3));
}

const movCr: SystemRow = (core, insn) => {
  const [to, from] = insn.operands;
  if (cpl(core) !== 0) return GP0;
  if (to?.kind === 'creg') {
    const value = from?.kind === 'reg' ? gpr(core, from.index) : 0;
    const high = core.long && from?.kind === 'reg' ? Number(gpr64(core, from.index) >> 32n) : 0;
    // RAM ends below 4 GiB: upper halves of CR3 have nothing to say, of the others they are reserved.
    if (high !== 0 && to.index !== 2 && (to.index !== 3 || (high & 0x7fffff00) !== 0)) return GP0;
    switch (to.index) {
      case 0:
        if (!cr0Allowed(core, value)) return GP0;
        setCr0(core, value);
        return undefined;
      case 2:
        core.set32(STATE.cr2, value);
        core.set32(STATE.cr2 + 4, high);
        return undefined;
      case 3:
        if (nativePae(core, core.get32(STATE.cr0), core.get32(STATE.cr4)) && !loadPdptes(core, value)) return GP0;
        setCr3(core, value);
        return undefined;
      case 4:
        if (!cr4Allowed(core, value)) return GP0;
        setCr4(core, value);
        return undefined;
      case 8:
        if (!core.long) return UD;
        if (value > 15) return GP0;
        core.set32(STATE.cr8, value);
        return undefined;
      default:
        return UD;
    }
  }
  if (from?.kind !== 'creg' || to?.kind !== 'reg') return UD;
  const slot = { 0: STATE.cr0, 2: STATE.cr2, 3: STATE.cr3, 4: STATE.cr4, 8: core.long ? STATE.cr8 : undefined }[from.index];
  if (slot === undefined) return UD;
  if (core.long) setGpr64(core, to.index, core.view.getBigUint64(core.stateBase + slot, true));
  else setGpr(core, to.index, core.get32(slot));
  return undefined;
};

const movDr: SystemRow = (core, insn) => {
  const [to, from] = insn.operands;
  if (cpl(core) !== 0) return GP0;
  const number = to?.kind === 'dreg' ? to.index : from?.kind === 'dreg' ? from.index : 0;
  let real = number;
  if (number === 4 || number === 5) {
    if ((core.get32(STATE.cr4) & CR4.DE) !== 0) return UD;
    real = number + 2;
  }
  if (real > 7) return UD;
  if ((core.get32(STATE.dr + 7 * 8) & 0x2000) !== 0) return { vector: VECTOR.DB };
  const wide = core.long ? [to, from].find((operand) => operand?.kind === 'reg') : undefined;
  if (to?.kind === 'dreg' && wide?.kind === 'reg' && real >= 6 && gpr64(core, wide.index) >> 32n !== 0n) return GP0;
  if (to?.kind === 'dreg') {
    let value = from?.kind === 'reg' ? gpr(core, from.index) : 0;
    if (real === 6) value = ((value & 0xe00f) | 0xffff0ff0) >>> 0;
    if (real === 7) value = ((value & 0xffff2bff) | 0x400) >>> 0;
    core.set32(STATE.dr + real * 8, value);
    if (wide?.kind === 'reg') core.set32(STATE.dr + real * 8 + 4, Number(gpr64(core, wide.index) >> 32n));
    debugRegistersChanged(core);
  } else if (to?.kind === 'reg') setGpr64(core, to.index, core.view.getBigUint64(core.stateBase + STATE.dr + real * 8, true));
  return undefined;
};

interface Msr {
  readonly read: (core: Core) => bigint;
  /** False is #GP. */
  readonly write: (core: Core, value: bigint) => boolean;
  /** There only if CPUID promises long mode. */
  readonly long?: true;
}
const CPUID_LM = 1 << 29;
/** Asked of CPUID, which is pure. */
export const hasLongMode = (core: Core): boolean => (core.options.cpuid(0x80000001, 0)[3] & CPUID_LM) !== 0;

const MSRS: Readonly<Record<number, Msr>> = {
  0x10: { read: tscOf, write: (core, value) => (writeTsc(core, value), true) },
  0x174: slot64(STATE.sysenterCs),
  0x175: slot64(STATE.sysenterEsp),
  0x176: slot64(STATE.sysenterEip),
  0xc0000080: {
    read: (core) => BigInt(core.get32(STATE.efer)),
    write: (core, value) => {
      const long = hasLongMode(core);
      if ((value & ~BigInt(EFER.NXE | EFER.SCE | (long ? EFER.LME | EFER.LMA : 0))) !== 0n) return false;
      const old = core.get32(STATE.efer);
      if (((old ^ Number(value)) & EFER.LME) !== 0 && (core.get32(STATE.cr0) & CR0.PG) !== 0) return false;
      core.set32(STATE.efer, (Number(value) & ~EFER.LMA) | (old & EFER.LMA));
      if (((old ^ Number(value)) & EFER.NXE) !== 0) flushTlb(core, false);
      return true;
    },
  },
  0xc0000081: { ...slot64(STATE.star), long: true },
  0xc0000082: { ...canonical64(STATE.lstar), long: true },
  0xc0000083: { ...canonical64(STATE.cstar), long: true },
  0xc0000084: { read: slot64(STATE.fmask).read, write: (core, value) => value >> 32n === 0n && slot64(STATE.fmask).write(core, value), long: true },
  0xc0000100: { ...canonical64(STATE.seg + SEG.fs * SEG_SLOT_BYTES + 8), long: true },
  0xc0000101: { ...canonical64(STATE.seg + SEG.gs * SEG_SLOT_BYTES + 8), long: true },
  0xc0000102: { ...canonical64(STATE.kernelGsBase), long: true },
};
/** A model-specific register as the processor reads it; undefined if there is none of that number. */
export function readMsr(core: Core, index: number): bigint | undefined {
  const msr = MSRS[index];
  return msr === undefined || (msr.long === true && !hasLongMode(core)) ? undefined : msr.read(core);
}
/** False where WRMSR raises #GP. */
export function writeMsr(core: Core, index: number, value: bigint): boolean {
  const msr = MSRS[index];
  return msr !== undefined && !(msr.long === true && !hasLongMode(core)) && msr.write(core, value);
}
function canonical64(at: number): Msr {
  const { read, write } = slot64(at);
  return { read, write: (core, value) => addressOf(value) !== undefined && write(core, value) };
}
function slot64(at: number): Msr {
  return {
    read: (core) => core.view.getBigUint64(core.stateBase + at, true),
    write: (core, value) => {
      core.view.setBigUint64(core.stateBase + at, value, true);
      return true;
    },
  };
}
export function tscOf(core: Core): bigint {
  return BigInt.asUintN(64, core.view.getBigInt64(core.stateBase + STATE.tscBase, true) + BigInt(core.retiredNow()) * core.view.getBigUint64(core.stateBase + STATE.tscPerInsn, true));
}
function writeTsc(core: Core, value: bigint): void {
  const now = tscOf(core);
  core.view.setBigInt64(core.stateBase + STATE.tscBase, core.view.getBigInt64(core.stateBase + STATE.tscBase, true) + BigInt.asIntN(64, value - now), true);
}

const pair = (core: Core, value: bigint): void => {
  setGpr(core, 0, Number(value & 0xffffffffn));
  setGpr(core, 2, Number((value >> 32n) & 0xffffffffn));
};

const tableStore = (base: number, limit: number): SystemRow => (core, insn) => {
  const operand = insn.operands[0];
  if (operand?.kind !== 'mem') return UD;
  // Limit and base are stored with one check of the whole operand first.
  if (Number.isNaN(memLinear(core, operand.mem, core.long ? 10 : 6, true))) return fault(core);
  if (core.long) return storeMem64(core, operand.mem, bitsOf(core.address(base)), 2) && storeMem(core, operand.mem, 2, core.get32(limit)) ? undefined : fault(core);
  if (!storeMem(core, operand.mem, 4, core.get32(base), 2) || !storeMem(core, operand.mem, 2, core.get32(limit))) return fault(core);
  return undefined;
};
const tableLoad = (base: number, limit: number): SystemRow => (core, insn) => {
  const operand = insn.operands[0];
  if (cpl(core) !== 0) return GP0;
  if (operand?.kind !== 'mem') return UD;
  const newLimit = loadMem(core, operand.mem, 2);
  if (newLimit === undefined) return fault(core);
  if (core.long) {
    const bits = loadMem64(core, operand.mem, 2);
    if (bits === undefined) return fault(core);
    const wide = addressOf(bits);
    if (wide === undefined) return GP0;
    core.set32(limit, newLimit);
    core.setAddress(base, wide);
    return undefined;
  }
  const newBase = loadMem(core, operand.mem, 4, 2);
  if (newBase === undefined) return fault(core);
  core.set32(limit, newLimit);
  core.setAddress(base, insn.code.endsWith('_16') ? newBase & 0xffffff : newBase);
  return undefined;
};

/** SLDT, STR, SMSW: 16 bits to memory, zero-extended to a wider register. */
const store16 = (value: (core: Core) => number, wide?: (core: Core) => number): SystemRow => (core, insn) => {
  const operand = insn.operands[0];
  if (operand?.kind === 'mem') return storeMem(core, operand.mem, 2, value(core) & 0xffff) ? undefined : fault(core);
  if (operand?.kind !== 'reg') return UD;
  if (operand.width === 16) setGpr16(core, operand.index, value(core));
  else setGpr(core, operand.index, (wide ?? value)(core));
  return undefined;
};

/** LLDT and LTR. */
const loadSystemSegment = (at: number, types: ReadonlySet<number>, busy: boolean): SystemRow => (core, insn) => {
  if (cpl(core) !== 0) return GP0;
  const selector = readRm16(core, insn, 0);
  if (selector === undefined) return fault(core);
  if ((selector & 0xfffc) === 0) {
    if (busy) return GP0;
    core.setSegmentSlot(at, selector, 0, 0, UNUSABLE);
    return undefined;
  }
  if ((selector & 4) !== 0) return gp(selector);
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  if ((access & 0x10) !== 0 || !types.has(access & 0xf)) return gp(selector);
  if ((access & 0x80) === 0) return { vector: VECTOR.NP, errorCode: selector & 0xfffc };
  if (core.lma && (access & 0xf) === 1) return gp(selector);
  const base = systemBase(core, selector, descriptor);
  if (typeof base !== 'number') return base;
  if (busy && !writeLinear(core, core.wrap(descriptor.vaddr + 4), 4, (descriptor.hi | 0x200) >>> 0, false)) return fault(core);
  core.setSegmentSlot(at, selector, base, descriptorLimit(descriptor), busy ? access | 2 : access);
  return undefined;
};

export const CONTROL_REGISTER_ROWS: Readonly<Record<string, SystemRow>> = {
  movCr,
  movDr,
  Clts: (core) => {
    if (cpl(core) !== 0) return GP0;
    core.set32(STATE.cr0, (core.get32(STATE.cr0) & ~CR0.TS) >>> 0);
    return undefined;
  },
  Lmsw: (core, insn) => {
    if (cpl(core) !== 0) return GP0;
    const value = readRm16(core, insn, 0);
    if (value === undefined) return fault(core);
    // LMSW can set PE but not clear it.
    const old = core.get32(STATE.cr0);
    setCr0(core, ((old & ~0xe) | (value & 0xf) | (old & 1)) >>> 0);
    return undefined;
  },
  Smsw: store16((core) => core.get32(STATE.cr0) & 0xffff, (core) => core.get32(STATE.cr0)),
  Sgdt: tableStore(STATE.gdtrBase, STATE.gdtrLimit),
  Sidt: tableStore(STATE.idtrBase, STATE.idtrLimit),
  Lgdt: tableLoad(STATE.gdtrBase, STATE.gdtrLimit),
  Lidt: tableLoad(STATE.idtrBase, STATE.idtrLimit),
  Sldt: store16((core) => core.get32(STATE.ldtr)),
  Str: store16((core) => core.get32(STATE.tr)),
  Lldt: loadSystemSegment(STATE.ldtr, new Set([2]), false),
  Ltr: loadSystemSegment(STATE.tr, new Set([1, 9]), true),
  Invlpg: (core, insn) => {
    if (cpl(core) !== 0) return GP0;
    const operand = insn.operands[0];
    if (operand?.kind !== 'mem') return UD;
    if (core.long) {
      // Without a fault, whatever the address: one that is not canonical has no translation.
      const { fault: before } = core;
      const vaddr = memLinear(core, operand.mem, 1, false);
      core.fault = before;
      if (inCanonicalRange(vaddr)) invlpg(core, vaddr);
      return undefined;
    }
    const base = core.get32(STATE.seg + operand.mem.seg * 32 + 8);
    invlpg(core, (offsetOf(core, operand.mem) + base) >>> 0);
    return undefined;
  },
  Wbinvd: (core) => (cpl(core) !== 0 ? GP0 : undefined),
  Invd: (core) => (cpl(core) !== 0 ? GP0 : undefined),
  Cpuid: (core) => {
    const [a, b, c, d] = core.options.cpuid(gpr(core, 0), gpr(core, 1));
    setGpr(core, 0, a >>> 0);
    setGpr(core, 3, b >>> 0);
    setGpr(core, 1, c >>> 0);
    setGpr(core, 2, d >>> 0);
    return undefined;
  },
  Rdtsc: (core) => {
    if ((core.get32(STATE.cr4) & CR4.TSD) !== 0 && cpl(core) !== 0) return GP0;
    // A kernel that waits reads it a hundred thousand times; while all of it are exact numbers no bigint is needed.
    const base = fromHalves(core.get32(STATE.tscBase), core.get32(STATE.tscBase + 4));
    const passed = core.retiredNow() * core.get32(STATE.tscPerInsn);
    const now = base + passed;
    const exact = Number.isSafeInteger(base) && Number.isSafeInteger(passed) && Number.isSafeInteger(now) && core.get32(STATE.tscPerInsn + 4) === 0;
    if (now < 0 || !exact) pair(core, tscOf(core));
    else {
      setGpr(core, 0, now >>> 0);
      setGpr(core, 2, highHalf(now));
    }
    return undefined;
  },
  Rdtscp: () => UD,
  Rdpmc: (core) => (cpl(core) !== 0 && (core.get32(STATE.cr4) & CR4.PCE) === 0 ? GP0 : UD),
  Rdmsr: (core) => {
    if (cpl(core) !== 0) return GP0;
    const value = readMsr(core, gpr(core, 1));
    if (value === undefined) return GP0;
    pair(core, value);
    return undefined;
  },
  Wrmsr: (core) => {
    if (cpl(core) !== 0) return GP0;
    return writeMsr(core, gpr(core, 1), (BigInt(gpr(core, 2)) << 32n) | BigInt(gpr(core, 0))) ? undefined : GP0;
  },
  Xgetbv: () => UD,
};
