// Events for people: one line each, hypercalls with the names of their arguments, results as errno
// names, numbers in the base that one thinks in.
//
//   118:d1v0:4021 hypercall event_channel_op(send, arg=0xc040bef0) = 0
import { HYPERCALL_END, eventRow, hypercallName, type EventField, type EventRow } from '../abi/events.ts';
import { rcText } from '../abi/errno.ts';
import { HYPERCALL_SIGNATURES } from '../abi/hypercall-signatures.ts';
import type { HypercallName } from '../abi/hypercall-numbers.ts';
import { assert } from '../base/assert.ts';
import { bytesToHex } from '../base/hash.ts';
import type { DecodedEvent } from './event-decoder.ts';
import { positionText, type PositionedEvent } from './reader.ts';

/** What the events alone do not say. */
export interface TextContext {
  /** Of nameDefined events: number to name. */
  readonly names: ReadonlyMap<number, string>;
  /** Levels of page tables by domain: 2 i386, 3 i386 PAE, 4 64-bit; tells how arguments are split. */
  readonly levels: ReadonlyMap<number, number>;
  /** Of domains' kernels: what is at an address of theirs. */
  readonly symbols?: ReadonlyMap<number, Names> | undefined;
}
export interface Names {
  at(vaddr: number): string | undefined;
}
export const NO_CONTEXT: TextContext = { names: new Map(), levels: new Map() };

const MAX_SHOWN_BYTES = 64;

export const hexText = (value: bigint): string => (value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`);

/** Bytes as a JSON string, Latin-1, with control characters escaped. */
export function bytesText(bytes: Uint8Array, show: 'text' | 'hex', limit = Infinity): string {
  const shown = bytes.length > limit ? bytes.subarray(0, limit) : bytes;
  const rest = bytes.length > limit ? `... (${bytes.length} bytes)` : '';
  return show === 'hex' ? `${bytesToHex(shown)}${rest}` : `${JSON.stringify(Array.from(shown, (byte) => String.fromCharCode(byte)).join(''))}${rest}`;
}

/** The field's value as the guest's 64 bits: unsigned. */
const word = (lo: number, hi: number): bigint => (BigInt(hi) << 32n) | BigInt(lo);

function fieldText(field: EventField, lo: number, hi: number, { names, symbols }: TextContext, domId: number): string {
  if (field.type === 'u64' || field.type === 's64') return hexText(word(lo, hi));
  const show = field.show ?? 'dec';
  if (typeof show === 'object') return show.of[lo] ?? String(lo);
  switch (show) {
    case 'hex':
      return hexText(BigInt(lo));
    case 'vaddr': {
      const name = symbols?.get(domId)?.at(lo);
      return `${hexText(lo < 0 ? BigInt.asUintN(64, BigInt(lo)) : BigInt(lo))}${name === undefined ? '' : ` <${name}>`}`;
    }
    case 'rc':
      return rcText(lo);
    case 'hypercall':
      return hypercallName(lo);
    case 'name':
      return names.get(lo) ?? String(lo);
    default:
      return String(lo);
  }
}

export interface HypercallView {
  readonly name: string;
  /** By name where the hypercall is known, a0.. where not; as the guest's unsigned words, in hex; commands by name. */
  readonly args: Readonly<Record<string, string>>;
  /** A number, -ENAME, or how else it ended. */
  readonly result: string;
}

/** Reads a hypercall or multicallEntry event. */
export function hypercallView(event: DecodedEvent, context: TextContext): HypercallView {
  const row = eventRow(event.kind);
  assert(row?.name === 'hypercall' || row?.name === 'multicallEntry', `event kind ${event.kind} is no hypercall`);
  const [nr, rc, end, ...halves] = (row.name === 'hypercall' ? event.values : event.values.slice(1)) as [number, number, number, ...number[]];
  const words = Array.from({ length: halves.length / 2 }, (_, index) => word(halves[index * 2] as number, halves[index * 2 + 1] as number));
  const name = hypercallName(nr);
  const signature = HYPERCALL_SIGNATURES[name as HypercallName];
  const levels = context.levels.get(event.domId) ?? 4;
  const known = signature === undefined ? undefined : levels === 4 ? signature.args : levels === 3 ? (signature.i386pae ?? signature.i386 ?? signature.args) : (signature.i386 ?? signature.args);
  const args: Record<string, string> = {};
  words.forEach((value, index) => {
    const argName = known?.[index];
    if (argName === undefined) {
      if (value !== 0n) args[`a${index}`] = hexText(value);
    } else args[argName] = (index === 0 ? signature?.commands?.[Number(value)] : undefined) ?? hexText(value);
  });
  const ended = HYPERCALL_END[end];
  return { name, args, result: ended === 'done' || ended === undefined ? rcText(rc) : ended };
}

/** What happened, without the position. */
export function eventText(event: DecodedEvent, context: TextContext = NO_CONTEXT): string {
  const row = eventRow(event.kind);
  assert(row !== undefined, `event kind ${event.kind} has no row`);
  if (row.name === 'hypercall' || row.name === 'multicallEntry') {
    const view = hypercallView(event, context);
    const args = Object.entries(view.args).map(([name, value]) => (name === 'cmd' && !value.startsWith('0x') ? value : `${name}=${value}`));
    const index = row.name === 'multicallEntry' ? `[${event.values[0]}]` : '';
    return `${row.name}${index} ${view.name}(${args.join(', ')}) = ${view.result}`;
  }
  return [row.name, ...fieldTexts(row, event, context)].join(' ');
}

function fieldTexts(row: EventRow, event: DecodedEvent, context: TextContext): string[] {
  const texts: string[] = [];
  let value = 0;
  for (const field of row.fields) {
    const lo = event.values[value++] as number;
    const hi = field.type === 'u64' || field.type === 's64' ? (event.values[value++] as number) : 0;
    texts.push(`${field.name}=${fieldText(field, lo, hi, context, event.domId)}`);
  }
  if (row.bytes !== undefined && event.bytes !== undefined) texts.push(`${row.bytes.name}=${bytesText(event.bytes, row.bytes.show, row.bytes.show === 'hex' ? MAX_SHOWN_BYTES : 1024)}`);
  return texts;
}

/** `118:d1v0:4021 evtchnSend port=3 ...`. */
export const eventLine = (event: PositionedEvent, context: TextContext = NO_CONTEXT): string => `${positionText(event)} ${eventText(event, context)}`;
