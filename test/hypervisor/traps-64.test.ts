// 64-bit guests on a real processor: SYSCALL as hypercall and as system call, frames, the two modes and
// what Xen swaps between them, iret, emulated instructions. The guest is a few bytes of code in a built
// domain whose user tables are its kernel tables.
import { beforeEach, describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { PrngStream } from '../../src/base/prng.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import { MachineMemory } from '../../src/machine/memory.ts';
import { buildDomain, type BuiltDomain } from '../../src/hypervisor/build/build-domain.ts';
import { parseKernel } from '../../src/hypervisor/build/kernel-image.ts';
import { pvCpuid64 } from '../../src/hypervisor/cpuid.ts';
import { dispatchHypercall } from '../../src/hypervisor/dispatch.ts';
import { HypercallArgs } from '../../src/hypervisor/hypercall.ts';
import { hypercallRows } from '../../src/hypervisor/hypercall-rows.ts';
import { readDebugRegister, writeDebugRegister } from '../../src/hypervisor/debug-registers.ts';
import { createHypervisor, type Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { XEN_BUILDS, type XenBuild } from '../../src/hypervisor/personality.ts';
import { setUpcallMask, markUpcallPending, upcallMask } from '../../src/hypervisor/shared-info.ts';
import { enterGuest, handleExit, reloadSegments, type AfterExit } from '../../src/hypervisor/vcpu-run.ts';
import type { WorldPort } from '../../src/hypervisor/world-port.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { Cpu } from '../../src/x86/cpu.ts';
import { SEG } from '../../src/x86/state-layout.ts';
import { makeElf } from './elf-maker.ts';

const FLAT = { cs: 0xe033, cs32: 0xe023, ss: 0xe02b } as const;
const [RAX, RCX, RDX, RSP, RSI, RDI, R8, R10, R11] = [0, 1, 2, 4, 6, 7, 8, 10, 11] as const;
const IF = 0x200;
const RF = 0x10000;
const DF = 0x400;
const HANDLER = -0x7eff_f000;
const IN_SYSCALL = 0x100n;

let hv: Hypervisor;
let cpu: Cpu;
let built: BuiltDomain;
let emitted: { kind: number; values: readonly number[] }[] = [];
let shutdown = '';
/** Where the test's code and stack are: inside the kernel's own pages, at -2 GiB and up. */
let code: number;
let stack: number;

function start(build: XenBuild['name'] = 'release'): void {
  emitted = [];
  shutdown = '';
  const world: WorldPort = {
    nowNs: () => cpu?.retired() ?? 0, tscKhz: () => 1_000_000, wallClockAtZeroSec: () => 0, setTimer: () => {}, vcpuRunnable: () => {}, yielded: () => {},
    notifyBackend: () => {}, domainShutdown: (_d, _r, text) => { shutdown = text; }, preempt: () => false, choose: () => 0,
    emit: (kind, _d, _v, values) => void emitted.push({ kind, values }),
  };
  const machine = new MachineMemory({ frameCount: 34 * 256 });
  hv = createHypervisor({ machine, world, build: XEN_BUILDS[build], hypercallRows });
  cpu = createCpu(machine, { exceptions: 'exit', cpuid: pvCpuid64 });
  const image = parseKernel(makeElf({
    wordBits: 64, entry: 0xffff_ffff_8100_0000n,
    segments: [{ paddr: 0x100_0000n, bytes: new Uint8Array(4096).fill(0x90) }],
    notes: [[5, 'xen-3.0'], [8, 'generic'], [3, 0xffff_ffff_8000_0000n], [1, 0xffff_ffff_8100_0000n], [4, 0n]],
  }));
  if ('problem' in image) throw new Error(image.problem);
  const answer = buildDomain(hv, { domId: 1, name: 'guest', image, memoryMib: 30, cmdline: '', cpus: [cpu] });
  if ('problem' in answer) throw new Error(answer.problem);
  built = answer;
  code = image.entry;
  stack = reg(RSP) - 0x1000 + 0x800;
  setReg(RSP, stack);
  built.vcpu.kernelSp = stack;
}
beforeEach(() => start());

const reg = (index: number): number => (cpu.regHigh(index) | 0) * 2 ** 32 + (cpu.reg(index) >>> 0);
const setReg = (index: number, value: number): void => {
  cpu.setReg(index, value >>> 0);
  cpu.setRegHigh(index, Math.floor(value / 2 ** 32) >>> 0);
};
const write = (vaddr: number, bytes: readonly number[]): void => expect(cpu.writeLinear(vaddr, Uint8Array.from(bytes), false).ok).toBe(true);
const writeWords = (vaddr: number, ...words: readonly (number | bigint)[]): void => {
  const bytes = new Uint8Array(words.length * 8);
  words.forEach((word, index) => new DataView(bytes.buffer).setBigInt64(index * 8, BigInt.asIntN(64, BigInt(word)), true));
  write(vaddr, [...bytes]);
};
/** Words from the stack pointer up, as signed numbers (all are canonical or small here). */
const frame = (count: number): number[] => {
  const read = cpu.readLinear(reg(RSP), count * 8, false);
  if (!read.ok) throw new Error(`nothing at ${reg(RSP).toString(16)}`);
  const view = new DataView(read.bytes.buffer, read.bytes.byteOffset);
  return Array.from({ length: count }, (_, index) => Number(view.getBigInt64(index * 8, true)));
};
const step = (insns = 1): AfterExit => {
  enterGuest(hv, built.vcpu);
  return handleExit(hv, built.vcpu, cpu.run(insns));
};
/** Puts code at the entry and runs it to its first exit, which Xen handles. */
function runCode(...bytes: readonly number[]): AfterExit {
  write(code, bytes);
  cpu.setRip(code);
  return step(100);
}
const call = (number: number, ...args: readonly number[]): unknown => dispatchHypercall(hv, built.vcpu, number, new HypercallArgs().set(args));
const setGate = (vector: number, options: { dpl?: number; maskEvents?: boolean } = {}): void => {
  built.vcpu.traps[vector] = { cs: FLAT.cs, address: HANDLER, dpl: options.dpl ?? 0, maskEvents: options.maskEvents ?? false };
};
const SYSCALL = [0x0f, 0x05] as const;
const UD2 = [0x0f, 0x0b] as const;

/** HYPERVISOR_iret with this context; flags 0 or VGCF_in_syscall. */
function iret(context: { rip: number | bigint; cs: number; rsp?: number | bigint; ss?: number; rflags?: number; flags?: bigint; rax?: bigint; rcx?: bigint; r11?: bigint }): AfterExit {
  const at = stack - 0x100;
  write(code + 0x80, SYSCALL);
  writeWords(at, context.rax ?? 0xaaaan, context.r11 ?? 0x1111n, context.rcx ?? 0x2222n, context.flags ?? 0n, context.rip, context.cs, context.rflags ?? IF, context.rsp ?? stack - 0x200, context.ss ?? FLAT.ss);
  setReg(RSP, at);
  setReg(RAX, HYPERCALL.iret);
  cpu.setRip(code + 0x80);
  return step();
}
function giveUserTables(): void {
  const { vcpu } = built;
  writeWords(stack - 0x300, 15n, vcpu.guestTableMfn, 0n);
  expect(call(HYPERCALL.mmuext_op, stack - 0x300, 1, 0, 0x7ff0)).toEqual({ kind: 'done', rc: 0 });
  expect(vcpu.userTableMfn).toBe(vcpu.guestTableMfn);
}

describe('a new domain', () => {
  test('sees the machine-to-phys table, and its own list of frames', () => {
    const startInfo = reg(RSI);
    const mfn = built.p2m[(startInfo + 0x8000_0000) / 4096] as number;
    const read = cpu.readLinear(-0x8000_0000_0000 + mfn * 8, 8, true);
    expect(read.ok && new DataView(read.bytes.buffer, read.bytes.byteOffset).getUint32(0, true)).toBe((startInfo + 0x8000_0000) / 4096);
  });
});

describe('SYSCALL in the kernel is a hypercall', () => {
  test('number and result in RAX; RCX and R11 hold the return address and the flags; segments are flat', () => {
    setReg(RAX, HYPERCALL.xen_version);
    setReg(RDI, 0);
    cpu.setRegHigh(RAX, 0);
    expect(runCode(...SYSCALL)).toBe('run');
    expect([reg(RAX), cpu.rip(), reg(RCX), reg(R11)]).toEqual([262_167, code + 2, code + 2, cpu.eflags()]);
    expect([cpu.segment(SEG.cs).selector, cpu.segment(SEG.ss).selector, cpu.cpl()]).toEqual([FLAT.cs, FLAT.ss, 3]);
  });

  test('arguments in RDI RSI RDX R10 R8; results are sign-extended; a number beyond 32 bits is unknown', () => {
    setReg(RAX, 77);
    [RDI, RSI, RDX, R10, R8].forEach((register, index) => setReg(register, -(index + 1)));
    runCode(...SYSCALL);
    expect(reg(RAX)).toBe(-38);
    const logged = emitted.find(({ kind }) => kind === EVENT.hypercall)?.values as number[];
    expect(logged.slice(3, 13).map((half) => half | 0)).toEqual([-1, -1, -2, -1, -3, -1, -4, -1, -5, -1]);
    setReg(RAX, HYPERCALL.xen_version);
    cpu.setRegHigh(RAX, 1);
    runCode(...SYSCALL);
    expect(reg(RAX)).toBe(-38);
  });

  test('a debug build spoils the arguments that were used', () => {
    start('debug');
    setReg(RAX, HYPERCALL.xen_version);
    setReg(RDI, 0);
    setReg(RDX, 7);
    runCode(...SYSCALL);
    expect([cpu.reg(RDI) >>> 0, cpu.regHigh(RSI) >>> 0, reg(RDX)]).toEqual([0xdead_f00d, 0xdead_beef, 7]);
  });

  test('a preempted one runs again with its new arguments', () => {
    let preempted = false;
    Object.assign(hv.world, { preempt: () => (preempted ? false : (preempted = true)) });
    writeWords(stack - 0x40, 0xe033_0003n, HANDLER, 0xe033_0004n, HANDLER, 0, 0);
    setReg(RAX, HYPERCALL.set_trap_table);
    setReg(RDI, stack - 0x40);
    runCode(...SYSCALL);
    expect([cpu.rip(), reg(RCX), reg(RAX), reg(RDI)]).toEqual([code, code, HYPERCALL.set_trap_table, stack - 0x30]);
    step(1);
    expect([cpu.rip(), reg(RAX)]).toEqual([code + 2, 0]);
    expect(built.vcpu.traps[4]?.address).toBe(HANDLER);
  });

  test('INT 0x82 is an interrupt like any other', () => {
    setGate(13);
    runCode(0xcd, 0x82);
    expect(cpu.rip()).toBe(HANDLER);
    expect(frame(4)[2]).toBe(0x82 * 8 + 2);
  });
});

describe('exceptions and events', () => {
  test('in the kernel: RCX and R11 on top, CS with RPL 0 and the mask in its upper half, an aligned stack', () => {
    setGate(6, { maskEvents: true });
    setUpcallMask(hv, built.vcpu, 0);
    setReg(RSP, stack + 8);
    setReg(RCX, 0x77);
    setReg(R11, -5);
    const flags = cpu.eflags();
    expect(runCode(...UD2)).toBe('run');
    // RF is set in the flags of every fault.
    expect(frame(7)).toEqual([0x77, -5, code, FLAT.cs & ~3, flags | IF | RF, stack + 8, FLAT.ss]);
    expect(reg(RSP)).toBe(stack - 7 * 8);
    expect([cpu.rip(), reg(RCX), upcallMask(hv, built.vcpu)]).toEqual([HANDLER, HANDLER, 1]);
    // Once more, with events masked: the frame says so twice.
    runCode(...UD2);
    expect(frame(5).slice(3)).toEqual([2 ** 32 + (FLAT.cs & ~3), (flags & ~IF) | RF]);
  });

  test('a hardware breakpoint: before its instruction once, after the store that it watches, and told in DR6', () => {
    setGate(1);
    const debugreg = (reg: number, value: number): unknown => writeDebugRegister(built.vcpu, reg, value);
    expect([debugreg(0, code + 1), debugreg(7, 0x401)]).toEqual([undefined, undefined]);
    // nop; nop: stops at the second, and goes on where RF is set.
    expect(runCode(0x90, 0x90, ...UD2)).toBe('run');
    expect([frame(3)[2], (frame(5)[4] as number) & RF, cpu.rip(), readDebugRegister(built.vcpu, 6)]).toEqual([code + 1, 0, HANDLER, 0xffff0ff1]);
    setReg(RSP, stack);
    cpu.setEflags(cpu.eflags() | RF);
    setGate(6);
    cpu.setRip(code + 1);
    step(100);
    expect(frame(3)[2]).toBe(code + 2);
    // mov %eax, (rsp): four bytes of the upper half of the watched eight are not it; then they are.
    expect([debugreg(0, stack), debugreg(7, 0x401 | (0b1001 << 16))]).toEqual([undefined, undefined]);
    setReg(RSP, stack);
    runCode(0x89, 0x44, 0x24, 0x08, 0x89, 0x44, 0x24, 0x04, 0x90);
    expect(frame(3)[2]).toBe(code + 8);
  });

  test('what a load of SS hits is told after the next instruction, but not to a guest that is in Xen by then', () => {
    setGate(1);
    built.vcpu.traps[6] = { cs: FLAT.cs, address: code + 0x100, dpl: 0, maskEvents: false };
    writeWords(stack, FLAT.ss);
    expect([writeDebugRegister(built.vcpu, 0, stack), writeDebugRegister(built.vcpu, 7, 0x401 | (0b1111 << 16))]).toEqual([undefined, undefined]);
    const loadSs = [0x8e, 0x14, 0x24] as const;
    expect([runCode(...loadSs, 0x90, 0x90), cpu.rip(), frame(3)[2]]).toEqual(['run', HANDLER, code + 4]);
    setReg(RSP, stack);
    setReg(RAX, HYPERCALL.xen_version);
    setReg(RDI, 0);
    expect([runCode(...loadSs, ...SYSCALL, 0x90), step(1), cpu.rip()]).toEqual(['run', 'run', code + 6]);
    setReg(RSP, stack);
    expect([runCode(...loadSs, ...UD2), cpu.rip(), step(3), cpu.rip()]).toEqual(['run', code + 0x100, 'run', code + 0x103]);
  });

  test('a page fault has its error code before RIP, and its address in vcpu_info', () => {
    setGate(14);
    // mov %eax, 0xffffffff'f0000000
    runCode(0x89, 0x04, 0x25, 0, 0, 0, 0xf0);
    expect(frame(4).slice(2)).toEqual([2, code]);
    expect(hv.machine.readBytes(built.vcpu.vcpuInfoMaddr + 16, 8)).toEqual(Uint8Array.of(0, 0, 0, 0xf0, 0xff, 0xff, 0xff, 0xff));
    expect(emitted.find(({ kind }) => kind === EVENT.exception)?.values).toEqual([14, 2, code, -0x1000_0000, HANDLER]);
  });

  test('a pending event enters the callback with events masked', () => {
    built.vcpu.eventCallback = { cs: FLAT.cs, address: HANDLER, maskEvents: true };
    setUpcallMask(hv, built.vcpu, 0);
    markUpcallPending(hv, built.vcpu);
    cpu.setRip(code);
    enterGuest(hv, built.vcpu);
    expect([cpu.rip(), upcallMask(hv, built.vcpu), frame(3)[2]]).toEqual([HANDLER, 1, code]);
  });

  test.each([
    ['a stack that is not mapped', -0x6000_0000_0000, /cannot be written/],
    ["a stack in Xen's range", -0x7fff_0000_0000, /is not an address that a guest may have/],
  ])('%s kills the domain', (_name, rsp, sentence) => {
    setGate(6);
    setReg(RSP, rsp);
    expect(runCode(...UD2)).toBe('stopped');
    expect(shutdown).toMatch(sentence);
  });

  test('without a handler the domain dies with a sentence that names the whole address', () => {
    expect(runCode(...UD2)).toBe('stopped');
    expect(shutdown).toMatch(/exception 6 .*0xe033:0xffffffff81000000, and the guest has set no handler/);
  });
});

describe('kernel and user mode', () => {
  test('iret to user mode and an exception back: tables, GS bases, stack and flags', () => {
    giveUserTables();
    setGate(6);
    const { vcpu } = built;
    expect(call(HYPERCALL.set_segment_base, 2, 0x1000)).toEqual({ kind: 'done', rc: 0 });
    expect(call(HYPERCALL.set_segment_base, 1, 0x2000)).toEqual({ kind: 'done', rc: 0 });
    expect(cpu.segment(SEG.gs).base).toBe(0x1000);
    write(code, UD2);
    expect(iret({ rip: code, cs: FLAT.cs, rsp: 0x1234_5678_9abc_def0n, rflags: IF | 1 })).toBe('run');
    expect([vcpu.kernelMode, cpu.rip(), reg(RAX), reg(RCX), reg(R11)]).toEqual([false, code, 0xaaaa, 0x2222, 0x1111]);
    expect([cpu.segment(SEG.gs).base, upcallMask(hv, vcpu), cpu.eflags() & 1]).toEqual([0x2000, 0, 1]);
    expect([cpu.regHigh(RSP) >>> 0, cpu.reg(RSP) >>> 0]).toEqual([0x1234_5678, 0x9abc_def0]);
    step();
    expect([vcpu.kernelMode, cpu.rip(), cpu.segment(SEG.gs).base, reg(RSP)]).toEqual([true, HANDLER, 0x1000, stack - 7 * 8]);
    const [rcx, r11, rip, cs, rflags, , ss] = frame(7);
    expect([rcx, r11, rip, cs, ss]).toEqual([0x2222, 0x1111, code, FLAT.cs, FLAT.ss]);
    expect((rflags as number) & (IF | 1)).toBe(IF | 1);
  });

  test('a page fault of user mode says so in its error code', () => {
    giveUserTables();
    setGate(14);
    write(code, [0x89, 0x04, 0x25, 0, 0, 0, 0xf0]);
    iret({ rip: code, cs: FLAT.cs });
    step();
    expect(frame(3)[2]).toBe(6);
  });

  test('SYSCALL there enters the callback with DF clear, RCX and R11 as SYSCALL leaves them', () => {
    giveUserTables();
    built.vcpu.syscallCallback = { cs: FLAT.cs, address: HANDLER, maskEvents: true };
    write(code, SYSCALL);
    iret({ rip: code, cs: FLAT.cs, rflags: IF | DF | 1 });
    const flags = cpu.eflags();
    step();
    expect(frame(7)).toEqual([code + 2, flags, code + 2, FLAT.cs, flags, stack - 0x200, FLAT.ss]);
    expect([cpu.rip(), cpu.eflags() & (DF | 1), upcallMask(hv, built.vcpu), reg(RAX)]).toEqual([HANDLER, 1, 1, 0xaaaa]);
  });

  test('without a callback it is #UD at the instruction, and DF stays', () => {
    giveUserTables();
    setGate(6);
    write(code, SYSCALL);
    iret({ rip: code, cs: FLAT.cs, rflags: IF | DF });
    step();
    expect([cpu.rip(), frame(3)[2], cpu.eflags() & DF]).toEqual([HANDLER, code, DF]);
  });

  test('VGCF_in_syscall returns as SYSRET does: flat segments, RCX and R11 from RIP and RFLAGS', () => {
    giveUserTables();
    iret({ rip: code, cs: 0x33, ss: 0x2b, rflags: IF | 1, flags: IN_SYSCALL });
    expect([cpu.segment(SEG.cs).selector, cpu.segment(SEG.ss).selector, reg(RCX), reg(R11)]).toEqual([FLAT.cs, FLAT.ss, code, cpu.eflags()]);
  });

  test.each([
    ['a selector that cannot be loaded', { rip: HANDLER, cs: 0x1003 }, 0x1000],
    ['an address that is not canonical', { rip: 0x8000_0000_0000n, cs: FLAT.cs }, 0],
    ['an address that is not canonical, by SYSRET', { rip: 0x8000_0000_0000n, cs: FLAT.cs, flags: IN_SYSCALL }, 0],
  ] as const)('to %s: #GP there, as from user mode', (_name, context, errorCode) => {
    giveUserTables();
    setGate(13);
    iret(context);
    expect([built.vcpu.kernelMode, cpu.rip()]).toEqual([true, HANDLER]);
    expect(frame(5).slice(2)).toEqual([errorCode, Number(context.rip), context.cs]);
  });

  test.each([
    ['user mode without user tables', { rip: 0x1000, cs: FLAT.cs }, /no user page tables/],
    ['an unreadable frame', undefined, /cannot be read/],
  ])('iret to %s kills the domain', (_name, context, sentence) => {
    if (context !== undefined) iret(context);
    else {
      setReg(RAX, HYPERCALL.iret);
      setReg(RSP, 0x1000);
      runCode(...SYSCALL);
    }
    expect(shutdown).toMatch(sentence);
  });

  test('iret to the kernel stays in it', () => {
    iret({ rip: code + 8, cs: FLAT.cs & ~3, rflags: 0 });
    expect([built.vcpu.kernelMode, cpu.rip(), upcallMask(hv, built.vcpu), cpu.segment(SEG.cs).selector]).toEqual([true, code + 8, 1, FLAT.cs]);
  });
});

describe('emulated instructions', () => {
  const GS_BASE = 0xc000_0101;
  test('WRMSR and RDMSR of the segment bases', () => {
    setReg(RCX, GS_BASE);
    setReg(RAX, 0x8000_0000);
    setReg(RDX, 0xffff_8880);
    runCode(0x0f, 0x30);
    expect([cpu.rip(), cpu.segment(SEG.gs).base]).toEqual([code + 2, -0x777f_8000_0000]);
    setReg(RAX, -1);
    setReg(RDX, -1);
    runCode(0x0f, 0x32);
    expect([reg(RAX), reg(RDX)]).toEqual([0x8000_0000, 0xffff_8880]);
  });

  test('a base that is not canonical is refused', () => {
    setGate(13);
    setReg(RCX, GS_BASE);
    setReg(RAX, 0);
    setReg(RDX, 0x8000);
    runCode(0x0f, 0x30);
    expect(cpu.rip()).toBe(HANDLER);
  });

  test('the base of user mode is kept until it is wanted', () => {
    setReg(RCX, 0xc000_0102);
    setReg(RAX, 0x3000);
    setReg(RDX, 0);
    runCode(0x0f, 0x30);
    expect([built.vcpu.segmentBases.gsUser, cpu.segment(SEG.gs).base]).toEqual([0x3000, 0]);
  });

  test('moves of control registers take all registers', () => {
    built.vcpu.cr2Guest = -0x1234;
    // mov %cr2, %r9
    runCode(0x41, 0x0f, 0x20, 0xd1);
    expect([reg(9), cpu.rip()]).toEqual([-0x1234, code + 4]);
    // mov %cr3, %rdx
    runCode(0x0f, 0x20, 0xda);
    expect(reg(RDX)).toBe(built.vcpu.guestTableMfn * 4096);
  });

  test('forced CPUID shows what a PV guest may have, in clean registers', () => {
    setReg(RAX, -0x8000_0000 + 1);
    cpu.setRegHigh(RAX, 5);
    runCode(0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2);
    expect(reg(RDX)).toBe((1 << 11) | (1 << 20) | (1 << 29));
    expect(reg(RAX)).toBe(0);
  });
});

describe('a vCPU that runs again after another', () => {
  test('keeps the bases of FS and GS', () => {
    call(HYPERCALL.set_segment_base, 0, 0x5000);
    call(HYPERCALL.set_segment_base, 2, -0x6000);
    reloadSegments(hv, built.vcpu);
    expect([cpu.segment(SEG.fs).base, cpu.segment(SEG.gs).base]).toEqual([0x5000, -0x6000]);
  });

  test('is told by its failsafe callback of a selector that cannot be loaded any more, in its kernel', () => {
    giveUserTables();
    built.vcpu.failsafeCallback = { cs: FLAT.cs, address: HANDLER, maskEvents: false };
    iret({ rip: code, cs: FLAT.cs });
    cpu.setSegment(SEG.ds, { ...cpu.segment(SEG.ss), selector: 0x23 });
    const flags = cpu.eflags();
    reloadSegments(hv, built.vcpu);
    expect(frame(11)).toEqual([0x2222, 0x1111, 0x23, 0, 0, 0, code, FLAT.cs, flags, stack - 0x200, FLAT.ss]);
    expect([built.vcpu.kernelMode, cpu.rip(), cpu.segment(SEG.ds).selector, upcallMask(hv, built.vcpu)]).toEqual([true, HANDLER, 0, 0]);
  });
});

describe('whatever a guest does', () => {
  const EDGES: readonly bigint[] = [0n, 1n, 0xe033n, 0xe02bn, 0xe023n, 0x7fff_ffff_ffffn, 0x8000_0000_0000n, 0xffff_8000_0000_0000n, 0xffff_87ff_ffff_ffffn, 0xffff_8800_0000_0000n, 0xffff_ffff_ffff_ffffn];
  const VECTORS = [3, 6, 13, 14, 0x80];
  const ROUNDS = process.env['REXEN_DEPTH'] === 'long' ? 800 : 25;

  test('with registers, frames, handlers and selectors of any kind, Xen goes on or ends the domain with a sentence', () => {
    const prng = new PrngStream('64-bit frames', '1');
    const endings = new Set<string>();
    for (let round = 0; round < ROUNDS; round++) {
      start(round % 2 === 0 ? 'release' : 'debug');
      if (prng.below(3) > 0) giveUserTables();
      const { vcpu } = built;
      const word = (): bigint => {
        const kind = prng.below(4);
        if (kind === 0) return EDGES[prng.below(EDGES.length)] as bigint;
        if (kind === 1) return BigInt(code + prng.below(256));
        if (kind === 2) return BigInt(stack - prng.below(0x800));
        return (BigInt(prng.below(2 ** 32)) << 32n) | BigInt(prng.below(2 ** 32));
      };
      const address = (): number => (prng.below(3) === 0 ? 0 : prng.below(2) === 0 ? HANDLER : code + prng.below(64));
      for (const vector of VECTORS) if (prng.below(3) > 0) vcpu.traps[vector] = { cs: FLAT.cs, address: address(), dpl: prng.below(4), maskEvents: prng.below(2) === 0 };
      for (const key of ['eventCallback', 'failsafeCallback', 'syscallCallback', 'syscall32Callback', 'sysenterCallback'] as const) vcpu[key] = { cs: FLAT.cs, address: address(), maskEvents: prng.below(2) === 0 };
      write(code, Array.from({ length: 48 }, () => (prng.below(3) === 0 ? [0x0f, 0x05, 0x0b, 0x34, 0xcd, 0x80, 0x32, 0x30, 0x22, 0x20, 0xcf, 0x48][prng.below(12)] as number : prng.below(256))));
      for (let step64 = 0; step64 < 40 && shutdown === ''; step64++) {
        if (prng.below(4) === 0) {
          const words = Array.from({ length: 9 }, word);
          writeWords(stack - 0x100, ...words);
          setReg(RSP, stack - 0x100);
          setReg(RAX, HYPERCALL.iret);
          write(code + 0x80, SYSCALL);
          if (vcpu.kernelMode) cpu.setRip(code + 0x80);
        } else {
          const register = prng.below(16);
          const value = word();
          cpu.setReg(register, Number(value & 0xffff_ffffn));
          cpu.setRegHigh(register, Number((value >> 32n) & 0xffff_ffffn));
          if (prng.below(3) === 0) markUpcallPending(hv, vcpu);
          if (prng.below(8) === 0) vcpu.nmiPending = true;
          if (prng.below(8) === 0) reloadSegments(hv, vcpu);
        }
        if (shutdown === '') step(1 + prng.below(20));
      }
      endings.add(shutdown.replace(/0x[0-9a-f]+/g, 'N').slice(0, 40));
      if (shutdown !== '') expect(shutdown).toMatch(/^domain guest(:| at| shut down)/);
    }
    expect(endings.size).toBeGreaterThan(4);
  }, 600_000);
});
