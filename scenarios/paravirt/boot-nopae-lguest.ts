// The same kernel with two-level tables on lguest. The root is the only table above the L1s, so that an
// upper entry is named by root and index; nothing else differs, neither in the kernel nor in the host.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-nopae-lguest',
  title: 'The paravirt_ops kernel boots on lguest with two-level page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'lguest', paging: 'nopae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on lguest', 'child', 'parent', 'every frame is back'] },
});
