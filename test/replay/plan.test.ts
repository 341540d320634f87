// Choice plans: the text is the plan, and a plan changes the answers it names and no other.
import { expect, test, describe } from 'vitest';
import { parsePlan, planText, PlannedChoices, TracedChoices } from '../../src/replay/plan.ts';
import { SeededChoices } from '../../src/sim/choices.ts';

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
