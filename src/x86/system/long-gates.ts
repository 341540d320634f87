// Gates in long mode: descriptors of 16 bytes that lead to 64-bit code, stacks from the 64-bit TSS (by ring, or
// IST), frames of 8-byte words that always hold SS:RSP, below a stack pointer aligned to 16. No tasks, no parameters.
// Source: Intel SDM vol. 3, sections 5.8.3.1 (call gates), 6.14 (interrupts), 7.7 (TSS).
import { bitsOf, fromHalves, inCanonicalRange, isCanonical } from '../address.ts';
import { ACCESS, type Core } from '../core.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { probeWrite, read64, readLinear, write64 } from '../memory-access.ts';
import { descriptorAccess, dplOf, enterCodeSegment, gp, isCode, isConforming, isException, markAccessed, readDescriptor, setNull, type Descriptor } from '../segments.ts';
import { SEG, STATE } from '../state-layout.ts';
import type { Delivery } from './delivery.ts';
import { gpr64, savedFlags, setGpr64, type SystemResult } from './row.ts';

const cplOf = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;
const GATE = { call: 12, int: 14, trap: 15 } as const;
const TSS = { rsp: 4, ist: 36 } as const;

/** Offset of a 16-byte gate; NaN if it is not canonical. */
const gateOffset = (gate: Descriptor, high: number): number => (isCanonical(high) ? fromHalves((gate.lo & 0xffff) | (gate.hi & 0xffff0000), high) : NaN);

/** 64-bit code that a gate may lead to. */
function gateTarget(core: Core, selector: number, ext: number): Descriptor | Exception {
  if ((selector & 0xfffc) === 0) return { vector: VECTOR.GP, errorCode: ext };
  const about = { vector: VECTOR.GP, errorCode: (selector & 0xfffc) | ext };
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor.vector === VECTOR.PF ? descriptor : about;
  const access = descriptorAccess(descriptor);
  if (!isCode(access) || dplOf(access) > cplOf(core)) return about;
  if ((access & ACCESS.long) === 0 || (access & ACCESS.big) !== 0) return about;
  return (access & ACCESS.present) === 0 ? { vector: VECTOR.NP, errorCode: (selector & 0xfffc) | ext } : descriptor;
}

/** A stack pointer of the TSS. */
function tssStack(core: Core, at: number, ext: number): number | Exception {
  if (at + 7 > core.get32(STATE.tr + 16)) return { vector: VECTOR.TS, errorCode: (core.get32(STATE.tr) & 0xfffc) | ext };
  const vaddr = core.address(STATE.tr + 8) + at;
  const low = readLinear(core, vaddr, 4, false);
  if (low !== low) return fault(core);
  const high = readLinear(core, vaddr + 4, 4, false);
  if (high !== high) return fault(core);
  return isCanonical(high) ? fromHalves(low, high) : { vector: VECTOR.SS, errorCode: ext };
}

/** Stores words (first lowest) below `top` as `cpl` does and returns where they begin. */
function storeWords(core: Core, top: number, words: readonly bigint[], cpl: number, ext: number): number | Exception {
  const bottom = top - words.length * 8;
  if (!inCanonicalRange(bottom) || !inCanonicalRange(top - 1)) return { vector: VECTOR.SS, errorCode: ext };
  const user = cpl === 3;
  for (let i = words.length - 1; i >= 0; i--) if (!probeWrite(core, bottom + i * 8, 8, user)) return fault(core);
  for (let i = words.length - 1; i >= 0; i--) write64(core, bottom + i * 8, words[i] as bigint, user);
  return bottom;
}

/** What the frame says of the interrupted stack and code, lowest word last: RFLAGS is the caller's. */
const oldStack = (core: Core): readonly bigint[] => [gpr64(core, 4), BigInt(core.get32(STATE.seg + SEG.ss * 32))];
const oldCs = (core: Core): bigint => BigInt(core.get32(STATE.seg + SEG.cs * 32));

/** CALL or JMP to a system descriptor: only call gates are left of those in long mode. */
export function throughCallGate(core: Core, selector: number, gate: Descriptor, back: number | undefined): SystemResult {
  const access = descriptorAccess(gate);
  if ((access & 0xf) !== GATE.call) return gp(selector);
  const rest = readDescriptor(core, (selector & 0xfff8) + 8 + (selector & 4));
  if (isException(rest)) return rest.vector === VECTOR.PF ? rest : gp(selector);
  if ((rest.hi & 0x1f00) !== 0) return gp(selector);
  if (dplOf(access) < cplOf(core) || dplOf(access) < (selector & 3)) return gp(selector);
  if ((access & ACCESS.present) === 0) return { vector: VECTOR.NP, errorCode: selector & 0xfffc };
  const codeSelector = gate.lo >>> 16;
  const code = gateTarget(core, codeSelector, 0);
  if (isException(code)) return code;
  const codeAccess = descriptorAccess(code);
  const inner = !isConforming(codeAccess) && dplOf(codeAccess) < cplOf(core);
  if (back === undefined && inner) return gp(codeSelector);
  const offset = gateOffset(gate, rest.lo);
  const cpl = inner ? dplOf(codeAccess) : cplOf(core);
  const top = inner ? tssStack(core, TSS.rsp + cpl * 8, 0) : fromStack(core);
  if (typeof top !== 'number') return top;
  if (!inCanonicalRange(offset)) return { vector: VECTOR.GP, errorCode: 0 };
  if (back === undefined) return enter(core, codeSelector, code, offset, cpl, undefined, false);
  const words = [bitsOf(back), oldCs(core), ...(inner ? oldStack(core) : [])];
  const bottom = storeWords(core, top, words, cpl, 0);
  return typeof bottom === 'number' ? enter(core, codeSelector, code, offset, cpl, bottom, inner) : bottom;
}

function fromStack(core: Core): number | Exception {
  const high = Number(gpr64(core, 4) >> 32n);
  return isCanonical(high) ? fromHalves(Number(gpr64(core, 4) & 0xffffffffn), high) : { vector: VECTOR.SS, errorCode: 0 };
}

function enter(core: Core, selector: number, descriptor: Descriptor, offset: number, cpl: number, sp: number | undefined, inner: boolean): SystemResult {
  const marked = markAccessed(core, descriptor);
  if (marked !== undefined) return marked;
  enterCodeSegment(core, selector, descriptor, cpl);
  if (inner) setNull(core, SEG.ss, cpl);
  core.updateMode();
  if (sp !== undefined) setGpr64(core, 4, bitsOf(sp));
  core.rip = offset;
  return 'jumped';
}

/** An exception or interrupt; 'jumped', or an exception if that fails. */
export function deliverLong(core: Core, delivery: Delivery, ext: number): SystemResult {
  const { vector, software } = delivery;
  const idtError = (number: number): Exception => ({ vector: number, errorCode: (vector * 8 + 2) | ext });
  if (vector * 16 + 15 > core.get32(STATE.idtrLimit)) return idtError(VECTOR.GP);
  const vaddr = core.address(STATE.idtrBase) + vector * 16;
  const lower = read64(core, vaddr, false);
  if (lower === undefined) return fault(core);
  const upper = read64(core, vaddr + 8, false);
  if (upper === undefined) return fault(core);
  const gate: Descriptor = { lo: Number(lower & 0xffffffffn), hi: Number(lower >> 32n), vaddr };
  const access = descriptorAccess(gate);
  const type = access & 0x1f;
  if ((type !== GATE.int && type !== GATE.trap) || (software && dplOf(access) < cplOf(core))) return idtError(VECTOR.GP);
  if ((access & ACCESS.present) === 0) return idtError(VECTOR.NP);
  const selector = gate.lo >>> 16;
  const code = gateTarget(core, selector, ext);
  if (isException(code)) return code;
  const codeAccess = descriptorAccess(code);
  const inner = !isConforming(codeAccess) && dplOf(codeAccess) < cplOf(core);
  const cpl = inner ? dplOf(codeAccess) : cplOf(core);
  const ist = gate.hi & 7;
  const top = ist !== 0 ? tssStack(core, TSS.ist + (ist - 1) * 8, ext) : inner ? tssStack(core, TSS.rsp + cpl * 8, ext) : fromStack(core);
  if (typeof top !== 'number') return top;
  const offset = gateOffset(gate, Number(upper & 0xffffffffn));
  if (!inCanonicalRange(offset)) return { vector: VECTOR.GP, errorCode: ext };
  const flags = core.eflags();
  const words = [...(delivery.errorCode === undefined ? [] : [BigInt(delivery.errorCode)]), bitsOf(delivery.returnOffset), oldCs(core), BigInt(savedFlags(core, delivery)), ...oldStack(core)];
  const bottom = storeWords(core, Math.floor(top / 16) * 16, words, cpl, ext);
  if (typeof bottom !== 'number') return bottom;
  const result = enter(core, selector, code, offset, cpl, bottom, inner);
  if (result === 'jumped') core.setEflags((flags & ~(EFLAGS.TF | EFLAGS.NT | EFLAGS.RF | EFLAGS.VM | (type === GATE.int ? EFLAGS.IF : 0))) >>> 0);
  return result;
}
