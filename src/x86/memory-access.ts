// Loads and stores of instructions: segment checks, then the paging unit, page by page.
// A function answers false (or NaN for an address or a value) with core.fault set when the access faults.
import { fromHalves, highHalf, inCanonicalRange, isCanonical, pageOf } from './address.ts';
import { noteAccess } from './breakpoints.ts';
import { codeStored } from './code-frames.ts';
import { ACCESS, UNUSABLE, type Core } from './core.ts';
import { VECTOR } from './exit.ts';
import { isFlat, MODE } from './mode.ts';
import { lookup, type Access } from './paging.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from './state-layout.ts';
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES } from './tlb-layout.ts';

/** The linear address of an access, or NaN with a #GP or #SS. Outside 64-bit code: segmentLinear64 is that one's. */
export function segmentLinear(core: Core, seg: number, offset: number, sizeBytes: number, write: boolean): number {
  const { mode } = core;
  if (isFlat(mode, seg) && !(write && seg === SEG.cs) && offset <= 0x1_0000_0000 - sizeBytes) return offset;
  const w = core.s + ((STATE.seg + seg * SEG_SLOT_BYTES) >> 2);
  const base = core.u32[w + 2] as number;
  const limit = core.u32[w + 4] as number;
  const access = core.u32[w + 6] as number;
  if (!segmentAllows(access, limit, offset, sizeBytes, write)) return refuse(core, seg);
  return aligned(core, (base + offset) >>> 0, sizeBytes);
}

/** The same in 64-bit code: offset by halves, no limits, a base only in FS and GS, #GP or #SS if it is not canonical. */
export function segmentLinear64(core: Core, seg: number, low: number, high: number, sizeBytes: number): number {
  let lo = low;
  let hi = high;
  if (seg >= SEG.fs) {
    const w = core.s + ((STATE.seg + seg * SEG_SLOT_BYTES + 8) >> 2);
    const sum = (lo >>> 0) + (core.u32[w] as number);
    hi = (hi + (core.u32[w + 1] as number) + (sum > 0xffffffff ? 1 : 0)) | 0;
    lo = sum >>> 0;
  }
  if (!isCanonical(hi)) return refuse(core, seg);
  const vaddr = fromHalves(lo, hi);
  return inCanonicalRange(vaddr + sizeBytes - 1) ? aligned(core, vaddr, sizeBytes) : refuse(core, seg);
}
/** For offsets that are numbers (address.ts) in whatever code runs. */
export function linearAt(core: Core, seg: number, offset: number, sizeBytes: number, write: boolean): number {
  return core.long ? segmentLinear64(core, seg, offset >>> 0, highHalf(offset), sizeBytes) : segmentLinear(core, seg, offset >>> 0, sizeBytes, write);
}

function refuse(core: Core, seg: number): number {
  core.fault = { vector: seg === SEG.ss ? VECTOR.SS : VECTOR.GP, errorCode: 0 };
  return NaN;
}
function aligned(core: Core, vaddr: number, sizeBytes: number): number {
  if ((core.mode & MODE.align) === 0 || (vaddr & (sizeBytes - 1)) === 0) return vaddr;
  core.fault = { vector: VECTOR.AC, errorCode: 0 };
  return NaN;
}

/** Sixteen bytes at a linear address (NaN: refused already): #GP instead of #AC where alignment is demanded. */
export function alignedVector(core: Core, vaddr: number, aligned: boolean): number {
  if (!aligned || (vaddr !== vaddr ? core.fault?.vector !== VECTOR.AC : (vaddr & 15) === 0)) return vaddr;
  core.fault = { vector: VECTOR.GP, errorCode: 0 };
  return NaN;
}

function segmentAllows(access: number, limit: number, offset: number, sizeBytes: number, write: boolean): boolean {
  if ((access & UNUSABLE) !== 0 || (access & ACCESS.present) === 0) return false;
  const last = offset + sizeBytes - 1;
  if ((access & ACCESS.code) !== 0) return !write && (access & ACCESS.readable) !== 0 && last <= limit;
  if (write && (access & ACCESS.writable) === 0) return false;
  if ((access & ACCESS.expandDown) === 0) return last <= limit;
  return offset > limit && last <= ((access & ACCESS.big) !== 0 ? 0xffffffff : 0xffff);
}

/** Reads `sizeBytes` (1, 2, 4) at a linear address; NaN on a fault. */
export function readLinear(core: Core, vaddr: number, sizeBytes: number, user: boolean): number {
  const slot = (core.tlbBase + ((vaddr >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES) >>> 2;
  const tagAt = slot + ((user ? TLB.readUser : TLB.readSup) >> 2);
  const end = (vaddr + sizeBytes - 1) >>> 0;
  let at: number;
  if ((end & ~0xfff) >>> 0 === core.u32[tagAt] && core.u32[tagAt + 1] === highHalf(vaddr)) at = (vaddr + (core.u32[slot + (TLB.addend >> 2)] as number)) >>> 0;
  else {
    if (vaddr >>> 12 !== end >>> 12) return readCrossing(core, vaddr, sizeBytes, user);
    at = lookup(core, vaddr, 'read', user);
    if (at < 0) return NaN;
    if (core.breakpoints !== undefined) noteAccess(core, vaddr, sizeBytes, false);
  }
  if (sizeBytes === 4) return core.view.getUint32(at, true);
  if (sizeBytes === 1) return core.u8[at] as number;
  return core.view.getUint16(at, true);
}

function readCrossing(core: Core, vaddr: number, sizeBytes: number, user: boolean): number {
  const first = lookup(core, vaddr, 'read', user);
  if (first < 0) return NaN;
  const inFirst = 4096 - (vaddr & 0xfff);
  const second = lookup(core, core.wrap(vaddr + inFirst), 'read', user);
  if (second < 0) return NaN;
  if (core.breakpoints !== undefined) noteAccess(core, vaddr, sizeBytes, false);
  let value = 0;
  for (let i = sizeBytes - 1; i >= 0; i--) value = value * 256 + (core.u8[i < inFirst ? first + i : second + i - inFirst] as number);
  return value;
}

/** Where an access within one page is, if the fast tag at `tag` holds for it; or -1. */
function tagged(core: Core, vaddr: number, sizeBytes: number, tag: number): number {
  const slot = (core.tlbBase + ((vaddr >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES) >>> 2;
  const end = (vaddr + sizeBytes - 1) >>> 0;
  const tagAt = slot + (tag >> 2);
  return (end & ~0xfff) >>> 0 === core.u32[tagAt] && core.u32[tagAt + 1] === highHalf(vaddr) ? (vaddr + (core.u32[slot + (TLB.addend >> 2)] as number)) >>> 0 : -1;
}

/** Would a store succeed? Looks the pages up as the store does. */
export function probeWrite(core: Core, vaddr: number, sizeBytes: number, user: boolean): boolean {
  if (tagged(core, vaddr, sizeBytes, user ? TLB.writeUser : TLB.writeSup) >= 0) return true;
  if (lookup(core, vaddr, 'write', user) < 0) return false;
  const end = core.wrap(vaddr + sizeBytes - 1);
  return pageOf(vaddr) === pageOf(end) || lookup(core, pageOf(end) * 4096, 'write', user) >= 0;
}

/** Stores; false on a fault, and then nothing was stored. */
export function writeLinear(core: Core, vaddr: number, sizeBytes: number, value: number, user: boolean): boolean {
  const slot = (core.tlbBase + ((vaddr >>> 12) & (TLB_ENTRIES - 1)) * TLB_ENTRY_BYTES) >>> 2;
  const end = (vaddr + sizeBytes - 1) >>> 0;
  const tagAt = slot + ((user ? TLB.writeUser : TLB.writeSup) >> 2);
  let at: number;
  if ((end & ~0xfff) >>> 0 === core.u32[tagAt] && core.u32[tagAt + 1] === highHalf(vaddr)) at = (vaddr + (core.u32[slot + (TLB.addend >> 2)] as number)) >>> 0;
  else {
    if (vaddr >>> 12 !== end >>> 12) return writeCrossing(core, vaddr, sizeBytes, value, user);
    at = lookup(core, vaddr, 'write', user);
    if (at < 0) return false;
    reportCode(core, at, sizeBytes);
    if (core.breakpoints !== undefined) noteAccess(core, vaddr, sizeBytes, true);
  }
  if (sizeBytes === 4) core.view.setUint32(at, value, true);
  else if (sizeBytes === 1) core.u8[at] = value;
  else core.view.setUint16(at, value, true);
  return true;
}

function writeCrossing(core: Core, vaddr: number, sizeBytes: number, value: number, user: boolean): boolean {
  const first = lookup(core, vaddr, 'write', user);
  if (first < 0) return false;
  const inFirst = 4096 - (vaddr & 0xfff);
  const second = lookup(core, core.wrap(vaddr + inFirst), 'write', user);
  if (second < 0) return false;
  reportCode(core, first, inFirst);
  reportCode(core, second, sizeBytes - inFirst);
  if (core.breakpoints !== undefined) noteAccess(core, vaddr, sizeBytes, true);
  for (let i = 0; i < sizeBytes; i++) core.u8[i < inFirst ? first + i : second + i - inFirst] = Math.floor(value / 2 ** (8 * i)) & 0xff;
  return true;
}

/** Tells the code caches when the store changes bytes that they were made from. */
export function reportCode(core: Core, linear: number, sizeBytes: number): void {
  const { machine } = core;
  const maddr = linear - machine.ramBase;
  if (maddr < 0 || maddr >>> 12 >= machine.frameCount) return;
  codeStored(machine, maddr, sizeBytes);
}

/** Eight bytes: the low word, and the high one in `pairHigh`; NaN on a fault. */
export function readPair(core: Core, vaddr: number, user: boolean): number {
  const at = tagged(core, vaddr, 8, user ? TLB.readUser : TLB.readSup);
  if (at >= 0) {
    pairHigh.half = core.view.getInt32(at + 4, true);
    return core.view.getInt32(at, true);
  }
  const low = readLinear(core, vaddr, 4, user);
  if (low !== low) return NaN;
  const high = readLinear(core, core.wrap(vaddr + 4), 4, user);
  if (high !== high) return NaN;
  pairHigh.half = high | 0;
  return low | 0;
}
export const pairHigh = { half: 0 };

/** Eight bytes: low word first. */
export function read64(core: Core, vaddr: number, user: boolean): bigint | undefined {
  const lo = readLinear(core, vaddr, 4, user);
  if (Number.isNaN(lo)) return undefined;
  const hi = readLinear(core, core.wrap(vaddr + 4), 4, user);
  if (Number.isNaN(hi)) return undefined;
  return (BigInt(hi) << 32n) | BigInt(lo);
}
export const write64 = (core: Core, vaddr: number, value: bigint, user: boolean): boolean => writePair(core, vaddr, Number(value & 0xffffffffn), Number(value >> 32n), user);
/** Eight bytes by halves. */
export function writePair(core: Core, vaddr: number, low: number, high: number, user: boolean): boolean {
  const at = tagged(core, vaddr, 8, user ? TLB.writeUser : TLB.writeSup);
  if (at >= 0) {
    core.view.setUint32(at, low, true);
    core.view.setUint32(at + 4, high, true);
    return true;
  }
  if (!probeWrite(core, vaddr, 8, user)) return false;
  return writeLinear(core, vaddr, 4, low, user) && writeLinear(core, core.wrap(vaddr + 4), 4, high, user);
}

/** Bytes through the paging unit, for system rows and the outside; undefined on a fault. */
export function readBytes(core: Core, vaddr: number, sizeBytes: number, user: boolean, access: Access = 'read'): Uint8Array | undefined {
  const bytes = new Uint8Array(sizeBytes);
  for (let done = 0; done < sizeBytes; ) {
    const at = lookup(core, core.wrap(vaddr + done), access, user);
    if (at < 0) return undefined;
    const n = Math.min(sizeBytes - done, 4096 - ((vaddr + done) & 0xfff));
    bytes.set(core.u8.subarray(at, at + n), done);
    done += n;
  }
  if (core.breakpoints !== undefined && access === 'read') noteAccess(core, vaddr, sizeBytes, false);
  return bytes;
}
/** All or nothing: every page is probed before the first byte is stored. */
export function writeBytes(core: Core, vaddr: number, bytes: Uint8Array, user: boolean): boolean {
  const places: { at: number; from: number; n: number }[] = [];
  for (let done = 0; done < bytes.length; ) {
    const at = lookup(core, core.wrap(vaddr + done), 'write', user);
    if (at < 0) return false;
    const n = Math.min(bytes.length - done, 4096 - ((vaddr + done) & 0xfff));
    places.push({ at, from: done, n });
    done += n;
  }
  for (const { at, from, n } of places) {
    reportCode(core, at, n);
    core.u8.set(bytes.subarray(from, from + n), at);
  }
  if (core.breakpoints !== undefined) noteAccess(core, vaddr, bytes.length, true);
  return true;
}
