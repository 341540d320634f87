// Two domains in one world, each with an interface on the same switch. They ping the gateway and each
// other, with echoes of several lengths whose every byte is compared; then they do without dom0: one
// grants a page and offers a port, the other maps and binds them, and a word goes back and forth a
// hundred times, each turn announced by an event.
//
// What it is for: everything that two guests can share is in here (switch, grants, event channels,
// xenstore permissions between domains), in a run short enough to read. Another seed gives another
// order of all of it, and the same last word.
import { defineScenario } from '../../src/sim/scenario.ts';

const kernel = { name: 'builtin:pv-i386-net.elf' };

export const scenario = defineScenario({
  name: 'two-domains',
  title: 'Two guests ping each other through the switch, then share a page and an event channel',
  domains: [
    { name: 'giver', kernel, cmdline: 'role=give peer=2 ip=10.77.0.101 ping=10.77.0.1,10.77.0.102', memoryMib: 16, vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'br0', ip: '10.77.0.101' }] },
    { name: 'taker', kernel, cmdline: 'role=take peer=1 ip=10.77.0.102 ping=10.77.0.1,10.77.0.101', memoryMib: 16, vifs: [{ mac: '00:16:3e:00:00:02', bridge: 'br0', ip: '10.77.0.102' }] },
  ],
  bridges: [{ name: 'br0' }],
  expect: { outcome: 'poweroff', console: ['net: 10.77.0.1 answers', 'net: 10.77.0.102 answers', '100 rounds, all given back', 'GUEST-OK'] },
});
