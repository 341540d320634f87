// The same kernel with two-level tables on KVM. Here the root itself is write-protected while it is in
// use; with PAE its four entries are read when CR3 is loaded and never else, and need no protection.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-nopae-kvm',
  title: 'The paravirt_ops kernel boots on kvm with two-level page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'kvm', paging: 'nopae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on kvm', 'child', 'parent', 'every frame is back'] },
});
