// Nothing a guest passes breaks the frame table: random programs of hypercalls, stores and garbage
// arguments, on all four ABIs, with counted preemption; then everything is counted from scratch.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { InvariantViolation } from '../../src/base/assert.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import { PAGE_RULES, type PageRules } from '../../src/hypervisor/pte-rules.ts';
import { putOldTable } from '../../src/hypervisor/page-types.ts';
import { ConformRunner, type Script } from '../../src/replay/conform.ts';
import { program } from './mm-programs.ts';
import { recount } from './recount.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PROGRAMS = LONG ? 100_000 : 1500;
const ABIS = ['pv64', 'pv32pae', 'xen3-pae', 'xen3-nopae'] as const;

describe('hostile programs', () => {
  for (const abi of ABIS) {
    test(`leave consistent counts, and nothing after the domain's end (${abi})`, { timeout: 3_600_000 }, () => {
      for (let n = 0; n < PROGRAMS / ABIS.length; n++) {
        const seed = `${abi}:${n}`;
        const prng = new PrngStream(seed, 'mm-fuzz');
        const ops = program(prng);
        const preemptible = prng.below(2) === 0;
        const runner = runners[abi]?.[preemptible ? 1 : 0] as ConformRunner;
        problems.length = 0;
        runner.run({ id: seed, abi: abi as Script['abi'], family: 'mm', sub: 'fuzz', ops, results: [] });
        expect(problems, `seed ${seed}: ${JSON.stringify(ops)}`).toEqual([]);
      }
    });
  }
});

const problems: string[] = [];
let turn = 0;
const newRunner = (preempt: () => boolean, rules: PageRules = PAGE_RULES): ConformRunner => new ConformRunner({
  preempt,
  rules,
  afterScript: ({ hv, d1, vcpu }) => {
    // A multicall whose list vanished under it may leave a table for the next hypercall to finish.
    putOldTable(hv, vcpu);
    problems.push(...recount(hv, d1));
    destroyDomain(hv, d1);
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === d1.domId) problems.push(`left: ${hv.frames.describe(mfn)}`);
  },
});
const runners: Record<string, ConformRunner[]> = Object.fromEntries(ABIS.map((abi) => [abi, [newRunner(() => false), newRunner(() => ++turn % 37 === 0)]]));

describe('programs have teeth', () => {
  /** What breaks one rule each; the others need more than counting to be noticed. */
  const broken: Partial<Record<keyof PageRules, Partial<PageRules>>> = {
    linearReadOnly: { linearReadOnly: false },
    ownerChecked: { ownerChecked: false },
    typesExclude: { typesExclude: false },
    oldEntryReleased: { oldEntryReleased: false },
    failedTableIsUndone: { failedTableIsUndone: false },
    restartKeepsReference: { restartKeepsReference: false },
    restartRemembersEntry: { restartRemembersEntry: false },
    emulatedStoreChecked: { emulatedStoreChecked: false },
    pinnedOnce: { pinnedOnce: false },
    fastPath: { fastPath: [0, 0xfffe66, 0xfffe66, 0xfffe66, 0xfffe66] },
  };
  for (const [name, change] of Object.entries(broken)) {
    test(`a hypervisor without the rule ${name} is found out`, { timeout: 120_000 }, () => {
      const runner = newRunner(() => ++turn % 7 === 0, { ...PAGE_RULES, ...change });
      const found = (n: number, abi: (typeof ABIS)[number]): boolean => {
        problems.length = 0;
        try {
          runner.run({ id: `${n}`, abi: abi as Script['abi'], family: 'mm', sub: 'mutant', ops: program(new PrngStream(`${abi}:${n}`, 'mm-mutant')), results: [] });
        } catch (error) {
          if (!(error instanceof InvariantViolation)) throw error;
          return true;
        }
        return problems.length > 0;
      };
      let n = 0;
      while (n < 2000 && !found(n, ABIS[n % ABIS.length] as (typeof ABIS)[number])) n++;
      expect(n).toBeLessThan(2000);
    });
  }
});
