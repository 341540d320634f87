// Arbitrary events of every kind, and a run that makes them.
import fc from 'fast-check';
import { EVENT_ROWS, type EventRow } from '../../src/abi/events.ts';
import type { EventEncoder } from '../../src/log/event-encoder.ts';

export const RUNS = { seed: 20240607, numRuns: process.env['REXEN_DEPTH'] === 'long' ? 10_000 : 300 };
const rows: readonly EventRow[] = EVENT_ROWS;

export const anyU32 = fc.oneof(fc.constantFrom(0, 1, 0x7fffffff, 0x80000000, 0xffffffff), fc.nat(200), fc.integer({ min: 0, max: 0xffffffff }));
const anyUint = fc.oneof(anyU32, fc.maxSafeNat());
const anySint = fc.oneof(anyU32, anyU32.map((value) => 0 - value), fc.maxSafeInteger());
export const anyEvent = fc.constantFrom(...rows).chain((row) =>
  fc.record({
    kind: fc.constant(row.kind),
    domId: fc.nat(3),
    vcpuId: fc.nat(2),
    insns: fc.oneof(fc.constant(0), fc.nat(300), fc.nat()),
    waitNs: fc.oneof(fc.constant(0), fc.nat()),
    values: fc.tuple(...row.fields.map((field) => (field.type === 'uint' ? anyUint.map((value) => [value]) : field.type === 'sint' ? anySint.map((value) => [value + 0]) : fc.tuple(anyU32, anyU32)))).map((parts) => parts.flat()),
    bytes: row.bytes === undefined ? fc.constant(undefined) : fc.option(fc.uint8Array({ maxLength: 300 }), { nil: undefined }),
  }),
);
/** As an emitter takes them. */
export type Made = [kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined];
export type AnyEvent = typeof anyEvent extends fc.Arbitrary<infer T> ? T : never;

export function play(events: readonly AnyEvent[], emitter: { emit: EventEncoder['emit'] }): { index: number; retired: number; nowNs: number }[] {
  const retired = new Map<string, number>();
  let nowNs = 0;
  return events.map((event, index) => {
    const who = `${event.domId}.${event.vcpuId}`;
    const count = (retired.get(who) ?? 0) + event.insns;
    retired.set(who, count);
    nowNs += event.waitNs;
    emitter.emit(event.kind, event.domId, event.vcpuId, count, nowNs, event.values, event.bytes);
    return { index, retired: count, nowNs };
  });
}
