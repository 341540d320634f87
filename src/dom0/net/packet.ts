// What travels on a simulated wire: an Ethernet frame without its checksum, and what the sender left
// for somebody else to do, as Linux's socket buffers say it (ip_summed, gso_size).
//
//   blank      the TCP or UDP checksum field holds the sum of the pseudo header only (CHECKSUM_PARTIAL)
//   validated  the checksum is right, somebody looked (CHECKSUM_UNNECESSARY)
//   none       nobody looked: the receiver must
//
// A packet with a gso is one large TCP segment that stands for several: fit() in offload.ts cuts it.

import { bytesToText, textToBytes } from '../../base/byte-text.ts';

export type ChecksumState = 'none' | 'blank' | 'validated';
export type GsoType = 'tcpv4' | 'tcpv6';
export interface Packet {
  /** Never changed once the packet has been sent: several receivers share it. */
  readonly bytes: Uint8Array;
  readonly checksum: ChecksumState;
  /** `size`: payload bytes of each segment. */
  readonly gso?: { readonly type: GsoType; readonly size: number };
}

export const ETHER = { destAt: 0, sourceAt: 6, typeAt: 12, headerBytes: 14, macBytes: 6, vlanBytes: 4 } as const;
export const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd } as const;
export const IP_PROTOCOL = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58 } as const;
/** Payload of an Ethernet frame. */
export const MTU_BYTES = 1500;

export const u16At = (bytes: Uint8Array, at: number): number => ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
export const u32At = (bytes: Uint8Array, at: number): number => u16At(bytes, at) * 0x1_0000 + u16At(bytes, at + 2);
export function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  putU16(bytes, at, value >>> 16);
  putU16(bytes, at + 2, value & 0xffff);
}

// -- addresses -------------------------------------------------------------------------------------

/** 48 bits as a number: exact, and a key. */
export const macAt = (bytes: Uint8Array, at: number): number => u16At(bytes, at) * 0x1_0000_0000 + u32At(bytes, at + 2);
export function putMac(bytes: Uint8Array, at: number, mac: number): void {
  putU16(bytes, at, Math.floor(mac / 0x1_0000_0000));
  putU32(bytes, at + 2, mac % 0x1_0000_0000);
}
export const MAC_BROADCAST = 0xffff_ffff_ffff;
/** Multicast or broadcast: the lowest bit of the first byte. */
export const isGroupMac = (mac: number): boolean => (Math.floor(mac / 0x100_0000_0000) & 1) === 1;

export const macText = (mac: number): string => (mac.toString(16).padStart(12, '0').match(/../g) as string[]).join(':');
/** 00:16:3e:01:02:03 → the number; undefined if it is no such text. */
export function parseMac(text: string): number | undefined {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) ? Number.parseInt(text.replaceAll(':', ''), 16) : undefined;
}

export const ipv4Text = (ip: number): string => [24, 16, 8, 0].map((shift) => (ip >>> shift) & 0xff).join('.');
/** 10.0.0.1 → the number; undefined if it is no such text. */
export function parseIpv4(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255)) return undefined;
  return parts.reduce((ip, part) => ip * 256 + Number(part), 0);
}
export const IPV4_BROADCAST = 0xffff_ffff;

// -- frames ----------------------------------------------------------------------------------------

/** An Ethernet frame around a payload. */
export function ethernetFrame(dest: number, source: number, type: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(ETHER.headerBytes + payload.length);
  putMac(bytes, ETHER.destAt, dest);
  putMac(bytes, ETHER.sourceAt, source);
  putU16(bytes, ETHER.typeAt, type);
  bytes.set(payload, ETHER.headerBytes);
  return bytes;
}

// -- saved form ------------------------------------------------------------------------------------

export type SavedPacket = Omit<Packet, 'bytes'> & { readonly bytes: string };
export const savePacket = (packet: Packet): SavedPacket => ({ ...packet, bytes: bytesToText(packet.bytes) });
export const restorePacket = (saved: SavedPacket): Packet => ({ ...saved, bytes: textToBytes(saved.bytes) });
