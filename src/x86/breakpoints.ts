// Hardware breakpoints: DR0 to DR3, as DR7 arms them. While one is armed the evaluator performs everything, and a page
// with a data breakpoint has no fast tags (paging.ts), so that each access to it comes by `noteAccess`.
//
// An instruction breakpoint is a fault before its instruction, unless RF says that it was taken already; a data
// breakpoint is a trap after the instruction, or after an iteration of a repeated one.
// Not here: I/O breakpoints are kept and never hit.
// Source: Intel SDM vol. 3, 18.2 and 18.3.1.
import { fromHalves, pageOf } from './address.ts';
import type { Core } from './core.ts';
import { STATE } from './state-layout.ts';

/** DR7's R/W field. */
const WHEN = { execute: 0, write: 1, io: 2, access: 3 } as const;
/** By DR7's LEN field: bytes. */
const LENGTH_BYTES = [1, 2, 8, 4] as const;
const ENABLED = 0xff;

interface Breakpoint {
  /** Its bit in DR6. */
  readonly bit: number;
  /** Linear, aligned to its length. */
  readonly vaddr: number;
  readonly lengthBytes: number;
  readonly when: number;
}

/** What the debug registers arm now; undefined if nothing. */
export function armedBreakpoints(core: Core): readonly Breakpoint[] | undefined {
  const dr7 = core.get32(STATE.dr + 7 * 8);
  if ((dr7 & ENABLED) === 0) return undefined;
  const armed: Breakpoint[] = [];
  for (let i = 0; i < 4; i++) {
    if (((dr7 >>> (2 * i)) & 3) === 0) continue;
    const fields = (dr7 >>> (16 + 4 * i)) & 15;
    const lengthBytes = LENGTH_BYTES[fields >>> 2] as number;
    const low = core.get32(STATE.dr + i * 8);
    const high = core.get32(STATE.dr + i * 8 + 4);
    const aligned = (low & -lengthBytes) >>> 0;
    armed.push({ bit: 1 << i, vaddr: core.lma ? fromHalves(aligned, high) : aligned, lengthBytes, when: fields & 3 });
  }
  return armed;
}

/** DR6 bits of the breakpoints on the instruction at a linear address; 0: none. */
export function instructionBreakpoints(core: Core, vaddr: number): number {
  let bits = 0;
  for (const breakpoint of core.breakpoints ?? []) if (breakpoint.when === WHEN.execute && breakpoint.vaddr === vaddr) bits |= breakpoint.bit;
  return bits;
}

/** Must accesses to that page be looked at? */
export function watchesPage(core: Core, vaddr: number): boolean {
  return (core.breakpoints ?? []).some(({ when, vaddr: at }) => (when === WHEN.write || when === WHEN.access) && pageOf(at) === pageOf(vaddr));
}

/** An access of the current instruction: what it hits is gathered in core.breakpointsHit. */
export function noteAccess(core: Core, vaddr: number, sizeBytes: number, write: boolean): void {
  for (const { bit, vaddr: at, lengthBytes, when } of core.breakpoints ?? []) {
    const counts = when === WHEN.access || (when === WHEN.write && write);
    if (counts && vaddr < at + lengthBytes && at < vaddr + sizeBytes) core.breakpointsHit |= bit;
  }
}
