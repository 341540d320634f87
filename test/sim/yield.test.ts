// A guest that waits for dom0 by yielding gives dom0 its turn: the clock goes to what is due soon.
import { expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { storedImage } from '../../src/node/image-store.ts';
import type { EventSink } from '../../src/sim/world.ts';
import { recordBoot } from '../replay/boots.ts';

const counting = (sink: EventSink, counts: Map<number, number>): EventSink => ({
  event: (...event) => {
    counts.set(event[0], (counts.get(event[0]) ?? 0) + 1);
    sink.event(...event);
  },
  stateDigest: (...at) => sink.stateDigest?.(...at),
});

test('PV GRUB, which polls the store with a yield between two looks, yields a few times a request', async ({ skip }) => {
  if (storedImage('grub-i386') === undefined && process.env['CI'] !== 'true') skip('the image is not here: run `npx rexen fetch grub-i386`');
  const counts = new Map<number, number>();
  await recordBoot('grub-i386', { wrap: (sink) => counting(sink, counts) });
  const yields = counts.get(EVENT.vcpuYielded) ?? 0;
  const sends = counts.get(EVENT.evtchnSend) ?? 0;
  expect(sends).toBeGreaterThan(10);
  expect(yields).toBeGreaterThan(0);
  expect(yields).toBeLessThan(3 * sends);
});
