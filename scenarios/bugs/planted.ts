// A guest and dom0 at work on three disks, with everything that can be late being late, and with faults that
// correct code survives. As it is here, every seed comes to the same end: that is what the test of this file
// says. With `--set bug=NAME` one of ten mistakes is planted, which the calmest run never shows:
//
//   npx rexen explore planted --set bug=lost-wakeup --seeds 1..200 --first     finds a seed that does
//   npx rexen bisect planted --set bug=lost-wakeup --bad SEED --shrink -o min.rxr
//   npx rexen replay min.rxr                                                   the few choices that it takes
//
// The disk xvda is there from the start: writes that are not waited for, and behind them a barrier over the
// same pages, whose data must be what remains; then single pages, each flushed and read back; when everything
// else has become quiet, two reads at once. xvdb is plugged in while the guest starts, written, read back and
// unplugged. xvdc is unplugged again right after it was plugged in. A process computes meanwhile, so that the
// guest is interrupted and does not always wait. `src/abi/planted.ts` says what each mistake is.
//
// Requests do not fail before 2 ms: blkfront asks again what has failed, and so a write that fails comes behind
// the barrier that was to follow it.
import { defineScenario } from '../../src/sim/scenario.ts';
import type { DiskStep } from '../../src/guest/drivers/plan.ts';

const onePage = (page: number, value: number): DiskStep[] => [{ do: 'write', page, pages: 1, value }, { do: 'flush' }, { do: 'check', page, pages: 1, value }];
const twoReads: DiskStep[] = [{ do: 'check', page: 12, pages: 8, value: 2, ahead: true }, { do: 'check', page: 12, pages: 8, value: 2 }];
const blank = { name: 'blank:1MiB' };

export const scenario = defineScenario({
  name: 'planted',
  title: 'Disks come, work and go under late events and survivable faults; --set bug=NAME plants a mistake to hunt',
  domains: [{
    name: 'model', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 4,
    disks: [{ vdev: 'xvda', mode: 'w', image: blank }, { vdev: 'xvdb', mode: 'w', image: blank, plugged: false }, { vdev: 'xvdc', mode: 'w', image: blank, plugged: false }],
    model: {
      guest: 'paravirt', backend: 'xen', paging: 'pae', program: [{ op: 'compute', insns: 50_000_000 }],
      drivers: {
        disks: [
          {
            disk: 'xvda',
            steps: [
              { do: 'write', page: 0, pages: 20, value: 1, ahead: true }, { do: 'write', page: 0, pages: 20, value: 2, barrier: true }, { do: 'check', page: 0, pages: 12, value: 2 },
              ...onePage(3, 3), ...onePage(7, 4), ...onePage(11, 5), { do: 'sleep', ns: 60_000_000 }, ...twoReads, ...twoReads, ...twoReads,
            ],
          },
          { disk: 'xvdb', steps: [{ do: 'write', page: 0, pages: 8, value: 6 }, { do: 'flush' }, { do: 'check', page: 0, pages: 8, value: 6 }] },
        ],
      },
    },
  }],
  input: [
    { domain: 'model', after: 'Booting', delayNs: 3_000, command: { do: 'attach', device: 'xvdb' } },
    { domain: 'model', after: 'xvdb: all steps done', delayNs: 10_000, command: { do: 'detach', device: 'xvdb' } },
    { domain: 'model', after: '', delayNs: 10_000, command: { do: 'attach', device: 'xvdc' } },
    { domain: 'model', after: '', delayNs: 60_000, command: { do: 'detach', device: 'xvdc' } },
  ],
  faults: [{ fault: 'xenstore.again', oneIn: 30 }, { fault: 'block.error', oneIn: 60, fromNs: 2_000_000 }, { fault: 'backend.crash', oneIn: 150, most: 2 }, { fault: 'backend.rebind', oneIn: 100 }],
  maxVirtualSec: 5,
  conduct: true,
  expect: { outcome: 'poweroff', console: ['xvdb: all steps done', 'xvda: all steps done', 'every grant and port is back', 'every frame is back'] },
});
