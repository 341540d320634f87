// Port I/O ends a run; whoever owns the ports completes it. Privilege is the processor's business.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';

function machineWith(code: string) {
  const machine = new MachineMemory({ frameCount: 16, arenaBytes: 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier: 'evaluate' });
  machine.writeBytes(0x1000, Buffer.from(code, 'hex'));
  cpu.setEip(0x1000);
  return { machine, cpu };
}
type Cpu = ReturnType<typeof machineWith>['cpu'];
const ring = (cpu: Cpu, cpl: number): void => {
  cpu.setSegment(1, { selector: 8 | cpl, base: 0, limit: 0xffffffff, access: 0xc09b | (cpl << 5) });
  cpu.setSegment(2, { selector: 16 | cpl, base: 0, limit: 0xffffffff, access: 0xc093 | (cpl << 5) });
};

describe('IN and OUT', () => {
  test.each([
    ['e460', { port: 0x60, sizeBytes: 1, direction: 'in', value: 0 }],
    ['ed', { port: 0x3f8, sizeBytes: 4, direction: 'in', value: 0 }],
    ['e760', { port: 0x60, sizeBytes: 4, direction: 'out', value: 0x11223344 }],
    ['66ef', { port: 0x3f8, sizeBytes: 2, direction: 'out', value: 0x3344 }],
    ['ee', { port: 0x3f8, sizeBytes: 1, direction: 'out', value: 0x44 }],
  ] as const)('%s leaves with the port, size and value; nothing is done yet', (code, io) => {
    const { cpu } = machineWith(code);
    cpu.setReg(0, 0x11223344);
    cpu.setReg(2, 0x3f8);
    expect(cpu.run(10)).toEqual({ kind: 'io', ...io });
    expect([cpu.eip(), cpu.retired()]).toEqual([0x1000, 0]);
    cpu.completeIo(0xaabbccdd);
    expect([cpu.eip(), cpu.retired()]).toEqual([0x1000 + code.length / 2, 1]);
    expect(cpu.reg(0)).toBe({ e460: 0x112233dd, ed: 0xaabbccdd }[code as string] ?? 0x11223344);
  });

  test('are refused above IOPL, unless the bitmap of the TSS allows the port', () => {
    const { machine, cpu } = machineWith('ee');
    ring(cpu, 3);
    cpu.setReg(2, 0x21);
    expect(cpu.run(1)).toEqual({ kind: 'exception', exception: { vector: 13, errorCode: 0 } });
    cpu.setTr({ selector: 0x28, base: 0x2000, limit: 0x67 + 0x10, access: 0x8b });
    machine.writeU16(0x2000 + 0x66, 0x68);
    machine.writeBytes(0x2068, new Uint8Array(16).fill(0xff));
    expect(cpu.run(1).kind).toBe('exception');
    machine.writeU8(0x2068 + 4, 0xfd);
    expect(cpu.run(1)).toMatchObject({ kind: 'io', port: 0x21 });
    cpu.setReg(2, 0x200);
    expect(cpu.run(1).kind).toBe('exception');
    cpu.setEflags(0x3002);
    expect(cpu.run(1)).toMatchObject({ kind: 'io', port: 0x200 });
  });
});

describe('REP INS and OUTS', () => {
  test('do one element per exit, count each, and stay on the instruction until the last', () => {
    const { machine, cpu } = machineWith('f36c'); // rep insb
    cpu.setReg(1, 3);
    cpu.setReg(2, 0x3f8);
    cpu.setReg(7, 0x3000);
    for (const byte of [0x61, 0x62, 0x63]) {
      expect(cpu.run(10)).toMatchObject({ kind: 'io', direction: 'in', port: 0x3f8, sizeBytes: 1 });
      cpu.completeIo(byte);
    }
    expect([cpu.eip(), cpu.reg(1), cpu.reg(7), cpu.retired()]).toEqual([0x1002, 0, 0x3003, 3]);
    expect(Buffer.from(machine.readBytes(0x3000, 3)).toString()).toBe('abc');
  });

  test('go downwards with DF, and OUTS hands out what it read', () => {
    const { machine, cpu } = machineWith('fdf36f'); // std; rep outsd
    machine.writeU32(0x3000, 1);
    machine.writeU32(0x3004, 2);
    cpu.setReg(1, 2);
    cpu.setReg(6, 0x3004);
    const values: number[] = [];
    for (let exit = cpu.run(10); exit.kind === 'io'; exit = cpu.run(1)) {
      values.push(exit.value);
      cpu.completeIo(0);
      if (cpu.eip() !== 0x1001) break;
    }
    expect(values).toEqual([2, 1]);
    expect([cpu.reg(6), cpu.reg(1)]).toEqual([0x2ffc, 0]);
  });

  test('with a count of zero are no I/O at all', () => {
    const { cpu } = machineWith('f36e90'); // rep outsb; nop
    cpu.setReg(1, 0);
    expect(cpu.run(1)).toEqual({ kind: 'budget' });
    expect([cpu.eip(), cpu.retired()]).toEqual([0x1002, 1]);
  });
});
