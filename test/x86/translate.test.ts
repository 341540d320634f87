// The two tiers must be indistinguishable: same registers, flags, retired counts, memory, dirty frames, TLB contents,
// exits. Random programs run on two machines side by side, one evaluated, one translated at once, with budgets that
// cut the run anywhere, faults in the middle of blocks, and code that changes itself.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import type { CpuExit } from '../../src/x86/exit.ts';
import { watchStores } from '../../src/x86/code-frames.ts';
import { createCpu } from '../../src/x86/create.ts';
import { Dice, LAYOUT, randomProgram } from './random-program.ts';

const PROGRAMS = process.env['REXEN_DEPTH'] === 'long' ? 2000 : 8;
const RUNS = 60;

const SIMD_FEATURES = 0x07880000;
/** OSFXSR and OSXMMEXCPT. */
const CR4 = 0x600;

type Tier = 'evaluate' | 'translate';

interface Shape {
  readonly title: string;
  readonly user: boolean;
  /** Of all segments but FS. */
  readonly limit: number;
  /** Share of vector instructions. */
  readonly simd?: number;
}
const SHAPES: readonly Shape[] = [
  { title: 'at supervisor level', user: false, limit: 0xffffffff },
  { title: 'at user level', user: true, limit: 0xffffffff },
  { title: 'in segments that end at 4 MiB', user: false, limit: 0x3fffff },
  { title: 'with vectors at supervisor level', user: false, limit: 0xffffffff, simd: 60 },
  { title: 'with vectors at user level, in segments that end at 4 MiB', user: true, limit: 0x3fffff, simd: 60 },
];

/** 1 MiB of RAM, two-level tables at 0x80000: linear = physical below 512 KiB, with holes and read-only pages in the data window. */
function machineWith(tier: Tier, bytes: Uint8Array, { user, limit }: Shape) {
  const machine = new MachineMemory({ frameCount: 256, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: (leaf) => [leaf, 1, 2, SIMD_FEATURES | 3], tier });
  machine.writeBytes(LAYOUT.code, bytes);
  machine.writeU32(0x80000, 0x81000 | 7);
  for (let page = 0; page < 128; page++) {
    const inData = page - LAYOUT.data / 4096;
    const flags = inData === 2 ? 0 : inData === 1 ? 5 : 7;
    machine.writeU32(0x81000 + page * 4, (page << 12) | flags);
  }
  for (let at = LAYOUT.data; at < LAYOUT.data + LAYOUT.dataBytes; at += 4) machine.writeU32(at, Math.imul(at, 0x9e3779b1) >>> 0);
  cpu.setCr(4, CR4);
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
        const program = randomProgram(seed, 24, shape.simd ?? 0);
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
      // What rounds is often the evaluator's here: numbers are noise.
      expect(translated, 'the right side translates').toBeGreaterThan(insns * (shape.simd === undefined ? 0.5 : 0.25));
    });
  }
});

describe('repeated string instructions', () => {
  const CODE = LAYOUT.code;
  /** Byte, word and doubleword MOVS and STOS; MOVS where a store feeds later loads, in both directions; across pages and into a read-only one. */
  const cases = [0xa4, 0x66a5, 0xa5, 0xaa, 0x66ab, 0xab].flatMap((opcode) =>
    [-4096, -4, -1, 0, 1, 2, 3, 4, 64, 5000].flatMap((distance) => [false, true].map((down) => ({ opcode, distance, down }))),
  );

  test('copy and fill alike in both tiers, overlapping, cut by budgets and by faults', { timeout: 60_000 }, () => {
    const dice = new Dice(77);
    for (const { opcode, distance, down } of cases) {
      // cld or std; rep movs/stos; jmp to itself
      const prefix = opcode > 0xff ? [0x66] : [];
      const bytes = Uint8Array.from([down ? 0xfd : 0xfc, 0xf3, ...prefix, opcode & 0xff, 0xeb, 0xfe]);
      const count = 40 + dice.below(1500);
      const from = LAYOUT.data + 0x3000 + dice.below(0x1000);
      const budgets = Array.from({ length: 6 }, () => 1 + dice.below(700));
      const fill = dice.pick([0, 0x5a5a5a5a, 0x01020304]);
      const sides = (['evaluate', 'translate'] as const).map((tier) => {
        const side = machineWith(tier, bytes, SHAPES[0] as Shape);
        side.cpu.setEip(CODE);
        side.cpu.setReg(0, fill);
        side.cpu.setReg(1, count);
        side.cpu.setReg(6, from);
        side.cpu.setReg(7, from + distance);
        const seen = budgets.map((budget) => snapshot(side, side.cpu.run(budget)));
        return { seen, memory: side.machine.readBytes(0, 0x100000) };
      });
      const title = `opcode ${opcode.toString(16)}, distance ${distance}, ${down ? 'down' : 'up'}, count ${count}`;
      expect(sides[1]?.seen, title).toEqual(sides[0]?.seen);
      expect(Buffer.compare(sides[1]?.memory as Uint8Array, sides[0]?.memory as Uint8Array), title).toBe(0);
    }
  });
});

describe('stores that are watched', () => {
  /** Runs as `budgets` cut it: what the word was, one value after another. */
  function changes(tier: Tier, seed: number, word: number, budgets: readonly number[], watched: boolean) {
    const program = randomProgram(seed, 24, 20);
    const side = machineWith(tier, program.bytes, SHAPES[3] as Shape);
    const { machine, cpu } = side;
    const dice = new Dice(seed);
    const before = machine.readBytes(0, 0x100000);
    const found: number[] = [];
    let value = machine.readU32(word);
    const settle = (): void => {
      if (machine.readU32(word) !== value) found.push((value = machine.readU32(word)));
    };
    const stop = watched ? watchStores(machine, word, 4, settle) : undefined;
    cpu.setEip(program.starts[0] as number);
    for (const budget of budgets) {
      for (let left = budget; left > 0; ) {
        const from = cpu.retired();
        const exit = cpu.run(watched ? left : 1);
        // What ends a run may count as no instruction.
        left -= cpu.retired() - from + (exit.kind === 'budget' ? 0 : 1);
        // What is watched changes only behind its back.
        if (!watched) settle();
        if (exit.kind === 'budget') continue;
        cpu.setEip(dice.pick(program.starts));
        cpu.setReg(4, LAYOUT.stack + LAYOUT.stackBytes - 64);
        cpu.setEflags(cpu.eflags() & ~0x100);
      }
    }
    stop?.();
    settle();
    return { found, state: cpu.saveState(), before, memory: machine.readBytes(0, 0x100000) };
  }

  test('are told in every tier, each that stepping sees, and nothing else depends on it', { timeout: 120_000 }, () => {
    let seen = 0;
    for (let seed = 1; seed <= PROGRAMS; seed++) {
      const dice = new Dice(seed ^ 0xf00);
      const budgets = Array.from({ length: 12 }, () => 1 + dice.below(400));
      // One that has changed in the end: in the data, on the stack, in a table or in the code itself.
      const { before, memory } = changes('evaluate', seed, 0, budgets, false);
      const [old, now] = [before, memory].map(({ buffer }) => new Uint32Array(buffer)) as [Uint32Array, Uint32Array];
      const word = 4 * dice.pick(Array.from(old.keys()).filter((at) => old[at] !== now[at]));
      const stepped = changes('evaluate', seed, word, budgets, false);
      seen += stepped.found.length;
      for (const tier of ['evaluate', 'translate'] as const) {
        const told = changes(tier, seed, word, budgets, true);
        expect(told.found, `seed ${seed}, ${tier}`).toEqual(stepped.found);
        expect(Buffer.compare(told.state, stepped.state), `seed ${seed}, ${tier}`).toBe(0);
        expect(Buffer.compare(told.memory, stepped.memory), `seed ${seed}, ${tier}`).toBe(0);
      }
    }
    expect(seen).toBeGreaterThan(PROGRAMS);
  });

  test('from outside are told too, and no more once the watch has ended', () => {
    const machine = new MachineMemory({ frameCount: 16, arenaBytes: 4 * 1024 * 1024 });
    let told = 0;
    const stop = watchStores(machine, 0x3008, 4, () => told++);
    expect(() => watchStores(machine, 0x5000, 4, () => {})).toThrow(/watched already/);
    machine.writeU32(0x3008, 1);
    machine.writeBytes(0x2ff0, new Uint8Array(64));
    machine.writeU32(0x4008, 1);
    expect(told).toBe(2);
    stop();
    machine.writeU32(0x3008, 2);
    expect(told).toBe(2);
    expect(() => watchStores(machine, 0x5ffe, 4, () => {})).toThrow(/two frames/);
  });
});
