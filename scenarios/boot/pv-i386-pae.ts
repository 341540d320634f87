// Our own small guest boots with PAE page tables and walks through everything that a paravirtual
// kernel asks of Xen: traps, page tables (pinned, updated by hypercall and by plain stores, unpinned),
// event channels, a timer, xenstore, the console ring, a grant, a process in ring 3.
//
// It is the smallest real boot there is: machine code from a C compiler, the same rules as for a
// distribution's kernel, over in a fraction of a second. If this one fails, look here first.
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'pv-i386-pae',
  title: 'A small PAE guest uses every part of the PV interface and powers off',
  domains: [{ name: 'pae', kernel: { name: 'builtin:pv-i386-pae.elf' }, cmdline: '', memoryMib: 64 }],
  expect: { outcome: 'poweroff', console: ['GUEST-OK'] },
});
