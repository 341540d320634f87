// Segments as IRET loads them when Xen goes back to a guest: the checks on CS and SS, and what
// becomes of data segments. Source: SDM vol. 2, IRET; vol. 3, chapter 3.
import type { Cpu, SegmentState } from '../x86/cpu.ts';
import { VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';

export const ACCESS = { writable: 0x2, conforming: 0x4, code: 0x8, nonSystem: 0x10, present: 0x80, long: 0x2000, big: 0x4000, unusable: 0x1_0000 } as const;
const dplOf = (access: number): number => (access >>> 5) & 3;

/** The hidden parts that were made last, by selector: two exits in a row load the same few. */
const MADE = 64;
const made: { lo: number; hi: number; state: SegmentState }[] = Array.from({ length: MADE }, () => ({ lo: 0, hi: 0, state: { selector: -1, base: 0, limit: 0, access: 0 } }));

/** What a load of the selector's descriptor gives, unchecked; undefined when the selector is null, past the table, or unreadable. */
export function segmentOf(cpu: Cpu, selector: number): SegmentState | undefined {
  if ((selector & 0xfffc) === 0) return undefined;
  const table = (selector & 4) === 0 ? cpu.gdtr() : cpu.ldtr();
  const at = selector & 0xfff8;
  if (at + 7 > table.limit) return undefined;
  // Tables lie in Xen's own range: no wrapping at 4 GiB, and no descriptor in two pages.
  const maddr = cpu.locate(table.base + at, 'read', false);
  if (maddr < 0) return undefined;
  const lo = cpu.machine.readU32(maddr);
  const hi = cpu.machine.readU32(maddr + 4);
  const known = made[(selector >>> 3) & (MADE - 1)] as (typeof made)[number];
  if (known.state.selector !== selector || known.lo !== lo || known.hi !== hi) {
    known.lo = lo;
    known.hi = hi;
    known.state = segmentFromDescriptor(selector, { lo, hi });
  }
  return known.state;
}

/** The hidden part that a load of this descriptor gives. */
export function segmentFromDescriptor(selector: number, { lo, hi }: { lo: number; hi: number }): SegmentState {
  const pages = (hi & 0x80_0000) !== 0;
  const units = (lo & 0xffff) | (hi & 0xf_0000);
  const limit = pages ? units * 4096 + 4095 : units;
  const base = ((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff00_0000)) >>> 0;
  return { selector, base, limit, access: (hi >>> 8) & 0xf0ff };
}

const fault = (vector: number, selector: number): Exception => ({ vector, errorCode: selector & 0xfffc });

/** What IRET to that CS and SS would load, or the fault it would raise. `longMode`: the processor is in it. */
export function segmentsForReturn(cpu: Cpu, cs: number, ss: number, longMode = false): { cs: SegmentState; ss: SegmentState } | Exception {
  const rpl = cs & 3;
  const csState = segmentOf(cpu, cs);
  if (csState === undefined) return fault(VECTOR.GP, cs);
  const { access } = csState;
  const conforms = (access & ACCESS.conforming) !== 0;
  if ((access & ACCESS.nonSystem) === 0 || (access & ACCESS.code) === 0) return fault(VECTOR.GP, cs);
  if (longMode && (access & ACCESS.long) !== 0 && (access & ACCESS.big) !== 0) return fault(VECTOR.GP, cs);
  if (conforms ? dplOf(access) > rpl : dplOf(access) !== rpl) return fault(VECTOR.GP, cs);
  if ((access & ACCESS.present) === 0) return fault(VECTOR.NP, cs);
  const ssState = segmentOf(cpu, ss);
  if (ssState === undefined) return fault(VECTOR.GP, ss);
  const isWritableData = (ssState.access & ACCESS.nonSystem) !== 0 && (ssState.access & ACCESS.code) === 0 && (ssState.access & ACCESS.writable) !== 0;
  if (!isWritableData || (ss & 3) !== rpl || dplOf(ssState.access) !== rpl) return fault(VECTOR.GP, ss);
  if ((ssState.access & ACCESS.present) === 0) return fault(VECTOR.SS, ss);
  return { cs: csState, ss: ssState };
}

/** A null selector in a data segment register. */
const NULL_SEGMENT: SegmentState = { selector: 0, base: 0, limit: 0, access: ACCESS.unusable };

/** IRET to an outer ring takes away data segments that the new ring may not use. */
export function dropPrivilegedSegments(cpu: Cpu, ring: number): void {
  for (const index of [SEG.es, SEG.ds, SEG.fs, SEG.gs]) {
    const access = cpu.segmentAccess(index);
    if ((access & ACCESS.unusable) !== 0) continue;
    const isConformingCode = (access & ACCESS.code) !== 0 && (access & ACCESS.conforming) !== 0;
    if (!isConformingCode && dplOf(access) < ring) cpu.setSegment(index, NULL_SEGMENT);
  }
}
