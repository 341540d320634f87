// Debian's Linux beside another domain: the paravirt_ops kernel of this project, with an interface on the
// same switch and a fixed address, which does nothing but answer. Linux, once it has an address of its
// own, pings it: two netfronts, two back ends, one switch between them, and two processors whose turns are
// drawn.
//
// Both say so: Linux that its pings were answered, the other that it answered three.
//
// The other domain is there for Linux alone: the world ends when Linux powers off. (A scenario of its own,
// since a world with a guest that is TypeScript has no checkpoints; debian-linux keeps them.)
import { defineScenario } from '../../src/sim/scenario.ts';
import { linuxDomain } from '../../src/sim/linux-domain.ts';

const PEER = '10.77.0.50';

export const scenario = defineScenario({
  name: 'debian-linux-peer',
  title: "Debian's 64-bit Linux pings a second domain, which runs the paravirt_ops kernel",
  needs: ['debian-linux'],
  domains: [
    linuxDomain({ name: 'linux', kernel: 'debian-linux', cmdline: `console=hvc0 rexen.peer=${PEER}` }),
    {
      name: 'peer', service: true, kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib: 8, vifs: [{ mac: '00:16:3e:00:00:50', bridge: 'xenbr0', ip: PEER }],
      model: { guest: 'paravirt', backend: 'xen', paging: 'pae', program: [], drivers: { nets: [{ vif: 0, ip: PEER, steps: [{ do: 'serve', pings: 3 }, { do: 'serve' }] }] } },
    },
  ],
  expect: { outcome: 'poweroff', console: ['BOOT-OK', 'ok      the second domain answers', 'ALL-OK'], consoles: { peer: ['vif0: 3 pings answered'] } },
  interactive: { cmdline: `console=hvc0 rexen.shell rexen.peer=${PEER}` },
});
