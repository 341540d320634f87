// Into the guest kernel and back: exceptions, events and system calls are delivered to the handlers
// that the guest registered, and the iret hypercall returns. The frames differ by ABI (frames-32.ts,
// frames-64.ts); what is common is here.
// Sources: pv_inject_event() in xen/arch/x86/pv/traps.c, switch_to_kernel and sysenter_entry in
// x86_64/entry.S.
import { EVENT } from '../abi/events.ts';
import type { Cpu } from '../x86/cpu.ts';
import { PF_ERR, SETS_RF, VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { FRAMES_32, iretFrame32 } from './frames-32.ts';
import { FLAT_64, FRAMES_64, iretFrame64, syscallFrame } from './frames-64.ts';
import { currentFrame, type Bounce, type FrameAbi, type ReturnFrame } from './guest-frames.ts';
import { EFLAGS, hexVaddr, vaddrToWord, wordToVaddr } from './guest-registers.ts';
import type { HypercallOutcome } from './hypercall.ts';
import type { Hypervisor } from './hypervisor.ts';
import { setSharedCr2 } from './shared-info.ts';
import { crashDomain } from './vcpu-state.ts';

const isWide = (vcpu: Vcpu): boolean => vcpu.domain.abi.wordBits === 64;
const framesOf = (vcpu: Vcpu): FrameAbi => (isWide(vcpu) ? FRAMES_64 : FRAMES_32);

/** Is the vCPU in its kernel? guest_kernel_mode(): ring 1 on i386, a flag on 64-bit. */
export const inGuestKernel = (vcpu: Vcpu): boolean => (isWide(vcpu) ? vcpu.kernelMode : ((vcpu.cpu as Cpu).segmentSelector(SEG.cs) & 3) < 2);

/** A selector's RPL is at least the guest kernel's ring: fixup_guest_selector(). */
export const fixupSelector = (vcpu: Vcpu, selector: number): number => {
  const ring = vcpu.domain.abi.kernelRing;
  return (selector & 3) >= ring ? selector & 0xffff : ((selector & 0xfffc) | ring);
};

/** A frame that cannot be loaded becomes an exception at that very place; so often, then the domain dies. */
const MOST_FAULTS = 2;

/** Goes on at `frame`. */
export function returnTo(hv: Hypervisor, vcpu: Vcpu, frame: ReturnFrame): void {
  for (let faults = 0; ; faults++) {
    const fault = framesOf(vcpu).enter(vcpu, frame);
    if (fault === undefined) return;
    if (faults >= MOST_FAULTS) return crashDomain(hv, vcpu.domain, `domain ${vcpu.domain.name}: its exception handler cannot be entered: selectors ${hexVaddr(frame.cs)} and ${hexVaddr(frame.ss)} cannot be loaded`, vcpu);
    const next = prepare(hv, vcpu, fault, frame);
    if (next === undefined) return;
    frame = next;
  }
}

/** The bounce frame, or the domain's end. */
function bounceFrom(hv: Hypervisor, vcpu: Vcpu, bounce: Bounce, from: ReturnFrame): ReturnFrame | undefined {
  const next = framesOf(vcpu).bounce(hv, vcpu, bounce, from);
  if (typeof next !== 'string') return next;
  crashDomain(hv, vcpu.domain, `domain ${vcpu.domain.name}: ${next}`, vcpu);
  return undefined;
}

/** Everything of an exception at `from` but entering the handler. */
function prepare(hv: Hypervisor, vcpu: Vcpu, exception: Exception, from: ReturnFrame): ReturnFrame | undefined {
  const { domain } = vcpu;
  const gate = vcpu.traps[exception.vector];
  const isPageFault = exception.vector === VECTOR.PF;
  const ip = wordToVaddr(from.ip);
  if (isPageFault && exception.cr2 !== undefined) {
    vcpu.cr2Guest = exception.cr2;
    setSharedCr2(hv, vcpu, exception.cr2);
  }
  if (gate === undefined || (gate.address === 0 && (isWide(vcpu) || (gate.cs & 0xfffc) === 0))) {
    const what = isPageFault ? `page fault (error code ${hexVaddr(exception.errorCode ?? 0)}, address ${hexVaddr(exception.cr2 ?? 0)})` : `exception ${exception.vector} (error code ${hexVaddr(exception.errorCode ?? 0)})`;
    crashDomain(hv, domain, `domain ${domain.name}: ${what} at ${hexVaddr(from.cs)}:${hexVaddr(ip)}, and the guest has set no handler for it`, vcpu);
    return undefined;
  }
  let { errorCode } = exception;
  if (isPageFault && errorCode !== undefined) {
    errorCode &= ~PF_ERR.user;
    if (isWide(vcpu) ? !vcpu.kernelMode : (from.cs & 3) === 3) errorCode |= PF_ERR.user;
  }
  hv.world.emit(EVENT.exception, domain.domId, vcpu.vcpuId, [exception.vector, errorCode ?? 0, ip, exception.cr2 ?? 0, gate.address]);
  return bounceFrom(hv, vcpu, { cs: gate.cs, address: gate.address, maskEvents: gate.maskEvents, errorCode }, from);
}

function injectAt(hv: Hypervisor, vcpu: Vcpu, exception: Exception, from: ReturnFrame): void {
  const next = prepare(hv, vcpu, exception, from);
  if (next !== undefined) returnTo(hv, vcpu, next);
}

/** Delivers an exception or software interrupt to the guest's trap table. pv_inject_event(). */
export function injectException(hv: Hypervisor, vcpu: Vcpu, exception: Exception): void {
  injectAt(hv, vcpu, exception, currentFrame(vcpu.cpu as Cpu, SETS_RF.has(exception.vector) ? EFLAGS.RF : 0));
}

/** Enters the event callback: the caller has seen that an event is pending and not masked. */
export function deliverUpcall(hv: Hypervisor, vcpu: Vcpu): void {
  const cpu = vcpu.cpu as Cpu;
  const { domain } = vcpu;
  const callback = vcpu.eventCallback;
  if (callback === undefined) {
    return crashDomain(hv, domain, `domain ${domain.name}: an event is pending and not masked, and the guest has set no event callback`, vcpu);
  }
  hv.world.emit(EVENT.upcall, domain.domId, vcpu.vcpuId, [cpu.rip(), callback.address]);
  const next = bounceFrom(hv, vcpu, { ...callback, maskEvents: true }, currentFrame(cpu));
  if (next !== undefined) returnTo(hv, vcpu, next);
}

// ---- system calls of 64-bit guests' programs ---------------------------------------------------

/**
 * SYSCALL in user mode (or in compatibility mode): the guest kernel's callback, with DF clear; without
 * one #UD. Whether events are masked is the 64-bit callback's business in either case, as in Xen.
 */
export function deliverSyscall(hv: Hypervisor, vcpu: Vcpu, compat: boolean, insnBytes: number): void {
  const from = syscallFrame(vcpu, compat);
  const callback = compat ? vcpu.syscall32Callback : vcpu.syscallCallback;
  if (callback === undefined || callback.address === 0) {
    return injectAt(hv, vcpu, { vector: VECTOR.UD }, { ...from, ip: vaddrToWord(wordToVaddr(from.ip) - insnBytes) });
  }
  const next = bounceFrom(hv, vcpu, { ...callback, maskEvents: vcpu.syscallCallback?.maskEvents === true }, from);
  if (next !== undefined) returnTo(hv, vcpu, { ...next, eflags: next.eflags & ~EFLAGS.DF });
}

/** SYSENTER: nothing is known of where it came from; without a callback #GP(0). */
export function deliverSysenter(hv: Hypervisor, vcpu: Vcpu): void {
  const zero = { lo: 0, hi: 0 };
  const from: ReturnFrame = { cs: 3, ip: zero, ss: FLAT_64.ss, sp: zero, eflags: (vcpu.cpu as Cpu).eflags(), sysret: true };
  const callback = vcpu.sysenterCallback;
  if (callback === undefined || callback.address === 0) return injectAt(hv, vcpu, { vector: VECTOR.GP, errorCode: 0 }, from);
  const next = bounceFrom(hv, vcpu, callback, from);
  if (next !== undefined) returnTo(hv, vcpu, next);
}

// ---- iret --------------------------------------------------------------------------------------

/** HYPERVISOR_iret. */
export function iretHypercall(hv: Hypervisor, vcpu: Vcpu): HypercallOutcome {
  const { domain } = vcpu;
  if (vcpu.cpu === undefined) return { kind: 'noReturn' };
  vcpu.nmiInProgress = false;
  const frame = isWide(vcpu) ? iretFrame64(hv, vcpu) : iretFrame32(hv, vcpu);
  if (typeof frame === 'string') crashDomain(hv, domain, `domain ${domain.name}: iret hypercall: ${frame}`, vcpu);
  else returnTo(hv, vcpu, frame);
  return { kind: 'noReturn' };
}
