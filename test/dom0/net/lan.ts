// A network without a world: its own clock, seeded latencies, frames made by hand.
import { PrngStream } from '../../../src/base/prng.ts';
import { Network, type Plug } from '../../../src/dom0/net/network.ts';
import { planBridges, type BridgeSpec, type VifPlace } from '../../../src/dom0/net/network-spec.ts';
import { ETHERTYPE, ethernetFrame, macAt, parseIpv4, parseMac, putMac, putU16, putU32, u16At, type Packet } from '../../../src/dom0/net/packet.ts';
import { datagramFrames, Ipv4Receiver, type Datagram } from '../../../src/dom0/net/ipv4.ts';

export const ip = (text: string): number => parseIpv4(text) as number;
export const mac = (text: string): number => parseMac(text) as number;
export const GUEST_MAC = mac('00:16:3e:00:00:01');
export const OTHER_MAC = mac('00:16:3e:00:00:02');
export const GATEWAY_MAC = 0x0252_7800_0001;
export const GATEWAY_IP = ip('10.77.0.1');
export const GUEST_IP = ip('10.77.0.101');

export class TestLan {
  nowNs = 0;
  readonly network: Network;
  readonly notes: string[] = [];
  wakes = 0;
  #wakeNs = Infinity;

  constructor(bridges: readonly BridgeSpec[] = [{ name: 'br0' }], vifs: readonly VifPlace[] = [], seed = 'lan') {
    const chance = new PrngStream(seed, 'latency');
    this.network = new Network(planBridges(bridges, vifs), {
      nowNs: () => this.nowNs,
      wakeAt: (ns) => {
        this.wakes++;
        this.#wakeNs = ns ?? Infinity;
      },
      latencyNs: () => (1 + chance.below(16)) * 1000,
      note: (text) => void this.notes.push(text),
    });
  }

  /** The next thing happens; false: nothing will. */
  step(untilNs = Infinity): boolean {
    if (this.#wakeNs === Infinity || this.#wakeNs > untilNs) return false;
    this.nowNs = this.#wakeNs;
    this.#wakeNs = Infinity;
    this.network.run();
    return true;
  }
  /** Until nothing is under way any more, or this time has come. */
  settle(untilNs = Infinity): void {
    while (this.step(untilNs)) continue;
    if (untilNs !== Infinity) this.nowNs = untilNs;
  }
}

/** Somebody on the wire whose frames a test writes and reads. */
export class Probe {
  readonly got: Packet[] = [];
  readonly plug: Plug;
  readonly #receiver = new Ipv4Receiver();
  readonly #lan: TestLan;
  readonly mac: number;
  #id = 0;

  constructor(lan: TestLan, name: string, hardware: number, bridge = 'br0', onFrame?: (packet: Packet) => void) {
    this.#lan = lan;
    this.mac = hardware;
    this.plug = lan.network.plug(bridge, { name, receive: onFrame ?? ((packet) => void this.got.push(packet)) });
  }
  send(bytes: Uint8Array): void {
    this.plug.send({ bytes, checksum: 'none' });
  }
  datagram(toMac: number, source: number, dest: number, protocol: number, payload: Uint8Array): void {
    for (const packet of datagramFrames({ mac: toMac, source, dest, protocol, payload }, this.mac, ++this.#id)) this.plug.send(packet);
  }
  udp(toMac: number, source: number, dest: number, ports: readonly [number, number], data: Uint8Array): void {
    this.datagram(toMac, source, dest, 17, udpPayload(ports, data));
  }
  /** Whole datagrams among the frames received so far, which are forgotten. */
  datagrams(): Datagram[] {
    return this.got.splice(0).map((packet) => this.#receiver.take(packet, this.#lan.nowNs)).filter((datagram) => datagram !== undefined);
  }
}

export function udpPayload([from, to]: readonly [number, number], data: Uint8Array): Uint8Array {
  const payload = new Uint8Array(8 + data.length);
  putU16(payload, 0, from);
  putU16(payload, 2, to);
  putU16(payload, 4, payload.length);
  payload.set(data, 8);
  return payload;
}

/** RFC 826. */
export function arpRequest(senderMac: number, senderIp: number, targetIp: number): Uint8Array {
  const body = new Uint8Array(28);
  body.set([0, 1, 8, 0, 6, 4, 0, 1]);
  putMac(body, 8, senderMac);
  putU32(body, 14, senderIp);
  putU32(body, 24, targetIp);
  return ethernetFrame(0xffff_ffff_ffff, senderMac, ETHERTYPE.arp, body);
}
export const isArpReply = (frame: Uint8Array): boolean => u16At(frame, 12) === ETHERTYPE.arp && u16At(frame, 20) === 2;
export const sourceOf = (frame: Uint8Array): number => macAt(frame, 6);

/** Deterministic bytes (xorshift32). */
export function noise(count: number, seed: number): Uint8Array {
  let state = (seed ^ 0x9e37_79b9) | 1;
  return Uint8Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state & 0xff;
  });
}
