// `xl block-detach` asks: the toolstack sets the back end to closing and waits for both ends. The guest, which
// has requests in flight, must let them be answered, close, and give every page and port back; then the
// directory is gone. What waited in the guest's queue waits on.
//
// A little later the same disk is plugged in again. It is another device to xenbus, with a new directory
// and a new back end, but the same disk to whoever uses it: the write that was interrupted goes on where it
// was, and everything is read back. The network card goes and comes in between.
import { defineScenario } from '../../src/sim/scenario.ts';
import type { DiskStep } from '../../src/guest/drivers/plan.ts';

/** Written twice over, and each time read back. */
const STEPS: readonly DiskStep[] = [1, 2].flatMap((value): DiskStep[] => [{ do: 'write', page: 0, pages: 300, value }, { do: 'flush' }, { do: 'check', page: 0, pages: 300, value }]);

export const scenario = defineScenario({
  name: 'unplug-busy',
  title: 'A disk and a network card are unplugged while they are busy and plugged in again; the work goes on',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16,
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' } }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: { disks: [{ disk: 'xvda', steps: STEPS }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 20 }] }] },
    },
  }],
  input: [
    { domain: 'model', after: 'xvda: 2048 pages', delayNs: 60_000, command: { do: 'detach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 40_000, command: { do: 'detach', device: 'vif0' } },
    { domain: 'model', after: '', delayNs: 3_000_000, command: { do: 'attach', device: 'xvda' } },
    { domain: 'model', after: '', delayNs: 500_000, command: { do: 'attach', device: 'vif0' } },
  ],
  expect: { outcome: 'poweroff', console: ['xvda: 2048 pages', 'xvda: all steps done', 'every grant and port is back', 'every frame is back'], consoles: { model: ['vif0: all steps done'] } },
});
