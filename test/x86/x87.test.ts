// The x87 beyond what vectors of a real processor say (oracle.test.ts): CR0's gates, exceptions left
// behind, the state as data, and the tolerance of the vectors' comparison.
import { gunzipSync } from 'node:zlib';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { add, divide, multiply, squareRoot, subtract } from '../../src/x86/x87/arithmetic.ts';
import { narrow, widen } from '../../src/x86/x87/formats.ts';
import { DOUBLE, Outcome } from '../../src/x86/x87/number.ts';
import { parseVector } from '../oracle/vector.ts';
import { closeEnough, toleranceOf, X87_TOLERANCE } from '../oracle/x87-tolerance.ts';

const CODE = 0x1000;
const DATA = 0x2000;
const CR0 = { PE: 1, MP: 2, EM: 4, TS: 8, NE: 0x20 };

/** Runs code at CPL 0 until it halts or faults. */
function run(hex: string, cr0 = CR0.PE | CR0.NE) {
  const machine = new MachineMemory({ frameCount: 16, arenaBytes: 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 1], tier: 'evaluate' });
  machine.writeBytes(CODE, Buffer.from(`${hex.replaceAll(' ', '')}f4`, 'hex'));
  cpu.setCr(0, cr0);
  cpu.setEip(CODE);
  const exit = cpu.run(1000);
  const end = exit.kind === 'exception' ? `#${exit.exception.vector}@${(cpu.eip() - CODE).toString(16)}` : exit.kind;
  return { end, cpu, machine };
}

/** 1/0 with ZE unmasked, and what then. */
const DIVIDE = 'dbe3 66c705 00200000 7b03 d92d 00200000 d9e8 d9ee def9';

describe('an x87 instruction', () => {
  test.each([['d8c1'], ['d9e8'], ['dbe3'], ['dfe0'], ['d92d00200000'], ['dd3500200000'], ['dbe2']])('%s is #NM while CR0 says so', (hex) => {
    expect(run(hex, CR0.PE | CR0.TS).end).toBe('#7@0');
    expect(run(hex, CR0.PE | CR0.EM).end).toBe('#7@0');
    expect(run(hex).end).toBe('halt');
  });
  test('WAIT is #NM only if both TS and MP are set', () => {
    expect(run('9b', CR0.PE | CR0.TS).end).toBe('halt');
    expect(run('9b', CR0.PE | CR0.EM).end).toBe('halt');
    expect(run('9b', CR0.PE | CR0.TS | CR0.MP).end).toBe('#7@0');
  });
});

describe('an unmasked exception', () => {
  const at = '#16@18';
  test('comes out as #MF at the next instruction that waits', () => {
    expect(DIVIDE.replaceAll(' ', '').length / 2).toBe(0x17);
    for (const next of ['9b', 'd9d0', 'd9e8', 'd92d00200000', 'dd2500200000']) expect(run(`${DIVIDE} 90 ${next}`).end).toBe(at);
  });
  test('is not noticed by those that do not wait, and FNCLEX takes it away', () => {
    for (const next of ['dfe0', 'd93d10200000', 'dbe3 9b', 'dbe2 9b', 'd93510200000', 'dd3510200000 9b']) expect(run(`${DIVIDE} 90 ${next}`).end).toBe('halt');
  });
  test('is left to nobody without CR0.NE', () => {
    expect(run(`${DIVIDE} 9b`, CR0.PE).end).toBe('halt');
  });
  test('shows in the status word and keeps the operands', () => {
    const { cpu } = run(`${DIVIDE} dfe0`);
    expect((cpu.reg(0) & 0xffff).toString(16)).toBe('b084');
  });
});

test('the registers go with a saved processor', () => {
  const { cpu } = run('dbe3 d9eb d9e8 d9e0');
  const other = run('90');
  expect(other.cpu.saveState()).not.toEqual(cpu.saveState());
  other.cpu.restoreState(cpu.saveState());
  other.machine.writeBytes(0x3000, Buffer.from('dd1d00200000dd1d08200000f4', 'hex'));
  other.cpu.setEip(0x3000);
  expect(other.cpu.run(10).kind).toBe('halt');
  const view = new DataView(other.machine.readBytes(DATA, 16).buffer);
  expect([view.getFloat64(0, true), view.getFloat64(8, true)]).toEqual([-1, Math.PI]);
});

test('with 53 bits and far from the ends of the range it computes what doubles are', () => {
  const bitsOf = (x: number): bigint => new DataView(Float64Array.of(x).buffer).getBigUint64(0, true);
  const size = fc.double({ noNaN: true, noDefaultInfinity: true }).filter((x) => x !== 0 && Math.abs(x) > 1e-120 && Math.abs(x) < 1e120);
  const out = (): Outcome => new Outcome(0x27f);
  fc.assert(fc.property(size, size, (a, b) => {
    const [x, y] = [widen(out(), DOUBLE, bitsOf(a)), widen(out(), DOUBLE, bitsOf(b))];
    expect(narrow(out(), DOUBLE, add(out(), x, y))).toBe(bitsOf(a + b));
    expect(narrow(out(), DOUBLE, subtract(out(), x, y))).toBe(bitsOf(a - b));
    expect(narrow(out(), DOUBLE, multiply(out(), x, y))).toBe(bitsOf(a * b));
    expect(narrow(out(), DOUBLE, divide(out(), x, y))).toBe(bitsOf(a / b));
    expect(narrow(out(), DOUBLE, squareRoot(out(), widen(out(), DOUBLE, bitsOf(Math.abs(a)))))).toBe(bitsOf(Math.sqrt(Math.abs(a))));
  }), { seed: 87, numRuns: 2000 });
});

describe('the comparison of transcendental results', () => {
  const text = gunzipSync(readFileSync(join(import.meta.dirname, '..', 'oracle', 'vectors', 'x87-transcendental.txt.gz'))).toString('latin1');
  const vectors = text.trimEnd().split('\n').map(parseVector);
  test('meets every row of its table', () => {
    for (const row of X87_TOLERANCE) expect(vectors.some(({ input }) => toleranceOf(input) === row), row.name).toBe(true);
  });
  test('lets one unit in the last place pass and no more', () => {
    const { input, outcome } = parseVector('dbe3dd2500010200d9fedd3500010200 r0 f2 m20100=7f03fffffc00 m2011c=0000000000000080ff3f > . m20104=2000 m2011c=3a1ecd6a547c6ad7fe3f');
    const row = toleranceOf(input);
    if (row === undefined) throw new Error('FSIN has no row');
    const shifted = (by: number) => outcome.memory.map(({ vaddr, bytes }) => ({ vaddr, bytes: bytes.map((byte, i) => (vaddr === 0x2011c && i === 0 ? byte + by : byte)) }));
    expect([-2, -1, 0, 1, 2].map((by) => closeEnough(row, input, outcome.memory, shifted(by)))).toEqual([false, true, true, true, false]);
    expect(closeEnough(row, input, outcome.memory, [...outcome.memory, { vaddr: 0x20108, bytes: Uint8Array.of(1) }])).toBe(false);
    expect(closeEnough(row, input, outcome.memory, [...outcome.memory, { vaddr: 0x20200, bytes: Uint8Array.of(1) }])).toBe(false);
  });
});
