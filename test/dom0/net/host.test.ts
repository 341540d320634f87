import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dnsReply } from '../../../src/dom0/net/dns.ts';
import { planBridges } from '../../../src/dom0/net/network-spec.ts';
import { ETHERTYPE, ethernetFrame, IP_PROTOCOL, ipv4Text, putMac, putU16, putU32, u16At, u32At } from '../../../src/dom0/net/packet.ts';
import { internetChecksum } from '../../../src/dom0/net/transport.ts';
import { arpRequest, GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, ip, isArpReply, noise, OTHER_MAC, Probe, sourceOf, TestLan, udpPayload } from './lan.ts';

function echoRequest(data: Uint8Array): Uint8Array {
  const message = new Uint8Array(8 + data.length);
  message[0] = 8;
  putU16(message, 4, 0x1234);
  putU16(message, 6, 1);
  message.set(data, 8);
  putU16(message, 2, internetChecksum(message));
  return message;
}

describe('a host on the switch', () => {
  test('answers ARP for its own address only', () => {
    const lan = new TestLan([{ name: 'br0', hosts: [{ name: 'peer' }] }]);
    const probe = new Probe(lan, 'vif1.0', GUEST_MAC);
    probe.send(arpRequest(GUEST_MAC, GUEST_IP, GATEWAY_IP));
    lan.settle();
    expect(probe.got).toHaveLength(1);
    expect(isArpReply(probe.got[0]?.bytes as Uint8Array)).toBe(true);
    expect(sourceOf(probe.got[0]?.bytes as Uint8Array)).toBe(GATEWAY_MAC);
    probe.got.length = 0;
    probe.send(arpRequest(GUEST_MAC, GUEST_IP, ip('10.77.0.11')));
    probe.send(arpRequest(GUEST_MAC, GUEST_IP, ip('10.77.0.12')));
    lan.settle();
    expect(probe.got.map(({ bytes }) => u32At(bytes, 28))).toEqual([ip('10.77.0.11')]);
  });

  test('a ping comes back as it went, in fragments if it is long', () => {
    for (const length of [0, 1, 56, 1472, 1473, 4000, 65507]) {
      const lan = new TestLan();
      const probe = new Probe(lan, 'vif1.0', GUEST_MAC);
      const data = noise(length, length);
      probe.datagram(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, IP_PROTOCOL.icmp, echoRequest(data));
      lan.settle();
      expect(probe.got.every(({ bytes }) => bytes.length <= 1514)).toBe(true);
      const answers = probe.datagrams();
      expect(answers).toHaveLength(1);
      const { source, dest, payload } = answers[0] as (typeof answers)[0];
      expect([source, dest, payload[0], internetChecksum(payload)]).toEqual([GATEWAY_IP, GUEST_IP, 0, 0]);
      expect(payload.subarray(4)).toEqual(echoRequest(data).subarray(4));
    }
  });

  test('UDP: echoes, knows no other port, and never argues with another echo', () => {
    const lan = new TestLan();
    const probe = new Probe(lan, 'vif1.0', GUEST_MAC);
    const hear = () => {
      lan.settle();
      return probe.datagrams().map(({ protocol, payload }) => [protocol, ...payload]);
    };
    probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [4000, 7], Uint8Array.of(1, 2, 3));
    expect(hear().map((row) => row.slice(0, 7).concat(row.slice(9)))).toEqual([[17, 0, 7, 4000 >> 8, 4000 & 255, 0, 11, 1, 2, 3]]);
    probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [7, 7], Uint8Array.of(1));
    expect(hear()).toEqual([]);
    probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [4000, 99], Uint8Array.of(1));
    expect(hear().map((row) => row.slice(0, 3))).toEqual([[1, 3, 3]]);
    // Another network: there is no way. Another host of this one: not our business.
    probe.udp(GATEWAY_MAC, GUEST_IP, ip('8.8.8.8'), [4000, 53], Uint8Array.of(1));
    expect(hear().map((row) => row.slice(0, 3))).toEqual([[1, 3, 0]]);
    probe.udp(GATEWAY_MAC, GUEST_IP, ip('10.77.0.12'), [4000, 53], Uint8Array.of(1));
    expect(hear()).toEqual([]);
    // Damaged, forged or for everybody: silence.
    probe.udp(GATEWAY_MAC, GATEWAY_IP, GATEWAY_IP, [4000, 7], Uint8Array.of(1));
    probe.udp(0xffff_ffff_ffff, GUEST_IP, 0xffff_ffff, [4000, 7], Uint8Array.of(1));
    const whole = udpPayload([4000, 7], Uint8Array.of(1, 2));
    whole[6] = 0x12;
    probe.send(ethernetFrame(GATEWAY_MAC, GUEST_MAC, ETHERTYPE.ipv4, Uint8Array.from([0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 101, 10, 77, 0, 1, ...whole])));
    expect(hear()).toEqual([]);
  });

  test('names: hosts, interfaces of domains, addresses; nothing else is known', () => {
    const lan = new TestLan([{ name: 'br0', hosts: [{ name: 'peer' }] }], [{ domain: 'web', mac: '00:16:3e:00:00:01', bridge: 'br0' }]);
    const probe = new Probe(lan, 'vif1.0', GUEST_MAC);
    const ask = (name: string, type = 1): readonly [number, string] => {
      const labels = name.split('.').flatMap((part) => [part.length, ...new TextEncoder().encode(part)]);
      probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [4000, 53], Uint8Array.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, type, 0, 1]));
      lan.settle();
      const answer = probe.datagrams()[0]?.payload.subarray(8) as Uint8Array;
      const count = u16At(answer, 6);
      return [(answer[3] as number) & 15, count === 0 ? '' : ipv4Text(u32At(answer, answer.length - 4))];
    };
    expect(ask('gateway')).toEqual([0, '10.77.0.1']);
    expect(ask('PEER.rexen')).toEqual([0, '10.77.0.11']);
    expect(ask('web.rexen')).toEqual([0, '10.77.0.101']);
    expect(ask('web.rexen', 28)).toEqual([0, '']);
    expect(ask('example.org')).toEqual([3, '']);
    expect(ask('11.0.77.10.in-addr.arpa', 12)[0]).toBe(0);
    expect(ask('12.0.77.10.in-addr.arpa', 12)[0]).toBe(3);
  });
});

// -- DHCP -------------------------------------------------------------------------------------------

const DHCP = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;

class DhcpClient {
  readonly #lan: TestLan;
  readonly #probe: Probe;
  readonly #mac: number;
  constructor(lan: TestLan, mac = GUEST_MAC, name = 'vif1.0') {
    this.#lan = lan;
    this.#mac = mac;
    this.#probe = new Probe(lan, name, mac);
  }

  /** [message type, address, lease seconds] of the answer, or undefined. */
  say(type: number, options: readonly (readonly [number, number])[] = [], ciaddr = 0, hostName = ''): readonly [number, string, number] | undefined {
    const message = new Uint8Array(300);
    message.set([1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    putU32(message, 12, ciaddr);
    putMac(message, 28, this.#mac);
    putU32(message, 236, 0x6382_5363);
    const bytes = [53, 1, type];
    for (const [code, value] of options) bytes.push(code, 4, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
    if (hostName !== '') bytes.push(12, hostName.length, ...new TextEncoder().encode(hostName));
    message.set([...bytes, 255], 240);
    this.#probe.datagrams();
    this.#probe.udp(0xffff_ffff_ffff, ciaddr, 0xffff_ffff, [68, 67], message);
    this.#lan.settle();
    const answer = this.#probe.datagrams().find(({ protocol }) => protocol === 17)?.payload.subarray(8);
    if (answer === undefined) return undefined;
    expect([answer[0], u32At(answer, 4)]).toEqual([2, 0xdead_beef]);
    const option = (code: number): number => {
      for (let at = 240; at < answer.length && answer[at] !== 255; at += 2 + (answer[at + 1] as number)) if (answer[at] === code) return answer[at + 1] === 1 ? (answer[at + 2] as number) : u32At(answer, at + 2);
      return 0;
    };
    expect(option(54)).toBe(GATEWAY_IP);
    return [option(53), ipv4Text(u32At(answer, 16)), option(51)];
  }
  discover(): string {
    return this.say(DHCP.discover)?.[1] ?? 'none';
  }
  select(address: string): readonly [number, string, number] | undefined {
    return this.say(DHCP.request, [[50, ip(address)], [54, GATEWAY_IP]]);
  }
}

describe('DHCP', () => {
  test('an interface of a domain gets the address of the plan, and keeps it', () => {
    const lan = new TestLan([{ name: 'br0', leaseSec: 3600 }], [{ domain: 'a', mac: '00:16:3e:00:00:01', bridge: 'br0', ip: '10.77.0.50' }]);
    const client = new DhcpClient(lan);
    expect(client.say(DHCP.discover)).toEqual([DHCP.offer, '10.77.0.50', 3600]);
    expect(client.select('10.77.0.50')).toEqual([DHCP.ack, '10.77.0.50', 3600]);
    // Renewing names itself in ciaddr only; booting again names the address only; so does looking around.
    expect(client.say(DHCP.request, [], ip('10.77.0.50'))).toEqual([DHCP.ack, '10.77.0.50', 3600]);
    expect(client.say(DHCP.request, [[50, ip('10.77.0.50')]])).toEqual([DHCP.ack, '10.77.0.50', 3600]);
    expect(client.discover()).toBe('10.77.0.50');
    expect(client.say(DHCP.inform, [], ip('10.77.0.50'))).toEqual([DHCP.ack, '0.0.0.0', 0]);
    // An address that is not its own is refused.
    expect(client.select('10.77.0.51')).toEqual([DHCP.nak, '0.0.0.0', 0]);
    // It took another server's offer: nothing to say.
    expect(client.say(DHCP.request, [[50, ip('10.77.0.50')], [54, ip('10.77.0.9')]])).toBeUndefined();
  });

  test('strangers get what they had, what they ask for, or what is free; RELEASE, DECLINE and time give it back', () => {
    const lan = new TestLan();
    const first = new DhcpClient(lan);
    const second = new DhcpClient(lan, OTHER_MAC, 'vif2.0');
    expect(first.discover()).toBe('10.77.0.101');
    // An offer keeps the address for a while.
    expect(second.discover()).toBe('10.77.0.102');
    expect(first.select('10.77.0.101')?.[0]).toBe(DHCP.ack);
    expect(second.select('10.77.0.101')?.[0]).toBe(DHCP.nak);
    expect(second.say(DHCP.discover, [[50, ip('10.77.0.150')]])?.[1]).toBe('10.77.0.102');
    first.say(DHCP.release, [[54, GATEWAY_IP]], ip('10.77.0.101'));
    expect(second.say(DHCP.request, [[50, ip('10.77.0.101')]])?.[0]).toBe(DHCP.ack);
    second.say(DHCP.decline, [[50, ip('10.77.0.101')], [54, GATEWAY_IP]]);
    expect(second.discover()).toBe('10.77.0.102');
    expect(first.say(DHCP.discover, [[50, ip('10.77.0.180')]])?.[1]).toBe('10.77.0.180');
    lan.nowNs += 2 * 86_400e9;
    expect(second.say(DHCP.request, [[50, ip('10.77.0.180')]])?.[0]).toBe(DHCP.ack);
    expect(lan.notes.length).toBeGreaterThan(4);
  });

  test('a name that a client gives itself can be asked for', () => {
    const lan = new TestLan();
    const client = new DhcpClient(lan);
    client.say(DHCP.request, [[50, ip('10.77.0.120')]], 0, 'Box');
    const saved = JSON.parse(JSON.stringify(lan.network.save()));
    const next = new TestLan();
    next.network.restore(saved);
    const probe = new Probe(next, 'x', GUEST_MAC);
    probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [4000, 53], Uint8Array.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 98, 111, 120, 0, 0, 1, 0, 1]));
    next.settle();
    expect(ipv4Text(u32At(probe.datagrams()[0]?.payload.slice(-4) as Uint8Array, 0))).toBe('10.77.0.120');
  });

  test('when no address is left it says so, and not to the client', () => {
    const lan = new TestLan();
    for (let i = 0; i < 99; i++) expect(new DhcpClient(lan, 0x0200_0000_0100 + i, `p${i}`).discover()).toBe(`10.77.0.${101 + i}`);
    expect(new DhcpClient(lan, OTHER_MAC, 'late').say(DHCP.discover)).toBeUndefined();
    expect(lan.notes.at(-1)).toContain('no address is left for 00:16:3e:00:00:02');
  });
});

// -- hostile frames ---------------------------------------------------------------------------------

/** Good frames of every protocol that a host speaks. */
function seedFrames(): Uint8Array[] {
  const lan = new TestLan();
  const frames: Uint8Array[] = [arpRequest(GUEST_MAC, GUEST_IP, GATEWAY_IP)];
  const probe = new Probe(lan, 'p', GUEST_MAC);
  Object.assign(probe.plug, { send: ({ bytes }: { bytes: Uint8Array }) => void frames.push(bytes) });
  probe.datagram(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, IP_PROTOCOL.icmp, echoRequest(noise(3000, 1)));
  for (const port of [7, 53, 67, 99]) probe.udp(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, [68, port], noise(300, port));
  probe.datagram(GATEWAY_MAC, GUEST_IP, GATEWAY_IP, IP_PROTOCOL.tcp, Uint8Array.from([0x9c, 0x40, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0x10, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4]));
  return frames;
}

describe('hostile frames', () => {
  test('whatever a guest sends, hosts neither fall over nor talk without end', () => {
    const seeds = seedFrames();
    const edit = fc.record({ at: fc.nat(80), value: fc.nat(255) });
    const frame = fc.record({ seed: fc.nat(seeds.length - 1), edits: fc.array(edit, { maxLength: 6 }), cut: fc.option(fc.nat(120), { nil: undefined }), checksum: fc.constantFrom<'none' | 'blank' | 'validated'>('none', 'blank', 'validated') });
    fc.assert(fc.property(fc.array(frame, { maxLength: 25 }), (frames) => {
      const lan = new TestLan([{ name: 'br0', hosts: [{ name: 'peer' }, { name: 'other' }] }]);
      const probe = new Probe(lan, 'vif1.0', GUEST_MAC);
      for (const { seed, edits, cut, checksum } of frames) {
        const bytes = (seeds[seed] as Uint8Array).slice(0, cut);
        for (const { at, value } of edits) if (at < bytes.length) bytes[at] = value;
        // A frame that says its checksum is blank or fine is believed: more of it is looked at.
        probe.plug.send({ bytes, checksum });
      }
      for (let steps = 0; steps < 2000; steps++) if (!lan.step()) return;
      expect(lan.step()).toBe(false);
    }), { seed: 7, numRuns: 300 });
  });

  test('a name query of any bytes gets an answer that is one, or none', () => {
    const names = { addressOf: () => 1, nameOf: () => 'x' };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (query) => {
      const answer = dnsReply(query, names);
      if (answer !== undefined) expect([answer[0], answer[1], (answer[2] as number) & 0x80]).toEqual([query[0], query[1], 0x80]);
    }), { seed: 8, numRuns: 1000 });
  });
});

describe('the plan of addresses', () => {
  const vif = (domain: string, last: number, more: object = {}) => ({ domain, mac: `00:16:3e:00:00:${last.toString(16).padStart(2, '0')}`, bridge: 'br0', ...more });

  test('what is asked for goes before what is given', () => {
    const [plan] = planBridges([{ name: 'br0', subnet: '192.168.4.0/24', hosts: [{ name: 'a' }, { name: 'b', ip: '192.168.4.11' }] }], [vif('x', 1), vif('y', 2, { ip: '192.168.4.101' })]);
    expect(plan?.hosts.map((host) => [host.name, ipv4Text(host.ip)])).toEqual([['gateway', '192.168.4.1'], ['a', '192.168.4.12'], ['b', '192.168.4.11']]);
    expect([...(plan?.hosts[0]?.dhcp?.reserved.values() ?? [])].map(ipv4Text).sort((a, b) => (a < b ? -1 : 1))).toEqual(['192.168.4.101', '192.168.4.102']);
  });

  test('a bridge that only an interface names is there too, with a subnet of its own', () => {
    const plans = planBridges([{ name: 'br0' }], [vif('x', 1), vif('y', 2, { bridge: 'br1' })]);
    expect(plans.map((plan) => [plan.name, ipv4Text(plan.hosts[0]?.ip as number)])).toEqual([['br0', '10.77.0.1'], ['br1', '10.77.1.1']]);
    expect(planBridges([{ name: 'br0', gateway: false }], [])[0]?.hosts).toEqual([]);
  });

  test('what cannot be is said in one sentence', () => {
    const problem = (specs: Parameters<typeof planBridges>[0], vifs: Parameters<typeof planBridges>[1] = []): string => {
      try {
        planBridges(specs, vifs);
      } catch (error) {
        return (error as Error).message;
      }
      return 'none';
    };
    expect(problem([{ name: 'br0' }, { name: 'br0' }])).toBe('two bridges have the same name');
    expect(problem([{ name: 'br0', subnet: '10.0.0.1/24' }])).toContain('10.0.0.1/24 (the subnet of br0) is not one');
    expect(problem([{ name: 'br0', subnet: '10.0.0.0/8' }])).toContain('16 to 24 bits');
    expect(problem([], [vif('x', 1), vif('y', 1)])).toBe('an interface of y and an interface of x have the same hardware address 00:16:3e:00:00:01');
    expect(problem([], [{ domain: 'x', mac: 'ff:ff:ff:ff:ff:ff', bridge: 'br0' }])).toContain('is not the hardware address of one interface');
    expect(problem([], [vif('x', 1, { ip: '10.78.0.1' })])).toContain("10.78.0.1 (x) is not an address of br0's subnet 10.77.0.0");
    expect(problem([], [vif('x', 1, { ip: '10.77.0.1' })])).toBe('x and gateway have the same address 10.77.0.1');
    expect(problem([{ name: 'br0', hosts: [{ name: 'gateway' }] }])).toBe('two hosts of br0 have the same name');
  });
});
