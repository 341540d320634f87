// Frames of i386 guests (ring 1, ring 3): what Xen builds on the guest kernel's stack for an exception
// or an event, and the iret hypercall that undoes it.
//
//   from ring 3: kernel_ss:kernel_sp  [SS ESP] [EFLAGS CS EIP] [error code]
//   from ring 1: the current stack             [EFLAGS CS EIP] [error code]
//
// The CS slot's bits 16..23 hold the event mask of before; EFLAGS.IF shows its inverse, since a PV
// kernel's "interrupts enabled" is the mask. The processor's own IF stays 1 and IOPL 0.
// Source: compat_create_bounce_frame in xen/arch/x86/x86_64/compat/entry.S, compat_iret() in pv/iret.c.
import type { Cpu } from '../x86/cpu.ts';
import { VECTOR, type Exception } from '../x86/exit.ts';
import { SEG } from '../x86/state-layout.ts';
import type { Vcpu } from './domain.ts';
import { shownIopl, VMASST_architectural_iopl, type Bounce, type FrameAbi, type ReturnFrame } from './guest-frames.ts';
import { EFLAGS, EFLAGS_ALL, GPR, hexVaddr, setWord, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';
import { dropPrivilegedSegments, readDescriptor, segmentFromDescriptor, segmentsForReturn } from './return-segments.ts';
import { setUpcallMask, upcallMask } from './shared-info.ts';

const CLEARED_ON_TRAP = EFLAGS.VM | EFLAGS.RF | EFLAGS.NT | EFLAGS.TF;
const low = (lo: number): Word => ({ lo: lo >>> 0, hi: 0 });

/** Any stack trouble kills the domain, as in Xen: there is nobody to tell. */
function bounce(hv: Hypervisor, vcpu: Vcpu, to: Bounce, from: ReturnFrame): ReturnFrame | string {
  const cpu = vcpu.cpu as Cpu;
  const fromUser = (from.cs & 2) !== 0;
  const ss = fromUser ? vcpu.kernelSs : from.ss;
  const top = fromUser ? vcpu.kernelSp : from.sp.lo;
  const mask = upcallMask(hv, vcpu);
  const flags = ((from.eflags & ~(EFLAGS.IF | EFLAGS.IOPL)) | (mask === 0 ? EFLAGS.IF : 0) | shownIopl(vcpu)) >>> 0;
  const words = to.errorCode === undefined ? [] : [to.errorCode];
  words.push(from.ip.lo, ((mask & 0xff) << 16) | (from.cs & 0xffff), flags);
  if (fromUser) words.push(from.sp.lo, from.ss & 0xffff);
  const stack = readDescriptor(cpu, ss);
  if (stack === undefined) return `its kernel stack segment ${hexVaddr(ss)} is not valid`;
  const esp = (top - words.length * 4) >>> 0;
  const vaddr = (segmentFromDescriptor(ss, stack).base + esp) >>> 0;
  if (!pushWords(cpu, vaddr, words)) return `its kernel stack at ${hexVaddr(vaddr)} cannot be written, so an exception frame could not be made`;
  if (to.maskEvents && mask === 0) setUpcallMask(hv, vcpu, 1);
  if ((to.cs & 0xfffc) === 0) return `its handler at ${hexVaddr(to.address)} has a null code segment`;
  return { cs: to.cs, ip: low(to.address), ss, sp: low(esp), eflags: from.eflags & ~CLEARED_ON_TRAP, sysret: false };
}

/** All or none of them. */
function pushWords(cpu: Cpu, vaddr: number, words: readonly number[]): boolean {
  const sizeBytes = words.length * 4;
  if ((vaddr & 0xfff) + sizeBytes > 4096) {
    const bytes = new Uint8Array(sizeBytes);
    const view = new DataView(bytes.buffer);
    words.forEach((word, index) => view.setUint32(index * 4, word >>> 0, true));
    return cpu.writeLinear(vaddr, bytes, false).ok;
  }
  const maddr = cpu.locate(vaddr, 'write', false);
  if (maddr < 0) return false;
  for (let index = 0; index < words.length; index++) cpu.machine.writeU32(maddr + index * 4, (words[index] as number) >>> 0);
  return true;
}

function enter(vcpu: Vcpu, frame: ReturnFrame): Exception | undefined {
  const cpu = vcpu.cpu as Cpu;
  const loaded = segmentsForReturn(cpu, frame.cs, frame.ss);
  if ('vector' in loaded) return loaded;
  const ring = frame.cs & 3;
  if (ring > cpu.cpl()) dropPrivilegedSegments(cpu, ring);
  cpu.setSegment(SEG.cs, loaded.cs);
  cpu.setSegment(SEG.ss, loaded.ss);
  setWord(cpu, GPR.esp, frame.sp);
  cpu.setRip(frame.ip.lo);
  cpu.setEflags(((frame.eflags & ~EFLAGS.IOPL) | EFLAGS.IF | EFLAGS.MBS) >>> 0);
  return undefined;
}

export const FRAMES_32: FrameAbi = { bounce, enter };

/** HYPERVISOR_iret: [EAX EIP CS EFLAGS (ESP SS)] on the kernel stack. The event mask becomes the inverse of the popped IF. */
export function iretFrame32(hv: Hypervisor, vcpu: Vcpu): ReturnFrame | string {
  const { domain } = vcpu;
  const cpu = vcpu.cpu as Cpu;
  const esp = cpu.reg(GPR.esp);
  const word = (index: number): number | undefined => hv.access.readU32(vcpu, (esp + index * 4) >>> 0);
  const eax = word(0);
  const eip = word(1);
  const cs = word(2);
  const eflags = word(3);
  if (eax === undefined || eip === undefined || cs === undefined || eflags === undefined) return `the frame at ${hexVaddr(esp)} cannot be read`;
  cpu.setReg(GPR.eax, eax);
  if ((domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0) vcpu.iopl = (eflags & EFLAGS.IOPL) >>> 12;
  if ((eflags & EFLAGS.VM) !== 0) return iretToVm86(hv, vcpu, esp, eflags);
  const ring = cs & 3;
  if (ring === 0) return `the frame returns to ring 0 (code segment ${hexVaddr(cs & 0xffff)})`;
  let frame: ReturnFrame = { cs: cs & 0xffff, ip: low(eip), ss: cpu.segmentSelector(SEG.ss), sp: low(esp + 16), eflags: eflags & EFLAGS_ALL & ~EFLAGS.IOPL, sysret: false };
  if (ring !== 1) {
    const newEsp = word(4);
    const newSs = word(5);
    if (newEsp === undefined || newSs === undefined) return `the frame at ${hexVaddr(esp)} cannot be read`;
    frame = { ...frame, ss: newSs & 0xffff, sp: low(newEsp) };
  }
  setUpcallMask(hv, vcpu, (eflags & EFLAGS.IF) === 0 ? 1 : 0);
  return frame;
}

/** No VM86 mode for PV guests: #GP is reported on the first VM86 instruction, with the frame moved to the kernel stack. */
function iretToVm86(hv: Hypervisor, vcpu: Vcpu, esp: number, eflags: number): ReturnFrame | string {
  const gate = vcpu.traps[VECTOR.GP];
  const kernelSp = (vcpu.kernelSp - 40) >>> 0;
  const frame = hv.access.copyFromGuest(vcpu, (esp + 4) >>> 0, 36);
  if (gate === undefined || frame === undefined) return 'it returns to virtual-8086 mode, which PV guests do not have, and no handler can be told';
  const moved = new Uint8Array(40);
  moved.set(frame, 4);
  if (!hv.access.copyToGuest(vcpu, kernelSp, moved)) return `it returns to virtual-8086 mode, and the kernel stack at ${hexVaddr(kernelSp)} cannot be written`;
  const enabled = (eflags & EFLAGS.IF) !== 0 && !gate.maskEvents;
  setUpcallMask(hv, vcpu, enabled ? 0 : 1);
  return { cs: gate.cs, ip: low(gate.address), ss: vcpu.kernelSs, sp: low(kernelSp), eflags: eflags & EFLAGS_ALL & ~(EFLAGS.IOPL | CLEARED_ON_TRAP), sysret: false };
}
