// The shape of a system row: an instruction performed in TypeScript over the whole core.
import type { Core } from '../core.ts';
import type { Insn, MemOperand } from '../decode.ts';
import type { CpuExit, Exception } from '../exit.ts';
import { VECTOR } from '../exit.ts';
import { probeWrite, readLinear, segmentLinear, writeLinear } from '../memory-access.ts';
import { SEG, STATE } from '../state-layout.ts';

/**
 * undefined: done, rip goes on behind it. 'jumped': rip is set. 'repeat': one iteration done, rip
 * stays. An Exception: nothing happened. A CpuExit: the row has set rip as that exit says.
 */
export type SystemResult = undefined | 'jumped' | 'repeat' | Exception | CpuExit;
export type SystemRow = (core: Core, insn: Insn) => SystemResult;

export const GP0: Exception = { vector: VECTOR.GP, errorCode: 0 };
export const UD: Exception = { vector: VECTOR.UD };
export const NM: Exception = { vector: VECTOR.NM };

export const gpr = (core: Core, index: number): number => core.u32[core.s + ((STATE.gpr + index * 8) >> 2)] as number;
export function setGpr(core: Core, index: number, value: number): void {
  const at = core.s + ((STATE.gpr + index * 8) >> 2);
  core.u32[at] = value;
  core.u32[at + 1] = 0;
}
export function setGpr16(core: Core, index: number, value: number): void {
  const at = core.s + ((STATE.gpr + index * 8) >> 2);
  core.u32[at] = ((core.u32[at] as number) & 0xffff0000) | (value & 0xffff);
}
/** rip behind the instruction that is being performed. */
export const nextOffset = (core: Core, insn: Insn): number => (core.get32(STATE.rip) + insn.lengthBytes) >>> 0;

/** Effective offset of a memory operand. */
export function offsetOf(core: Core, mem: MemOperand): number {
  let sum = mem.displacement;
  if (mem.base >= 0) sum += gpr(core, mem.base);
  if (mem.index >= 0) sum += gpr(core, mem.index) * mem.scale;
  return mem.addressWidth === 16 ? sum & 0xffff : sum >>> 0;
}
/** Reads memory operand bytes at `delta`; undefined with core.fault on a fault. */
export function loadMem(core: Core, mem: MemOperand, sizeBytes: number, delta = 0): number | undefined {
  const vaddr = segmentLinear(core, mem.seg, (offsetOf(core, mem) + delta) >>> 0, sizeBytes, false);
  if (vaddr < 0) return undefined;
  const value = readLinear(core, vaddr, sizeBytes, core.user);
  return value !== value ? undefined : value;
}
export function storeMem(core: Core, mem: MemOperand, sizeBytes: number, value: number, delta = 0): boolean {
  const vaddr = segmentLinear(core, mem.seg, (offsetOf(core, mem) + delta) >>> 0, sizeBytes, true);
  return vaddr >= 0 && writeLinear(core, vaddr, sizeBytes, value, core.user);
}
/** A 16-bit r/m source. */
export function readRm16(core: Core, insn: Insn, at: number): number | undefined {
  const operand = insn.operands[at];
  if (operand?.kind === 'reg') return gpr(core, operand.index) & 0xffff;
  return operand?.kind === 'mem' ? loadMem(core, operand.mem, 2) : undefined;
}

// -- stack -----------------------------------------------------------------------------------------

export const stackIs32 = (core: Core): boolean => (core.mode & 2) !== 0;
export const spValue = (core: Core): number => (stackIs32(core) ? gpr(core, 4) : gpr(core, 4) & 0xffff);
export function setSp(core: Core, value: number): void {
  if (stackIs32(core)) setGpr(core, 4, value >>> 0);
  else setGpr16(core, 4, value);
}
const spMask = (core: Core): number => (stackIs32(core) ? 0xffffffff : 0xffff);
/** Value at SP + delta; undefined on a fault. */
export function peekStack(core: Core, sizeBytes: number, delta: number): number | undefined {
  const offset = ((spValue(core) + delta) & spMask(core)) >>> 0;
  const vaddr = segmentLinear(core, SEG.ss, offset, sizeBytes, false);
  if (vaddr < 0) return undefined;
  const value = readLinear(core, vaddr, sizeBytes, core.user);
  return value !== value ? undefined : value;
}
/** Stores at SP + delta without moving SP. */
export function pokeStack(core: Core, sizeBytes: number, delta: number, value: number): boolean {
  const offset = ((spValue(core) + delta) & spMask(core)) >>> 0;
  const vaddr = segmentLinear(core, SEG.ss, offset, sizeBytes, true);
  return vaddr >= 0 && writeLinear(core, vaddr, sizeBytes, value, core.user);
}
/** Would a store at SP + delta succeed? */
export function probeStack(core: Core, sizeBytes: number, delta: number): boolean {
  const offset = ((spValue(core) + delta) & spMask(core)) >>> 0;
  const vaddr = segmentLinear(core, SEG.ss, offset, sizeBytes, true);
  return vaddr >= 0 && probeWrite(core, vaddr, sizeBytes, core.user);
}
