// The remaining system rows: software interrupts, port I/O, flags on the stack, segment loads, frames
// of ENTER, descriptor inspection, and what is said of instructions that are not there.
import { ACCESS, UNUSABLE, type Core } from '../core.ts';
import type { Insn } from '../decode.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { probeWrite, read64, readLinear, segmentLinear, segmentLinear64, write64, writeLinear } from '../memory-access.ts';
import { descriptorAccess, descriptorLimit, dplOf, isCode, isConforming, isData, isException, loadDataSegment, readDescriptor } from '../segments.ts';
import { SEG, SHADOW, STATE } from '../state-layout.ts';
import { GP0, UD, gpr, gpr64, loadMem, loadMem64, nextOffset, peekStack, readRm16, setGpr, setGpr16, setGpr64, setSp, spValue, spWidth, stackIs32, storeMem, type SystemResult, type SystemRow } from './row.ts';

const cpl = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;

const softint = (vector: number): SystemRow => (core, insn) => {
  core.rip = nextOffset(core, insn);
  return { kind: 'softint', vector, insnBytes: insn.lengthBytes };
};

// -- port I/O --------------------------------------------------------------------------------------

/** IOPL, or else the bitmap of a 32-bit TSS. */
function portAllowed(core: Core, port: number, sizeBytes: number): boolean {
  if (cpl(core) <= core.iopl) return true;
  const base = core.address(STATE.tr + 8);
  const limit = core.get32(STATE.tr + 16);
  const access = core.get32(STATE.tr + 24);
  // TR as it is before the first LTR names no TSS: a PV guest never loads it.
  if ((core.get32(STATE.tr) & 0xfffc) === 0 || (access & UNUSABLE) !== 0 || (access & 8) === 0 || limit < 0x67) return false;
  const bitmap = readLinear(core, core.wrap(base + 0x66), 2, false);
  if (bitmap !== bitmap) return false;
  const at = bitmap + (port >> 3);
  if (at + 1 > limit) return false;
  const bits = readLinear(core, core.wrap(base + at), 2, false);
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
  if ((insn.rep || insn.repne) && countIsZero(core, insn)) return undefined;
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
    core.rip = nextOffset(core, insn);
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
    if (!countIsZero(core, insn)) return true;
  }
  core.rip = nextOffset(core, insn);
  return true;
}
function countIsZero(core: Core, insn: Insn): boolean {
  return BigInt.asUintN(insn.addressWidth, gpr64(core, 1)) === 0n;
}
function moveIndex(core: Core, insn: Insn, register: number, by: number): void {
  if (insn.addressWidth === 64) setGpr64(core, register, gpr64(core, register) + BigInt(by));
  else if (insn.addressWidth === 16) setGpr16(core, register, gpr(core, register) + by);
  else setGpr(core, register, (gpr(core, register) + by) >>> 0);
}

// -- flags -----------------------------------------------------------------------------------------

const flagsSize = ({ code }: Insn): number => (code.endsWith('fw') ? 2 : code.endsWith('fq') ? 8 : 4);
const popf: SystemRow = (core, insn) => {
  const size = flagsSize(insn);
  // Of eight bytes the upper four are ignored.
  const image = peekStack(core, Math.min(size, 4), 0);
  if (image === undefined || (size === 8 && peekStack(core, 8, 0) === undefined)) return fault(core);
  let mask = 0x8d5 | EFLAGS.TF | EFLAGS.DF | EFLAGS.NT;
  if (cpl(core) <= core.iopl) mask |= EFLAGS.IF;
  if (cpl(core) === 0) mask |= EFLAGS.IOPL;
  if (size !== 2) mask |= EFLAGS.AC | EFLAGS.ID;
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
  const size = insn.stackDelta;
  const value = peekStack(core, size, 0);
  if (value === undefined) return fault(core);
  const wide = stackIs32(core);
  const sp = spValue(core);
  const problem = loadDataSegment(core, to.index, peekStack(core, 2, 0) as number);
  if (problem !== undefined) return problem;
  if (core.long) setSp(core, sp + size);
  else if (wide) setGpr(core, 4, (sp + size) >>> 0);
  else setGpr16(core, 4, sp + size);
  shadowOfSs(core, to.index);
  return undefined;
};
const loadFar = (seg: number): SystemRow => (core, insn) => {
  const [to, from] = insn.operands;
  if (to?.kind !== 'reg' || from?.kind !== 'mem') return UD;
  const size = to.width / 8;
  const offset = size === 8 ? loadMem64(core, from.mem) : loadMem(core, from.mem, size);
  if (offset === undefined) return fault(core);
  const selector = loadMem(core, from.mem, 2, size);
  if (selector === undefined) return fault(core);
  const problem = loadDataSegment(core, seg, selector);
  if (problem !== undefined) return problem;
  if (size === 2) setGpr16(core, to.index, Number(offset));
  else setGpr64(core, to.index, BigInt(offset));
  return undefined;
};

// -- LAR, LSL, VERR, VERW, ARPL --------------------------------------------------------------------

const LAR_TYPES = new Set([1, 2, 3, 4, 5, 9, 11, 12]);
const LSL_TYPES = new Set([1, 2, 3, 9, 11]);
/** In long mode what has 16 bits, task gates and (for LSL) call gates are gone. */
const LONG_TYPES = new Set([2, 9, 11, 12]);
const setZf = (core: Core, on: boolean): void => core.setStatus(on ? core.status() | 0x40 : core.status() & ~0x40);

/** The descriptor if the selector is one that LAR/LSL/VERR/VERW accept; undefined if not; an exception only for faults of the table itself. */
function inspect(core: Core, selector: number, types: ReadonlySet<number>): { access: number; limit: number; raw: number } | undefined | Exception {
  if ((selector & 0xfffc) === 0) return undefined;
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor.vector === VECTOR.PF ? descriptor : undefined;
  const access = descriptorAccess(descriptor);
  if ((access & ACCESS.system) === 0 && (!types.has(access & 0xf) || (core.lma && !LONG_TYPES.has(access & 0xf)))) return undefined;
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
  const size = insn.code.startsWith('Enterw') ? 2 : core.long ? 8 : 4;
  const alloc = sizeOperand?.kind === 'imm' ? Number(sizeOperand.value) & 0xffff : 0;
  const level = levelOperand?.kind === 'imm' ? Number(levelOperand.value) & 31 : 0;
  const width = spWidth(core);
  const low = (value: bigint): bigint => BigInt.asUintN(width, value);
  const part = (value: bigint): bigint => BigInt.asUintN(size * 8, value);
  const stack = (sp: bigint, write: boolean): number => stackLinear(core, size, low(sp), write);
  const [sp, bp] = [low(gpr64(core, 4)), gpr64(core, 5)];
  const words = [part(bp)];
  // All of ESP, even when the stack has 16 bits and only SP moves (so does the real processor).
  const frame = gpr64(core, 4) - sp + low(sp - BigInt(size));
  // The first push comes before the display is read: its fault goes first.
  const first = stack(frame, true);
  if (first !== first || !probeWrite(core, first, size, core.user)) return fault(core);
  for (let i = 1; i < level; i++) {
    const vaddr = stack(bp - BigInt(i * size), false);
    if (vaddr !== vaddr) return fault(core);
    const value = size === 8 ? read64(core, vaddr, core.user) : readLinear(core, vaddr, size, core.user);
    if (value === undefined || Number.isNaN(value)) return fault(core);
    words.push(BigInt(value));
  }
  if (level > 0) words.push(part(frame));
  for (const [i, word] of words.entries()) {
    const vaddr = stack(sp - BigInt((i + 1) * size), true);
    if (vaddr !== vaddr) return fault(core);
    if (!(size === 8 ? write64(core, vaddr, word, core.user) : writeLinear(core, vaddr, size, Number(word), core.user))) return fault(core);
  }
  // The final stack top is probed for writing (SDM: ENTER, the last check).
  const end = low(sp - BigInt(words.length * size + alloc));
  const probe = stack(end, true);
  if (probe !== probe || !probeWrite(core, probe, size, core.user)) return fault(core);
  if (size === 2) setGpr16(core, 5, Number(frame & 0xffffn));
  else setGpr64(core, 5, part(frame));
  setGpr64(core, 4, gpr64(core, 4) - sp + end);
  return undefined;
};
const stackLinear = (core: Core, sizeBytes: number, sp: bigint, write: boolean): number =>
  core.long ? segmentLinear64(core, SEG.ss, Number(sp & 0xffffffffn), Number(sp >> 32n), sizeBytes) : segmentLinear(core, SEG.ss, Number(sp), sizeBytes, write);

const hlt: SystemRow = (core, insn) => {
  if (cpl(core) !== 0) return GP0;
  core.rip = nextOffset(core, insn);
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

export const MISC_ROWS: Readonly<Record<string, SystemRow>> = {
  Int: (core, insn) => {
    const operand = insn.operands[0];
    return softint(operand?.kind === 'imm' ? Number(operand.value) & 0xff : 0)(core, insn);
  },
  // A #DB like that of a single step: no gate's DPL is asked (SDM vol. 2, INT1).
  Int1: (core, insn) => {
    core.rip = nextOffset(core, insn);
    return { kind: 'exception', exception: { vector: VECTOR.DB } };
  },
  Int3: softint(VECTOR.BP),
  Into: (core, insn) => (core.flag(5) === 1 ? softint(VECTOR.OF)(core, insn) : undefined),
  Ud0: ud, Ud1: ud, Ud2: ud, Rsm: ud, Vmcall: ud, Vmmcall: ud,
  missing: ud,
  Hlt: hlt,
  Cli: interruptFlag(false),
  Sti: interruptFlag(true),
  In: io('in'), Out: io('out'),
  Insb: stringIo('in'), Insw: stringIo('in'), Insd: stringIo('in'),
  Outsb: stringIo('out'), Outsw: stringIo('out'), Outsd: stringIo('out'),
  popf, movToSeg, popSeg, enter,
  Lds: loadFar(SEG.ds), Les: loadFar(SEG.es), Lfs: loadFar(SEG.fs), Lgs: loadFar(SEG.gs), Lss: loadFar(SEG.ss),
  Lar: inspected(LAR_TYPES, ({ raw }) => raw & 0x00ffff00),
  Lsl: inspected(LSL_TYPES, ({ limit }) => limit),
  Verr: verify(false), Verw: verify(true), Arpl: arpl,
};
