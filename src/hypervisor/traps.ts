// Into the guest kernel and back: the frame that Xen builds on the guest kernel's stack for an
// exception or an event, and the iret hypercall that undoes it. i386 guests (ring 1, ring 3).
//
//   from ring 3: kernel_ss:kernel_sp  [SS ESP] [EFLAGS CS EIP] [error code]
//   from ring 1: the current stack             [EFLAGS CS EIP] [error code]
//
// The CS slot's bits 16..23 hold the event mask of before; EFLAGS.IF shows its inverse, since a PV
// kernel's "interrupts enabled" is the mask. The processor's own IF stays 1 and IOPL 0.
// Source: compat_create_bounce_frame in xen/arch/x86/x86_64/compat/entry.S, xen/arch/x86/pv/iret.c.
// Not here: 64-bit frames (they need a processor with long mode).
import { EVENT } from '../abi/events.ts';
import type { Cpu, SegmentState } from '../x86/cpu.ts';
import { PF_ERR, VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import type { HypercallOutcome } from './hypercall.ts';
import type { Hypervisor } from './hypervisor.ts';
import { setSharedCr2, setUpcallMask, upcallMask } from './shared-info.ts';
import { crashDomain } from './vcpu-state.ts';

/** Bits of EFLAGS that matter here, SDM vol. 1 figure 3-8. */
export const EFLAGS = { CF: 0x1, MBS: 0x2, TF: 0x100, IF: 0x200, IOPL: 0x3000, NT: 0x4000, RF: 0x1_0000, VM: 0x2_0000, VIP: 0x10_0000 } as const;
/** Every defined flag (X86_EFLAGS_ALL without the fixed bit). */
const EFLAGS_ALL = 0x3f_7fd5;
const CLEARED_ON_TRAP = EFLAGS.VM | EFLAGS.RF | EFLAGS.NT | EFLAGS.TF;

export const VMASST_architectural_iopl = 4;

/** Stack pointer and other general registers by encoding number. */
export const GPR = { eax: 0, ecx: 1, edx: 2, ebx: 3, esp: 4, ebp: 5, esi: 6, edi: 7 } as const;

/** Is the vCPU in its kernel? guest_kernel_mode(): ring 1 on i386, a flag on 64-bit. */
export const inGuestKernel = (vcpu: Vcpu): boolean =>
  vcpu.domain.abi.wordBits === 64 ? vcpu.kernelMode : ((vcpu.cpu as Cpu).segment(SEG.cs).selector & 3) < 2;

/** A selector's RPL is at least the guest kernel's ring: fixup_guest_selector(). */
export const fixupSelector = (vcpu: Vcpu, selector: number): number => {
  const ring = vcpu.domain.abi.kernelRing;
  return (selector & 3) >= ring ? selector & 0xffff : ((selector & 0xfffc) | ring);
};

// ---- descriptors -------------------------------------------------------------------------------

/** The two words of a descriptor, or undefined when the selector is null, past the table, or unreadable. */
export function readDescriptor(cpu: Cpu, selector: number): { lo: number; hi: number } | undefined {
  if ((selector & 0xfffc) === 0) return undefined;
  const table = (selector & 4) === 0 ? cpu.gdtr() : cpu.ldtr();
  const at = selector & 0xfff8;
  if (at + 7 > table.limit) return undefined;
  const read = cpu.readLinear((table.base + at) >>> 0, 8, false);
  if (!read.ok) return undefined;
  const view = new DataView(read.bytes.buffer, read.bytes.byteOffset, 8);
  return { lo: view.getUint32(0, true), hi: view.getUint32(4, true) };
}

/** The hidden part that a load of this descriptor gives. */
export function segmentFromDescriptor(selector: number, { lo, hi }: { lo: number; hi: number }): SegmentState {
  const pages = (hi & 0x80_0000) !== 0;
  const units = (lo & 0xffff) | (hi & 0xf_0000);
  const limit = pages ? units * 4096 + 4095 : units;
  const base = ((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff00_0000)) >>> 0;
  return { selector, base, limit, access: (hi >>> 8) & 0xf0ff };
}

const ACCESS = { writable: 0x2, conforming: 0x4, code: 0x8, nonSystem: 0x10, present: 0x80, unusable: 0x1_0000 } as const;
const dplOf = (access: number): number => (access >>> 5) & 3;

/** What IRET to that CS and SS would load, or the fault it would raise (SDM vol. 2, IRET). */
function segmentsForReturn(cpu: Cpu, cs: number, ss: number): { cs: SegmentState; ss: SegmentState } | Exception {
  const fault = (vector: number, selector: number): Exception => ({ vector, errorCode: selector & 0xfffc });
  const rpl = cs & 3;
  const code = readDescriptor(cpu, cs);
  if (code === undefined) return fault(VECTOR.GP, cs);
  const csState = segmentFromDescriptor(cs, code);
  const { access } = csState;
  const conforms = (access & ACCESS.conforming) !== 0;
  if ((access & ACCESS.nonSystem) === 0 || (access & ACCESS.code) === 0) return fault(VECTOR.GP, cs);
  if (conforms ? dplOf(access) > rpl : dplOf(access) !== rpl) return fault(VECTOR.GP, cs);
  if ((access & ACCESS.present) === 0) return fault(VECTOR.NP, cs);
  const stack = readDescriptor(cpu, ss);
  if (stack === undefined) return fault(VECTOR.GP, ss);
  const ssState = segmentFromDescriptor(ss, stack);
  const isWritableData = (ssState.access & ACCESS.nonSystem) !== 0 && (ssState.access & ACCESS.code) === 0 && (ssState.access & ACCESS.writable) !== 0;
  if (!isWritableData || (ss & 3) !== rpl || dplOf(ssState.access) !== rpl) return fault(VECTOR.GP, ss);
  if ((ssState.access & ACCESS.present) === 0) return fault(VECTOR.SS, ss);
  return { cs: csState, ss: ssState };
}

/** A null selector in a data segment register. */
const NULL_SEGMENT: SegmentState = { selector: 0, base: 0, limit: 0, access: ACCESS.unusable };

/** IRET to an outer ring takes away data segments that the new ring may not use. */
function dropPrivilegedSegments(cpu: Cpu, ring: number): void {
  for (const index of [SEG.es, SEG.ds, SEG.fs, SEG.gs]) {
    const { access } = cpu.segment(index);
    if ((access & ACCESS.unusable) !== 0) continue;
    const isConformingCode = (access & ACCESS.code) !== 0 && (access & ACCESS.conforming) !== 0;
    if (!isConformingCode && dplOf(access) < ring) cpu.setSegment(index, NULL_SEGMENT);
  }
}

// ---- delivery ----------------------------------------------------------------------------------

interface Bounce {
  readonly cs: number;
  readonly address: number;
  readonly maskEvents: boolean;
  readonly errorCode?: number | undefined;
}

/** Where the guest is to go on: what Xen's exit path would hand to IRET. */
interface ReturnFrame {
  readonly cs: number;
  readonly eip: number;
  readonly ss: number;
  readonly esp: number;
  readonly eflags: number;
}

/**
 * Builds the frame and enters the guest kernel at `bounce`. Any stack trouble kills the domain, as in
 * Xen: there is nobody to tell.
 */
function bounceTo(hv: Hypervisor, vcpu: Vcpu, bounce: Bounce, from: ReturnFrame, depth: number): void {
  const { domain } = vcpu;
  const cpu = vcpu.cpu as Cpu;
  const crash = (why: string): void => crashDomain(hv, domain, `domain ${domain.name}: ${why}`, vcpu);
  const fromUser = (from.cs & 2) !== 0;
  const ss = fromUser ? vcpu.kernelSs : from.ss;
  const top = fromUser ? vcpu.kernelSp : from.esp;
  const mask = upcallMask(hv, vcpu);
  const iopl = (domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0 ? vcpu.iopl << 12 : 0;
  const flags = ((from.eflags & ~(EFLAGS.IF | EFLAGS.IOPL)) | (mask === 0 ? EFLAGS.IF : 0) | iopl) >>> 0;
  const words = bounce.errorCode === undefined ? [] : [bounce.errorCode];
  words.push(from.eip, ((mask & 0xff) << 16) | (from.cs & 0xffff), flags);
  if (fromUser) words.push(from.esp, from.ss & 0xffff);
  const stack = readDescriptor(cpu, ss);
  if (stack === undefined) return crash(`its kernel stack segment ${hex(ss)} is not valid`);
  const esp = (top - words.length * 4) >>> 0;
  const bytes = new Uint8Array(words.length * 4);
  const view = new DataView(bytes.buffer);
  words.forEach((word, index) => view.setUint32(index * 4, word >>> 0, true));
  const vaddr = (segmentFromDescriptor(ss, stack).base + esp) >>> 0;
  if (!cpu.writeLinear(vaddr, bytes, false).ok) return crash(`its kernel stack at ${hex(vaddr)} cannot be written, so an exception frame could not be made`);
  if (bounce.maskEvents && mask === 0) setUpcallMask(hv, vcpu, 1);
  if ((bounce.cs & 0xfffc) === 0) return crash(`its handler at ${hex(bounce.address)} has a null code segment`);
  returnTo(hv, vcpu, { cs: bounce.cs, eip: bounce.address, ss, esp, eflags: from.eflags & ~CLEARED_ON_TRAP }, depth);
}

/** Loads the frame as IRET does. A frame that cannot be loaded becomes an exception at that very place. */
function returnTo(hv: Hypervisor, vcpu: Vcpu, frame: ReturnFrame, depth: number): void {
  const cpu = vcpu.cpu as Cpu;
  const loaded = segmentsForReturn(cpu, frame.cs, frame.ss);
  if ('vector' in loaded) {
    if (depth >= 2) return crashDomain(hv, vcpu.domain, `domain ${vcpu.domain.name}: its exception handler cannot be entered: selectors ${hex(frame.cs)} and ${hex(frame.ss)} cannot be loaded`, vcpu);
    return injectAt(hv, vcpu, loaded, frame, depth + 1);
  }
  const ring = frame.cs & 3;
  if (ring > cpu.cpl()) dropPrivilegedSegments(cpu, ring);
  cpu.setSegment(SEG.cs, loaded.cs);
  cpu.setSegment(SEG.ss, loaded.ss);
  cpu.setReg(GPR.esp, frame.esp >>> 0);
  cpu.setEip(frame.eip >>> 0);
  cpu.setEflags(((frame.eflags & ~EFLAGS.IOPL) | EFLAGS.IF | EFLAGS.MBS) >>> 0);
}

const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;

/** Where the processor is now, as a frame. */
function currentFrame(cpu: Cpu): ReturnFrame {
  return { cs: cpu.segment(SEG.cs).selector, eip: cpu.eip(), ss: cpu.segment(SEG.ss).selector, esp: cpu.reg(GPR.esp), eflags: cpu.eflags() };
}

function injectAt(hv: Hypervisor, vcpu: Vcpu, exception: Exception, frame: ReturnFrame, depth: number): void {
  const { domain } = vcpu;
  const gate = vcpu.traps[exception.vector];
  if (exception.vector === VECTOR.PF && exception.cr2 !== undefined) {
    vcpu.cr2Guest = exception.cr2;
    setSharedCr2(hv, vcpu, exception.cr2);
  }
  if (gate === undefined || (gate.address === 0 && (gate.cs & 0xfffc) === 0)) {
    const where = `at ${hex(frame.cs)}:${hex(frame.eip)}`;
    const what = exception.vector === VECTOR.PF ? `page fault (error code ${hex(exception.errorCode ?? 0)}, address ${hex(exception.cr2 ?? 0)})` : `exception ${exception.vector} (error code ${hex(exception.errorCode ?? 0)})`;
    return crashDomain(hv, domain, `domain ${domain.name}: ${what} ${where}, and the guest has set no handler for it`, vcpu);
  }
  let { errorCode } = exception;
  if (exception.vector === VECTOR.PF && errorCode !== undefined) {
    errorCode &= ~PF_ERR.user;
    if ((frame.cs & 3) === 3) errorCode |= PF_ERR.user;
  }
  hv.world.emit(EVENT.exception, domain.domId, vcpu.vcpuId, [exception.vector, errorCode ?? 0, frame.eip, exception.cr2 ?? 0, gate.address]);
  bounceTo(hv, vcpu, { cs: gate.cs, address: gate.address, maskEvents: gate.maskEvents, errorCode }, frame, depth);
}

/** Delivers an exception or software interrupt to the guest's trap table. pv_inject_event(). */
export function injectException(hv: Hypervisor, vcpu: Vcpu, exception: Exception): void {
  injectAt(hv, vcpu, exception, currentFrame(vcpu.cpu as Cpu), 0);
}

/** Enters the event callback: the caller has seen that an event is pending and not masked. */
export function deliverUpcall(hv: Hypervisor, vcpu: Vcpu): void {
  const cpu = vcpu.cpu as Cpu;
  const { domain } = vcpu;
  const callback = vcpu.eventCallback;
  if (callback === undefined) {
    return crashDomain(hv, domain, `domain ${domain.name}: an event is pending and not masked, and the guest has set no event callback`, vcpu);
  }
  hv.world.emit(EVENT.upcall, domain.domId, vcpu.vcpuId, [cpu.eip(), callback.address]);
  bounceTo(hv, vcpu, { ...callback, maskEvents: true }, currentFrame(cpu), 0);
}

// ---- iret --------------------------------------------------------------------------------------

/**
 * HYPERVISOR_iret on i386: [EAX EIP CS EFLAGS (ESP SS)] on the kernel stack. The event mask becomes
 * the inverse of the popped IF. compat_iret().
 */
export function iretHypercall(hv: Hypervisor, vcpu: Vcpu): HypercallOutcome {
  const { domain } = vcpu;
  const cpu = vcpu.cpu;
  const noReturn: HypercallOutcome = { kind: 'noReturn' };
  const crash = (why: string): HypercallOutcome => {
    crashDomain(hv, domain, `domain ${domain.name}: iret hypercall: ${why}`, vcpu);
    return noReturn;
  };
  if (cpu === undefined) return noReturn;
  if (domain.abi.wordBits === 64) return crash('64-bit frames are not supported by this processor model');
  const esp = cpu.reg(GPR.esp);
  const word = (index: number): number | undefined => hv.access.readU32(vcpu, (esp + index * 4) >>> 0);
  const eax = word(0);
  const eip = word(1);
  const cs = word(2);
  const eflags = word(3);
  if (eax === undefined || eip === undefined || cs === undefined || eflags === undefined) return crash(`the frame at ${hex(esp)} cannot be read`);
  cpu.setReg(GPR.eax, eax);
  if ((domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0) vcpu.iopl = (eflags & EFLAGS.IOPL) >>> 12;
  const flags = eflags & EFLAGS_ALL & ~EFLAGS.IOPL;
  const unmask = (): void => setUpcallMask(hv, vcpu, (eflags & EFLAGS.IF) === 0 ? 1 : 0);
  if ((eflags & EFLAGS.VM) !== 0) return iretToVm86(hv, vcpu, esp, eflags, crash);
  const ring = cs & 3;
  if (ring === 0) return crash(`the frame returns to ring 0 (code segment ${hex(cs & 0xffff)})`);
  let frame: ReturnFrame = { cs: cs & 0xffff, eip, ss: cpu.segment(SEG.ss).selector, esp: (esp + 16) >>> 0, eflags: flags };
  if (ring !== 1) {
    const newEsp = word(4);
    const newSs = word(5);
    if (newEsp === undefined || newSs === undefined) return crash(`the frame at ${hex(esp)} cannot be read`);
    frame = { ...frame, ss: newSs & 0xffff, esp: newEsp };
  }
  unmask();
  returnTo(hv, vcpu, frame, 0);
  return noReturn;
}

/** No VM86 mode for PV guests: #GP is reported on the first VM86 instruction, with the frame moved to the kernel stack. */
function iretToVm86(hv: Hypervisor, vcpu: Vcpu, esp: number, eflags: number, crash: (why: string) => HypercallOutcome): HypercallOutcome {
  const gate = vcpu.traps[VECTOR.GP];
  const kernelSp = (vcpu.kernelSp - 40) >>> 0;
  const frame = hv.access.copyFromGuest(vcpu, (esp + 4) >>> 0, 36);
  if (gate === undefined || frame === undefined) return crash('it returns to virtual-8086 mode, which PV guests do not have, and no handler can be told');
  const moved = new Uint8Array(40);
  moved.set(frame, 4);
  if (!hv.access.copyToGuest(vcpu, kernelSp, moved)) return crash(`it returns to virtual-8086 mode, and the kernel stack at ${hex(kernelSp)} cannot be written`);
  const enabled = (eflags & EFLAGS.IF) !== 0 && !gate.maskEvents;
  setUpcallMask(hv, vcpu, enabled ? 0 : 1);
  const flags = eflags & EFLAGS_ALL & ~(EFLAGS.IOPL | CLEARED_ON_TRAP);
  returnTo(hv, vcpu, { cs: gate.cs, eip: gate.address, ss: vcpu.kernelSs, esp: kernelSp, eflags: flags }, 0);
  return { kind: 'noReturn' };
}
