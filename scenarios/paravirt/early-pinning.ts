// The boot of boot-pae with the opposite discipline: page tables are pinned as soon as their root is
// there and unpinned when it goes, so that every entry of a fork's copy and of an exit's teardown is a
// request to Xen. Processes see the same memory; what differs is the price. Compare the counts of
// hypercall, multicallEntry and ptUpdate events of the two recordings.
import { defineScenario } from '../../src/sim/scenario.ts';
import { bootProgram } from '../../src/guest/workloads.ts';

export const scenario = defineScenario({
  name: 'early-pinning',
  title: 'The paravirt_ops kernel boots with its page tables pinned early: the same memory, more requests',
  domains: [{ name: 'model', kernel: { name: 'model:paravirt' }, model: { guest: 'paravirt', backend: 'xen', paging: 'pae', pinning: 'early', program: bootProgram }, cmdline: '', memoryMib: 16 }],
  expect: { outcome: 'poweroff', console: ['pinned early', 'child', 'parent', 'every frame is back'] },
});
