// What a receiver cannot take is done for it: large TCP segments are cut, blank checksums finished.
// The sender's request is checked first, as netback does with what a guest asks for.
// Sources: drivers/net/xen-netback/netback.c (checksum_setup), net/ipv4/tcp_offload.c (tcp_gso_segment).
import { ETHER, IP_PROTOCOL, MTU_BYTES, putU16, putU32, u16At, u32At, type Packet } from './packet.ts';
import { checksumAt, finishChecksum, findTransport, foldSum, pseudoHeaderSum, writeChecksum, writeIpv4HeaderChecksum, type Transport } from './transport.ts';

/** What an interface takes as it is. */
export interface Offloads {
  readonly blankIpv4: boolean;
  readonly blankIpv6: boolean;
  readonly gsoTcpv4: boolean;
  readonly gsoTcpv6: boolean;
}
export const NO_OFFLOADS: Offloads = { blankIpv4: false, blankIpv6: false, gsoTcpv4: false, gsoTcpv6: false };

const TCP_FLAGS_AT = 13;
const TCP_FLAG = { fin: 0x01, psh: 0x08, cwr: 0x80 } as const;
/** A frame that an interface of this MTU takes: is_skb_forwardable() leaves room for a VLAN tag. */
const LONGEST_FRAME = MTU_BYTES + ETHER.headerBytes + ETHER.vlanBytes;

/** What a sender hands over, or why it cannot be done. A GSO packet must have a blank checksum: it is made so. */
export function checkPacket(packet: Packet): Packet | string {
  if (packet.checksum !== 'blank' && packet.gso === undefined) return packet;
  const transport = findTransport(packet.bytes);
  const fieldAt = transport === undefined || transport.isFragment ? undefined : checksumAt(transport);
  if (transport === undefined || fieldAt === undefined) return 'a checksum is asked for where no TCP or UDP header is';
  if (packet.gso === undefined) return packet;
  const { gso } = packet;
  if (transport.protocol !== IP_PROTOCOL.tcp || transport.version !== (gso.type === 'tcpv4' ? 4 : 6) || payloadAt(packet.bytes, transport) === undefined) return `segmentation (${gso.type}) is asked for where no such TCP header is`;
  if (packet.checksum === 'blank') return packet;
  const bytes = packet.bytes.slice();
  putU16(bytes, fieldAt, foldSum(pseudoHeaderSum(bytes, transport, transport.end - transport.at)));
  return { bytes, checksum: 'blank', gso };
}

function payloadAt(bytes: Uint8Array, { at, end }: Transport): number | undefined {
  const payload = at + ((bytes[at + 12] as number) >>> 4) * 4;
  return payload >= at + 20 && payload <= end ? payload : undefined;
}

/** The packets that a receiver gets for one that passed checkPacket(); none if it is too long for the interface. */
export function fit(packet: Packet, offloads: Offloads): Packet[] {
  const { gso } = packet;
  if (gso !== undefined) return (gso.type === 'tcpv4' ? offloads.gsoTcpv4 : offloads.gsoTcpv6) ? [packet] : segments(packet.bytes, gso.size);
  if (packet.bytes.length > LONGEST_FRAME) return [];
  if (packet.checksum !== 'blank') return [packet];
  const transport = findTransport(packet.bytes);
  const fieldAt = transport === undefined ? undefined : checksumAt(transport);
  if (transport === undefined || fieldAt === undefined) return [];
  if (transport.version === 4 ? offloads.blankIpv4 : offloads.blankIpv6) return [packet];
  const bytes = packet.bytes.slice();
  finishChecksum(bytes, transport, fieldAt);
  return [{ bytes, checksum: 'none' }];
}

/** Cuts a TCP packet into segments of `size` payload bytes, each whole and with all checksums. */
function segments(bytes: Uint8Array, size: number): Packet[] {
  const transport = findTransport(bytes);
  const payload = transport === undefined ? undefined : payloadAt(bytes, transport);
  if (transport === undefined || payload === undefined || payload + size > LONGEST_FRAME) return [];
  const cut: Packet[] = [];
  for (let from = payload; from < transport.end || from === payload; from += size) {
    const to = Math.min(from + size, transport.end);
    cut.push({ bytes: segment(bytes, transport, payload, from, to, cut.length), checksum: 'none' });
  }
  return cut;
}

function segment(bytes: Uint8Array, transport: Transport, payload: number, from: number, to: number, index: number): Uint8Array {
  const { ipAt, at, version } = transport;
  const part = new Uint8Array(payload + to - from);
  part.set(bytes.subarray(0, payload));
  part.set(bytes.subarray(from, to), payload);
  const end = part.length;
  if (version === 4) {
    putU16(part, ipAt + 2, end - ipAt);
    putU16(part, ipAt + 4, (u16At(bytes, ipAt + 4) + index) & 0xffff);
    writeIpv4HeaderChecksum(part, ipAt);
  } else putU16(part, ipAt + 4, end - ipAt - 40);
  putU32(part, at + 4, (u32At(bytes, at + 4) + from - payload) >>> 0);
  let flags = bytes[at + TCP_FLAGS_AT] as number;
  if (to < transport.end) flags &= ~(TCP_FLAG.fin | TCP_FLAG.psh);
  if (index > 0) flags &= ~TCP_FLAG.cwr;
  part[at + TCP_FLAGS_AT] = flags;
  writeChecksum(part, { ...transport, end }, at + 16);
  return part;
}

/** Finishes what was left open, for a reader outside the world: one frame, however large, with its checksum. */
export function completed(packet: Packet): Uint8Array {
  const transport = packet.checksum === 'blank' ? findTransport(packet.bytes) : undefined;
  const fieldAt = transport === undefined ? undefined : checksumAt(transport);
  if (transport === undefined || fieldAt === undefined) return packet.bytes;
  const bytes = packet.bytes.slice();
  finishChecksum(bytes, transport, fieldAt);
  return bytes;
}
