// Shadow tables against the processor's own walk of the same tables: two processors on one machine, one
// that walks the guest's tables where they are, one that walks their shadow. Random tables, random
// accesses, random changes that the host is told of: answers, error codes and the tables' bits are equal.
// Then the checker of shadows: every claim of it can fail.
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { shadowProblems } from '../../src/checkers/shadow-checker.ts';
import type { ShadowView } from '../../src/checkers/shadow-tables.ts';
import { shadowTlbProblems } from '../../src/checkers/shadow-tlb-checker.ts';
import { MachineMemory } from '../../src/machine/memory.ts';
import { ShadowPager } from '../../src/shadow/pager.ts';
import { BIT, PAE, TWO_LEVEL, type Shape } from '../../src/shadow/shape.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { Cpu } from '../../src/x86/cpu.ts';
import { PF_ERR } from '../../src/x86/exit.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const GUEST_FRAMES = 16;
const POOL_FIRST = 64;
const CR0 = 0x8001_0033;

class Twins {
  readonly machine = new MachineMemory({ frameCount: 128, arenaBytes: 8 * 1024 * 1024 });
  readonly shape: Shape;
  readonly native: Cpu;
  readonly cpu: Cpu;
  /** Guest frame g is native frame g and shadow frame p2m[g]. */
  readonly p2m = Array.from({ length: GUEST_FRAMES }, (_, gfn) => 32 + ((gfn * 5) % GUEST_FRAMES));
  readonly pager: ShadowPager;

  constructor(shape: Shape, protects: boolean, poolFrames = 40, mostRoots = 4) {
    this.shape = shape;
    const cpu = (): Cpu => {
      const made = createCpu(this.machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier: 'evaluate' });
      made.setEfer(0x800);
      made.setCr(4, shape.levels === 3 ? 0x20 : 0);
      made.setCr(0, CR0);
      return made;
    };
    this.native = cpu();
    this.cpu = cpu();
    this.pager = new ShadowPager({ machine: this.machine, cpu: this.cpu, shape, p2m: this.p2m, pool: Array.from({ length: poolFrames }, (_, i) => POOL_FIRST + i), mostRoots, protects });
  }

  load(gfn: number): void {
    this.native.setCr(3, gfn * 4096);
    this.pager.load(gfn * 4096);
  }
  /** The same store to both guests' memory. */
  put(gfn: number, index: number, lo: number, hi: number): void {
    for (const frame of [gfn, this.p2m[gfn] as number]) {
      const at = frame * 4096 + index * this.shape.entryBytes;
      this.machine.writeU32(at, lo >>> 0);
      if (this.shape.entryBytes === 8) this.machine.writeU32(at + 4, hi >>> 0);
    }
  }
  /** What an access comes to on the bare processor and through the shadow, as text. */
  access(vaddr: number, access: 'read' | 'write' | 'fetch', user: boolean): { readonly native: string; readonly shadow: string } {
    const answer = this.native.translate(vaddr, access, user);
    const native = answer.ok ? `frame ${answer.maddr >>> 12}` : `fault ${answer.exception.errorCode}`;
    for (let tries = 0; tries < 4; tries++) {
      const seen = this.cpu.translate(vaddr, access, user);
      if (seen.ok) return { native, shadow: `frame ${this.p2m.indexOf(seen.maddr >>> 12)}` };
      const filled = this.pager.fill(vaddr, seen.exception.errorCode ?? 0);
      if (filled.kind === 'guest') return { native, shadow: `fault ${filled.errorCode}` };
      // A store that traps: the host would carry it out there.
      if (filled.kind === 'protected') return { native, shadow: `frame ${Math.floor((this.pager.guestPhysical(vaddr) as number) / 4096)}` };
      if (filled.kind === 'fatal') return { native, shadow: filled.why };
    }
    return { native, shadow: 'no end of faults' };
  }
  /** Both guests' tables, the accessed bit of upper entries apart: a processor may set it on walks that fault. */
  tables(frameOf: (gfn: number) => number): string {
    let text = '';
    for (let gfn = 0; gfn < GUEST_FRAMES; gfn++) for (let at = 0; at < 4096; at += 4) {
      const word = this.machine.readU32(frameOf(gfn) * 4096 + at);
      if (word !== 0) text += `${gfn}+${at}: ${((word | BIT.accessed) >>> 0).toString(16)}\n`;
    }
    return text;
  }
  view(): ShadowView {
    return {
      machine: this.machine, pae: this.shape.levels === 3, shadowRoot: this.cpu.cr(3), guestRoot: this.pager.active.gpa, p2m: this.p2m,
      tables: new Map([...this.pager.tables.values()].map(({ mfn, level, gpa }) => [mfn, { level, gpa }])), traps: this.pager.options.protects,
      tlbBases: this.cpu.tlbBases, tlbVpnBases: this.cpu.tlbVpnBases,
    };
  }
}

const SHAPES: readonly (readonly [string, Shape])[] = [['PAE', PAE], ['two levels', TWO_LEVEL]];

/** Frames: 0, 1 roots; 2..5 L2 (PAE); 6..9 L1; the others data, but any may be mapped. */
function randomEntry(draw: (n: number) => number, level: number, shape: Shape): readonly [number, number] {
  if (draw(4) === 0) return [0, 0];
  const gfn = level === 3 ? 2 + draw(4) : level === 2 ? 6 + draw(4) : draw(GUEST_FRAMES);
  if (level === 3) return [gfn * 4096 + 1, 0];
  return [gfn * 4096 + BIT.present + draw(4) * 2 + draw(4) * 0x20, shape.levels === 3 && draw(4) === 0 ? 0x8000_0000 : 0];
}

describe.each(SHAPES)('%s', (_name, shape) => {
  test.each([['told of changes', false], ['trapping stores', true]] as const)('the shadow answers as the tables do: %s', (_how, protects) => {
    for (let seed = 1; seed <= (LONG ? 100 : 2); seed++) {
      const prng = new PrngStream(`shadow ${seed}`, shape.levels === 3 ? 'pae' : 'nopae');
      const draw = (n: number): number => prng.below(n);
      const twins = new Twins(shape, protects, seed % 2 === 0 ? 8 : 40, 2);
      const places = (): readonly [number, number, number] => {
        const level = 1 + draw(shape.levels);
        const gfn = level === shape.levels ? draw(2) : level === 2 ? 2 + draw(4) : 6 + draw(4);
        return [level, gfn, draw(4)];
      };
      const change = (): void => {
        const [level, gfn, index] = places();
        twins.put(gfn, index, ...randomEntry(draw, level, shape));
        twins.pager.changed(gfn * 4096 + index * shape.entryBytes, shape.entryBytes);
      };
      twins.load(0);
      for (let i = 0; i < 100; i++) change();
      for (let step = 0; step < 250; step++) {
        if (draw(3) === 0) change();
        // The same translations are forgotten by both; PAE's root entries are loaded by both.
        if (draw(8) === 0) twins.load(draw(2));
        else twins.load(twins.pager.active.gpa / 4096);
        const vaddr = shape.levels === 3 ? draw(4) * 2 ** 30 + draw(4) * 2 ** 21 + draw(4) * 4096 : draw(4) * 2 ** 22 + draw(4) * 4096;
        const { native, shadow } = twins.access(vaddr, (['read', 'write', 'fetch'] as const)[draw(3)] as 'read', draw(2) === 0);
        expect(shadow, `seed ${seed}, step ${step}, 0x${vaddr.toString(16)}`).toBe(native);
        expect(twins.tables((gfn) => twins.p2m[gfn] as number), `seed ${seed}, step ${step}`).toBe(twins.tables((gfn) => gfn));
        expect(shadowProblems(twins.view()), `seed ${seed}, step ${step}`).toEqual([]);
        // Every step begins with a flush of everything.
        expect(shadowTlbProblems(twins.view(), 'all'), `seed ${seed}, step ${step}`).toEqual([]);
      }
    }
  });

  test('nonsense of the guest’s is named, and stops nobody else', () => {
    const twins = new Twins(shape, false);
    twins.load(0);
    const top = shape.levels === 3 ? 2 : 0;
    if (shape.levels === 3) twins.put(0, 0, 2 * 4096 + 1, 0);
    twins.load(0);
    twins.put(top, 0, 6 * 4096 + 7, 0);
    twins.put(6, 0, 0x0ffff007, 0);
    twins.put(top, 1, 0x0ffff007, 0);
    expect(twins.pager.fill(0, PF_ERR.write)).toEqual({ kind: 'fatal', why: 'it maps guest-physical frame 0xffff, beyond its memory' });
    expect(twins.pager.fill(shape.levels === 3 ? 2 ** 21 : 2 ** 22, 0)).toEqual({ kind: 'fatal', why: 'a page table lies at guest-physical 0xffff000, beyond its memory' });
    expect(twins.pager.load(0x0ffff000)).toBe(false);
    if (shape.levels === 3) {
      twins.put(top, 2, 0x83, 0);
      expect(twins.pager.fill(2 ** 22, 0)).toMatchObject({ kind: 'fatal', why: expect.stringMatching(/large page/) });
    }
    twins.put(6, 1, 7 * 4096 + 0x67, 0);
    expect(twins.access(0x1000, 'write', true)).toEqual({ native: 'frame 7', shadow: 'frame 7' });
  });
});

describe.each(SHAPES)('the checker of shadows, %s', (_name, shape) => {
  /** One page for user code, read-only, and what the shadow has of it: writes to its entry. */
  function page(flags = BIT.present | BIT.user | BIT.dirty, hi = 0): { readonly twins: Twins; readonly leaf: number; readonly upper: number } {
    const twins = new Twins(shape, true);
    const top = shape.levels === 3 ? 2 : 0;
    if (shape.levels === 3) twins.put(0, 0, 2 * 4096 + 1, 0);
    twins.put(top, 0, 6 * 4096 + 0x67, 0);
    twins.put(6, 0, 9 * 4096 + flags, hi);
    twins.load(0);
    expect(twins.access(0, 'read', false).shadow).toBe('frame 9');
    expect(shadowProblems(twins.view())).toEqual([]);
    const mfnOf = (level: number): number => ([...twins.pager.tables.values()].find((table) => table.level === level) as { mfn: number }).mfn;
    return { twins, leaf: mfnOf(1) * 4096, upper: mfnOf(2) * 4096 };
  }
  type Spoil = readonly [what: string, problem: RegExp, spoil: (what: ReturnType<typeof page>) => void, flags?: number, hi?: number];
  const setBits = ({ machine }: Twins, at: number, bits: number): void => machine.writeU32(at, (machine.readU32(at) | bits) >>> 0);

  const SPOILS: readonly Spoil[] = [
    ['a right to write', /can be written, which/, ({ twins, leaf }) => setBits(twins, leaf, BIT.rw)],
    ['a right of user code', /reached by user code/, ({ twins, leaf }) => setBits(twins, leaf, BIT.user), BIT.present],
    ['a page that is not dirty', /not marked dirty/, ({ twins, leaf }) => setBits(twins, leaf, BIT.rw), BIT.present | BIT.user | BIT.rw],
    ['another frame of the guest’s', /is another/, ({ twins, leaf }) => twins.machine.writeU32(leaf, (twins.p2m[8] as number) * 4096 + BIT.present)],
    ['a frame of the host’s', /not the guest's/, ({ twins, leaf }) => twins.machine.writeU32(leaf, POOL_FIRST * 4096 + BIT.present)],
    ['a page that is gone', /where the guest’s tables have nothing/, ({ twins }) => twins.put(6, 0, 0, 0)],
    ['a table that is gone', /where the guest’s tables have nothing/, ({ twins }) => twins.put(shape.levels === 3 ? 2 : 0, 0, 0, 0)],
    ['an upper entry that leads elsewhere', /leads to no shadow table of level 1/, ({ twins, upper }) => twins.machine.writeU32(upper, (twins.p2m[6] as number) * 4096 + 0x67)],
    ['a root that is another table’s', /begins with the shadow of/, ({ twins }) => {
      const before = twins.cpu.cr(3);
      twins.load(1);
      twins.cpu.setCr(3, before);
    }],
    ['a table whose stores do not trap', /stores must trap/, ({ twins, leaf }) => {
      twins.put(6, 0, 6 * 4096 + 0x67, 0);
      twins.machine.writeU32(leaf, (twins.p2m[6] as number) * 4096 + 0x67);
    }],
  ];
  const NX: Spoil = ['a right to execute', /can be executed/, ({ twins, leaf }) => twins.machine.writeU32(leaf + 4, 0), BIT.present | BIT.user, 0x8000_0000];
  for (const [what, problem, spoil, flags, hi] of [...SPOILS, ...(shape.levels === 3 ? [NX] : [])]) test(`finds ${what}`, () => {
    const made = page(flags, hi);
    spoil(made);
    expect(shadowProblems(made.twins.view()).join('\n')).toMatch(problem);
  });

  describe('the checker of what the processor keeps of them', () => {
    const PAGE = 0x1000;
    /** Two pages that the processor has translations of, to read and to write. */
    function kept(traps = false): ReturnType<typeof page> {
      const made = page(BIT.present | BIT.user | BIT.rw | BIT.dirty);
      const { twins } = made;
      (twins.pager.options as { protects: boolean }).protects = traps;
      twins.put(6, 1, 8 * 4096 + 0x67, 0);
      for (const vaddr of [0, PAGE]) expect(twins.access(vaddr, 'write', true).shadow).toMatch(/^frame/);
      expect(shadowTlbProblems(twins.view(), 'all')).toEqual([]);
      return made;
    }
    const CHANGES: readonly Spoil[] = [
      ['a page that its shadow has no more', /was flushed, and the shadow has nothing there/, ({ twins, leaf }) => twins.machine.writeU32(leaf, 0)],
      ['a table that its shadow has no more', /was flushed, and the shadow has nothing there/, ({ twins, upper }) => twins.machine.writeU32(upper, 0)],
      ['another frame', /leads to machine frame 0x[0-9a-f]+, the shadow to 0x/, ({ twins, leaf }) => twins.machine.writeU32(leaf, (twins.p2m[10] as number) * 4096 + 0x67)],
      ['a right to write', /can be written through, which the shadow does not allow/, ({ twins, leaf }) => twins.machine.writeU32(leaf, twins.machine.readU32(leaf) & ~BIT.rw)],
      ['a right of user code', /is there for user code/, ({ twins, leaf }) => twins.machine.writeU32(leaf, twins.machine.readU32(leaf) & ~BIT.user)],
    ];
    const NX_CHANGE: Spoil = ['a right to execute', /can be executed/, ({ twins, leaf }) => setBits(twins, leaf + 4, 0x8000_0000)];
    for (const [what, problem, change] of [...CHANGES, ...(shape.levels === 3 ? [NX_CHANGE] : [])]) test(`finds ${what}, kept over a flush`, () => {
      const made = kept();
      change(made);
      const view = made.twins.view();
      expect(shadowTlbProblems(view, 'all').join()).toMatch(problem);
      expect(shadowTlbProblems(view, [0]).join()).toMatch(problem);
      // Of what was not flushed a processor may keep what it has.
      expect(shadowTlbProblems(view, [0x5000])).toEqual([]);
      expect(shadowTlbProblems(view)).toEqual([]);
      made.twins.pager.flush();
      expect(shadowTlbProblems(view, 'all')).toEqual([]);
    });

    test('finds at any time a translation that leads beyond the guest, or past the trap of a table', () => {
      const { twins } = kept();
      const view = twins.view();
      expect(shadowTlbProblems({ ...view, p2m: view.p2m.filter((mfn) => mfn !== view.p2m[8]) }).join()).toMatch(/leads to machine frame 0x[0-9a-f]+, which is not the guest's/);
      const tables = new Map([...view.tables, [POOL_FIRST + 30, { level: 1, gpa: 8 * 4096 }]]);
      expect(shadowTlbProblems({ ...view, tables })).toEqual([]);
      expect(shadowTlbProblems({ ...view, tables, traps: true }).join()).toMatch(/translation of 0x1000 [^,]*can be written through, but leads to a table whose stores must trap/);
    });
  });

  test('between flushes lets pages be old where the host is told of changes, but not the one that was just filled', () => {
    const { twins, leaf } = page();
    setBits(twins, leaf, BIT.rw);
    const view = { ...twins.view(), traps: false };
    expect(shadowProblems(view, {})).toEqual([]);
    expect(shadowProblems(view, { filled: 0x1234 })).toEqual([]);
    expect(shadowProblems(view, { filled: 0x123 }).join()).toMatch(/can be written, which/);
    expect(shadowProblems({ ...view, traps: true }, {}).join()).toMatch(/can be written, which/);
    // Where entries lead is never old.
    twins.machine.writeU32(leaf, POOL_FIRST * 4096 + BIT.present);
    expect(shadowProblems(view, {}).join()).toMatch(/not the guest's/);
  });
});
