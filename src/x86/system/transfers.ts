// Far transfers: JMP, CALL, RET, IRET between segments and rings, and delivery of exceptions and
// interrupts through the IDT (bare machines; a hypervisor's guests leave with an exit instead).
// Task gates and TSS selectors go to task-switch.ts. Not there: virtual-8086 mode ('unimplemented').
// Source: Intel SDM vol. 2 (the operations of each), vol. 3 chapters 5 to 7.
import { addressOf, inCanonicalRange } from '../address.ts';
import { ACCESS, type Core } from '../core.ts';
import type { Insn } from '../decode.ts';
import { VECTOR, type CpuExit, type Exception } from '../exit.ts';
import { EFLAGS, STATUS_MASK } from '../flags.ts';
import { probeWrite, readLinear, writeLinear } from '../memory-access.ts';
import { descriptorAccess, dplOf, dropInnerSegments, enterCodeSegment, gp, isCode, isConforming, isData, isException, markAccessed, readDescriptor, setFromDescriptor, setNull, descriptorBase, descriptorLimit, type Descriptor } from '../segments.ts';
import { SEG, STATE } from '../state-layout.ts';
import { GP0, gpr, loadMem, loadMem64, nextOffset, peekStack, pokeStack, probeStack, setGpr, setGpr64, setSp, spValue, stackIs32, type SystemResult, type SystemRow } from './row.ts';
import { throughCallGate } from './long-gates.ts';
import { switchTask } from './task-switch.ts';

const cplOf = (core: Core): number => core.get32(STATE.cpl);
const fault = (core: Core): Exception => core.fault as Exception;
const np = (selector: number): Exception => ({ vector: VECTOR.NP, errorCode: selector & 0xfffc });
const unimplemented = (text: string): CpuExit => ({ kind: 'unimplemented', text });
export const GATE = { task: 5, tss16: 1, tss32: 9, call16: 4, call32: 12, int16: 6, trap16: 7, int32: 14, trap32: 15 } as const;
export const gateOffset = (d: Descriptor, is32: boolean): number => (is32 ? ((d.lo & 0xffff) | (d.hi & 0xffff0000)) >>> 0 : d.lo & 0xffff);

/** Checks a code segment as the direct target of JMP or CALL. */
function directTarget(core: Core, selector: number, descriptor: Descriptor): Exception | undefined {
  const access = descriptorAccess(descriptor);
  const cpl = cplOf(core);
  if (isImpossible(core, access)) return gp(selector);
  if (isConforming(access) ? dplOf(access) > cpl : (selector & 3) > cpl || dplOf(access) !== cpl) return gp(selector);
  return (access & ACCESS.present) === 0 ? np(selector) : undefined;
}

/** `size`: bytes of the offset. One of eight bytes that is not canonical is NaN. */
function farPointer(core: Core, insn: Insn): { selector: number; offset: number; size: number } | undefined {
  const operand = insn.operands[0];
  const size = insn.code.endsWith('1664') ? 8 : insn.code.endsWith('1632') ? 4 : 2;
  if (operand?.kind === 'far') return { selector: operand.selector, offset: operand.offset, size };
  if (operand?.kind !== 'mem') return undefined;
  const bits = size === 8 ? loadMem64(core, operand.mem) : loadMem(core, operand.mem, size);
  if (bits === undefined) return undefined;
  const selector = loadMem(core, operand.mem, 2, size);
  return selector === undefined ? undefined : { selector, offset: typeof bits === 'number' ? bits : (addressOf(bits) ?? NaN), size };
}
/** May execution go on at that offset of the code segment? */
export function reaches(core: Core, descriptor: Descriptor, offset: number): boolean {
  return core.lma && (descriptorAccess(descriptor) & ACCESS.long) !== 0 ? inCanonicalRange(offset) : offset <= descriptorLimit(descriptor);
}
/** In long mode a code segment cannot be 64-bit and 32-bit at once. */
export const isImpossible = (core: Core, access: number): boolean => core.lma && (access & ACCESS.long) !== 0 && (access & ACCESS.big) !== 0;

/** Reads the target and either enters it directly or hands over a gate. */
function target(core: Core, selector: number): Descriptor | Exception {
  return (selector & 0xfffc) === 0 ? GP0 : readDescriptor(core, selector);
}

const jmpFar: SystemRow = (core, insn) => {
  const pointer = farPointer(core, insn);
  if (pointer === undefined) return fault(core);
  const descriptor = target(core, pointer.selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  if (isCode(access)) return jumpTo(core, pointer.selector, descriptor, pointer.offset);
  if ((access & ACCESS.system) !== 0) return gp(pointer.selector);
  const type = access & 0xf;
  if (core.lma) return throughCallGate(core, pointer.selector, descriptor, undefined);
  if (type !== GATE.call16 && type !== GATE.call32) return toTask(core, insn, pointer.selector, descriptor, 'jmp');
  const gate = checkGate(core, pointer.selector, access);
  if (gate !== undefined) return gate;
  const code = gateCode(core, descriptor);
  if (isException(code)) return code;
  const codeAccess = descriptorAccess(code.descriptor);
  if (isConforming(codeAccess) ? dplOf(codeAccess) > cplOf(core) : dplOf(codeAccess) !== cplOf(core)) return gp(code.selector);
  if ((codeAccess & ACCESS.present) === 0) return np(code.selector);
  return enter(core, code.selector, code.descriptor, gateOffset(descriptor, type === GATE.call32), cplOf(core));
};

/** A TSS selector or a task gate as the target of JMP or CALL. */
function toTask(core: Core, insn: Insn, selector: number, descriptor: Descriptor, reason: 'jmp' | 'call'): SystemResult {
  const access = descriptorAccess(descriptor);
  const type = access & 0xf;
  if (type !== GATE.task && type !== GATE.tss16 && type !== GATE.tss32) return gp(selector);
  const gate = checkGate(core, selector, access);
  if (gate !== undefined) return gate;
  return switchTask(core, type === GATE.task ? descriptor.lo >>> 16 : selector, reason, nextOffset(core, insn), 0);
}

function jumpTo(core: Core, selector: number, descriptor: Descriptor, offset: number): SystemResult {
  const problem = directTarget(core, selector, descriptor);
  if (problem !== undefined) return problem;
  return enter(core, selector, descriptor, offset, cplOf(core));
}
function enter(core: Core, selector: number, descriptor: Descriptor, offset: number, cpl: number): SystemResult {
  if (!reaches(core, descriptor, offset)) return GP0;
  const marked = markAccessed(core, descriptor);
  if (marked !== undefined) return marked;
  enterCodeSegment(core, selector, descriptor, cpl);
  core.rip = offset;
  return 'jumped';
}
export function checkGate(core: Core, selector: number, access: number): Exception | undefined {
  if (dplOf(access) < cplOf(core) || dplOf(access) < (selector & 3)) return gp(selector);
  return (access & ACCESS.present) === 0 ? np(selector) : undefined;
}
export function gateCode(core: Core, gate: Descriptor): { selector: number; descriptor: Descriptor } | Exception {
  const selector = gate.lo >>> 16;
  const descriptor = target(core, selector);
  if (isException(descriptor)) return descriptor;
  return isCode(descriptorAccess(descriptor)) ? { selector, descriptor } : gp(selector);
}

const callFar: SystemRow = (core, insn) => {
  const pointer = farPointer(core, insn);
  if (pointer === undefined) return fault(core);
  const descriptor = target(core, pointer.selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  const oldCs = core.get32(STATE.seg + SEG.cs * 32);
  const back = nextOffset(core, insn);
  if (isCode(access)) {
    const problem = directTarget(core, pointer.selector, descriptor);
    if (problem !== undefined) return problem;
    return pushAndEnter(core, pointer.size, oldCs, back, pointer.selector, descriptor, pointer.offset);
  }
  if ((access & ACCESS.system) !== 0) return gp(pointer.selector);
  if (core.lma) return throughCallGate(core, pointer.selector, descriptor, nextOffset(core, insn));
  const type = access & 0xf;
  if (type !== GATE.call16 && type !== GATE.call32) return toTask(core, insn, pointer.selector, descriptor, 'call');
  const problem = checkGate(core, pointer.selector, access);
  if (problem !== undefined) return problem;
  const code = gateCode(core, descriptor);
  if (isException(code)) return code;
  const codeAccess = descriptorAccess(code.descriptor);
  if (dplOf(codeAccess) > cplOf(core)) return gp(code.selector);
  if ((codeAccess & ACCESS.present) === 0) return np(code.selector);
  const is32 = type === GATE.call32;
  const size = is32 ? 4 : 2;
  const offset = gateOffset(descriptor, is32);
  if (isConforming(codeAccess) || dplOf(codeAccess) === cplOf(core)) return pushAndEnter(core, size, oldCs, back, code.selector, code.descriptor, offset);
  return callInner(core, size, descriptor.hi & 0x1f, oldCs, back, code.selector, code.descriptor, offset);
};

function pushAndEnter(core: Core, size: number, oldCs: number, back: number, selector: number, descriptor: Descriptor, offset: number): SystemResult {
  if (!reaches(core, descriptor, offset)) return GP0;
  if (!probeStack(core, size, -size) || !probeStack(core, size, -2 * size)) return fault(core);
  const marked = markAccessed(core, descriptor);
  if (marked !== undefined) return marked;
  pokeStack(core, size, -size, oldCs);
  pokeStack(core, size, -2 * size, size === 2 ? back & 0xffff : back);
  setSp(core, spValue(core) - 2 * size);
  enterCodeSegment(core, selector, descriptor, cplOf(core));
  core.rip = offset;
  return 'jumped';
}

/** A call gate to an inner ring: new stack, old SS:SP, parameters, return address. */
function callInner(core: Core, size: number, parameters: number, oldCs: number, back: number, selector: number, descriptor: Descriptor, offset: number): SystemResult {
  const cpl = dplOf(descriptorAccess(descriptor));
  const stack = innerStack(core, cpl);
  if (isException(stack)) return stack;
  if (!reaches(core, descriptor, offset)) return GP0;
  const copied: number[] = [];
  for (let i = 0; i < parameters; i++) {
    const value = peekStack(core, size, i * size);
    if (value === undefined) return fault(core);
    copied.push(value);
  }
  const words = [gpr(core, 4), core.get32(STATE.seg + SEG.ss * 32)];
  const frame = [back, oldCs, ...copied, words[0] as number, words[1] as number];
  const problem = storeFrame(core, stack, frame, size);
  if (problem !== undefined) return problem;
  return enterInner(core, stack, frame.length * size, selector, descriptor, offset, cpl);
}

export interface InnerStack {
  readonly selector: number;
  readonly descriptor: Descriptor;
  readonly sp: number;
  readonly is32: boolean;
}

/** SSn:ESPn of the current TSS, checked as #TS demands. */
export function innerStack(core: Core, cpl: number): InnerStack | Exception {
  const tr = core.get32(STATE.tr);
  const base = core.get32(STATE.tr + 8);
  const limit = core.get32(STATE.tr + 16);
  const is32Tss = (core.get32(STATE.tr + 24) & 8) !== 0;
  const at = is32Tss ? 4 + cpl * 8 : 2 + cpl * 4;
  const ts = (selector: number): Exception => ({ vector: VECTOR.TS, errorCode: selector & 0xfffc });
  if (at + (is32Tss ? 5 : 3) > limit) return ts(tr);
  const sp = readLinear(core, (base + at) >>> 0, is32Tss ? 4 : 2, false);
  if (sp !== sp) return fault(core);
  const selector = readLinear(core, (base + at + (is32Tss ? 4 : 2)) >>> 0, 2, false);
  if (selector !== selector) return fault(core);
  if ((selector & 0xfffc) === 0) return { vector: VECTOR.TS, errorCode: 0 };
  const descriptor = readDescriptor(core, selector, VECTOR.TS);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  if ((selector & 3) !== cpl || dplOf(access) !== cpl || !isData(access) || (access & ACCESS.writable) === 0) return ts(selector);
  if ((access & ACCESS.present) === 0) return { vector: VECTOR.SS, errorCode: selector & 0xfffc };
  return { selector, descriptor, sp, is32: (access & ACCESS.big) !== 0 };
}

/** Stores words below an inner stack's top, first word lowest, as supervisor. */
export function storeFrame(core: Core, stack: InnerStack, words: readonly number[], size: number): Exception | undefined {
  const base = descriptorBase(stack.descriptor);
  const limit = descriptorLimit(stack.descriptor);
  const mask = stack.is32 ? 0xffffffff : 0xffff;
  const expandDown = (descriptorAccess(stack.descriptor) & ACCESS.expandDown) !== 0;
  const at = (index: number): number => ((stack.sp - (words.length - index) * size) & mask) >>> 0;
  for (let i = words.length - 1; i >= 0; i--) {
    const offset = at(i);
    const inside = expandDown ? offset > limit && offset + size - 1 <= mask : offset + size - 1 <= limit;
    if (!inside) return { vector: VECTOR.SS, errorCode: stack.selector & 0xfffc };
    if (!probeWrite(core, (base + offset) >>> 0, size, false)) return fault(core);
  }
  for (let i = words.length - 1; i >= 0; i--) {
    const value = words[i] as number;
    writeLinear(core, (base + at(i)) >>> 0, size, size === 2 ? value & 0xffff : value >>> 0, false);
  }
  return undefined;
}

export function enterInner(core: Core, stack: InnerStack, bytes: number, selector: number, descriptor: Descriptor, offset: number, cpl: number): SystemResult {
  const marked = markAccessed(core, descriptor) ?? markAccessed(core, stack.descriptor);
  if (marked !== undefined) return marked;
  enterCodeSegment(core, selector, descriptor, cpl);
  setFromDescriptor(core, SEG.ss, stack.selector, stack.descriptor);
  core.updateMode();
  const sp = (stack.sp - bytes) >>> 0;
  if (stack.is32) setGpr(core, 4, sp);
  else setSp(core, sp & 0xffff);
  core.rip = offset;
  return 'jumped';
}

// -- returns ---------------------------------------------------------------------------------------

/** CS as a return target: checks that RETF and IRET share. */
function returnTarget(core: Core, selector: number): Descriptor | Exception {
  const cpl = cplOf(core);
  if ((selector & 0xfffc) === 0) return GP0;
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  const rpl = selector & 3;
  if (!isCode(access) || isImpossible(core, access) || rpl < cpl || (isConforming(access) ? dplOf(access) > rpl : dplOf(access) !== rpl)) return gp(selector);
  return (access & ACCESS.present) === 0 ? np(selector) : descriptor;
}

/** SS of the outer ring. */
function outerStack(core: Core, selector: number, rpl: number): Descriptor | Exception {
  if ((selector & 0xfffc) === 0) return GP0;
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  if ((selector & 3) !== rpl || !isData(access) || (access & ACCESS.writable) === 0 || dplOf(access) !== rpl) return gp(selector);
  return (access & ACCESS.present) === 0 ? { vector: VECTOR.SS, errorCode: selector & 0xfffc } : descriptor;
}

const retFar: SystemRow = (core, insn) => {
  const size = insn.code.startsWith('Retfw') ? 2 : insn.code.startsWith('Retfq') ? 8 : 4;
  const operand = insn.operands[0];
  const extra = operand?.kind === 'imm' ? Number(operand.value) : 0;
  const offset = peekStack(core, size, 0);
  if (offset === undefined) return fault(core);
  if (peekStack(core, size, size) === undefined) return fault(core);
  const selector = peekStack(core, 2, size) as number;
  const descriptor = returnTarget(core, selector);
  if (isException(descriptor)) return descriptor;
  if ((selector & 3) === cplOf(core)) {
    if (!reaches(core, descriptor, offset)) return GP0;
    const marked = markAccessed(core, descriptor);
    if (marked !== undefined) return marked;
    setSp(core, spValue(core) + 2 * size + extra);
    enterCodeSegment(core, selector, descriptor, cplOf(core));
    core.rip = offset;
    return 'jumped';
  }
  const sp = peekBits(core, size, 2 * size + extra);
  if (sp === undefined) return fault(core);
  if (peekStack(core, size, 3 * size + extra) === undefined) return fault(core);
  return toOuter(core, selector, descriptor, offset, peekStack(core, 2, 3 * size + extra) as number, sp, extra);
};
/** A word of the stack with all its bits. */
function peekBits(core: Core, size: number, delta: number): bigint | undefined {
  const low = peekStack(core, Math.min(size, 4), delta);
  if (low === undefined) return undefined;
  if (size < 8) return BigInt(low);
  const high = peekStack(core, 4, delta + 4);
  return high === undefined ? undefined : (BigInt(high) << 32n) | BigInt(low);
}

function toOuter(core: Core, selector: number, descriptor: Descriptor, offset: number, ss: number, sp: bigint, extra: number): SystemResult {
  const rpl = selector & 3;
  // 64-bit code outside ring 3 may return to none.
  const none = core.long && (ss & 0xfffc) === 0 && rpl !== 3 && (ss & 3) === rpl && (descriptorAccess(descriptor) & ACCESS.long) !== 0;
  const stack = none ? undefined : outerStack(core, ss, rpl);
  if (stack !== undefined && isException(stack)) return stack;
  if (!reaches(core, descriptor, offset)) return GP0;
  const marked = markAccessed(core, descriptor) ?? (stack === undefined ? undefined : markAccessed(core, stack));
  if (marked !== undefined) return marked;
  enterCodeSegment(core, selector, descriptor, rpl);
  if (stack === undefined) setNull(core, SEG.ss, ss);
  else setFromDescriptor(core, SEG.ss, ss, stack);
  core.updateMode();
  const top = sp + BigInt(extra);
  if (core.long || stackIs32(core)) setGpr64(core, 4, BigInt.asUintN(core.long ? 64 : 32, top));
  else setSp(core, Number(BigInt.asUintN(16, top)));
  core.rip = offset;
  dropInnerSegments(core);
  return 'jumped';
}

/** Which eflags bits IRET may change from this privilege. */
function iretMask(core: Core, size: number): number {
  let mask = STATUS_MASK | EFLAGS.TF | EFLAGS.DF | EFLAGS.NT;
  const cpl = cplOf(core);
  if (cpl <= core.iopl) mask |= EFLAGS.IF;
  if (cpl === 0) mask |= EFLAGS.IOPL;
  if (size !== 2) {
    mask |= EFLAGS.RF | EFLAGS.AC | EFLAGS.ID;
    if (cpl === 0) mask |= EFLAGS.VIF | EFLAGS.VIP;
  }
  return mask;
}

const iret: SystemRow = (core, insn) => {
  const size = insn.code === 'Iretw' ? 2 : insn.code === 'Iretq' ? 8 : 4;
  // The status flags all come from the stack: those that are there need not be made.
  const rest = (core.get32(STATE.eflagsRest) & ~STATUS_MASK) | 2;
  if ((rest & EFLAGS.NT) !== 0) {
    if (core.lma) return GP0;
    const link = readLinear(core, core.get32(STATE.tr + 8), 2, false);
    return link !== link ? fault(core) : switchTask(core, link, 'iret', nextOffset(core, insn), 0);
  }
  const offset = peekStack(core, size, 0);
  if (offset === undefined) return fault(core);
  if (peekStack(core, size, size) === undefined) return fault(core);
  const selector = peekStack(core, 2, size) as number;
  if (peekStack(core, size, 2 * size) === undefined) return fault(core);
  const image = peekStack(core, Math.min(size, 4), 2 * size) as number;
  if (!core.lma && size === 4 && (image & EFLAGS.VM) !== 0 && cplOf(core) === 0) return unimplemented('IRET to virtual-8086 mode');
  const descriptor = returnTarget(core, selector);
  if (isException(descriptor)) return descriptor;
  const mask = iretMask(core, size);
  const flags = ((rest & ~mask) | (image & mask)) >>> 0;
  // 64-bit code restores its stack always.
  if ((selector & 3) === cplOf(core) && !core.long) {
    if (!reaches(core, descriptor, offset)) return GP0;
    const marked = markAccessed(core, descriptor);
    if (marked !== undefined) return marked;
    setSp(core, spValue(core) + 3 * size);
    enterCodeSegment(core, selector, descriptor, cplOf(core));
    core.rip = offset;
    core.setEflags(flags);
    return 'jumped';
  }
  const sp = peekBits(core, size, 3 * size);
  if (sp === undefined) return fault(core);
  if (peekStack(core, size, 4 * size) === undefined) return fault(core);
  const result = toOuter(core, selector, descriptor, offset, peekStack(core, 2, 4 * size) as number, sp, 0);
  if (result === 'jumped') core.setEflags(flags);
  return result;
};

export const TRANSFER_ROWS: Readonly<Record<string, SystemRow>> = { jmpFar, callFar, retFar, iret };
