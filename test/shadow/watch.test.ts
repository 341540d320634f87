// The watch that `rexen check` keeps over a run asks the shadow-paging host too: a mistake of its pager is
// found while the world runs, at a flush or after an event; without one everything holds.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ModelGuest } from '../../src/guest/index.ts';
import type { UserStep } from '../../src/guest/user-program.ts';
import { brokenLines, CheckWatch, type BrokenInvariant, type CheckSummary } from '../../src/replay/check-watch.ts';
import type { ShadowPager } from '../../src/shadow/pager.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { modelKernelImage } from '../../src/sim/model/model-image.ts';
import { SPEC_DEFAULTS } from '../../src/sim/spec.ts';
import { GUEST_SETUPS, guestPrograms, type GuestSetup } from '../../src/testing/index.ts';
import { MISTAKES, PROGRAMS, UNSEEN } from './mistakes.ts';

const SETUPS = GUEST_SETUPS.filter(({ backend }) => backend !== 'native' && backend !== 'xen');

/** Runs a program with a watch, as live runs and replays do; `plant` spoils the host's pager first. */
function watched({ backend, paging }: GuestSetup, program: readonly UserStep[], plant: (pager: ShadowPager) => void = () => {}): CheckSummary {
  const watch = new CheckWatch('every');
  const model = { guest: 'paravirt', backend, paging, program } as ModelGuest;
  const world = buildWorld({
    spec: { ...SPEC_DEFAULTS, digestEveryInsns: 0, maxInstructions: 20_000_000, domains: [{ name: 'guest', kernel: { name: 'model:paravirt' }, model, cmdline: '', memoryMib: 6 }] },
    images: [{ kernel: modelKernelImage(model), ramdisk: undefined }], choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput([], domIdOf),
    observers: { quiescent: watch.quiescent }, sink: () => watch.wrap({ event: () => {} }),
  });
  watch.attach(world);
  plant((world.hosts.get(1) as { pager: ShadowPager }).pager);
  while (world.ended === undefined && world.sink?.over !== true) world.advance(1_000_000);
  return watch.finish();
}

describe('the watch of a run', () => {
  test.each(SETUPS)('holds on $name, whatever the processes do', (setup) => {
    for (const program of [...PROGRAMS, ...fc.sample(guestPrograms(), { numRuns: 1, seed: 5 })]) {
      const { broken, checks, shadowChecks = 0 } = watched(setup, program);
      expect(broken?.violations ?? []).toEqual([]);
      // Not only after events, but at each flush as well.
      expect(shadowChecks).toBeGreaterThan(checks);
    }
  });

  test.each([...MISTAKES, ...UNSEEN])('finds a host that %s', (what, backends, plant) => {
    const ofProcessor = /keeps the processor|flushes nothing/.test(what);
    for (const setup of SETUPS.filter(({ backend }) => backends.includes(backend))) {
      let found: BrokenInvariant | undefined;
      for (const program of PROGRAMS) found ??= watched(setup, program, plant).broken;
      expect(found?.violations[0], setup.name).toMatchObject({ checker: ofProcessor ? 'shadow-tlb' : 'shadows', where: 'd1', text: expect.stringMatching(ofProcessor ? /^the translation of 0x/ : /^the shadow at 0x/) });
      expect(brokenLines({ checks: 1, broken: found }).join('\n')).toMatch(ofProcessor ? /shadow-tlb: d1: the translation of 0x[^]*what should hold:\n  shadow-tlb: a processor on shadow/ : /shadows: d1: the shadow at 0x[^]*what should hold:\n  shadows: a shadow page table/);
    }
  });
});
