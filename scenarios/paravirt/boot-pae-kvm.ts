// The kernel of boot-pae on KVM: shadow page tables by trap. The kernel stores entries as on bare
// hardware. The host has mapped read-only every frame of which it has a shadow: the store faults, the
// host carries it out (a shadowFault with `emulated`) and forgets what it had made of that entry.
//
// In lazy mode, where a fork or an unmap changes many entries, the kernel sends them in one queue instead.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-pae-kvm',
  title: 'The paravirt_ops kernel boots on kvm with PAE page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'kvm', paging: 'pae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on kvm', 'child', 'parent', 'every frame is back'] },
});
