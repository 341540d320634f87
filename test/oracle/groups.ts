// The groups of vectors: a file each under vectors/, a seed each, what fills them.
import { alu, bcd, multiply, shifts } from './generate/arithmetic.ts';
import { bits, conditions, move, others } from './generate/data-transfer.ts';
import { Maker } from './generate/maker.ts';
import { farTransfers, refused, segmentLimits, segmentLoads } from './generate/segments.ts';
import { alignment, pageCrossing, selfModifying, sequences, singleSteps } from './generate/sequences.ts';
import { mmxIntegers, simdApproximations, simdArithmetic, simdControl, simdConversions, simdFaults, simdIntegers, simdUnmasked } from './generate/simd.ts';
import { branches, pushPop } from './generate/stack.ts';
import { strings } from './generate/strings.ts';
import { x87Arithmetic, x87Compares, x87Control, x87Faults, x87Functions, x87Moves, x87Transcendental } from './generate/x87.ts';
import type { Case } from './vector.ts';

export interface Group {
  readonly name: string;
  readonly seed: number;
  /** Operand size of the code segment. */
  readonly bits?: 16 | 32;
  readonly fill: (maker: Maker) => void;
  /** Also ask the processor, by single steps, how many instructions retired. */
  readonly count?: boolean;
  /** In the committed vectors keep one case in so many (live runs take all). */
  readonly thin?: number;
  /** Its cases mean the same in 64-bit mode. */
  readonly anyMode?: boolean;
}

export const GROUPS: readonly Group[] = [
  { name: 'alu', seed: 1, fill: alu },
  { name: 'shifts', seed: 2, fill: shifts },
  { name: 'multiply', seed: 3, fill: multiply },
  { name: 'bcd', seed: 4, fill: bcd },
  { name: 'move', seed: 5, fill: move },
  { name: 'conditions', seed: 6, fill: conditions },
  { name: 'bits', seed: 7, fill: bits },
  { name: 'stack', seed: 8, fill: pushPop },
  { name: 'branches', seed: 9, fill: branches, count: true },
  { name: 'strings', seed: 10, fill: strings, count: true },
  { name: 'segment-loads', seed: 11, fill: segmentLoads },
  { name: 'segment-limits', seed: 12, fill: segmentLimits },
  { name: 'far-transfers', seed: 13, fill: farTransfers },
  { name: 'refused', seed: 14, fill: refused },
  { name: 'sequences', seed: 15, fill: sequences, count: true },
  { name: 'single-step', seed: 16, fill: singleSteps },
  { name: 'alignment', seed: 17, fill: alignment },
  { name: 'self-modifying', seed: 18, fill: selfModifying, count: true },
  { name: 'page-crossing', seed: 19, fill: pageCrossing, count: true },
  { name: 'others', seed: 26, fill: others },
  { name: 'x87-arithmetic', seed: 30, fill: x87Arithmetic },
  { name: 'x87-functions', seed: 31, fill: x87Functions },
  { name: 'x87-moves', seed: 32, fill: x87Moves },
  { name: 'x87-compares', seed: 33, fill: x87Compares },
  { name: 'x87-control', seed: 34, fill: x87Control },
  { name: 'x87-faults', seed: 36, fill: x87Faults },
  { name: 'x87-transcendental', seed: 35, fill: x87Transcendental },
  { name: 'simd-integers', seed: 40, fill: simdIntegers, anyMode: true },
  { name: 'simd-control', seed: 41, fill: simdControl, anyMode: true },
  { name: 'simd-faults', seed: 42, fill: simdFaults, anyMode: true },
  { name: 'mmx-integers', seed: 43, fill: mmxIntegers, anyMode: true },
  { name: 'simd-arithmetic', seed: 44, fill: simdArithmetic, anyMode: true },
  { name: 'simd-conversions', seed: 45, fill: simdConversions, anyMode: true },
  { name: 'simd-unmasked', seed: 46, fill: simdUnmasked, anyMode: true },
  { name: 'simd-approximations', seed: 47, fill: simdApproximations, anyMode: true },
  { name: 'code16-alu', seed: 20, bits: 16, fill: alu, thin: 12 },
  { name: 'code16-move', seed: 21, bits: 16, fill: move, thin: 4 },
  { name: 'code16-stack', seed: 22, bits: 16, fill: pushPop, thin: 4 },
  { name: 'code16-strings', seed: 24, bits: 16, fill: strings, thin: 4 },
];

/** The cases of a group; another `salt` gives fresh ones. */
export function makeCases(group: Group, salt = 0): Case[] {
  const maker = new Maker((group.seed * 0x01000193) ^ Math.imul(salt, 0x9e3779b1), group.bits ?? 32);
  group.fill(maker);
  const { thin } = group;
  return thin === undefined || salt !== 0 ? maker.cases : maker.cases.filter((_, i) => (i * 7919) % thin === 0);
}
