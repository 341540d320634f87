// Hypercalls as a real Xen's trace has them and as a recording has them, in one form, for comparison.
//
//   HC d1v0 rip=… nr=N args=a,b,c,d,e ret=R        (HC32: 32-bit guests)
import { EVENT, HYPERCALL_END } from '../../src/abi/events.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import type { Recording } from '../../src/log/reader.ts';

export interface Call {
  readonly nr: number;
  /** Unsigned. */
  readonly args: readonly bigint[];
  readonly result: number;
  /** It goes on where a preempted call left off. */
  readonly again: boolean;
}

/** In the count of a batch: some of it is done. */
const PREEMPTED = 0x8000_0000n;
const isBatch = (nr: number): boolean => nr === HYPERCALL.mmuext_op || nr === HYPERCALL.mmu_update;
const isAgain = (nr: number, args: readonly bigint[]): boolean => isBatch(nr) && ((args[1] as bigint) & PREEMPTED) !== 0n;

/** The traces' recorder left these out (they are in none of its files), so they are left out here too. */
const UNTRACED: ReadonlySet<number> = new Set([HYPERCALL.sched_op, HYPERCALL.iret, HYPERCALL.console_io, HYPERCALL.get_debugreg]);

export function realXenCalls(text: string): Call[] {
  return [...text.matchAll(/^HC(?:32)? .* nr=(\d+) args=(\S+) ret=(-?\d+)$/gm)].map((match) => {
    const nr = Number(match[1]);
    const args = (match[2] as string).split(',').map((arg) => BigInt(`0x${arg}`));
    return { nr, args, result: Number(match[3]), again: isAgain(nr, args) };
  });
}

const CONTINUATION = HYPERCALL_END.indexOf('continuation');

/** The first domain's; `most` at most. */
export function hypercallsOf(recording: Recording, most = Infinity): Call[] {
  const calls: Call[] = [];
  let preempted = -1;
  for (const event of recording.events()) {
    if (event.kind !== EVENT.hypercall || event.domId !== 1) continue;
    const [nr, result, end, ...halves] = event.values as [number, number, number, ...number[]];
    if (UNTRACED.has(nr)) continue;
    // s64 arguments come as low and high halves.
    const args = [0, 1, 2, 3, 4, 5].map((index) => BigInt((halves[index * 2] as number) >>> 0) | (BigInt((halves[index * 2 + 1] as number) >>> 0) << 32n));
    calls.push({ nr, args, result, again: preempted === nr });
    preempted = end === CONTINUATION ? nr : -1;
    if (calls.length >= most) break;
  }
  return calls;
}

/** Continuations are points of preemption, not calls: only the first try's arguments and the last one's result count. */
export function withoutContinuations(calls: readonly Call[]): Call[] {
  const merged: Call[] = [];
  for (const call of calls) {
    const last = merged.at(-1);
    if (call.again && last !== undefined && last.nr === call.nr) merged[merged.length - 1] = { ...last, result: call.result };
    else merged.push(call);
  }
  return merged;
}

// ---- kind, order and result --------------------------------------------------------------------

/** Whose first argument is a command; of the rest addresses and frame numbers are a run's own. */
const COMMANDS: ReadonlySet<number> = new Set([
  HYPERCALL.vcpu_op, HYPERCALL.memory_op, HYPERCALL.callback_op, HYPERCALL.vm_assist, HYPERCALL.physdev_op, HYPERCALL.set_segment_base,
  HYPERCALL.event_channel_op, HYPERCALL.xen_version, HYPERCALL.grant_table_op, HYPERCALL.stack_switch, HYPERCALL.set_debugreg,
]);
const PTE_FLAGS = 0x8000_0000_0000_0fffn;

/** Number, what of the arguments does not depend on where things lie, and the result. */
export function kindOf({ nr, args, result }: Call): string {
  const [first = 0n, second = 0n, third = 0n] = args;
  const shown: bigint[] = COMMANDS.has(nr) ? [first] : isBatch(nr) || nr === HYPERCALL.multicall ? [second] : nr === HYPERCALL.update_va_mapping ? [second & PTE_FLAGS, third] : [];
  if (nr === HYPERCALL.vcpu_op) shown.push(second);
  return `${nr}(${shown.map((value) => value.toString(16)).join(',')}) = ${result}`;
}

export interface Difference {
  /** Index in the first list. */
  readonly at: number;
  readonly onlyFirst: readonly string[];
  readonly onlySecond: readonly string[];
}

/** So many equal entries in a row: the lists go on together. */
const SYNC = 4;

/** Where two lists part and meet again, up to `most` differences; the last has no meeting point if there is none within `reach`. */
export function differences(first: readonly string[], second: readonly string[], most: number, reach = 200): Difference[] {
  const found: Difference[] = [];
  const meets = (a: number, b: number): boolean => {
    for (let k = 0; k < SYNC; k++) if (first[a + k] === undefined || first[a + k] !== second[b + k]) return false;
    return true;
  };
  for (let a = 0, b = 0; a < first.length && b < second.length && found.length < most; ) {
    if (first[a] === second[b]) {
      a++;
      b++;
      continue;
    }
    let step: readonly [number, number] | undefined;
    for (let total = 1; total <= reach && step === undefined; total++) {
      for (let da = 0; da <= total && step === undefined; da++) if (meets(a + da, b + total - da)) step = [da, total - da];
    }
    const [da, db] = step ?? [first.length - a, second.length - b];
    found.push({ at: a, onlyFirst: first.slice(a, a + da), onlySecond: second.slice(b, b + db) });
    a += da;
    b += db;
  }
  return found;
}
