// Random programs of the model guest's processes, by fast-check: few places, so that programs come back
// to them, and such as lie at the seams of page tables (2 MiB and 4 MiB, a gigabyte, the end of user
// space).
import fc from 'fast-check';
import type { Protection, UserStep } from '../guest/user-program.ts';

/** First pages of runs of four. */
const PLACES = [0x1000_0000, 0x101f_e000, 0x103f_e000, 0x3fff_e000, 0xbfff_c000] as const;
const RUN_PAGES = 4;

const place = fc.oneof({ weight: 4, arbitrary: fc.constant(PLACES[0]) }, { weight: 3, arbitrary: fc.constantFrom(...PLACES) });
const page = fc.tuple(place, fc.integer({ min: 0, max: RUN_PAGES - 1 })).map(([base, index]) => base + index * 4096);
const pages = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: RUN_PAGES }) }, { weight: 1, arbitrary: fc.constantFrom(0, 17, 600) });
const prot = fc.oneof({ weight: 4, arbitrary: fc.constant<Protection>('rw') }, { weight: 2, arbitrary: fc.constantFrom<Protection>('r', '') });
const word = fc.tuple(page, fc.constantFrom(0, 4, 0xffc)).map(([at, offset]) => at + offset);
const value = fc.integer({ min: 1, max: 9 });

const simple: fc.Arbitrary<UserStep> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ op: fc.constant('mmap' as const), at: page, pages, prot }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('munmap' as const), at: page, pages }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('mprotect' as const), at: page, pages, prot }) },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('store' as const), at: word, value }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('load' as const), at: word }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('fill' as const), at: page, pages: fc.integer({ min: 1, max: RUN_PAGES }), value }) },
  { weight: 1, arbitrary: fc.constantFrom<UserStep>({ op: 'yield' }, { op: 'wait' }, { op: 'wait' }, { op: 'compute', insns: 1000 }, { op: 'sleep', ns: 100_000 }) },
);

/** Steps of a process that may fork and exec `depth` levels deep. */
function steps(depth: number, maxLength: number): fc.Arbitrary<UserStep[]> {
  if (depth === 0) return fc.array(simple, { maxLength });
  const below = steps(depth - 1, Math.max(3, maxLength >> 1));
  const fork: fc.Arbitrary<UserStep> = below.map((child) => ({ op: 'fork', child }));
  const exec: fc.Arbitrary<UserStep> = below.map((program) => ({ op: 'exec', program }));
  return fc.array(fc.oneof({ weight: 8, arbitrary: simple }, { weight: 2, arbitrary: fork }, { weight: 1, arbitrary: exec }, { weight: 1, arbitrary: fc.constant<UserStep>({ op: 'exit' }) }), { maxLength });
}

/** Every program begins with memory to work on and ends by looking at it. */
export const guestPrograms = ({ depth = 2, maxLength = 16 }: { depth?: number; maxLength?: number } = {}): fc.Arbitrary<UserStep[]> =>
  steps(depth, maxLength).map((body) => [{ op: 'mmap', at: PLACES[0], pages: RUN_PAGES, prot: 'rw' }, ...body, { op: 'sweep', at: PLACES[0], pages: RUN_PAGES }]);
