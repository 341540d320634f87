// Mistakes in how a host keeps shadow page tables, to be planted into its pager, and programs of user
// processes by which they show.
import { bootProgram, forkStorm } from '../../src/guest/workloads.ts';
import type { UserStep } from '../../src/guest/user-program.ts';
import type { ShadowPager } from '../../src/shadow/pager.ts';
import type { GuestSetup } from '../../src/testing/index.ts';

const HEAP = 0x1000_0000;
/** Which show one of the mistakes each. */
export const PROGRAMS: readonly (readonly UserStep[])[] = [bootProgram, forkStorm(2, 2), [
  { op: 'mmap', at: HEAP, pages: 4, prot: 'rw' }, { op: 'fill', at: HEAP, pages: 4, value: 1 }, { op: 'mprotect', at: HEAP, pages: 2, prot: 'r' }, { op: 'store', at: HEAP, value: 9 }, { op: 'load', at: HEAP },
  { op: 'munmap', at: HEAP, pages: 4 }, { op: 'load', at: HEAP }, { op: 'mmap', at: HEAP, pages: 4, prot: 'rw' }, { op: 'load', at: HEAP },
], [
  { op: 'mmap', at: HEAP, pages: 4, prot: 'rw' }, { op: 'fill', at: HEAP, pages: 4, value: 1 },
  { op: 'fork', child: [{ op: 'sweep', at: HEAP, pages: 4 }, { op: 'fill', at: HEAP, pages: 4, value: 2 }, { op: 'sweep', at: HEAP, pages: 4 }] }, { op: 'wait' }, { op: 'sweep', at: HEAP, pages: 4 },
]];
const nothing = (): void => {};
/** Of how a host keeps shadows, with the styles of hosts that make it. */
export const MISTAKES: readonly (readonly [what: string, backends: readonly GuestSetup['backend'][], plant: (pager: ShadowPager) => void])[] = [
  ['forgets nothing when an entry changes', ['vmi', 'kvm'], (pager) => { pager.changed = nothing; }],
  ['does not write-protect tables', ['kvm'], (pager) => { (pager.options as { protects: boolean }).protects = false; }],
  // Either alone is made good by the other.
  ['hears neither of entries nor of flushes', ['lguest'], (pager) => {
    pager.changedPage = nothing;
    pager.drop = nothing;
  }],
  // lguest names each page, whose translation goes with its entry.
  ['keeps the processor’s translations at a flush', ['vmi', 'kvm'], (pager) => { pager.flush = nothing; }],
  ['does not change the tables with the root', ['lguest', 'vmi', 'kvm'], (pager) => {
    const load = pager.load.bind(pager);
    pager.load = (gpa) => {
      const before = pager.options.cpu.cr(3);
      const done = load(gpa);
      pager.options.cpu.setCr(3, before);
      return done;
    };
  }],
];
/** No process sees these: what is kept is looked up again before it matters, or it stores to no table through it. */
export const UNSEEN: typeof MISTAKES = [
  ['keeps the processor’s translation of a page at its flush', ['vmi', 'kvm'], (pager) => { pager.options.cpu.invlpg = nothing; }],
  ['keeps the processor’s translations when it drops its shadows', ['lguest'], (pager) => { pager.flush = nothing; }],
  ['flushes nothing when it write-protects a table', ['kvm'], (pager) => {
    const { cpu } = pager.options;
    const flush = cpu.flushTlb.bind(cpu);
    cpu.flushTlb = nothing;
    pager.flush = () => flush(false);
  }],
];
