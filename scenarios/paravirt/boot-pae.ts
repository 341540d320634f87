// The paravirt_ops kernel boots on Xen with PAE tables: three levels, entries of eight bytes, a root of
// four entries, and a private copy of the kernel's L2 for every address space, since Xen keeps its own
// entries at that page's end.
//
// Its first process maps memory, forks, and writes to what it then shares with its child: each must
// see its own. The tables of both are pinned when the fork is done (late) and unpinned before they are
// torn down (early), so that all the copying in between costs no hypercall.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'boot-pae',
  title: 'The paravirt_ops kernel boots on Xen with PAE page tables, forks, copies on write and powers off',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'xen', paging: 'pae', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['Booting paravirtualized kernel on Xen', 'child', 'parent', 'every frame is back'] },
});
