// As much of a network as a guest needs to be found and to talk: ARP, IPv4 without fragments, ICMP echo, UDP with
// an echo service. Frames in, frames out; no machine, no time. What does not concern us or is damaged
// vanishes without an answer.
// Sources: RFC 826, 791, 792, 768, 862.

import { crc32c } from '../../base/crc.ts';

const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806 } as const;
const PROTOCOL = { icmp: 1, udp: 17 } as const;
const ARP = { request: 1, reply: 2 } as const;
const ICMP = { echoReply: 0, echo: 8 } as const;
const ETHERNET_BYTES = 14;
const IPV4_BYTES = 20;
const UDP_BYTES = 8;
const ARP_BYTES = 28;
const LEAST_FRAME = 60;
const TTL = 64;
const BROADCAST = 'ff:ff:ff:ff:ff:ff';
export const ECHO_PORT = 7;

export interface Datagram {
  readonly from: string;
  readonly fromPort: number;
  readonly toPort: number;
  readonly data: Uint8Array;
}

const bytesOf = (text: string, separator: string, radix: number): number[] => text.split(separator).map((part) => Number.parseInt(part, radix));
const macBytes = (mac: string): number[] => bytesOf(mac, ':', 16);
const ipBytes = (ip: string): number[] => bytesOf(ip, '.', 10);
const macText = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
const ipText = (bytes: Uint8Array): string => bytes.join('.');
const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The internet checksum; over bytes that contain a right one it is 0. */
export function internetChecksum(bytes: Uint8Array, start = 0): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
/** Sum of the addresses, protocol and length that UDP counts in. */
function pseudoSum(from: Uint8Array, to: Uint8Array, protocol: number, sizeBytes: number): number {
  const word = (bytes: Uint8Array, at: number): number => ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  return word(from, 0) + word(from, 2) + word(to, 0) + word(to, 2) + protocol + sizeBytes;
}

export class NetStack {
  readonly mac: string;
  readonly ip: string;
  readonly #neighbours = new Map<string, string>();
  /** Frames that wait to be sent. */
  readonly out: Uint8Array[] = [];
  /** Echo replies that came, as `address identifier sequence`. */
  readonly echoes = new Set<string>();
  /** Datagrams that came for ports without a service. */
  readonly datagrams: Datagram[] = [];
  /** Echo requests that were answered. */
  answered = 0;
  /** A checksum of every frame that came, in order: for who compares it with what was delivered. */
  readonly framesSeen: number[] = [];
  #nextPacketId = 1;

  constructor(mac: string, ip: string) {
    this.mac = mac;
    this.ip = ip;
  }

  // -- what comes -----------------------------------------------------------------------------------

  frame(frame: Uint8Array): void {
    this.framesSeen.push(crc32c(frame));
    if (frame.length < ETHERNET_BYTES) return;
    const to = macText(frame.subarray(0, 6));
    if (to !== this.mac && to !== BROADCAST) return;
    const payload = frame.subarray(ETHERNET_BYTES);
    const type = viewOf(frame).getUint16(12);
    if (type === ETHERTYPE.arp) this.#arp(payload);
    else if (type === ETHERTYPE.ipv4) this.#ipv4(payload, macText(frame.subarray(6, 12)));
  }

  #arp(packet: Uint8Array): void {
    if (packet.length < ARP_BYTES) return;
    const view = viewOf(packet);
    if (view.getUint16(0) !== 1 || view.getUint16(2) !== ETHERTYPE.ipv4 || view.getUint16(4) !== 0x0604) return;
    const mac = macText(packet.subarray(8, 14));
    const ip = ipText(packet.subarray(14, 18));
    if (ipText(packet.subarray(24, 28)) !== this.ip) return;
    this.#neighbours.set(ip, mac);
    if (view.getUint16(6) === ARP.request) this.#sendArp(ARP.reply, mac, ip);
  }

  #ipv4(packet: Uint8Array, fromMac: string): void {
    if (packet.length < IPV4_BYTES || packet[0] !== 0x45 || internetChecksum(packet.subarray(0, IPV4_BYTES)) !== 0) return;
    const view = viewOf(packet);
    const length = view.getUint16(2);
    const isFragment = (view.getUint16(6) & 0x3fff) !== 0;
    if (length < IPV4_BYTES || length > packet.length || isFragment || ipText(packet.subarray(16, 20)) !== this.ip) return;
    const payload = packet.subarray(IPV4_BYTES, length);
    const from = ipText(packet.subarray(12, 16));
    if (packet[9] === PROTOCOL.icmp) this.#icmp(payload, from, fromMac);
    else if (packet[9] === PROTOCOL.udp) this.#udp(payload, packet, from, fromMac);
  }

  #icmp(message: Uint8Array, from: string, fromMac: string): void {
    if (message.length < 8 || internetChecksum(message) !== 0) return;
    const view = viewOf(message);
    if (message[0] === ICMP.echoReply) this.echoes.add(`${from} ${view.getUint16(4)} ${view.getUint16(6)}`);
    else if (message[0] === ICMP.echo) {
      this.answered++;
      const reply = message.slice();
      reply[0] = ICMP.echoReply;
      this.#sendIpv4(from, fromMac, PROTOCOL.icmp, withChecksum(reply, 2, 0));
    }
  }

  #udp(message: Uint8Array, packet: Uint8Array, from: string, fromMac: string): void {
    if (message.length < UDP_BYTES) return;
    const view = viewOf(message);
    const length = view.getUint16(4);
    if (length < UDP_BYTES || length > message.length) return;
    const sum = pseudoSum(packet.subarray(12, 16), packet.subarray(16, 20), PROTOCOL.udp, length);
    if (view.getUint16(6) !== 0 && internetChecksum(message.subarray(0, length), sum) !== 0) return;
    const datagram: Datagram = { from, fromPort: view.getUint16(0), toPort: view.getUint16(2), data: message.slice(UDP_BYTES, length) };
    if (datagram.toPort === ECHO_PORT) this.#sendUdp(from, fromMac, ECHO_PORT, datagram.fromPort, datagram.data);
    else this.datagrams.push(datagram);
  }

  // -- what goes ------------------------------------------------------------------------------------

  knows(ip: string): boolean {
    return this.#neighbours.has(ip);
  }
  askFor(ip: string): void {
    this.#sendArp(ARP.request, BROADCAST, ip);
  }
  /** Its neighbour is known. */
  ping(ip: string, identifier: number, sequence: number): void {
    const message = new Uint8Array(8 + 56).fill(0x5a);
    const view = viewOf(message);
    view.setUint16(0, ICMP.echo << 8);
    view.setUint16(4, identifier);
    view.setUint16(6, sequence);
    this.#sendIpv4(ip, this.#neighbours.get(ip) as string, PROTOCOL.icmp, withChecksum(message, 2, 0));
  }
  send(ip: string, fromPort: number, toPort: number, data: Uint8Array): void {
    this.#sendUdp(ip, this.#neighbours.get(ip) as string, fromPort, toPort, data);
  }

  #sendUdp(ip: string, mac: string, fromPort: number, toPort: number, data: Uint8Array): void {
    const message = new Uint8Array(UDP_BYTES + data.length);
    const view = viewOf(message);
    view.setUint16(0, fromPort);
    view.setUint16(2, toPort);
    view.setUint16(4, message.length);
    message.set(data, UDP_BYTES);
    const sum = pseudoSum(Uint8Array.from(ipBytes(this.ip)), Uint8Array.from(ipBytes(ip)), PROTOCOL.udp, message.length);
    this.#sendIpv4(ip, mac, PROTOCOL.udp, withChecksum(message, 6, sum));
  }

  #sendIpv4(ip: string, mac: string, protocol: number, payload: Uint8Array): void {
    const packet = new Uint8Array(IPV4_BYTES + payload.length);
    const view = viewOf(packet);
    packet[0] = 0x45;
    view.setUint16(2, packet.length);
    view.setUint16(4, this.#nextPacketId++ & 0xffff);
    view.setUint16(6, 0x4000);
    packet[8] = TTL;
    packet[9] = protocol;
    packet.set(ipBytes(this.ip), 12);
    packet.set(ipBytes(ip), 16);
    packet.set(payload, IPV4_BYTES);
    view.setUint16(10, internetChecksum(packet.subarray(0, IPV4_BYTES)));
    this.#sendFrame(mac, ETHERTYPE.ipv4, packet);
  }

  #sendArp(operation: number, mac: string, ip: string): void {
    const packet = new Uint8Array(ARP_BYTES);
    const view = viewOf(packet);
    view.setUint16(0, 1);
    view.setUint16(2, ETHERTYPE.ipv4);
    view.setUint16(4, 0x0604);
    view.setUint16(6, operation);
    packet.set(macBytes(this.mac), 8);
    packet.set(ipBytes(this.ip), 14);
    if (operation === ARP.reply) packet.set(macBytes(mac), 18);
    packet.set(ipBytes(ip), 24);
    this.#sendFrame(mac, ETHERTYPE.arp, packet);
  }

  #sendFrame(mac: string, type: number, payload: Uint8Array): void {
    const frame = new Uint8Array(Math.max(LEAST_FRAME, ETHERNET_BYTES + payload.length));
    frame.set(macBytes(mac), 0);
    frame.set(macBytes(this.mac), 6);
    viewOf(frame).setUint16(12, type);
    frame.set(payload, ETHERNET_BYTES);
    this.out.push(frame);
  }
}

/** The message with its checksum at `at`, which held zero or the old one. UDP's zero means "none": it is sent as all ones. */
function withChecksum(message: Uint8Array, at: number, sum: number): Uint8Array {
  const view = viewOf(message);
  view.setUint16(at, 0);
  view.setUint16(at, internetChecksum(message, sum) || (sum === 0 ? 0 : 0xffff));
  return message;
}
