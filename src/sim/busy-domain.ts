// The paravirt_ops guest at work on a disk and a network card: what the scenarios of the drivers' races disturb.
import type { DiskStep } from '../guest/drivers/plan.ts';
import type { Expectation } from './scenario.ts';
import type { DomainSpec } from './spec.ts';

const PAGES = 300;
/** Written twice over, and each time read back. */
const STEPS: readonly DiskStep[] = [1, 2].flatMap((value): DiskStep[] => [{ do: 'write', page: 0, pages: PAGES, value }, { do: 'flush' }, { do: 'check', page: 0, pages: PAGES, value }]);

/** The domain `model`: xvda is written and read back twice, vif0 pings the gateway. `plugged`: false if somebody brings them later. */
export function busyDomain({ plugged = true }: { readonly plugged?: boolean } = {}): DomainSpec {
  const later = plugged ? {} : { plugged };
  return {
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16,
    disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' }, ...later }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0', ...later }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: { disks: [{ disk: 'xvda', steps: STEPS }], nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 20 }] }] },
    },
  };
}

/** All of its work is done, and it has given everything back. */
export const BUSY_DONE = { outcome: 'poweroff', console: ['xvda: 2048 pages', 'xvda: all steps done', 'every grant and port is back', 'every frame is back'], consoles: { model: ['vif0: all steps done'] } } as const satisfies Expectation;
