// SSE's state: MXCSR, FXSAVE and FXRSTOR, EMMS, masked stores.
// Sources: SDM vol. 1, 10.2.3 and 10.5; vol. 2, the instructions.
import { CR0, CR4, type Core } from '../core.ts';
import type { Insn, MemOperand, Operand } from '../decode.ts';
import { alignedVector, probeWrite, readBytes, segmentLinear, writeBytes, writeLinear } from '../memory-access.ts';
import { MODE } from '../mode.ts';
import { STATE } from '../state-layout.ts';
import { enterMmx, unitRefused } from '../simd/unit.ts';
import { CONTROL_WORD, registerAt, setRegisterAt, summarise, topOf } from '../x87/unit.ts';
import { GP0, gpr, loadMem, memLinear, NM, storeMem, type SystemRow, UD } from './row.ts';
import { fault, memOf } from './x87-memory.ts';

/** Bits of MXCSR that exist; FXSAVE says so. */
const MXCSR_MASK = 0xffff;

const ldmxcsr: SystemRow = (core, insn) => {
  const refused = unitRefused(core, 'sse');
  if (refused !== undefined) return refused;
  const value = loadMem(core, memOf(insn) as MemOperand, 4);
  if (value === undefined) return fault(core);
  if ((value & ~MXCSR_MASK) !== 0) return GP0;
  core.set32(STATE.mxcsr, value);
  return undefined;
};
const stmxcsr: SystemRow = (core, insn) => {
  const refused = unitRefused(core, 'sse');
  if (refused !== undefined) return refused;
  return storeMem(core, memOf(insn) as MemOperand, 4, core.get32(STATE.mxcsr)) ? undefined : fault(core);
};
const emms: SystemRow = (core) => {
  const refused = unitRefused(core, 'mmx');
  if (refused !== undefined) return refused;
  enterMmx(core);
  core.set32(STATE.fpuFull, 0);
  return undefined;
};

// -- FXSAVE and FXRSTOR ------------------------------------------------------------------------------

const IMAGE_BYTES = 512;
/** Byte offsets in the image. */
const AT = { control: 0, status: 2, full: 4, opcode: 6, ip: 8, ipHigh: 12, dp: 16, dpHigh: 20, mxcsr: 24, mxcsrMask: 28, st: 32, xmm: 160 } as const;
/** The image up to its last XMM register; what follows it the processor leaves alone. */
const imageEnd = (core: Core): number => AT.xmm + 16 * xmmCount(core);
const xmmCount = (core: Core): number => ((core.mode & MODE.long) !== 0 ? 16 : 8);
const savesXmm = (core: Core): boolean => (core.get32(STATE.cr4) & CR4.OSFXSR) !== 0;

/** The linear address of the image, or NaN with core.fault. */
function imageLinear(core: Core, insn: Insn, write: boolean): number {
  const mem = memOf(insn) as MemOperand;
  const vaddr = alignedVector(core, memLinear(core, mem, 16, write), true);
  return vaddr !== vaddr || Number.isNaN(memLinear(core, mem, 16, write, IMAGE_BYTES - 16)) ? NaN : vaddr;
}

const fxsave = (wide: boolean): SystemRow => (core, insn) => {
  if ((core.get32(STATE.cr0) & (CR0.EM | CR0.TS)) !== 0) return NM;
  const vaddr = imageLinear(core, insn, true);
  if (vaddr !== vaddr) return fault(core);
  const end = savesXmm(core) ? imageEnd(core) : AT.xmm;
  if (!probeWrite(core, vaddr, IMAGE_BYTES, core.user)) return fault(core);
  const old = readBytes(core, vaddr, IMAGE_BYTES, core.user);
  if (old === undefined) return fault(core);
  const bytes = old.slice(0, end);
  const view = new DataView(bytes.buffer);
  view.setUint16(AT.control, core.get32(STATE.fpuControl), true);
  view.setUint16(AT.status, core.get32(STATE.fpuStatus), true);
  view.setUint16(AT.full, core.get32(STATE.fpuFull), true);
  view.setUint16(AT.opcode, core.get32(STATE.fpuOpcode), true);
  view.setUint32(AT.ip, core.get32(STATE.fpuIp), true);
  view.setUint32(AT.ipHigh, wide ? core.get32(STATE.fpuIpHigh) : core.get32(STATE.fpuCs), true);
  view.setUint32(AT.dp, core.get32(STATE.fpuDp), true);
  view.setUint32(AT.dpHigh, wide ? core.get32(STATE.fpuDpHigh) : core.get32(STATE.fpuDs), true);
  if (savesXmm(core)) {
    view.setUint32(AT.mxcsr, core.get32(STATE.mxcsr), true);
    view.setUint32(AT.mxcsrMask, MXCSR_MASK, true);
  }
  for (let i = 0; i < 8; i++) {
    const { sign, exp, sig } = registerAt(core, (topOf(core) + i) & 7);
    const at = AT.st + 16 * i;
    view.setBigUint64(at, sig, true);
    view.setBigUint64(at + 8, BigInt((sign << 15) | exp), true);
  }
  if (savesXmm(core)) bytes.set(core.u8.subarray(core.stateBase + STATE.xmm, core.stateBase + STATE.xmm + end - AT.xmm), AT.xmm);
  return writeBytes(core, vaddr, bytes, core.user) ? undefined : fault(core);
};
const fxrstor = (wide: boolean): SystemRow => (core, insn) => {
  if ((core.get32(STATE.cr0) & (CR0.EM | CR0.TS)) !== 0) return NM;
  const vaddr = imageLinear(core, insn, false);
  if (vaddr !== vaddr) return fault(core);
  const bytes = readBytes(core, vaddr, IMAGE_BYTES, core.user);
  if (bytes === undefined) return fault(core);
  const view = new DataView(bytes.buffer);
  const mxcsr = view.getUint32(AT.mxcsr, true);
  if (savesXmm(core) && (mxcsr & ~MXCSR_MASK) !== 0) return GP0;
  core.set32(STATE.fpuControl, (view.getUint16(AT.control, true) & CONTROL_WORD.keep) | CONTROL_WORD.set);
  core.set32(STATE.fpuStatus, view.getUint16(AT.status, true));
  core.set32(STATE.fpuFull, view.getUint8(AT.full));
  core.set32(STATE.fpuOpcode, view.getUint16(AT.opcode, true) & 0x7ff);
  core.set32(STATE.fpuIp, view.getUint32(AT.ip, true));
  core.set32(STATE.fpuDp, view.getUint32(AT.dp, true));
  core.set32(wide ? STATE.fpuIpHigh : STATE.fpuCs, wide ? view.getUint32(AT.ipHigh, true) : view.getUint16(AT.ipHigh, true));
  core.set32(wide ? STATE.fpuDpHigh : STATE.fpuDs, wide ? view.getUint32(AT.dpHigh, true) : view.getUint16(AT.dpHigh, true));
  for (const at of wide ? [STATE.fpuCs, STATE.fpuDs] : [STATE.fpuIpHigh, STATE.fpuDpHigh]) core.set32(at, 0);
  for (let i = 0; i < 8; i++) {
    const at = AT.st + 16 * i;
    const high = view.getUint16(at + 8, true);
    setRegisterAt(core, (topOf(core) + i) & 7, { sign: high >> 15, exp: high & 0x7fff, sig: view.getBigUint64(at, true) });
  }
  summarise(core);
  if (!savesXmm(core)) return undefined;
  core.set32(STATE.mxcsr, mxcsr);
  core.u8.set(bytes.subarray(AT.xmm, imageEnd(core)), core.stateBase + STATE.xmm);
  return undefined;
};

// -- masked stores -----------------------------------------------------------------------------------

const registerBytes = (core: Core, operand: Operand | undefined): Uint8Array => {
  const at = core.stateBase + (operand?.kind === 'xmm' ? STATE.xmm + operand.index * 16 : operand?.kind === 'mm' ? STATE.fpuReg + operand.index * 16 : 0);
  return core.u8.subarray(at, at + (operand?.kind === 'xmm' ? 16 : 8));
};
/** Bytes whose mask has its top bit, to DS:(E)DI. Bytes that are not stored are not looked up. */
const maskedMove = (unit: 'mmx' | 'sse'): SystemRow => (core, insn) => {
  const refused = unitRefused(core, unit);
  if (refused !== undefined) return refused;
  const [where, from, mask] = insn.operands;
  if (where?.kind !== 'mem') return UD;
  const value = registerBytes(core, from);
  const chosen = registerBytes(core, mask);
  const offset = gpr(core, 7);
  const places: { vaddr: number; byte: number }[] = [];
  for (let i = 0; i < value.length; i++) {
    if ((chosen[i] as number) < 0x80) continue;
    const at = where.mem.addressWidth === 16 ? (offset + i) & 0xffff : (offset + i) >>> 0;
    const vaddr = core.long ? memLinear(core, where.mem, 1, true, i) : segmentLinear(core, where.mem.seg, at, 1, true);
    if (vaddr !== vaddr || !probeWrite(core, vaddr, 1, core.user)) return fault(core);
    places.push({ vaddr, byte: value[i] as number });
  }
  for (const { vaddr, byte } of places) if (!writeLinear(core, vaddr, 1, byte, core.user)) return fault(core);
  if (unit === 'mmx') enterMmx(core);
  return undefined;
};

export const SIMD_STATE_ROWS: Readonly<Record<string, SystemRow>> = {
  Emms: emms, Ldmxcsr: ldmxcsr, Stmxcsr: stmxcsr, Fxsave: fxsave(false), Fxrstor: fxrstor(false), Fxsave64: fxsave(true), Fxrstor64: fxrstor(true),
  Maskmovq: maskedMove('mmx'), Maskmovdqu: maskedMove('sse'),
};
