// Bridges and their own hosts as data, part of a world's spec; and the plan that follows from it: who
// has which address. A bridge that an interface names and the spec does not is a plain one with a gateway.
import { UsageError } from '../../base/assert.ts';
import type { HostConfig } from './host.ts';
import { ipv4Text, isGroupMac, macText, parseIpv4, parseMac } from './packet.ts';
import { DISCARD, ECHO, webService } from './tcp-services.ts';
import type { TcpService } from './tcp.ts';

/** A host that is no domain: it answers pings and has the echo, discard and web services. */
export interface HostSpec {
  readonly name: string;
  /** In the bridge's subnet. Default: the next one from .11 on. */
  readonly ip?: string;
  readonly mac?: string;
}

export interface BridgeSpec {
  readonly name: string;
  /** Default: 10.77.N.0/24, N being the bridge's place in the list. The gateway has its first address. */
  readonly subnet?: string;
  /** The host at the first address, with DHCP and name service. Default true. */
  readonly gateway?: boolean;
  readonly leaseSec?: number;
  readonly hosts?: readonly HostSpec[];
  /** Web pages of the gateway and the hosts: '/hello.txt' → text. */
  readonly files?: Readonly<Record<string, string>>;
}

/** An interface of a domain, as far as addresses go. */
export interface VifPlace {
  readonly domain: string;
  readonly mac: string;
  readonly bridge: string;
  readonly ip?: string;
}

export interface BridgePlan {
  readonly name: string;
  readonly hosts: readonly HostConfig[];
}

const DEFAULT_LEASE_SEC = 86_400;
const DOMAIN_NAME = 'rexen';
const GATEWAY = 'gateway';
/** Last byte of the addresses that hosts, and clients of DHCP, get unasked. */
const FIRST = { host: 11, client: 101, lastClient: 199 } as const;
/** Locally administered: never that of a real card, nor of Xen's 00:16:3e. */
const HOST_MAC_PREFIX = 0x0252_7800_0000;

/** All bridges, those that only interfaces name behind those of the spec. Throws UsageError. */
export function planBridges(specs: readonly BridgeSpec[], vifs: readonly VifPlace[]): BridgePlan[] {
  const named = new Set(specs.map((spec) => spec.name));
  if (named.size !== specs.length) throw new UsageError('two bridges have the same name');
  const others = [...new Set(vifs.map((vif) => vif.bridge))].filter((name) => !named.has(name)).map((name): BridgeSpec => ({ name }));
  const all = [...specs, ...others];
  const macs = new Map<number, string>();
  for (const vif of vifs) claimMac(macs, vif.mac, `an interface of ${vif.domain}`);
  return all.map((spec, index) => planBridge(spec, index, vifs.filter((vif) => vif.bridge === spec.name), macs));
}

function claimMac(macs: Map<number, string>, text: string, whose: string): number {
  const mac = parseMac(text);
  if (mac === undefined || mac === 0 || isGroupMac(mac)) throw new UsageError(`${text} (${whose}) is not the hardware address of one interface; write it as 00:16:3e:01:02:03`);
  const other = macs.get(mac);
  if (other !== undefined) throw new UsageError(`${whose} and ${other} have the same hardware address ${text}`);
  macs.set(mac, whose);
  return mac;
}

function planBridge(spec: BridgeSpec, index: number, vifs: readonly VifPlace[], macs: Map<number, string>): BridgePlan {
  const { base, netmask } = parseSubnet(spec.subnet ?? `10.77.${index}.0/24`, spec.name);
  const taken = new Map<number, string>();
  const claim = (text: string, whose: string): number => {
    const ip = parseIpv4(text);
    if (ip === undefined || ((ip ^ base) & netmask) !== 0 || ip === base || ip === ((base | ~netmask) >>> 0)) throw new UsageError(`${text} (${whose}) is not an address of ${spec.name}'s subnet ${ipv4Text(base)}`);
    const other = taken.get(ip);
    if (other !== undefined) throw new UsageError(`${whose} and ${other} have the same address ${text}`);
    taken.set(ip, whose);
    return ip;
  };
  const next = (first: number, whose: string): number => {
    let ip = base + first;
    while (taken.has(ip)) ip++;
    return claim(ipv4Text(ip), whose);
  };
  const hasGateway = spec.gateway !== false;
  const gatewayIp = hasGateway ? claim(ipv4Text(base + 1), GATEWAY) : 0;
  const hosts = spec.hosts ?? [];
  // What is asked for goes before what is given.
  const hostIps = new Map(hosts.filter((host) => host.ip !== undefined).map((host) => [host.name, claim(host.ip as string, host.name)]));
  const vifIps = new Map(vifs.filter((vif) => vif.ip !== undefined).map((vif) => [vif.mac, claim(vif.ip as string, vif.domain)]));
  for (const host of hosts) if (!hostIps.has(host.name)) hostIps.set(host.name, next(FIRST.host, host.name));
  for (const vif of vifs) if (!vifIps.has(vif.mac)) vifIps.set(vif.mac, next(FIRST.client, vif.domain));
  if (hostIps.size !== hosts.length || hostIps.has(GATEWAY)) throw new UsageError(`two hosts of ${spec.name} have the same name`);

  const tcp: ReadonlyMap<number, TcpService> = new Map([[7, ECHO], [9, DISCARD], [80, webService(spec.files ?? {})]]);
  const hostMac = (number: number, text: string | undefined, whose: string): number => claimMac(macs, text ?? macText(HOST_MAC_PREFIX + index * 0x100 + number), whose);
  const known = new Map<string, number>([...(hasGateway ? [[GATEWAY, gatewayIp] as const] : []), ...hostIps, ...vifs.toReversed().map((vif) => [vif.domain.toLowerCase(), vifIps.get(vif.mac) as number] as const)]);
  const plan: HostConfig[] = [];
  if (hasGateway) {
    plan.push({
      name: GATEWAY, mac: hostMac(1, undefined, GATEWAY), ip: gatewayIp, netmask, isGateway: true, udpEcho: true, tcp,
      names: { addressOf: (name) => known.get(name.endsWith(`.${DOMAIN_NAME}`) ? name.slice(0, -DOMAIN_NAME.length - 1) : name), nameOf: (ip) => nameFor(known, ip) },
      dhcp: {
        serverIp: gatewayIp, netmask, first: base + FIRST.client, last: base + FIRST.lastClient, leaseSec: spec.leaseSec ?? DEFAULT_LEASE_SEC, domainName: DOMAIN_NAME,
        reserved: new Map([...vifIps].map(([mac, ip]) => [parseMac(mac) as number, ip])),
      },
    });
  }
  hosts.forEach((host, at) => plan.push({ name: host.name, mac: hostMac(FIRST.host + at, host.mac, host.name), ip: hostIps.get(host.name) as number, netmask, isGateway: false, udpEcho: true, tcp }));
  return { name: spec.name, hosts: plan };
}



function nameFor(known: ReadonlyMap<string, number>, ip: number): string | undefined {
  for (const [name, address] of known) if (address === ip) return `${name}.${DOMAIN_NAME}`;
  return undefined;
}

/** Between 256 and 65,536 addresses: the plan counts in the last byte. */
function parseSubnet(text: string, bridge: string): { base: number; netmask: number } {
  const [address = '', length = ''] = text.split('/');
  const base = parseIpv4(address);
  const prefix = /^[0-9]+$/.test(length) ? Number(length) : -1;
  const netmask = (0xffff_ffff << (32 - prefix)) >>> 0;
  if (base === undefined || prefix < 16 || prefix > 24 || (base & netmask) >>> 0 !== base) throw new UsageError(`${text} (the subnet of ${bridge}) is not one; write it as 10.77.0.0/24, with 16 to 24 bits`);
  return { base, netmask };
}
