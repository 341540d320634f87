// The same kernel with two-level tables, the shape that real Xen gave up: the root is the only table
// above the L1s, its upper quarter is a copy of the kernel's entries, and Xen's part begins at
// 0xfc000000. One set of hooks serves both shapes: nothing above the back end knows the difference.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-nopae',
  title: 'The paravirt_ops kernel boots on Xen with two-level page tables, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'xen', paging: 'nopae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on Xen', 'child', 'parent', 'every frame is back'] },
});
