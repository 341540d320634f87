/**
 * Our own guest on the simulated Xen: every step of it passes, in every shape, as it does on real
 * Xen, and its hypercalls get the very answers that real Xen gave.
 *
 * The same images pass on real hypervisors (Xen master with 32-bit PV, release and debug builds;
 * 32-bit Xen 3.2, PAE and non-PAE), as the first domain under QEMU. A step that fails here is the
 * simulator's fault.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { HYPERCALL_END } from '../../src/abi/events.ts';
import { runGuest, type Hypercall } from './run-guest.ts';

const IMAGES = ['pv-i386-pae.elf', 'pv-i386-nopae.elf', 'pv-i386-legacy.elf'];

/** Lines that do not depend on the machine: what real Xen's console showed, then xenstore's part. */
const STEPS = [
  'traps: exceptions ok', 'traps: emulated instructions ok',
  'seg: own GDT ok', 'seg: own LDT ok', 'seg: stack_switch, GDT given back, ok',
  'mm: update_va_mapping, mmu_update, multicall ok', 'mm: own tree pinned, used, dropped, ok', 'mm: mistakes refused, ok',
  'mm: writable page tables ok', 'mm: machine-to-physical table, decrease and increase, ok',
  'evt: loopback, mask, status, close ok', 'evt: virq, ipi, unbound ok', 'evt: chained upcalls ok',
  'timer: set_timer_op and block ok', 'timer: periodic ticks ok', 'timer: single shot ok', 'timer: poll and yield ok', 'timer: run state ok',
  'gnttab: own grant mapped and unmapped, ok', 'gnttab: refused what it should, ok',
  'xs: write, read, directory ok', 'xs: watch ok', 'xs: transactions ok', 'xs: rm ok',
  'user: hello from ring 3', 'user: 7 demand faults, 1 copied, 5 skipped, iret hypercall, ok',
  'user: hello from ring 3', 'user: 7 demand faults, 1 copied, 5 skipped, IRET, ok',
  'GUEST-OK',
];

describe.each(IMAGES)('%s', (image) => {
  test('passes every step and powers off', async () => {
    const run = await runGuest(image);
    expect(run.lines.filter((line) => !line.startsWith('info:') && /ok$|OK$|FAIL|hello/.test(line))).toEqual(STEPS);
    expect(run.outcome).toBe('poweroff');
    expect(run.instructions).toBeLessThan(5_000_000);
  });

  test('passes under other seeds, hence other latencies and points of preemption', async () => {
    for (const seed of ['2', 'another']) expect((await runGuest(image, { seed })).lines).toContain('GUEST-OK');
  });

  test('survives wild pointers in every hypercall', async () => {
    const run = await runGuest(image, { cmdline: 'wild' });
    expect(run.lines.filter((line) => line.endsWith('still here'))).toHaveLength(2);
    expect(run).toMatchObject({ outcome: 'poweroff' });
  });

  test('counts each event of a storm', async () => {
    const run = await runGuest(image, { cmdline: 'storm=200' });
    expect(run.lines).toContain('storm: 200 events, 12 yields, done');
  });
});

describe('real Xen and this one', () => {
  const SUB_COMMANDS = new Set([12, 17, 20, 21, 24, 29, 30, 32]);
  const LEFT_OUT = new Set([15, 18, 23, 29]);
  const SIZES = new Set(['17.0', '12.2', '12.3', '12.4']);

  function line({ nr, result, a0 }: Hypercall): string {
    const name = SUB_COMMANDS.has(nr) ? `${nr}.${a0}` : `${nr}`;
    return `${name} ${SIZES.has(name) ? '*' : result | 0}`;
  }

  test('answer the same hypercalls in the same way', async () => {
    const answers = readFileSync(resolve(import.meta.dirname, 'xen-answers.txt'), 'utf8').split('\n').filter((text) => text !== '' && !text.startsWith('#'));
    expect(answers.length).toBeGreaterThan(200);
    const run = await runGuest('pv-i386-pae.elf');
    const ours = run.hypercalls
      .filter(({ nr, end }) => !LEFT_OUT.has(nr) && HYPERCALL_END[end] !== 'continuation')
      .map(line)
      .filter((text) => !text.startsWith('32.4 '));
    expect(ours).toEqual(answers);
  });
});

describe('a guest that ends badly', () => {
  const SHAPE = 'pv-i386-pae.elf';

  test.each([
    { cmdline: 'crash', outcome: 'crash' },
    { cmdline: 'triple', outcome: 'crash' },
    { cmdline: 'panic', outcome: 'crash' },
    { cmdline: 'spin', outcome: 'limit' },
  ])('$cmdline ends as $outcome', async ({ cmdline, outcome }) => {
    expect((await runGuest(SHAPE, { cmdline, maxInstructions: 5_000_000 })).outcome).toBe(outcome);
  });

  test('says what is missing when it has too little memory for the compute kernels', async () => {
    const run = await runGuest(SHAPE, { cmdline: 'bench', memoryMib: 8 });
    expect(run.lines.find((text) => text.startsWith('GUEST-FAIL'))).toMatch(/too little memory/);
    expect(run.outcome).toBe('crash');
  });
});

test('echo repeats what is typed, backspace included, until quit', async () => {
  const say = (send: string): { domain: string; after: string; delayNs: number; send: string } => ({ domain: 'guest', after: '> ', delayNs: 1_000_000, send });
  const run = await runGuest('pv-i386-nopae.elf', { cmdline: 'echo', input: [say('hello\r'), say('twp\bo words\r'), say('\r'), say('quit\r')] });
  expect(run.lines.filter((text) => text.startsWith('echo:')).slice(1)).toEqual(['echo: 5 characters: hello', 'echo: 9 characters: two words', 'echo: 0 characters: ']);
  expect(run.outcome).toBe('poweroff');
});
