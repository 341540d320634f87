// What translated code does of the x87 by itself must be what the evaluator does, bit for bit: results, flags, tags, the addresses
// that FNSTENV shows, memory, retired counts. Random programs of x87 instructions over numbers of every kind, under control
// words of every kind, run on two machines side by side.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { longMachine, TOP } from './long-machine.ts';
import { Dice, LAYOUT } from './random-program.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PROGRAMS = LONG ? 200 : 4;
const RUNS = 60;
const BLOCKS = 24;
const BLOCK_BYTES = 256;
/** Data: pages 0, 3 and 4 are writable, 1 is not, 2 is absent. */
const SLOT_BYTES = 16;

type Tier = 'evaluate' | 'translate';
const flagsOf = (page: number): number => [7, 5, 0][page - LAYOUT.data / 4096] ?? 7;
/** Of 64-bit code, instructions and half the operands are at the top of the address space. */
function machineWith(tier: Tier, bytes: Uint8Array, long: boolean) {
  if (long) {
    const { machine, cpu } = longMachine({ tier, flags: flagsOf });
    machine.writeBytes(LAYOUT.code, bytes);
    cpu.setReg64(3, BigInt(TOP));
    return { machine, cpu, codeAt: LAYOUT.code + TOP };
  }
  const machine = new MachineMemory({ frameCount: 256, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 1], tier });
  machine.writeBytes(LAYOUT.code, bytes);
  machine.writeU32(0x80000, 0x81000 | 7);
  for (let page = 0; page < 128; page++) machine.writeU32(0x81000 + page * 4, (page << 12) | flagsOf(page));
  cpu.setCr(3, 0x80000);
  cpu.setCr(0, 0x80010031);
  for (let i = 0; i < 6; i++) cpu.setSegment(i, { selector: 8 + i * 8, base: 0, limit: 0xffffffff, access: i === 1 ? 0xc09b : 0xc093 });
  return { machine, cpu, codeAt: LAYOUT.code };
}

// -- numbers ---------------------------------------------------------------------------------------

function view(bytes: number, write: (v: DataView) => void): Uint8Array {
  const buffer = new ArrayBuffer(bytes);
  write(new DataView(buffer));
  return new Uint8Array(buffer);
}
const bits64 = (dice: Dice): bigint => (BigInt(dice.u32()) << 32n) | BigInt(dice.u32());
/** A significand with few bits, many bits, ones or zeros at its end. */
const significand = (dice: Dice): bigint => {
  const x = bits64(dice) | (1n << 63n);
  const at = BigInt(dice.below(64));
  return BigInt.asUintN(64, dice.pick([x, (x >> at) << at, x | ((1n << at) - 1n), 1n << 63n, (1n << 64n) - 1n, (x >> 11n) << 11n, ((x >> 11n) << 11n) | 0x400n, ((x >> 40n) << 40n) | (1n << 39n), (1n << 63n) | 1n]));
};
function number(dice: Dice): Uint8Array {
  const near = dice.pick([0, 0, 1, 2, dice.below(4), dice.below(70), dice.below(140)]) * (dice.chance(50) ? 1 : -1);
  switch (dice.below(10)) {
    case 0:
    case 1:
      return view(16, (v) => v.setFloat64(0, dice.pick([0, -0, 1, -1, 1.5, 0.1, 1e9, -3, 2 ** near, -(2 ** near), Math.PI]), true));
    case 2:
    case 3:
      return view(16, (v) => v.setBigUint64(0, (BigInt(dice.below(2)) << 63n) | (BigInt(1023 + near) << 52n) | ((significand(dice) << 1n) & ((1n << 64n) - 1n)) >> 12n, true));
    case 4:
      return view(16, (v) => v.setFloat32(0, dice.pick([0, -0, 1, 0.1, 3, 2 ** near, -(2 ** near)]), true));
    case 5:
      return view(16, (v) => v.setUint32(0, dice.u32(), true));
    case 6:
      return view(16, (v) => v.setBigInt64(0, dice.pick([0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 32767n, -32768n, 2n ** 31n, BigInt(near)]), true));
    case 7:
      // Infinities, NaNs, denormals, numbers of the old formats.
      return view(16, (v) => {
        v.setBigUint64(0, dice.pick([0n, 1n, 1n << 63n, 3n << 62n, bits64(dice), 0x7ff0000000000000n, 0x7ff8000000000001n, 0x0000000000000001n, 0x000fffffffffffffn, 0x7f800000n, 0x7fc00000n, 0x7f800001n, 0x00000001n]), true);
        v.setUint16(8, dice.pick([0, 0x7fff, 0xffff, 0x8000, 1, 0x3fff, dice.below(65536)]), true);
      });
    case 8:
      // At the ends of the ranges.
      return view(16, (v) => {
        v.setBigUint64(0, significand(dice), true);
        v.setUint16(8, dice.pick([1, 2, 65, 0x7ffe, 0x7ffd, 0x3fff + 1023, 0x3fff - 1022, 0x3fff - 1023, 0x3fff + 1024, 0x3fff + 127, 0x3fff - 126, 0x3fff + 62, 0x3fff + 63, 0x3fff + 30, 0x3fff + 31, 0x3fff + 14, 0x3fff + 15, 0x3ffe]) | (dice.below(2) << 15), true);
      });
    default:
      return view(16, (v) => {
        v.setBigUint64(0, significand(dice), true);
        v.setUint16(8, (0x3fff + near) | (dice.below(2) << 15), true);
      });
  }
}

// -- programs --------------------------------------------------------------------------------------

const imm32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

function randomX87Program(dice: Dice, long: boolean): Uint8Array {
  const slot = (): number =>
    dice.chance(93) ? LAYOUT.data + SLOT_BYTES * dice.below(24) : dice.pick([LAYOUT.data + 0x1000 - 16 + dice.below(16), LAYOUT.data + 0x1000 + 16 * dice.below(8), LAYOUT.data + 0x2000, LAYOUT.data + 0x4000 - 8 + dice.below(8), LAYOUT.data + 0x3000]);
  // [disp32], or [EBX + disp32].
  const memory = (opcode: number, extension: number): number[] => {
    if (dice.chance(50)) return [opcode, 0x80 | (extension << 3) | 3, ...imm32(slot())];
    return long ? [opcode, (extension << 3) | 4, 0x25, ...imm32(slot())] : [opcode, (extension << 3) | 5, ...imm32(slot())];
  };
  let depth = 0;
  const pushes = (): number[] => dice.pick([() => memory(0xd9, 0), () => memory(0xdd, 0), () => memory(0xdb, 5), () => memory(0xdb, 5), () => memory(dice.pick([0xdb, 0xdf]), 0), () => memory(0xdf, 5), () => [0xd9, dice.pick([0xe8, 0xee, 0xeb, 0xea])], () => [0xd9, 0xc0 + dice.below(depth + 1)]])();
  const pops = (): number[] =>
    dice.pick([() => memory(dice.pick([0xd9, 0xdd, 0xdb, 0xdf]), 3), () => memory(dice.pick([0xdb, 0xdf]), 7), () => [0xde, dice.pick([0xc0, 0xc8, 0xe0, 0xe8, 0xf0, 0xf8]) + 1 + dice.below(Math.max(1, depth - 1))], () => [dice.pick([0xd8, 0xdd]), 0xd8 + dice.below(depth)], () => [0xdd, 0xe8 + 1], () => [0xdf, dice.pick([0xe8, 0xf0]) + 1]])();
  const stays = (): number[] => {
    const i = dice.below(Math.max(1, depth));
    return dice.pick([
      () => memory(dice.pick([0xd8, 0xdc, 0xda, 0xde]), dice.pick([0, 1, 4, 5, 6, 7, 2])), () => memory(dice.pick([0xd9, 0xdd, 0xdb, 0xdf]), 2),
      () => [0xd8, dice.pick([0xc0, 0xc8, 0xd0, 0xe0, 0xe8, 0xf0, 0xf8]) + i], () => [0xdc, dice.pick([0xc0, 0xc8, 0xe0, 0xe8, 0xf0, 0xf8]) + i], () => [0xd9, 0xc8 + i], () => [0xd9, dice.pick([0xe0, 0xe1, 0xe4, 0xe5, 0xfc, 0xfa])],
      () => [0xdb, dice.pick([0xe8, 0xf0]) + i], () => [0xdd, dice.pick([0xd0, 0xe0]) + i], () => [0xdf, 0xe0], () => memory(0xdd, 7), () => memory(0xd9, 7), () => [dice.pick([0xda, 0xdb]), 0xc0 + 8 * dice.below(4) + i],
      // What depends on the flags.
      () => [0x9f], () => [0x0f, 0x90 + dice.below(16), 0xc2], () => [0x01, 0xc9],
    ])();
  };
  const bytes = new Uint8Array(BLOCKS * BLOCK_BYTES).fill(0xcc);
  for (let block = 0; block < BLOCKS; block++) {
    depth = 0;
    const code: number[] = [0xdb, 0xe3];
    if (dice.chance(60)) {
      const control = dice.pick([0x27f, 0x07f, 0x37f, 0xf7f, 0xc7f, 0x77f, 0xb7f, 0x17f, 0x33f, 0x36f, 0x35f, 0x37e, 0x300, 0x200 | dice.below(0x1000)]);
      code.push(0xc7, ...(long ? [0x04, 0x25] : [0x05]), ...imm32(LAYOUT.data + 0x3f00), ...imm32(control), 0xd9, ...(long ? [0x2c, 0x25] : [0x2d]), ...imm32(LAYOUT.data + 0x3f00));
    }
    while (code.length < BLOCK_BYTES - 24) {
      const roll = dice.below(100) + (dice.chance(3) ? 50 : 0);
      if (depth < 2 || (depth < 6 && roll < 35)) {
        code.push(...pushes());
        depth++;
      } else if (roll < 55 || depth > 6) {
        code.push(...pops());
        depth--;
      } else code.push(...stays());
    }
    // To the block behind, or to the first.
    const target = block === BLOCKS - 1 ? 0 : (block + 1) * BLOCK_BYTES;
    code.push(0xe9, ...imm32((target - (block * BLOCK_BYTES + code.length + 5)) >>> 0));
    bytes.set(code, block * BLOCK_BYTES);
  }
  return bytes;
}

describe('the x87 in translated code', () => {
  for (const long of [false, true]) {
    test(`is the evaluator's, bit for bit, in ${long ? 64 : 32}-bit code`, { timeout: 240_000 }, () => {
      let translated = 0;
      let insns = 0;
      for (let seed = 1; seed <= PROGRAMS; seed++) {
        const dice = new Dice(seed * 77 + (long ? 1 : 0));
        const bytes = randomX87Program(dice, long);
        const [left, right] = [machineWith('evaluate', bytes, long), machineWith('translate', bytes, long)];
        for (const { cpu } of [left, right]) cpu.setRip(left.codeAt);
        for (let run = 0; run < RUNS; run++) {
          for (let slot = 0; slot < 24; slot++) {
            const content = number(dice);
            for (const { machine } of [left, right]) machine.writeBytes(LAYOUT.data + slot * SLOT_BYTES, content);
          }
          const budget = dice.chance(20) ? 1 + dice.below(12) : 1 + dice.below(300);
          const [a, b] = [left, right].map(({ cpu }) => ({ exit: cpu.run(budget), rip: cpu.rip(), retired: cpu.retired() }));
          const where = `seed ${seed}, run ${run}`;
          expect(b, where).toEqual(a);
          expect(Buffer.compare(right.cpu.saveState(), left.cpu.saveState()) === 0, `${where}: state before ${a?.rip.toString(16)}`).toBe(true);
          if (a?.exit.kind !== 'budget') for (const { cpu } of [left, right]) cpu.setRip(left.codeAt + BLOCK_BYTES * ((run * 7) % BLOCKS));
        }
        expect(Buffer.compare(left.machine.readBytes(0, 0x80000), right.machine.readBytes(0, 0x80000)), `seed ${seed}: memory`).toBe(0);
        insns += left.cpu.retired();
        translated += right.cpu.counters.translatedInsns;
      }
      expect(translated, 'the right side translates').toBeGreaterThan(insns * 0.5);
    });
  }
});
