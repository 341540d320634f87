// The paging unit: walks against a model that reads the manual's tables aloud, and the laws of the TLB.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { PF_ERR } from '../../src/x86/exit.ts';
import { TLB_ENTRIES } from '../../src/x86/tlb-layout.ts';

const FRAMES = 32;
const ROOT = 0x1000, TABLE = 0x2000, LEAF = 0x3000;
const CR0 = { PE: 1, WP: 0x10000, PG: 0x80000000 };
const CR4 = { PSE: 0x10, PAE: 0x20, PGE: 0x80 };
const NXE = 0x800;
const P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100;

function machineWith(options: { cr0?: number; cr4?: number; efer?: number; native?: boolean }) {
  const machine = new MachineMemory({ frameCount: FRAMES, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier: 'evaluate', pdpteCached: options.native === true });
  cpu.setEfer(options.efer ?? 0);
  cpu.setCr(4, options.cr4 ?? 0);
  cpu.setCr(3, ROOT);
  cpu.setCr(0, (CR0.PE | CR0.PG | (options.cr0 ?? 0)) >>> 0);
  return { machine, cpu };
}

const ACCESSES = ['read', 'write', 'fetch'] as const;
const errorCode = (present: boolean, reserved: boolean, access: (typeof ACCESSES)[number], user: boolean, nx: boolean): number =>
  (present ? PF_ERR.present : 0) | (reserved ? PF_ERR.present | PF_ERR.reserved : 0) | (access === 'write' ? PF_ERR.write : 0) | (user ? PF_ERR.user : 0) | (access === 'fetch' && nx ? PF_ERR.fetch : 0);

/** Present, writable, user, accessed, dirty, large, global: any mix, mostly present. */
const bits = fc.tuple(fc.integer({ min: 0, max: 0x1ff }), fc.integer({ min: 0, max: 9 })).map(([value, luck]) => (luck === 0 ? value & ~P : value | P) & ~0x18);
const walkInput = fc.record({
  upper: bits, lower: bits, access: fc.constantFrom(...ACCESSES), user: fc.boolean(), wp: fc.boolean(),
});

test('a two-level walk answers as the manual says, and sets accessed and dirty bits only when it succeeds', () => {
  fc.assert(
    fc.property(walkInput, fc.boolean(), ({ upper, lower, access, user, wp }, pse) => {
      const { machine, cpu } = machineWith({ cr0: wp ? CR0.WP : 0, cr4: pse ? CR4.PSE : 0 });
      const vaddr = 0x00805123;
      const large = pse && (upper & PS) !== 0;
      machine.writeU32(ROOT + 2 * 4, large ? upper : TABLE | upper);
      machine.writeU32(TABLE + 5 * 4, LEAF | lower);
      // The model (SDM vol. 3, 4.3, 4.6, 4.7).
      const present = (upper & P) !== 0 && (large || (lower & P) !== 0);
      const rights = large ? upper : upper & lower;
      const allowed = (!user || (rights & US) !== 0) && (access !== 'write' || (rights & RW) !== 0 || (!user && !wp));
      const maddr = large ? vaddr & 0x3fffff : LEAF | 0x123;
      const answer = cpu.translate(vaddr, access, user);
      if (present && allowed) expect(answer).toEqual({ ok: true, maddr });
      else expect(answer).toEqual({ ok: false, exception: { vector: 14, errorCode: errorCode(present, false, access, user, false), cr2: vaddr } });
      const leafSet = present && allowed ? A | (access === 'write' ? D : 0) : 0;
      const upperIsLeaf = large;
      expect(machine.readU32(ROOT + 8) & (A | D)).toBe((upper & (A | D)) | (upperIsLeaf ? leafSet : (upper & P) !== 0 ? A : 0));
      expect(machine.readU32(TABLE + 20) & (A | D)).toBe((lower & (A | D)) | (upperIsLeaf ? 0 : leafSet));
    }),
    { seed: 411, numRuns: 400 },
  );
});

test('a PAE walk answers as the manual says: reserved bits, no-execute, large pages', () => {
  const high = fc.constantFrom(0, 0, 0, 0x80000000, 0x100, 0x00080000, 0x00100000, 0x40000000);
  fc.assert(
    fc.property(walkInput, high, high, fc.boolean(), fc.boolean(), ({ upper, lower, access, user, wp }, upperHigh, lowerHigh, nxe, native) => {
      const { machine, cpu } = machineWith({ cr0: wp ? CR0.WP : 0, cr4: CR4.PAE, efer: nxe ? NXE : 0, native });
      const vaddr = 0x40403123;
      const large = (upper & PS) !== 0;
      machine.writeU32(ROOT + 8, 0x4000 | P);
      machine.writeU32(0x4000 + 2 * 8, large ? upper : TABLE | upper);
      machine.writeU32(0x4000 + 2 * 8 + 4, upperHigh);
      machine.writeU32(TABLE + 3 * 8, LEAF | lower);
      machine.writeU32(TABLE + 3 * 8 + 4, lowerHigh);
      cpu.setCr(3, ROOT);
      // The model (SDM vol. 3, 4.4; bits 52..62 are ignored where the table is part of a four-level one).
      const reservedHigh = ((native ? 0x7fffff00 : 0x000fff00) | (nxe ? 0 : 0x80000000)) >>> 0;
      const upperBad = (upperHigh & reservedHigh) !== 0;
      const lowerBad = !large && (lowerHigh & reservedHigh) !== 0;
      let code: number | undefined;
      if ((upper & P) === 0) code = errorCode(false, false, access, user, nxe);
      else if (upperBad) code = errorCode(true, true, access, user, nxe);
      else if (!large && (lower & P) === 0) code = errorCode(false, false, access, user, nxe);
      else if (lowerBad) code = errorCode(true, true, access, user, nxe);
      else {
        const rights = large ? upper : upper & lower;
        const noExecute = nxe && (((upperHigh | (large ? 0 : lowerHigh)) & 0x80000000) !== 0);
        const allowed = (!user || (rights & US) !== 0) && (access !== 'write' || (rights & RW) !== 0 || (!user && !wp)) && !(access === 'fetch' && noExecute);
        if (!allowed) code = errorCode(true, false, access, user, nxe);
      }
      const answer = cpu.translate(vaddr, access, user);
      if (code !== undefined) expect(answer).toEqual({ ok: false, exception: { vector: 14, errorCode: code, cr2: vaddr } });
      else expect(answer).toEqual({ ok: true, maddr: large ? vaddr & 0x1fffff : LEAF | 0x123 });
    }),
    { seed: 412, numRuns: 600 },
  );
});

test('a four-level walk answers as the manual says: rights of all levels, no-execute, reserved bits, large pages', () => {
  const high = fc.constantFrom(0, 0, 0, 0, 0x80000000, 0x100, 0x00080000, 0x00100000, 0x7ff00000);
  const level = fc.record({ low: bits, high });
  fc.assert(
    fc.property(fc.tuple(level, level, level, level), fc.constantFrom(...ACCESSES), fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean(), (levels, access, user, wp, nxe, top) => {
      const { machine, cpu } = machineWith({ cr0: wp ? CR0.WP : 0, cr4: CR4.PAE, efer: 0x500 | (nxe ? NXE : 0) });
      const vaddr = top ? -0x3fbfcedd : 0x7f0040403123;
      const indices = [39, 30, 21, 12].map((shift) => Math.floor(vaddr / 2 ** shift) & 511);
      const tables = [ROOT, 0x5000, 0x4000, TABLE];
      const large = (levels[2].low & PS) !== 0;
      levels.forEach(({ low, high: upper }, i) => {
        const at = (tables[i] as number) + (indices[i] as number) * 8;
        machine.writeU32(at, (i === 2 && large ? low : (i === 3 ? LEAF : (tables[i + 1] as number)) | low) >>> 0);
        machine.writeU32(at + 4, upper);
      });
      // The model (SDM vol. 3, 4.5 to 4.7).
      const reserved = (0x000fff00 | (nxe ? 0 : 0x80000000)) >>> 0;
      const used = large ? levels.slice(0, 3) : levels;
      let code: number | undefined;
      for (const [i, { low, high: upper }] of used.entries()) {
        if ((low & P) === 0) code = errorCode(false, false, access, user, nxe);
        else if ((upper & reserved) !== 0 || (i < 2 && (low & PS) !== 0)) code = errorCode(true, true, access, user, nxe);
        if (code !== undefined) break;
      }
      const rights = used.reduce((all, { low }) => all & low, -1);
      const noExecute = nxe && used.some(({ high: upper }) => (upper & 0x80000000) !== 0);
      const allowed = (!user || (rights & US) !== 0) && (access !== 'write' || (rights & RW) !== 0 || (!user && !wp)) && !(access === 'fetch' && noExecute);
      if (code === undefined && !allowed) code = errorCode(true, false, access, user, nxe);
      const answer = cpu.translate(vaddr, access, user);
      if (code !== undefined) expect(answer).toEqual({ ok: false, exception: { vector: 14, errorCode: code, cr2: vaddr } });
      else expect(answer).toEqual({ ok: true, maddr: large ? vaddr & 0x1fffff : LEAF | 0x123 });
    }),
    { seed: 414, numRuns: 300 },
  );
});

/** Page `vpn` of the first 4 MiB at frame `mfn`. */
const map = (machine: MachineMemory, vpn: number, mfn: number, flags: number): void => {
  machine.writeU32(ROOT + (vpn >>> 10) * 4, (TABLE + (vpn >>> 10) * 0x1000) | 7);
  machine.writeU32(TABLE + (vpn >>> 10) * 0x1000 + (vpn & 0x3ff) * 4, (mfn << 12) | flags);
};

describe('the TLB', () => {
  const mfnAt = (cpu: ReturnType<typeof machineWith>['cpu'], vaddr: number, access: 'read' | 'write' | 'fetch' = 'read'): number | undefined => {
    const answer = cpu.translate(vaddr, access, false);
    return answer.ok ? answer.maddr >>> 12 : undefined;
  };

  test('keeps a translation until INVLPG, however the table changes', () => {
    const { machine, cpu } = machineWith({});
    map(machine, 5, 10, P | RW);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    map(machine, 5, 11, P | RW);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    cpu.invlpg(0x6000);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    cpu.invlpg(0x5fff);
    expect(mfnAt(cpu, 0x5000)).toBe(11);
  });

  test('loses a translation when the same slot is filled, and only then', () => {
    const { machine, cpu } = machineWith({});
    map(machine, 5, 10, P);
    map(machine, 5 + TLB_ENTRIES, 12, P);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    map(machine, 5, 11, P);
    expect(mfnAt(cpu, 0x6000)).toBe(undefined);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    expect(mfnAt(cpu, (5 + TLB_ENTRIES) * 4096)).toBe(12);
    expect(mfnAt(cpu, 0x5000)).toBe(11);
  });

  test('keeps global pages over a load of CR3 when CR4.PGE is set', () => {
    const { machine, cpu } = machineWith({ cr4: CR4.PGE });
    map(machine, 5, 10, P | G);
    map(machine, 6, 10, P);
    mfnAt(cpu, 0x5000);
    mfnAt(cpu, 0x6000);
    map(machine, 5, 11, P | G);
    map(machine, 6, 11, P);
    cpu.setCr(3, ROOT);
    expect([mfnAt(cpu, 0x5000), mfnAt(cpu, 0x6000)]).toEqual([10, 11]);
    cpu.flushTlb(false);
    expect(mfnAt(cpu, 0x5000)).toBe(11);
  });

  test('looks again before it refuses: a page made writable needs no flush', () => {
    const { machine, cpu } = machineWith({ cr0: CR0.WP });
    map(machine, 5, 10, P);
    expect(mfnAt(cpu, 0x5000)).toBe(10);
    expect(mfnAt(cpu, 0x5000, 'write')).toBe(undefined);
    map(machine, 5, 10, P | RW);
    expect(mfnAt(cpu, 0x5000, 'write')).toBe(10);
  });

  test('lets the first store after loads set the dirty bit', () => {
    const { machine, cpu } = machineWith({});
    map(machine, 5, 10, P | RW);
    mfnAt(cpu, 0x5000);
    expect(machine.readU32(TABLE + 20) & (A | D)).toBe(A);
    cpu.writeLinear(0x5010, Uint8Array.of(1), false);
    expect(machine.readU32(TABLE + 20) & (A | D)).toBe(A | D);
  });

  test('serves fetches from the current page without being asked, until it is flushed', () => {
    const { machine, cpu } = machineWith({});
    map(machine, 5, 10, P | RW);
    machine.writeBytes(10 * 4096, Uint8Array.of(0x40, 0x40, 0x40, 0xeb, 0xfb)); // inc eax three times, again
    cpu.setEip(0x5000);
    expect(cpu.run(4).kind).toBe('budget');
    map(machine, 5, 10, 0);
    expect(cpu.run(8).kind).toBe('budget');
    expect(cpu.reg(0)).toBe(9);
    cpu.flushTlb(false);
    expect(cpu.run(8)).toEqual({ kind: 'exception', exception: { vector: 14, errorCode: 0, cr2: 0x5000 } });
    expect(cpu.eip()).toBe(0x5000);
    expect(cpu.retired()).toBe(12);
  });

  test('is asked for the second page by every instruction that crosses into it', () => {
    const { machine, cpu } = machineWith({});
    map(machine, 5, 10, P);
    map(machine, 6, 11, P);
    machine.writeBytes(10 * 4096 + 0xffe, Uint8Array.of(0xc7, 0xc0)); // mov eax, imm32: the constant is in the next page
    machine.writeBytes(11 * 4096, Uint8Array.of(1, 0, 0, 0));
    const once = () => {
      cpu.setEip(0x5ffe);
      return cpu.run(1);
    };
    expect(once().kind).toBe('budget');
    map(machine, 6, 12, P);
    machine.writeBytes(12 * 4096, Uint8Array.of(2, 0, 0, 0));
    expect(once().kind).toBe('budget');
    expect(cpu.reg(0)).toBe(1);
    cpu.invlpg(0x6000);
    once();
    expect(cpu.reg(0)).toBe(2);
    map(machine, 6, 12, 0);
    cpu.invlpg(0x6000);
    expect(once()).toEqual({ kind: 'exception', exception: { vector: 14, errorCode: 0, cr2: 0x6000 } });
    expect(cpu.eip()).toBe(0x5ffe);
  });
});

test('an access that crosses pages names the first byte that fails, and stores nothing', () => {
  const { machine, cpu } = machineWith({});
  map(machine, 4, 9, P | RW);
  map(machine, 5, 10, P | RW);
  machine.writeBytes(9 * 4096, Uint8Array.of(0x89, 0x03, 0x8b, 0x03)); // mov [ebx], eax; mov eax, [ebx]
  const attempt = (eip: number) => {
    cpu.setEip(eip);
    cpu.setReg(3, 0x5ffe);
    cpu.setReg(0, 0x11223344);
    return cpu.run(1);
  };
  expect(attempt(0x4000)).toEqual({ kind: 'exception', exception: { vector: 14, errorCode: 2, cr2: 0x6000 } });
  expect(attempt(0x4002)).toEqual({ kind: 'exception', exception: { vector: 14, errorCode: 0, cr2: 0x6000 } });
  expect(machine.readU16(10 * 4096 + 0xffe)).toBe(0);
  map(machine, 5, 10, 0);
  cpu.invlpg(0x5000);
  expect(attempt(0x4000)).toEqual({ kind: 'exception', exception: { vector: 14, errorCode: 2, cr2: 0x5ffe } });
  map(machine, 5, 10, P | RW);
  map(machine, 6, 11, P | RW);
  expect(attempt(0x4000).kind).toBe('budget');
  expect([machine.readU16(10 * 4096 + 0xffe), machine.readU16(11 * 4096)]).toEqual([0x3344, 0x1122]);
});

test('where there is no RAM, reads give ones and writes vanish', () => {
  const { machine, cpu } = machineWith({});
  map(machine, 5, FRAMES + 3, P | RW);
  const read = () => cpu.readLinear(0x5000, 4, false);
  expect(read()).toEqual({ ok: true, bytes: Uint8Array.of(255, 255, 255, 255) });
  expect(cpu.writeLinear(0x5000, Uint8Array.of(1, 2, 3, 4), false)).toEqual({ ok: true });
  expect(read()).toEqual({ ok: true, bytes: Uint8Array.of(255, 255, 255, 255) });
  cpu.setEip(0x5000);
  expect(cpu.run(1)).toEqual({ kind: 'exception', exception: { vector: 6 } });
  expect(machine.dirtyFrames()).not.toContain(FRAMES + 3);
});

test('held PDPTEs change with CR3 alone, those of a hosted guest with memory', () => {
  for (const native of [true, false]) {
    const { machine, cpu } = machineWith({ cr4: CR4.PAE, native });
    machine.writeU32(ROOT, 0x4000 | P);
    machine.writeU32(0x4000, P | PS);
    cpu.setCr(3, ROOT);
    machine.writeU32(ROOT, 0);
    expect(cpu.translate(0x1000, 'read', false).ok).toBe(native);
    cpu.setCr(3, ROOT);
    expect(cpu.translate(0x1000, 'read', false).ok).toBe(false);
  }
});

test('dirty tracking that starts again sees the next store, and costs no translation', () => {
  const { machine, cpu } = machineWith({});
  map(machine, 4, 9, P | RW);
  map(machine, 5, 10, P | RW);
  machine.writeBytes(9 * 4096, Uint8Array.of(0x89, 0x03, 0xeb, 0xfc)); // mov [ebx], eax; again
  cpu.setEip(0x4000);
  cpu.setReg(3, 0x5000);
  cpu.run(10);
  machine.clearDirty();
  cpu.dropWriteFastPaths();
  map(machine, 5, 11, P | RW); // not seen: the translation stays
  machine.clearDirty();
  cpu.run(10);
  expect(machine.dirtyFrames()).toEqual([10]);
});

describe('a flush', () => {
  test('forgets what was filled since the last one, whatever was invalidated, kept or restored in between', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ what: fc.constantFrom('use', 'use', 'use', 'invlpg', 'flush', 'keep', 'restore', 'switch'), page: fc.integer({ min: 1, max: 6 }) }), { maxLength: 60 }), (steps) => {
        const { machine, cpu } = machineWith({ cr4: CR4.PGE });
        // Pages 4 to 6 are global. Model: the frame that each set has cached for each page.
        const put = (page: number, mfn: number): void => map(machine, page, mfn, P | RW | (page > 3 ? G : 0));
        const cached = [new Map<number, number>(), new Map<number, number>()];
        let set = 0;
        let next = 10;
        for (const { what, page } of steps) {
          const [first, second] = cached as [Map<number, number>, Map<number, number>];
          if (what === 'use') {
            put(page, (next = 10 + ((next - 9) % 16)));
            const expected = (set === 0 ? first : second).get(page) ?? next;
            (set === 0 ? first : second).set(page, expected);
            const answer = cpu.translate(page * 4096, 'read', false);
            expect(answer.ok && answer.maddr >>> 12).toBe(expected);
          } else if (what === 'invlpg') {
            cpu.invlpg(page * 4096);
            for (const one of cached) one.delete(page);
          } else if (what === 'restore') cpu.restoreState(cpu.saveState());
          else if (what === 'switch') cpu.switchTables((set = 1 - set) === 1, cpu.cr(3));
          else {
            cpu.flushTlb(what === 'keep');
            for (const one of cached) for (const key of [...one.keys()]) if (what === 'flush' || key <= 3) one.delete(key);
          }
        }
      }),
      { seed: 413, numRuns: 120 },
    );
  });
});
