// A disk from the guest's side. The paravirt_ops kernel finds it in xenstore, shares a ring with dom0's
// back end, and moves pages over it: each is granted for as long as its request is under way, a request
// takes up to eleven of them, and as many requests are in flight as the ring has slots.
//
// The pages written here are more than fit into one ring at once. They are flushed, read back into
// other memory and compared word by word; then half of them are written anew behind a barrier, and
// both halves must be what was last written. In the end the device is closed, and every grant, port
// and frame must be back.
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'block',
  title: 'The paravirt_ops kernel writes a disk through blkfront, flushes it and reads the same back',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 16, disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:8MiB' } }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [],
      drivers: {
        disks: [{
          disk: 'xvda',
          steps: [
            { do: 'write', page: 0, pages: 400, value: 1 }, { do: 'flush' }, { do: 'check', page: 0, pages: 400, value: 1 },
            { do: 'write', page: 200, pages: 200, value: 2, barrier: true }, { do: 'check', page: 0, pages: 200, value: 1 }, { do: 'check', page: 200, pages: 200, value: 2 },
          ],
        }],
      },
    },
  }],
  expect: { outcome: 'poweroff', console: ['xvda: 2048 pages', 'xvda: all steps done', 'every grant and port is back', 'every frame is back'] },
});
