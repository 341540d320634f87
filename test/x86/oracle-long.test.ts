// 64-bit user code: every vector that the real processor gave, on both tiers (oracle.test.ts does so for 32 bits).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { LONG_GROUPS, makeLongCases } from '../oracle/long/cases.ts';
import { runLongLive } from '../oracle/long/live.ts';
import { compareLong, describeLong, LongMachine } from '../oracle/long/machine.ts';
import { formatLong, type LongVector, parseLong } from '../oracle/long/vector.ts';
import { whyNotLive } from '../oracle/live.ts';

const SHOWN = 12;

function load(group: string): LongVector[] {
  const raw = readFileSync(join(import.meta.dirname, '..', 'oracle', 'vectors', `${group}.txt.gz`));
  return gunzipSync(raw).toString('latin1').trimEnd().split('\n').map(parseLong);
}

function check(machine: LongMachine, vectors: readonly LongVector[], slice?: number): void {
  const reports: string[] = [];
  let wrong = 0;
  vectors.forEach((vector, i) => {
    const differences = compareLong(vector, machine.run(vector.input, slice));
    if (differences.length === 0) return;
    wrong++;
    if (reports.length < SHOWN) reports.push(`${i + 1}: ${describeLong(vector.input)}\n   ${differences.join('; ')}\n   ${formatLong(vector)}`);
  });
  if (wrong > 0) throw new Error(`${wrong} of ${vectors.length} vectors differ:\n${reports.join('\n')}`);
}

describe.each(['evaluate', 'interpret', 'translate'] as const)('with the tier set to %s,', (tier) => {
  const machine = new LongMachine(tier);
  test.each(LONG_GROUPS.map(({ name }) => name))('%s does what the real processor did', (name) => {
    check(machine, load(name));
  });
  test('stopping after every instruction and going on changes nothing', () => {
    for (const name of ['long-strings', 'long-branches']) check(machine, load(name), 1);
  });
});

test('a 64-bit vector survives being written and read', () => {
  for (const { name } of LONG_GROUPS) for (const vector of load(name).filter((_, i) => i % 50 === 0)) expect(parseLong(formatLong(vector))).toEqual(vector);
});

test('the comparison notices every kind of difference', () => {
  const vector = parseLong('4801d8 r1 f2 rax=1 rbx=2 m7f0012340010=0102 > . f6 rax=3 m7f0012340020=05 n1');
  const { outcome } = vector;
  expect(compareLong(vector, outcome)).toEqual([]);
  for (const other of [
    { ...outcome, regs: BigUint64Array.from(outcome.regs, (value, i) => (i === 15 ? value ^ (1n << 63n) : value)) }, { ...outcome, eflags: 2 }, { ...outcome, rip: -1 }, { ...outcome, memory: [] }, { ...outcome, retired: 2 },
    { ...outcome, exception: { vector: 13, errorCode: 0, cr2: 0 } }, 'left with budget',
  ]) expect(compareLong(vector, other)).toHaveLength(1);
});

test('fresh 64-bit cases do on the core what this machine\'s processor does with them', { timeout: 900_000 }, (context) => {
  if (process.env['REXEN_DEPTH'] !== 'long') return context.skip('only with REXEN_DEPTH=long');
  const why = whyNotLive(true);
  if (why !== undefined) return context.skip(why);
  for (let salt = 1; salt <= 3; salt++) {
    for (const group of LONG_GROUPS) {
      const cases = makeLongCases(group, salt);
      const vectors = runLongLive(cases).map((outcome, i): LongVector => ({ input: cases[i] as LongVector['input'], outcome }));
      for (const tier of ['evaluate', 'interpret', 'translate'] as const) check(new LongMachine(tier), vectors);
    }
  }
});
