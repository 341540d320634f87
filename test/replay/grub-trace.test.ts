// PV GRUB makes the same hypercalls here as on real Xen: grub-i386-xen.txt.gz is what a real Xen saw
// of the same image in a domain of 128 MiB, until the first xenstore answer.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import { HYPERCALL } from '../../src/abi/hypercall-numbers.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { recordBoot } from './boots.ts';

interface Call {
  readonly nr: number;
  readonly args: readonly number[];
  readonly result: number;
}

const PREEMPTED = 0x8000_0000;
/** How many arguments a hypercall has; what stands in the other registers is junk. */
const ARG_COUNT: Readonly<Record<number, number>> = { [HYPERCALL.vm_assist]: 2, [HYPERCALL.grant_table_op]: 3, [HYPERCALL.mmu_update]: 4, [HYPERCALL.update_va_mapping]: 4, [HYPERCALL.mmuext_op]: 4, [HYPERCALL.event_channel_op]: 2 };

/** The trace's recorder left sched_op out (it is in none of its files), so it is left out here too. */
const isTraced = (nr: number): boolean => nr !== HYPERCALL.sched_op;

/** Continuations are points of preemption, not calls: only the first try's arguments and the last one's result count. */
function withoutContinuations(calls: readonly (Call & { again: boolean })[]): Call[] {
  const merged: Call[] = [];
  for (const { again, ...call } of calls) {
    const last = merged.at(-1);
    if (again && last !== undefined && last.nr === call.nr) merged[merged.length - 1] = { ...last, result: call.result };
    else merged.push(call);
  }
  return merged;
}

/** Frame numbers are a run's own: of a page-table entry only presence and flags are compared. */
function comparable(call: Call): string {
  const count = ARG_COUNT[call.nr] ?? 5;
  const args = call.args.slice(0, count).map((arg, index) => (call.nr === HYPERCALL.update_va_mapping && index === 1 ? arg & 0xfff : arg));
  return `${call.nr}(${args.map((arg) => arg.toString(16)).join(',')}) = ${call.result}`;
}

function realXen(): Call[] {
  const text = gunzipSync(readFileSync(join(import.meta.dirname, 'grub-i386-xen.txt.gz'))).toString();
  const calls = [...text.matchAll(/^HC32 .* nr=(\d+) args=(\S+) ret=(-?\d+)$/gm)].map((match) => {
    const args = (match[2] as string).split(',').map((arg) => parseInt(arg, 16));
    const batch = Number(match[1]) === HYPERCALL.mmuext_op || Number(match[1]) === HYPERCALL.mmu_update;
    return { nr: Number(match[1]), args, result: Number(match[3]), again: batch && (args[1] as number) >= PREEMPTED };
  });
  return withoutContinuations(calls);
}

const image = storedImage('grub-i386');
const inCi = process.env['CI'] === 'true';

describe('PV GRUB', () => {
  test('makes the hypercalls that real Xen saw, in that order, with those results', async ({ skip }) => {
    if (image === undefined && !inCi) skip('the image is not here: run `npx rexen fetch grub-i386`');
    const boot = await recordBoot('grub-i386', { change: (spec) => ({ ...spec, input: spec.input.slice(-1) }) });
    const recording = openRecording(bytesSource('grub', boot.bytes), { codec: zlibCodec(1) });
    const calls: (Call & { again: boolean })[] = [];
    for (const event of recording.events()) {
      if (event.kind !== EVENT.hypercall) continue;
      const [nr, result] = event.values as number[];
      // s64 arguments come as low and high halves after nr, result and end.
      const args = [0, 1, 2, 3, 4, 5].map((index) => (event.values[3 + index * 2] as number) >>> 0);
      const batch = nr === HYPERCALL.mmuext_op || nr === HYPERCALL.mmu_update;
      if (isTraced(nr as number)) calls.push({ nr: nr as number, args, result: result as number, again: batch && (args[1] as number) >= PREEMPTED });
    }
    const expected = realXen().map(comparable);
    expect(expected.length).toBeGreaterThan(80);
    expect(withoutContinuations(calls).slice(0, expected.length).map(comparable)).toEqual(expected);
  });
});
