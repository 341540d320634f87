// The shape of a system row: an instruction performed in TypeScript over the whole core.
import type { Core } from '../core.ts';
import { addressOf, fromHalves, highHalf, isCanonical } from '../address.ts';
import type { Insn, MemOperand } from '../decode.ts';
import type { CpuExit, Exception } from '../exit.ts';
import { SETS_RF, VECTOR } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { linearAt, pairHigh, probeWrite, readLinear, readPair, read64, segmentLinear, segmentLinear64, write64, writeLinear, writePair } from '../memory-access.ts';
import { MODE } from '../mode.ts';
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
/** All 64 bits. */
export const gpr64 = (core: Core, index: number): bigint => core.view.getBigUint64(core.stateBase + STATE.gpr + index * 8, true);
export function setGpr64(core: Core, index: number, value: bigint): void {
  core.view.setBigUint64(core.stateBase + STATE.gpr + index * 8, value, true);
}
/** As an address (address.ts); NaN if it is not canonical. */
export const gprAddress = (core: Core, index: number): number => addressOf(gpr64(core, index)) ?? NaN;
/** rip behind the instruction that is being performed. */
export const nextOffset = (core: Core, insn: Insn): number => core.wrap(core.rip + insn.lengthBytes);

/** The flags that a handler's frame shows. */
export const savedFlags = (core: Core, event: { readonly vector: number; readonly software: boolean }): number => (core.eflags() | (!event.software && SETS_RF.has(event.vector) ? EFLAGS.RF : 0)) >>> 0;

/** Effective offset of a memory operand: its low 32 bits, which are all of it outside 64-bit code. */
export function offsetOf(core: Core, mem: MemOperand): number {
  let sum = Number(BigInt.asUintN(32, BigInt(mem.displacement)));
  if (mem.base >= 0) sum += gpr(core, mem.base);
  if (mem.index >= 0) sum += gpr(core, mem.index) * mem.scale;
  return mem.addressWidth === 16 ? sum & 0xffff : sum >>> 0;
}
/** All 64 bits of it, in 64-bit code. */
export function offset64(core: Core, mem: MemOperand): bigint {
  let sum = BigInt(mem.displacement);
  if (mem.base >= 0) sum += gpr64(core, mem.base);
  if (mem.index >= 0) sum += gpr64(core, mem.index) * BigInt(mem.scale);
  return BigInt.asUintN(mem.addressWidth, sum);
}
/** The linear address of `sizeBytes` bytes at `delta` of a memory operand, with the segment's checks; NaN with core.fault on a fault. */
export function memLinear(core: Core, mem: MemOperand, sizeBytes: number, write: boolean, delta = 0): number {
  if (!core.long) return segmentLinear(core, mem.seg, (offsetOf(core, mem) + delta) >>> 0, sizeBytes, write);
  const offset = BigInt.asUintN(64, offset64(core, mem) + BigInt(delta));
  return segmentLinear64(core, mem.seg, Number(offset & 0xffffffffn), Number(offset >> 32n), sizeBytes);
}
/** Reads memory operand bytes at `delta`; undefined with core.fault on a fault. */
export function loadMem(core: Core, mem: MemOperand, sizeBytes: number, delta = 0): number | undefined {
  const vaddr = memLinear(core, mem, sizeBytes, false, delta);
  if (vaddr !== vaddr) return undefined;
  const value = readLinear(core, vaddr, sizeBytes, core.user);
  return value !== value ? undefined : value;
}
/** Eight bytes. */
export function loadMem64(core: Core, mem: MemOperand, delta = 0): bigint | undefined {
  const vaddr = memLinear(core, mem, 8, false, delta);
  return vaddr !== vaddr ? undefined : read64(core, vaddr, core.user);
}
export function storeMem(core: Core, mem: MemOperand, sizeBytes: number, value: number, delta = 0): boolean {
  const vaddr = memLinear(core, mem, sizeBytes, true, delta);
  return vaddr === vaddr && writeLinear(core, vaddr, sizeBytes, value, core.user);
}
export function storeMem64(core: Core, mem: MemOperand, value: bigint, delta = 0): boolean {
  const vaddr = memLinear(core, mem, 8, true, delta);
  return vaddr === vaddr && write64(core, vaddr, value, core.user);
}
/** A 16-bit r/m source. */
export function readRm16(core: Core, insn: Insn, at: number): number | undefined {
  const operand = insn.operands[at];
  if (operand?.kind === 'reg') return gpr(core, operand.index) & 0xffff;
  return operand?.kind === 'mem' ? loadMem(core, operand.mem, 2) : undefined;
}

// -- stack -----------------------------------------------------------------------------------------

export const stackIs32 = (core: Core): boolean => (core.mode & MODE.stack32) !== 0;
/** Bytes by which the stack pointer is masked. */
export const spWidth = (core: Core): 16 | 32 | 64 => (core.long ? 64 : stackIs32(core) ? 32 : 16);
/** SP, ESP, or RSP as an address; one that is not canonical may have lost its low bits, but stays so. */
export const spValue = (core: Core): number => (core.long ? core.address(STATE.gpr + 4 * 8) : stackIs32(core) ? gpr(core, 4) : gpr(core, 4) & 0xffff);
export function setSp(core: Core, value: number): void {
  if (core.long) core.setAddress(STATE.gpr + 4 * 8, value);
  else if (stackIs32(core)) setGpr(core, 4, value >>> 0);
  else setGpr16(core, 4, value);
}
/** The linear address of the stack at SP + delta, or NaN with core.fault. */
function stackLinear(core: Core, sizeBytes: number, delta: number, write: boolean): number {
  const at = spValue(core) + delta;
  if (core.long) return linearAt(core, SEG.ss, at, sizeBytes, write);
  return segmentLinear(core, SEG.ss, (at & (stackIs32(core) ? 0xffffffff : 0xffff)) >>> 0, sizeBytes, write);
}
/** Value at SP + delta; undefined on a fault. Of eight bytes: the address that they are, NaN if it is not canonical. */
export function peekStack(core: Core, sizeBytes: number, delta: number): number | undefined {
  const vaddr = stackLinear(core, sizeBytes, delta, false);
  if (vaddr !== vaddr) return undefined;
  if (sizeBytes === 8) {
    const low = readPair(core, vaddr, core.user);
    if (low !== low) return undefined;
    return isCanonical(pairHigh.half) ? fromHalves(low, pairHigh.half) : NaN;
  }
  const value = readLinear(core, vaddr, sizeBytes, core.user);
  return value !== value ? undefined : value;
}
/** Stores at SP + delta without moving SP. */
export function pokeStack(core: Core, sizeBytes: number, delta: number, value: number): boolean {
  const vaddr = stackLinear(core, sizeBytes, delta, true);
  return vaddr === vaddr && writeNumber(core, vaddr, sizeBytes, value, core.user);
}
/** Would a store at SP + delta succeed? */
export function probeStack(core: Core, sizeBytes: number, delta: number): boolean {
  const vaddr = stackLinear(core, sizeBytes, delta, true);
  return vaddr === vaddr && probeWrite(core, vaddr, sizeBytes, core.user);
}
/** Up to eight bytes of a number; eight are an address (address.ts). */
export function writeNumber(core: Core, vaddr: number, sizeBytes: number, value: number, user: boolean): boolean {
  return sizeBytes === 8 ? writePair(core, vaddr, value >>> 0, highHalf(value), user) : writeLinear(core, vaddr, sizeBytes, value, user);
}
