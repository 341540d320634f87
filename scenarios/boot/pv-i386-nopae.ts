// The same guest with two-level page tables: 4-byte entries, no NX, the shape of 32-bit Xen 3.x,
// whose reserved range starts at 0xfc000000. Real Xen gave this shape up; the rules follow from
// the PAE ones and from the history of Xen.
import { defineScenario } from '../../src/sim/scenario.ts';

export const scenario = defineScenario({
  name: 'pv-i386-nopae',
  title: 'The small guest with two-level page tables, as on 32-bit Xen 3.x',
  domains: [{ name: 'nopae', kernel: { name: 'builtin:pv-i386-nopae.elf' }, cmdline: '', memoryMib: 64 }],
  expect: { outcome: 'poweroff', console: ['GUEST-OK'] },
});
