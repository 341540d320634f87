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
