// ARP for IPv4 on Ethernet. Source: RFC 826.
import { ETHER, ETHERTYPE, ethernetFrame, macAt, putMac, putU16, putU32, u16At, u32At } from './packet.ts';

const AT = { hardware: 0, protocol: 2, hardwareBytes: 4, protocolBytes: 5, operation: 6, senderMac: 8, senderIp: 14, targetMac: 18, targetIp: 24, sizeBytes: 28 } as const;
const OPERATION = { request: 1, reply: 2 } as const;
const HARDWARE_ETHERNET = 1;

/** The answer to a frame that asks for `ownIp`, or undefined. */
export function arpReply(frame: Uint8Array, ownIp: number, ownMac: number): Uint8Array | undefined {
  const at = ETHER.headerBytes;
  if (frame.length < at + AT.sizeBytes) return undefined;
  const isArp = u16At(frame, at + AT.hardware) === HARDWARE_ETHERNET && u16At(frame, at + AT.protocol) === ETHERTYPE.ipv4 && frame[at + AT.hardwareBytes] === 6 && frame[at + AT.protocolBytes] === 4;
  const senderIp = u32At(frame, at + AT.senderIp);
  if (!isArp || u16At(frame, at + AT.operation) !== OPERATION.request || u32At(frame, at + AT.targetIp) !== ownIp || senderIp === ownIp) return undefined;
  const senderMac = macAt(frame, at + AT.senderMac);
  const body = new Uint8Array(AT.sizeBytes);
  putU16(body, AT.hardware, HARDWARE_ETHERNET);
  putU16(body, AT.protocol, ETHERTYPE.ipv4);
  body[AT.hardwareBytes] = 6;
  body[AT.protocolBytes] = 4;
  putU16(body, AT.operation, OPERATION.reply);
  putMac(body, AT.senderMac, ownMac);
  putU32(body, AT.senderIp, ownIp);
  putMac(body, AT.targetMac, senderMac);
  putU32(body, AT.targetIp, senderIp);
  return ethernetFrame(macAt(frame, ETHER.sourceAt), ownMac, ETHERTYPE.arp, body);
}
