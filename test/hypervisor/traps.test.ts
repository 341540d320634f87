// Into the guest kernel and back, on a real processor: frames on the stack, masks, stack switches,
// iret, emulated instructions. The guest is a few bytes of code in a built domain.
import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { MachineMemory } from '../../src/machine/memory.ts';
import { buildDomain, type BuiltDomain } from '../../src/hypervisor/build/build-domain.ts';
import { parseKernel } from '../../src/hypervisor/build/kernel-image.ts';
import { pvCpuid } from '../../src/hypervisor/cpuid.ts';
import { hypercallRows } from '../../src/hypervisor/hypercall-rows.ts';
import { createHypervisor, type Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { findL1, found, PTE } from '../../src/hypervisor/page-walk.ts';
import { XEN_BUILDS } from '../../src/hypervisor/personality.ts';
import { setUpcallMask, markUpcallPending, upcallMask } from '../../src/hypervisor/shared-info.ts';
import { enterGuest, handleExit, reloadSegments, type AfterExit } from '../../src/hypervisor/vcpu-run.ts';
import type { WorldPort } from '../../src/hypervisor/world-port.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { Cpu } from '../../src/x86/cpu.ts';
import { SEG } from '../../src/x86/state-layout.ts';

const KERNEL_CS = 0xe019;
const KERNEL_SS = 0xe021;
const USER_CS = 0xe02b;
const USER_SS = 0xe033;
const EAX = 0;
const ECX = 1;
const EDX = 2;
const EBX = 3;
const ESP = 4;
const ESI = 6;
const EDI = 7;
const IF = 0x200;

let hv: Hypervisor;
let cpu: Cpu;
let built: BuiltDomain;
let emitted: { kind: number; values: readonly number[] }[] = [];
let shutdown = '';
/** Where the test's code and stack are: inside the kernel's own pages. */
let code: number;
let stack: number;

const kernel = readFileSync(new URL('../../scenarios/guests/images/pv-i386-pae.elf', import.meta.url));

beforeEach(() => {
  emitted = [];
  shutdown = '';
  const world: WorldPort = {
    nowNs: () => cpu?.retired() ?? 0, tscKhz: () => 1_000_000, wallClockAtZeroSec: () => 0, setTimer: () => {}, vcpuRunnable: () => {}, yielded: () => {},
    notifyBackend: () => {}, domainShutdown: (_d, _r, text) => { shutdown = text; }, preempt: () => false, choose: () => 0,
    emit: (kind, _d, _v, values) => void emitted.push({ kind, values }),
  };
  const machine = new MachineMemory({ frameCount: 10 * 256 });
  hv = createHypervisor({ machine, world, build: XEN_BUILDS.release, hypercallRows });
  cpu = createCpu(machine, { exceptions: 'exit', cpuid: pvCpuid });
  const image = parseKernel(kernel);
  if ('problem' in image) throw new Error(image.problem);
  const answer = buildDomain(hv, { domId: 1, name: 'guest', image, memoryMib: 8, cmdline: '', cpus: [cpu] });
  if ('problem' in answer) throw new Error(answer.problem);
  built = answer;
  code = image.entry;
  stack = ((cpu.reg(ESP) - 1) & ~0xfff) + 0x800 >>> 0;
  cpu.setReg(ESP, stack);
  built.vcpu.kernelSp = stack;
});

const write = (vaddr: number, bytes: readonly number[]): void => expect(cpu.writeLinear(vaddr, Uint8Array.from(bytes), false).ok).toBe(true);
const word = (vaddr: number): number => {
  const read = cpu.readLinear(vaddr, 4, false);
  if (!read.ok) throw new Error(`nothing at ${vaddr.toString(16)}`);
  return new DataView(read.bytes.buffer, read.bytes.byteOffset).getUint32(0, true);
};
const writeWords = (vaddr: number, ...words: readonly number[]): void => words.forEach((value, i) => write(vaddr + i * 4, [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]));
const frame = (count: number): number[] => Array.from({ length: count }, (_, i) => word(cpu.reg(ESP) + i * 4));
/** Puts code at the entry and runs it to its first exit, which Xen handles. */
function runCode(...bytes: readonly number[]): AfterExit {
  write(code, bytes);
  cpu.setEip(code);
  enterGuest(hv, built.vcpu);
  const exit = cpu.run(100);
  return handleExit(hv, built.vcpu, exit);
}
const setGate = (vector: number, address: number, options: { dpl?: number; maskEvents?: boolean } = {}): void => {
  built.vcpu.traps[vector] = { cs: KERNEL_CS, address, dpl: options.dpl ?? 0, maskEvents: options.maskEvents ?? false };
};
/** Continues in ring 3 by the iret hypercall: the user code is at `eip`, in a page that it may reach. */
function toUser(eip: number, esp: number, flags = IF): void {
  expect(findL1(hv.machine, 3, built.vcpu.guestTableMfn, eip)).toBe(true);
  hv.machine.writeU32(found.maddr, found.lo | PTE.user);
  cpu.flushTlb(false);
  const at = stack - 64;
  cpu.setReg(ESP, at);
  writeWords(at, 0xaaaa, eip, USER_CS, flags, esp, USER_SS);
  cpu.setReg(EAX, 23);
  write(code + 0x40, [0xcd, 0x82]);
  cpu.setEip(code + 0x40);
  handleExit(hv, built.vcpu, cpu.run(1));
}

describe('exceptions', () => {
  test('in the kernel: EIP, CS with the saved mask, EFLAGS with its inverse; the stack is kept', () => {
    setGate(6, 0xc000_1234);
    setUpcallMask(hv, built.vcpu, 0);
    expect(runCode(0x0f, 0x0b)).toBe('run');
    expect(frame(3)).toEqual([code, KERNEL_CS, expect.any(Number)]);
    expect(word(cpu.reg(ESP) + 8) & IF).toBe(IF);
    expect(cpu.reg(ESP)).toBe(stack - 12);
    expect(cpu.eip()).toBe(0xc000_1234);
    expect(cpu.segment(SEG.cs).selector).toBe(KERNEL_CS);
  });

  test('with events masked the frame says so, and the processor still takes interrupts', () => {
    setGate(6, 0xc000_1234);
    setUpcallMask(hv, built.vcpu, 1);
    runCode(0x0f, 0x0b);
    expect(word(cpu.reg(ESP) + 4)).toBe(0x1_0000 | KERNEL_CS);
    expect(word(cpu.reg(ESP) + 8) & IF).toBe(0);
    expect(cpu.eflags() & IF).toBe(IF);
  });

  test('a gate that masks events sets the mask after the frame was made', () => {
    setGate(6, 0xc000_1234, { maskEvents: true });
    setUpcallMask(hv, built.vcpu, 0);
    runCode(0x0f, 0x0b);
    expect(word(cpu.reg(ESP) + 4)).toBe(KERNEL_CS);
    expect(upcallMask(hv, built.vcpu)).toBe(1);
  });

  test('a page fault has its error code on the stack and its address in vcpu_info', () => {
    setGate(14, 0xc000_2000);
    // mov %eax, 0x1000
    runCode(0xa3, 0x00, 0x10, 0x00, 0x00);
    expect(frame(2)).toEqual([2, code]);
    expect(hv.machine.readU32(built.vcpu.vcpuInfoMaddr + 8)).toBe(0x1000);
    expect(emitted.find(({ kind }) => kind === EVENT.exception)?.values).toEqual([14, 2, code, 0x1000, 0xc000_2000]);
  });

  test('without a handler the domain dies with a sentence', () => {
    expect(runCode(0x0f, 0x0b)).toBe('stopped');
    expect(shutdown).toMatch(/exception 6 .* has set no handler/);
  });

  test('a stack that cannot be written kills the domain', () => {
    setGate(6, 0xc000_1234);
    cpu.setReg(ESP, 0x2000);
    expect(runCode(0x0f, 0x0b)).toBe('stopped');
    expect(shutdown).toMatch(/kernel stack at 0x1ff4 cannot be written/);
  });

  test('a gate with a code segment that cannot be loaded does not hang', () => {
    for (const vector of [6, 13]) built.vcpu.traps[vector] = { cs: 0x1fd9, address: 0xc000_1234, dpl: 0, maskEvents: false };
    expect(runCode(0x0f, 0x0b)).toBe('stopped');
    expect(shutdown).toMatch(/cannot be entered/);
  });
});

describe('software interrupts', () => {
  test('the kernel may use gates of its ring; EIP is behind the instruction', () => {
    setGate(0x21, 0xc000_3000, { dpl: 1 });
    runCode(0xcd, 0x21);
    expect(cpu.eip()).toBe(0xc000_3000);
    expect(word(cpu.reg(ESP))).toBe(code + 2);
  });

  test('a gate of DPL 0 is refused with #GP that names the vector', () => {
    setGate(0x21, 0xc000_3000, { dpl: 0 });
    setGate(13, 0xc000_4000);
    runCode(0xcd, 0x21);
    expect(cpu.eip()).toBe(0xc000_4000);
    expect(frame(2)).toEqual([0x21 * 8 + 2, code]);
  });

  test('breakpoints need no permission', () => {
    setGate(3, 0xc000_3000, { dpl: 0 });
    runCode(0xcc);
    expect(cpu.eip()).toBe(0xc000_3000);
    expect(word(cpu.reg(ESP))).toBe(code + 1);
  });
});

describe('hypercalls', () => {
  test('the number is in EAX, the result too, and EIP goes on', () => {
    cpu.setReg(EAX, 17);
    cpu.setReg(EBX, 0);
    expect(runCode(0xcd, 0x82)).toBe('run');
    expect(cpu.reg(EAX) >>> 0).toBe(262_167);
    expect(cpu.eip()).toBe(code + 2);
    cpu.setReg(EAX, 0x1234);
    runCode(0xcd, 0x82);
    expect(cpu.reg(EAX) | 0).toBe(-38);
  });

  test('from user mode it is a #GP', () => {
    setGate(13, 0xc000_4000);
    write(code, [0xcd, 0x82]);
    toUser(code, stack - 0x200);
    expect(cpu.cpl()).toBe(3);
    handleExit(hv, built.vcpu, cpu.run(1));
    expect(cpu.eip()).toBe(0xc000_4000);
    expect(word(cpu.reg(ESP))).toBe(0x82 * 8 + 2);
  });
});

describe('iret and the stack switch', () => {
  test('to ring 3 and back by an exception: stack and flags as they were', () => {
    setGate(6, 0xc000_1000);
    write(code, [0x0f, 0x0b]);
    toUser(code, 0x1234_5678, IF | 1);
    expect([cpu.cpl(), cpu.eip(), cpu.reg(ESP), cpu.reg(EAX)]).toEqual([3, code, 0x1234_5678, 0xaaaa]);
    expect(cpu.segment(SEG.ss).selector).toBe(USER_SS);
    expect(upcallMask(hv, built.vcpu)).toBe(0);
    handleExit(hv, built.vcpu, cpu.run(1));
    expect([cpu.cpl(), cpu.reg(ESP), cpu.segment(SEG.ss).selector]).toEqual([1, stack - 20, KERNEL_SS]);
    const [eip, cs, flags, esp, ss] = frame(5);
    expect([eip, cs, esp, ss]).toEqual([code, USER_CS, 0x1234_5678, USER_SS]);
    expect((flags as number) & (IF | 1)).toBe(IF | 1);
  });

  test('to ring 1: only EIP, CS and EFLAGS are taken', () => {
    const at = stack - 64;
    cpu.setReg(ESP, at);
    writeWords(at, 7, code + 8, KERNEL_CS, 0);
    cpu.setReg(EAX, 23);
    runCode(0xcd, 0x82);
    expect([cpu.cpl(), cpu.eip(), cpu.reg(ESP), cpu.reg(EAX)]).toEqual([1, code + 8, at + 16, 7]);
    expect(upcallMask(hv, built.vcpu)).toBe(1);
  });

  test.each([['ring 0', 0xe008, 0, /ring 0/], ['an unreadable frame', KERNEL_CS, 1, /cannot be read/]])('to %s: the domain dies', (_name, cs, bad, sentence) => {
    const at = bad === 1 ? 0x3000 : stack - 64;
    cpu.setReg(ESP, at);
    if (bad === 0) writeWords(at, 7, code, cs, 0, 0, 0);
    cpu.setReg(EAX, 23);
    expect(runCode(0xcd, 0x82)).toBe('stopped');
    expect(shutdown).toMatch(sentence);
  });

  test('to a selector that cannot be loaded: #GP at the target', () => {
    setGate(13, 0xc000_4000);
    toUserWith(0x1003);
    expect(cpu.eip()).toBe(0xc000_4000);
    expect(frame(3)).toEqual([0x1000, code + 8, 0x1003]);
  });
  function toUserWith(cs: number): void {
    const at = stack - 64;
    cpu.setReg(ESP, at);
    writeWords(at, 7, code + 8, cs, IF, stack - 0x100, USER_SS);
    cpu.setReg(EAX, 23);
    runCode(0xcd, 0x82);
  }

  test('virtual-8086 mode does not exist: #GP with the frame moved to the kernel stack', () => {
    setGate(13, 0xc000_4000, { maskEvents: true });
    const at = stack - 0x100;
    cpu.setReg(ESP, at);
    writeWords(at, 7, 0x100, 0xb800, 0x2_0202, 0x200, 0x9000, 1, 2, 3, 4);
    cpu.setReg(EAX, 23);
    runCode(0xcd, 0x82);
    expect([cpu.eip(), cpu.reg(ESP)]).toEqual([0xc000_4000, stack - 40]);
    expect(frame(6)).toEqual([0, 0x100, 0xb800, 0x2_0202, 0x200, 0x9000]);
  });
});

describe('upcalls', () => {
  test('a pending event that is not masked enters the callback, once, with the mask set', () => {
    built.vcpu.eventCallback = { cs: KERNEL_CS, address: 0xc000_5000, maskEvents: true };
    markUpcallPending(hv, built.vcpu);
    enterGuest(hv, built.vcpu);
    expect(cpu.eip()).not.toBe(0xc000_5000);
    setUpcallMask(hv, built.vcpu, 0);
    enterGuest(hv, built.vcpu);
    expect(cpu.eip()).toBe(0xc000_5000);
    expect(upcallMask(hv, built.vcpu)).toBe(1);
    const esp = cpu.reg(ESP);
    enterGuest(hv, built.vcpu);
    expect(cpu.reg(ESP)).toBe(esp);
  });

  test('without a callback the domain dies with a sentence', () => {
    markUpcallPending(hv, built.vcpu);
    setUpcallMask(hv, built.vcpu, 0);
    enterGuest(hv, built.vcpu);
    expect(shutdown).toMatch(/no event callback/);
  });
});

describe('emulated instructions', () => {
  test('control registers read as Xen shows them; TS can be changed, the rest cannot', () => {
    setGate(13, 0xc000_4000);
    runCode(0x0f, 0x20, 0xc0); // mov %cr0, %eax
    expect(cpu.reg(EAX) >>> 0).toBe(0x8005_0033);
    expect(cpu.eip()).toBe(code + 3);
    cpu.setReg(EAX, 0x8005_003b);
    runCode(0x0f, 0x22, 0xc0); // mov %eax, %cr0
    expect(built.vcpu.taskSwitched).toBe(true);
    runCode(0x0f, 0x06); // clts
    expect(built.vcpu.taskSwitched).toBe(false);
    cpu.setReg(EAX, 0x1);
    runCode(0x0f, 0x22, 0xc0);
    expect(cpu.eip()).toBe(0xc000_4000);
  });

  test('CR3 reads as the folded frame number', () => {
    runCode(0x0f, 0x20, 0xdb); // mov %cr3, %ebx
    expect(cpu.reg(EBX) >>> 0).toBe((built.vcpu.guestTableMfn << 12) >>> 0);
  });

  test('CLI, STI and HLT are the guest\'s fault; with I/O privilege CLI and STI are ignored', () => {
    setGate(13, 0xc000_4000);
    for (const byte of [0xfa, 0xfb, 0xf4]) {
      cpu.setReg(ESP, stack);
      runCode(byte);
      expect(cpu.eip(), byte.toString(16)).toBe(0xc000_4000);
    }
    built.vcpu.iopl = 1;
    runCode(0xfa, 0x0f, 0x0b);
    expect(cpu.eip()).toBe(code + 1);
  });

  test('ports answer all ones with I/O privilege, #GP without', () => {
    setGate(13, 0xc000_4000);
    cpu.setReg(EDX, 0x3f8);
    runCode(0xec);
    expect(cpu.eip()).toBe(0xc000_4000);
    built.vcpu.iopl = 1;
    cpu.setReg(EAX, 0x1122_3344);
    runCode(0xec); // in %dx, %al
    expect(cpu.reg(EAX) >>> 0).toBe(0x1122_33ff);
    runCode(0x66, 0xe5, 0x60); // in $0x60, %ax
    expect(cpu.reg(EAX) >>> 0).toBe(0x1122_ffff);
    cpu.setReg(ECX, 3);
    cpu.setReg(EDI, stack - 0x200);
    write(code, [0xf3, 0x6d]); // rep insl
    for (let i = 0; i < 3; i++) {
      cpu.setEip(code);
      handleExit(hv, built.vcpu, cpu.run(1));
    }
    expect([cpu.reg(ECX), cpu.reg(EDI), cpu.eip()]).toEqual([0, stack - 0x200 + 12, code + 2]);
    expect(word(stack - 0x200 + 8)).toBe(0xffff_ffff);
  });

  test('CPUID by the forced prefix shows Xen, plain CPUID the hardware', () => {
    cpu.setReg(EAX, 0x4000_0000);
    runCode(0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2);
    expect(cpu.eip()).toBe(code + 7);
    const text = String.fromCharCode(...[EBX, ECX, EDX].flatMap((r) => [0, 8, 16, 24].map((shift) => (cpu.reg(r) >>> shift) & 0xff)));
    expect(text).toBe('XenVMMXenVMM');
    cpu.setReg(EAX, 1);
    cpu.setReg(ECX, 0);
    runCode(0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2);
    expect(cpu.reg(EDX) & 0x8).toBe(0);
    expect(cpu.reg(ECX) >>> 31).toBe(1);
    expect(pvCpuid(1, 0)[3] & 0x8).toBe(8);
  });

  test('registers of the model: known ones read, unknown ones fault once there is a handler', () => {
    cpu.setReg(ECX, 0x1b);
    runCode(0x0f, 0x32);
    expect(cpu.reg(EAX) >>> 0).toBe(0xfee0_0900);
    cpu.setReg(ECX, 0x1234);
    runCode(0x0f, 0x32);
    expect([cpu.reg(EAX), cpu.eip()]).toEqual([0, code + 2]);
    setGate(13, 0xc000_4000);
    runCode(0x0f, 0x32);
    expect(cpu.eip()).toBe(0xc000_4000);
  });

  test('in user mode nothing is emulated', () => {
    setGate(13, 0xc000_4000);
    write(code, [0x0f, 0x20, 0xc0]);
    toUser(code, stack - 0x200);
    handleExit(hv, built.vcpu, cpu.run(1));
    expect(cpu.eip()).toBe(0xc000_4000);
  });

  test('OUTS reads what it sends', () => {
    setGate(14, 0xc000_6000);
    built.vcpu.iopl = 1;
    cpu.setReg(EDX, 0x80);
    cpu.setReg(ESI, 0x5000);
    runCode(0x6e);
    expect(cpu.eip()).toBe(0xc000_6000);
    expect(hv.machine.readU32(built.vcpu.vcpuInfoMaddr + 8)).toBe(0x5000);
  });
});

describe('a vCPU that runs again after another', () => {
  test('has the segments that its tables say, and no failsafe callback', () => {
    cpu.setSegment(SEG.ds, { ...cpu.segment(SEG.ds), limit: 0x1234 });
    const before = [cpu.eip(), cpu.reg(ESP)];
    reloadSegments(hv, built.vcpu);
    expect([cpu.eip(), cpu.reg(ESP)]).toEqual(before);
    expect(cpu.segment(SEG.ds).limit).toBeGreaterThan(0xf000_0000);
  });

  test('is told by its failsafe callback of a selector that cannot be loaded any more', () => {
    built.vcpu.failsafeCallback = { cs: KERNEL_CS, address: 0xc000_5000, maskEvents: true };
    setUpcallMask(hv, built.vcpu, 0);
    cpu.setSegment(SEG.es, { ...cpu.segment(SEG.es), selector: 0x21 });
    cpu.setEip(code);
    const flags = cpu.eflags();
    const data = cpu.segment(SEG.ds).selector;
    reloadSegments(hv, built.vcpu);
    expect(frame(7)).toEqual([data, 0x21, data, data, code, KERNEL_CS, flags | IF]);
    expect([cpu.eip(), cpu.reg(ESP), cpu.segment(SEG.es).selector, upcallMask(hv, built.vcpu)]).toEqual([0xc000_5000, stack - 28, 0, 1]);
  });

  test('dies without one', () => {
    cpu.setSegment(SEG.es, { ...cpu.segment(SEG.es), selector: 0x21 });
    reloadSegments(hv, built.vcpu);
    expect(shutdown).toMatch(/selectors 0xe021, 0x21, 0xe021, 0xe021\), and the guest has set no failsafe callback/);
  });
});
