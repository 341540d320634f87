// Frames that a guest with offloads hands over, for tests.
import { ETHERTYPE, ethernetFrame, putU16, putU32 } from '../../../src/dom0/net/packet.ts';
import { findTransport, foldSum, pseudoHeaderSum, writeIpv4HeaderChecksum } from '../../../src/dom0/net/transport.ts';
import { noise } from './lan.ts';

export interface TcpShape {
  readonly version: 4 | 6;
  readonly tcpOptionWords: number;
  readonly payload: number;
  readonly flags: number;
  readonly seq: number;
  readonly dest?: number;
  readonly source?: number;
}

/** A TCP packet with a blank checksum. */
export function tcpPacket({ version, tcpOptionWords, payload, flags, seq, dest = 2, source = 4 }: TcpShape): Uint8Array {
  const ipBytes = version === 4 ? 20 : 40;
  const tcpBytes = 20 + tcpOptionWords * 4;
  const ipPart = noise(ipBytes + tcpBytes + payload, seq);
  if (version === 4) {
    ipPart[0] = 0x45;
    putU16(ipPart, 2, ipPart.length);
    putU16(ipPart, 6, 0x4000);
    ipPart[9] = 6;
    writeIpv4HeaderChecksum(ipPart, 0);
  } else {
    ipPart[0] = 0x60;
    putU16(ipPart, 4, ipPart.length - 40);
    ipPart[6] = 6;
  }
  putU32(ipPart, ipBytes + 4, seq);
  ipPart[ipBytes + 12] = (tcpBytes / 4) << 4;
  ipPart[ipBytes + 13] = flags;
  const frame = ethernetFrame(dest, source, version === 4 ? ETHERTYPE.ipv4 : ETHERTYPE.ipv6, ipPart);
  const transport = findTransport(frame);
  if (transport === undefined) throw new Error('no transport');
  putU16(frame, transport.at + 16, foldSum(pseudoHeaderSum(frame, transport, transport.end - transport.at)));
  return frame;
}
