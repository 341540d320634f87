// The paravirt_ops guest's property holds, its planted bugs are found and made small, and late pinning
// is the cheaper one. What the property asks of a program: the table in README.md, section 2.
import { describe, expect, test } from 'vitest';
import { PINNING_BUGS } from '../../src/guest/xen/state.ts';
import { forkStorm } from '../../src/guest/workloads.ts';
import type { UserStep } from '../../src/guest/user-program.ts';
import { assertGuestProperty, checkGuestProperty, expectedHistories, GUEST_SETUPS, guestProblems, pinningCosts } from '../../src/testing/index.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const HEAP = 0x1000_0000;

const stepsIn = (program: readonly UserStep[]): number =>
  program.reduce((sum, step) => sum + 1 + (step.op === 'fork' ? stepsIn(step.child) : step.op === 'exec' ? stepsIn(step.program) : 0), 0);

describe('memory of user processes', () => {
  test('is the same under all back ends and both shapes of tables, and nothing is refused or left behind', { timeout: 3_600_000 }, () => {
    assertGuestProperty(LONG ? { runs: 10_000, seed: 2007 } : { runs: 8, seed: 2007 });
  });

  test('is what the model says: copies, faults, protections', () => {
    const program: UserStep[] = [
      { op: 'mmap', at: HEAP, pages: 2, prot: 'rw' }, { op: 'store', at: HEAP, value: 5 }, { op: 'mprotect', at: HEAP, pages: 1, prot: 'r' }, { op: 'store', at: HEAP, value: 6 },
      { op: 'fork', child: [{ op: 'load', at: HEAP }, { op: 'mprotect', at: HEAP, pages: 1, prot: 'rw' }, { op: 'store', at: HEAP, value: 7 }, { op: 'load', at: HEAP }] },
      { op: 'wait' }, { op: 'load', at: HEAP }, { op: 'munmap', at: HEAP, pages: 1 }, { op: 'load', at: HEAP }, { op: 'mprotect', at: HEAP, pages: 1, prot: 'r' },
    ];
    expect(Object.fromEntries(expectedHistories(program))).toEqual({
      '0': ['mmap', 'mprotect', 'fault 0x10000000', 'fork', 'wait 0.0', 'load 0x10000000 = 0x5', 'munmap', 'fault 0x10000000', 'mprotect failed -12', 'exit'],
      '0.0': ['load 0x10000000 = 0x5', 'mprotect', 'load 0x10000000 = 0x7', 'exit'],
    });
    expect(guestProblems(program)).toEqual([]);
  });

  test('survives a storm of forks', () => {
    expect(guestProblems(forkStorm(LONG ? 4 : 2, 3), GUEST_SETUPS.slice(0, 4), { memoryMib: LONG ? 32 : 6 })).toEqual([]);
  });
});

describe('the kernel’s pinning discipline with a mistake', () => {
  test.each(PINNING_BUGS)('%s is found and made small', (bug) => {
    for (const paging of ['pae', 'nopae'] as const) {
      const { failure } = checkGuestProperty({ runs: 100, seed: 1, setups: [{ name: bug, backend: 'xen', paging, pinning: 'late', bug }] });
      expect(failure, `${bug} ${paging}`).toBeDefined();
      expect(stepsIn(failure?.program ?? [])).toBeLessThanOrEqual(5);
      expect(failure?.problems[0]).toMatch(/refused|page fault of the kernel|pinned at the end/);
    }
  });
});

test('late pinning never takes more hypercalls than early pinning, nor more requests', () => {
  const costs = pinningCosts(LONG ? 10 : 2);
  expect(costs).toHaveLength(24);
  for (const early of costs.filter(({ setup }) => setup.endsWith('early pinning'))) {
    const late = costs.find(({ setup, workload }) => workload === early.workload && setup === early.setup.replace('early', 'late'));
    expect(late?.hypercalls, `${early.workload}, ${early.setup}`).toBeLessThanOrEqual(early.hypercalls);
    expect(late?.requests, `${early.workload}, ${early.setup}`).toBeLessThanOrEqual(early.requests);
  }
});
