// Two executions compared as they go: equal ones are said to be equal, a planted difference is found at its
// event, and one that no event shows at the next state digest.
import { expect, test } from 'vitest';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { relationText } from '../../src/replay/diff.ts';
import { runTwice } from '../../src/replay/lock-step.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import type { EventSink, World } from '../../src/sim/world.ts';
import { imagesOf } from './boots.ts';

async function maker(name: string, plant: (world: World) => void = () => {}) {
  const { spec: found } = await findScenario(name);
  const spec = { ...found, digestEveryInsns: 100_000 };
  const images = await imagesOf(spec);
  return (which: 0 | 1, sink: (world: World) => EventSink): World => {
    const world = buildWorld({ spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf), sink });
    if (which === 1) plant(world);
    return world;
  };
}

test('two executions of a scenario are the same', async () => {
  const found = runTwice(await maker('pv-i386-nopae'));
  expect(found).toMatchObject({ parting: undefined, state: undefined, outcome: 'poweroff' });
  expect(found.events).toBeGreaterThan(1000);
  expect(found.stateDigests).toBeGreaterThan(5);
});

test('a hypercall that once answers otherwise is found at its event', async () => {
  let calls = 0;
  const found = runTwice(await maker('pv-i386-nopae', (world) => {
    const row = world.hv.hypercallRows[HYPERCALL.xen_version];
    if (row === undefined) throw new Error('no row');
    world.hv.hypercallRows = { ...world.hv.hypercallRows, [HYPERCALL.xen_version]: { ...row, handle: (hv, vcpu, args) => {
      const outcome = row.handle(hv, vcpu, args);
      return calls++ === 0 && outcome.kind === 'done' ? { kind: 'done', rc: outcome.rc + 1 } : outcome;
    } } };
  }));
  expect(found.parting?.relation).toBe('changed');
  expect(found.parting?.a.line).toContain('hypercall xen_version');
  expect(found.parting?.before.length).toBe(10);
  expect(relationText(found.parting as NonNullable<typeof found.parting>)).toContain('result');
});

test('a byte of memory that no event shows is found by the next state digest', async () => {
  const found = runTwice(await maker('pv-i386-nopae', (world) => world.machine.writeU8((world.machine.frameCount - 1) * 4096, 1)));
  expect(found.parting).toBeUndefined();
  expect(found.state?.parts).toEqual(['memory']);
});
