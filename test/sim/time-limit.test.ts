// A guest that only waits for its own timers comes to no end: virtual time has a limit as instructions have.
import { expect, test } from 'vitest';
import { findScenario } from '../../src/node/scenario-files.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { SPEC_DEFAULTS, specFrom } from '../../src/sim/spec.ts';
import { imagesOf } from '../replay/boots.ts';

/** The guest's own boot takes 5.6 ms. */
const LIMIT_SEC = 0.003;

test('the run ends at the limit, at the same place however the host slices it', async () => {
  const { spec } = await findScenario('pv-i386-pae');
  const { domains } = await imagesOf(spec);
  const run = (insnsAllowed: number): unknown => {
    const world = buildWorld({ spec: { ...spec, maxVirtualSec: LIMIT_SEC }, images: domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput([], domIdOf), observers: {} });
    for (;;) {
      const result = world.advance(insnsAllowed);
      if (result.kind === 'ended') return { outcome: result.outcome, text: result.text, nowNs: world.nowNs(), insns: world.insns(), events: world.eventCount };
    }
  };
  const whole = run(1_000_000_000);
  expect(whole).toMatchObject({ outcome: 'limit', text: expect.stringContaining('--set max-time=SECONDS') });
  expect((whole as { nowNs: number }).nowNs).toBeGreaterThanOrEqual(LIMIT_SEC * 1e9);
  expect((whole as { nowNs: number }).nowNs).toBeLessThan(5e6);
  expect(run(10_007)).toEqual(whole);
});

test('a spec out of a file is taken only if it is one', () => {
  const domain = { name: 'guest', kernel: { name: 'k' }, cmdline: '', memoryMib: 16 };
  expect(specFrom({ domains: [domain] })).toMatchObject({ ...SPEC_DEFAULTS, domains: [domain] });
  for (const bad of [
    undefined, null, 7, [], {}, { domains: [] }, { domains: 'x' }, { domains: [{ ...domain, memoryMib: '16' }] }, { domains: [{ ...domain, memoryMib: 1e9 }] }, { domains: [{ ...domain, kernel: 'k' }] },
    { domains: [domain], input: [{ domain: 'guest' }] }, { domains: [domain], nsPerInsn: { num: 0, den: 1 } }, { domains: [domain], timesliceInsns: 0 }, { domains: [domain], maxVirtualSec: 1e300 },
    { domains: [domain], xenBuild: 'other' },
  ]) expect(specFrom(bad), JSON.stringify(bad)).toBeUndefined();
});
