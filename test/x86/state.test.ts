// A processor's state is data: it can be saved anywhere and goes on anywhere; and what it did before
// does not show in it.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { CpuOptions } from '../../src/x86/cpu.ts';
import { Dice, LAYOUT, randomProgram } from './random-program.ts';

type Tier = NonNullable<CpuOptions['tier']>;
const FRAMES = 256;

function machineWith(tier: Tier, arenaBytes = 4 * 1024 * 1024) {
  const machine = new MachineMemory({ frameCount: FRAMES, arenaBytes });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: (leaf) => [leaf, 1, 2, 3], tier });
  return { machine, cpu };
}

function loaded(tier: Tier, bytes: Uint8Array) {
  const made = machineWith(tier);
  const { machine, cpu } = made;
  machine.writeBytes(LAYOUT.code, bytes);
  machine.writeU32(0x80000, 0x81000 | 7);
  for (let page = 0; page < 128; page++) machine.writeU32(0x81000 + page * 4, (page << 12) | 7);
  cpu.setCr(3, 0x80000);
  cpu.setCr(0, 0x80010031);
  cpu.setReg(4, LAYOUT.stack + LAYOUT.stackBytes - 64);
  cpu.setEip(LAYOUT.code);
  return made;
}
type Made = ReturnType<typeof machineWith>;
const ram = ({ machine }: Made): Uint8Array => machine.readBytes(0, FRAMES * 4096);

/** Large arrays: toEqual would take long to say yes. */
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Moves a processor and its memory to another machine, whose arena is of another size. */
function moved(from: Made, tier: Tier): Made {
  const to = machineWith(tier, 6 * 1024 * 1024);
  to.machine.writeBytes(0, ram(from));
  to.cpu.restoreState(from.cpu.saveState());
  return to;
}

/** Runs until `insns` are retired or something ends the run. */
function go({ cpu }: Made, insns: number): string {
  const end = cpu.retired() + insns;
  while (cpu.retired() < end) {
    const exit = cpu.run(end - cpu.retired());
    if (exit.kind !== 'budget') return JSON.stringify(exit);
  }
  return '';
}

describe('a saved processor', () => {
  test.each(['evaluate', 'translate', 'auto'] as const)('goes on in another machine as if nothing had happened (%s)', (tier) => {
    let retired = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const { bytes, starts } = randomProgram(seed);
      const whole = loaded(tier, bytes);
      let cut = loaded(tier, bytes);
      const dice = new Dice(seed + 1000);
      for (let step = 0; step < 20; step++) {
        // Programs end in faults often: they go on elsewhere, with a sane stack.
        const eip = dice.pick(starts);
        const insns = 1 + dice.below(400);
        const ends = [whole, cut].map((made) => {
          made.cpu.setEip(eip);
          made.cpu.setReg(4, LAYOUT.stack + LAYOUT.stackBytes - 64);
          made.cpu.setEflags(made.cpu.eflags() & ~0x100);
          return go(made, insns);
        });
        expect(ends[1]).toBe(ends[0]);
        cut = moved(cut, dice.below(2) === 0 ? tier : 'evaluate');
        expect(same(cut.cpu.saveState(), whole.cpu.saveState())).toBe(true);
      }
      expect(same(ram(cut), ram(whole))).toBe(true);
      retired += whole.cpu.retired();
    }
    expect(retired).toBeGreaterThan(2000);
  });

  test('does not tell which instruction made its flags', () => {
    const states = ['31c0', '29c0', 'b80000000031db85db', '83e000'].map((code) => {
      const { machine, cpu } = machineWith('evaluate');
      const bytes = Buffer.from(code, 'hex');
      machine.writeBytes(0x1000, bytes);
      machine.fillFrame(1, 0);
      machine.writeBytes(0x2000 - bytes.length, bytes);
      cpu.setEip(0x2000 - bytes.length);
      cpu.setReg(0, 7);
      while (cpu.eip() !== 0x2000) cpu.run(1);
      return cpu;
    });
    for (const cpu of states) {
      cpu.setReg(0, 0);
      cpu.setReg(3, 0);
      cpu.addRetired(10 - cpu.retired());
    }
    const [first, ...rest] = states.map((cpu) => cpu.saveState());
    for (const state of rest) expect(same(state, first as Uint8Array)).toBe(true);
  });

  test('is saved twice with the same bytes', () => {
    const made = loaded('auto', randomProgram(5).bytes);
    go(made, 100);
    expect(same(made.cpu.saveState(), made.cpu.saveState())).toBe(true);
  });
});

describe('a budget', () => {
  test('is met exactly, wherever it ends', () => {
    const { machine, cpu } = machineWith('evaluate');
    machine.writeBytes(0x1000, Buffer.from('b90a000000f3aa49ebf6', 'hex')); // mov ecx, 10; rep stosb; dec ecx; again
    cpu.setReg(7, 0x8000);
    cpu.setEip(0x1000);
    let retired = 0;
    for (const budget of [1, 2, 3, 5, 7, 11, 13]) {
      expect(cpu.run(budget)).toEqual({ kind: 'budget' });
      retired += budget;
      expect(cpu.retired()).toBe(retired);
    }
    // 13 a round: one MOV, ten iterations, DEC, JMP; 42 instructions are three rounds and three.
    expect([cpu.eip(), cpu.reg(1)]).toEqual([0x1005, 8]);
  });

  test('counts a fault as nothing and a trap as one', () => {
    const { machine, cpu } = machineWith('evaluate');
    machine.writeBytes(0x1000, Buffer.from('90cd800f0b', 'hex')); // nop; int 0x80; ud2
    cpu.setEip(0x1000);
    expect(cpu.run(100)).toEqual({ kind: 'softint', vector: 0x80, insnBytes: 2 });
    expect([cpu.retired(), cpu.eip()]).toEqual([2, 0x1003]);
    expect(cpu.run(100)).toEqual({ kind: 'exception', exception: { vector: 6 } });
    expect([cpu.retired(), cpu.eip()]).toEqual([2, 0x1003]);
  });

  test('sees the time stamp as a function of what has retired', () => {
    const { machine, cpu } = machineWith('evaluate');
    machine.writeBytes(0x1000, Buffer.from('90900f31', 'hex')); // nop; nop; rdtsc
    cpu.setTsc(1000n, 3);
    cpu.setEip(0x1000);
    cpu.run(3);
    expect([cpu.reg(0), cpu.reg(2)]).toEqual([1006, 0]);
    expect(cpu.tsc()).toBe(1009n);
  });

  test.each([0n, 0xffff_fffen, 2n ** 53n - 5n, 2n ** 53n, 2n ** 63n - 4n, -7n, -1n, -(2n ** 53n), -(2n ** 63n)])('sees a time stamp that begins at %s with all its bits', (base) => {
    for (const perInsn of [1, 3, 1000]) {
      const { machine, cpu } = machineWith('evaluate');
      machine.writeBytes(0x1000, Buffer.from('90900f31', 'hex')); // nop; nop; rdtsc
      cpu.setTsc(base, perInsn);
      cpu.setEip(0x1000);
      cpu.run(3);
      expect((BigInt(cpu.reg(2)) << 32n) | BigInt(cpu.reg(0))).toBe(BigInt.asUintN(64, base + 2n * BigInt(perInsn)));
    }
  });
});

describe('a string instruction of the evaluator', () => {
  /** mov edi, to; mov ecx, 200; rep stosb (at 0x0a); inc ecx. */
  const program = (to: number): Buffer => Buffer.concat([Buffer.from([0xbf]), Buffer.from(Uint32Array.of(to).buffer), Buffer.from('b9c8000000f3aa41', 'hex')]);

  test('does the same whether its iterations are budgeted one by one or all at once', () => {
    const [once, cut] = [machineWith('evaluate'), machineWith('evaluate')];
    for (const { machine, cpu } of [once, cut]) {
      machine.writeBytes(0x1000, program(0x8000));
      cpu.setReg(0, 0xab);
      cpu.setEip(0x1000);
    }
    expect(once.cpu.run(203)).toEqual({ kind: 'budget' });
    for (let i = 0; i < 203; i++) cut.cpu.run(1);
    expect(once.cpu.saveState()).toEqual(cut.cpu.saveState());
    expect([once.cpu.retired(), once.cpu.eip(), once.cpu.reg(1), once.machine.readBytes(0x8000, 201)[200], once.machine.readBytes(0x8000, 201)[199]]).toEqual([203, 0x100d, 1, 0, 0xab]);
  });

  test('overwrites itself, and what is there then is performed next', () => {
    for (const budgets of [[85], [83, 2], Array.from({ length: 85 }, () => 1)]) {
      const { machine, cpu } = machineWith('evaluate');
      // At the 81st iteration F3 becomes NOP; AA, no longer repeated, stores once more, over itself.
      machine.writeBytes(0x1000, program(0x100a - 80));
      cpu.setReg(0, 0x90);
      cpu.setEip(0x1000);
      for (const budget of budgets) cpu.run(budget);
      expect([cpu.eip(), cpu.reg(1), cpu.reg(7), machine.readU8(0x100a), machine.readU8(0x100b), machine.readU8(0x100c)]).toEqual([0x100c, 200 - 81, 0x100c, 0x90, 0x90, 0x41]);
    }
  });

  test('faults in the middle with what was done counted, and goes on there', () => {
    const { machine, cpu } = loaded('evaluate', program(0x7ff38));
    machine.writeU32(0x81000 + 0x7f * 4, 0x7f000 | 7);
    // 0x80000 and above are not mapped: 0xc8 bytes fit to the last one.
    const { cpu: short, machine: other } = loaded('evaluate', program(0x7ff9c));
    expect([cpu.run(203), cpu.retired()]).toEqual([{ kind: 'budget' }, 203]);
    expect(short.run(1000)).toMatchObject({ kind: 'exception', exception: { vector: 14, cr2: 0x80000 } });
    expect([short.retired(), short.reg(1), short.reg(7)]).toEqual([2 + 100, 100, 0x80000]);
    other.writeU32(0x81000 + 0x80 * 4, 0x90000 | 7);
    expect([short.run(101), short.reg(1)]).toEqual([{ kind: 'budget' }, 1]);
  });
});

describe('instructions with equal bytes', () => {
  test('jump and call relative to where they stand', () => {
    const { machine, cpu } = machineWith('evaluate');
    for (const at of [0x1000, 0x3000]) machine.writeBytes(at, Buffer.from('e80100000090c3', 'hex')); // call +1; nop; ret
    cpu.setReg(4, 0x8000);
    for (const at of [0x1000, 0x3000]) {
      cpu.setEip(at);
      cpu.run(1);
      expect([cpu.eip(), machine.readU32(cpu.reg(4))]).toEqual([at + 6, at + 5]);
      cpu.run(1);
      expect(cpu.eip()).toBe(at + 5);
    }
  });

  test('mean something else in 16-bit code', () => {
    const { machine, cpu } = machineWith('evaluate');
    machine.writeBytes(0x1000, Buffer.from('b8010090904040', 'hex')); // mov eax, 0x90900001 | mov ax, 1; nop; nop
    cpu.setEip(0x1000);
    cpu.run(1);
    expect([cpu.eip(), cpu.reg(0)]).toEqual([0x1005, 0x90900001]);
    cpu.setSegment(1, { ...cpu.segment(1), limit: 0xffff, access: 0x9b });
    cpu.setReg(0, 0);
    cpu.setEip(0x1000);
    cpu.run(1);
    expect([cpu.eip(), cpu.reg(0)]).toEqual([0x1003, 1]);
  });
});

describe('code that changes', () => {
  const program = 'c6051010000048' + '90'.repeat(9) + '40' + 'ebed'; // mov byte [0x1010], 0x48 (dec eax); nops; 0x1010: inc eax; jmp 0x1000
  test.each(['evaluate', 'translate', 'auto'] as const)('is seen by the next instruction, whoever changed it (%s)', (tier) => {
    const { machine, cpu } = machineWith(tier);
    machine.writeBytes(0x1000, Buffer.from(program, 'hex'));
    cpu.setEip(0x1007);
    cpu.run(10);
    expect(cpu.reg(0)).toBe(1);
    cpu.run(1);
    cpu.run(11);
    expect(cpu.reg(0)).toBe(0);
    for (let i = 0; i < 100; i++) cpu.run(12);
    expect(cpu.reg(0)).toBe(0xffffff9c);
    machine.writeU8(0x1006, 0x40);
    for (let i = 0; i < 100; i++) cpu.run(12);
    expect(cpu.reg(0)).toBe(0);
  });
});

describe('looking at memory for a report', () => {
  test('changes nothing', () => {
    const made = loaded('evaluate', randomProgram(9).bytes);
    go(made, 50);
    const before = Buffer.concat([made.cpu.saveState(), ram(made)]);
    const lines = made.cpu.disassemble(LAYOUT.code, 20);
    expect(lines.length).toBe(20);
    expect(made.cpu.decodeAt(0x7fff000)).toBe(undefined);
    expect(same(Buffer.concat([made.cpu.saveState(), ram(made)]), before)).toBe(true);
  });
});
