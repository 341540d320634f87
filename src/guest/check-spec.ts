// Is a model guest's description one that can be run? It may come from anybody's file. Answers with a
// clause that follows the guest's name, or undefined if all is well.
import { planProblem } from './drivers/check-plan.ts';
import type { ModelGuest } from './index.ts';
import { PINNING_BUGS } from './xen/state.ts';

/** Instructions of one program, repeats written out. */
const MOST_INSTRUCTIONS = 1_000_000;
const MOST_DEPTH = 64;
const MOST_TEXT = 4096;

type Check = (value: unknown) => boolean;
const whole = (least: number, most: number): Check => (value) => typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
const oneOf = (...values: readonly unknown[]): Check => (value) => values.includes(value);
const u32 = whole(0, 0xffff_ffff);
const count = whole(0, 0xf_ffff);
const protection = oneOf('', 'r', 'rw');

/** Fields of each step, and how many instructions it is for the value of one of them (1 if none is named). */
const STEPS: Readonly<Record<string, { readonly fields: Readonly<Record<string, Check>>; readonly lists?: readonly string[]; readonly times?: string }>> = {
  store: { fields: { at: u32, value: u32 } },
  load: { fields: { at: u32 } },
  sweep: { fields: { at: u32, pages: count }, times: 'pages' },
  fill: { fields: { at: u32, pages: count, value: u32 }, times: 'pages' },
  compute: { fields: { insns: whole(1, 1e9) } },
  mmap: { fields: { at: u32, pages: count, prot: protection } },
  munmap: { fields: { at: u32, pages: count } },
  mprotect: { fields: { at: u32, pages: count, prot: protection } },
  fork: { fields: {}, lists: ['child'] },
  exec: { fields: {}, lists: ['program'] },
  wait: { fields: {} },
  yield: { fields: {} },
  sleep: { fields: { ns: whole(0, 1e15) } },
  print: { fields: { text: (value) => typeof value === 'string' && value.length <= MOST_TEXT } },
  repeat: { fields: { times: count }, lists: ['steps'], times: 'times' },
  exit: { fields: {} },
};

/** Instructions of a list of steps, or what is wrong with it. */
function checkSteps(steps: unknown, depth: number): number | string {
  if (!Array.isArray(steps)) return 'has a program that is not a list of steps';
  if (depth > MOST_DEPTH) return `has a program that is nested more than ${MOST_DEPTH} levels deep`;
  let sum = 0;
  for (const step of steps as readonly unknown[]) {
    const of = checkStep(step, depth);
    if (typeof of === 'string') return of;
    sum += of;
    if (sum > MOST_INSTRUCTIONS) return `has a program of more than ${MOST_INSTRUCTIONS} instructions`;
  }
  return sum;
}

function checkStep(step: unknown, depth: number): number | string {
  const fields = (typeof step === 'object' && step !== null ? step : {}) as Readonly<Record<string, unknown>>;
  const op = fields['op'];
  const row = typeof op === 'string' && Object.hasOwn(STEPS, op) ? STEPS[op] : undefined;
  if (row === undefined) return `has a step ${JSON.stringify(op) ?? 'without op'}; the steps are ${Object.keys(STEPS).join(', ')}`;
  for (const [name, check] of Object.entries(row.fields)) if (!check(fields[name])) return `has a step ${String(op)} whose ${name} cannot be ${JSON.stringify(fields[name])}`;
  let inside = 1;
  for (const list of row.lists ?? []) {
    const of = checkSteps(fields[list], depth + 1);
    if (typeof of === 'string') return of;
    inside += of;
  }
  return row.times === undefined ? inside : inside * (fields[row.times] as number);
}

export function modelGuestProblem(spec: ModelGuest): string | undefined {
  const { guest, backend, paging, pinning, bug, program } = spec as unknown as Readonly<Record<string, unknown>>;
  const choices: readonly (readonly [string, unknown, readonly unknown[]])[] = [
    ['guest', guest, ['paravirt']], ['backend', backend, ['xen', 'lguest', 'vmi', 'kvm']], ['paging', paging, ['pae', 'nopae']],
    ['pinning', pinning, ['late', 'early', 'writable', undefined]], ['bug', bug, [...PINNING_BUGS, undefined]],
  ];
  for (const [name, value, allowed] of choices) if (!allowed.includes(value)) return `has ${name} ${JSON.stringify(value)}, where a world knows ${allowed.filter((each) => each !== undefined).join(', ')}`;
  const instructions = checkSteps(program, 0);
  return typeof instructions === 'string' ? instructions : planProblem(spec.drivers);
}
