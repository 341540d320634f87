// Random programs for the memory hypercalls, in the form of conformance scripts: batches, stores,
// multicalls, garbage arguments. Mostly on a few frames, so that programs meet themselves.
import type { PrngStream } from '../../src/base/prng.ts';
import type { ScriptOp } from '../../src/replay/conform-op.ts';

const OPS = 40;
const FRAMES = ['f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'root', 'live_l2', 'scratch_l1', 'live_l1', 'gdt', 'shared_info', 'gnttab', 'start_info', 'foreign', 'xen', 'free', 'zero', 'hole', 'vga', 'beyond'];
const FLAGS = ['61', '63', '67', '65', '1', '3', '21', '163', 'e3', '7b', '0', '2', '8000000000000063', '10000000000067', '4000000000000063', 'fff0000000000001'];
const EXT = ['pin_l1', 'pin_l2', 'pin_l3', 'pin_l4', 'unpin', 'new_baseptr', 'new_user_baseptr', 'clear_page', 'copy_page', 'tlb_flush_local', 'mark_super', 'bad_14'];

export function program(prng: PrngStream): ScriptOp[] {
  const pick = <T>(items: readonly T[]): T => items[prng.below(items.length)] as T;
  // Mostly a few frames, so that programs meet themselves.
  const frame = (): string => (prng.below(4) > 0 ? `f${prng.below(6)}` : pick(FRAMES));
  const value = (): string => (prng.below(8) === 0 ? '0' : prng.below(20) === 0 ? `raw:${prng.u32().toString(16).replace('-', '')}` : `${frame()}:${pick(FLAGS)}`);
  const vaddr = (): string => (prng.below(10) === 0 ? `va:${(prng.u32() >>> 0).toString(16)}` : `${prng.below(2) === 0 ? 'v' : 'w'}${prng.below(8)}`);
  const entry = (): string => `${frame()}[${pick([0, 1, 2, 3, 8, 255, 256, 258, 427, 428, 510, 511])}]`;
  const one = (): ScriptOp => {
    switch (prng.below(14)) {
      case 0: {
        // The frame's own mapping, read-only as for a table: what writable page tables are about.
        const k = prng.below(6);
        return { op: 'uvm', va: `v${k}`, val: `f${k}:${pick(['61', '61', '63'])}`, fl: 2 };
      }
      case 1: return { op: 'uvm', va: vaddr(), val: value(), fl: prng.below(16) };
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
  if (prng.below(2) === 0) ops.unshift({ op: 'assist', cmd: 'enable', type: 2 });
  // Multicalls of what is a hypercall, now and then nested.
  if (prng.below(3) === 0) ops.push({ op: 'multi', calls: [...ops.filter(({ op }) => ['uvm', 'mmu', 'ext', 'set_gdt'].includes(op)).slice(0, 6), { op: 'multi', calls: ops.filter(({ op }) => op === 'uvm').slice(0, 2) }] });
  // Garbage where argument structures are read from.
  for (let i = 0; i < 4; i++) ops.unshift({ op: 'wr', va: `kernel+${(i * 8).toString(16)}`, val: value() });
  return ops;
}
