// What x87 instructions and memory exchange: operands of up to ten bytes, environments, and the gate
// that every one of them passes.
import { CR0, type Core } from '../core.ts';
import type { Insn, MemOperand } from '../decode.ts';
import { type Exception, VECTOR } from '../exit.ts';
import { probeWrite, readLinear, writeLinear } from '../memory-access.ts';
import { SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { isPending } from '../x87/unit.ts';
import { memLinear, NM, offset64, offsetOf, type SystemRow } from './row.ts';

/** #NM if CR0 says so. */
export const gate = (core: Core): Exception | undefined => ((core.get32(STATE.cr0) & (CR0.EM | CR0.TS)) !== 0 ? NM : undefined);
/**
 * An exception left behind comes out now. Without CR0.NE it is FERR#, an external interrupt of PC hardware
 * that this machine has not: it goes on as if IGNNE# were asserted.
 */
export const waiting = (core: Core): Exception | undefined => (isPending(core) && (core.get32(STATE.cr0) & CR0.NE) !== 0 ? { vector: VECTOR.MF } : undefined);

/** Piece sizes of a memory operand, low bytes first. */
function* pieces(sizeBytes: number): Generator<readonly [at: number, size: number]> {
  for (let at = 0; at < sizeBytes; at += 4) yield [at, Math.min(4, sizeBytes - at)];
}
/** The linear address of an operand: of ten bytes eight are what alignment is asked of, two within a saved state (at > 0). */
function linear(core: Core, mem: MemOperand, at: number, sizeBytes: number, write: boolean): number {
  if (sizeBytes <= 8) return memLinear(core, mem, sizeBytes, write, at);
  const start = memLinear(core, mem, at > 0 ? 2 : 8, write, at);
  return start !== start || Number.isNaN(memLinear(core, mem, sizeBytes - 8, write, at + 8)) ? NaN : start;
}
/** Undefined with core.fault on a fault. */
export function readOperand(core: Core, mem: MemOperand, sizeBytes: number, at = 0): bigint | undefined {
  const start = linear(core, mem, at, sizeBytes, false);
  if (start !== start) return undefined;
  let value = 0n;
  for (const [delta, size] of pieces(sizeBytes)) {
    const word = readLinear(core, core.wrap(start + delta), size, core.user);
    if (word !== word) return undefined;
    value |= BigInt(word) << BigInt(8 * delta);
  }
  return value;
}
/** Would a store succeed? If not, core.fault says why. */
export function canWrite(core: Core, mem: MemOperand, sizeBytes: number): boolean {
  const start = linear(core, mem, 0, sizeBytes, true);
  return start === start && probeWrite(core, start, sizeBytes, core.user);
}
/** All or nothing. */
export function writeOperand(core: Core, mem: MemOperand, sizeBytes: number, value: bigint, at = 0): boolean {
  const start = linear(core, mem, at, sizeBytes, true);
  if (start !== start || !probeWrite(core, start, sizeBytes, core.user)) return false;
  for (const [delta, size] of pieces(sizeBytes)) {
    const word = Number((value >> BigInt(8 * delta)) & 0xffffffffn);
    if (!writeLinear(core, core.wrap(start + delta), size, word, core.user)) return false;
  }
  return true;
}
/** Would all of an image be stored? */
export function probeOperand(core: Core, mem: MemOperand, sizeBytes: number): boolean {
  for (let at = 0; at < sizeBytes; at += 2) {
    const start = memLinear(core, mem, 2, true, at);
    if (start !== start || !probeWrite(core, start, 2, core.user)) return false;
  }
  return true;
}

export const memOf = (insn: Insn): MemOperand | undefined => {
  for (const operand of insn.operands) if (operand.kind === 'mem') return operand.mem;
  return undefined;
};
/** The last instruction and its operand, as FNSTENV shows them. */
export function rememberPointers(core: Core, insn: Insn): void {
  core.set32(STATE.fpuOpcode, insn.fpuOpcode);
  core.set32(STATE.fpuIp, core.get32(STATE.rip));
  core.set32(STATE.fpuIpHigh, core.get32(STATE.rip + 4));
  core.set32(STATE.fpuCs, core.get32(STATE.seg + SEG_SLOT_BYTES));
  const mem = memOf(insn);
  if (mem === undefined) return;
  const offset = core.long ? offset64(core, mem) : BigInt(offsetOf(core, mem));
  core.set32(STATE.fpuDp, Number(offset & 0xffffffffn));
  core.set32(STATE.fpuDpHigh, Number(offset >> 32n));
  core.set32(STATE.fpuDs, core.get32(STATE.seg + mem.seg * SEG_SLOT_BYTES));
}
export const fault = (core: Core): Exception => core.fault as Exception;
export const controlled = (perform: SystemRow): SystemRow => (core, insn) => gate(core) ?? perform(core, insn);
