// What README shows of rexen/testing is what is tested, and its table names every mutant.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { IMPOSSIBLE, MUTANTS } from '../../src/testing/index.ts';

const ROOT = join(import.meta.dirname, '../..');
const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');

test('the example is the tested one, in under 30 lines of its own', () => {
  const tested = readFileSync(join(import.meta.dirname, 'readme-example.test.ts'), 'utf8').split('\n').slice(1).join('\n');
  expect(readme).toContain(tested.replace("'../../src/testing/index.ts'", "'rexen/testing'").trim());
  const lines = tested.trim().split('\n').filter((line) => line.trim() !== '' && !/^import |^\/\//.test(line));
  expect(lines.length).toBeLessThan(30);
});

test('the table has a row for every mutant, and a reason for every advisory that has none', () => {
  for (const { advisory, cause } of MUTANTS) expect(readme).toContain(`| ${advisory} | ${cause} | `);
  for (const { advisory, why } of IMPOSSIBLE) expect(readme).toContain(`- ${advisory}: ${why}.`);
});
