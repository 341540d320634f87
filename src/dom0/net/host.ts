// A host on a switch that is no guest: the gateway, or a second machine to talk to. It answers ARP,
// pings, UDP echo, names and DHCP as configured, and TCP services on their ports.
//
// It never speaks first, and never answers an answer (resets, ICMP errors, replies from echo ports):
// two hosts cannot be made to talk to each other for ever by a guest that forges a sender.
// Not here: IPv6, routing (what is not for this host is told that there is no way), ARP requests (an
// answer goes to where the question came from).
import { arpReply } from './arp.ts';
import { DHCP_PORT, DhcpServer, type DhcpConfig } from './dhcp.ts';
import { DNS_PORT, dnsReply, type Names } from './dns.ts';
import { datagramFrames, Ipv4Receiver, type Datagram } from './ipv4.ts';
import { ETHER, ETHERTYPE, IPV4_BROADCAST, IP_PROTOCOL, isGroupMac, MAC_BROADCAST, macAt, putU16, putU32, u16At, type Packet } from './packet.ts';
import type { SwitchClient } from './switch.ts';
import { parseSegment, segmentBytes } from './tcp-segment.ts';
import { TcpHost, type TcpService } from './tcp.ts';
import { internetChecksum } from './transport.ts';

export interface HostConfig {
  readonly name: string;
  readonly mac: number;
  readonly ip: number;
  /** Answers datagrams for other networks with `network unreachable`. */
  readonly isGateway: boolean;
  readonly netmask: number;
  readonly udpEcho: boolean;
  readonly tcp: ReadonlyMap<number, TcpService>;
  readonly dhcp?: DhcpConfig;
  /** Names it knows, besides those of its DHCP clients. */
  readonly names?: Names;
}

export interface HostEnvironment {
  nowNs(): number;
  send(packet: Packet): void;
  /** A remark for the log. */
  note(text: string): void;
}

const ECHO_PORT = 7;
const FIRST_UNPRIVILEGED_PORT = 1024;
const UDP_HEADER_BYTES = 8;
const ICMP = { echoReply: 0, unreachable: 3, echoRequest: 8 } as const;
const ICMP_HEADER_BYTES = 8;
const UNREACHABLE = { network: 0, protocol: 2, port: 3 } as const;
/** RFC 792: the header and so many bytes of what could not be delivered. */
const QUOTED_BYTES = 8;

export class Host implements SwitchClient {
  readonly name: string;
  readonly #config: HostConfig;
  readonly #env: HostEnvironment;
  readonly #ip = new Ipv4Receiver();
  readonly #tcp: TcpHost;
  readonly #dhcp: DhcpServer | undefined;
  #datagramId = 0;

  constructor(config: HostConfig, env: HostEnvironment) {
    this.name = config.name;
    this.#config = config;
    this.#env = env;
    this.#dhcp = config.dhcp === undefined ? undefined : new DhcpServer(config.dhcp, (text) => env.note(text));
    this.#tcp = new TcpHost({
      nowNs: () => env.nowNs(),
      service: (port) => config.tcp.get(port),
      send: (peer, segment) => this.#reply(peer.mac, peer.ip, IP_PROTOCOL.tcp, segmentBytes(segment)),
    });
  }

  /** When run() is wanted, or Infinity. */
  nextNs(): number {
    return this.#tcp.nextNs();
  }
  run(): void {
    this.#tcp.run();
  }

  receive(packet: Packet): void {
    const { bytes } = packet;
    const dest = macAt(bytes, ETHER.destAt);
    if (dest !== this.#config.mac && dest !== MAC_BROADCAST) return;
    const type = u16At(bytes, ETHER.typeAt);
    if (type === ETHERTYPE.arp) {
      const reply = arpReply(bytes, this.#config.ip, this.#config.mac);
      if (reply !== undefined) this.#env.send({ bytes: reply, checksum: 'none' });
      return;
    }
    const datagram = type === ETHERTYPE.ipv4 ? this.#ip.take(packet, this.#env.nowNs()) : undefined;
    if (datagram !== undefined && !this.#isForged(datagram)) this.#datagram(datagram, dest === MAC_BROADCAST);
  }

  /** From us, from a group or from everybody: nobody can be answered. */
  #isForged({ source, mac }: Datagram): boolean {
    return source === this.#config.ip || source >= 0xe000_0000 || isGroupMac(mac);
  }

  #datagram(datagram: Datagram, wasBroadcast: boolean): void {
    const { ip, netmask } = this.#config;
    const { dest, protocol } = datagram;
    const isForAll = wasBroadcast || dest === IPV4_BROADCAST || dest === ((ip | ~netmask) >>> 0);
    if (protocol === IP_PROTOCOL.udp && (isForAll || dest === ip)) return this.#udp(datagram, isForAll);
    if (isForAll || datagram.source === 0) return;
    if (dest !== ip) {
      if (this.#config.isGateway && ((dest ^ ip) & netmask) !== 0 && dest < 0xe000_0000) this.#unreachable(datagram, UNREACHABLE.network);
      return;
    }
    if (protocol === IP_PROTOCOL.icmp) this.#icmp(datagram);
    else if (protocol === IP_PROTOCOL.tcp) this.#segment(datagram);
    else this.#unreachable(datagram, UNREACHABLE.protocol);
  }

  #icmp(datagram: Datagram): void {
    const { payload } = datagram;
    if (payload.length < ICMP_HEADER_BYTES || payload[0] !== ICMP.echoRequest || payload[1] !== 0) return;
    const answer = payload.slice();
    answer[0] = ICMP.echoReply;
    this.#replyIcmp(datagram, answer);
  }

  #unreachable(datagram: Datagram, code: number): void {
    if (datagram.protocol === IP_PROTOCOL.icmp && datagram.payload[0] !== ICMP.echoRequest) return;
    const { source, dest, protocol, payload } = datagram;
    const quoted = payload.subarray(0, QUOTED_BYTES);
    const message = new Uint8Array(ICMP_HEADER_BYTES + 20 + quoted.length);
    message[0] = ICMP.unreachable;
    message[1] = code;
    // The header as it came, as far as we kept it.
    const at = ICMP_HEADER_BYTES;
    message[at] = 0x45;
    putU16(message, at + 2, 20 + payload.length);
    message[at + 8] = 64;
    message[at + 9] = protocol;
    putU32(message, at + 12, source);
    putU32(message, at + 16, dest);
    putU16(message, at + 10, internetChecksum(message, at, at + 20));
    message.set(quoted, at + 20);
    this.#replyIcmp(datagram, message);
  }

  #replyIcmp({ mac, source }: Datagram, message: Uint8Array): void {
    putU16(message, 2, 0);
    putU16(message, 2, internetChecksum(message));
    this.#reply(mac, source, IP_PROTOCOL.icmp, message);
  }

  #segment(datagram: Datagram): void {
    const segment = parseSegment(datagram.payload);
    if (segment !== undefined) this.#tcp.receive({ ip: datagram.source, mac: datagram.mac, port: segment.sourcePort }, segment);
  }

  #udp(datagram: Datagram, isForAll: boolean): void {
    const { payload, source, mac } = datagram;
    const length = payload.length < UDP_HEADER_BYTES ? 0 : u16At(payload, 4);
    if (length < UDP_HEADER_BYTES || length > payload.length) return;
    const sourcePort = u16At(payload, 0);
    const port = u16At(payload, 2);
    const data = payload.slice(UDP_HEADER_BYTES, length);
    if (port === DHCP_PORT.server && this.#dhcp !== undefined) return this.#answerDhcp(this.#dhcp, data, sourcePort);
    if (isForAll || source === 0) return;
    if (port === ECHO_PORT && this.#config.udpEcho) {
      if (sourcePort >= FIRST_UNPRIVILEGED_PORT) this.#replyUdp(mac, source, port, sourcePort, data);
    } else if (port === DNS_PORT && this.#config.names !== undefined) {
      const answer = dnsReply(data, this.#names(this.#config.names));
      if (answer !== undefined) this.#replyUdp(mac, source, port, sourcePort, answer);
    } else this.#unreachable(datagram, UNREACHABLE.port);
  }

  #names(names: Names): Names {
    const nowNs = this.#env.nowNs();
    return { nameOf: (ip) => names.nameOf(ip), addressOf: (name) => names.addressOf(name) ?? this.#dhcp?.addressOf(name, nowNs) };
  }

  #answerDhcp(dhcp: DhcpServer, data: Uint8Array, sourcePort: number): void {
    if (sourcePort !== DHCP_PORT.client) return;
    const answer = dhcp.handle(data, this.#env.nowNs());
    if (answer === undefined) return;
    const { broadcast, toMac, toIp, message } = answer;
    this.#replyUdp(broadcast ? MAC_BROADCAST : toMac, broadcast ? IPV4_BROADCAST : toIp, DHCP_PORT.server, DHCP_PORT.client, message);
  }

  #replyUdp(mac: number, ip: number, fromPort: number, toPort: number, data: Uint8Array): void {
    const payload = new Uint8Array(UDP_HEADER_BYTES + data.length);
    putU16(payload, 0, fromPort);
    putU16(payload, 2, toPort);
    putU16(payload, 4, payload.length);
    payload.set(data, UDP_HEADER_BYTES);
    this.#reply(mac, ip, IP_PROTOCOL.udp, payload);
  }

  #reply(mac: number, ip: number, protocol: number, payload: Uint8Array): void {
    this.#datagramId = (this.#datagramId + 1) & 0xffff;
    for (const packet of datagramFrames({ mac, source: this.#config.ip, dest: ip, protocol, payload }, this.#config.mac, this.#datagramId)) this.#env.send(packet);
  }

  /** JSON-serialisable. */
  save(): unknown {
    return { datagramId: this.#datagramId, ip: this.#ip.save(), tcp: this.#tcp.save(), dhcp: this.#dhcp?.save() ?? null };
  }
  restore(state: unknown): void {
    const saved = state as { datagramId: number; ip: unknown; tcp: unknown; dhcp: unknown };
    this.#datagramId = saved.datagramId;
    this.#ip.restore(saved.ip);
    this.#tcp.restore(saved.tcp);
    this.#dhcp?.restore(saved.dhcp);
  }
}
