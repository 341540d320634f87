// Hypercalls as a real Xen's trace has them and as a recording has them, in one form, for comparison.
//
//   HC d1v0 rip=… nr=N args=a,b,c,d,e ret=R        (HC32: 32-bit guests)
import { EVENT } from '../../src/abi/events.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import type { Recording } from '../../src/log/reader.ts';

export interface Call {
  readonly nr: number;
  /** Unsigned. */
  readonly args: readonly bigint[];
  readonly result: number;
  /** A batch that goes on after it was preempted. */
  readonly again: boolean;
}

/** In the count of a batch: some of it is done. */
const PREEMPTED = 0x8000_0000n;
const isBatch = (nr: number): boolean => nr === HYPERCALL.mmuext_op || nr === HYPERCALL.mmu_update;
const isAgain = (nr: number, args: readonly bigint[]): boolean => isBatch(nr) && ((args[1] as bigint) & PREEMPTED) !== 0n;

/** The traces' recorder left sched_op and iret out (they are in none of its files), so they are left out here too. */
const UNTRACED: ReadonlySet<number> = new Set([HYPERCALL.sched_op, HYPERCALL.iret]);

export function realXenCalls(text: string): Call[] {
  return [...text.matchAll(/^HC(?:32)? .* nr=(\d+) args=(\S+) ret=(-?\d+)$/gm)].map((match) => {
    const nr = Number(match[1]);
    const args = (match[2] as string).split(',').map((arg) => BigInt(`0x${arg}`));
    return { nr, args, result: Number(match[3]), again: isAgain(nr, args) };
  });
}

export function hypercallsOf(recording: Recording): Call[] {
  const calls: Call[] = [];
  for (const event of recording.events()) {
    if (event.kind !== EVENT.hypercall) continue;
    const values = event.values as number[];
    const nr = values[0] as number;
    if (UNTRACED.has(nr)) continue;
    // s64 arguments come as low and high halves after nr, result and end.
    const args = [0, 1, 2, 3, 4, 5].map((index) => BigInt((values[3 + index * 2] as number) >>> 0) | (BigInt((values[4 + index * 2] as number) >>> 0) << 32n));
    calls.push({ nr, args, result: values[1] as number, again: isAgain(nr, args) });
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
