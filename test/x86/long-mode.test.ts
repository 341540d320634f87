// 64-bit code on a machine with four-level tables: what is particular to long mode, told in small programs.
import { expect, test } from 'vitest';
import { longMachine, TOP } from './long-machine.ts';

const CODE = 0x1000;
const put = (machine: ReturnType<typeof longMachine>['machine'], hex: string, at = CODE): void => machine.writeBytes(at, Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'));

test.each(['evaluate', 'interpret', 'translate'] as const)('a program at the top of the address space (%s)', (tier) => {
  const { machine, cpu } = longMachine({ user: true, tier });
  put(machine, `48b8f0debc9a78563412 488d1def000000 488903 48014308 488b4b08 51 415f baffffffff 4c63c2 e824000000 b905000000
    488d7b10 488d33 f3a4 654c8b142508000000 49ffc1 4d39c1 7f01 f4 0f05 0f0b 48c1e004 c3`);
  machine.writeBytes(CODE + 0x100, Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]));
  machine.writeU32(0x3008, 0x77);
  machine.writeU32(0x300c, 0x88);
  cpu.setSegmentBase(5, TOP + 0x3000);
  cpu.setRip(TOP + CODE);
  cpu.setReg64(4, 0xffffffff80002100n);
  const exit = cpu.run(1000);
  expect(exit).toEqual({ kind: 'syscall', insnBytes: 2 });
  expect(cpu.retired()).toBe(25);
  const next = cpu.rip();
  expect(next).toBe(TOP + CODE + 0x4e);
  expect(cpu.reg64(1)).toBe(BigInt.asUintN(64, BigInt(next)));
  expect(cpu.reg64(11)).toBe(BigInt(cpu.eflags()));
  expect(cpu.reg64(0)).toBe(0x23456789abcdef00n);
  expect(cpu.reg64(15)).toBe(0x123456789abcdef2n);
  expect(cpu.reg64(8)).toBe(0xffffffffffffffffn);
  expect(cpu.reg64(10)).toBe(0x8800000077n);
  expect(Buffer.from(machine.readBytes(CODE + 0x110, 6)).toString('hex')).toBe('f0debc9a7800');
});
