// Control, debug and model-specific registers, descriptor-table registers, CPUID, time stamps.
import { CR0, CR4, EFER_NXE, UNUSABLE, type Core } from '../core.ts';
import { flushTlb, invlpg, loadPdptes } from '../paging.ts';
import { descriptorAccess, descriptorBase, descriptorLimit, gp, isException, readDescriptor } from '../segments.ts';
import { segmentLinear, writeLinear } from '../memory-access.ts';
import { STATE } from '../state-layout.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { GP0, UD, gpr, loadMem, offsetOf, readRm16, setGpr, setGpr16, storeMem, type SystemRow } from './row.ts';

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

const movCr: SystemRow = (core, insn) => {
  const [to, from] = insn.operands;
  if (cpl(core) !== 0) return GP0;
  if (to?.kind === 'creg') {
    const value = from?.kind === 'reg' ? gpr(core, from.index) : 0;
    switch (to.index) {
      case 0:
        if ((value & CR0_RESERVED) !== 0 || ((value & CR0.PG) !== 0 && (value & CR0.PE) === 0) || ((value & CR0.NW) !== 0 && (value & CR0.CD) === 0)) return GP0;
        if ((core.get32(STATE.cr0) & CR0.PG) === 0 && nativePae(core, value, core.get32(STATE.cr4)) && !loadPdptes(core, core.get32(STATE.cr3))) return GP0;
        setCr0(core, value);
        return undefined;
      case 2:
        core.set32(STATE.cr2, value);
        return undefined;
      case 3:
        if (nativePae(core, core.get32(STATE.cr0), core.get32(STATE.cr4)) && !loadPdptes(core, value)) return GP0;
        setCr3(core, value);
        return undefined;
      case 4:
        if ((value & ~CR4_KNOWN) !== 0) return GP0;
        if ((core.get32(STATE.cr4) & CR4.PAE) === 0 && nativePae(core, core.get32(STATE.cr0), value) && !loadPdptes(core, core.get32(STATE.cr3))) return GP0;
        setCr4(core, value);
        return undefined;
      default:
        return UD;
    }
  }
  if (from?.kind !== 'creg' || to?.kind !== 'reg') return UD;
  const slot = { 0: STATE.cr0, 2: STATE.cr2, 3: STATE.cr3, 4: STATE.cr4 }[from.index];
  if (slot === undefined) return UD;
  setGpr(core, to.index, core.get32(slot));
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
  if (to?.kind === 'dreg') {
    let value = from?.kind === 'reg' ? gpr(core, from.index) : 0;
    if (real === 6) value = ((value & 0xe00f) | 0xffff0ff0) >>> 0;
    if (real === 7) value = ((value & 0xffff2bff) | 0x400) >>> 0;
    core.set32(STATE.dr + real * 8, value);
  } else if (to?.kind === 'reg') setGpr(core, to.index, core.get32(STATE.dr + real * 8));
  return undefined;
};

/** IA32 MSRs of this model: [read, write]. A write that answers false is #GP. */
const MSRS: Readonly<Record<number, { read: (core: Core) => bigint; write: (core: Core, value: bigint) => boolean }>> = {
  0x10: { read: tscOf, write: (core, value) => (writeTsc(core, value), true) },
  0x174: slot64(STATE.sysenterCs),
  0x175: slot64(STATE.sysenterEsp),
  0x176: slot64(STATE.sysenterEip),
  0xc0000080: {
    read: (core) => BigInt(core.get32(STATE.efer)),
    write: (core, value) => {
      if ((value & ~BigInt(EFER_NXE | 1)) !== 0n) return false;
      const old = core.get32(STATE.efer);
      core.set32(STATE.efer, Number(value));
      if (((old ^ Number(value)) & EFER_NXE) !== 0) flushTlb(core, false);
      return true;
    },
  },
};
function slot64(at: number): { read: (core: Core) => bigint; write: (core: Core, value: bigint) => boolean } {
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
  const vaddr = segmentLinear(core, operand.mem.seg, offsetOf(core, operand.mem), 6, true);
  if (vaddr < 0) return fault(core);
  if (!storeMem(core, operand.mem, 4, core.get32(base), 2) || !storeMem(core, operand.mem, 2, core.get32(limit))) return fault(core);
  return undefined;
};
const tableLoad = (base: number, limit: number): SystemRow => (core, insn) => {
  const operand = insn.operands[0];
  if (cpl(core) !== 0) return GP0;
  if (operand?.kind !== 'mem') return UD;
  const newLimit = loadMem(core, operand.mem, 2);
  if (newLimit === undefined) return fault(core);
  const newBase = loadMem(core, operand.mem, 4, 2);
  if (newBase === undefined) return fault(core);
  core.set32(limit, newLimit);
  core.set32(base, insn.code.endsWith('_16') ? newBase & 0xffffff : newBase);
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
  if (busy && !writeLinear(core, (descriptor.vaddr + 4) >>> 0, 4, (descriptor.hi | 0x200) >>> 0, false)) return fault(core);
  core.setSegmentSlot(at, selector, descriptorBase(descriptor), descriptorLimit(descriptor), busy ? access | 2 : access);
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
    pair(core, tscOf(core));
    return undefined;
  },
  Rdtscp: () => UD,
  Rdpmc: (core) => (cpl(core) !== 0 && (core.get32(STATE.cr4) & CR4.PCE) === 0 ? GP0 : UD),
  Rdmsr: (core) => {
    if (cpl(core) !== 0) return GP0;
    const msr = MSRS[gpr(core, 1)];
    if (msr === undefined) return GP0;
    pair(core, msr.read(core));
    return undefined;
  },
  Wrmsr: (core) => {
    if (cpl(core) !== 0) return GP0;
    const msr = MSRS[gpr(core, 1)];
    if (msr === undefined || !msr.write(core, (BigInt(gpr(core, 2)) << 32n) | BigInt(gpr(core, 0)))) return GP0;
    return undefined;
  },
  Xgetbv: () => UD,
};
