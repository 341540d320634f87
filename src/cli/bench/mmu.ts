// How fast memory management is: MMU operations by themselves, full checks after every operation in a
// small world, and (where the corpus is) the conformance scripts.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { InvariantChecker } from '../../checkers/index.ts';
import { dispatchHypercall } from '../../hypervisor/dispatch.ts';
import { HypercallArgs } from '../../hypervisor/hypercall.ts';
import { hypercallRows } from '../../hypervisor/hypercall-rows.ts';
import { XEN_BUILDS } from '../../hypervisor/personality.ts';
import { ConformRunner } from '../../replay/conform.ts';
import { parseScripts } from '../../replay/conform-script.ts';
import { ConformWorld, KERNEL_VADDR, SCRATCH_VADDR } from '../../replay/conform-world.ts';

export interface MmuBench {
  /** update_va_mapping calls and elements of mmu_update batches, a mapping made and taken back in turn. */
  readonly operationsPerSecond: number;
  readonly batchedOperationsPerSecond: number;
  /** One operation and all checkers over everything, again and again, in a domain of some 64 frames. */
  readonly checkedOperationsPerSecond: number;
  /** Seconds for the open conformance set; undefined if it is not there. */
  readonly conformanceSeconds: number | undefined;
  readonly conformanceScripts: number;
}

const FRAMES = 448;
const secondsSince = (start: bigint): number => Number(process.hrtime.bigint() - start) / 1e9;
const best = (rounds: number, measure: () => number): number => Math.max(...Array.from({ length: rounds }, measure));

/** `corpus`: folder with *.jsonl.gz. */
export function benchMmu({ quick = false, corpus }: { readonly quick?: boolean; readonly corpus?: string } = {}): MmuBench {
  const { hv, vcpu, d2, mfns } = new ConformWorld({ hypercallRows, build: XEN_BUILDS.release, frameCount: FRAMES }).fresh('pv32pae');
  const args = new HypercallArgs();
  const f0 = (mfns.get('f0') as number) * 4096;
  const slot = SCRATCH_VADDR + 16 * 4096;
  let on = false;
  const operation = (): void => {
    on = !on;
    args.set([slot, on ? f0 + 0x63 : 0, 0, 2]);
    dispatchHypercall(hv, vcpu, 14, args);
  };
  const rounds = quick ? 2 : 5;
  const count = quick ? 50_000 : 200_000;
  const operationsPerSecond = best(rounds, () => {
    const start = process.hrtime.bigint();
    for (let i = 0; i < count; i++) operation();
    return count / secondsSince(start);
  });

  // A batch of 64 entries in the kernel's page.
  const BATCH = 64;
  const kernelMfn = hv.machine.readU32((mfns.get('live_l1') as number) * 4096 + ((KERNEL_VADDR >>> 12) & 511) * 8) >>> 12;
  const l1 = (mfns.get('scratch_l1') as number) * 4096;
  for (let i = 0; i < BATCH; i++) {
    const at = kernelMfn * 4096 + i * 16;
    hv.machine.writeU32(at, l1 + (16 + (i >> 1)) * 8);
    hv.machine.writeU32(at + 4, 0);
    hv.machine.writeU32(at + 8, i % 2 === 0 ? f0 + 0x63 : 0);
    hv.machine.writeU32(at + 12, 0);
  }
  const batches = count / BATCH;
  const batchedOperationsPerSecond = best(rounds, () => {
    const start = process.hrtime.bigint();
    for (let i = 0; i < batches; i++) {
      args.set([KERNEL_VADDR, BATCH, 0, 0x7ff0]);
      dispatchHypercall(hv, vcpu, 1, args);
    }
    return (batches * BATCH) / secondsSince(start);
  });

  const checker = new InvariantChecker(hv);
  const extra = ['foreign', 'foreign1', 'foreign2'].map((name) => ({ mfn: mfns.get(name) as number, typed: 'writable' as const }));
  const checks = quick ? 4000 : 20_000;
  let violations = 0;
  const checkedOperationsPerSecond = best(rounds, () => {
    const start = process.hrtime.bigint();
    for (let i = 0; i < checks; i++) {
      operation();
      violations += checker.run({ extra }).length;
    }
    return checks / secondsSince(start);
  });
  if (violations > 0) throw new Error(`the bench's own world is inconsistent (d${d2.domId}): ${violations} violations`);
  return { operationsPerSecond: Math.round(operationsPerSecond), batchedOperationsPerSecond: Math.round(batchedOperationsPerSecond), checkedOperationsPerSecond: Math.round(checkedOperationsPerSecond), ...conformance(corpus) };
}

function conformance(folder: string | undefined): { conformanceSeconds: number | undefined; conformanceScripts: number } {
  const files = folder === undefined ? [] : readdirSync(folder).filter((name) => name.endsWith('.jsonl.gz'));
  if (folder === undefined || files.length === 0) return { conformanceSeconds: undefined, conformanceScripts: 0 };
  const start = process.hrtime.bigint();
  const runner = new ConformRunner();
  let scripts = 0;
  for (const name of files) {
    for (const script of parseScripts(gunzipSync(readFileSync(join(folder, name))).toString('utf8'), name)) {
      runner.run(script);
      scripts++;
    }
  }
  return { conformanceSeconds: Math.round(secondsSince(start) * 10) / 10, conformanceScripts: scripts };
}
