// A name server that knows the hosts of one network, and says NXDOMAIN for the rest of the world.
// Source: RFC 1035. Not here: recursion, TCP, anything but addresses and their names.
import { bytesToText } from '../../base/byte-text.ts';
import { parseIpv4, putU16, putU32, u16At } from './packet.ts';

export const DNS_PORT = 53;
const HEADER_BYTES = 12;
const FLAG = { response: 0x8000, authoritative: 0x0400, recursionDesired: 0x0100, opcode: 0x7800 } as const;
const RCODE = { ok: 0, formatError: 1, nameError: 3, notImplemented: 4 } as const;
const TYPE = { a: 1, ptr: 12, any: 255 } as const;
const CLASS_IN = 1;
const TTL_SEC = 60;

export interface Names {
  addressOf(name: string): number | undefined;
  nameOf(ip: number): string | undefined;
}

/** The answer to a query, or undefined if it is no query at all. */
export function dnsReply(query: Uint8Array, names: Names): Uint8Array | undefined {
  if (query.length < HEADER_BYTES || (u16At(query, 2) & FLAG.response) !== 0) return undefined;
  const asked = question(query);
  if ((u16At(query, 2) & FLAG.opcode) !== 0) return answer(query, asked?.end, RCODE.notImplemented, []);
  if (asked === undefined || u16At(query, 4) !== 1) return answer(query, undefined, RCODE.formatError, []);
  const { name, type, end } = asked;
  const pointer = /^([0-9.]+)\.in-addr\.arpa$/.exec(name)?.[1];
  if (pointer !== undefined) {
    const ip = parseIpv4(pointer.split('.').reverse().join('.'));
    const found = ip === undefined ? undefined : names.nameOf(ip);
    if (found === undefined) return answer(query, end, RCODE.nameError, []);
    return answer(query, end, RCODE.ok, type === TYPE.ptr || type === TYPE.any ? [record(TYPE.ptr, labels(found))] : []);
  }
  const ip = names.addressOf(name);
  if (ip === undefined) return answer(query, end, RCODE.nameError, []);
  const data = new Uint8Array(4);
  putU32(data, 0, ip);
  return answer(query, end, RCODE.ok, type === TYPE.a || type === TYPE.any ? [record(TYPE.a, data)] : []);
}

function question(query: Uint8Array): { name: string; type: number; end: number } | undefined {
  const parts: string[] = [];
  let at = HEADER_BYTES;
  for (;;) {
    const length = query[at];
    // A name in a question is not compressed.
    if (length === undefined || length > 63 || at + 1 + length > query.length || parts.length > 32) return undefined;
    at += 1 + length;
    if (length === 0) break;
    parts.push(bytesToText(query.subarray(at - length, at)).toLowerCase());
  }
  if (at + 4 > query.length || u16At(query, at + 2) !== CLASS_IN) return undefined;
  return { name: parts.join('.'), type: u16At(query, at), end: at + 4 };
}

const labels = (name: string): Uint8Array => Uint8Array.from([...name.split('.').flatMap((part) => [part.length, ...Array.from(part, (char) => char.charCodeAt(0))]), 0]);

/** A record of the name that was asked for (a pointer to offset 12). */
function record(type: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(12 + data.length);
  putU16(bytes, 0, 0xc000 | HEADER_BYTES);
  putU16(bytes, 2, type);
  putU16(bytes, 4, CLASS_IN);
  putU32(bytes, 6, TTL_SEC);
  putU16(bytes, 10, data.length);
  bytes.set(data, 12);
  return bytes;
}

function answer(query: Uint8Array, questionEnd: number | undefined, rcode: number, records: readonly Uint8Array[]): Uint8Array {
  const head = query.slice(0, questionEnd ?? HEADER_BYTES);
  putU16(head, 2, FLAG.response | FLAG.authoritative | (u16At(query, 2) & (FLAG.recursionDesired | FLAG.opcode)) | rcode);
  putU16(head, 4, questionEnd === undefined ? 0 : 1);
  putU16(head, 6, records.length);
  putU16(head, 8, 0);
  putU16(head, 10, 0);
  const bytes = new Uint8Array(head.length + records.reduce((sum, row) => sum + row.length, 0));
  bytes.set(head);
  let at = head.length;
  for (const row of records) {
    bytes.set(row, at);
    at += row.length;
  }
  return bytes;
}
