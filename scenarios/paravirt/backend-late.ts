// A guest boots faster than dom0 makes its devices: when the drivers first look, xenstore has nothing for
// them. They must not wait for a device that never comes, nor miss one that comes late: they watch the
// directory of devices, and a job waits for its disk with a patience that ends.
//
// The disk comes two milliseconds after the banner, the network one later. The directory appears in
// pieces, and fires its watch for each: a driver that looks in between sees half a device, and must let it
// be until the rest is there.
import { defineScenario } from '../../src/sim/scenario.ts';
import type { DiskStep } from '../../src/guest/drivers/plan.ts';

/** Written twice over, and each time read back. */
const STEPS: readonly DiskStep[] = [1, 2].flatMap((value): DiskStep[] => [{ do: 'write', page: 0, pages: 300, value }, { do: 'flush' }, { do: 'check', page: 0, pages: 300, value }]);

export const scenario = defineScenario({
  name: 'backend-late',
  title: 'Disk and network appear long after the guest has started, one after the other, and are used at once',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16,
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' }, plugged: false }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0', plugged: false }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: { disks: [{ disk: 'xvda', steps: STEPS }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 20 }] }] },
    },
  }],
  input: [
    { domain: 'model', after: 'Booting', delayNs: 2_000_000, command: { do: 'attach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 1_000_000, command: { do: 'attach', device: 'vif0' } },
  ],
  expect: { outcome: 'poweroff', console: ['xvda: all steps done', 'every grant and port is back', 'every frame is back'], consoles: { model: ['vif0: all steps done'] } },
});
