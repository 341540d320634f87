// TCP segments as bytes, and sequence numbers. Source: RFC 9293.
import { putU16, putU32, u16At, u32At } from './packet.ts';

export const TCP_FLAG = { fin: 0x01, syn: 0x02, rst: 0x04, psh: 0x08, ack: 0x10 } as const;
const AT = { source: 0, dest: 2, seq: 4, ack: 8, offset: 12, flags: 13, window: 14 } as const;
const HEADER_BYTES = 20;
const OPTION = { end: 0, nop: 1, mss: 2 } as const;

export interface Segment {
  readonly sourcePort: number;
  readonly destPort: number;
  readonly seq: number;
  readonly ack: number;
  readonly flags: number;
  readonly window: number;
  /** Of a SYN. */
  readonly mss?: number;
  readonly data: Uint8Array;
}

/** How far `b` is ahead of `a`, as a signed number: sequence numbers wrap. */
export const seqDistance = (a: number, b: number): number => (b - a) | 0;
export const seqAdd = (seq: number, count: number): number => (seq + count) >>> 0;

/** undefined: not a segment. */
export function parseSegment(bytes: Uint8Array): Segment | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const headerBytes = ((bytes[AT.offset] as number) >>> 4) * 4;
  if (headerBytes < HEADER_BYTES || headerBytes > bytes.length) return undefined;
  const mss = maximumSegment(bytes.subarray(HEADER_BYTES, headerBytes));
  return {
    sourcePort: u16At(bytes, AT.source), destPort: u16At(bytes, AT.dest), seq: u32At(bytes, AT.seq), ack: u32At(bytes, AT.ack), flags: (bytes[AT.flags] as number) & 0x3f,
    window: u16At(bytes, AT.window), data: bytes.subarray(headerBytes), ...(mss === undefined ? {} : { mss }),
  };
}

function maximumSegment(options: Uint8Array): number | undefined {
  for (let at = 0; at < options.length; ) {
    const kind = options[at] as number;
    if (kind === OPTION.end) return undefined;
    if (kind === OPTION.nop) {
      at++;
      continue;
    }
    const length = options[at + 1];
    if (length === undefined || length < 2 || at + length > options.length) return undefined;
    if (kind === OPTION.mss && length === 4) return u16At(options, at + 2);
    at += length;
  }
  return undefined;
}

/** Without its checksum: ipv4.ts fills it in. */
export function segmentBytes(segment: Segment): Uint8Array {
  const headerBytes = HEADER_BYTES + (segment.mss === undefined ? 0 : 4);
  const bytes = new Uint8Array(headerBytes + segment.data.length);
  putU16(bytes, AT.source, segment.sourcePort);
  putU16(bytes, AT.dest, segment.destPort);
  putU32(bytes, AT.seq, segment.seq);
  putU32(bytes, AT.ack, segment.ack);
  bytes[AT.offset] = (headerBytes / 4) << 4;
  bytes[AT.flags] = segment.flags;
  putU16(bytes, AT.window, segment.window);
  if (segment.mss !== undefined) bytes.set([OPTION.mss, 4, segment.mss >>> 8, segment.mss & 0xff], HEADER_BYTES);
  bytes.set(segment.data, headerBytes);
  return bytes;
}
