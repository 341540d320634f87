// The kernel of boot-pae on lguest: shadow page tables by hypercall. Its tables hold guest-physical
// numbers, it writes them itself, and no processor ever walks them; each change is followed by a call
// that says where it was, and in lazy mode the calls go together.
//
// What the host has made of the tables it makes on demand: the log shows a shadowFault for each page that
// is touched for the first time, and again after a flush, which costs lguest all of the user's shadow.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-pae-lguest',
  title: 'The paravirt_ops kernel boots on lguest with PAE page tables in shadow, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'lguest', paging: 'pae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on lguest', 'child', 'parent', 'every frame is back'] },
});
