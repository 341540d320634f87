// Historical mistakes, brought back: the shipped property finds each (a sample here; all in the long run).
import { describe, expect, test } from 'vitest';
import { checkProperty, IMPOSSIBLE, MUTANTS, propertyByName, type Property } from '../../src/testing/index.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const SAMPLE = MUTANTS.filter((_, index) => LONG || index % 3 === 0);
/** The advisories from which the table chooses. */
const LIST = [45, 58, 109, 148, 167, 176, 182, 185, 212, 213, 214, 217, 224, 227, 228, 234, 236, 240, 241, 242, 248, 252, 286, 287, 290, 299, 310, 316, 317, 318, 340, 382, 394, 401, 411];

describe('the property "everything"', () => {
  test.each(SAMPLE.map((mutant) => [mutant.advisory, mutant.name, mutant] as const))('finds %s, %s, and makes it small', { timeout: 600_000 }, (_advisory, _name, { rules }) => {
    const { failure } = checkProperty(propertyByName('everything') as Property, { runs: 2000, seed: 1, rules });
    expect(failure?.operations).toBeLessThanOrEqual(12);
  });
});

test('every advisory of the list is a mutant or has a reason why it cannot be one', () => {
  const told = new Set([...MUTANTS, ...IMPOSSIBLE].map(({ advisory }) => advisory));
  expect(LIST.filter((number) => !told.has(`XSA-${number}`))).toEqual([]);
  expect(MUTANTS.filter(({ advisory }) => LIST.includes(Number(advisory.slice(4)))).length).toBeGreaterThanOrEqual(24);
  expect(new Set(MUTANTS.map(({ name }) => name)).size).toBe(MUTANTS.length);
});
