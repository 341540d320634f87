// An operation of the model guest as a host sees it that carries it out: by what it does to memory or to
// control registers. Undefined: no operation of that kind.
import { OP, type Operation } from '../../guest/operations.ts';
import type { Pending } from '../../shadow/guest-processor.ts';

const PAGE_BYTES = 4096;

function words(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, index) => view.setUint32(index * 4, value >>> 0, true));
  return bytes;
}

type Reading = (op: Operation) => Pending;
const store = (bytesOf: (op: Operation) => Uint8Array): Reading => (op) => ({ kind: 'store', vaddr: op.a >>> 0, bytes: bytesOf(op) });
const combine = (how: 'or' | 'and' | 'exchange'): Reading => (op) => ({ kind: 'combine', how, vaddr: op.a >>> 0, value: op.b });
const readCr = (number: 0 | 2 | 3 | 4): Reading => () => ({ kind: 'readCr', number });
const writeCr = (number: 0 | 2 | 3 | 4): Reading => (op) => ({ kind: 'writeCr', number, value: op.b >>> 0 });

const READINGS: ReadonlyMap<number, Reading> = new Map<number, Reading>([
  [OP.store8, store((op) => Uint8Array.of(op.b & 0xff))],
  [OP.store32, store((op) => words(op.b))],
  [OP.store64, store((op) => words(op.b, op.c))],
  [OP.zeroPage, store(() => new Uint8Array(PAGE_BYTES))],
  [OP.writeBytes, store((op) => (op.bytes as Uint8Array).slice())],
  [OP.writeWords, store((op) => words(...(op.words as Uint32Array).subarray(0, op.b)))],
  [OP.copyPage, (op) => ({ kind: 'copy', vaddr: op.a >>> 0, fromVaddr: op.b >>> 0, sizeBytes: PAGE_BYTES })],
  [OP.or32, combine('or')], [OP.and32, combine('and')], [OP.exchange32, combine('exchange')],
  [OP.readCr0, readCr(0)], [OP.readCr3, readCr(3)], [OP.readCr4, readCr(4)],
  [OP.writeCr0, writeCr(0)], [OP.writeCr2, writeCr(2)], [OP.writeCr3, writeCr(3)], [OP.writeCr4, writeCr(4)],
  [OP.invlpg, (op) => ({ kind: 'invlpg', vaddr: op.a >>> 0 })],
]);

/** What a host with shadow tables has to see: everything about control registers but the reading of CR2. */
export const HOST_TRAPS: ReadonlySet<number> = new Set([OP.readCr0, OP.readCr3, OP.readCr4, OP.writeCr0, OP.writeCr2, OP.writeCr3, OP.writeCr4, OP.invlpg]);

export const pendingOf = (op: Operation): Pending | undefined => READINGS.get(op.kind)?.(op);
