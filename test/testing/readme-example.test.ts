// The example of README, word for word but for the import (see readme.test.ts).
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { answerCode, play, type Step } from '../../src/testing/index.ts';

// The allocator under test: frames for page tables, read-only and pinned while they are tables.
class TableAllocator {
  readonly steps: Step[] = [];
  readonly #free = [0, 1, 2, 3];
  readonly #used: number[] = [];
  alloc(): void {
    const f = this.#free.shift();
    if (f === undefined) return;
    this.#used.push(f);
    this.steps.push({ op: 'uvm', va: `v${f}`, val: `f${f}:61`, fl: 2 }, { op: 'ext', req: [['pin_l1', `f${f}`]] });
  }
  release(): void {
    const f = this.#used.shift();
    if (f === undefined) return;
    this.#free.push(f);
    this.steps.push({ op: 'ext', req: [['unpin', `f${f}`]] }, { op: 'uvm', va: `v${f}`, val: `f${f}:63`, fl: 2 }, { op: 'wr', va: `v${f}`, val: '0' });
  }
}

test('Xen never refuses the allocator, and no invariant breaks', () => {
  fc.assert(fc.property(fc.constantFrom('pv64', 'pv32pae'), fc.array(fc.boolean(), { maxLength: 40 }), (shape, deeds) => {
    const tables = new TableAllocator();
    for (const isAlloc of deeds) isAlloc ? tables.alloc() : tables.release();
    const refused = (_: unknown, step: Step, answer: unknown) => (answerCode(answer) < 0 ? [`refused: ${JSON.stringify(step)}`] : []);
    expect(play({ shape, preempt: 0, steps: tables.steps }, { afterStep: refused })).toBeUndefined();
  }), { seed: 7 });
});
