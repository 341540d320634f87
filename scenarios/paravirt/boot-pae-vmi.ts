// The kernel of boot-pae on VMI: shadow page tables by notification. It says of a page that it is a table
// now (AllocatePage, for a copied one with its source) and that it is none any more (ReleasePage), and has the
// host store entries (SetPxE), which then knows what it has to forget. In lazy mode the calls wait.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-pae-vmi',
  title: 'The paravirt_ops kernel boots on vmi with PAE page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'vmi', paging: 'pae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on vmi', 'child', 'parent', 'every frame is back'] },
});
