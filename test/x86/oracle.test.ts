// User-mode instructions: every vector that the real processor gave, on every tier of the core.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { createCpu } from '../../src/x86/create.ts';
import { PF_ERR } from '../../src/x86/exit.ts';
import { compareOutcome, CoreMachine, describeCase } from '../oracle/core-machine.ts';
import { GROUPS, makeCases } from '../oracle/groups.ts';
import { runLive, whyNotLive } from '../oracle/live.ts';
import { formatVector, parseVector, type Vector } from '../oracle/vector.ts';

const long = process.env['REXEN_DEPTH'] === 'long';
const SHOWN = 12;

function load(group: string): Vector[] {
  const raw = readFileSync(join(import.meta.dirname, '..', 'oracle', 'vectors', `${group}.txt.gz`));
  return gunzipSync(raw).toString('latin1').trimEnd().split('\n').map(parseVector);
}

/** Throws with the first mismatches, spelled out, and the count of all. */
function check(machine: CoreMachine, vectors: readonly Vector[], slice?: number): void {
  const reports: string[] = [];
  let wrong = 0;
  vectors.forEach((vector, i) => {
    const differences = compareOutcome(vector, machine.run(vector.input, slice));
    if (differences.length === 0) return;
    wrong++;
    if (reports.length < SHOWN) reports.push(`${i + 1}: ${describeCase(vector.input)}\n   ${differences.join('; ')}\n   ${formatVector(vector)}`);
  });
  if (wrong > 0) throw new Error(`${wrong} of ${vectors.length} vectors differ:\n${reports.join('\n')}`);
}

describe.each(['evaluate', 'translate'] as const)('with the tier set to %s,', (tier) => {
  const machine = new CoreMachine(createCpu, tier);
  test.each(GROUPS.map((group) => group.name))('%s does what the real processor did', (name) => {
    check(machine, load(name));
  });

  test.each([1, 3])('stopping after every %d instructions and going on changes nothing', (slice) => {
    for (const name of ['strings', 'branches', 'self-modifying', 'page-crossing', 'single-step']) check(machine, load(name), slice);
    check(machine, load('sequences').filter((_, i) => i % 4 === 0), slice);
  });

  if (tier === 'translate') {
    test('most of it is translated code', () => {
      const translating = new CoreMachine(createCpu, tier);
      check(translating, load('sequences').slice(0, 500));
      const { evaluatedInsns, translatedInsns } = translating.cpu.counters ?? { evaluatedInsns: 1, translatedInsns: 0 };
      expect(translatedInsns).toBeGreaterThan(20 * evaluatedInsns);
    });
  }

  // The processor that was asked ran its 32-bit code in long mode, after all.
  test('compatibility code in long mode is no different', () => {
    const compatible = new CoreMachine(createCpu, tier, 'four-level');
    for (const { name } of GROUPS) if (!name.startsWith('x87') && !name.startsWith('simd')) check(compatible, load(name).filter((_, i) => i % 5 === 0));
  });

  test('two-level page tables serve as well as PAE', () => {
    const twoLevel = new CoreMachine(createCpu, tier, 'two-level');
    // Without NX a fetch from data does not fault, and no fault names the fetch.
    const noFetch = ({ outcome }: Vector): boolean => outcome.exception?.vector !== 14 || (outcome.exception.errorCode & PF_ERR.fetch) === 0;
    for (const name of ['strings', 'stack', 'segment-limits', 'alignment', 'bits']) check(twoLevel, load(name).filter(noFetch));
  });
});

test('a vector survives being written and read', () => {
  for (const { name } of GROUPS) {
    for (const vector of load(name).filter((_, i) => i % 50 === 0)) expect(parseVector(formatVector(vector))).toEqual(vector);
  }
});

test('the comparison notices every kind of difference', () => {
  const vector = parseVector('01d8 r1 f2 eax=1 ebx=2 m20010=0102 > . f3 eax=3 m20020=05 n1');
  const { outcome } = vector;
  expect(compareOutcome(vector, outcome)).toEqual([]);
  const changed = { regs: Uint32Array.from(outcome.regs, (value, i) => (i === 7 ? value ^ 1 : value)) };
  for (const other of [
    { ...outcome, ...changed }, { ...outcome, eflags: 2 }, { ...outcome, eip: 0 }, { ...outcome, memory: [] }, { ...outcome, retired: 2 },
    { ...outcome, segs: [0, ...outcome.segs.slice(1)] }, { ...outcome, exception: { vector: 13, errorCode: 0, cr2: 0 } }, 'left with budget',
  ]) expect(compareOutcome(vector, other)).toHaveLength(1);
});

test('fresh cases do on the core what this machine\'s processor does with them', (context) => {
  if (!long) return context.skip('only with REXEN_DEPTH=long');
  const why = whyNotLive(true);
  if (why !== undefined) return context.skip(why);
  // Where no 32-bit programs run, those cases that mean the same in 64-bit mode.
  const narrow = whyNotLive() === undefined;
  const groups = GROUPS.filter(({ anyMode }) => narrow || anyMode === true);
  const machine = new CoreMachine(createCpu, 'evaluate'), translated = new CoreMachine(createCpu, 'translate');
  for (let salt = 1; salt <= 3; salt++) {
    for (const group of groups) {
      const cases = makeCases(group, salt);
      const vectors = runLive(cases).map((outcome, i): Vector => ({ input: cases[i] as Vector['input'], outcome }));
      check(machine, vectors);
      check(translated, vectors);
    }
  }
}, 900_000);
