// `diff` names the first event in which two recordings differ, tells what became of it, and reads little
// of long ones.
import { beforeAll, describe, expect, test } from 'vitest';
import { EVENT, hypercallValues } from '../../src/abi/events.ts';
import { PrngStream } from '../../src/base/prng.ts';
import type { EventEmitter } from '../../src/log/event-encoder.ts';
import { CountedSource, openIndexed, type IndexedRecording } from '../../src/log/indexed.ts';
import { bytesSource } from '../../src/log/reader.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { alignFirst } from '../../src/replay/align.ts';
import { diffRecordings } from '../../src/replay/diff.ts';
import { recordBytes, storm, WORLD } from '../log/synthetic.ts';
import { recordBoot } from './boots.ts';

type Args = Parameters<EventEmitter['emit']>;
/** Each event of a storm, and what becomes of it in B. */
type Change = (args: Args, index: number) => Args[];

function pair(rounds: number, change: Change): { a: IndexedRecording; b: IndexedRecording; read: () => [number, number]; sizes: [number, number] } {
  const made = (apply: Change): CountedSource => {
    let index = 0;
    const bytes = recordBytes((encoder) => storm({ emit: (...args: Args) => { for (const each of apply(args, index++)) encoder.emit(...each); }, nameNumber: () => 1 }, rounds), { codec: zlibCodec() });
    return new CountedSource(bytesSource('test.rxr', bytes));
  };
  const [left, right] = [made((args) => [args]), made(change)];
  return { a: openIndexed(left, { codec: zlibCodec() }), b: openIndexed(right, { codec: zlibCodec() }), read: () => [left.bytesRead, right.bytesRead], sizes: [left.sizeBytes, right.sizeBytes] };
}

const extra = ([, domId, vcpuId, retired, nowNs]: Args): Args => [EVENT.evtchnUnmask, domId, vcpuId, retired, nowNs, [77, 0]];

beforeAll(loadHashes);

describe('the first difference', () => {
  const at = 20_001;
  const later: Args[] = [];
  test.each<[string, string, Change]>([
    ['a value', 'changed', (args, i) => (i === at ? [[args[0], args[1], args[2], args[3], args[4], [...args[5].slice(0, -1), 99]]] : [args])],
    ['an event more', 'inserted', (args, i) => (i === at ? [extra(args), args] : [args])],
    ['three events more', 'inserted', (args, i) => (i === at ? [extra(args), extra(args), extra(args), args] : [args])],
    ['an event less', 'deleted', (args, i) => (i === at ? [] : [args])],
    ['two neighbours the other way round', 'reordered', (args, i) => {
      if (i === at) return later.push(args), [];
      return i === at + 1 ? [args, ...later.splice(0)] : [args];
    }],
    ['an event that comes three later', 'reordered', (args, i) => {
      if (i === at) return later.push(args), [];
      return i === at + 3 ? [args, ...later.splice(0).map(([kind, domId, vcpuId, , , values]): Args => [kind, domId, vcpuId, args[3], args[4], values])] : [args];
    }],
    ['a time', 'moved', (args, i) => (i >= at ? [[args[0], args[1], args[2], args[3], args[4] + 5, args[5], args[6]]] : [args])],
    ['another kind', 'changed', (args, i) => (i === at ? [extra(args)] : [args])],
    ['an end', 'ended', (args, i) => (i >= at ? [] : [args])],
  ])('is %s: %s', (_, relation, change) => {
    const { a, b } = pair(8_000, change);
    const diff = diffRecordings(a, b, 10);
    expect(diff.same).toBe(false);
    expect(diff.events?.sameEvents).toBe(at);
    expect(diff.events?.relation, diff.verdict).toBe(relation);
    expect(diff.events?.before.length).toBe(10);
    expect(diff.verdict).toContain(`${at}:`);
  });

  test('is found wherever it is', () => {
    const prng = new PrngStream('diff', 'test');
    for (let i = 0; i < 12; i++) {
      const index = prng.below(30_000);
      const { a, b } = pair(7_600, (args, n) => (n === index ? [[args[0], args[1], args[2], args[3], args[4] + 1, args[5], args[6]]] : [args]));
      expect(diffRecordings(a, b).events?.sameEvents).toBe(index);
    }
  });

  test('is none in a recording and its copy', () => {
    const { a, b } = pair(3_000, (args) => [args]);
    expect(diffRecordings(a, b)).toMatchObject({ same: true, events: undefined, state: undefined, headers: [] });
  });

  test('is said to be in the header first', () => {
    const { a } = pair(100, (args) => [args]);
    const other = openIndexed(bytesSource('b.rxr', recordBytes((encoder) => storm(encoder, 100), { world: { ...WORLD, seed: '2' } })));
    const diff = diffRecordings(a, other);
    expect(diff.headers).toEqual([{ what: 'seed', a: '1', b: '2' }]);
    expect(diff.same).toBe(false);
  });
});

test('a million events against another million: under a second, a logarithmic part of the files', () => {
  const { a, b, read, sizes } = pair(248_000, (args, i) => (i === 777_777 ? [extra(args), args] : [args]));
  expect(a.recording.eventCount).toBeGreaterThan(1_000_000);
  const started = performance.now();
  const diff = diffRecordings(a, b);
  const wallMs = performance.now() - started;
  expect(diff.events).toMatchObject({ sameEvents: 777_777, relation: 'inserted' });
  expect(wallMs).toBeLessThan(1000);
  for (const side of [0, 1] as const) expect(read()[side]).toBeLessThan(sizes[side] / 10);
});

test('two seeds part at a choice, two runs that differ in memory alone at a state digest', async () => {
  const indexed = async (...args: Parameters<typeof recordBoot>): Promise<IndexedRecording> => openIndexed(bytesSource('test.rxr', (await recordBoot(...args)).bytes), { codec: zlibCodec() });
  const often = { change: (spec) => ({ ...spec, digestEveryInsns: 100_000 }) } satisfies Parameters<typeof recordBoot>[1];
  const one = await indexed('pv-i386-pae', often);
  expect(diffRecordings(one, await indexed('pv-i386-pae', often)).same).toBe(true);
  const seeds = diffRecordings(one, await indexed('pv-i386-pae', { ...often, seed: '2' }));
  expect(seeds.verdict).toContain('the same choice (memory.placement) was made otherwise');
  let seen = 0;
  const touched = await indexed('pv-i386-pae', {
    ...often,
    wrap: (sink, world) => ({
      event: (...args) => {
        if (++seen === 900) world.machine.writeU8((world.machine.frameCount - 1) * 4096, 1);
        sink.event(...args);
      },
      stateDigest: (...args) => sink.stateDigest?.(...args),
    }),
  });
  const hidden = diffRecordings(one, touched);
  expect(hidden.events).toBeUndefined();
  expect(hidden.state?.parts).toEqual(['memory']);
  expect(hidden.state?.atEvent).toBeGreaterThanOrEqual(900);
});

test('lists come together again as soon as three members agree', () => {
  const align = (a: string, b: string) => alignFirst([...a], [...b]);
  expect(align('abcdefgh', 'xabcdefgh')).toEqual({ relation: 'inserted', inA: 0, inB: 1 });
  expect(align('xyabcdefgh', 'abcdefgh')).toEqual({ relation: 'deleted', inA: 2, inB: 0 });
  expect(align('bacdefgh', 'abcdefgh').relation).toBe('reordered');
  expect(align('xabcdefgh', 'yzabcdefgh')).toEqual({ relation: 'changed', inA: 1, inB: 2 });
  expect(align('abc', 'xyz').relation).toBe('apart');
  expect(align('', 'xyz').relation).toBe('ended');
});

test.each([
  [4, ['result (rax)', 'a0 (rdi)', 'a1 (rsi)', 'a2 (rdx)', 'a3 (r10)', 'a4 (r8)', 'a5 (r9)']],
  [3, ['result (eax)', 'a0 (ebx)', 'a1 (ecx)', 'a2 (edx)', 'a3 (esi)', 'a4 (edi)', 'a5 (ebp)']],
  [2, ['result (eax)', 'a0 (ebx)', 'a1 (ecx)', 'a2 (edx)', 'a3 (esi)', 'a4 (edi)', 'a5 (ebp)']],
])('the registers of a hypercall are those of a guest with tables of %i levels', (levels, names) => {
  const made = (value: number): IndexedRecording => openIndexed(bytesSource('test.rxr', recordBytes((encoder) => {
    encoder.emit(EVENT.domainCreated, 1, 0, 0, 0, [1024, 1, levels], new TextEncoder().encode('guest'));
    const words = new Uint32Array(6).fill(value);
    encoder.emit(EVENT.hypercall, 1, 0, 10, 10, hypercallValues(26, -value, 'done', { lo: words, hi: words }, 6));
  }, { codec: zlibCodec() })), { codec: zlibCodec() });
  expect(diffRecordings(made(1), made(2)).events?.differences).toEqual(names.map((name) => ({ name, expected: name.startsWith('result') ? '-1' : '0x100000001', actual: name.startsWith('result') ? '-2' : '0x200000002' })));
});
