// Delta debugging (Zeller and Hildebrandt 2002): from a list that fails to one that still fails and of which
// no single member can be taken away. That last property is then verified member by member, whatever the
// search did.

export interface Minimal<T> {
  readonly members: readonly T[];
  /** How often `fails` was asked. */
  readonly tests: number;
  /** Every member was taken away alone, and nothing failed without it. False only if the limit of tests came first. */
  readonly verified: boolean;
}

/** `fails(members)` holds; members keep their order. At most `limit` tests. */
export function ddmin<T>(members: readonly T[], fails: (members: readonly T[]) => boolean, limit = Infinity, onTest: (tests: number, left: number) => void = () => {}): Minimal<T> {
  let current = members;
  let tests = 0;
  const test = (candidate: readonly T[]): boolean => {
    tests++;
    onTest(tests, current.length);
    return fails(candidate);
  };
  if (current.length > 0 && tests < limit && test([])) return { members: [], tests, verified: true };
  for (let parts = 2; current.length >= 2 && tests < limit; ) {
    const chunks = Array.from({ length: parts }, (_, index) => current.slice(Math.floor((index * current.length) / parts), Math.floor(((index + 1) * current.length) / parts)));
    const kept = firstFailing(chunks, test, () => tests < limit);
    if (kept !== undefined) {
      parts = Math.max(2, kept.complement ? parts - 1 : 2);
      current = kept.members;
    } else if (parts >= current.length) break;
    else parts = Math.min(current.length, parts * 2);
  }
  // One after the other, until a whole round takes nothing away.
  for (let index = 0, needed = 0; needed < current.length; ) {
    if (tests >= limit) return { members: current, tests, verified: false };
    const at = index % current.length;
    const without = current.filter((_, other) => other !== at);
    if (without.length > 0 && test(without)) {
      current = without;
      needed = 0;
      index = at;
    } else {
      needed++;
      index = at + 1;
    }
  }
  return { members: current, tests, verified: true };
}

function firstFailing<T>(chunks: readonly (readonly T[])[], fails: (members: readonly T[]) => boolean, more: () => boolean): { readonly members: readonly T[]; readonly complement: boolean } | undefined {
  for (const chunk of chunks) {
    if (!more()) return undefined;
    if (fails(chunk)) return { members: chunk, complement: false };
  }
  if (chunks.length === 2) return undefined;
  for (let left = 0; left < chunks.length; left++) {
    if (!more()) return undefined;
    const members = chunks.flatMap((chunk, index) => (index === left ? [] : chunk));
    if (fails(members)) return { members, complement: true };
  }
  return undefined;
}
