// The two tiers must be indistinguishable: same registers, flags, retired counts, memory, dirty frames, TLB contents,
// exits. Random programs run on two machines side by side, one evaluated, one translated at once, with budgets that
// cut the run anywhere, faults in the middle of blocks, and code that changes itself.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import type { CpuExit } from '../../src/x86/exit.ts';
import { createCpu } from '../../src/x86/create.ts';
import { Dice, LAYOUT, randomProgram } from './random-program.ts';

const PROGRAMS = process.env['REXEN_DEPTH'] === 'long' ? 2000 : 8;
const RUNS = 60;

type Tier = 'evaluate' | 'translate';

interface Shape {
  readonly title: string;
  readonly user: boolean;
  /** Of all segments but FS. */
  readonly limit: number;
}
const SHAPES: readonly Shape[] = [
  { title: 'at supervisor level', user: false, limit: 0xffffffff },
  { title: 'at user level', user: true, limit: 0xffffffff },
  { title: 'in segments that end at 4 MiB', user: false, limit: 0x3fffff },
];

/** 1 MiB of RAM, two-level tables at 0x80000: linear = physical below 512 KiB, with holes and read-only pages in the data window. */
function machineWith(tier: Tier, bytes: Uint8Array, { user, limit }: Shape) {
  const machine = new MachineMemory({ frameCount: 256, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: (leaf) => [leaf, 1, 2, 3], tier });
  machine.writeBytes(LAYOUT.code, bytes);
  machine.writeU32(0x80000, 0x81000 | 7);
  for (let page = 0; page < 128; page++) {
    const inData = page - LAYOUT.data / 4096;
    const flags = inData === 2 ? 0 : inData === 1 ? 5 : 7;
    machine.writeU32(0x81000 + page * 4, (page << 12) | flags);
  }
  for (let at = LAYOUT.data; at < LAYOUT.data + LAYOUT.dataBytes; at += 4) machine.writeU32(at, Math.imul(at, 0x9e3779b1) >>> 0);
  cpu.setCr(3, 0x80000);
  cpu.setCr(0, 0x80010031);
  const dpl = user ? 3 : 0;
  for (let i = 0; i < 6; i++) cpu.setSegment(i, { selector: 8 + i * 8 + dpl, base: i === 4 ? LAYOUT.data : 0, limit: i === 4 ? 0x17fe : limit, access: (i === 1 ? 0xc09b : 0xc093) | (dpl << 5) });
  cpu.setReg(4, LAYOUT.stack + LAYOUT.stackBytes - 64);
  machine.clearDirty();
  cpu.dropWriteFastPaths();
  return { machine, cpu };
}

function snapshot({ machine, cpu }: ReturnType<typeof machineWith>, exit: CpuExit) {
  return {
    exit: JSON.stringify(exit),
    registers: cpu.registers().map(({ name, value }) => `${name}=${value.toString(16)}`).join(' '),
    eflags: cpu.eflags().toString(16),
    retired: cpu.retired(),
    dirty: machine.dirtyFrames().join(' '),
    fetch: cpu.core.get32(616).toString(16),
  };
}

describe('translated and evaluated execution', () => {
  for (const shape of SHAPES) {
    test(`agree on random programs ${shape.title}, cut anywhere`, { timeout: 120_000 }, () => {
      let insns = 0;
      let translated = 0;
      for (let seed = 1; seed <= PROGRAMS; seed++) {
        const program = randomProgram(seed);
        const dice = new Dice(seed ^ 0x5eed);
        const left = machineWith('evaluate', program.bytes, shape);
        const right = machineWith('translate', program.bytes, shape);
        let eip = program.starts[0] as number;
        for (const { cpu } of [left, right]) cpu.setEip(eip);
        for (let run = 0; run < RUNS; run++) {
          const budget = dice.chance(50) ? 1 + dice.below(12) : 1 + dice.below(400);
          const before = snapshot(left, { kind: 'budget' });
          const [a, b] = [left, right].map((side) => snapshot(side, side.cpu.run(budget)));
          expect(b, `seed ${seed}, run ${run}, budget ${budget}, before ${before.registers}`).toEqual(a);
          if (a?.exit !== '{"kind":"budget"}') {
            // Go on elsewhere, with a sane stack.
            eip = dice.pick(program.starts);
            for (const { cpu } of [left, right]) {
              cpu.setEip(eip);
              cpu.setReg(4, LAYOUT.stack + LAYOUT.stackBytes - 64);
              cpu.setEflags(cpu.eflags() & ~0x100);
            }
          }
        }
        insns += left.cpu.retired();
        translated += right.cpu.counters.translatedInsns;
        expect(right.cpu.saveState(), `seed ${seed}: state and TLB`).toEqual(left.cpu.saveState());
        expect(Buffer.compare(left.machine.readBytes(0, 0x100000), right.machine.readBytes(0, 0x100000)), `seed ${seed}: memory`).toBe(0);
      }
      expect(insns).toBeGreaterThan(PROGRAMS * 500);
      expect(translated, 'the right side translates').toBeGreaterThan(insns * 0.5);
    });
  }
});
