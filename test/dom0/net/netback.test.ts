import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../../src/abi/events.ts';
import { sameBytes } from '../../../src/base/hash.ts';
import { Netback } from '../../../src/dom0/netback.ts';
import { completed } from '../../../src/dom0/net/offload.ts';
import { ethernetFrame, parseMac, u16At, type Packet } from '../../../src/dom0/net/packet.ts';
import type { SwitchClient } from '../../../src/dom0/net/switch.ts';
import { checksumHolds, findTransport } from '../../../src/dom0/net/transport.ts';
import { backendPath } from '../../../src/dom0/device-spec.ts';
import { XENBUS_STATE } from '../../../src/abi/xenbus.ts';
import { DeviceHost, GUEST } from '../device-host.ts';
import { tcpPacket } from './frames.ts';
import { noise, TestLan } from './lan.ts';
import { LINUX_FEATURES, Netfront, PLAIN_FEATURES, vifConfig, type FrontOptions } from './netfront.ts';

const MAC = '00:16:3e:00:00:01';

/** One interface; the switch is a list of what was sent. */
class Bench {
  readonly sent: Packet[] = [];
  client: SwitchClient | undefined;
  readonly host: DeviceHost;
  readonly front: Netfront;

  constructor(options: FrontOptions = {}) {
    const device = vifConfig(MAC);
    this.host = new DeviceHost([device], (port) => new Netback(device, port, (client) => {
      this.client = client;
      return { send: (packet) => void this.sent.push(packet), unplug: () => void (this.client = undefined) };
    }));
    this.host.toolstack.buildDevices(GUEST);
    this.host.settle();
    this.front = new Netfront(this.host, options);
  }
  connected(): this {
    this.front.connect();
    if (this.host.readBack('state') !== String(XENBUS_STATE.connected)) throw new Error(`not connected: ${this.error()}`);
    return this;
  }
  error(): string | undefined {
    return this.host.store.readAsDom0(`/local/domain/0/error/${backendPath(GUEST, vifConfig(MAC)).replace('/local/domain/0/', '')}/error`);
  }
  notes(): string[] {
    return this.host.emitted.filter(({ kind }) => kind === EVENT.backendNote).map(({ bytes }) => new TextDecoder().decode(bytes));
  }
  settle(): void {
    this.host.settle();
    this.front.poll();
  }
}

const frame = (payload: number, seed = 1): Uint8Array => ethernetFrame(2, 4, 0x88b5, noise(payload, seed));
const plain = (payload: number, seed = 1): Packet => ({ bytes: frame(payload, seed), checksum: 'none' });
const summary = (packets: readonly Packet[]): unknown[] => packets.map(({ bytes, checksum, gso }) => [bytes.length, checksum, gso?.type, gso?.size]);

describe('connecting', () => {
  test('says what it can, and connects to two channels or one', () => {
    const bench = new Bench();
    const says = (name: string) => bench.host.readBack(name);
    expect(['feature-sg', 'feature-gso-tcpv4', 'feature-gso-tcpv6', 'feature-ipv6-csum-offload', 'feature-rx-copy', 'feature-rx-flip', 'feature-split-event-channels', 'multi-queue-max-queues'].map(says)).toEqual(['1', '1', '1', '1', '1', '0', '1', '1']);
    expect(says('state')).toBe(String(XENBUS_STATE.initWait));
    bench.connected();
    expect([...bench.host.bound]).toEqual([7, 8]);
    const single = new Bench({ split: false }).connected();
    expect([...single.host.bound]).toEqual([7]);
    single.front.send(plain(100));
    single.settle();
    expect(summary(single.sent)).toEqual([[114, 'none', undefined, undefined]]);
  });

  test.each<[string, Readonly<Record<string, number | string>>, string]>([
    ['no copies', { 'feature-rx-notify': 1 }, 'the frontend does not ask for copies'],
    ['several queues', { ...LINUX_FEATURES, 'multi-queue-num-queues': 2 }, 'guest requested 2 queues, exceeding the maximum of 1'],
    ['a ring that is not granted', { ...LINUX_FEATURES, 'rx-ring-ref': 77 }, 'mapping shared-frames 1/77 port tx 7 rx 8'],
    ['no number', { ...LINUX_FEATURES, 'tx-ring-ref': 'x' }, 'reading /local/domain/1/device/vif/0/ring-ref'],
    ['a channel that is not there', { ...LINUX_FEATURES, 'event-channel-rx': 99 }, 'mapping shared-frames 1/2 port tx 7 rx 99'],
  ])('%s: refused, in one sentence, and nothing is kept', (_what, features, problem) => {
    const bench = new Bench({ features });
    bench.front.connect();
    expect(bench.error()).toContain(problem);
    expect(bench.host.readBack('state')).toBe(String(XENBUS_STATE.closing));
    expect([bench.host.mapped.size, bench.host.bound.size]).toEqual([0, 0]);
  });

  test('gives everything back when the frontend closes, and connects again', () => {
    const bench = new Bench().connected();
    bench.host.writeFront('state', XENBUS_STATE.closing);
    bench.host.settle();
    bench.host.writeFront('state', XENBUS_STATE.closed);
    bench.host.settle();
    expect([bench.host.mapped.size, bench.host.bound.size, bench.client]).toEqual([0, 0, undefined]);
    bench.host.writeFront('state', XENBUS_STATE.initialising);
    bench.host.settle();
    const again = new Netfront(bench.host);
    again.connect();
    again.send(plain(60));
    bench.host.settle();
    expect(bench.sent).toHaveLength(1);
  });
});

describe('sending', () => {
  test('packets arrive whole however they are cut into slots, and every slot is answered once', () => {
    const packets = fc.array(fc.record({ payload: fc.integer({ min: 0, max: 1500 }), cuts: fc.array(fc.integer({ min: 15, max: 700 }), { maxLength: 10 }), offset: fc.nat(2000), gso: fc.boolean() }), { minLength: 1, maxLength: 12 });
    fc.assert(fc.property(packets, fc.constantFrom(0, 0xffff_fff0), (list, firstIndex) => {
      const bench = new Bench({ firstIndex }).connected();
      const expected = list.map(({ payload, gso }, at): Packet => (gso ? { bytes: tcpPacket({ version: 4, tcpOptionWords: 0, payload: payload * 10, flags: 16, seq: at }), checksum: 'blank', gso: { type: 'tcpv4', size: 1448 } } : plain(payload, at)));
      let slots = 0;
      list.forEach(({ cuts, offset }, at) => {
        const packet = expected[at] as Packet;
        const few = packet.gso === undefined ? cuts : [];
        slots += bench.front.slotsFor(packet, few, offset).length;
        bench.front.send(packet, few, offset);
        if (bench.front.room < 24) bench.settle();
      });
      bench.settle();
      expect(summary(bench.sent)).toEqual(summary(expected));
      expect(bench.sent.every(({ bytes }, at) => sameBytes(bytes, (expected[at] as Packet).bytes))).toBe(true);
      expect(bench.front.answers).toHaveLength(slots);
      expect(bench.front.answers.every(({ id, status }, at) => id === at && status === 0)).toBe(true);
      expect(bench.front.nulls).toBe(expected.filter(({ gso }) => gso !== undefined).length);
      expect(bench.front.room).toBe(256);
      expect(bench.notes()).toEqual([]);
    }), { seed: 9, numRuns: 60 });
  });

  test('rings when asked to and not otherwise', () => {
    const bench = new Bench().connected();
    const rung = (): number => bench.host.notified.get(7) ?? 0;
    for (let i = 0; i < 3; i++) bench.front.send(plain(60));
    bench.host.settle();
    expect(rung()).toBe(1);
    // Nobody looked at the answers: rsp_event lies behind, more answers ring no bell.
    bench.front.send(plain(60));
    bench.host.settle();
    expect(rung()).toBe(1);
    bench.front.poll();
    expect(bench.front.push(), 'req_event asks for the next request only').toBe(false);
    bench.front.send(plain(60));
    bench.host.settle();
    expect(rung()).toBe(2);
  });

  test('checksum flags say who looked; a blank one without a header to fill in is dropped', () => {
    const bench = new Bench().connected();
    const tcp = tcpPacket({ version: 4, tcpOptionWords: 0, payload: 10, flags: 16, seq: 1 });
    bench.front.send({ bytes: tcp, checksum: 'blank' });
    bench.front.send({ bytes: tcp, checksum: 'validated' });
    bench.front.send({ bytes: frame(60), checksum: 'blank' });
    bench.settle();
    expect(bench.sent.map(({ checksum }) => checksum)).toEqual(['blank', 'validated']);
    expect(bench.notes()).toEqual(['vif1.0: not sent: a checksum is asked for where no TCP or UDP header is']);
    expect(bench.front.answers.map(({ status }) => status)).toEqual([0, 0, 0]);
  });

  test('a bad grant, a packet without a header, a slot larger than the packet, too many slots: that packet is lost, the next is not', () => {
    const bench = new Bench().connected();
    const { front } = bench;
    front.request({ gref: 4242, offset: 0, flags: 0, size: 60 });
    front.request({ gref: 4242, offset: 0, flags: 0, size: 13 });
    front.request({ gref: 4242, offset: 0, flags: 4, size: 60 });
    front.request({ gref: 4242, offset: 0, flags: 0, size: 61 });
    for (let i = 0; i < 20; i++) front.request({ gref: 4242, offset: 0, flags: i < 19 ? 4 : 0, size: i === 0 ? 2000 : 60 });
    front.push();
    bench.settle();
    front.send(plain(60));
    bench.settle();
    expect(front.answers.map(({ status }) => status)).toEqual([...Array.from({ length: 24 }, () => -1), 0]);
    expect(bench.sent).toHaveLength(1);
    expect(bench.notes().map((note) => note.replace('vif1.0: not sent: ', ''))).toEqual([
      'grant copy failed! status: -3 ref: 4242', 'bad packet size: 13', 'invalid tx request, slot size 61 > remaining size 60', 'too many slots (18) exceeding limit (18), dropping packet',
    ]);
  });

  test.each<[string, (front: Netfront) => void, string]>([
    ['a slot across a page', (front) => front.request({ gref: 1, offset: 4090, flags: 0, size: 60 }), 'first.offset: 4090, size: 60 cross a page'],
    ['a further slot across a page', (front) => { front.request({ gref: 1, offset: 0, flags: 4, size: 200 }); front.request({ gref: 1, offset: 4000, flags: 0, size: 100 }); }, 'cross page boundary, offset: 4000, size: 100'],
    ['more slots than it shows', (front) => front.request({ gref: 1, offset: 0, flags: 4, size: 200 }), 'asked for more than the 0 further slots there are'],
    ['endless slots', (front) => { for (let i = 0; i < 30; i++) front.request({ gref: 1, offset: 0, flags: 4, size: i === 0 ? 3000 : 10 }); }, 'malicious frontend using 20 slots, threshold 20'],
    ['no extra info', (front) => front.request({ gref: 1, offset: 0, flags: 8, size: 200 }), 'missing extra info'],
    ['extra info of no type', (front) => { front.request({ gref: 1, offset: 0, flags: 8, size: 200 }); front.extra(9, 0, []); }, 'invalid extra type: 9'],
    ['segments of nothing', (front) => { front.request({ gref: 1, offset: 0, flags: 8, size: 200 }); front.extra(1, 0, [0, 0, 1]); }, 'GSO size must not be zero'],
    ['segments of no type', (front) => { front.request({ gref: 1, offset: 0, flags: 8, size: 200 }); front.extra(1, 0, [100, 0, 7]); }, 'bad GSO type 7'],
    ['a producer far ahead', (front) => { for (let i = 0; i < 300; i++) front.request({ gref: 1, offset: 0, flags: 0, size: 60 }); }, 'impossible number of requests'],
  ])('%s: the interface is shut, and why is in the log', (_what, misbehave, why) => {
    const bench = new Bench().connected();
    misbehave(bench.front);
    bench.front.push();
    bench.host.kick();
    bench.host.settle();
    expect(bench.notes()).toEqual([`vif1.0: ${why}; fatal error; disabling device`]);
    expect(bench.client, 'it is no longer on the switch').toBeUndefined();
    bench.front.send(plain(60));
    bench.host.kick();
    bench.host.settle();
    expect(bench.sent).toEqual([]);
    // The frontend may begin anew.
    for (const state of [XENBUS_STATE.closing, XENBUS_STATE.closed, XENBUS_STATE.initialising]) {
      bench.host.writeFront('state', state);
      bench.host.settle();
    }
    expect([bench.host.mapped.size, bench.host.bound.size]).toEqual([0, 0]);
    const again = new Netfront(bench.host);
    again.connect();
    again.send(plain(60));
    bench.host.settle();
    expect(bench.sent).toHaveLength(1);
  });

  test('whatever stands in the ring, the back end neither falls over nor writes where it may not', () => {
    const word = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 2, 4, 8, 12, 13, 14, 60, 1514, 4095, 4096, 0xffff));
    const slot = fc.oneof(
      fc.record({ kind: fc.constant('request' as const), gref: fc.constantFrom(1, 2, 1000, 4242, 0xffff_ffff), offset: fc.constantFrom(0, 10, 4090, 0xffff), flags: fc.nat(15), size: word }),
      fc.record({ kind: fc.constant('extra' as const), type: fc.nat(7), flags: fc.nat(1), bytes: fc.array(fc.nat(255), { minLength: 6, maxLength: 6 }) }),
    );
    fc.assert(fc.property(fc.array(slot, { maxLength: 60 }), fc.nat(4), (slots, jump) => {
      const bench = new Bench().connected();
      bench.host.grant(1000, undefined, true);
      for (const row of slots) {
        if (row.kind === 'request') bench.front.request(row);
        else bench.front.extra(row.type, row.flags, row.bytes);
      }
      bench.front.push();
      if (jump === 0) bench.front.tx.writeU32(0, 0x8000_0000);
      bench.host.kick();
      bench.host.settle();
      for (const packet of bench.sent) expect(packet.bytes.length).toBeGreaterThanOrEqual(14);
      expect(bench.host.mapped.size).toBe(2);
    }), { seed: 10, numRuns: 300 });
  });
});

describe('receiving', () => {
  test('what was negotiated passes as it is; else segments are cut and checksums filled in', () => {
    const large: Packet = { bytes: tcpPacket({ version: 4, tcpOptionWords: 3, payload: 20_000, flags: 0x18, seq: 7 }), checksum: 'blank', gso: { type: 'tcpv4', size: 1448 } };
    const small: Packet = { bytes: tcpPacket({ version: 6, tcpOptionWords: 0, payload: 100, flags: 0x18, seq: 8 }), checksum: 'blank' };
    const linux = new Bench().connected();
    linux.client?.receive(large);
    linux.client?.receive(small);
    linux.settle();
    expect(summary(linux.front.received)).toEqual(summary([large, small]));
    expect(sameBytes(linux.front.received[0]?.bytes as Uint8Array, large.bytes)).toBe(true);
    const old = new Bench({ features: PLAIN_FEATURES }).connected();
    old.client?.receive(large);
    old.client?.receive(small);
    old.settle();
    expect(old.front.received).toHaveLength(15);
    for (const { bytes, checksum, gso } of old.front.received) {
      const transport = findTransport(bytes);
      expect([checksum, gso, transport !== undefined && checksumHolds(bytes, transport, transport.at + 16)]).toEqual(['none', undefined, true]);
    }
    expect(sameBytes(old.front.received[14]?.bytes as Uint8Array, completed(small))).toBe(true);
  });

  test('a packet waits until there are buffers for all of it', () => {
    const bench = new Bench({ buffers: 0 }).connected();
    const large: Packet = { bytes: tcpPacket({ version: 4, tcpOptionWords: 0, payload: 9000, flags: 0x18, seq: 7 }), checksum: 'blank', gso: { type: 'tcpv4', size: 1448 } };
    bench.client?.receive(large);
    bench.client?.receive(plain(60));
    expect(bench.front.post(3), 'one buffer may be enough for the next packet').toBe(true);
    bench.host.kick();
    bench.host.settle();
    bench.front.poll(false);
    expect(bench.front.received).toEqual([]);
    expect(bench.front.post(1), 'it asked to hear of the next one').toBe(true);
    bench.host.kick();
    bench.host.settle();
    bench.front.poll(false);
    expect(summary(bench.front.received)).toEqual(summary([large]));
    bench.front.post(1);
    bench.host.kick();
    bench.host.settle();
    bench.front.poll(false);
    expect(bench.front.received).toHaveLength(2);
  });

  test('a guest that posts no buffers fills a bounded queue; the rest is dropped, and said', () => {
    const bench = new Bench({ buffers: 0 }).connected();
    for (let i = 0; i < 1000; i++) bench.client?.receive(plain(1500, i));
    const dropped = bench.notes();
    expect(dropped.length).toBe(1000 - Math.ceil((256 * 4096) / 1514));
    expect(dropped[0]).toContain('bytes wait already');
    // Ten seconds later nobody wants the rest any more.
    bench.host.settle(bench.host.nowNs + 10e9);
    bench.front.post(100);
    bench.host.kick();
    bench.host.settle();
    bench.front.poll();
    expect(bench.front.received).toHaveLength(100);
    expect(bench.notes().at(-1)).toContain('packets found no buffer in time');
  });

  test('a frontend that does not say when it posts buffers is looked after while something waits', () => {
    const bench = new Bench({ buffers: 0, features: { 'request-rx-copy': 1 } }).connected();
    bench.client?.receive(plain(60));
    bench.front.post(1);
    bench.host.settle(bench.host.nowNs + 29_000_000);
    bench.front.poll(false);
    expect(bench.front.received).toHaveLength(0);
    bench.host.settle(bench.host.nowNs + 1_000_001);
    bench.front.poll(false);
    expect(bench.front.received).toHaveLength(1);
    expect(bench.host.step(), 'nothing waits: nobody looks').toBe(false);
  });

  test('multicast is filtered for who asks for it', () => {
    const group = (last: number): Packet => ({ bytes: ethernetFrame(0x0100_5e00_0000 + last, 4, 0x88b5, noise(60, last)), checksum: 'none' });
    const bench = new Bench({ features: { ...LINUX_FEATURES, 'request-multicast-control': 1 } }).connected();
    const want = (last: number, type: 2 | 3): void => {
      bench.front.request({ gref: 0, offset: 0, flags: 8, size: 0 });
      bench.front.extra(type, 0, [1, 0, 0x5e, 0, 0, last]);
      bench.front.push();
      bench.settle();
    };
    want(1, 2);
    for (const last of [1, 2]) bench.client?.receive(group(last));
    bench.client?.receive({ bytes: ethernetFrame(0xffff_ffff_ffff, 4, 0x88b5, noise(60, 3)), checksum: 'none' });
    bench.settle();
    expect(bench.front.received.map(({ bytes }) => u16At(bytes, 4))).toEqual([1, 0xffff]);
    want(1, 3);
    bench.client?.receive(group(1));
    bench.settle();
    expect(bench.front.received).toHaveLength(2);
    expect(bench.front.answers.every(({ status }) => status === 0)).toBe(true);
    expect(bench.front.nulls).toBe(2);
    for (let last = 0; last < 70; last++) want(last, 2);
    expect(bench.front.answers.filter(({ status }) => status === -1)).toHaveLength(6);
  });

  test('a buffer that is not granted is answered as an error', () => {
    const bench = new Bench({ buffers: 4 }).connected();
    bench.host.grants.delete(5000);
    bench.client?.receive(plain(60));
    bench.host.settle();
    expect(() => bench.front.poll()).toThrow('buffer 0 in slot 0 has status -1');
  });
});

test('an interface goes on from a saved state: rings, what waits, what was agreed', () => {
  const play = (restart: boolean): unknown => {
    const bench = new Bench({ buffers: 2, firstIndex: 0xffff_fffe, features: { ...LINUX_FEATURES, 'request-multicast-control': 1 } }).connected();
    bench.front.request({ gref: 0, offset: 0, flags: 8, size: 0 });
    bench.front.extra(2, 0, [1, 0, 0x5e, 0, 0, 9]);
    bench.front.send(plain(60));
    bench.settle();
    for (let i = 0; i < 6; i++) bench.client?.receive(plain(100 + i, i));
    if (restart) {
      // What the frontend writes after it has connected does not count, before or after.
      bench.host.writeFront('feature-gso-tcpv4', 0);
      bench.host.writeFront('request-multicast-control', 0);
      bench.host.restart();
    }
    bench.front.poll();
    bench.front.send(plain(61));
    bench.front.post(20);
    bench.host.kick();
    bench.settle();
    bench.client?.receive({ bytes: tcpPacket({ version: 4, tcpOptionWords: 0, payload: 9000, flags: 0x18, seq: 7 }), checksum: 'blank', gso: { type: 'tcpv4', size: 1448 } });
    for (const last of [8, 9]) bench.client?.receive({ bytes: ethernetFrame(0x0100_5e00_0000 + last, 4, 0x88b5, noise(60, last)), checksum: 'none' });
    bench.settle();
    return [summary(bench.sent), summary(bench.front.received), bench.front.answers, bench.front.nulls];
  };
  expect(play(true)).toEqual(play(false));
  expect((play(true) as unknown[][])[1]).toHaveLength(8);
});

describe('two interfaces on one switch', () => {
  /** Two frontends, each in its own DeviceHost, on one clock. */
  function pair(seed: string, options: readonly [FrontOptions, FrontOptions]) {
    const lan = new TestLan([{ name: 'br0', gateway: false }], [], seed);
    const hosts = [0, 1].map((at) => {
      const device = vifConfig(`00:16:3e:00:00:0${at + 1}`, at);
      const host = new DeviceHost([device], (port) => new Netback(device, port, (client) => lan.network.plug('br0', client)));
      host.toolstack.buildDevices(GUEST);
      host.settle();
      return host;
    }) as [DeviceHost, DeviceHost];
    const fronts = hosts.map((host, at) => new Netfront(host, options[at] as FrontOptions)) as [Netfront, Netfront];
    for (const front of fronts) front.connect();
    lan.nowNs = hosts[0].nowNs = hosts[1].nowNs = Math.max(hosts[0].nowNs, hosts[1].nowNs);
    const advance = (ns: number): void => {
      const until = lan.nowNs + ns;
      for (let now = lan.nowNs; now <= until; now += 1000) {
        for (const host of hosts) host.settle(now);
        lan.settle(now);
        for (const front of fronts) front.poll();
      }
    };
    return { fronts, hosts, advance };
  }
  const macOf = (at: number): number => parseMac(`00:16:3e:00:00:0${at + 1}`) as number;

  test('no frame is lost, doubled, damaged or overtaken', () => {
    const burst = fc.array(fc.record({ from: fc.nat(1), payload: fc.integer({ min: 0, max: 12_000 }), version: fc.constantFrom<4 | 6>(4, 6), waitNs: fc.nat(30_000) }), { minLength: 1, maxLength: 20 });
    const shapes = fc.constantFrom<FrontOptions>({}, { features: PLAIN_FEATURES, split: false }, { firstIndex: 0xffff_ffc0 });
    fc.assert(fc.property(burst, fc.string(), shapes, shapes, (sends, seed, left, right) => {
      const { fronts, hosts, advance } = pair(seed, [left, right]);
      const expected: [Uint8Array[], Uint8Array[]] = [[], []];
      sends.forEach(({ from, payload, version, waitNs }, at) => {
        const bytes = tcpPacket({ version, tcpOptionWords: 0, payload, flags: 0x10, seq: at * 20_000, dest: macOf(1 - from), source: macOf(from) });
        const isLarge = bytes.length > 1514;
        fronts[from as 0 | 1].send({ bytes, checksum: 'blank', ...(isLarge ? { gso: { type: version === 4 ? 'tcpv4' : 'tcpv6', size: 1400 } } : {}) });
        expected[1 - from as 0 | 1].push(bytes);
        advance(waitNs);
      });
      advance(200_000);
      for (const at of [0, 1] as const) {
        // What came in segments is joined again: same bytes of payload, in the same order.
        const payloads = (list: readonly Uint8Array[]): number[] => list.flatMap((bytes) => [...bytes.subarray((findTransport(bytes)?.at ?? 0) + 20)]);
        const got = payloads(fronts[at].received.map(({ bytes }) => bytes));
        const meant = payloads(expected[at]);
        expect(got.length).toBe(meant.length);
        expect(got.every((byte, index) => byte === meant[index])).toBe(true);
        for (const packet of fronts[at].received) {
          const whole = completed(packet);
          const transport = findTransport(whole);
          expect(packet.gso !== undefined || (transport !== undefined && checksumHolds(whole, transport, transport.at + 16))).toBe(true);
        }
      }
      expect(hosts.flatMap((host) => host.emitted).filter(({ kind }) => kind === EVENT.backendNote)).toEqual([]);
    }), { seed: 11, numRuns: 25 });
  });
});
