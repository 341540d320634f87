// A driver domain crashes: the back end is gone with all it knew, the grants it had mapped are unmapped, and
// what was in flight is never answered. It comes back as if it had never been there (state initWait), and the
// guest finds out by a watch. Its driver must take its pages back, make new rings and ask again for
// whatever was not answered, in the old order; a write that was carried out but not acknowledged is carried
// out twice, which is what disks are for.
//
// Frames that were in flight on the network are lost, and none comes twice: pings are asked again.
import { defineScenario } from '../../src/sim/scenario.ts';
import type { DiskStep } from '../../src/guest/drivers/plan.ts';

/** Written twice over, and each time read back. */
const STEPS: readonly DiskStep[] = [1, 2].flatMap((value): DiskStep[] => [{ do: 'write', page: 0, pages: 300, value }, { do: 'flush' }, { do: 'check', page: 0, pages: 300, value }]);

export const scenario = defineScenario({
  name: 'backend-dies',
  title: 'The back ends die with requests in flight and come back with empty hands; nothing that was acknowledged is lost',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16,
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' } }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: { disks: [{ disk: 'xvda', steps: STEPS }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 20 }] }] },
    },
  }],
  faults: [{ fault: 'backend.crash', oneIn: 15, most: 6 }],
  expect: { outcome: 'poweroff', console: ['xvda: all steps done', 'every grant and port is back', 'every frame is back'], consoles: { model: ['vif0: all steps done'] } },
});
