// What only ring 0 and gates of long mode do: SYSCALL and SYSRET, SWAPGS, IRETQ, 16-byte gates, the 64-bit TSS,
// model-specific registers, what is not canonical. Told against the manual (SDM vol. 2 and 3); user code is the oracle's.
import { beforeEach, describe, expect, test } from 'vitest';
import { longMachine, TOP } from './long-machine.ts';

const CODE = 0x1000;
const GDT = 0x8000;
const IDT = 0x9000;
const TSS = 0xa000;
const STACK = 0x20000;
const IST = 0x28000;
const KERNEL = { code: 0x08, data: 0x10 } as const;
const USER = { code32: 0x18 | 3, data: 0x20 | 3, code: 0x28 | 3 } as const;
const TSS_SELECTOR = 0x30;
const HANDLER = TOP + 0x3000;

let machine: ReturnType<typeof longMachine>['machine'];
let cpu: ReturnType<typeof longMachine>['cpu'];

const put = (at: number, hex: string): void => machine.writeBytes(at, Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'));
const quad = (at: number, value: bigint): void => machine.writeBytes(at, Uint8Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn)));
const peek = (at: number): bigint => machine.view.getBigUint64(machine.ramBase + at, true);
const bits = (vaddr: number): bigint => BigInt.asUintN(64, BigInt(vaddr));
/** A 16-byte gate. */
function gate(vector: number, offset: number, type: number, dpl: number, ist = 0, selector: number = KERNEL.code): void {
  const to = bits(offset);
  quad(IDT + vector * 16, (to & 0xffffn) | (BigInt(selector) << 16n) | (BigInt(ist) << 32n) | (BigInt(0x80 | (dpl << 5) | type) << 40n) | (((to >> 16n) & 0xffffn) << 48n));
  quad(IDT + vector * 16 + 8, to >> 32n);
}
const flat = (access: bigint): bigint => 0x000f00000000ffffn | (access << 40n);

beforeEach(() => {
  ({ machine, cpu } = longMachine({ exceptions: 'idt' }));
  const descriptors = [0n, flat(0xa09bn), flat(0xc093n), flat(0xc0fbn), flat(0xc0f3n), flat(0xa0fbn)];
  descriptors.forEach((value, i) => quad(GDT + i * 8, value));
  const tss = bits(TOP + TSS);
  quad(GDT + TSS_SELECTOR, 0x67n | ((tss & 0xffffffn) << 16n) | (0x89n << 40n) | (((tss >> 24n) & 0xffn) << 56n));
  quad(GDT + TSS_SELECTOR + 8, tss >> 32n);
  quad(TSS + 4, bits(TOP + STACK));
  quad(TSS + 36, bits(TOP + IST));
  cpu.setGdtr(TOP + GDT, 0x3f);
  cpu.setIdtr(TOP + IDT, 0xfff);
  ring(0);
  // LTR, as kernels do.
  put(CODE, '66b83000 0f00d8 90');
  cpu.setRip(TOP + CODE);
  cpu.run(2);
  machine.writeBytes(0x3000, Uint8Array.of(0x90, 0xf4));
});
function ring(level: 0 | 3): void {
  const [code, data] = level === 0 ? [KERNEL.code, KERNEL.data] : [USER.code, USER.data];
  cpu.setSegment(1, { selector: code, base: 0, limit: 0xffffffff, access: level === 0 ? 0xa09b : 0xa0fb });
  cpu.setSegment(2, { selector: data, base: 0, limit: 0xffffffff, access: level === 0 ? 0xc093 : 0xc0f3 });
  cpu.setReg64(4, bits(TOP + 0x18008));
}
function start(hex: string): void {
  put(CODE + 0x100, hex);
  cpu.setRip(TOP + CODE + 0x100);
}

test('LTR reads 16 bytes of descriptor and marks the task busy', () => {
  expect(cpu.tr()).toEqual({ selector: TSS_SELECTOR, base: TOP + TSS, limit: 0x67, access: 0x8b });
  expect(machine.readU8(GDT + TSS_SELECTOR + 5)).toBe(0x8b);
});

describe('gates', () => {
  test('from ring 3 the stack is that of the TSS, SS becomes null, the frame has five words and the code', () => {
    gate(13, HANDLER, 14, 0);
    ring(3);
    start('f4');
    cpu.setEflags(0x247);
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl(), cpu.segment(2).selector]).toEqual([HANDLER + 1, 0, 0]);
    const top = STACK - 48;
    expect(cpu.reg64(4)).toBe(bits(TOP + top));
    expect([0, 1, 2, 3, 4, 5].map((i) => peek(top + 8 * i))).toEqual([0n, bits(TOP + CODE + 0x100), BigInt(USER.code), 0x10247n, bits(TOP + 0x18008), BigInt(USER.data)]);
    // A fault: RF is set in what is saved. An interrupt gate: IF is off.
    expect(cpu.eflags() & 0x200).toBe(0);
  });
  test('within ring 0 the stack is aligned to 16 and still holds SS and RSP; IST takes another one', () => {
    gate(3, HANDLER, 15, 0);
    gate(4, HANDLER, 14, 0, 1);
    start('cc');
    cpu.setReg64(4, bits(TOP + 0x18008));
    cpu.run(2);
    expect(cpu.reg64(4)).toBe(bits(TOP + 0x18000 - 40));
    expect(peek(0x18000 - 16)).toBe(bits(TOP + 0x18008));
    start('cd04');
    cpu.run(2);
    expect(cpu.reg64(4)).toBe(bits(TOP + IST - 40));
  });
  test.each([
    ['INT through a gate of ring 0', 'cd05', () => gate(5, HANDLER, 14, 0), 5 * 8 + 2],
    ['a gate that leads to 32-bit code', 'cd05', () => gate(5, HANDLER, 14, 3, 0, 0x18), 0x18],
    ['a gate that is not canonical', 'cd05', () => gate(5, 2 ** 47, 14, 3), 0],
    ['a 32-bit task gate', 'cd05', () => gate(5, HANDLER, 5, 3), 5 * 8 + 2],
    ['a vector beyond the table', 'cdff', () => cpu.setIdtr(TOP + IDT, 0x10 * 0x20), 0xff * 8 + 2],
  ] as const)('%s is #GP', (_, code, prepare, errorCode) => {
    gate(13, HANDLER, 14, 0);
    ring(3);
    prepare();
    start(code);
    cpu.run(1);
    expect(cpu.rip()).toBe(HANDLER + 1);
    expect(peek(STACK - 48)).toBe(BigInt(errorCode));
    expect(peek(STACK - 40)).toBe(bits(TOP + CODE + 0x100));
  });
});

describe('IRETQ', () => {
  const frame = (rip: bigint, cs: number, flags: number, rsp: bigint, ss: number): void => {
    [rip, BigInt(cs), BigInt(flags), rsp, BigInt(ss)].forEach((value, i) => quad(0x18000 + 8 * i, value));
    cpu.setReg64(4, bits(TOP + 0x18000));
  };
  test('returns to ring 3 with all of RIP and RSP', () => {
    frame(0x7fff12345678n, USER.code, 0x202, 0x7ffffffffff0n, USER.data);
    start('48cf');
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl(), cpu.reg64(4), cpu.segment(2).selector]).toEqual([0x7fff12345678, 3, 0x7ffffffffff0n, USER.data]);
  });
  test('restores the stack within a ring too, and lets SS be null in ring 0', () => {
    frame(bits(TOP + 0x3000), KERNEL.code, 2, bits(TOP + 0x1234), 0);
    start('48cf');
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl(), cpu.reg64(4), cpu.segment(2).selector]).toEqual([TOP + 0x3000, 0, bits(TOP + 0x1234), 0]);
  });
  test('enters compatibility code, whose addresses have 32 bits', () => {
    frame(0x2000n, USER.code32, 2, 0x17000n, USER.data);
    start('48cf');
    cpu.setSegment(3, { selector: USER.data, base: 0, limit: 0xffffffff, access: 0xc0f3 });
    // mov eax, [0x3000]; inc eax (no REX there)
    put(0x2000, 'a100300000 40');
    cpu.run(3);
    expect([cpu.rip(), cpu.reg64(0)]).toEqual([0x2006, BigInt(machine.readU32(0x3000)) + 1n]);
  });
  test.each([['RIP is not canonical', 1n << 47n, USER.code as number, USER.data as number, 0], ['SS is null for ring 3', 0x1000n, USER.code as number, 0, 0], ['CS is no code', 0x1000n, USER.data as number, USER.data as number, 0x20]] as const)('is #GP if %s', (_, rip, cs, ss, errorCode) => {
    gate(13, HANDLER, 14, 0);
    frame(rip, cs, 2, 0x1000n, ss);
    start('48cf');
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl()]).toEqual([HANDLER + 1, 0]);
    expect(peek(0x18000 - 48)).toBe(BigInt(errorCode));
  });
});

describe('SYSCALL and SYSRET', () => {
  beforeEach(() => {
    expect(cpu.setMsr(0xc0000081, (0x18n << 48n) | (BigInt(KERNEL.code) << 32n))).toBe(true);
    expect(cpu.setMsr(0xc0000082, bits(HANDLER))).toBe(true);
    expect(cpu.setMsr(0xc0000084, 0x200n)).toBe(true);
  });
  test('go to LSTAR and back, by RCX and R11', () => {
    ring(3);
    start('0f05 90');
    cpu.setEflags(0x247);
    put(0x3000, '480f07');
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl(), cpu.reg64(1), cpu.reg64(11), cpu.eflags()]).toEqual([HANDLER, 0, bits(TOP + CODE + 0x102), 0x247n, 0x47]);
    expect([cpu.segment(1).selector, cpu.segment(2).selector]).toEqual([KERNEL.code, KERNEL.code + 8]);
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl(), cpu.eflags()]).toEqual([TOP + CODE + 0x102, 3, 0x247]);
    expect([cpu.segment(1).selector, cpu.segment(2).selector]).toEqual([USER.code, USER.data]);
  });
  test('SYSRET to what is not canonical is #GP in ring 0', () => {
    gate(13, HANDLER, 14, 0);
    start('480f07');
    cpu.setReg64(1, 1n << 47n);
    cpu.run(1);
    expect([cpu.rip(), cpu.cpl()]).toEqual([HANDLER + 1, 0]);
  });
  test('are #UD without EFER.SCE', () => {
    gate(6, HANDLER, 14, 0);
    cpu.setEfer(0xd00);
    start('0f05');
    cpu.run(1);
    expect(cpu.rip()).toBe(HANDLER + 1);
  });
});

test('SWAPGS exchanges the bases, in ring 0 of 64-bit code only', () => {
  gate(13, HANDLER, 14, 0);
  cpu.setSegmentBase(5, 0x1234);
  cpu.setKernelGsBase(TOP + 0x5000);
  start('0f01f8');
  cpu.run(1);
  expect([cpu.segment(5).base, cpu.kernelGsBase(), cpu.msr(0xc0000101), cpu.msr(0xc0000102)]).toEqual([TOP + 0x5000, 0x1234, bits(TOP + 0x5000), 0x1234n]);
  ring(3);
  start('0f01f8');
  cpu.run(1);
  expect(cpu.rip()).toBe(HANDLER + 1);
});

test('bases and entry points must be canonical, EFER knows its bits, CR8 has four', () => {
  for (const msr of [0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102]) {
    expect(cpu.setMsr(msr, 1n << 47n)).toBe(false);
    expect(cpu.setMsr(msr, bits(-(2 ** 47)))).toBe(true);
    expect(cpu.msr(msr)).toBe(bits(-(2 ** 47)));
  }
  expect(cpu.setMsr(0xc0000080, 0x1000n)).toBe(false);
  expect(cpu.setMsr(0xc0000080, 0x801n), 'LME cannot change while paging is on').toBe(false);
  expect(cpu.msr(0xc0000080)).toBe(0xd01n);
  gate(13, HANDLER, 14, 0);
  start('b809000000 440f22c0 440f20c3 b810000000 440f22c0');
  cpu.run(5);
  expect(cpu.reg64(3)).toBe(9n);
  expect(cpu.rip()).toBe(HANDLER + 1);
});

test('a call gate has 16 bytes and takes its stack from the TSS', () => {
  quad(GDT + 0x38, (bits(HANDLER) & 0xffffn) | (BigInt(KERNEL.code) << 16n) | (0xecn << 40n) | (((bits(HANDLER) >> 16n) & 0xffffn) << 48n));
  quad(GDT + 0x40, bits(HANDLER) >> 32n);
  cpu.setGdtr(TOP + GDT, 0x47);
  ring(3);
  machine.writeBytes(0x6000, Uint8Array.of(0, 0, 0, 0, 0x38 | 3, 0));
  start('ff1c2500600080');
  cpu.run(1);
  expect([cpu.rip(), cpu.cpl(), cpu.segment(2).selector, cpu.reg64(4)]).toEqual([HANDLER, 0, 0, bits(TOP + STACK - 32)]);
  expect([0, 1, 2, 3].map((i) => peek(STACK - 32 + 8 * i))).toEqual([bits(TOP + CODE + 0x107), BigInt(USER.code), bits(TOP + 0x18008), BigInt(USER.data)]);
});

test('entering long mode: LME, PAE and paging, then a far jump to 64-bit code', () => {
  cpu.setCr(0, 0x11);
  cpu.setEfer(0);
  cpu.setCr(4, 0);
  cpu.setSegment(1, { selector: 0x18, base: 0, limit: 0xffffffff, access: 0xc09b });
  cpu.setGdtr(GDT, 0x3f);
  expect(cpu.efer()).toBe(0);
  // mov eax, cr4; or eax, 0x20; mov cr4, eax; mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr; mov eax, cr0; or eax, 0x80000000; mov cr0, eax; jmp 8:0x2000
  put(CODE, '0f20e0 83c820 0f22e0 b9800000c0 0f32 0d00010000 0f30 0f20c0 0d00000080 0f22c0 ea002000000800');
  put(0x2000, '48c7c0ffffffff');
  cpu.setEip(CODE);
  cpu.run(12);
  expect([cpu.efer(), cpu.rip(), cpu.reg64(0)]).toEqual([0x500, 0x2007, 0xffffffffffffffffn]);
});
