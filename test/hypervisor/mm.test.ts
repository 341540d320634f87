// Memory management beyond the recorded scripts: the two-level shape, 32-bit Xen's rules, multicalls,
// reservations, descriptors, preemption as the guest sees it.
import { describe, expect, test } from 'vitest';
import { dispatchHypercall } from '../../src/hypervisor/dispatch.ts';
import { HypercallArgs, type HypercallOutcome } from '../../src/hypervisor/hypercall.ts';
import { hypercallRows } from '../../src/hypervisor/hypercall-rows.ts';
import { setGdt } from '../../src/hypervisor/hypercalls/descriptors.ts';
import { handlePageFault } from '../../src/hypervisor/mm-doors.ts';
import { createPerDomain, gdtVaddr } from '../../src/hypervisor/per-domain.ts';
import { ABIS, XEN_BUILDS, type AbiName } from '../../src/hypervisor/personality.ts';
import { checkDescriptor, checkedHi, checkedLo } from '../../src/hypervisor/segment-descriptors.ts';
import { ConformRunner, type Script } from '../../src/replay/conform.ts';
import type { ScriptOp } from '../../src/replay/conform-op.ts';
import { ConformWorld, KERNEL_VADDR, type ConformState } from '../../src/replay/conform-world.ts';
import { recount } from './recount.ts';

type Row = readonly [op: ScriptOp, expected: unknown];
const uvm = (va: string, val: string, fl = 2): ScriptOp => ({ op: 'uvm', va, val, fl });
const ext = (...req: readonly (readonly string[])[]): ScriptOp => ({ op: 'ext', req });
const mmu = (...req: readonly (readonly string[])[]): ScriptOp => ({ op: 'mmu', req });
const wr = (va: string, val: string): ScriptOp => ({ op: 'wr', va, val });
const wr4 = (va: string, val: string): ScriptOp => ({ op: 'wr', va, val, size: 4, part: 'lo' });
const rd = (va: string): ScriptOp => ({ op: 'rd', va });

/** Runs operations on a fresh world and compares each answer; then counts everything from scratch. */
function answers(abi: AbiName, rows: readonly Row[], options: ConstructorParameters<typeof ConformRunner>[0] = {}): void {
  let wrong: string[] = [];
  const runner = new ConformRunner({ ...options, afterScript: ({ hv, d1 }) => (wrong = recount(hv, d1)) });
  const script: Script = { id: abi, abi: abi as Script['abi'], family: 'mm', sub: 'test', ops: rows.map(([op]) => op), results: rows.map(([, expected]) => expected) };
  expect(runner.run(script)).toEqual([]);
  expect(wrong).toEqual([]);
}

describe('two-level tables, as 32-bit Xen 3.x had them', () => {
  test('a tree of 4-byte entries is pinned, used and taken apart', () => {
    answers('xen3-nopae', [
      [wr4('v0+4', 'f2:63'), 'ok'],
      [wr4('v1+14', 'f0:67'), 'ok'],
      [uvm('v0', 'f0:61'), 0], [uvm('v1', 'f1:61'), 0],
      [ext(['pin_l2', 'f1']), [0, 1]],
      [uvm('w0', 'f0:63'), -16], [uvm('w0', 'f1:63'), -16], [uvm('w0', 'f1:61'), 0],
      [ext(['pin_l1', 'f2']), [-22, 0]],
      [ext(['unpin', 'f1']), [0, 1]],
      [uvm('w0', 'f0:63'), 0],
    ]);
  });

  test('the hypervisor fills the slots from 0xfc000000 of every root with its own, whatever the guest wrote there', () => {
    answers('xen3-nopae', [
      [wr4('v1+fc0', 'f5:63'), 'ok'], [uvm('v1', 'f1:61'), 0], [ext(['pin_l2', 'f1']), [0, 1]],
      [mmu(['n', 'f1[504]', 'f0:67']), [-1, 0]],
      // The machine-to-phys table: readable, never writable, not through update_va_mapping either.
      [rd('va:fc000000'), 'raw:ffffffffffffffff'], [wr4('va:fc000000', '0'), 'pf:3'], [{ op: 'uvm', va: 'va:fc000000', val: 'f3:63', fl: 2 }, -22],
    ]);
  });

  test('a root may map itself and another root read-only, and only read-only', () => {
    answers('xen3-nopae', [
      [wr4('v1+8', 'f1:61'), 'ok'], [wr4('v2+8', 'f1:61'), 'ok'], [wr4('v3+8', 'f3:63'), 'ok'],
      [uvm('v1', '0'), 0], [uvm('v2', '0'), 0], [uvm('v3', '0'), 0],
      [ext(['pin_l2', 'f1'], ['pin_l2', 'f2']), [0, 2]],
      [ext(['pin_l2', 'f3']), [-22, 0]],
      [ext(['unpin', 'f1'], ['unpin', 'f2']), [0, 2]],
    ]);
  });

  test('cache attributes, PSE and GLOBAL are refused in its entries', () => {
    for (const flags of ['6b', '73', 'e3', '163']) answers('xen3-nopae', [[uvm('w0', `f0:${flags}`), -22]]);
    answers('xen3-nopae', [[mmu(['n', 'live_l2[3]', 'f0:e7']), [-22, 0]]]);
  });

  test('pinning levels that its tables do not have does nothing and succeeds', () => {
    answers('xen3-nopae', [[ext(['pin_l3', 'f0'], ['pin_l4', 'f0']), [0, 2]], [uvm('w0', 'f0:63'), 0]]);
  });

  test('stores to a pinned table go through the rules when writable page tables are on', () => {
    answers('xen3-nopae', [
      [uvm('v0', 'f0:61'), 0], [ext(['pin_l1', 'f0']), [0, 1]],
      [wr4('v0+8', 'f2:63'), 'pf:3'],
      [{ op: 'assist', cmd: 'enable', type: 2 }, 0],
      [wr4('v0+8', 'f2:63'), 'ok'], [wr4('v0+c', 'f0:63'), 'pf:3'], [wr4('v0+c', 'hole:63'), 'pf:3'],
      [ext(['pin_l1', 'f2']), [-22, 0]], [wr4('v0+8', '0'), 'ok'], [uvm('v2', '0'), 0], [ext(['pin_l1', 'f2']), [0, 1]],
    ]);
  });
});

describe('PAE roots', () => {
  const tree: readonly Row[] = [
    ...[0, 1, 2, 3].map((i): Row => [wr(`v8+${(i * 8).toString(16)}`, `f${i}:1`), 'ok']),
    ...[0, 1, 2, 3, 8].map((i): Row => [uvm(`v${i}`, i === 8 ? 'f8:61' : '0'), 0]),
    [ext(['pin_l3', 'f8']), [0, 1]],
  ];
  for (const abi of ['pv32pae', 'xen3-pae'] as const) {
    test(`an L2 that holds the hypervisor's entries cannot be shared by a second root, and the refusal costs a reference (${abi})`, () => {
      answers(abi, [
        ...tree,
        ...[4, 5, 6, 3].map((f, i): Row => [wr(`v9+${(i * 8).toString(16)}`, `f${f}:1`), 'ok']),
        ...[4, 5, 6].map((i): Row => [uvm(`v${i}`, '0'), 0]), [uvm('v9', 'f9:61'), 0],
        [ext(['pin_l3', 'f9']), [-22, 0]],
        [ext(['unpin', 'f8']), [0, 1]],
        [uvm('w3', 'f3:63'), -16], [uvm('w2', 'f2:63'), 0],
      ]);
    });
  }
  test('slot 3 must be there, and cannot be changed later', () => {
    answers('pv32pae', [[uvm('v8', '0'), 0], [ext(['pin_l3', 'f8']), [-22, 0]]]);
    answers('pv32pae', [...tree, [mmu(['n', 'f8[3]', 'f4:1']), [-22, 0]], [mmu(['n', 'f8[2]', '0']), [0, 1]], [uvm('w2', 'f2:63'), 0]]);
  });
  test('64-bit Xen adds RW and USER to the entries of a validated root; 32-bit Xen refuses them', () => {
    answers('pv32pae', [...tree, [rd('v8'), 'f0:7'], [ext(['unpin', 'f8']), [0, 1]], [rd('v8'), 'f0:1']]);
    answers('xen3-pae', [...tree, [rd('v8'), 'f0:1'], [mmu(['n', 'f8[2]', 'f2:67']), [-22, 0]]]);
  });
});

describe('multicall', () => {
  const calls = [uvm('w0', 'f0:63'), uvm('w1', 'hole:63'), ext(['pin_l1', 'f1']), mmu(['n', 'live_l2[500]', 'f2:67'])];
  const rows = (abi: AbiName): readonly Row[] => [
    [uvm('v2', '0'), 0],
    [{ op: 'multi', calls }, [0, [0, -1, [-22, 0], [0, 1]]]],
    [{ op: 'multi', calls: [uvm('w2', 'f0:61'), { op: 'multi', calls: [uvm('w3', 'f0:61')] }, uvm('w4', 'f0:61')] }, [0, [0, [-22, ['-']], 0]]],
    [rd('w3'), 'pf:0'], [rd('w4'), '0'],
    [{ op: 'multi', calls: [{ op: 'hc', nr: 55, args: [] }] }, [0, [-38]]],
    ...(abi === 'pv64' ? [[{ op: 'hc', nr: 13, args: ['va:ffff830000000000', 1] }, -14] as Row] : []),
  ];
  test('gives each element its own result; a nested one is refused without touching its list', () => {
    for (const abi of ['pv64', 'pv32pae', 'xen3-pae'] as const) answers(abi, rows(abi));
  });
  test('preempted between and inside its elements, it ends the same', () => {
    for (const abi of ['pv64', 'pv32pae'] as const) answers(abi, rows(abi), { preempt: () => true });
  });
});

describe('what depends on the build', () => {
  test('bit 62 is refused by debug builds and plain software space in release builds', () => {
    answers('pv64', [[uvm('w0', 'f0:4000000000000063'), -22]], { build: XEN_BUILDS.debug });
    answers('pv64', [[uvm('w0', 'f0:4000000000000063'), 0]], { build: XEN_BUILDS.release });
  });
});

// -- hypercalls with hand-made arguments ----------------------------------------------------------

class Guest {
  readonly state: ConformState;
  readonly #args = new HypercallArgs();
  constructor(abi: AbiName, preempt: () => boolean = () => false) {
    this.state = new ConformWorld({ hypercallRows, preempt }).fresh(abi);
  }
  mfn = (name: string): number => this.state.mfns.get(name) as number;
  once(number: number, ...args: number[]): HypercallOutcome {
    return dispatchHypercall(this.state.hv, this.state.vcpu, number, this.#args.set(args));
  }
  call(number: number, ...args: number[]): number {
    const outcome = this.once(number, ...args);
    return outcome.kind === 'done' ? outcome.rc : outcome.kind === 'continuation' ? this.call(number, ...outcome.args) : Number.NaN;
  }
  /** Puts guest words at KERNEL_VADDR + offset. */
  words(offset: number, ...values: number[]): number {
    const { hv, vcpu, d1 } = this.state;
    values.forEach((value, i) => expect(hv.access.writeWord(vcpu, KERNEL_VADDR + offset + (i * d1.abi.wordBits) / 8, value)).toBe(true));
    return KERNEL_VADDR + offset;
  }
  u32s(offset: number, ...values: number[]): number {
    const { hv, vcpu } = this.state;
    values.forEach((value, i) => hv.access.writeU32(vcpu, KERNEL_VADDR + offset + i * 4, value >>> 0));
    return KERNEL_VADDR + offset;
  }
  word = (offset: number): number => this.state.hv.access.readWord(this.state.vcpu, KERNEL_VADDR + offset) as number;
}
/** xen_memory_reservation at `offset`: a list of extents at `offset` + 0x100. */
function reservation(guest: Guest, offset: number, extents: readonly number[], order = 0): number {
  const word = guest.state.d1.abi.wordBits / 8;
  const list = guest.words(offset + 0x100, ...extents);
  guest.words(offset, list, extents.length);
  guest.u32s(offset + 2 * word, order, 0, 0x7ff0);
  return KERNEL_VADDR + offset;
}
const MEMORY_OP = 12;
const XENMEM = { increase: 0, decrease: 1, current: 3, machphys: 12, populate: 6, exchange: 11 } as const;

describe('a domain\'s reservation', () => {
  for (const abi of ['pv64', 'pv32pae', 'xen3-nopae'] as const) {
    test(`populate_physmap gives frames and records their pseudo-physical numbers (${abi})`, () => {
      const guest = new Guest(abi);
      const { hv, d1 } = guest.state;
      const before = d1.totPages;
      expect(guest.call(MEMORY_OP, XENMEM.populate, reservation(guest, 0, [0x700, 0x701]))).toBe(2);
      const mfns = [guest.word(0x100), guest.word(0x100 + d1.abi.wordBits / 8)];
      expect(mfns.map((mfn) => hv.frames.getM2p(mfn))).toEqual([0x700, 0x701]);
      expect(d1.totPages).toBe(before + 2);
      expect(recount(hv, d1)).toEqual([]);
    });
    test(`exchange swaps a frame that nothing refers to, and refuses one that is mapped (${abi})`, () => {
      const guest = new Guest(abi);
      const { hv, d1 } = guest.state;
      const word = abi === 'pv64' ? 8 : 4;
      const size = abi === 'pv64' ? 32 : 20;
      const mapped = guest.mfn('f1');
      const loose = guest.mfn('f0');
      expect(guest.call(14, 0x3fe0_0000, 0, ...(abi === 'pv64' ? [0] : [0, 0]))).toBe(0);
      const exchange = (mfn: number): number => {
        const list = guest.words(0x300, mfn);
        const out = guest.words(0x380, 0x123);
        guest.words(0, list, 1);
        guest.u32s(2 * word, 0, 0, 0x7ff0);
        guest.words(size, out, 1);
        guest.u32s(size + 2 * word, 0, 0, 0x7ff0);
        guest.words(2 * size, 0);
        return guest.call(MEMORY_OP, XENMEM.exchange, KERNEL_VADDR);
      };
      const before = d1.totPages;
      expect(exchange(mapped)).toBe(-22);
      expect(guest.word(2 * size)).toBe(0);
      expect(exchange(loose)).toBe(0);
      expect(guest.word(2 * size)).toBe(1);
      const fresh = guest.word(0x380);
      expect(hv.frames.getM2p(fresh)).toBe(0x123);
      expect(d1.totPages).toBe(before);
      expect(recount(hv, d1)).toEqual([]);
    });
  }
  test('a list longer than a continuation can name is not begun', () => {
    const guest = new Guest('pv64');
    reservation(guest, 0, [1]);
    guest.words(8, 0x1000_0000);
    expect(guest.call(MEMORY_OP, XENMEM.decrease, KERNEL_VADDR)).toBe(0);
  });
  test('larger extents come in one aligned piece, up to the order that a domU may ask for', () => {
    const guest = new Guest('pv64');
    expect(guest.call(MEMORY_OP, XENMEM.increase, reservation(guest, 0, [0], 4))).toBe(1);
    expect(guest.word(0x100) % 16).toBe(0);
    expect(guest.call(MEMORY_OP, XENMEM.increase, reservation(guest, 0, [0], 10))).toBe(0);
    expect(guest.call(MEMORY_OP, XENMEM.decrease, reservation(guest, 0, [guest.word(0x100)], 4))).toBe(0);
  });
  test('the place of the machine-to-phys table is the ABI\'s', () => {
    for (const [abi, start, end] of [['pv32pae', 0xf580_0000, 0xffe0_0000], ['xen3-pae', 0xf580_0000, 0xf680_0000], ['xen3-nopae', 0xfc00_0000, 0xfc40_0000]] as const) {
      const guest = new Guest(abi);
      expect(guest.call(MEMORY_OP, XENMEM.machphys, KERNEL_VADDR)).toBe(0);
      expect([guest.word(0), guest.word(4), guest.word(8)]).toEqual([start, end, (end - start) / 4 - 1]);
    }
  });
});

describe('preemption as the guest sees it', () => {
  const MMUEXT = 26;
  function guestWithRoot(preempt: () => boolean): Guest {
    const guest = new Guest('pv64', preempt);
    // f0 is an empty L4: unmap it and pin it.
    expect(guest.call(14, 0x3fe0_0000, 0, 0)).toBe(0);
    return guest;
  }
  const element = (guest: Guest, i: number, cmd: number, mfn: number): void => {
    guest.words(i * 24, 0, mfn, 0);
    guest.u32s(i * 24, cmd);
  };
  test('a batch comes back with the rest: the next element and the count with bit 31 set', () => {
    const guest = guestWithRoot(() => true);
    element(guest, 0, 6, 0);
    element(guest, 1, 6, 0);
    guest.u32s(0x100, 0);
    expect(guest.once(MMUEXT, KERNEL_VADDR, 2, KERNEL_VADDR + 0x100, 0x7ff0)).toEqual({ kind: 'continuation', args: [KERNEL_VADDR + 24, 0x8000_0001, KERNEL_VADDR + 0x100, 0x7ff0] });
    expect(guest.word(0x100) % 0x1_0000_0000).toBe(1);
    expect(guest.call(MMUEXT, KERNEL_VADDR + 24, 0x8000_0001, KERNEL_VADDR + 0x100, 0x7ff0)).toBe(0);
    expect(guest.word(0x100) % 0x1_0000_0000).toBe(2);
  });
  test('a table that is still to be torn down when the batch is done makes one more round, with the result in the last argument', () => {
    const guest = guestWithRoot(() => true);
    const { d1, hv } = guest.state;
    // An L3 with two (empty) L2 tables, so that the demotion can stop half-way.
    for (const v of [1, 2, 3]) expect(guest.call(14, 0x3fe0_0000 + v * 4096, 0, 0)).toBe(0);
    hv.machine.writeU32(guest.mfn('f1') * 4096, guest.mfn('f2') * 4096 + 0x67);
    hv.machine.writeU32(guest.mfn('f1') * 4096 + 8, guest.mfn('f3') * 4096 + 0x67);
    element(guest, 0, 2, guest.mfn('f1'));
    expect(guest.call(MMUEXT, KERNEL_VADDR, 1, 0, 0x7ff0)).toBe(0);
    element(guest, 0, 4, guest.mfn('f1'));
    let outcome = guest.once(MMUEXT, KERNEL_VADDR, 1, 0, 0x7ff0);
    expect(outcome).toEqual({ kind: 'continuation', args: [0, 0x8000_0000, 0, 0] });
    let rounds = 0;
    while (outcome.kind === 'continuation') {
      outcome = guest.once(MMUEXT, ...outcome.args);
      rounds++;
    }
    expect(outcome).toEqual({ kind: 'done', rc: 0 });
    expect(rounds).toBeGreaterThan(100);
    expect(recount(hv, d1)).toEqual([]);
  });
  test('another hypercall in between finishes the work first, and what is half-way cannot be mapped writable', () => {
    let on = true;
    const guest = new Guest('pv64', () => on);
    for (const v of [1, 2]) expect(guest.call(14, 0x3fe0_0000 + v * 4096, 0, 0)).toBe(0);
    const { hv, d1, vcpu } = guest.state;
    element(guest, 0, 1, guest.mfn('f2'));
    expect(guest.once(MMUEXT, KERNEL_VADDR, 1, 0, 0x7ff0).kind).toBe('continuation');
    const entry = guest.mfn('f2') * 4096 + 0x63;
    expect(guest.call(14, 0x3fe1_0000, entry, 2)).toBe(-16);
    on = false;
    expect(guest.call(MMUEXT, KERNEL_VADDR, 1, 0, 0x7ff0)).toBe(0);
    expect(vcpu.oldTable).toBeUndefined();
    expect(recount(hv, d1)).toEqual([]);
  });
});

describe('descriptors', () => {
  const domain = (abi: AbiName): Parameters<typeof checkDescriptor>[0] => ({ abi: ABIS[abi] }) as Parameters<typeof checkDescriptor>[0];
  const fixed = (abi: AbiName, hi: number, lo: number): string | false => checkDescriptor(domain(abi), lo, hi) && `${checkedHi.toString(16)}:${checkedLo.toString(16)}`;
  test('a ring 0 segment becomes one of the guest kernel\'s ring', () => {
    expect(fixed('pv64', 0x00af9b00, 0xffff)).toBe('affb00:ffff');
    expect(fixed('pv32pae', 0x00cf9300, 0xffff)).toBe('cfb300:ffff');
  });
  test('a 64-bit code segment is refused to a 32-bit guest, and system descriptors other than call gates to all', () => {
    expect(fixed('pv32pae', 0x00af9b00, 0xffff)).toBe(false);
    for (const type of [0x200, 0x500, 0x900, 0xb00, 0xe00, 0xf00]) expect(fixed('pv64', 0x8000 | type, 0)).toBe(false);
    expect(fixed('pv64', 0x8000, 0)).toBe('8000:0');
  });
  test('a call gate loses its privilege level to its selector', () => {
    expect(fixed('pv32pae', 0x0000ec00, 0x00080123)).toBe('8c00:b0123');
    expect(fixed('pv32pae', 0x0000ec00, 0xe0080123)).toBe(false);
  });
  test('a limit that ends inside the machine-to-phys table is extended on 64-bit Xen; 32-bit Xen cuts off what lies behind it', () => {
    expect(fixed('pv32pae', 0x00cfbb00, 0x57ff)).toBe('cfbb00:57ff');
    expect(fixed('pv32pae', 0x00cfbb00, 0x67ff)).toBe('cfbb00:ffff');
    expect(fixed('xen3-nopae', 0x00cfbb00, 0xffff)).toBe('cfbb00:c3ff');
    expect(fixed('xen3-pae', 0x00cfbb00, 0xffff)).toBe('cfbb00:67ff');
  });
  test('the old GDT is released only when every new frame was accepted', () => {
    const guest = new Guest('pv64');
    const { hv, vcpu, d1 } = guest.state;
    expect(setGdt(hv, vcpu, [guest.mfn('f0'), guest.mfn('root')], 1024)).toBe(-22);
    expect(vcpu.gdtFrames).toEqual([guest.mfn('gdt')]);
    expect(recount(hv, d1)).toEqual([]);
  });
});

describe('the windows through which the processor reads descriptors', () => {
  test('a descriptor that is loaded for the first time is marked accessed in the guest\'s frame; a second fault is the guest\'s', () => {
    const guest = new Guest('pv32pae');
    const { hv, vcpu, d1 } = guest.state;
    const perDomain = createPerDomain(hv, d1);
    expect(perDomain).toBeDefined();
    d1.perDomain = perDomain;
    const [lo, hi] = [0x0000_ffff, 0x00cf_fa00];
    expect(guest.call(10, guest.mfn('gdt') * 4096 + 8, 0, lo, hi)).toBe(0);
    const fault = { vector: 14, errorCode: 3, cr2: gdtVaddr(vcpu) + 12 };
    expect(handlePageFault(hv, vcpu, fault)).toBe(true);
    expect(hv.machine.readU32(guest.mfn('gdt') * 4096 + 12)).toBe(hi | 0x100);
    expect(handlePageFault(hv, vcpu, fault)).toBe(false);
    // A system descriptor, an absent one, Xen's own page: nothing of it.
    for (const at of [0x10, 14 * 4096]) expect(handlePageFault(hv, vcpu, { ...fault, cr2: gdtVaddr(vcpu) + at })).toBe(false);
  });
});

describe('stale translations', () => {
  test('turning a frame that was mapped writable into a table flushes the TLB, unless it was flushed since', () => {
    const guest = new Guest('pv64');
    const { hv, vcpu } = guest.state;
    let flushes = 0;
    const cpu = vcpu.cpu as NonNullable<typeof vcpu.cpu>;
    const flush = cpu.flushTlb.bind(cpu);
    cpu.flushTlb = (keep) => {
      flushes++;
      flush(keep);
    };
    const pin = (cmd: number, name: string): number => {
      guest.words(0, 0, guest.mfn(name), 0);
      guest.u32s(0, cmd);
      return guest.call(26, KERNEL_VADDR, 1, 0, 0x7ff0);
    };
    // No flush asked for by the guest itself (flags 0).
    expect(guest.call(14, 0x3fe0_0000, 0, 0)).toBe(0);
    expect(guest.call(14, 0x3fe0_1000, 0, 0)).toBe(0);
    expect(flushes).toBe(0);
    expect(pin(0, 'f0')).toBe(0);
    expect(flushes).toBe(1);
    // f1 lost its last writable mapping before that flush: nothing stale is left of it.
    expect(pin(0, 'f1')).toBe(0);
    expect(flushes).toBe(1);
    expect(hv.frames.type[guest.mfn('f1')]).toBe(1);
  });
});
