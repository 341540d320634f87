// The whole hypercall interface with random words, and programs whose words were mutated: no crash, no
// hang, and all checkers and laws hold when the program is over. 200,000 calls; 10 million in the long run.
import { expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { Player, programText, SHAPES, type Program, type Step } from '../../src/testing/index.ts';
import { program as memoryProgram } from '../hypervisor/mm-programs.ts';

const CALLS = process.env['REXEN_DEPTH'] === 'long' ? 10_000_000 : 200_000;
const CALLS_A_PROGRAM = 200;
/** Which argument of a batch is its count: multicall, grant_table_op, mmu_update, mmuext_op. */
const BATCHES: Readonly<Record<number, number>> = { 13: 1, 20: 2, 1: 1, 26: 1 };
const MOST_ELEMENTS = 3000;
/** sched_op stops the domain with 2 (shutdown); its other commands, and the same of the old call, may stay. */
const STOPPERS = new Set([6, 24, 29]);
const WORDS: readonly (number | string)[] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 24, 63, 64, 511, 512, 1023, 4095, 4096, 0x7ff0, 0x7ff1, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 'kernel', 'kernel', 'kernel+10', 'kernel+ff8', 'v0', 'v1+8', 'w0', 'gt', 'null', 'va:f5800000', 'va:ffff800000000000'];

function hypercall(prng: PrngStream): Step {
  const nr = prng.below(50) === 0 ? prng.u32() >>> 0 : prng.below(64);
  const args = Array.from({ length: 5 }, () => (prng.below(4) === 0 ? (prng.u32() >>> 0) % 2 ** (1 + prng.below(32)) : (WORDS[prng.below(WORDS.length)] as number | string)));
  const count = BATCHES[nr];
  if (count !== undefined) args[count] = prng.below(MOST_ELEMENTS);
  return { op: 'hc', nr, args };
}

/** A raw call as it may be made: a list of a million elements is no hang, only slow, and a domain that shut down makes no more calls. */
function tamed(step: Step): Step {
  if (step.op === 'multi') return { ...step, calls: (step['calls'] as readonly Step[]).map(tamed) };
  if (step.op !== 'hc') return step;
  const { nr, args } = step as Step & { readonly nr: number; readonly args: readonly (number | string)[] };
  const count = BATCHES[nr];
  return {
    ...step,
    args: args.map((arg, index) => {
      if (index === count && !(Number(arg) < MOST_ELEMENTS)) return MOST_ELEMENTS;
      return index === 0 && STOPPERS.has(nr) && arg === 2 ? 3 : arg;
    }),
  };
}

/** One character of a number or a name's index becomes another. */
function mutate(prng: PrngStream, step: Step): Step {
  const text = JSON.stringify(step);
  const places = [...text.matchAll(/(?<=[:"[,fvw])\d(?=[\d"\],:+}[])/g)].map(({ index }) => index);
  if (places.length === 0) return step;
  const at = places[prng.below(places.length)] as number;
  const changed = `${text.slice(0, at)}${prng.below(10)}${text.slice(at + 1)}`;
  const broken = /"val":"[1-9]"|,"[1-9]"\]|"[fv]1[2-9]|"f[2-9]\d|"[vw]\d{3}|[^0-9a-z]0\d|live_l[0456789]|l[05-9]"|scratch_l[^1]|foreign[3-9]|"d[^129]|kernel_l[^1]/.test(changed);
  return broken ? step : (JSON.parse(changed) as Step);
}

/** Garbage where argument structures are read from. */
const garbage = (prng: PrngStream): Step => ({ op: 'wr', va: `kernel+${(prng.below(64) * 8).toString(16)}`, val: `raw:${(prng.u32() >>> 0).toString(16)}` });

test('random and mutated words leave no crash, no hang and no broken invariant', { timeout: 36_000_000 }, () => {
  const player = new Player();
  let calls = 0;
  for (let n = 0; calls < CALLS; n++) {
    const prng = new PrngStream(`hypercalls:${n}`, 'fuzz');
    const known = memoryProgram(prng);
    const steps: Step[] = [];
    while (steps.length < CALLS_A_PROGRAM) {
      const kind = prng.below(10);
      steps.push(tamed(kind < 2 ? garbage(prng) : kind < 8 ? hypercall(prng) : mutate(prng, known[prng.below(known.length)] as Step)));
    }
    calls += steps.filter(({ op }) => op !== 'wr').length;
    const program: Program = { shape: SHAPES[n % SHAPES.length] as Program['shape'], preempt: prng.below(3), steps };
    const finding = player.play(program, { judgeAt: 'end' });
    if (finding !== undefined) expect.fail(`program ${n}: ${finding.problems.join('\n')}\n${programText(program)}`);
  }
  expect(calls).toBeGreaterThanOrEqual(CALLS);
});
