// What rounds is inline in translated code where that is provably the same. Here it is: every operation over many
// operands, ordinary ones and others, in both tiers, with MXCSR as the inline form wants it and otherwise.
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { STATE } from '../../src/x86/state-layout.ts';
import { Dice } from './random-program.ts';

const CODE = 0x1000;
const OPERANDS = 0x8000;
const RESULTS = 0x20000;
const PAIRS = 48;
const imm32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

interface Operation {
  readonly name: string;
  /** xmm0 by xmm1, or from xmm1 to EAX. */
  readonly bytes: readonly number[];
  readonly bits: 32 | 64;
  readonly toGeneral?: boolean;
}
const PREFIXES = [[[], 'ps', 32], [[0x66], 'pd', 64], [[0xf3], 'ss', 32], [[0xf2], 'sd', 64]] as const;
const OPERATIONS: readonly Operation[] = [
  ...PREFIXES.flatMap(([prefix, name, bits]) => [
    ...([[0x51, 'sqrt'], [0x58, 'add'], [0x59, 'mul'], [0x5c, 'sub'], [0x5d, 'min'], [0x5e, 'div'], [0x5f, 'max'], [0x5a, 'cvt']] as const).map(([opcode, what]): Operation => ({ name: what + name, bytes: [...prefix, 0x0f, opcode, 0xc1], bits })),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((predicate): Operation => ({ name: `cmp${name} ${predicate}`, bytes: [...prefix, 0x0f, 0xc2, 0xc1, predicate], bits })),
  ]),
  ...([[[], 'cvtdq2ps'], [[0x66], 'cvtps2dq'], [[0xf3], 'cvttps2dq']] as const).map(([prefix, name]): Operation => ({ name, bytes: [...prefix, 0x0f, 0x5b, 0xc1], bits: 32 })),
  ...([[[0xf3], 'cvtdq2pd'], [[0xf2], 'cvtpd2dq'], [[0x66], 'cvttpd2dq']] as const).map(([prefix, name]): Operation => ({ name, bytes: [...prefix, 0x0f, 0xe6, 0xc1], bits: 64 })),
  ...([[[0xf3], 'ss', 32], [[0xf2], 'sd', 64]] as const).flatMap(([prefix, name, bits]) => ([[0x2c, 'cvtt'], [0x2d, 'cvt']] as const).map(([opcode, what]): Operation => ({ name: `${what}${name}2si`, bytes: [...prefix, 0x0f, opcode, 0xc1], bits, toGeneral: true }))),
  // LAHF behind them shows the flags.
  ...([[[], 's', 32], [[0x66], 'd', 64]] as const).flatMap(([prefix, name, bits]) => ([[0x2e, 'ucomis'], [0x2f, 'comis']] as const).map(([opcode, what]): Operation => ({ name: what + name, bytes: [...prefix, 0x0f, opcode, 0xc1, 0x9f], bits, toGeneral: true }))),
];

/** One in `odd` is anything at all; the rest are near one another, whole numbers among them. */
function operand(dice: Dice, bits: 32 | 64, odd: number): bigint {
  const [fraction, bias] = bits === 32 ? [23, 127] : [52, 1023];
  const noise = ((BigInt(dice.u32()) << 32n) | BigInt(dice.u32())) >> BigInt(64 - bits);
  if (dice.below(odd) === 0) return dice.pick([noise, 0n, 1n << BigInt(bits - 1), (BigInt(2 * bias + 1) << BigInt(fraction)) | (noise & 1n) << BigInt(fraction - 1), noise & ((1n << BigInt(fraction)) - 1n), (1n << BigInt(fraction)) | (noise & 3n), BigInt(2 * bias) << BigInt(fraction)]);
  const rest = noise & ((1n << BigInt(fraction)) - 1n);
  const kept = dice.chance(50) ? rest : (rest >> BigInt(fraction - 4)) << BigInt(fraction - 4);
  // A root wants no sign.
  const sign = odd > PAIRS * 100 ? 0 : dice.below(2);
  return (BigInt(sign) << BigInt(bits - 1)) | (BigInt(bias - 6 + dice.below(dice.chance(80) ? 16 : 60)) << BigInt(fraction)) | kept;
}

type Tier = 'evaluate' | 'translate';
function machineOf(tier: Tier) {
  const machine = new MachineMemory({ frameCount: 64, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0x07880000], tier });
  cpu.setCr(4, 0x600);
  return { machine, cpu };
}
type Side = ReturnType<typeof machineOf>;

/** A loop over pairs of operands, and HLT. */
function run({ machine, cpu }: Side, operation: Operation, mxcsr: number, odd: number, seed: number): string {
  const result = operation.toGeneral === true ? [0x89, 0x07] : [0x0f, 0x11, 0x07];
  const body = [0x0f, 0x10, 0x06, 0x0f, 0x10, 0x4e, 0x10, ...operation.bytes, ...result, 0x83, 0xc6, 0x20, 0x83, 0xc7, 0x10, 0x49];
  machine.writeBytes(CODE, Uint8Array.from([0xbe, ...imm32(OPERANDS), 0xbf, ...imm32(RESULTS), 0xb9, ...imm32(PAIRS), ...body, 0x75, -(body.length + 2) & 0xff, 0xf4]));
  const dice = new Dice(seed);
  const bytes = new DataView(new ArrayBuffer(PAIRS * 32));
  for (let at = 0; at < bytes.byteLength; at += operation.bits / 8) {
    const image = operand(dice, operation.bits, odd);
    if (operation.bits === 64) bytes.setBigUint64(at, image, true);
    else bytes.setUint32(at, Number(image), true);
  }
  machine.writeBytes(OPERANDS, new Uint8Array(bytes.buffer));
  cpu.core.set32(STATE.mxcsr, mxcsr);
  cpu.setEip(CODE);
  return JSON.stringify(cpu.run(1_000_000));
}
/** What an instruction may change. */
const outcome = ({ machine, cpu }: Side): string =>
  `${cpu.eip().toString(16)} ${cpu.eflags().toString(16)} ${cpu.retired()} ${cpu.core.get32(STATE.mxcsr).toString(16)} ${Buffer.from(machine.readBytes(RESULTS, PAIRS * 16)).toString('hex')}`;

const MXCSRS = [0x1fa0, 0x1f80, 0x1fbf, 0x3fa0, 0x5fa0, 0x9fe0, 0x1fa0 & ~0x1000, 0x1fa0 & ~0x80] as const;

describe('what rounds', () => {
  test('gives the same in both tiers', () => {
    const [left, right] = [machineOf('evaluate'), machineOf('translate')];
    OPERATIONS.forEach((operation, i) => {
      // As the inline form wants it, and each time one of the others.
      for (const [mxcsr, odd] of [[0x1fa0, 4], [0x1fa0, 40], [MXCSRS[i % MXCSRS.length] as number, 9]] as const) {
        const exits = [left, right].map((side) => run(side, operation, mxcsr, odd, 100 + i));
        const title = `${operation.name}, MXCSR ${mxcsr.toString(16)}, one in ${odd}`;
        expect(exits[1], title).toBe(exits[0]);
        expect(outcome(right), title).toBe(outcome(left));
      }
    });
    expect(right.cpu.saveState()).toEqual(left.cpu.saveState());
  });

  test('is computed in translated code if the numbers are ordinary', () => {
    const side = machineOf('translate');
    for (const operation of OPERATIONS) {
      const before = side.cpu.counters.evaluatedInsns;
      expect(run(side, operation, 0x1fa0, 1_000_000, 7), operation.name).toBe('{"kind":"halt"}');
      // The first turn, and numbers that leave a format's range.
      expect(side.cpu.counters.evaluatedInsns - before, operation.name).toBeLessThan(2 * PAIRS);
    }
  });
});
