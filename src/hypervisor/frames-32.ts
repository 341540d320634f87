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
import { dropPrivilegedSegments, segmentOf, segmentsForReturn } from './return-segments.ts';
import { setUpcallMask, upcallMask } from './shared-info.ts';

const CLEARED_ON_TRAP = EFLAGS.VM | EFLAGS.RF | EFLAGS.NT | EFLAGS.TF;
const low = (lo: number): Word => ({ lo: lo >>> 0, hi: 0 });

/** Words of the frame at hand, lowest address first: no two are made or read at once. */
const words = new Uint32Array(6);

/** Any stack trouble kills the domain, as in Xen: there is nobody to tell. */
function bounce(hv: Hypervisor, vcpu: Vcpu, to: Bounce, from: ReturnFrame): ReturnFrame | string {
  const cpu = vcpu.cpu as Cpu;
  const fromUser = (from.cs & 2) !== 0;
  const ss = fromUser ? vcpu.kernelSs : from.ss;
  const top = fromUser ? vcpu.kernelSp : from.sp.lo;
  const mask = upcallMask(hv, vcpu);
  const flags = ((from.eflags & ~(EFLAGS.IF | EFLAGS.IOPL)) | (mask === 0 ? EFLAGS.IF : 0) | shownIopl(vcpu)) >>> 0;
  let count = 0;
  if (to.errorCode !== undefined) words[count++] = to.errorCode;
  words[count++] = from.ip.lo;
  words[count++] = ((mask & 0xff) << 16) | (from.cs & 0xffff);
  words[count++] = flags;
  if (fromUser) {
    words[count++] = from.sp.lo;
    words[count++] = from.ss & 0xffff;
  }
  const stack = segmentOf(cpu, ss);
  if (stack === undefined) return `its kernel stack segment ${hexVaddr(ss)} is not valid`;
  const esp = (top - count * 4) >>> 0;
  const vaddr = (stack.base + esp) >>> 0;
  if (!pushWords(cpu, vaddr, count)) return `its kernel stack at ${hexVaddr(vaddr)} cannot be written, so an exception frame could not be made`;
  if (to.maskEvents && mask === 0) setUpcallMask(hv, vcpu, 1);
  if ((to.cs & 0xfffc) === 0) return `its handler at ${hexVaddr(to.address)} has a null code segment`;
  return { cs: to.cs, ip: low(to.address), ss, sp: low(esp), eflags: from.eflags & ~CLEARED_ON_TRAP, sysret: false };
}

/** The first `count` words: all or none of them. */
function pushWords(cpu: Cpu, vaddr: number, count: number): boolean {
  if ((vaddr & 0xfff) + count * 4 > 4096) return cpu.writeLinear(vaddr, new Uint8Array(words.slice(0, count).buffer), false).ok;
  const maddr = cpu.locate(vaddr, 'write', false);
  if (maddr < 0) return false;
  for (let index = 0; index < count; index++) cpu.machine.writeU32(maddr + index * 4, words[index] as number);
  return true;
}

/** Reads `count` words at `vaddr`. False: a fault, or Xen's range. */
function pullWords(hv: Hypervisor, vcpu: Vcpu, vaddr: number, count: number): boolean {
  // One page: one look at it.
  if ((vaddr & 0xfff) + count * 4 <= 4096) {
    if (!hv.access.read(vcpu, vaddr, count * 4)) return false;
    for (let index = 0; index < count; index++) words[index] = hv.access.view.getUint32(index * 4, true);
    return true;
  }
  for (let index = 0; index < count; index++) {
    const word = hv.access.readU32(vcpu, (vaddr + index * 4) >>> 0);
    if (word === undefined) return false;
    words[index] = word;
  }
  return true;
}

function enter(vcpu: Vcpu, frame: ReturnFrame): Exception | undefined {
  const cpu = vcpu.cpu as Cpu;
  const loaded = segmentsForReturn(cpu, frame.cs, frame.ss);
  if ('vector' in loaded) return loaded;
  const ring = frame.cs & 3;
  if (ring > cpu.cpl()) dropPrivilegedSegments(cpu, ring);
  cpu.setCodeAndStack(loaded.cs, loaded.ss);
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
  if (!pullWords(hv, vcpu, esp, 4)) return `the frame at ${hexVaddr(esp)} cannot be read`;
  // EAX is the first of them.
  const eip = words[1] as number;
  const cs = words[2] as number;
  const eflags = words[3] as number;
  cpu.setReg(GPR.eax, words[0] as number);
  if ((domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0) vcpu.iopl = (eflags & EFLAGS.IOPL) >>> 12;
  if ((eflags & EFLAGS.VM) !== 0) return iretToVm86(hv, vcpu, esp, eflags);
  const ring = cs & 3;
  if (ring === 0) return `the frame returns to ring 0 (code segment ${hexVaddr(cs & 0xffff)})`;
  if (ring !== 1 && !pullWords(hv, vcpu, (esp + 16) >>> 0, 2)) return `the frame at ${hexVaddr(esp)} cannot be read`;
  setUpcallMask(hv, vcpu, (eflags & EFLAGS.IF) === 0 ? 1 : 0);
  return {
    cs: cs & 0xffff, ip: low(eip), ss: ring === 1 ? cpu.segmentSelector(SEG.ss) : (words[1] as number) & 0xffff, sp: low(ring === 1 ? esp + 16 : (words[0] as number)),
    eflags: eflags & EFLAGS_ALL & ~EFLAGS.IOPL, sysret: false,
  };
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
