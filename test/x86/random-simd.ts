// MMX, SSE and SSE2 instructions for random programs: every form of opcode, registers and memory, aligned or not.
import type { Dice } from './random-program.ts';

interface Forms {
  readonly prefixes: readonly (readonly number[])[];
  readonly opcodes: readonly number[];
  /** With an immediate byte. */
  readonly imm?: boolean;
  /** Memory only, or registers only. */
  readonly only?: 'mem' | 'reg';
}
const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const NONE: readonly number[] = [];
const OPERAND = [0x66];
const INTEGERS = [...range(0x60, 0x6b), ...range(0x74, 0x76), ...range(0xd1, 0xd5), ...range(0xd8, 0xdf), ...range(0xe0, 0xe5), ...range(0xe8, 0xef), ...range(0xf1, 0xf6), ...range(0xf8, 0xfe)];
const FORMS: readonly Forms[] = [
  { prefixes: [OPERAND], opcodes: INTEGERS },
  { prefixes: [OPERAND], opcodes: INTEGERS },
  { prefixes: [NONE], opcodes: INTEGERS },
  { prefixes: [OPERAND], opcodes: [0x6c, 0x6d] },
  { prefixes: [NONE, OPERAND], opcodes: [0x10, 0x11, 0x14, 0x15, 0x28, 0x29, ...range(0x54, 0x57)] },
  { prefixes: [NONE, OPERAND], opcodes: [0x12, 0x13, 0x16, 0x17, 0x2b], only: 'mem' },
  { prefixes: [NONE], opcodes: [0x12, 0x16], only: 'reg' },
  { prefixes: [NONE, OPERAND], opcodes: [0x50, 0xd7], only: 'reg' },
  { prefixes: [NONE, OPERAND, [0xf3]], opcodes: [0x6f, 0x7f] },
  { prefixes: [NONE, OPERAND], opcodes: [0x6e, 0x7e] },
  { prefixes: [OPERAND, [0xf3]], opcodes: [0xd6, 0x7e] },
  { prefixes: [NONE, OPERAND, [0xf2], [0xf3]], opcodes: [0x70], imm: true },
  { prefixes: [NONE, OPERAND], opcodes: [0xc4, 0xc6], imm: true },
  { prefixes: [NONE, OPERAND], opcodes: [0xc5], imm: true, only: 'reg' },
  { prefixes: [[0xf2], [0xf3]], opcodes: [0x10, 0x11] },
  { prefixes: [NONE, OPERAND, [0xf2], [0xf3]], opcodes: [0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f] },
  { prefixes: [NONE, OPERAND, [0xf2], [0xf3]], opcodes: [0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f] },
  { prefixes: [NONE, OPERAND, [0xf2], [0xf3]], opcodes: [0x5a, 0x2a, 0x2c, 0x2d] },
  { prefixes: [NONE, OPERAND], opcodes: [0x2e, 0x2f] },
  { prefixes: [NONE, OPERAND, [0xf3]], opcodes: [0x5b] },
  { prefixes: [OPERAND, [0xf2], [0xf3]], opcodes: [0xe6] },
  { prefixes: [NONE, OPERAND, [0xf2], [0xf3]], opcodes: [0xc2], imm: true },
  { prefixes: [NONE, [0xf3]], opcodes: [0x52, 0x53] },
];

/** REX bits before the opcode, behind a prefix. */
function withRex(head: readonly number[], rex: number): number[] {
  const at = head.indexOf(0x0f);
  return rex === 0 ? [...head] : [...head.slice(0, at), 0x40 | rex, ...head.slice(at)];
}

/** `memory`: bytes that point register b into the data window, and the ModRM and displacement for `reg` and b; `data`: an address there. `long`: with REX. */
export function simdInstruction(dice: Dice, memory: (reg: number) => { before: readonly number[]; modrm: readonly number[] }, data: number, long = false): number[] {
  const reg = dice.below(8);
  const rm = dice.below(8);
  const rex = long ? dice.below(16) : 0;
  // By a SIB byte without base and index, which means the same in 64-bit code.
  const absolute = [0x25, data & 0xff, (data >>> 8) & 0xff, (data >>> 16) & 0xff, data >>> 24];
  switch (dice.below(24)) {
    case 0: // Shifts by immediates.
      return [...(dice.chance(50) ? OPERAND : NONE), 0x0f, dice.pick([0x71, 0x72, 0x73]), 0xc0 | (dice.pick([2, 4, 6]) << 3) | rm, dice.below(70)];
    case 1:
      return [0x66, 0x0f, 0x73, 0xc0 | (dice.pick([3, 7]) << 3) | rm, dice.below(20)];
    case 2: { // MXCSR: mostly all masked; inexact already noted or not; any rounding.
      const mxcsr = dice.pick([0x1f80, 0x1fa0, 0x1fa0, 0x1fbf, 0x3fa0, 0x5f80, 0x7f80, 0x9fc0, 0x1f80 & ~(0x80 << dice.below(6))]);
      return [0xc7, 0x04, ...absolute, mxcsr & 0xff, mxcsr >> 8, 0, 0, 0x0f, 0xae, 0x14, ...absolute];
    }
    case 3:
      return dice.pick([[0x0f, 0x77], [0x0f, 0xae, 0x1c, ...absolute], [0xd9, 0xe8], [0xd9, 0xc0], [0x0f, 0xae, 0xf0], [0xdb, 0xe3]]);
    case 4: // Small whole numbers, so that there are some.
      return [...dice.pick([[0xf2], [0xf3]]), 0x0f, 0x2a, 0xc0 | (reg << 3) | dice.below(8)];
    case 5:
      return [0x66, 0x0f, 0xef, 0xc0 | (reg << 3) | reg];
    default: {
      const forms = dice.pick(FORMS);
      const head = [...dice.pick(forms.prefixes), 0x0f, dice.pick(forms.opcodes)];
      const imm = forms.imm === true ? [dice.chance(60) ? dice.below(8) : dice.below(256)] : [];
      if (forms.only === 'reg' || (forms.only !== 'mem' && dice.chance(65))) return [...withRex(head, rex & 13), 0xc0 | (reg << 3) | rm, ...imm];
      const { before, modrm } = memory(reg);
      return [...before, ...withRex(head, rex & 12), ...modrm, ...imm];
    }
  }
}
