// Choice plans: the text is the plan, a plan changes the answers it names and no other, a recording knows its
// plan, and what is left after shrinking cannot be shrunk.
import { expect, test, describe } from 'vitest';
import { ddmin } from '../../src/replay/ddmin.ts';
import { choicesFor, parsePlan, planText, PlannedChoices, TracedChoices } from '../../src/replay/plan.ts';
import { runPlanned } from '../../src/replay/planned-run.ts';
import { decidingEvents, placeAnswers, shrinkPlan } from '../../src/replay/shrink-plan.ts';
import { PrngStream } from '../../src/base/prng.ts';
import type { ModelGuest } from '../../src/guest/index.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { applySettings } from '../../src/sim/settings.ts';
import { imagesOf } from './boots.ts';

describe('the text of a plan', () => {
  test.each(['', 'calm', 'calm,scheduler.next#12=1,fault.block.error#3=1', 'disk.latency#1=15'])('%j is read and printed alike', (text) => {
    expect(planText(parsePlan(text))).toBe(text);
  });
  test.each(['scheduler.next', 'scheduler.next#0=1', 'scheduler.next#1=1,scheduler.next#1=2', 'what#1=1', 'scheduler.next#1=-1', 'scheduler.next#1=1,calm', 'scheduler.next#1=99999999999'])('%j is refused in one sentence', (text) => {
    expect(() => parsePlan(text)).toThrow(/^--plan: [^\n]+$/);
  });
});

describe('planned choices', () => {
  test('change the named answer and shift no other', () => {
    const [seeded, planned] = [new SeededChoices('7'), new PlannedChoices('7', parsePlan('net.latency#2=3'))];
    const ask = (choices: typeof seeded | typeof planned): number[] => Array.from({ length: 6 }, (_, index) => choices.pick(index % 2 === 0 ? 'net.latency' : 'disk.latency', 16));
    const [one, other] = [ask(seeded), ask(planned)];
    expect(other).toEqual(one.map((answer, index) => (index === 2 ? 3 : answer)));
    expect(one[2]).not.toBe(3);
  });
  test('an answer that the question does not have here is none', () => {
    expect(new PlannedChoices('7', parsePlan('calm,scheduler.next#1=5')).pick('scheduler.next', 2)).toBe(0);
  });
  test('go on after a restore as if nothing had happened', () => {
    const plan = parsePlan('calm,net.latency#3=9');
    const choices = new PlannedChoices('1', plan);
    choices.pick('net.latency', 16);
    const other = new PlannedChoices('1', plan);
    other.restore(JSON.parse(JSON.stringify(choices.save())));
    expect([other.pick('net.latency', 16), other.pick('net.latency', 16)]).toEqual([0, 9]);
  });
  test('the deviations of a run are its plan', () => {
    const traced = new TracedChoices(new SeededChoices('5'), new PlannedChoices('1', parsePlan('')));
    const answers = Array.from({ length: 40 }, () => traced.pick('scheduler.next', 3));
    const again = new PlannedChoices('1', { base: 'seed', answers: traced.deviations });
    expect(Array.from({ length: 40 }, () => again.pick('scheduler.next', 3))).toEqual(answers);
    expect(traced.deviations.length).toBeLessThan(40);
  });
});

describe('delta debugging', () => {
  test('finds a 1-minimal list, whatever fails', () => {
    const stream = new PrngStream('ddmin', 'test');
    for (let round = 0; round < 100; round++) {
      // Fails if it has all members of any of a few sets, or an odd number above 20 of them: not monotone.
      const sets = Array.from({ length: 1 + stream.below(3) }, () => Array.from({ length: 1 + stream.below(5) }, () => stream.below(60)));
      const fails = (members: readonly number[]): boolean => sets.some((set) => set.every((each) => members.includes(each))) || (members.length > 20 && members.length % 2 === 1);
      const all = Array.from({ length: 60 }, (_, index) => index);
      const found = ddmin(all, fails);
      expect(found.verified).toBe(true);
      expect(fails(found.members)).toBe(true);
      for (const left of found.members) expect(fails(found.members.filter((each) => each !== left))).toBe(false);
    }
  });
  test('says so if the limit came first', () => {
    expect(ddmin(Array.from({ length: 100 }, (_, index) => index), (members) => [3, 50, 90].every((each) => members.includes(each)), 10)).toMatchObject({ verified: false, tests: 10 });
  });
  test('nothing at all can be the smallest list', () => {
    expect(ddmin([1, 2, 3], () => true)).toMatchObject({ members: [], verified: true });
  });
});

describe('a failing run of our guest', () => {
  test('comes down to the one request that was refused', async () => {
    const { spec: plain, expect: expected } = await findScenario('pv-i386-pae');
    const spec = applySettings(plain, ['faults=xenstore.access:6,upcall.delay:8,xenstore.slow:9']);
    const subject = { spec, images: (await imagesOf(spec)).domains, expect: expected };
    const failing = (): PlannedChoices => new PlannedChoices('3', parsePlan('calm,fault.upcall.delay#1=127,fault.xenstore.access#3=5,fault.xenstore.slow#5=143'));
    const whole = runPlanned(subject, failing());
    const found = shrinkPlan(subject, failing(), { base: 'calm', seed: '3' });
    expect(found).toMatchObject({ minimal: true, deviations: 3, run: { cause: whole.cause } });
    const { plan } = found as NonNullable<typeof found>;
    expect(plan.answers.map(({ name }) => name)).toEqual(['fault.xenstore.access']);
    expect(runPlanned(subject, choicesFor('3', parsePlan(planText(plan)))).cause).toBe(whole.cause);
    expect(runPlanned(subject, choicesFor('3', parsePlan('calm'))).cause).toBeUndefined();
    expect(placeAnswers(subject, '3', plan)).toMatchObject([{ choice: planText(plan).slice('calm,'.length), position: expect.stringMatching(/^\d+:d1v0:\d+$/) }]);
    expect(decidingEvents(subject, '3', plan)?.a.line).toContain('fault name=fault.xenstore.access');
  });

  test('comes down to the write that overtook another one', async () => {
    const { spec: plain, expect: expected } = await findScenario('block');
    const steps = [{ do: 'write', page: 0, pages: 5, value: 1, ahead: true }, { do: 'write', page: 0, pages: 5, value: 2 }, { do: 'check', page: 0, pages: 5, value: 2 }] as const;
    const domains = plain.domains.map((domain) => ({ ...domain, model: { ...(domain.model as ModelGuest), drivers: { disks: [{ disk: 'xvda', steps }] } } }));
    const spec = applySettings({ ...plain, domains }, ['faults=block.reorder:2,block.short:1000,grant.grow:2']);
    const subject = { spec, images: (await imagesOf(spec)).domains, expect: expected };
    const failing = (): PlannedChoices => new PlannedChoices('3', parsePlan('calm,fault.block.reorder#1=1,fault.grant.grow#1=1,backend.latency#2=7'));
    const found = shrinkPlan(subject, failing(), { base: 'calm', seed: '3' });
    expect(found).toMatchObject({ minimal: true, run: { cause: expect.stringContaining('all steps done') } });
    expect(planText((found as NonNullable<typeof found>).plan)).toBe('calm,fault.block.reorder#1=1');
  });
});
