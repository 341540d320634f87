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
