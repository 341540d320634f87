// Where the transport header of a frame is, and its checksum. Frames come from guests: every length
// is checked against the frame before it is used, and what does not add up has no transport header.
// Sources: RFC 791, 1071, 8200; skb_checksum_setup() in Linux's net/core/skbuff.c.
import { ETHER, ETHERTYPE, IP_PROTOCOL, putU16, u16At } from './packet.ts';

export interface Transport {
  readonly version: 4 | 6;
  readonly protocol: number;
  readonly ipAt: number;
  /** The transport header; its packet ends at `end` (an Ethernet frame may be padded behind it). */
  readonly at: number;
  readonly end: number;
  /** One of several IP fragments: no checksum of its own. */
  readonly isFragment: boolean;
}

export const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
/** next header → how its length field counts (bytes = unit * (length + plus)). */
const IPV6_EXTENSIONS: Readonly<Record<number, { readonly unit: number; readonly plus: number }>> = {
  0: { unit: 8, plus: 1 }, // hop-by-hop options
  43: { unit: 8, plus: 1 }, // routing
  60: { unit: 8, plus: 1 }, // destination options
  51: { unit: 4, plus: 2 }, // authentication
};
const IPV6_FRAGMENT = 44;

/** undefined: no IP packet, or one whose lengths contradict each other or the frame. */
export function findTransport(frame: Uint8Array): Transport | undefined {
  if (frame.length < ETHER.headerBytes) return undefined;
  const tagged = u16At(frame, ETHER.typeAt) === ETHERTYPE.vlan && frame.length >= ETHER.headerBytes + ETHER.vlanBytes;
  const ipAt = ETHER.headerBytes + (tagged ? ETHER.vlanBytes : 0);
  const type = u16At(frame, ipAt - 2);
  if (type === ETHERTYPE.ipv4) return inIpv4(frame, ipAt);
  return type === ETHERTYPE.ipv6 ? inIpv6(frame, ipAt) : undefined;
}

function inIpv4(frame: Uint8Array, ipAt: number): Transport | undefined {
  if (frame.length < ipAt + IPV4_HEADER_BYTES) return undefined;
  const first = frame[ipAt] as number;
  const headerBytes = (first & 15) * 4;
  const total = u16At(frame, ipAt + 2);
  if (first >>> 4 !== 4 || headerBytes < IPV4_HEADER_BYTES || total < headerBytes || ipAt + total > frame.length) return undefined;
  return { version: 4, protocol: frame[ipAt + 9] as number, ipAt, at: ipAt + headerBytes, end: ipAt + total, isFragment: (u16At(frame, ipAt + 6) & 0x3fff) !== 0 };
}

function inIpv6(frame: Uint8Array, ipAt: number): Transport | undefined {
  if (frame.length < ipAt + IPV6_HEADER_BYTES || (frame[ipAt] as number) >>> 4 !== 6) return undefined;
  const end = ipAt + IPV6_HEADER_BYTES + u16At(frame, ipAt + 4);
  if (end > frame.length) return undefined;
  let at = ipAt + IPV6_HEADER_BYTES;
  let protocol = frame[ipAt + 6] as number;
  let isFragment = false;
  for (;;) {
    const extension = IPV6_EXTENSIONS[protocol];
    if (extension === undefined && protocol !== IPV6_FRAGMENT) return { version: 6, protocol, ipAt, at, end, isFragment };
    if (at + 8 > end) return undefined;
    if (protocol === IPV6_FRAGMENT && (u16At(frame, at + 2) & 0xfff9) !== 0) isFragment = true;
    protocol = frame[at] as number;
    at += extension === undefined ? 8 : ((frame[at + 1] as number) + extension.plus) * extension.unit;
    if (at > end) return undefined;
  }
}

/** Where in a TCP or UDP header the checksum is; undefined for other protocols or a header cut short. */
export function checksumAt({ protocol, at, end }: Transport): number | undefined {
  if (protocol === IP_PROTOCOL.tcp) return at + 20 <= end ? at + 16 : undefined;
  if (protocol === IP_PROTOCOL.udp) return at + 8 <= end ? at + 6 : undefined;
  return undefined;
}

// -- sums ------------------------------------------------------------------------------------------

/** Adds 16-bit words, a last odd byte as if a zero followed; not folded, below 2^53 for any frame. */
export function sumWords(bytes: Uint8Array, from: number, to: number, start = 0): number {
  let sum = start;
  let at = from;
  for (; at + 1 < to; at += 2) sum += ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  return at < to ? sum + ((bytes[at] as number) << 8) : sum;
}

/** Folds carries back in: 16 bits, not complemented. */
export function foldSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 0x1_0000) + Math.floor(folded / 0x1_0000);
  return folded;
}

/** The Internet checksum of these bytes. Over bytes with a right checksum in them: 0. */
export const internetChecksum = (bytes: Uint8Array, from = 0, to = bytes.length, start = 0): number => ~foldSum(sumWords(bytes, from, to, start)) & 0xffff;

/** Sum of the pseudo header, for a transport packet of this length. */
export function pseudoHeaderSum(frame: Uint8Array, { version, ipAt, protocol }: Transport, lengthBytes: number): number {
  const [from, to] = version === 4 ? [ipAt + 12, ipAt + 20] : [ipAt + 8, ipAt + 40];
  return sumWords(frame, from, to, protocol + (lengthBytes % 0x1_0000) + Math.floor(lengthBytes / 0x1_0000));
}

/** UDP has no checksum 0: that would say that there is none. */
const spelled = (protocol: number, sum: number): number => (sum === 0 && protocol === IP_PROTOCOL.udp ? 0xffff : sum);

/** Writes the checksum of a TCP or UDP packet, whatever its field held. The transport must have one. */
export function writeChecksum(frame: Uint8Array, transport: Transport, fieldAt: number): void {
  putU16(frame, fieldAt, 0);
  putU16(frame, fieldAt, spelled(transport.protocol, internetChecksum(frame, transport.at, transport.end, pseudoHeaderSum(frame, transport, transport.end - transport.at))));
}

/** Finishes a blank checksum: the field holds the pseudo header's sum, the rest is added. skb_checksum_help(). */
export function finishChecksum(frame: Uint8Array, transport: Transport, fieldAt: number): void {
  putU16(frame, fieldAt, spelled(transport.protocol, internetChecksum(frame, transport.at, transport.end)));
}

/** Whether a TCP or UDP packet's checksum is right; a UDP packet without one is. */
export function checksumHolds(frame: Uint8Array, transport: Transport, fieldAt: number): boolean {
  if (transport.protocol === IP_PROTOCOL.udp && u16At(frame, fieldAt) === 0 && transport.version === 4) return true;
  return internetChecksum(frame, transport.at, transport.end, pseudoHeaderSum(frame, transport, transport.end - transport.at)) === 0;
}

/** Writes the header checksum of an IPv4 header. */
export function writeIpv4HeaderChecksum(bytes: Uint8Array, ipAt: number): void {
  putU16(bytes, ipAt + 10, 0);
  putU16(bytes, ipAt + 10, internetChecksum(bytes, ipAt, ipAt + ((bytes[ipAt] as number) & 15) * 4));
}
