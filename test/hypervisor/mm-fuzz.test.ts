// Nothing a guest passes breaks the frame table: random programs of hypercalls, stores and garbage
// arguments, on all four ABIs, with counted preemption; then everything is counted from scratch.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import { putOldTable } from '../../src/hypervisor/page-types.ts';
import { ConformRunner, type Script } from '../../src/replay/conform.ts';
import type { ScriptOp } from '../../src/replay/conform-op.ts';
import { recount } from './recount.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const PROGRAMS = LONG ? 100_000 : 1500;
const OPS = 40;
const ABIS = ['pv64', 'pv32pae', 'xen3-pae', 'xen3-nopae'] as const;

const FRAMES = ['f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'root', 'live_l2', 'scratch_l1', 'live_l1', 'gdt', 'shared_info', 'gnttab', 'start_info', 'foreign', 'xen', 'free', 'zero', 'hole', 'vga', 'beyond'];
const FLAGS = ['61', '63', '67', '65', '1', '3', '21', '163', 'e3', '7b', '0', '2', '8000000000000063', '10000000000067', '4000000000000063', 'fff0000000000001'];
const EXT = ['pin_l1', 'pin_l2', 'pin_l3', 'pin_l4', 'unpin', 'new_baseptr', 'new_user_baseptr', 'clear_page', 'copy_page', 'tlb_flush_local', 'mark_super', 'bad_14'];

function program(prng: PrngStream): ScriptOp[] {
  const pick = <T>(items: readonly T[]): T => items[prng.below(items.length)] as T;
  // Mostly a few frames, so that programs meet themselves.
  const frame = (): string => (prng.below(4) > 0 ? `f${prng.below(6)}` : pick(FRAMES));
  const value = (): string => (prng.below(8) === 0 ? '0' : prng.below(20) === 0 ? `raw:${prng.u32().toString(16).replace('-', '')}` : `${frame()}:${pick(FLAGS)}`);
  const vaddr = (): string => (prng.below(10) === 0 ? `va:${(prng.u32() >>> 0).toString(16)}` : `${prng.below(2) === 0 ? 'v' : 'w'}${prng.below(8)}`);
  const entry = (): string => `${frame()}[${pick([0, 1, 2, 3, 8, 255, 256, 258, 427, 428, 510, 511])}]`;
  const one = (): ScriptOp => {
    switch (prng.below(14)) {
      case 0: case 1: return { op: 'uvm', va: vaddr(), val: value(), fl: prng.below(16) };
      case 2: case 3: return { op: 'mmu', req: Array.from({ length: 1 + prng.below(4) }, () => (prng.below(8) === 0 ? ['m', frame(), value()] : [pick(['n', 'p', 'bad']), entry(), value()])), ...(prng.below(10) === 0 ? { fd: pick(['d2', 'io', 'xen', 'd1', 'd0']) } : {}) };
      case 4: case 5: case 6: return { op: 'ext', req: Array.from({ length: 1 + prng.below(4) }, () => [pick(EXT), frame(), frame()]), ...(prng.below(12) === 0 ? { fd: pick(['d2', 'd99']) } : {}) };
      case 7: case 8: case 9: return { op: 'wr', va: `v${prng.below(6)}+${(prng.below(512) * (prng.below(3) > 0 ? 8 : 1)).toString(16)}`, val: value(), ...(prng.below(4) === 0 ? { size: 4, part: pick(['lo', 'hi']) } : {}) };
      case 10: return { op: 'assist', cmd: pick(['enable', 'disable', 'bad']), type: pick([0, 2, 3, 32, 33, 7]) };
      case 11: return { op: 'set_gdt', frames: [frame(), frame()], ents: pick([0, 1, 16, 513, 1024, 8000]) };
      case 12: return { op: 'mem', cmd: pick(['increase', 'decrease', 'current']), frames: prng.below(2) === 0 ? [frame()] : [frame(), frame()] };
      default: return { op: 'hc', nr: pick([1, 2, 10, 12, 13, 14, 21, 22, 26]), args: Array.from({ length: 5 }, () => pick<number | string>([0, 1, 2, 5, 0x7ff0, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 'kernel', 'null', 'v0', 'w0', prng.u32() >>> 0])) };
    }
  };
  const ops = Array.from({ length: OPS }, one);
  // Multicalls of what is a hypercall, now and then nested.
  if (prng.below(3) === 0) ops.push({ op: 'multi', calls: [...ops.filter(({ op }) => ['uvm', 'mmu', 'ext', 'set_gdt'].includes(op)).slice(0, 6), { op: 'multi', calls: ops.filter(({ op }) => op === 'uvm').slice(0, 2) }] });
  // Garbage where argument structures are read from.
  for (let i = 0; i < 4; i++) ops.unshift({ op: 'wr', va: `kernel+${(i * 8).toString(16)}`, val: value() });
  return ops;
}

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
const newRunner = (preempt: () => boolean): ConformRunner => new ConformRunner({
  preempt,
  afterScript: ({ hv, d1, vcpu }) => {
    // A multicall whose list vanished under it may leave a table for the next hypercall to finish.
    putOldTable(hv, vcpu);
    problems.push(...recount(hv, d1));
    destroyDomain(hv, d1);
    for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === d1.domId) problems.push(`left: ${hv.frames.describe(mfn)}`);
  },
});
const runners: Record<string, ConformRunner[]> = Object.fromEntries(ABIS.map((abi) => [abi, [newRunner(() => false), newRunner(() => ++turn % 37 === 0)]]));
