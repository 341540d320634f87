// The remaining system rows: software interrupts, port I/O, flags on the stack, segment loads, frames
// of ENTER, descriptor inspection, and what is said of instructions that are not there.
import { ACCESS, CR0, UNUSABLE, type Core } from '../core.ts';
import type { Insn } from '../decode.ts';
import { VECTOR, type CpuExit, type Exception } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { probeWrite, readLinear, segmentLinear } from '../memory-access.ts';
import { descriptorAccess, descriptorLimit, dplOf, isCode, isConforming, isData, isException, loadDataSegment, readDescriptor } from '../segments.ts';
import { CPUID_EDX, unitRefused } from '../simd/unit.ts';
import { SEG, SEG_SLOT_BYTES, SHADOW, STATE } from '../state-layout.ts';
import { GP0, NM, UD, gpr, loadMem, nextOffset, peekStack, pokeStack, readRm16, setGpr, setGpr16, setSp, spValue, stackIs32, storeMem, type SystemResult, type SystemRow } from './row.ts';

const cpl = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;

const softint = (vector: number): SystemRow => (core, insn) => {
  core.set32(STATE.rip, nextOffset(core, insn));
  return { kind: 'softint', vector, insnBytes: insn.lengthBytes };
};

// -- port I/O --------------------------------------------------------------------------------------

/** IOPL, or else the bitmap of a 32-bit TSS. */
function portAllowed(core: Core, port: number, sizeBytes: number): boolean {
  if (cpl(core) <= core.iopl) return true;
  const base = core.get32(STATE.tr + 8);
  const limit = core.get32(STATE.tr + 16);
  const access = core.get32(STATE.tr + 24);
  // TR as it is before the first LTR names no TSS: a PV guest never loads it.
  if ((core.get32(STATE.tr) & 0xfffc) === 0 || (access & UNUSABLE) !== 0 || (access & 8) === 0 || limit < 0x67) return false;
  const bitmap = readLinear(core, (base + 0x66) >>> 0, 2, false);
  if (bitmap !== bitmap) return false;
  const at = bitmap + (port >> 3);
  if (at + 1 > limit) return false;
  const bits = readLinear(core, (base + at) >>> 0, 2, false);
  return bits === bits && ((bits >> (port & 7)) & ((1 << sizeBytes) - 1)) === 0;
}
/** By the accumulator, or for string I/O by the mnemonic's last letter. */
function ioSize(insn: Insn): 1 | 2 | 4 {
  const accumulator = insn.operands.find((operand) => operand.kind === 'reg' && operand.index === 0);
  if (accumulator?.kind === 'reg') return (accumulator.width / 8) as 1 | 2 | 4;
  return insn.mnemonic.endsWith('b') ? 1 : insn.mnemonic.endsWith('w') ? 2 : 4;
}
const portOf = (core: Core, insn: Insn): number => {
  const immediate = insn.operands.find((operand) => operand.kind === 'imm');
  return immediate?.kind === 'imm' ? Number(immediate.value) & 0xff : gpr(core, 2) & 0xffff;
};
const io = (direction: 'in' | 'out'): SystemRow => (core, insn): SystemResult => {
  const sizeBytes = ioSize(insn);
  const port = portOf(core, insn);
  if (!portAllowed(core, port, sizeBytes)) return GP0;
  const accumulator = gpr(core, 0);
  const value = direction === 'in' ? 0 : sizeBytes === 4 ? accumulator : accumulator & (sizeBytes === 1 ? 0xff : 0xffff);
  return { kind: 'io', port, sizeBytes, direction, value };
};
/** INS, OUTS: string I/O is done one element at a time by whoever completes the exit. */
const stringIo = (direction: 'in' | 'out'): SystemRow => (core, insn): SystemResult => {
  const sizeBytes = ioSize(insn);
  const port = gpr(core, 2) & 0xffff;
  if (!portAllowed(core, port, sizeBytes)) return GP0;
  const mem = insn.operands.find((operand) => operand.kind === 'mem');
  if (mem?.kind !== 'mem') return UD;
  if ((insn.rep || insn.repne) && (insn.addressWidth === 16 ? gpr(core, 1) & 0xffff : gpr(core, 1)) === 0) return undefined;
  if (direction === 'out') {
    const value = loadMem(core, mem.mem, sizeBytes);
    if (value === undefined) return fault(core);
    return { kind: 'io', port, sizeBytes, direction, value };
  }
  return { kind: 'io', port, sizeBytes, direction, value: 0 };
};

/** Finishes an 'io' exit: the instruction at rip takes `value` and counts. False with core.fault on a fault. */
export function completeIo(core: Core, insn: Insn, value: number): boolean {
  const string = /^(Ins|Outs)/.test(insn.mnemonic);
  if (!string) {
    if (insn.mnemonic === 'In') {
      const sizeBytes = ioSize(insn);
      if (sizeBytes === 4) setGpr(core, 0, value >>> 0);
      else if (sizeBytes === 2) setGpr16(core, 0, value);
      else setGpr(core, 0, ((gpr(core, 0) & 0xffffff00) | (value & 0xff)) >>> 0);
    }
    core.set32(STATE.rip, nextOffset(core, insn));
    return true;
  }
  const sizeBytes = ioSize(insn);
  const mem = insn.operands.find((operand) => operand.kind === 'mem');
  if (mem?.kind !== 'mem') return false;
  const input = insn.mnemonic.startsWith('Ins');
  if (input && !storeMem(core, mem.mem, sizeBytes, value)) return false;
  const register = input ? 7 : 6;
  const step = (core.get32(STATE.eflagsRest) & EFLAGS.DF) !== 0 ? -sizeBytes : sizeBytes;
  moveIndex(core, insn, register, step);
  if (insn.rep || insn.repne) {
    moveIndex(core, insn, 1, -1);
    if ((insn.addressWidth === 16 ? gpr(core, 1) & 0xffff : gpr(core, 1)) !== 0) return true;
  }
  core.set32(STATE.rip, nextOffset(core, insn));
  return true;
}
function moveIndex(core: Core, insn: Insn, register: number, by: number): void {
  if (insn.addressWidth === 16) setGpr16(core, register, gpr(core, register) + by);
  else setGpr(core, register, (gpr(core, register) + by) >>> 0);
}

// -- flags -----------------------------------------------------------------------------------------

const pushf: SystemRow = (core, insn) => {
  const size = insn.code === 'Pushfw' ? 2 : 4;
  const image = core.eflags() & ~(EFLAGS.RF | EFLAGS.VM);
  if (!pokeStack(core, size, -size, size === 2 ? image & 0xffff : image >>> 0)) return fault(core);
  setSp(core, spValue(core) - size);
  return undefined;
};
const popf: SystemRow = (core, insn) => {
  const size = insn.code === 'Popfw' ? 2 : 4;
  const image = peekStack(core, size, 0);
  if (image === undefined) return fault(core);
  let mask = 0x8d5 | EFLAGS.TF | EFLAGS.DF | EFLAGS.NT;
  if (cpl(core) <= core.iopl) mask |= EFLAGS.IF;
  if (cpl(core) === 0) mask |= EFLAGS.IOPL;
  if (size === 4) mask |= EFLAGS.AC | EFLAGS.ID;
  setSp(core, spValue(core) + size);
  core.setEflags((((core.eflags() & ~mask) | (image & mask)) & ~EFLAGS.RF) >>> 0);
  return undefined;
};

// -- segments --------------------------------------------------------------------------------------

const shadowOfSs = (core: Core, seg: number): void => {
  if (seg === SEG.ss) core.set32(STATE.shadow, SHADOW.newSs);
};
const movToSeg: SystemRow = (core, insn) => {
  const to = insn.operands[0];
  if (to?.kind !== 'sreg' || to.index === SEG.cs) return UD;
  const selector = readRm16(core, insn, 1);
  if (selector === undefined) return fault(core);
  const problem = loadDataSegment(core, to.index, selector);
  if (problem === undefined) shadowOfSs(core, to.index);
  return problem;
};
const popSeg: SystemRow = (core, insn) => {
  const to = insn.operands[0];
  if (to?.kind !== 'sreg') return UD;
  const size = insn.code.startsWith('Popw') ? 2 : 4;
  const value = peekStack(core, size, 0);
  if (value === undefined) return fault(core);
  const wide = stackIs32(core);
  const sp = spValue(core);
  const problem = loadDataSegment(core, to.index, value & 0xffff);
  if (problem !== undefined) return problem;
  if (wide) setGpr(core, 4, (sp + size) >>> 0);
  else setGpr16(core, 4, sp + size);
  shadowOfSs(core, to.index);
  return undefined;
};
const loadFar = (seg: number): SystemRow => (core, insn) => {
  const [to, from] = insn.operands;
  if (to?.kind !== 'reg' || from?.kind !== 'mem') return UD;
  const size = to.width === 16 ? 2 : 4;
  const offset = loadMem(core, from.mem, size);
  if (offset === undefined) return fault(core);
  const selector = loadMem(core, from.mem, 2, size);
  if (selector === undefined) return fault(core);
  const problem = loadDataSegment(core, seg, selector);
  if (problem !== undefined) return problem;
  if (size === 2) setGpr16(core, to.index, offset);
  else setGpr(core, to.index, offset);
  return undefined;
};

// -- LAR, LSL, VERR, VERW, ARPL --------------------------------------------------------------------

const LAR_TYPES = new Set([1, 2, 3, 4, 5, 9, 11, 12]);
const LSL_TYPES = new Set([1, 2, 3, 9, 11]);
const setZf = (core: Core, on: boolean): void => core.setStatus(on ? core.status() | 0x40 : core.status() & ~0x40);

/** The descriptor if the selector is one that LAR/LSL/VERR/VERW accept; undefined if not; an exception only for faults of the table itself. */
function inspect(core: Core, selector: number, types: ReadonlySet<number>): { access: number; limit: number; raw: number } | undefined | Exception {
  if ((selector & 0xfffc) === 0) return undefined;
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor.vector === VECTOR.PF ? descriptor : undefined;
  const access = descriptorAccess(descriptor);
  if ((access & ACCESS.system) === 0 && !types.has(access & 0xf)) return undefined;
  if (!isConforming(access) && (dplOf(access) < cpl(core) || dplOf(access) < (selector & 3))) return undefined;
  return { access, limit: descriptorLimit(descriptor), raw: descriptor.hi };
}
const inspected = (types: ReadonlySet<number>, value: (found: { limit: number; raw: number }) => number): SystemRow => (core, insn) => {
  const to = insn.operands[0];
  const selector = readRm16(core, insn, 1);
  if (selector === undefined) return fault(core);
  const found = inspect(core, selector, types);
  if (found !== undefined && isException(found)) return found;
  if (found !== undefined && to?.kind === 'reg') {
    if (to.width === 16) setGpr16(core, to.index, value(found));
    else setGpr(core, to.index, value(found) >>> 0);
  }
  setZf(core, found !== undefined);
  return undefined;
};
const verify = (write: boolean): SystemRow => (core, insn) => {
  const selector = readRm16(core, insn, 0);
  if (selector === undefined) return fault(core);
  const found = inspect(core, selector, new Set());
  if (found !== undefined && isException(found)) return found;
  const access = found?.access ?? 0;
  const good = found !== undefined && (write ? isData(access) && (access & ACCESS.writable) !== 0 : isData(access) || (isCode(access) && (access & ACCESS.readable) !== 0));
  setZf(core, good);
  return undefined;
};
const arpl: SystemRow = (core, insn) => {
  const to = insn.operands[0];
  const from = insn.operands[1];
  if (from?.kind !== 'reg') return UD;
  const wanted = gpr(core, from.index) & 3;
  const current = readRm16(core, insn, 0);
  if (current === undefined) return fault(core);
  const raise = (current & 3) < wanted;
  if (to?.kind === 'mem') {
    // The destination is written, or at least checked for writing, in either case.
    if (!storeMem(core, to.mem, 2, raise ? (current & ~3) | wanted : current)) return fault(core);
  } else if (to?.kind === 'reg' && raise) setGpr16(core, to.index, (current & ~3) | wanted);
  setZf(core, raise);
  return undefined;
};

// -- ENTER -----------------------------------------------------------------------------------------

const enter: SystemRow = (core, insn) => {
  const [sizeOperand, levelOperand] = insn.operands;
  const size = insn.code.startsWith('Enterw') ? 2 : 4;
  const alloc = sizeOperand?.kind === 'imm' ? Number(sizeOperand.value) & 0xffff : 0;
  const level = levelOperand?.kind === 'imm' ? Number(levelOperand.value) & 31 : 0;
  const mask = stackIs32(core) ? 0xffffffff : 0xffff;
  const frame = size === 2 ? gpr(core, 5) & 0xffff : gpr(core, 5);
  const words = [frame];
  // All of ESP, even when the stack has 16 bits and only SP moves (so does the real processor).
  const frameTemp = ((gpr(core, 4) & ~mask) | ((spValue(core) - size) & mask)) >>> 0;
  // The first push comes before the display is read: its fault goes first.
  const first = segmentLinear(core, SEG.ss, (frameTemp & mask) >>> 0, size, true);
  if (first < 0 || !probeWrite(core, first, size, core.user)) return fault(core);
  for (let i = 1; i < level; i++) {
    const vaddr = segmentLinear(core, SEG.ss, ((gpr(core, 5) - i * size) & mask) >>> 0, size, false);
    if (vaddr < 0) return fault(core);
    const value = readLinear(core, vaddr, size, core.user);
    if (value !== value) return fault(core);
    words.push(value);
  }
  if (level > 0) words.push(size === 2 ? frameTemp & 0xffff : frameTemp >>> 0);
  const sp = spValue(core) - words.length * size - alloc;
  for (let i = 0; i < words.length; i++) if (!pokeStack(core, size, -(i + 1) * size, words[i] as number)) return fault(core);
  // The final stack top is probed for writing (SDM: ENTER, the last check).
  const probe = segmentLinear(core, SEG.ss, (sp & mask) >>> 0, size, true);
  if (probe < 0) return fault(core);
  if (!probeWrite(core, probe, size, core.user)) return fault(core);
  if (size === 2) setGpr16(core, 5, frameTemp);
  else setGpr(core, 5, frameTemp);
  setSp(core, sp & mask);
  return undefined;
};

// -- SYSENTER, SYSEXIT -----------------------------------------------------------------------------

/** Flat CS and the SS behind it, without a look at the descriptor table. */
function enterFlat(core: Core, selector: number, ring: 0 | 3, ip: number, sp: number): void {
  const rights = 0xc090 | (ring << ACCESS.dplShift);
  core.setSegmentSlot(STATE.seg + SEG.cs * SEG_SLOT_BYTES, selector | ring, 0, 0xffffffff, rights | 0xb);
  core.setSegmentSlot(STATE.seg + SEG.ss * SEG_SLOT_BYTES, (selector + 8) | ring, 0, 0xffffffff, rights | 3);
  core.set32(STATE.cpl, ring);
  core.updateMode();
  core.set32(STATE.rip, ip);
  setGpr(core, 4, sp);
}

// -- x87, as far as it is not in x87.ts -------------------------------------------------------------

/** #NM as CR0 demands; undefined if the x87 may be used. */
const fpuGate = (core: Core): Exception | undefined => ((core.get32(STATE.cr0) & (CR0.EM | CR0.TS)) !== 0 ? NM : undefined);
const fpu = (perform: (core: Core, insn: Insn) => SystemResult): SystemRow => (core, insn) => fpuGate(core) ?? perform(core, insn);
const unimplemented = (insn: Insn): CpuExit => ({ kind: 'unimplemented', text: insn.code });
const hlt: SystemRow = (core, insn) => {
  if (cpl(core) !== 0) return GP0;
  core.set32(STATE.rip, nextOffset(core, insn));
  return { kind: 'halt' };
};
const interruptFlag = (on: boolean): SystemRow => (core) => {
  if (cpl(core) > core.iopl) return GP0;
  const rest = core.get32(STATE.eflagsRest);
  if (on && (rest & EFLAGS.IF) === 0) core.set32(STATE.shadow, SHADOW.newSti);
  core.set32(STATE.eflagsRest, on ? rest | EFLAGS.IF : rest & ~EFLAGS.IF);
  return undefined;
};
const ud: SystemRow = () => UD;

// -- instructions without a row --------------------------------------------------------------------

/** What is promised but not there leaves with its name; what is not promised is #UD. */
const promised = (bit: number): SystemRow => (core, insn) => ((core.options.cpuid(1, 0)[3] & bit) !== 0 ? unimplemented(insn) : UD);
const missingMmx = (bit: number, sse: boolean): SystemRow => (core, insn) => unitRefused(core, sse ? 'sse' : 'mmx') ?? promised(bit)(core, insn);

export const MISC_ROWS: Readonly<Record<string, SystemRow>> = {
  Int: (core, insn) => {
    const operand = insn.operands[0];
    return softint(operand?.kind === 'imm' ? Number(operand.value) & 0xff : 0)(core, insn);
  },
  // A #DB like that of a single step: no gate's DPL is asked (SDM vol. 2, INT1).
  Int1: (core, insn) => {
    core.set32(STATE.rip, nextOffset(core, insn));
    return { kind: 'exception', exception: { vector: VECTOR.DB } };
  },
  Int3: softint(VECTOR.BP),
  Into: (core, insn) => (core.flag(5) === 1 ? softint(VECTOR.OF)(core, insn) : undefined),
  Ud0: ud, Ud1: ud, Ud2: ud, Rsm: ud, Syscall: ud, Vmcall: ud, Vmmcall: ud,
  missingX87: fpu((_core, insn) => unimplemented(insn)),
  missingMmx: missingMmx(CPUID_EDX.mmx, false),
  missingSse: missingMmx(CPUID_EDX.sse, true),
  missingSse2: missingMmx(CPUID_EDX.sse2, true),
  missing: ud,
  Hlt: hlt,
  Cli: interruptFlag(false),
  Sti: interruptFlag(true),
  In: io('in'), Out: io('out'),
  Insb: stringIo('in'), Insw: stringIo('in'), Insd: stringIo('in'),
  Outsb: stringIo('out'), Outsw: stringIo('out'), Outsd: stringIo('out'),
  pushf, popf, movToSeg, popSeg, enter,
  Lds: loadFar(SEG.ds), Les: loadFar(SEG.es), Lfs: loadFar(SEG.fs), Lgs: loadFar(SEG.gs), Lss: loadFar(SEG.ss),
  Lar: inspected(LAR_TYPES, ({ raw }) => raw & 0x00ffff00),
  Lsl: inspected(LSL_TYPES, ({ limit }) => limit),
  Verr: verify(false), Verw: verify(true), Arpl: arpl,
  Sysenter: (core) => {
    const selector = core.get32(STATE.sysenterCs) & 0xfffc;
    if (selector === 0) return GP0;
    core.setEflags((core.eflags() & ~(EFLAGS.VM | EFLAGS.IF | EFLAGS.RF)) >>> 0);
    enterFlat(core, selector, 0, core.get32(STATE.sysenterEip), core.get32(STATE.sysenterEsp));
    return 'jumped';
  },
  Sysexit: (core) => {
    const selector = core.get32(STATE.sysenterCs) & 0xfffc;
    if (cpl(core) !== 0 || selector === 0) return GP0;
    enterFlat(core, selector + 16, 3, gpr(core, 2), gpr(core, 1));
    return 'jumped';
  },
};
