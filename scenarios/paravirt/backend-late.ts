// A guest boots faster than dom0 makes its devices: when the drivers first look, xenstore has nothing for
// them. They must not wait for a device that never comes, nor miss one that comes late: they watch the
// directory of devices, and a job waits for its disk with a patience that ends.
//
// The disk comes two milliseconds after the banner, the network one later. The directory appears in
// pieces, and fires its watch for each: a driver that looks in between sees half a device, and must let it
// be until the rest is there.
import { BUSY_DONE, busyDomain } from '../../src/sim/busy-domain.ts';
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'backend-late',
  title: 'Disk and network appear long after the guest has started, one after the other, and are used at once',
  domains: [busyDomain({ plugged: false })],
  input: [
    { domain: 'model', after: 'Booting', delayNs: 2_000_000, command: { do: 'attach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 1_000_000, command: { do: 'attach', device: 'vif0' } },
  ],
  expect: BUSY_DONE,
});
