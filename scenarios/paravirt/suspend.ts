// A domain is saved and restored while its disk and its network are busy. The guest is told through
// xenstore; it lets go of everything that it shares and asks Xen to suspend it. When it comes back all of
// that is new: the shared page, event channels, the grant table, xenstored, the back ends of its devices.
// Its memory is in other machine frames: whoever restores it has rewritten its page tables and its list of
// frames, of which it had said where it is. Contents and processes are as they were.
//
// What was under way on the disk when it stopped was never answered, and is asked again: the write may not
// be lost, and it is read back afterwards. The pings that were under way are lost, as on any wire, and
// sent again.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'suspend',
  title: 'The paravirt_ops kernel is saved and restored twice with requests in flight, and nothing is lost',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16, disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' } }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [{ op: 'sleep', ns: 3_000_000 }, ...bootProgram],
      drivers: {
        disks: [{ disk: 'xvda', steps: [{ do: 'write', page: 0, pages: 300, value: 1 }, { do: 'check', page: 0, pages: 300, value: 1 }, { do: 'write', page: 0, pages: 300, value: 2 }, { do: 'flush' }, { do: 'check', page: 0, pages: 300, value: 2 }] }],
        nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 50 }] }],
      },
    },
  }],
  input: [
    { domain: 'model', after: 'xvda: 2048 pages', delayNs: 300_000, command: { do: 'save-restore' } },
    { domain: 'model', after: 'resumed', delayNs: 500_000, command: { do: 'save-restore' } },
  ],
  expect: { outcome: 'poweroff', console: ['suspending', 'resumed', 'suspending', 'resumed', 'every grant and port is back', 'every frame is back'] },
});
