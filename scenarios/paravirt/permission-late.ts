// The toolstack makes a device's two directories in xenstore and then says who may read and write them. A
// guest that looks in between is refused (EACCES), and a guest whose quota is used up for the moment cannot
// write (ENOSPC). Neither is the end: a driver that took the first no for an answer would leave the device
// alone for ever, since nobody tells it again.
//
// Here xenstored refuses a third of the first requests, wherever the seed has it: reading where the back end
// is, setting a watch, beginning a transaction, writing the ring's reference in the middle of one. Each is
// asked again a millisecond later; a transaction that is refused half-way leaves nothing behind.
import { defineScenario } from '../../src/sim/scenario.ts';
import type { DiskStep } from '../../src/guest/drivers/plan.ts';

/** Written twice over, and each time read back. */
const STEPS: readonly DiskStep[] = [1, 2].flatMap((value): DiskStep[] => [{ do: 'write', page: 0, pages: 300, value }, { do: 'flush' }, { do: 'check', page: 0, pages: 300, value }]);

export const scenario = defineScenario({
  name: 'permission-late',
  title: 'xenstore refuses the drivers at first: a permission is not set yet, and they ask again',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16,
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' } }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: { disks: [{ disk: 'xvda', steps: STEPS }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 20 }] }] },
    },
  }],
  faults: [{ fault: 'xenstore.access', oneIn: 3, most: 30 }, { fault: 'xenstore.space', oneIn: 3, most: 10 }],
  expect: { outcome: 'poweroff', console: ['xvda: all steps done', 'every grant and port is back', 'every frame is back'], consoles: { model: ['vif0: all steps done'] } },
});
