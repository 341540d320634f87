// A model guest's description may come from a stranger's recording: what cannot be run is refused with
// a sentence, and what can be run never makes the tool fail.
import { expect, test } from 'vitest';
import { modelGuestProblem } from '../../src/guest/check-spec.ts';
import type { ModelGuest } from '../../src/guest/index.ts';
import type { UserStep } from '../../src/guest/user-program.ts';
import { bootProgram } from '../../src/guest/workloads.ts';
import { loadImages } from '../../src/node/load-images.ts';
import { shippedScenarios } from '../../src/node/scenario-files.ts';
import { GUEST_SETUPS, playGuest, type GuestSetup } from '../../src/testing/index.ts';

const HEAP = 0x1000_0000;
const GOOD: ModelGuest = { guest: 'paravirt', backend: 'xen', paging: 'pae', program: bootProgram };
const withStep = (step: unknown): ModelGuest => ({ ...GOOD, program: [step] as never });

test('every shipped model guest is accepted', async () => {
  const models = (await shippedScenarios()).flatMap(({ spec }) => spec.domains.flatMap(({ model }) => (model === undefined ? [] : [model])));
  expect(models.length).toBeGreaterThanOrEqual(4);
  expect(models.map(modelGuestProblem).filter((problem) => problem !== undefined)).toEqual([]);
});

test.each<readonly [string, ModelGuest, RegExp]>([
  ['another guest', { ...GOOD, guest: 'linux' as never }, /guest "linux"/],
  ['a back end that needs another world', { ...GOOD, backend: 'native' }, /backend "native"/],
  ['a shape that is none', { ...GOOD, paging: 'x86' as never }, /paging "x86"/],
  ['no program', { ...GOOD, program: undefined as never }, /not a list/],
  ['a step that is none', withStep({ op: 'toString' }), /step "toString"/],
  ['a step without op', withStep(null), /step without op/],
  ['an address that is none', withStep({ op: 'load', at: -1 }), /whose at cannot be -1/],
  ['a text that is none', withStep({ op: 'print', text: 7 }), /whose text cannot be 7/],
  ['a program without end', withStep({ op: 'repeat', times: 1000, steps: [{ op: 'repeat', times: 1001, steps: [{ op: 'yield' }] }] }), /more than 1000000 instructions/],
  ['a child that is no program', withStep({ op: 'fork', child: { op: 'exit' } }), /not a list/],
])('%s is refused', (_what, spec, problem) => {
  expect(modelGuestProblem(spec)).toMatch(problem);
});

test('the refusal names the guest and is a usage error', async () => {
  const spec = { domains: [{ name: 'a', kernel: { name: 'model:paravirt' }, model: withStep({ op: 'jump' }), cmdline: '', memoryMib: 16 }] };
  await expect(loadImages(spec as never)).rejects.toThrow(/^model:paravirt has a step "jump"/);
});

test('programs whose memory does not suffice fail in the guest, and every frame is back', () => {
  const hungry: UserStep[] = [{ op: 'fill', at: HEAP, pages: 200, value: 9 }, { op: 'sleep', ns: 10_000_000 }, { op: 'fork', child: [] }];
  const run = playGuest(GUEST_SETUPS[2] as GuestSetup, [{ op: 'mmap', at: HEAP, pages: 200, prot: 'rw' }, { op: 'fill', at: HEAP, pages: 200, value: 1 }, ...Array.from({ length: 6 }, (): UserStep => ({ op: 'fork', child: hungry }))], { memoryMib: 4 });
  expect(run.problems).toEqual([]);
  expect([...run.histories.values()].flat().filter((line) => line === 'fork failed -11' || line === 'out of memory').length).toBeGreaterThan(0);
});

test('places and sizes at the edges are answered, not fallen over', () => {
  const run = playGuest(GUEST_SETUPS[3] as GuestSetup, [
    { op: 'load', at: 0 }, { op: 'store', at: 0xffff_ffff, value: 1 }, { op: 'load', at: 0xc000_1000 }, { op: 'store', at: 0xfc00_0000, value: 1 },
    { op: 'mmap', at: 0, pages: 1, prot: 'rw' }, { op: 'mmap', at: 0x1000, pages: 0xbffff, prot: 'r' }, { op: 'load', at: 0xbfff_fffc }, { op: 'load', at: 0xbfff_fffe }, { op: 'munmap', at: 0x1000, pages: 0xfffff },
  ]);
  expect(run.problems).toEqual([]);
  expect(run.histories.get('0')).toEqual(['fault 0x0', 'fault 0xffffffff', 'fault 0xc0001000', 'fault 0xfc000000', 'mmap failed -22', 'mmap', 'load 0xbffffffc = 0x0', 'fault 0xc0000000', 'munmap failed -22', 'exit']);
});
