// The checker of descriptor tables: what the processor may read from a guest's GDT or LDT frame.
//
//   absent                       anything
//   code or data                 of the guest kernel's ring or above; none of long mode for 32-bit guests
//   system, type 0               harmless: using it faults
//   call gate                    privilege 0, so that every use faults into Xen; its target is not ring 0
//   any other system descriptor  never: TSSs, LDTs, task, interrupt and trap gates are Xen's
//
// Sources: Intel SDM vol. 3, 3.4.5 and 5.8.3; check_descriptor() in xen/arch/x86/pv/descriptor-tables.c.
// Not checked: the limits by which 32-bit Xen 3.x keeps segments below itself.
import { FRAME, FRAME_TYPE } from '../hypervisor/frame-table.ts';
import type { Abi } from '../hypervisor/personality.ts';
import { frameText, type Checker, type Report } from './checker.ts';
import type { Survey } from './survey.ts';

/** Bits of a descriptor's high half. */
const DESC = { typeMask: 0xf00, callGate: 0xc00, codeOrData: 0x1000, dplShift: 13, present: 0x8000, longMode: 0x20_0000 } as const;

function checkDescriptors({ hv, frames, machine, used, usedCount }: Survey, report: Report): void {
  const { type, typeCount, flags, owner } = frames;
  const segDesc: number = FRAME_TYPE.segDesc;
  const validated: number = FRAME.validated;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    if (type[mfn] !== segDesc || typeCount[mfn] === 0) continue;
    const abi = hv.domains.get(owner[mfn] as number)?.abi;
    if (abi === undefined) continue;
    if (((flags[mfn] as number) & validated) === 0) report(frameText(mfn), `is a descriptor table in use that was never checked: ${frames.describe(mfn)}`);
    else checkFrame(machine.u32, (machine.ramBase + mfn * 4096) >>> 2, abi, (index, text) => report(`descriptor ${index} of ${frameText(mfn)}`, text));
  }
}

function checkFrame(u32: Uint32Array, start: number, abi: Abi, report: (index: number, text: string) => void): void {
  for (let at = start; at < start + 1024; at += 2) {
    const hi = u32[at + 1] as number;
    if ((hi & DESC.present) === 0) continue;
    const problem = judge(u32[at] as number, hi, abi);
    if (problem !== undefined) report((at - start) / 2, `${problem} (${hi.toString(16).padStart(8, '0')}${(u32[at] as number).toString(16).padStart(8, '0')})`);
  }
}

function judge(lo: number, hi: number, abi: Abi): string | undefined {
  const dpl = (hi >>> DESC.dplShift) & 3;
  if ((hi & DESC.codeOrData) !== 0) {
    if (dpl < (abi.wordBits === 64 ? 3 : 1)) return `is a segment of ring ${dpl}`;
    return abi.wordBits === 32 && (hi & DESC.longMode) !== 0 ? 'is a long-mode segment of a 32-bit guest' : undefined;
  }
  const kind = hi & DESC.typeMask;
  if (kind === 0) return undefined;
  if (kind !== DESC.callGate) return `is a system descriptor of type ${kind >>> 8}`;
  if (dpl !== 0) return 'is a call gate that the processor would pass';
  return ((lo >>> 16) & 3) === 0 ? 'is a call gate into ring 0' : undefined;
}

export const descriptorsChecker: Checker = {
  name: 'descriptors',
  claim: "no descriptor of a guest's tables leads into Xen's ring",
  check: checkDescriptors,
};
