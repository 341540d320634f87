// The same kernel with two-level tables on VMI: a new root is announced as a clone of the kernel's own,
// of whose entries it begins with a copy.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-nopae-vmi',
  title: 'The paravirt_ops kernel boots on vmi with two-level page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'vmi', paging: 'nopae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on vmi', 'child', 'parent', 'every frame is back'] },
});
