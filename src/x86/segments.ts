// Segment registers and descriptors: loads with all checks, descriptor look-ups, LAR/LSL/VERR/VERW's
// view. Source: Intel SDM vol. 3, chapters 3 and 5; vol. 2, MOV, POP, LAR.
import { fromHalves, isCanonical } from './address.ts';
import { ACCESS, UNUSABLE, type Core } from './core.ts';
import { VECTOR, type Exception } from './exit.ts';
import { readLinear, writeLinear } from './memory-access.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from './state-layout.ts';

export interface Descriptor {
  readonly lo: number;
  readonly hi: number;
  /** Linear address of its 8 bytes. */
  readonly vaddr: number;
}
export const descriptorBase = (d: Descriptor): number => (((d.lo >>> 16) | ((d.hi & 0xff) << 16) | (d.hi & 0xff000000)) >>> 0);
export const descriptorAccess = (d: Descriptor): number => (d.hi >>> 8) & 0xf0ff;
export function descriptorLimit(d: Descriptor): number {
  const raw = (d.lo & 0xffff) | (d.hi & 0xf0000);
  return (d.hi & 0x800000) !== 0 ? ((raw << 12) | 0xfff) >>> 0 : raw;
}
export const dplOf = (access: number): number => (access >> ACCESS.dplShift) & 3;
export const isCode = (access: number): boolean => (access & (ACCESS.system | ACCESS.code)) === (ACCESS.system | ACCESS.code);
export const isData = (access: number): boolean => (access & (ACCESS.system | ACCESS.code)) === ACCESS.system;
export const isConforming = (access: number): boolean => isCode(access) && (access & ACCESS.conforming) !== 0;

const exception = (vector: number, selector: number): Exception => ({ vector, errorCode: selector & 0xfffc });
export const gp = (selector = 0): Exception => exception(VECTOR.GP, selector);

/** Reads the descriptor that the selector names; an exception if it lies outside its table (#GP) or the table faults. Null selectors are the caller's business. */
export function readDescriptor(core: Core, selector: number, vector: number = VECTOR.GP): Descriptor | Exception {
  const local = (selector & 4) !== 0;
  let base: number;
  let limit: number;
  if (local) {
    const w = core.s + (STATE.ldtr >> 2);
    if (((core.u32[w + 6] as number) & UNUSABLE) !== 0) return exception(vector, selector);
    base = core.address(STATE.ldtr + 8);
    limit = core.u32[w + 4] as number;
  } else {
    base = core.address(STATE.gdtrBase);
    limit = core.get32(STATE.gdtrLimit);
  }
  const offset = selector & 0xfff8;
  if (offset + 7 > limit) return exception(vector, selector);
  const vaddr = core.wrap(base + offset);
  const lo = readLinear(core, vaddr, 4, false);
  if (lo !== lo) return core.fault as Exception;
  const hi = readLinear(core, core.wrap(vaddr + 4), 4, false);
  if (hi !== hi) return core.fault as Exception;
  return { lo, hi, vaddr };
}
/** Base of a system segment (LDT, TSS): in long mode its descriptor has 16 bytes and 64 bits of base. */
export function systemBase(core: Core, selector: number, descriptor: Descriptor): number | Exception {
  if (!core.lma) return descriptorBase(descriptor);
  const rest = readDescriptor(core, (selector & 0xfff8) + 8 + (selector & 4));
  // Beyond the table: the error names the selector that was asked for.
  if (isException(rest)) return rest.vector === VECTOR.PF ? rest : gp(selector);
  if ((rest.hi & 0x1f00) !== 0 || !isCanonical(rest.lo)) return gp(selector);
  return fromHalves(descriptorBase(descriptor), rest.lo);
}
export const isException = (value: object): value is Exception => 'vector' in value;

/** Sets the accessed bit of a code or data descriptor in memory, if it is clear. */
export function markAccessed(core: Core, descriptor: Descriptor): Exception | undefined {
  if ((descriptor.hi & 0x100) !== 0) return undefined;
  return writeLinear(core, core.wrap(descriptor.vaddr + 4), 4, (descriptor.hi | 0x100) >>> 0, false) ? undefined : core.fault;
}

export function setFromDescriptor(core: Core, seg: number, selector: number, descriptor: Descriptor): void {
  core.setSegmentSlot(STATE.seg + seg * SEG_SLOT_BYTES, selector, descriptorBase(descriptor), descriptorLimit(descriptor), descriptorAccess(descriptor) | ACCESS.accessed);
}
export function setNull(core: Core, seg: number, selector: number): void {
  core.setSegmentSlot(STATE.seg + seg * SEG_SLOT_BYTES, selector, 0, 0, UNUSABLE);
}

/** MOV, POP and LxS into DS, ES, FS, GS or SS. Changes nothing when it answers with an exception. */
export function loadDataSegment(core: Core, seg: number, selector: number): Exception | undefined {
  const cpl = core.get32(STATE.cpl);
  const rpl = selector & 3;
  if ((selector & 0xfffc) === 0) {
    // 64-bit code in rings 0 to 2 may do without a stack segment.
    if (seg === SEG.ss && (!core.long || cpl === 3 || rpl !== cpl)) return gp(0);
    setNull(core, seg, selector);
    core.updateMode();
    return undefined;
  }
  const descriptor = readDescriptor(core, selector);
  if (isException(descriptor)) return descriptor;
  const access = descriptorAccess(descriptor);
  const dpl = dplOf(access);
  if (seg === SEG.ss) {
    if (rpl !== cpl || !isData(access) || (access & ACCESS.writable) === 0 || dpl !== cpl) return gp(selector);
    if ((access & ACCESS.present) === 0) return exception(VECTOR.SS, selector);
  } else {
    const readable = isData(access) || (isCode(access) && (access & ACCESS.readable) !== 0);
    if (!readable) return gp(selector);
    if (!isConforming(access) && (rpl > dpl || cpl > dpl)) return gp(selector);
    if ((access & ACCESS.present) === 0) return exception(VECTOR.NP, selector);
  }
  const fault = markAccessed(core, descriptor);
  if (fault !== undefined) return fault;
  setFromDescriptor(core, seg, selector, descriptor);
  core.updateMode();
  return undefined;
}

/** Loads CS with a checked descriptor and enters `cpl`. */
export function enterCodeSegment(core: Core, selector: number, descriptor: Descriptor, cpl: number): void {
  setFromDescriptor(core, SEG.cs, (selector & ~3) | cpl, descriptor);
  core.set32(STATE.cpl, cpl);
  core.updateMode();
}

/** After a return to an outer ring: data segments that the new CPL may not use become null. */
export function dropInnerSegments(core: Core): void {
  const cpl = core.get32(STATE.cpl);
  for (const seg of [SEG.es, SEG.ds, SEG.fs, SEG.gs]) {
    const access = core.get32(STATE.seg + seg * SEG_SLOT_BYTES + 24);
    if ((access & UNUSABLE) !== 0) continue;
    if (!isConforming(access) && dplOf(access) < cpl) setNull(core, seg, 0);
  }
  core.updateMode();
}
