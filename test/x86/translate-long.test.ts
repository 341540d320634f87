// The tiers agree on 64-bit code too (translate.test.ts says what that means).
import { describe, expect, test } from 'vitest';
import type { CpuOptions } from '../../src/x86/cpu.ts';
import type { CpuExit } from '../../src/x86/exit.ts';
import { STATE } from '../../src/x86/state-layout.ts';
import { longMachine, TOP } from './long-machine.ts';
import { randomLongProgram } from './random-program-long.ts';
import { Dice, LAYOUT } from './random-program.ts';

const PROGRAMS = process.env['REXEN_DEPTH'] === 'long' ? 2000 : 10;
const RUNS = 60;

function side(tier: NonNullable<CpuOptions['tier']>, bytes: Uint8Array, user: boolean) {
  const first = LAYOUT.data / 4096;
  const { machine, cpu } = longMachine({ tier, user, flags: (page) => (page === first + 2 ? 0 : page === first + 1 ? 5 : 7) });
  machine.writeBytes(LAYOUT.code, bytes);
  for (let at = LAYOUT.data; at < LAYOUT.data + LAYOUT.dataBytes; at += 4) machine.writeU32(at, Math.imul(at, 0x9e3779b1) >>> 0);
  cpu.setCr(4, cpu.cr(4) | 0x600);
  cpu.setSegmentBase(4, TOP + LAYOUT.data);
  cpu.setSegmentBase(5, LAYOUT.data);
  cpu.setReg64(4, BigInt.asUintN(64, BigInt(LAYOUT.stack + TOP + LAYOUT.stackBytes - 64)));
  machine.clearDirty();
  cpu.dropWriteFastPaths();
  return { machine, cpu };
}
type Side = ReturnType<typeof side>;

const snapshot = ({ machine, cpu }: Side, exit: CpuExit) => ({
  exit: JSON.stringify(exit),
  registers: cpu.registers().map(({ name, value }) => `${name}=${value.toString(16)}`).join(' '),
  retired: cpu.retired(),
  dirty: machine.dirtyFrames().join(' '),
  fetch: `${cpu.core.get32(STATE.fetchVpn + 4).toString(16)}:${cpu.core.get32(STATE.fetchVpn).toString(16)}`,
});

describe('64-bit code that changes', () => {
  test.each(['evaluate', 'interpret', 'translate', 'auto'] as const)('is seen at once, and what stands beside it goes on (%s)', (tier) => {
    const { machine, cpu } = longMachine({ tier, user: false });
    const at = LAYOUT.code;
    const code = 'ffc1 ffc0 90 ebf9'.replaceAll(' ', ''); // inc ecx; inc eax; nop; jmp
    machine.writeBytes(at, Buffer.from(code, 'hex'));
    cpu.setRip(at + TOP);
    for (let i = 0; i < 50; i++) cpu.run(40);
    expect([cpu.reg(1), cpu.reg(0)]).toEqual([500, 500]);
    // A store of the guest's own, elsewhere: mov byte [at + 3], 0xc8 (dec eax); jmp at.
    const patch = Buffer.alloc(13);
    patch.set([0xc6, 0x05], 0);
    patch.writeInt32LE(3 - (0x100 + 7), 2);
    patch[6] = 0xc8;
    patch.set([0xe9], 7);
    patch.writeInt32LE(-(0x100 + 12), 8);
    machine.writeBytes(at + 0x100, patch.subarray(0, 12));
    cpu.setRip(at + 0x100 + TOP);
    cpu.run(2);
    for (let i = 0; i < 50; i++) cpu.run(40);
    expect([cpu.reg(1), cpu.reg(0)]).toEqual([1000, 0]);
    // And from outside.
    machine.writeU8(at + 1, 0xc9);
    for (let i = 0; i < 50; i++) cpu.run(40);
    expect([cpu.reg(1), cpu.reg(0)]).toEqual([500, (-500) >>> 0]);
  });
});

describe.each(['translate', 'pairs', 'interpret', 'auto'] as const)('evaluated 64-bit code and code with the tier set to %s', (tier) => {
  test.each([['at supervisor level', false, 0], ['at user level, switching tables', true, 0], ['with vectors, at user level', true, 60]] as const)('agree on random programs %s, cut anywhere', { timeout: 120_000 }, (_, user, simd) => {
    let insns = 0;
    let fast = 0;
    for (let seed = 1; seed <= PROGRAMS; seed++) {
      const program = randomLongProgram(seed, 24, simd);
      const dice = new Dice(seed ^ 0x5eed);
      const left = side('evaluate', program.bytes, user);
      const right = side(tier, program.bytes, user);
      const sides = [left, right];
      const start = (): void => {
        const at = dice.pick(program.starts) + TOP;
        for (const { cpu } of sides) {
          cpu.setRip(at);
          cpu.setReg64(4, BigInt.asUintN(64, BigInt(LAYOUT.stack + TOP + LAYOUT.stackBytes - 64)));
          cpu.setEflags(cpu.eflags() & ~0x100);
        }
      };
      start();
      for (let run = 0; run < RUNS; run++) {
        const budget = dice.chance(50) ? 1 + dice.below(12) : 1 + dice.below(400);
        const before = snapshot(left, { kind: 'budget' });
        const [a, b] = sides.map((one) => snapshot(one, one.cpu.run(budget)));
        expect(b, `seed ${seed}, run ${run}, budget ${budget}, before ${before.registers}`).toEqual(a);
        if (a?.exit !== '{"kind":"budget"}') start();
        if (user && dice.chance(20)) for (const { cpu } of sides) cpu.switchTables(run % 2 === 0, cpu.cr(3));
        if (dice.chance(5)) for (const { cpu } of sides) cpu.invlpg(TOP + LAYOUT.data);
      }
      insns += left.cpu.retired();
      const { translatedInsns, interpretedInsns } = right.cpu.counters;
      fast += translatedInsns + interpretedInsns;
      expect(Buffer.compare(right.cpu.saveState(), left.cpu.saveState()), `seed ${seed}: state and TLB`).toBe(0);
      expect(Buffer.compare(left.machine.readBytes(0, 0x100000), right.machine.readBytes(0, 0x100000)), `seed ${seed}: memory`).toBe(0);
    }
    expect(insns).toBeGreaterThan(PROGRAMS * 500);
    // What rounds is often the evaluator's: numbers are noise. Block programs have no vectors.
    expect(fast, 'the right side does not only evaluate').toBeGreaterThan(insns * (simd === 0 ? 0.5 : tier === 'translate' ? 0.25 : 0.05));
  });
});
