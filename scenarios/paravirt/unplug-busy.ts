// `xl block-detach` asks: the toolstack sets the back end to closing and waits for both ends. The guest, which
// has requests in flight, must let them be answered, close, and give every page and port back; then the
// directory is gone. What waited in the guest's queue waits on.
//
// A little later the same disk is plugged in again. It is another device to xenbus, with a new directory
// and a new back end, but the same disk to whoever uses it: the write that was interrupted goes on where it
// was, and everything is read back. The network card goes and comes in between.
import { BUSY_DONE, busyDomain } from '../../src/sim/busy-domain.ts';
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'unplug-busy',
  title: 'A disk and a network card are unplugged while they are busy and plugged in again; the work goes on',
  domains: [busyDomain()],
  input: [
    { domain: 'model', after: 'xvda: 2048 pages', delayNs: 60_000, command: { do: 'detach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 40_000, command: { do: 'detach', device: 'vif0' } },
    { domain: 'model', after: '', delayNs: 3_000_000, command: { do: 'attach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 500_000, command: { do: 'attach', device: 'vif0' } },
  ],
  expect: BUSY_DONE,
});
