// Ten mistakes, planted one at a time (src/abi/planted.ts): each is found by exploring seeds, comes down to at
// most five choices and faults, and replays from the recording of those. Without one, nothing is found.
import { describe, expect, test } from 'vitest';
import { PLANTED_BUGS, type PlantedBug } from '../../src/abi/planted.ts';
import { subjectOf } from '../../src/node/explore-worker.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { exploreSeed } from '../../src/replay/explore.ts';
import { CALM, choicesFor } from '../../src/replay/plan.ts';
import { runPlanned, type RunSubject } from '../../src/replay/planned-run.ts';
import { decidingEvents, placeAnswers, shrinkPlan } from '../../src/replay/shrink-plan.ts';
import { applySettings } from '../../src/sim/settings.ts';
import { recordBoot, replayBytes } from './boots.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const MOST_SEEDS = 60;
const MOST_ANSWERS = 5;
/** A ring, the store, the order of answers: those that are found and made small at once. */
const SAMPLE: readonly PlantedBug[] = ['no-final-check', 'watch-after-read', 'flush-reordered'];

async function planted(bug: PlantedBug | undefined): Promise<RunSubject> {
  await loadHashes();
  const plain = await findScenario('planted');
  return subjectOf({ ...plain, spec: applySettings(plain.spec, bug === undefined ? [] : [`bug=${bug}`]) });
}

const explored = (subject: RunSubject, seed: number) => exploreSeed(subject, 'random', seed, new Map()).run;
const seedsTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);

test('there are ten, and no seed fails without one of them', async () => {
  expect(PLANTED_BUGS).toHaveLength(10);
  const subject = await planted(undefined);
  expect(seedsTo(LONG ? 500 : 12).filter((seed) => explored(subject, seed).cause !== undefined)).toEqual([]);
}, 600_000);

describe.each(LONG ? PLANTED_BUGS : SAMPLE)('%s', (bug) => {
  test('hides on the calmest run, is found, made small, and replays', async () => {
    const subject = await planted(bug);
    expect(runPlanned(subject, choicesFor('1', CALM)).cause).toBeUndefined();
    const seed = seedsTo(MOST_SEEDS).find((each) => explored(subject, each).cause !== undefined);
    expect(seed, 'no seed fails').toBeDefined();
    const shrunk = shrinkPlan(subject, choicesFor(String(seed), undefined), { base: 'calm', seed: String(seed) });
    expect(shrunk).toMatchObject({ minimal: true, run: { cause: explored(subject, seed as number).cause } });
    const { plan } = shrunk as NonNullable<typeof shrunk>;
    expect(plan.answers.length).toBeGreaterThan(0);
    expect(plan.answers.length).toBeLessThanOrEqual(MOST_ANSWERS);
    expect(placeAnswers(subject, String(seed), plan)).toHaveLength(plan.answers.length);
    expect(decidingEvents(subject, String(seed), plan)?.a.line).toMatch(/\S/);
    const boot = await recordBoot('planted', { seed: String(seed), plan, change: () => subject.spec });
    expect(boot.world.ended?.outcome).toBe(shrunk?.run.outcome);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  }, 600_000);
});
