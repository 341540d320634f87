// Hardware task switches: JMP, CALL, INT and exceptions to a TSS or task gate, and IRET out of a nested task.
//
//   1. the new TSS: in the GDT, of the right type, present, large enough
//   2. the current registers into the current TSS; busy bits, back link, NT
//   3. TR, CR3, the registers; CR0.TS
//   4. LDTR and the segments, with their checks: what fails here fails in the new task (#TS mostly)
//
// Not checked: that both TSSs are mapped before the first store (a page fault in between leaves stores behind).
// Source: Intel SDM vol. 3, chapter 7, sections 7.2 to 7.5 and tables 7-1, 7-2.
import { ACCESS, CR0, UNUSABLE, type Core } from '../core.ts';
import { VECTOR, type Exception } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { probeWrite, readLinear, writeLinear } from '../memory-access.ts';
import { descriptorAccess, descriptorBase, descriptorLimit, dplOf, isCode, isConforming, isData, isException, markAccessed, readDescriptor, setFromDescriptor, setNull, type Descriptor } from '../segments.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { setCr3 } from './control-registers.ts';
import { gpr, pokeStack, setGpr, setSp, spValue, type SystemResult } from './row.ts';

export type TaskSwitchReason = 'jmp' | 'call' | 'int' | 'iret';

interface TssLayout {
  readonly wordBytes: 2 | 4;
  readonly minLimit: number;
  readonly ip: number;
  readonly flags: number;
  readonly gprs: number;
  readonly segs: number;
  readonly segCount: number;
  readonly ldt: number;
}
const TSS16: TssLayout = { wordBytes: 2, minLimit: 0x2b, ip: 0x0e, flags: 0x10, gprs: 0x12, segs: 0x22, segCount: 4, ldt: 0x2a };
const TSS32: TssLayout = { wordBytes: 4, minLimit: 0x67, ip: 0x20, flags: 0x24, gprs: 0x28, segs: 0x48, segCount: 6, ldt: 0x60 };
const TSS32_CR3 = 0x1c;
const TSS32_TRAP = 0x64;
const layoutOf = (access: number): TssLayout => ((access & 8) !== 0 ? TSS32 : TSS16);
/** System descriptor types without the busy bit. */
const BUSY = 2;
const isTss = (access: number): boolean => (access & ACCESS.system) === 0 && ((access & 0xf) & ~(BUSY | 8)) === 1;
/** Order of segment registers in a TSS. */
const SEGS = [SEG.es, SEG.cs, SEG.ss, SEG.ds, SEG.fs, SEG.gs] as const;

const fault = (core: Core): Exception => core.fault as Exception;

/** Switches to the task that `selector` names. `savedIp`: what the current task resumes at. */
export function switchTask(core: Core, selector: number, reason: TaskSwitchReason, savedIp: number, ext: number, errorCode?: number, savedFlags = core.eflags()): SystemResult {
  const error = (vector: number, about = selector): Exception => ({ vector, errorCode: (about & 0xfffc) | ext });
  const bad = reason === 'iret' ? VECTOR.TS : VECTOR.GP;
  // 1.
  if ((selector & 4) !== 0 || (selector & 0xfffc) === 0) return error(bad);
  const descriptor = readDescriptor(core, selector, bad);
  if (isException(descriptor)) return withExt(descriptor, ext);
  const access = descriptorAccess(descriptor);
  if (!isTss(access) || ((access & BUSY) !== 0) !== (reason === 'iret')) return error(bad);
  if ((access & ACCESS.present) === 0) return error(VECTOR.NP);
  const layout = layoutOf(access);
  if (descriptorLimit(descriptor) < layout.minLimit) return error(VECTOR.TS);
  const base = descriptorBase(descriptor);
  const oldAccess = core.get32(STATE.tr + 24);
  const oldSelector = core.get32(STATE.tr);
  const oldBase = core.get32(STATE.tr + 8);
  if (!probeWrite(core, oldBase, 4, false) || !probeWrite(core, (oldBase + layoutOf(oldAccess).minLimit) >>> 0, 1, false) || !probeWrite(core, base, 4, false)) return fault(core);
  const image = readImage(core, base, layout);
  if (image === undefined) return fault(core);
  // 2.
  if (reason === 'jmp' || reason === 'iret') {
    const old = readDescriptor(core, oldSelector);
    if (isException(old)) return withExt(old, ext);
    if (!writeLinear(core, (old.vaddr + 4) >>> 0, 4, (old.hi & ~0x200) >>> 0, false)) return fault(core);
  }
  const flags = reason === 'iret' ? savedFlags & ~EFLAGS.NT : savedFlags;
  if (!saveImage(core, oldBase, layoutOf(oldAccess), savedIp, flags)) return fault(core);
  const nested = reason === 'call' || reason === 'int';
  if (nested && !writeLinear(core, base, 2, oldSelector, false)) return fault(core);
  if (reason !== 'iret' && !writeLinear(core, (descriptor.vaddr + 4) >>> 0, 4, (descriptor.hi | 0x200) >>> 0, false)) return fault(core);
  // 3.
  core.setSegmentSlot(STATE.tr, selector, base, descriptorLimit(descriptor), access | BUSY);
  if (layout.wordBytes === 4 && (core.get32(STATE.cr0) & CR0.PG) !== 0 && image.cr3 !== core.get32(STATE.cr3)) setCr3(core, image.cr3);
  core.set32(STATE.cr0, (core.get32(STATE.cr0) | CR0.TS) >>> 0);
  core.set32(STATE.rip, image.ip);
  core.setEflags(nested ? image.flags | EFLAGS.NT : image.flags);
  image.gprs.forEach((value, index) => setGpr(core, index, value));
  // 4.
  const problem = loadSegments(core, image);
  if (problem !== undefined) return withExt(problem, ext);
  if (errorCode !== undefined) {
    if (!pokeStack(core, layout.wordBytes, -layout.wordBytes, errorCode)) return withExt(fault(core), ext);
    setSp(core, spValue(core) - layout.wordBytes);
  }
  if (image.trap) {
    core.set32(STATE.dr + 6 * 8, (core.get32(STATE.dr + 6 * 8) | 0x8000) >>> 0);
    return { vector: VECTOR.DB };
  }
  if (image.ip > core.get32(STATE.seg + SEG.cs * SEG_SLOT_BYTES + 16)) return { vector: VECTOR.GP, errorCode: ext };
  return 'jumped';
}

const withExt = (e: Exception, ext: number): Exception => (ext === 0 || e.vector === VECTOR.PF || e.errorCode === undefined ? e : { ...e, errorCode: e.errorCode | ext });

interface TaskImage {
  readonly cr3: number;
  readonly ip: number;
  readonly flags: number;
  readonly gprs: readonly number[];
  readonly selectors: readonly number[];
  readonly ldt: number;
  readonly trap: boolean;
}

function readImage(core: Core, base: number, layout: TssLayout): TaskImage | undefined {
  let failed = false;
  const word = (at: number, sizeBytes: number): number => {
    if (failed) return 0;
    const value = readLinear(core, (base + at) >>> 0, sizeBytes, false);
    if (value !== value) failed = true;
    return value;
  };
  const size = layout.wordBytes;
  const image: TaskImage = {
    cr3: size === 4 ? word(TSS32_CR3, 4) : 0,
    ip: word(layout.ip, size),
    flags: word(layout.flags, size),
    gprs: Array.from({ length: 8 }, (_, i) => (size === 2 ? 0xffff0000 + word(layout.gprs + i * 2, 2) : word(layout.gprs + i * 4, 4))),
    selectors: SEGS.map((_, i) => (i < layout.segCount ? word(layout.segs + i * size, 2) : 0)),
    ldt: word(layout.ldt, 2),
    trap: size === 4 && (word(TSS32_TRAP, 2) & 1) !== 0,
  };
  return failed ? undefined : image;
}

function saveImage(core: Core, base: number, layout: TssLayout, ip: number, flags: number): boolean {
  const size = layout.wordBytes;
  const put = (at: number, sizeBytes: number, value: number): boolean => writeLinear(core, (base + at) >>> 0, sizeBytes, sizeBytes === 2 ? value & 0xffff : value >>> 0, false);
  if (!put(layout.ip, size, ip) || !put(layout.flags, size, flags)) return false;
  for (let i = 0; i < 8; i++) if (!put(layout.gprs + i * size, size, gpr(core, i))) return false;
  for (let i = 0; i < layout.segCount; i++) if (!put(layout.segs + i * size, 2, core.get32(STATE.seg + (SEGS[i] as number) * SEG_SLOT_BYTES))) return false;
  return true;
}

/** Selectors first, so that a failing check leaves them visible; then LDTR, CS, SS, the data segments. */
function loadSegments(core: Core, image: TaskImage): Exception | undefined {
  const error = (vector: number, about: number): Exception => ({ vector, errorCode: about & 0xfffc });
  const [es, cs, ss, ds, fs, gs] = image.selectors as [number, number, number, number, number, number];
  SEGS.forEach((seg, i) => setNull(core, seg, image.selectors[i] as number));
  core.setSegmentSlot(STATE.ldtr, image.ldt, 0, 0, UNUSABLE);
  const cpl = cs & 3;
  core.set32(STATE.cpl, cpl);
  core.updateMode();
  if ((image.ldt & 0xfffc) !== 0) {
    const ldt = (image.ldt & 4) !== 0 ? error(VECTOR.TS, image.ldt) : readDescriptor(core, image.ldt, VECTOR.TS);
    if (isException(ldt)) return ldt;
    const access = descriptorAccess(ldt);
    if ((access & 0x1f) !== 2 || (access & ACCESS.present) === 0) return error(VECTOR.TS, image.ldt);
    core.setSegmentSlot(STATE.ldtr, image.ldt, descriptorBase(ldt), descriptorLimit(ldt), access);
  }
  const code = checked(core, cs, (access) => {
    if (!isCode(access) || (isConforming(access) ? dplOf(access) > cpl : dplOf(access) !== cpl)) return VECTOR.TS;
    return (access & ACCESS.present) === 0 ? VECTOR.NP : undefined;
  });
  if (isException(code)) return code;
  setFromDescriptor(core, SEG.cs, cs, code);
  const stack = checked(core, ss, (access) => {
    if ((ss & 3) !== cpl || !isData(access) || (access & ACCESS.writable) === 0 || dplOf(access) !== cpl) return VECTOR.TS;
    return (access & ACCESS.present) === 0 ? VECTOR.SS : undefined;
  });
  if (isException(stack)) return stack;
  setFromDescriptor(core, SEG.ss, ss, stack);
  core.updateMode();
  for (const [seg, selector] of [[SEG.ds, ds], [SEG.es, es], [SEG.fs, fs], [SEG.gs, gs]] as const) {
    if ((selector & 0xfffc) === 0) continue;
    const data = checked(core, selector, (access) => {
      if (!isData(access) && !(isCode(access) && (access & ACCESS.readable) !== 0)) return VECTOR.TS;
      if (!isConforming(access) && ((selector & 3) > dplOf(access) || cpl > dplOf(access))) return VECTOR.TS;
      return (access & ACCESS.present) === 0 ? VECTOR.NP : undefined;
    });
    if (isException(data)) return data;
    setFromDescriptor(core, seg, selector, data);
  }
  core.updateMode();
  return undefined;
}

/** The descriptor if `refuse` finds nothing wrong; marked accessed. */
function checked(core: Core, selector: number, refuse: (access: number) => number | undefined): Descriptor | Exception {
  if ((selector & 0xfffc) === 0) return { vector: VECTOR.TS, errorCode: 0 };
  const descriptor = readDescriptor(core, selector, VECTOR.TS);
  if (isException(descriptor)) return descriptor;
  const vector = refuse(descriptorAccess(descriptor));
  if (vector !== undefined) return { vector, errorCode: selector & 0xfffc };
  return markAccessed(core, descriptor) ?? descriptor;
}
