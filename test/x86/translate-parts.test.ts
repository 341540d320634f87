// The translator's parts by themselves: control-flow structure, the status image, entries and slots, and that the
// comparison of the tiers would notice a wrong translation.
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { FLAG_ROWS, flagOpCode } from '../../src/x86/flags.ts';
import { STATE } from '../../src/x86/state-layout.ts';
import { CodeBuffer, OP, TYPE } from '../../src/x86/translate/code-buffer.ts';
import { dispatcherModule } from '../../src/x86/translate/dispatcher.ts';
import { type Shape, structure } from '../../src/x86/translate/structure.ts';

afterEach(() => vi.restoreAllMocks());

describe('structure', () => {
  /** Places reachable by a branch from inside `node`: heads of loops around it, and what starts later in a list around it. */
  function reachableFrom(shapes: readonly Shape[], node: number): Set<number> | undefined {
    for (const [i, shape] of shapes.entries()) {
      const inside = shape.kind === 'block' ? (shape.node === node ? new Set<number>() : undefined) : reachableFrom(shape.body, node);
      if (inside === undefined) continue;
      if (shape.kind === 'loop') for (const head of shape.heads) inside.add(head);
      for (const later of shapes.slice(i + 1)) for (const start of later.kind === 'block' ? [later.node] : later.heads) inside.add(start);
      return inside;
    }
    return undefined;
  }

  const graphs = fc.integer({ min: 1, max: 14 }).chain((count) =>
    fc.record({
      successors: fc.array(fc.uniqueArray(fc.nat(count - 1), { maxLength: 2 }), { minLength: count, maxLength: count }),
      entries: fc.uniqueArray(fc.nat(count - 1), { minLength: 1, maxLength: 4 }),
    }),
  );

  test('every edge of any graph can be taken by leaving blocks or continuing loops, and every node is there once', () => {
    fc.assert(
      fc.property(graphs, ({ successors, entries }) => {
        const shapes = structure({ successors, entries }, true);
        const outer = shapes[0] as Extract<Shape, { kind: 'loop' }>;
        const seen: number[] = [];
        const collect = (list: readonly Shape[]): void => list.forEach((shape) => (shape.kind === 'block' ? seen.push(shape.node) : collect(shape.body)));
        collect(outer.body);
        expect(seen.sort((a, b) => a - b)).toEqual(successors.map((_, node) => node));
        successors.forEach((targets, node) => {
          const reachable = reachableFrom(outer.body, node);
          for (const to of targets) expect(reachable?.has(to), `edge ${node} -> ${to}`).toBe(true);
        });
        // The dispatcher finds each entry at the start of a shape of the outermost list.
        const starts = outer.body.flatMap((shape) => (shape.kind === 'block' ? [shape.node] : shape.heads));
        for (const entry of entries) expect(starts).toContain(entry);
      }),
      { seed: 2, numRuns: 400 },
    );
  });

  test('a loop that is entered in one place is a plain loop', () => {
    expect(structure({ successors: [[1], [2], [1, 3], []], entries: [0] }, false)).toEqual([
      { kind: 'block', node: 0 },
      { kind: 'loop', heads: [1], body: [{ kind: 'block', node: 1 }, { kind: 'block', node: 2 }] },
      { kind: 'block', node: 3 },
    ]);
  });
});

describe('the dispatcher', () => {
  test('computes the status image of every producer as the evaluator does', () => {
    const machine = new MachineMemory({ frameCount: 16, arenaBytes: 4 * 1024 * 1024 });
    const { core } = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier: 'evaluate' });
    const nowhere = { stateBase: 0, tlbBase: 0, tlbVpnBase: 0, tlbFilledBase: 0, jumpCacheBase: 0, ramBase: 0, ramBytes: 0, frameFlagsBase: 0 };
    const bytes = dispatcherModule({ ...nowhere, memoryPages: machine.wasm.buffer.byteLength / 65536, long: false });
    const table = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), { e: { m: machine.wasm, t: table }, h: { slowRead: () => 0, slowWrite: () => 0 } });
    const statusImage = exports['statusImage'] as (op: number, a: number, b: number, r: number) => number;
    const operand = fc.oneof(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff), fc.integer({ min: 0, max: 0xffffffff }));
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(FLAG_ROWS)), fc.constantFrom(8, 16, 32), operand, operand, operand, (op, width, ...values) => {
        const [a, b, r] = values.map((value) => (width === 32 ? value : value & (2 ** width - 1))) as [number, number, number];
        core.set32(STATE.flagOp, flagOpCode(op, width as 8));
        core.set32(STATE.flagA, a);
        core.set32(STATE.flagB, b);
        core.set32(STATE.flagR, r);
        expect(statusImage(flagOpCode(op, width as 8), a, b, r) & 0x8d5).toBe(core.status());
      }),
      { seed: 3, numRuns: 2000 },
    );
  });
});

/** sum of 1..n by a loop, then HLT; returns the processor after `n` came from EAX. */
function summing(tier: 'evaluate' | 'translate' | 'auto') {
  const machine = new MachineMemory({ frameCount: 64, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0], tier });
  // xor ebx, ebx / add ebx, eax / mov [0x8000], ebx / dec eax / jnz -9 / hlt
  machine.writeBytes(0x1000, Uint8Array.from([0x31, 0xdb, 0x01, 0xc3, 0x89, 0x1d, 0, 0x80, 0, 0, 0x48, 0x75, 0xf5, 0xf4]));
  return {
    cpu,
    machine,
    sum(n: number): number {
      cpu.setEip(0x1000);
      cpu.setReg(0, n);
      while (cpu.run(1000).kind !== 'halt');
      expect(machine.readU32(0x8000)).toBe(cpu.reg(3));
      return cpu.reg(3);
    },
  };
}

describe('a translated loop', () => {
  test('is found again, and forgotten when its code is overwritten from outside', () => {
    const { cpu, machine, sum } = summing('auto');
    expect(sum(10_000)).toBe(50_005_000);
    expect(cpu.counters.regionsTranslated).toBe(1);
    expect(cpu.counters.evaluatedInsns).toBeLessThan(4000);
    machine.writeU8(0x1002, 0x29); // add becomes sub
    expect(sum(10_000)).toBe((-50_005_000) >>> 0);
    expect(cpu.translatorCounters?.invalidated).toBe(1);
  });

  test('survives a store into data beside its code without being forgotten', () => {
    const { cpu, machine, sum } = summing('auto');
    machine.writeBytes(0x1004, Uint8Array.from([0x89, 0x1d, 0, 0x18, 0, 0])); // the result goes into the code's page
    const run = (): void => void ((): void => {
      cpu.setEip(0x1000);
      cpu.setReg(0, 10_000);
      while (cpu.run(100_000).kind !== 'halt');
    })();
    run();
    run();
    expect(machine.readU32(0x1800)).toBe(50_005_000);
    expect(cpu.translatorCounters?.invalidated).toBe(0);
    expect(cpu.counters.evaluatedInsns).toBeLessThan(1000);
    void sum;
  });

  test('marks the frames that it writes as dirty again after each clearing', () => {
    const { cpu, machine, sum } = summing('auto');
    sum(5000);
    for (let i = 0; i < 3; i++) {
      machine.clearDirty();
      cpu.dropWriteFastPaths();
      sum(5000);
      expect(machine.dirtyFrames()).toEqual([8]);
    }
  });

  test('is forgotten when another processor of the machine stores into its code', () => {
    const { cpu, machine, sum } = summing('auto');
    const other = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0] });
    // mov byte [0x1002], 0x29 (add becomes sub) in a loop that gets hot itself; hlt
    machine.writeBytes(0x3000, Uint8Array.from([0xc6, 0x05, 0x02, 0x10, 0, 0, 0x29, 0x48, 0x75, 0xf6, 0xf4]));
    expect(sum(10_000)).toBe(50_005_000);
    other.setEip(0x3000);
    other.setReg(0, 500);
    while (other.run(1000).kind !== 'halt');
    expect(sum(10_000)).toBe((-50_005_000) >>> 0);
    expect(cpu.translatorCounters?.invalidated).toBe(1);
  });

  test('stops exactly at every budget', () => {
    for (let budget = 1; budget < 40; budget++) {
      const { cpu } = summing('translate');
      cpu.setEip(0x1000);
      cpu.setReg(0, 1000);
      let expected = 0;
      for (let i = 0; i < 50; i++) {
        expect(cpu.run(budget).kind).toBe('budget');
        expected += budget;
        expect(cpu.retired()).toBe(expected);
        // After the first instruction each turn of the loop is four.
        expect(cpu.eip()).toBe([0x1002, 0x1004, 0x100a, 0x100b][(expected - 1) % 4]);
      }
    }
  });
});

test('a wrong translation is noticed: with add turned into sub the tiers part', () => {
  const original = CodeBuffer.prototype.byte;
  expect(summing('translate').sum(100)).toBe(summing('evaluate').sum(100));
  vi.spyOn(CodeBuffer.prototype, 'byte').mockImplementation(function (this: CodeBuffer, value: number) {
    original.call(this, value === OP.i32_add ? OP.i32_sub : value);
  });
  expect(() => expect(summing('translate').sum(100)).toBe(summing('evaluate').sum(100))).toThrow();
  expect(TYPE.i32).toBe(0x7f);
});
