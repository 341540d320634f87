// Things that one program alone does not show: two processors on one memory, fast system calls, delivery from outside.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';

const cpuid = (): [number, number, number, number] => [0, 0, 0, 0];
const newMachine = (): MachineMemory => new MachineMemory({ frameCount: 32, arenaBytes: 4 * 1024 * 1024 });

test.each(['evaluate', 'translate'] as const)('fences are there whatever CPUID says (%s)', (tier) => {
  const machine = newMachine();
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid, tier });
  machine.writeBytes(0x1000, Buffer.from('0faef00faee80faef840ebf4', 'hex')); // mfence; lfence; sfence; inc eax; again
  cpu.setEip(0x1000);
  expect(cpu.run(500)).toEqual({ kind: 'budget' });
  expect(cpu.reg(0)).toBe(100);
});

describe('two processors on one memory', () => {
  test.each(['evaluate', 'translate', 'auto'] as const)('see each other change code (%s)', (tier) => {
    const machine = newMachine();
    const [one, other] = [createCpu(machine, { exceptions: 'exit', cpuid, tier }), createCpu(machine, { exceptions: 'exit', cpuid, tier })];
    machine.writeBytes(0x1000, Buffer.from('40ebfd', 'hex')); // inc eax; again
    machine.writeBytes(0x2000, Buffer.from('c605001000004890', 'hex')); // mov byte [0x1000], 0x48 (dec eax)
    one.setEip(0x1000);
    other.setEip(0x2000);
    one.run(2000);
    expect(one.reg(0)).toBe(1000);
    other.run(1);
    one.run(2000);
    expect(one.reg(0)).toBe(0);
  });

  test('keep registers, TLBs and counts of their own', () => {
    const machine = newMachine();
    const [one, other] = [createCpu(machine, { exceptions: 'exit', cpuid }), createCpu(machine, { exceptions: 'exit', cpuid })];
    machine.writeBytes(0x1000, Buffer.from('40ebfd', 'hex'));
    const before = other.saveState();
    one.setEip(0x1000);
    one.run(500);
    expect(Buffer.compare(other.saveState(), before)).toBe(0);
    expect([one.retired(), other.retired()]).toEqual([500, 0]);
  });
});

test('SYSENTER goes to flat ring 0, SYSEXIT back to flat ring 3, and neither without a selector', () => {
  const machine = newMachine();
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid, tier: 'evaluate' });
  machine.writeBytes(0x1000, Buffer.from('0f34', 'hex')); // sysenter
  machine.writeBytes(0x2000, Buffer.from('0f35', 'hex')); // sysexit
  // wrmsr with EDX:EAX = 0:value to SYSENTER_CS, ESP, EIP
  machine.writeBytes(0x3000, Buffer.from('0f30b975010000b8005000000f30b976010000b8002000000f30', 'hex'));
  cpu.setEip(0x1000);
  expect(cpu.run(1)).toEqual({ kind: 'exception', exception: { vector: 13, errorCode: 0 } });
  cpu.setReg(1, 0x174);
  cpu.setReg(0, 0x40);
  cpu.setEip(0x3000);
  expect(cpu.run(7).kind).toBe('budget');
  for (const [index, access] of [[1, 0xc0fb], [2, 0xc0f3]] as const) cpu.setSegment(index, { selector: 0x23, base: 0, limit: 0xffffffff, access });
  cpu.setEflags(0x202);
  cpu.setEip(0x1000);
  cpu.setReg(4, 0x7000);
  cpu.run(1);
  expect([cpu.eip(), cpu.reg(4), cpu.cpl(), cpu.segment(1).selector, cpu.segment(2).selector, cpu.eflags() & 0x200]).toEqual([0x2000, 0x5000, 0, 0x40, 0x48, 0]);
  cpu.setReg(2, 0x1000);
  cpu.setReg(1, 0x7000);
  cpu.run(1);
  expect([cpu.eip(), cpu.reg(4), cpu.cpl(), cpu.segment(1).selector, cpu.segment(2).selector]).toEqual([0x1000, 0x7000, 3, 0x53, 0x5b]);
});

test('an interrupt from outside goes through the gate with the flags of the moment', () => {
  const machine = newMachine();
  const cpu = createCpu(machine, { exceptions: 'idt', cpuid, tier: 'evaluate' });
  machine.writeU32(0x4008, 0x0000ffff);
  machine.writeU32(0x400c, 0x00cf9b00);
  cpu.setGdtr(0x4000, 0xf);
  machine.writeU32(0x5000 + 0x20 * 8, 0x00081234);
  machine.writeU32(0x5000 + 0x20 * 8 + 4, 0x00008e00);
  cpu.setIdtr(0x5000, 0x7ff);
  cpu.setSegment(1, { selector: 8, base: 0, limit: 0xffffffff, access: 0xc09b });
  cpu.setEflags(0x247);
  cpu.setEip(0x1111);
  cpu.setReg(4, 0x8000);
  expect(cpu.deliver({ vector: 0x20 }, false)).toBe(undefined);
  expect([cpu.eip(), cpu.eflags(), cpu.reg(4)]).toEqual([0x1234, 0x47, 0x7ff4]);
  expect([0, 4, 8].map((at) => machine.readU32(0x7ff4 + at))).toEqual([0x1111, 8, 0x247]);
});
