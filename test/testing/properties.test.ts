// The shipped properties hold on Xen's rules; what they print can be played again; programs stay valid
// when they are made smaller; an allocator that breaks the discipline is caught.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/base/assert.ts';
import { RECORDED_GRANT_RULES } from '../../src/hypervisor/grant-rules.ts';
import { PAGE_RULES } from '../../src/hypervisor/pte-rules.ts';
import { answerCode, assertInvariants, assertProperty, checkProperty, failureText, operationCount, parseProgram, play, Player, programs, programText, PROPERTIES, propertyByName, SHAPES, smallest, type Program, type Property, type Step } from '../../src/testing/index.ts';

const RUNS = process.env['REXEN_DEPTH'] === 'long' ? 50_000 : 400;
const named = (name: string): Property => propertyByName(name) as Property;
const WRITABLE_TABLES = { rules: { ...PAGE_RULES, writableTakesType: false } };

describe('the shipped properties', () => {
  test.each(PROPERTIES.map(({ name, claim }) => [name, claim]))('%s: %s', { timeout: 3_600_000 }, (name) => {
    assertProperty(name, { runs: RUNS, seed: 11 });
  });

  test('a broken rule is found, made small, printed, and found again from what was printed', () => {
    const result = checkProperty(named('page-tables'), { runs: 500, seed: 3, rules: WRITABLE_TABLES });
    const { failure } = result;
    if (failure === undefined) throw new Error('not found');
    expect(failure.operations).toBeLessThanOrEqual(4);
    const text = failureText(result).join('\n');
    expect(text).toContain('npx rexen check --property page-tables');
    const data = (/as data: (.*)/.exec(text) as RegExpExecArray)[1] as string;
    const again = parseProgram(data);
    expect(new Player(WRITABLE_TABLES).play(again)?.problems).toEqual(failure.problems);
    expect(play(again)).toBeUndefined();
  });

  test('a store through a stale translation into a freed frame is the guest\'s affair, also when judged at the end', () => {
    const steps: Step[] = [
      { op: 'wr', va: 'v1', val: 'raw:1' }, { op: 'mem', cmd: 'decrease', frames: ['f1'] }, { op: 'uvm', va: 'v1', val: '0', fl: 0 },
      { op: 'wr', va: 'v1+8', val: 'raw:5' }, { op: 'ext', req: [['tlb_flush_local', 'f0']] },
    ];
    for (const judgeAt of ['step', 'end'] as const) expect(play({ shape: 'pv64', preempt: 0, steps }, { judgeAt })).toBeUndefined();
  });

  test.each(SHAPES)('%s: a frame that d2 has come by may be reached through the entry that named it before', (shape) => {
    const steps: Step[] = [
      { op: 'uvm', va: 'v0', val: '0', fl: 2 }, { op: 'gxfer', frame: 'f0', dom: 'd2', ref: 11 }, { op: 'gcopy', req: [{ src: { ref: 14, dom: 'd2', off: 0 }, dst: { frame: 'f3', dom: 'self', off: 64 }, len: 16 }] },
      { op: 'gmap', req: [{ at: 'w0', flags: '2', ref: 14, dom: 'd2' }] },
    ];
    expect(play({ shape, preempt: 0, steps })).toBeUndefined();
  });

  test.each<readonly [string, Program]>([
    ['the name of the root goes to another frame', { shape: 'xen3-pae', preempt: 0, steps: [{ op: 'mem', cmd: 'increase', frames: ['root'] }] }],
    ['a flush is asked for on the vCPUs of an empty bitmap', { shape: 'pv64', preempt: 0, steps: [{ op: 'wr', va: 'v1+758', val: '0' }, { op: 'mmu', req: [['p', 'live_l1[0]', 'f1:67']] }, { op: 'uvm', va: 'v4', val: 'f4:61', fl: 9 }] }],
    ['the last element goes unheard behind an interrupted one', { shape: 'pv32pae', preempt: 1, steps: [{ op: 'mem', cmd: 'increase', frames: ['f5'] }, { op: 'ext', req: [['pin_l2', 'f5'], ['unpin', 'f5'], ['new_user_baseptr', 'f2']] }] }],
  ])('%s: no law speaks', (_what, program) => {
    expect(play(program)).toBeUndefined();
  });

  test.each(SHAPES)('%s: the second page of an LDT may be touched before its first', (shape) => {
    const readOnly = { op: 'uvm', va: 'v1', val: 'f1:61', fl: 2 };
    const steps: Step[] = [readOnly, { op: 'ext', req: [['set_ldt', 'v0', 513]] }, { op: 'ldt', offset: 4096 }, { op: 'ext', req: [['set_ldt', 'v0', 0]] }, { ...readOnly, val: 'f1:63' }];
    const answers: unknown[] = [];
    expect(play({ shape, preempt: 0, steps }, { afterStep: (_world, _step, answer) => (answers.push(answer), []) })).toBeUndefined();
    expect(answers.slice(2)).toEqual(['mapped', [0, 1], 0]);
  });

  test.each(SHAPES)('%s: DOMID_IO may be named as the owner whose machine-to-phys entry changes, as in Xen', (shape) => {
    expect(play({ shape, preempt: 0, steps: [{ op: 'mmu', req: [['m', 'vga', 'f2:97']], fd: 'io' }] })).toBeUndefined();
  });

  test.each(SHAPES)('%s: of a batch of copies, the recorded Xen asks the first element alone whose frame it names; ours asks each', (shape) => {
    const own = { frame: 'f2', dom: 'self', off: 0 };
    const steps: Step[] = [{ op: 'gcopy', req: [{ src: { ref: 255, dom: 'd2', off: 0 }, dst: own, len: 8 }, { src: { frame: 'secret', dom: 'd2', off: 0 }, dst: own, len: 8 }] }];
    const program = { shape, preempt: 0, steps };
    expect(play(program)).toBeUndefined();
    expect(new Player({ grantRules: RECORDED_GRANT_RULES }).play(program)?.problems[0]).toMatch(/a frame of another's named by number/);
  });

  test('the same seed plays the same programs', () => {
    const one = (): unknown => checkProperty(named('everything'), { runs: 300, seed: 5, rules: WRITABLE_TABLES });
    expect(one()).toEqual(one());
  });

  test('an unknown property is named with those that exist', () => {
    expect(() => assertProperty('nonsense')).toThrow(/nonsense; there are everything/);
  });
});

describe('programs', () => {
  test('survive being written and read', () => {
    fc.assert(fc.property(programs(), (program) => {
      expect(parseProgram(JSON.stringify(program))).toEqual(program);
      expect(programText(program).split('\n')).toHaveLength(program.steps.length + 1);
    }), { seed: 1, numRuns: 100 });
  });

  test('stay playable whatever is left out of them', () => {
    fc.assert(fc.property(programs({ maxDeeds: 6 }), fc.infiniteStream(fc.boolean()), (program, keep) => {
      const kept = { ...program, steps: program.steps.filter(() => keep.next().value === true) };
      expect(play(kept)).toBeUndefined();
    }), { seed: 2, numRuns: 150 });
  });

  test('shrink to what matters, inside batches too', () => {
    const step = (req: readonly string[]): Step => ({ op: 'ext', req: req.map((name) => [name, 'f0']) });
    const small = smallest({ shape: 'pv64', preempt: 3, steps: [step(['a']), step(['b', 'wanted', 'c']), step(['d'])] }, ({ steps }) => JSON.stringify(steps).includes('wanted'));
    expect(small).toEqual({ shape: 'pv64', preempt: 0, steps: [step(['wanted'])] });
    expect(operationCount(small)).toBe(1);
  });

  test.each(['', '[]', '{"shape":"arm","preempt":0,"steps":[]}', '{"shape":"pv64","preempt":-1,"steps":[]}', '{"shape":"pv64","preempt":0,"steps":[1]}'])('%j is refused with a sentence', (text) => {
    expect(() => parseProgram(text)).toThrow(UsageError);
  });

  test('run in a world that anyone may look at', () => {
    let looks = 0;
    play({ shape: 'pv32pae', preempt: 0, steps: [{ op: 'uvm', va: 'v1', val: '0', fl: 2 }] }, { afterStep: (world, _step, answer) => {
      assertInvariants(world);
      expect(answerCode(answer)).toBe(0);
      looks++;
      return [];
    } });
    expect(looks).toBe(1);
  });

  test('an allocator that maps a table writable before it unpins it is caught', () => {
    const steps: Step[] = [{ op: 'uvm', va: 'v0', val: 'f0:61', fl: 2 }, { op: 'ext', req: [['pin_l1', 'f0']] }, { op: 'uvm', va: 'v0', val: 'f0:63', fl: 2 }, { op: 'ext', req: [['unpin', 'f0']] }];
    const finding = play({ shape: 'pv64', preempt: 0, steps }, { afterStep: (_, step, answer) => (answerCode(answer) < 0 ? [`refused: ${step.op}`] : []) });
    expect(finding).toEqual({ step: 2, problems: ['refused: uvm'] });
  });
});
