// The tree over bytes, against a plain list of keys.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ByteTree } from '../../src/x86/byte-tree.ts';

/** Keys none of which begins another one: as instructions are, their first byte says how long they are. */
const keys = fc.uniqueArray(
  fc.tuple(fc.integer({ min: 1, max: 15 }), fc.uint8Array({ minLength: 14, maxLength: 14, max: 3 })).map(([lengthBytes, rest]) => Uint8Array.of(lengthBytes, ...rest.subarray(0, lengthBytes - 1))),
  { selector: (key) => key.join(), maxLength: 400 },
);

test('what was added is found, whatever follows it; what was not, is not', () => {
  fc.assert(
    fc.property(keys, fc.uint8Array({ maxLength: 15 }), (all, tail) => {
      const tree = new ByteTree<number>();
      const added = all.filter((_, i) => i % 3 !== 0);
      added.forEach((key, i) => tree.add(key, key.length, i));
      expect(tree.size).toBe(added.length);
      added.forEach((key, i) => expect(tree.find(Uint8Array.of(...key, ...tail))).toBe(i));
      for (const key of all.filter((_, i) => i % 3 === 0)) expect(tree.find(key)).toBeUndefined();
    }),
    { seed: 20070601, numRuns: 200 },
  );
});

test('it grows beyond its first size and keeps everything', () => {
  const tree = new ByteTree<number>();
  const keyOf = (i: number): Uint8Array => Uint8Array.of(i & 255, (i >> 8) & 255, i >> 16);
  for (let i = 0; i < 100_000; i++) tree.add(keyOf(i), 3, i);
  for (let i = 0; i < 100_000; i += 7) expect(tree.find(keyOf(i))).toBe(i);
});

test('a key that begins another one is refused', () => {
  const tree = new ByteTree<string>();
  tree.add(Uint8Array.of(1, 2, 3), 3, 'long');
  expect(() => tree.add(Uint8Array.of(1, 2), 2, 'short')).toThrow(/beginning/);
});

test('bytes that may be any are passed over, and what follows them still counts', () => {
  const tree = new ByteTree<string>();
  tree.add(Uint8Array.of(0x80, 0x45, 9, 9, 7), 5, 'seven', 2, 2);
  tree.add(Uint8Array.of(0x80, 0x45, 1, 2, 8), 5, 'eight', 2, 2);
  tree.add(Uint8Array.of(0x81, 5, 5), 3, 'last', 1, 2);
  expect([tree.find(Uint8Array.of(0x80, 0x45, 200, 0, 7)), tree.find(Uint8Array.of(0x80, 0x45, 7, 7, 8, 1)), tree.find(Uint8Array.of(0x80, 0x45, 7, 7, 9))]).toEqual(['seven', 'eight', undefined]);
  // Inside a larger piece of memory, to whose end nothing may go.
  const memory = Uint8Array.of(0, 0x81, 1, 2, 3);
  expect([tree.find(memory, 1, 4), tree.find(memory, 1, 3), tree.find(memory, 1, 2), tree.find(memory, 0, 5)]).toEqual(['last', undefined, undefined, undefined]);
  expect(() => tree.add(Uint8Array.of(0x80, 0x45, 1, 2, 3), 5, 'plain')).toThrow(/differently/);
});
