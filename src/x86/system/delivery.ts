// Delivery of exceptions and interrupts through the IDT (bare machines; a hypervisor's guests leave with an
// exit instead). Long mode's own way is in long-gates.ts.
// Source: Intel SDM vol. 3, chapter 6.
import { ACCESS, type Core } from '../core.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { readLinear } from '../memory-access.ts';
import { descriptorAccess, dplOf, enterCodeSegment, gp, isCode, isConforming, isException, markAccessed, readDescriptor, type Descriptor } from '../segments.ts';
import { SEG, STATE } from '../state-layout.ts';
import { deliverLong } from './long-gates.ts';
import { gpr, pokeStack, probeStack, savedFlags, setSp, spValue, type SystemResult } from './row.ts';
import { switchTask } from './task-switch.ts';
import { enterInner, GATE, gateOffset, innerStack, reaches, storeFrame } from './transfers.ts';

const cplOf = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;
const np = (selector: number): Exception => ({ vector: VECTOR.NP, errorCode: selector & 0xfffc });

export interface Delivery {
  readonly vector: number;
  readonly errorCode?: number;
  /** INT n, INT3, INTO: the gate's DPL is checked. */
  readonly software: boolean;
  /** Where the handler returns to. */
  readonly returnOffset: number;
}

/** Calls the handler; an exception if that fails, 'jumped' on success. */
export function deliverThroughIdt(core: Core, delivery: Delivery): SystemResult {
  const { vector, software } = delivery;
  const ext = software ? 0 : 1;
  if (core.lma) return deliverLong(core, delivery, ext);
  const idtError = (number: number): Exception => ({ vector: number, errorCode: (vector * 8 + 2) | ext });
  if (vector * 8 + 7 > core.get32(STATE.idtrLimit)) return idtError(VECTOR.GP);
  const vaddr = (core.get32(STATE.idtrBase) + vector * 8) >>> 0;
  const lo = readLinear(core, vaddr, 4, false);
  if (lo !== lo) return fault(core);
  const hi = readLinear(core, (vaddr + 4) >>> 0, 4, false);
  if (hi !== hi) return fault(core);
  const gate: Descriptor = { lo, hi, vaddr };
  const access = descriptorAccess(gate);
  const type = access & 0x1f;
  const known: readonly number[] = [GATE.task, GATE.int16, GATE.trap16, GATE.int32, GATE.trap32];
  if (!known.includes(type) || (software && dplOf(access) < cplOf(core))) return idtError(VECTOR.GP);
  if ((access & ACCESS.present) === 0) return idtError(VECTOR.NP);
  if (type === GATE.task) return switchTask(core, lo >>> 16, 'int', delivery.returnOffset, ext, delivery.errorCode, savedFlags(core, delivery));
  return throughGate(core, delivery, gate, type, ext);
}

function throughGate(core: Core, delivery: Delivery, gate: Descriptor, type: number, ext: number): SystemResult {
  const selector = gate.lo >>> 16;
  if ((selector & 0xfffc) === 0) return { vector: VECTOR.GP, errorCode: ext };
  const withExt = (e: Exception): Exception => (e.vector === VECTOR.PF || e.errorCode === undefined ? e : { ...e, errorCode: e.errorCode | ext });
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return withExt(descriptor);
  const access = descriptorAccess(descriptor);
  if (!isCode(access) || dplOf(access) > cplOf(core)) return withExt(gp(selector));
  if ((access & ACCESS.present) === 0) return withExt(np(selector));
  const is32 = type === GATE.int32 || type === GATE.trap32;
  const size = is32 ? 4 : 2;
  const offset = gateOffset(gate, is32);
  const flags = core.eflags();
  const frame = [delivery.returnOffset, core.get32(STATE.seg + SEG.cs * 32), savedFlags(core, delivery)];
  if (delivery.errorCode !== undefined) frame.unshift(delivery.errorCode);
  let result: SystemResult;
  if (isConforming(access) || dplOf(access) === cplOf(core)) {
    if (!reaches(core, descriptor, offset)) return { vector: VECTOR.GP, errorCode: ext };
    const below = (i: number): number => -(frame.length - i) * size;
    for (let i = frame.length - 1; i >= 0; i--) if (!probeStack(core, size, below(i))) return withExt(fault(core));
    const marked = markAccessed(core, descriptor);
    if (marked !== undefined) return withExt(marked);
    for (let i = frame.length - 1; i >= 0; i--) pokeStack(core, size, below(i), size === 2 ? (frame[i] as number) & 0xffff : (frame[i] as number));
    setSp(core, spValue(core) - frame.length * size);
    enterCodeSegment(core, selector, descriptor, cplOf(core));
    core.rip = offset;
    result = 'jumped';
  } else {
    const cpl = dplOf(access);
    const stack = innerStack(core, cpl);
    if (isException(stack)) return withExt(stack);
    if (!reaches(core, descriptor, offset)) return { vector: VECTOR.GP, errorCode: ext };
    frame.push(gpr(core, 4), core.get32(STATE.seg + SEG.ss * 32));
    const problem = storeFrame(core, stack, frame, size);
    if (problem !== undefined) return withExt(problem);
    result = enterInner(core, stack, frame.length * size, selector, descriptor, offset, cpl);
  }
  if (result !== 'jumped') return result;
  const isInterrupt = type === GATE.int16 || type === GATE.int32;
  core.setEflags((flags & ~(EFLAGS.TF | EFLAGS.NT | EFLAGS.RF | EFLAGS.VM | (isInterrupt ? EFLAGS.IF : 0))) >>> 0);
  return 'jumped';
}

/** Exceptions that turn a second one into a double fault (SDM vol. 3, table 6-5). */
const CONTRIBUTORY = new Set<number>([VECTOR.DE, VECTOR.TS, VECTOR.NP, VECTOR.SS, VECTOR.GP]);
export function combine(first: number, second: Exception): Exception | 'triple' {
  if (first === VECTOR.DF) return 'triple';
  const double = (CONTRIBUTORY.has(first) && CONTRIBUTORY.has(second.vector)) || (first === VECTOR.PF && (second.vector === VECTOR.PF || CONTRIBUTORY.has(second.vector)));
  return double ? { vector: VECTOR.DF, errorCode: 0 } : second;
}
