// What the ways into and out of a guest kernel have in common: the frame that names where a guest was
// or is to go on, and the two steps that each ABI has of its own (frames-32.ts, frames-64.ts).
import type { Cpu } from '../x86/cpu.ts';
import type { Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { GPR, readWord, vaddrToWord, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';

/** Where a guest goes on: what Xen's exit path would hand to IRET, or (`sysret`) to SYSRET. */
export interface ReturnFrame {
  readonly cs: number;
  readonly ip: Word;
  readonly ss: number;
  readonly sp: Word;
  readonly eflags: number;
  /** Left by SYSRET: flat segments, RCX and R11 hold the new RIP and RFLAGS. 64-bit guests only. */
  readonly sysret: boolean;
}

/** A handler of the guest's to be entered. */
export interface Bounce {
  readonly cs: number;
  readonly address: number;
  readonly maskEvents: boolean;
  readonly errorCode?: number | undefined;
}

export interface FrameAbi {
  /** Builds the frame on the guest kernel's stack; gives where to go on, or why the domain must die, as a clause. */
  readonly bounce: (hv: Hypervisor, vcpu: Vcpu, bounce: Bounce, from: ReturnFrame) => ReturnFrame | string;
  /** Loads the frame as the processor's return instruction does, or gives its fault and leaves everything as it was. */
  readonly enter: (vcpu: Vcpu, frame: ReturnFrame) => Exception | undefined;
}

/** Where the processor is now; `flags` are set in the image of its flags. */
export function currentFrame(cpu: Cpu, flags = 0): ReturnFrame {
  return { cs: cpu.segmentSelector(SEG.cs), ip: vaddrToWord(cpu.rip()), ss: cpu.segmentSelector(SEG.ss), sp: readWord(cpu, GPR.esp), eflags: (cpu.eflags() | flags) >>> 0, sysret: false };
}

/** VMASST_TYPE_architectural_iopl: the guest sees and sets its virtual IOPL in EFLAGS. */
export const VMASST_architectural_iopl = 4;
/** The virtual IOPL as bits of EFLAGS; 0 without the assist. */
export const shownIopl = (vcpu: Vcpu): number => ((vcpu.domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0 ? vcpu.iopl << 12 : 0);
