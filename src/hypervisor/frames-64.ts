// Frames of 64-bit guests, whose kernel and user programs both run in ring 3: what Xen builds on the
// guest kernel's stack for an exception, an event or a system call, and the iret hypercall.
//
//   from user mode: the other base table and GS base (guest-mode.ts), at kernel_sp
//   from the kernel: the current stack, and CS is shown with RPL 0
//
//   16-byte aligned ─►  [SS] [RSP] [RFLAGS] [CS | event mask of before << 32] [RIP] [error code] [R11] [RCX]
//
// RCX and R11 are in the frame because Xen enters the handler by SYSRET, which takes RIP and RFLAGS
// from them and loads flat segments (0xe033, 0xe02b) whatever was loaded before.
// Source: create_bounce_frame, switch_to_kernel and restore_all_guest in xen/arch/x86/x86_64/entry.S,
// do_iret() in pv/iret.c. The failsafe callback's frame is in failsafe.ts.
import type { Cpu } from '../x86/cpu.ts';
import { VECTOR, type Exception } from '../x86/exit.ts';
import type { Vcpu } from './domain.ts';
import { guestRangeOk } from './guest-access.ts';
import { shownIopl, VMASST_architectural_iopl, type Bounce, type FrameAbi, type ReturnFrame } from './guest-frames.ts';
import { toggleGuestMode } from './guest-mode.ts';
import { EFLAGS, EFLAGS_ALL, GPR, hexVaddr, isCanonical, readWord, setVaddr, setWord, vaddrToWord, wordToVaddr, type Word } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';
import { reservedDescriptor } from './per-domain.ts';
import { segmentFromDescriptor, segmentsForReturn } from './return-segments.ts';
import { setUpcallMask, upcallMask } from './shared-info.ts';

/** Xen's flat segments, xen/include/public/arch-x86/xen-x86_64.h. */
export const FLAT_64 = { cs64: 0xe033, cs32: 0xe023, ss: 0xe02b } as const;
const CLEARED_ON_TRAP = EFLAGS.AC | EFLAGS.VM | EFLAGS.RF | EFLAGS.NT | EFLAGS.TF;
const FRAME_WORDS = 7;
const NO_FLAGS: Word = { lo: 0, hi: 0 };

function flatSegment(selector: number): ReturnType<typeof segmentFromDescriptor> {
  return segmentFromDescriptor(selector, reservedDescriptor('pv64', selector) as { lo: number; hi: number });
}
const FLAT_SEGMENT = { cs64: flatSegment(FLAT_64.cs64), cs32: flatSegment(FLAT_64.cs32), ss: flatSegment(FLAT_64.ss) } as const;

/** Any stack trouble kills the domain, as in Xen: there is nobody to tell. */
function bounce(hv: Hypervisor, vcpu: Vcpu, to: Bounce, from: ReturnFrame): ReturnFrame | string {
  const cpu = vcpu.cpu as Cpu;
  const fromUser = !vcpu.kernelMode;
  if (fromUser) toggleGuestMode(hv, vcpu);
  const top = fromUser ? vaddrToWord(vcpu.kernelSp) : from.sp;
  const mask = upcallMask(hv, vcpu);
  const words: Word[] = [readWord(cpu, GPR.ecx), readWord(cpu, GPR.r11)];
  if (to.errorCode !== undefined) words.push({ lo: to.errorCode >>> 0, hi: 0 });
  const flags = (from.eflags & ~(EFLAGS.IF | EFLAGS.IOPL)) | (mask === 0 ? EFLAGS.IF : 0) | shownIopl(vcpu);
  words.push(from.ip, { lo: fromUser ? from.cs : from.cs & 0xfffc, hi: mask & 0xff }, { ...NO_FLAGS, lo: flags >>> 0 }, from.sp, { lo: from.ss, hi: 0 });
  const vaddr = wordToVaddr({ ...top, lo: (top.lo & ~0xf) >>> 0 }) - words.length * 8;
  // Eight words of room below Xen's end are wanted whatever the frame's size.
  if (!guestRangeOk(vcpu.domain.abi, vaddr, (FRAME_WORDS + 1) * 8)) return `its kernel stack at ${hexVaddr(vaddr)} is not an address that a guest may have`;
  const bytes = new Uint8Array(words.length * 8);
  const view = new DataView(bytes.buffer);
  words.forEach(({ lo, hi }, index) => {
    view.setUint32(index * 8, lo, true);
    view.setUint32(index * 8 + 4, hi, true);
  });
  if (!cpu.writeLinear(vaddr, bytes, false).ok) return `its kernel stack at ${hexVaddr(vaddr)} cannot be written, so an exception frame could not be made`;
  if (to.maskEvents) setUpcallMask(hv, vcpu, mask | 1);
  if (to.address === 0) return 'it has set no handler';
  return { cs: FLAT_64.cs64, ip: vaddrToWord(to.address), ss: FLAT_64.ss, sp: vaddrToWord(vaddr), eflags: from.eflags & ~CLEARED_ON_TRAP, sysret: true };
}

/** Flat segments, and RCX and R11 as SYSRET finds and leaves them: the state in which a hypercall returns. */
export function enterFlat(vcpu: Vcpu): void {
  const cpu = vcpu.cpu as Cpu;
  cpu.setCodeAndStack(FLAT_SEGMENT.cs64, FLAT_SEGMENT.ss);
  setVaddr(cpu, GPR.ecx, cpu.rip());
  setWord(cpu, GPR.r11, { lo: (cpu.eflags() & ~EFLAGS.RF) >>> 0, hi: 0 });
}

function enter(vcpu: Vcpu, frame: ReturnFrame): Exception | undefined {
  const cpu = vcpu.cpu as Cpu;
  const flags = ((frame.eflags & ~(EFLAGS.IOPL | EFLAGS.VM)) | EFLAGS.IF | EFLAGS.MBS) >>> 0;
  if (frame.sysret && isCanonical(frame.ip)) {
    const compat = frame.cs === FLAT_64.cs32;
    cpu.setCodeAndStack(compat ? FLAT_SEGMENT.cs32 : FLAT_SEGMENT.cs64, FLAT_SEGMENT.ss);
    setWord(cpu, GPR.ecx, frame.ip);
    setWord(cpu, GPR.r11, { lo: flags, hi: 0 });
    setWord(cpu, GPR.esp, frame.sp);
    cpu.setRip(compat ? frame.ip.lo : wordToVaddr(frame.ip));
    cpu.setEflags((flags & ~EFLAGS.RF) >>> 0);
    return undefined;
  }
  const loaded = segmentsForReturn(cpu, frame.cs, frame.ss, true);
  if ('vector' in loaded) return loaded;
  const long = (loaded.cs.access & 0x2000) !== 0;
  if (long ? !isCanonical(frame.ip) : frame.ip.hi !== 0 || frame.ip.lo > loaded.cs.limit) return { vector: VECTOR.GP, errorCode: 0 };
  cpu.setCodeAndStack(loaded.cs, loaded.ss);
  setWord(cpu, GPR.esp, frame.sp);
  cpu.setRip(wordToVaddr(frame.ip));
  cpu.setEflags(flags);
  return undefined;
}

export const FRAMES_64: FrameAbi = { bounce, enter };

/** Where SYSCALL leaves the guest as Xen saves it: flat segments; RCX and R11 hold the return address and the flags. */
export function syscallFrame(vcpu: Vcpu, compat: boolean): ReturnFrame {
  const cpu = vcpu.cpu as Cpu;
  const ip = vaddrToWord(cpu.rip());
  const eflags = cpu.eflags();
  setWord(cpu, GPR.ecx, ip);
  setWord(cpu, GPR.r11, { lo: (eflags & ~EFLAGS.RF) >>> 0, hi: 0 });
  return { cs: compat ? FLAT_64.cs32 : FLAT_64.cs64, ip, ss: FLAT_64.ss, sp: readWord(cpu, GPR.esp), eflags, sysret: true };
}

/** struct iret_context, xen/include/public/arch-x86/xen-x86_64.h, in words. */
const IRET = { rax: 0, r11: 1, rcx: 2, flags: 3, rip: 4, cs: 5, rflags: 6, rsp: 7, ss: 8 } as const;
const IRET_BYTES = 72;
const VGCF_in_syscall = 0x100;

/** HYPERVISOR_iret: the context is on the kernel stack. To user mode if its CS has RPL 3. */
export function iretFrame64(hv: Hypervisor, vcpu: Vcpu): ReturnFrame | string {
  const cpu = vcpu.cpu as Cpu;
  const vaddr = wordToVaddr(readWord(cpu, GPR.esp));
  const bytes = hv.access.copyFromGuest(vcpu, vaddr, IRET_BYTES);
  if (bytes === undefined) return `the frame at ${hexVaddr(vaddr)} cannot be read`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const word = (index: number): Word => ({ lo: view.getUint32(index * 8, true), hi: view.getUint32(index * 8 + 4, true) });
  const cs = word(IRET.cs).lo & 0xffff;
  const eflags = word(IRET.rflags).lo;
  if ((cs & 3) === 3) {
    if (vcpu.userTableMfn === 0) return 'the frame returns to user mode, and the guest has set no user page tables';
    toggleGuestMode(hv, vcpu);
  }
  if ((vcpu.domain.vmAssist & (1 << VMASST_architectural_iopl)) !== 0) vcpu.iopl = (eflags & EFLAGS.IOPL) >>> 12;
  const sysret = (word(IRET.flags).lo & VGCF_in_syscall) !== 0;
  if (!sysret) {
    setWord(cpu, GPR.r11, word(IRET.r11));
    setWord(cpu, GPR.ecx, word(IRET.rcx));
  }
  setWord(cpu, GPR.eax, word(IRET.rax));
  setUpcallMask(hv, vcpu, (eflags & EFLAGS.IF) === 0 ? 1 : 0);
  return { cs: cs | 3, ip: word(IRET.rip), ss: (word(IRET.ss).lo & 0xffff) | 3, sp: word(IRET.rsp), eflags: eflags & EFLAGS_ALL & ~(EFLAGS.IOPL | EFLAGS.VM), sysret };
}
