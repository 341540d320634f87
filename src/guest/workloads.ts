// Programs for processes of the model guest that more than one scenario or test runs.
import type { UserStep } from './user-program.ts';

const HEAP = 0x1000_0000;

/** Maps, forks, copies on write, unmaps. */
export const bootProgram: readonly UserStep[] = [
  { op: 'mmap', at: HEAP, pages: 16, prot: 'rw' },
  { op: 'fill', at: HEAP, pages: 16, value: 0x100 },
  { op: 'fork', child: [{ op: 'store', at: HEAP, value: 0xc01d }, { op: 'sweep', at: HEAP, pages: 16 }, { op: 'print', text: 'child' }] },
  { op: 'store', at: HEAP + 4096, value: 0xada1 },
  { op: 'wait' },
  { op: 'sweep', at: HEAP, pages: 16 },
  { op: 'munmap', at: HEAP + 0x4000, pages: 4 },
  { op: 'load', at: HEAP + 0x4000 },
  { op: 'print', text: 'parent' },
];

const touched = (pages: number): readonly UserStep[] => [{ op: 'mmap', at: HEAP, pages, prot: 'rw' }, { op: 'fill', at: HEAP, pages, value: 1 }];

/** What a table of late against early pinning is measured on: 64 pages of memory, `times` times each. */
export const pinningWorkloads = (times: number): readonly { readonly name: string; readonly program: readonly UserStep[] }[] => [
  { name: 'mmap, write, munmap', program: [{ op: 'repeat', times, steps: [...touched(64), { op: 'munmap', at: HEAP, pages: 64 }] }] },
  { name: 'fork, exit', program: [...touched(64), { op: 'repeat', times, steps: [{ op: 'fork', child: [] }, { op: 'wait' }] }] },
  { name: 'fork, exec, exit', program: [...touched(64), { op: 'repeat', times, steps: [{ op: 'fork', child: [{ op: 'exec', program: touched(16) }] }, { op: 'wait' }] }] },
  { name: 'fork, write everything, exit', program: [...touched(64), { op: 'repeat', times, steps: [{ op: 'fork', child: [{ op: 'fill', at: HEAP, pages: 64, value: 7 }] }, { op: 'wait' }] }] },
];

/** Processes that fork until there are many: 3 children each, 4 levels deep. */
export function forkStorm(depth: number, children: number): readonly UserStep[] {
  const storm = (left: number): UserStep[] => (left === 0 ? [{ op: 'store', at: HEAP, value: left }, { op: 'sweep', at: HEAP, pages: 4 }]
    : [...Array.from({ length: children }, (_, child): UserStep => ({ op: 'fork', child: [{ op: 'store', at: HEAP + child * 4096, value: left * 16 + child }, ...storm(left - 1)] })), { op: 'sweep', at: HEAP, pages: 4 }, ...Array.from({ length: children }, (): UserStep => ({ op: 'wait' }))]);
  return [...touched(4), ...storm(depth)];
}

/** Forks, copies on write and exits without end: about 5,700 events a round. */
export const busyProgram = (rounds: number): readonly UserStep[] => [...touched(64), { op: 'repeat', times: rounds * 10, steps: [{ op: 'fork', child: [{ op: 'fill', at: HEAP, pages: 64, value: 7 }] }, { op: 'wait' }] }];
