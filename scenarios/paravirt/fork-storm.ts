// Forty processes out of one: each forks three times, three levels deep, and all of them write to
// memory that they share with their relatives until they do. Some run, some wait, some have ended and
// are torn down, in an order that the timer decides.
//
// This is where a kernel's pinning discipline shows: a child's tables must be typed before it first
// runs, the dead one's must be plain memory again before they are taken apart, and no frame may go
// from one use to the other with a mapping left that the new one forbids.
import { defineScenario } from '../../src/sim/scenario.ts';
import { forkStorm } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'fork-storm',
  title: 'Forty processes fork, copy on write and exit on the paravirt_ops kernel; no frame is lost',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'xen', paging: 'pae', program: forkStorm(3, 3) }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['every frame is back'] },
});
