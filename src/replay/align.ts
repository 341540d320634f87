// How two lists of events that begin to differ belong together again: which were inserted, which left out,
// which changed places, which changed. A shortest edit script (Myers 1986) over a window, then one look at
// its first hunk.
//
//   A  a b c d e        A  a b c d e        A  a b c d        A  a b c d
//   B  a b x c d e      B  a b d e          B  a c b d        B  a b y d
//      inserted            left out            reordered         changed
//
// Not here: what makes two events the same; the caller gives each a key.

export type Relation =
  /** B has `inB` events that A does not have; then both go on alike. */
  | 'inserted'
  | 'deleted'
  | 'reordered'
  | 'changed'
  /** They do not come together again within the window. */
  | 'apart'
  /** One list has ended. */
  | 'ended';

export interface Hunk {
  readonly relation: Relation;
  /** How many events of each list the difference takes up. */
  readonly inA: number;
  readonly inB: number;
}

/** So many events in a row must agree before the lists count as together again. */
const TOGETHER = 3;

interface Run {
  readonly a: number;
  readonly b: number;
  readonly length: number;
}

/** The first difference of two lists whose first members differ. */
export function alignFirst(a: readonly string[], b: readonly string[]): Hunk {
  if (a.length === 0 || b.length === 0) return { relation: 'ended', inA: a.length, inB: b.length };
  const runs = commonRuns(a, b);
  const together = runs.find(({ length, a: at, b: bt }) => length >= TOGETHER || at + length === a.length || bt + length === b.length);
  if (together === undefined) return { relation: 'apart', inA: a.length, inB: b.length };
  const [onlyA, onlyB] = [a.slice(0, together.a), b.slice(0, together.b)];
  const hunk = { inA: onlyA.length, inB: onlyB.length };
  if (hunk.inA === 0) return { relation: 'inserted', ...hunk };
  if (hunk.inB === 0) return reorderedLater(onlyA, a, b, runs) ?? { relation: 'deleted', ...hunk };
  return { relation: sameMembers(onlyA, onlyB) ? 'reordered' : 'changed', ...hunk };
}

/** What A has and B seems to lack, B may have a little later: the edit script then deletes it here and inserts it there. */
function reorderedLater(onlyA: readonly string[], a: readonly string[], b: readonly string[], runs: readonly Run[]): Hunk | undefined {
  for (const [index, run] of runs.entries()) {
    const next = runs[index + 1];
    const inA = run.a + run.length;
    const inB = run.b + run.length;
    const gapB = b.slice(inB, next?.b ?? b.length);
    if (gapB.length === onlyA.length && (next?.a ?? a.length) === inA && sameMembers(onlyA, gapB)) return { relation: 'reordered', inA, inB: inB + gapB.length };
  }
  return undefined;
}

function sameMembers(a: readonly string[], b: readonly string[]): boolean {
  const counts = new Map<string, number>();
  for (const key of a) counts.set(key, (counts.get(key) ?? 0) + 1);
  for (const key of b) counts.set(key, (counts.get(key) ?? 0) - 1);
  return a.length === b.length && [...counts.values()].every((count) => count === 0);
}

/** The runs of equal members of a shortest edit script, in order. */
function commonRuns(a: readonly string[], b: readonly string[]): Run[] {
  const most = a.length + b.length;
  const furthest = new Int32Array(2 * most + 2);
  const trace: Int32Array[] = [];
  for (let edits = 0; edits <= most; edits++) {
    trace.push(furthest.slice(most - edits - 1 < 0 ? 0 : most - edits - 1, most + edits + 2));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && (furthest[most + k - 1] as number) < (furthest[most + k + 1] as number));
      let x = down ? (furthest[most + k + 1] as number) : (furthest[most + k - 1] as number) + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) {
        x++;
        y++;
      }
      furthest[most + k] = x;
      if (x >= a.length && y >= b.length) return runsOf(trace, a.length, b.length, most);
    }
  }
  return [];
}

function runsOf(trace: readonly Int32Array[], aLength: number, bLength: number, most: number): Run[] {
  const runs: Run[] = [];
  let x = aLength;
  let y = bLength;
  for (let edits = trace.length - 1; edits >= 0 && (x > 0 || y > 0); edits--) {
    const furthest = trace[edits] as Int32Array;
    const base = most - edits - 1 < 0 ? 0 : most - edits - 1;
    const at = (k: number): number => furthest[most + k - base] as number;
    const k = x - y;
    const down = k === -edits || (k !== edits && at(k - 1) < at(k + 1));
    const fromX = edits === 0 ? 0 : at(down ? k + 1 : k - 1);
    const fromY = edits === 0 ? 0 : fromX - (down ? k + 1 : k - 1);
    const startX = edits === 0 ? 0 : down ? fromX : fromX + 1;
    if (x > startX) runs.push({ a: startX, b: startX - k, length: x - startX });
    x = fromX;
    y = fromY;
  }
  return runs.reverse();
}
