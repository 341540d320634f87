// The checker of what a processor keeps of shadow page tables. Between two flushes it may go on using a
// translation although the shadow has changed since, as it may on any tables. But
//
//   flushed     of a page that the guest has just asked to be flushed it keeps nothing, or no more than the
//               shadow grants: the same frame, and no right to write, to user code or to execution beyond it
//   frame       at no time does a translation lead beyond the guest's frames
//   trap        where the host traps stores to tables, it may never store to one through its cache: the flush
//               that write-protection needs is the host's own to remember
//
// That fast tags allow no more than the translation beside them is the rule of translation-checker.ts.
import { TLB, TLB_ENTRIES, TLB_ENTRY_BYTES } from '../x86/tlb-layout.ts';
import { shadowedFrames, shadowOf, type ShadowView } from './shadow-tables.ts';

/** The row of it in lists of checkers. */
export const SHADOW_TLB = { name: 'shadow-tlb', claim: 'a processor on shadow page tables keeps of a flushed page no more than its shadow grants, reaches no frame but the guest’s, and never stores past the trap of a table' } as const;

/** Pages that were flushed, by the addresses of their first bytes. */
export type Flushed = 'all' | readonly number[];

/** Bits of TLB.arch, as paging.ts keeps them. */
const ARCH = { valid: 1, user: 2, writable: 4, executable: 8, dirty: 16, noRam: 32, wp: 64 } as const;
const MOST_PROBLEMS = 10;

/** What does not hold; empty if all is well. `flushed`: since the guest last ran. */
export function shadowTlbProblems(view: ShadowView, flushed: Flushed = []): string[] {
  const problems: string[] = [];
  const { u32 } = view.machine;
  const guestFrames = new Set(view.p2m);
  const trapped = view.traps ? shadowedFrames(view) : new Set<number>();
  view.tlbVpnBases.forEach((vpnBase, set) => {
    for (let slot = 0; slot < TLB_ENTRIES && problems.length < MOST_PROBLEMS; slot++) {
      const vpn = u32[(vpnBase >>> 2) + slot * 2] as number;
      // Without a translation the number is 0; page 0 has slot 0.
      if (vpn === 0 && slot !== 0) continue;
      const at = ((view.tlbBases[set] as number) + slot * TLB_ENTRY_BYTES) >>> 2;
      const arch = u32[at + (TLB.arch >> 2)] as number;
      if ((arch & ARCH.valid) === 0) continue;
      const frame = (u32[at + (TLB.maddr >> 2)] as number) >>> 12;
      const writes = (arch & ARCH.dirty) !== 0 && ((arch & ARCH.writable) !== 0 || (arch & ARCH.wp) === 0);
      const vaddr = vpn * 4096;
      const say = (text: string): void => void problems.push(`the translation of 0x${vaddr.toString(16)} that the processor keeps ${text}`);
      if ((arch & ARCH.noRam) !== 0 || !guestFrames.has(frame)) say(`leads to machine frame 0x${frame.toString(16)}, which is not the guest's`);
      if (writes && trapped.has(frame)) say('can be written through, but leads to a table whose stores must trap');
      if (flushed === 'all' || flushed.includes(vaddr)) tooMuch(view, vaddr, frame, arch, writes).forEach(say);
    }
  });
  return problems;
}

function tooMuch(view: ShadowView, vaddr: number, frame: number, arch: number, writes: boolean): string[] {
  const shadow = shadowOf(view, vaddr);
  if (shadow === undefined) return ['was flushed, and the shadow has nothing there'];
  const { entry, rights } = shadow;
  const wrong: string[] = [];
  if (entry.frame !== frame) wrong.push(`was flushed, and leads to machine frame 0x${frame.toString(16)}, the shadow to 0x${entry.frame.toString(16)}`);
  if (writes && !rights.write) wrong.push('was flushed, and can be written through, which the shadow does not allow');
  if ((arch & ARCH.user) !== 0 && !rights.user) wrong.push('was flushed, and is there for user code, which the shadow does not allow');
  if ((arch & ARCH.executable) !== 0 && rights.nx) wrong.push('was flushed, and can be executed, which the shadow does not allow');
  return wrong;
}
