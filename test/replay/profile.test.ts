// What --profile says: where the time of a run went, by a clock of the test's own.
import { beforeAll, expect, test } from 'vitest';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { loadImages } from '../../src/node/load-images.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { profileOf, TimedSink } from '../../src/replay/profile.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';

beforeAll(loadHashes);

test('what is logged while no vCPU has its turn is not taken off the hypervisor, which had no part in it', async () => {
  const { spec } = await findScenario('pv-i386-pae');
  const images = await loadImages(spec);
  for (const maxInstructions of [1, 300_000]) {
    let nowMs = 0;
    let timed: TimedSink | undefined;
    const world = buildWorld({
      spec: { ...spec, maxInstructions }, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
      clock: () => ++nowMs,
      // Slow at its work, which begins with the domain that is built.
      sink: (made) => (timed = new TimedSink({ event: () => { nowMs += 1000; } }, () => ++nowMs, made)),
    });
    world.advance(Infinity);
    const profile = profileOf(world, timed)!;
    expect(profile.loggingMs).toBeGreaterThan(1000);
    expect(profile.loggingMs - timed!.insideMs).toBeGreaterThanOrEqual(1000);
    expect(profile.hypervisorMs).toBeGreaterThanOrEqual(0);
    // Two readings of the clock a turn are all that the hypervisor takes here, and all that logging does not.
    expect(profile.hypervisorMs).toBeLessThan(profile.loggingMs);
  }
});
