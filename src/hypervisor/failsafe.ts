// A vCPU that runs again after another one ran: Xen loads its data segments anew. What the guest did to
// its descriptors meanwhile shows now; a selector that cannot be loaded is replaced by null, and the
// guest's failsafe callback is entered with the selectors as they were in its frame.
//
//   64-bit  [SS RSP RFLAGS CS|mask RIP] [GS FS ES DS] [R11 RCX]        from the kernel or user mode
//   i386    [SS ESP] [EFLAGS CS|mask EIP] [GS FS ES DS]                [SS ESP] from ring 3 alone
//
// Source: load_segments() in xen/arch/x86/domain.c. Not here: CS and SS, which only IRET loads.
import type { Cpu } from '../x86/cpu.ts';
import { VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { FLAT_64 } from './frames-64.ts';
import { currentFrame, shownIopl, type ReturnFrame } from './guest-frames.ts';
import { setSegmentBase, toggleGuestMode } from './guest-mode.ts';
import { EFLAGS, GPR, hexVaddr, readWord, vaddrToWord, wordToVaddr, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';
import { settleDescriptorFault } from './mm-doors.ts';
import { setUpcallMask, upcallMask } from './shared-info.ts';
import { returnTo } from './traps.ts';
import { crashDomain } from './vcpu-state.ts';

/** In the order in which Xen loads them. */
const DATA_SEGMENTS = [SEG.fs, SEG.gs, SEG.ds, SEG.es] as const;
/** In the order of the frame, lowest address first. */
const FRAME_ORDER = [SEG.ds, SEG.es, SEG.fs, SEG.gs] as const;
/** FLAT_COMPAT_KERNEL_CS and _SS. */
const FLAT_32 = { cs: 0xe019, ss: 0xe021 } as const;
const CLEARED = EFLAGS.VM | EFLAGS.RF | EFLAGS.NT | EFLAGS.IOPL | EFLAGS.TF;
/** A load faults at most for the LDT's page and for the accessed bit; then what it answers is final. */
const MOST_RETRIES = 2;

function load(hv: Hypervisor, vcpu: Vcpu, index: number, selector: number): Exception | undefined {
  const cpu = vcpu.cpu as Cpu;
  for (let tries = 0; ; tries++) {
    const fault = cpu.loadSegment(index, selector);
    if (fault === undefined || fault.vector !== VECTOR.PF || tries === MOST_RETRIES || !settleDescriptorFault(hv, vcpu, fault)) return fault;
  }
}

/** Call when the vCPU is given the processor after another. */
export function reloadSegments(hv: Hypervisor, vcpu: Vcpu): void {
  const { cpu } = vcpu;
  if (cpu === undefined || vcpu.domain.life.kind !== 'running') return;
  const before = DATA_SEGMENTS.map((index) => cpu.segment(index));
  let failed = false;
  for (const [at, index] of DATA_SEGMENTS.entries()) {
    const { selector } = before[at] as { selector: number };
    if ((selector & 0xfffc) === 0 || load(hv, vcpu, index, selector) === undefined) continue;
    failed = true;
    cpu.loadSegment(index, 0);
  }
  // The bases of FS and GS are registers of their own in 64-bit guests.
  if (vcpu.domain.abi.wordBits === 64) [SEG.fs, SEG.gs].forEach((index, at) => setSegmentBase(vcpu, index, (before[at] as { base: number }).base));
  if (failed) enterFailsafe(hv, vcpu, FRAME_ORDER.map((index) => (before[DATA_SEGMENTS.indexOf(index)] as { selector: number }).selector & 0xffff));
}

function enterFailsafe(hv: Hypervisor, vcpu: Vcpu, selectors: readonly number[]): void {
  const { domain } = vcpu;
  const cpu = vcpu.cpu as Cpu;
  const wide = domain.abi.wordBits === 64;
  const from = currentFrame(cpu);
  const callback = vcpu.failsafeCallback;
  const crash = (why: string): void => crashDomain(hv, domain, `domain ${domain.name}: a data segment cannot be loaded again (selectors ${selectors.map(hexVaddr).join(', ')}), and ${why}`, vcpu);
  if (callback === undefined || callback.address === 0) return crash('the guest has set no failsafe callback');
  const fromUser = wide ? !vcpu.kernelMode : (from.cs & 2) !== 0;
  if (wide && fromUser) toggleGuestMode(hv, vcpu);
  const mask = upcallMask(hv, vcpu);
  const words = frameWords(vcpu, from, selectors, fromUser, mask);
  const bytes = new Uint8Array(words.length * (wide ? 8 : 4));
  const view = new DataView(bytes.buffer);
  words.forEach(({ lo, hi }, index) => {
    view.setUint32(index * (wide ? 8 : 4), lo, true);
    if (wide) view.setUint32(index * 8 + 4, hi, true);
  });
  const top = fromUser ? vcpu.kernelSp : wordToVaddr(from.sp);
  const sp = wide ? top - (((top % 16) + 16) % 16) - bytes.length : (top - bytes.length) >>> 0;
  if (!hv.access.copyToGuest(vcpu, sp, bytes)) return crash(`its kernel stack at ${hexVaddr(sp)} cannot be written`);
  if (callback.maskEvents) setUpcallMask(hv, vcpu, 1);
  const flat = wide ? { cs: FLAT_64.cs64, ss: FLAT_64.ss } : FLAT_32;
  const eflags = from.eflags & ~(CLEARED | (wide ? EFLAGS.AC : 0));
  returnTo(hv, vcpu, { ...flat, ip: vaddrToWord(callback.address), sp: vaddrToWord(sp), eflags, sysret: wide });
}

/** Lowest address first. */
function frameWords(vcpu: Vcpu, from: ReturnFrame, selectors: readonly number[], fromUser: boolean, mask: number): Word[] {
  const cpu = vcpu.cpu as Cpu;
  const low = (lo: number): Word => ({ lo: lo >>> 0, hi: 0 });
  const flags = low((from.eflags & ~(EFLAGS.IF | EFLAGS.IOPL)) | (mask === 0 ? EFLAGS.IF : 0) | shownIopl(vcpu));
  if (vcpu.domain.abi.wordBits === 64) {
    return [readWord(cpu, GPR.ecx), readWord(cpu, GPR.r11), ...selectors.map(low), from.ip, { lo: fromUser ? from.cs : from.cs & 0xfffc, hi: mask }, flags, from.sp, low(from.ss)];
  }
  return [...selectors.map(low), from.ip, low((from.cs & 0xffff) | (mask << 16)), flags, ...(fromUser ? [from.sp, low(from.ss)] : [])];
}
