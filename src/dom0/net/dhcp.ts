// A DHCP server with one subnet. Who asks is known by the hardware address: a reservation, the lease
// it had, what it asks for, or the lowest free address, in this order; so equal runs give equal ones.
//
//   DISCOVER ─► OFFER    REQUEST ─► ACK or NAK    RELEASE, DECLINE ─►    INFORM ─► ACK
//
// Leases end when somebody looks, not by a timer: an idle world stays idle.
// Source: RFC 2131, 2132. Not here: relays (giaddr), BOOTP without a message type.
import { ipv4Text, macAt, macText, putMac, putU16, putU32, u16At, u32At } from './packet.ts';

export const DHCP_PORT = { server: 67, client: 68 } as const;

export interface DhcpConfig {
  readonly serverIp: number;
  readonly netmask: number;
  readonly first: number;
  readonly last: number;
  readonly leaseSec: number;
  readonly domainName: string;
  /** MAC → address, for clients that are known beforehand. */
  readonly reserved: ReadonlyMap<number, number>;
}

export interface Lease {
  readonly mac: number;
  readonly ip: number;
  readonly untilNs: number;
  readonly kind: 'offered' | 'bound' | 'declined';
  readonly hostName: string;
}

/** What goes back: to the client's address, or to everybody if it has none yet that it would answer for. */
export interface DhcpReply {
  readonly toIp: number;
  readonly toMac: number;
  readonly broadcast: boolean;
  readonly message: Uint8Array;
}

const AT = { op: 0, hardware: 1, hardwareBytes: 2, xid: 4, flags: 10, ciaddr: 12, yiaddr: 16, siaddr: 20, giaddr: 24, chaddr: 28, cookie: 236, options: 240 } as const;
const BOOT = { request: 1, reply: 2 } as const;
const COOKIE = 0x6382_5363;
const FLAG_BROADCAST = 0x8000;
const TYPE = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;
const OPTION = {
  pad: 0, netmask: 1, router: 3, dns: 6, hostName: 12, domainName: 15, broadcast: 28, requestedIp: 50, leaseTime: 51, overload: 52, messageType: 53, serverId: 54, renewal: 58, rebinding: 59, end: 255,
} as const;
const OFFER_NS = 60_000_000_000;
const DECLINED_NS = 600_000_000_000;
const NS_PER_SEC = 1_000_000_000;
/** BOOTP's least message; some clients insist on it. */
const LEAST_BYTES = 300;

interface Question {
  readonly mac: number;
  readonly type: number;
  readonly ciaddr: number;
  readonly requestedIp: number | undefined;
  readonly serverId: number | undefined;
  readonly hostName: string;
  readonly message: Uint8Array;
}

/** undefined: not a DHCP message of a client on this wire. */
function parse(message: Uint8Array): Question | undefined {
  if (message.length < AT.options || message[AT.op] !== BOOT.request || message[AT.hardware] !== 1 || message[AT.hardwareBytes] !== 6) return undefined;
  if (u32At(message, AT.cookie) !== COOKIE || u32At(message, AT.giaddr) !== 0) return undefined;
  const options = new Map<number, Uint8Array>();
  for (let at = AT.options as number; at < message.length; ) {
    const code = message[at] as number;
    if (code === OPTION.end) break;
    if (code === OPTION.pad) {
      at++;
      continue;
    }
    const length = message[at + 1];
    if (length === undefined || at + 2 + length > message.length) return undefined;
    options.set(code, message.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  const address = (code: number): number | undefined => (options.get(code)?.length === 4 ? u32At(options.get(code) as Uint8Array, 0) : undefined);
  const type = options.get(OPTION.messageType);
  if (type?.length !== 1) return undefined;
  const hostName = String.fromCharCode(...(options.get(OPTION.hostName) ?? [])).toLowerCase();
  return {
    mac: macAt(message, AT.chaddr), type: type[0] as number, ciaddr: u32At(message, AT.ciaddr), requestedIp: address(OPTION.requestedIp), serverId: address(OPTION.serverId),
    hostName: /^[a-z0-9-]{1,63}$/.test(hostName) ? hostName : '', message,
  };
}

export class DhcpServer {
  readonly #config: DhcpConfig;
  readonly #note: (text: string) => void;
  /** By address. */
  #leases = new Map<number, Lease>();

  constructor(config: DhcpConfig, note: (text: string) => void) {
    this.#config = config;
    this.#note = note;
  }

  /** The answer to a UDP payload on the server's port, if it deserves one. */
  handle(payload: Uint8Array, nowNs: number): DhcpReply | undefined {
    const question = parse(payload);
    if (question === undefined) return undefined;
    switch (question.type) {
      case TYPE.discover:
        return this.#discover(question, nowNs);
      case TYPE.request:
        return this.#request(question, nowNs);
      case TYPE.release:
        this.#end(question, question.ciaddr);
        return undefined;
      case TYPE.decline:
        this.#decline(question, nowNs);
        return undefined;
      case TYPE.inform:
        return reply(this.#config, question, TYPE.ack, 0, question.ciaddr, []);
      default:
        return undefined;
    }
  }

  /** Names of clients that have an address. */
  addressOf(hostName: string, nowNs: number): number | undefined {
    for (const lease of this.#leases.values()) if (lease.hostName === hostName && hostName !== '' && lease.kind === 'bound' && lease.untilNs > nowNs) return lease.ip;
    return undefined;
  }

  #discover(question: Question, nowNs: number): DhcpReply | undefined {
    const ip = this.#addressFor(question, nowNs);
    if (ip === undefined) {
      this.#note(`dhcp: no address is left for ${macText(question.mac)}`);
      return undefined;
    }
    const held = this.#leases.get(ip);
    // Somebody who looks around does not lose the lease it has.
    if (held === undefined || held.mac !== question.mac || held.kind !== 'bound') this.#take({ mac: question.mac, ip, untilNs: nowNs + OFFER_NS, kind: 'offered', hostName: question.hostName });
    return reply(this.#config, question, TYPE.offer, ip, 0, this.#leaseOptions());
  }

  /** RFC 2131, 4.3.2: who selects names the server, who boots again names an address, who renews has one. */
  #request(question: Question, nowNs: number): DhcpReply | undefined {
    if (question.serverId !== undefined && question.serverId !== this.#config.serverIp) {
      this.#end(question, undefined, 'offered');
      return undefined;
    }
    const wanted = question.requestedIp ?? question.ciaddr;
    if (!this.#mayHave(question.mac, wanted, nowNs)) {
      this.#note(`dhcp: ${macText(question.mac)} may not have ${ipv4Text(wanted)}`);
      return reply(this.#config, question, TYPE.nak, 0, 0, []);
    }
    const before = this.#leases.get(wanted);
    const untilNs = nowNs + this.#config.leaseSec * NS_PER_SEC;
    this.#take({ mac: question.mac, ip: wanted, untilNs, kind: 'bound', hostName: question.hostName || (before?.mac === question.mac ? before.hostName : '') });
    this.#note(`dhcp: ${macText(question.mac)} has ${ipv4Text(wanted)} for ${this.#config.leaseSec} s`);
    return reply(this.#config, question, TYPE.ack, wanted, question.ciaddr, this.#leaseOptions());
  }

  #decline(question: Question, nowNs: number): void {
    const { requestedIp } = question;
    if (requestedIp === undefined || this.#leases.get(requestedIp)?.mac !== question.mac) return;
    this.#note(`dhcp: ${macText(question.mac)} says that somebody else uses ${ipv4Text(requestedIp)}`);
    this.#leases.set(requestedIp, { mac: 0, ip: requestedIp, untilNs: nowNs + DECLINED_NS, kind: 'declined', hostName: '' });
  }

  #end(question: Question, ip: number | undefined, kind?: Lease['kind']): void {
    for (const lease of [...this.#leases.values()]) {
      if (lease.mac !== question.mac || (ip !== undefined && lease.ip !== ip) || (kind !== undefined && lease.kind !== kind)) continue;
      this.#leases.delete(lease.ip);
      if (kind === undefined) this.#note(`dhcp: ${macText(question.mac)} gave ${ipv4Text(lease.ip)} back`);
    }
  }

  /** One address a client. */
  #take(lease: Lease): void {
    for (const other of [...this.#leases.values()]) if (other.mac === lease.mac) this.#leases.delete(other.ip);
    this.#leases.set(lease.ip, lease);
  }

  #addressFor(question: Question, nowNs: number): number | undefined {
    const { first, last, reserved } = this.#config;
    const had = [...this.#leases.values()].find((lease) => lease.mac === question.mac);
    for (const ip of [reserved.get(question.mac), had?.ip, question.requestedIp]) if (ip !== undefined && this.#mayHave(question.mac, ip, nowNs)) return ip;
    for (let ip = first; ip <= last; ip++) if (this.#mayHave(question.mac, ip, nowNs)) return ip;
    return undefined;
  }

  #mayHave(mac: number, ip: number, nowNs: number): boolean {
    const { first, last, reserved, serverIp } = this.#config;
    const own = reserved.get(mac);
    if (own !== undefined) return ip === own;
    if (ip < first || ip > last || ip === serverIp || [...reserved.values()].includes(ip)) return false;
    const lease = this.#leases.get(ip);
    return lease === undefined || lease.mac === mac || lease.untilNs <= nowNs;
  }

  #leaseOptions(): [number, Uint8Array][] {
    const { leaseSec, netmask, serverIp } = this.#config;
    return [
      [OPTION.leaseTime, word(leaseSec)], [OPTION.renewal, word(leaseSec >>> 1)], [OPTION.rebinding, word(Math.floor((leaseSec * 7) / 8))],
      [OPTION.broadcast, word((serverIp & netmask) | ~netmask)],
    ];
  }

  save(): unknown {
    return [...this.#leases.values()];
  }
  restore(state: unknown): void {
    this.#leases = new Map((state as Lease[]).map((lease) => [lease.ip, lease]));
  }
}

function word(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  putU32(bytes, 0, value >>> 0);
  return bytes;
}

function reply(config: DhcpConfig, question: Question, type: number, yiaddr: number, ciaddr: number, options: readonly [number, Uint8Array][]): DhcpReply {
  const isNak = type === TYPE.nak;
  const all: [number, Uint8Array][] = [[OPTION.messageType, Uint8Array.of(type)], [OPTION.serverId, word(config.serverIp)], ...options];
  if (!isNak) {
    all.push([OPTION.netmask, word(config.netmask)], [OPTION.router, word(config.serverIp)], [OPTION.dns, word(config.serverIp)]);
    if (config.domainName !== '') all.push([OPTION.domainName, Uint8Array.from(config.domainName, (char) => char.charCodeAt(0))]);
  }
  const optionBytes = all.flatMap(([code, value]) => [code, value.length, ...value]);
  const message = new Uint8Array(Math.max(LEAST_BYTES, AT.options + optionBytes.length + 1));
  message[AT.op] = BOOT.reply;
  message[AT.hardware] = 1;
  message[AT.hardwareBytes] = 6;
  message.set(question.message.subarray(AT.xid, AT.xid + 4), AT.xid);
  const flags = u16At(question.message, AT.flags);
  putU16(message, AT.flags, isNak ? flags | FLAG_BROADCAST : flags);
  putU32(message, AT.ciaddr, isNak ? 0 : ciaddr);
  putU32(message, AT.yiaddr, yiaddr);
  putU32(message, AT.siaddr, isNak ? 0 : config.serverIp);
  putMac(message, AT.chaddr, question.mac);
  putU32(message, AT.cookie, COOKIE);
  message.set(optionBytes, AT.options);
  message[AT.options + optionBytes.length] = OPTION.end;
  // RFC 2131, 4.1: to ciaddr if there is one, else to everybody if the client says so, else to the address it is about to have.
  const toIp = isNak ? 0 : question.ciaddr || yiaddr;
  const broadcast = isNak || (question.ciaddr === 0 && (flags & FLAG_BROADCAST) !== 0);
  return { toIp, toMac: question.mac, broadcast, message };
}
