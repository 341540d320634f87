// What a scenario expects of its domains' consoles, and what is said when it does not come.
import { expect, test } from 'vitest';
import { unmetExpectations } from '../../src/replay/planned-run.ts';
import { SPEC_DEFAULTS, type WorldSpec } from '../../src/sim/spec.ts';

const domain = (name: string) => ({ name, kernel: { name: 'k' }, cmdline: '', memoryMib: 16 });
const spec: WorldSpec = { ...SPEC_DEFAULTS, domains: [domain('first'), domain('second')] };
const CONSOLES = ['', 'one two', 'three four'];
const unmet = (wanted: Parameters<typeof unmetExpectations>[0]): string[] => unmetExpectations(wanted, 'poweroff', spec, (domId) => CONSOLES[domId] ?? '');

test.each<[Parameters<typeof unmetExpectations>[0], string[]]>([
  [{}, []],
  [{ outcome: 'poweroff', console: ['one', 'two'], consoles: { second: ['three', 'four'], first: ['two'] } }, []],
  [{ outcome: 'crash' }, ['the scenario expects the outcome crash, not poweroff']],
  [{ console: ['two', 'one'] }, ['the console never showed "one" after what came before it']],
  [{ console: ['three'] }, ['the console never showed "three"']],
  [{ consoles: { second: ['one'] } }, ['the console of second never showed "one"']],
  [{ consoles: { third: ['one'] } }, ['the scenario expects something of a domain third, which it does not have']],
])('%j', (wanted, sentences) => {
  expect(unmet(wanted)).toEqual(sentences);
});
