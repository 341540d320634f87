import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ethernetFrame, putU32, u32At, type Packet } from '../../../src/dom0/net/packet.ts';
import { Switch, type SwitchClock } from '../../../src/dom0/net/switch.ts';
import { PrngStream } from '../../../src/base/prng.ts';

const STATIONS = 4;
const macOf = (station: number): number => 0x0016_3e00_0000 + station + 1;

interface Arrival {
  readonly at: number;
  readonly from: number;
  readonly number: number;
  readonly ns: number;
}

/** Stations on one switch; frames carry their sender and a number. */
class Bench implements SwitchClock {
  now = 0;
  readonly lan = new Switch('br0', this);
  readonly arrivals: Arrival[] = [];
  readonly chance: PrngStream;
  #sent = 0;

  constructor(seed: string) {
    this.chance = new PrngStream(seed, 'latency');
    for (let at = 0; at < STATIONS; at++) {
      this.lan.plug({
        name: `s${at}`,
        receive: ({ bytes }) => void this.arrivals.push({ at, from: (bytes[11] as number) - 1, number: u32At(bytes, 14), ns: this.now }),
      });
    }
  }
  nowNs(): number {
    return this.now;
  }
  latencyNs(): number {
    return (1 + this.chance.below(16)) * 1000;
  }
  wakeAt(): void {}

  send(from: number, dest: number, source = macOf(from)): number {
    const payload = new Uint8Array(46);
    putU32(payload, 0, ++this.#sent);
    this.lan.send(`s${from}`, { bytes: ethernetFrame(dest, source, 0x88b5, payload), checksum: 'none' });
    return this.#sent;
  }
  settle(): void {
    while (this.lan.nextNs() !== Infinity) {
      this.now = Math.max(this.now, this.lan.nextNs());
      this.lan.run();
    }
  }
  /** Who got frame `number`. */
  receivers(number: number): number[] {
    return this.arrivals.filter((row) => row.number === number).map((row) => row.at);
  }
}

describe('the switch', () => {
  test('learns: an unknown station is looked for everywhere, a known one is not', () => {
    const bench = new Bench('a');
    const first = bench.send(0, macOf(2));
    bench.settle();
    expect(bench.receivers(first)).toEqual([1, 2, 3]);
    const answer = bench.send(2, macOf(0));
    bench.settle();
    expect(bench.receivers(answer)).toEqual([0]);
    const again = bench.send(0, macOf(2));
    bench.settle();
    expect(bench.receivers(again)).toEqual([2]);
    const all = bench.send(0, 0xffff_ffff_ffff);
    const group = bench.send(0, 0x3333_0000_0001);
    bench.settle();
    expect(bench.receivers(all)).toEqual([1, 2, 3]);
    expect(bench.receivers(group)).toEqual([1, 2, 3]);
  });

  test('an address that was not heard for 300 s is looked for again; a station may move', () => {
    const bench = new Bench('b');
    bench.send(2, macOf(0));
    bench.settle();
    bench.now += 301e9;
    const old = bench.send(0, macOf(2));
    bench.settle();
    expect(bench.receivers(old)).toEqual([1, 2, 3]);
    bench.send(3, macOf(0), macOf(2));
    bench.settle();
    const moved = bench.send(1, macOf(2));
    bench.settle();
    expect(bench.receivers(moved)).toEqual([3]);
  });

  test('forwards neither what comes from nobody, nor what is for neighbours only, nor to where it came from', () => {
    const bench = new Bench('c');
    const odd = [bench.send(0, macOf(1), 0), bench.send(0, macOf(1), 0x0100_0000_0001), bench.send(0, 0x0180_c200_000e)];
    bench.lan.send('s0', { bytes: new Uint8Array(13), checksum: 'none' });
    bench.settle();
    expect(odd.map((number) => bench.receivers(number))).toEqual([[], [], []]);
    bench.send(0, macOf(1));
    bench.settle();
    const toItself = bench.send(0, macOf(0));
    bench.settle();
    expect(bench.receivers(toItself)).toEqual([]);
  });

  test('what an unplugged station sent still arrives, and nobody is found where it was', () => {
    const bench = new Bench('d');
    bench.send(1, macOf(0));
    bench.settle();
    const last = bench.send(1, macOf(0));
    bench.lan.unplug('s1');
    bench.settle();
    expect(bench.receivers(last)).toEqual([0, 2, 3]);
    const lost = bench.send(0, macOf(1));
    bench.settle();
    expect(bench.receivers(lost)).toEqual([2, 3]);
  });

  const traffic = fc.array(fc.record({ from: fc.nat(STATIONS - 1), to: fc.nat(STATIONS), waitNs: fc.oneof(fc.constant(0), fc.nat(20_000)) }), { maxLength: 60 });

  test('no frame is lost, doubled or overtaken; equal seeds deliver at equal times', () => {
    fc.assert(fc.property(traffic, fc.string(), (sends, seed) => {
      const play = (): { bench: Bench; expected: Map<string, number[]> } => {
        const bench = new Bench(seed);
        const expected = new Map<string, number[]>();
        for (const { from, to, waitNs } of sends) {
          const number = bench.send(from, to === STATIONS ? 0xffff_ffff_ffff : macOf(to));
          for (let at = 0; at < STATIONS; at++) if (at !== from && (to === STATIONS || to === at)) expected.set(`${from}>${at}`, [...(expected.get(`${from}>${at}`) ?? []), number]);
          bench.now += waitNs;
          bench.lan.run();
        }
        bench.settle();
        return { bench, expected };
      };
      const { bench, expected } = play();
      const forMe = new Set([...expected.values()].flat());
      for (let from = 0; from < STATIONS; from++) {
        for (let at = 0; at < STATIONS; at++) {
          const meant = new Set(expected.get(`${from}>${at}`) ?? []);
          const got = bench.arrivals.filter((row) => row.from === from && row.at === at && meant.has(row.number)).map((row) => row.number);
          expect(got).toEqual([...meant]);
        }
      }
      expect(new Set(bench.arrivals.map((row) => `${row.at}:${row.number}`)).size).toBe(bench.arrivals.length);
      expect(forMe.size).toBeLessThanOrEqual(sends.length);
      expect(play().bench.arrivals).toEqual(bench.arrivals);
    }), { seed: 4, numRuns: 150 });
  });

  test('its state can be saved and read back with frames under way', () => {
    fc.assert(fc.property(traffic, fc.nat(60), (sends, cut) => {
      const play = (restart: boolean): Arrival[] => {
        let bench = new Bench('s');
        sends.forEach(({ from, to, waitNs }, index) => {
          if (restart && index === cut % (sends.length + 1)) {
            const next = new Bench('s');
            next.lan.restore(JSON.parse(JSON.stringify(bench.lan.save())));
            next.now = bench.now;
            next.chance.restoreState(bench.chance.saveState());
            next.arrivals.push(...bench.arrivals);
            bench = Object.assign(next);
          }
          bench.lan.send(`s${from}`, numbered(from, to, index));
          bench.now += waitNs;
          bench.lan.run();
        });
        bench.settle();
        return bench.arrivals;
      };
      expect(play(true)).toEqual(play(false));
    }), { seed: 5, numRuns: 60 });
  });

  test('a station that makes up addresses does not fill memory', () => {
    const bench = new Bench('e');
    for (let i = 0; i < 3000; i++) bench.send(0, macOf(1), 0x0200_0000_0000 + i);
    bench.settle();
    expect((bench.lan.save() as { heard: unknown[] }).heard).toHaveLength(1024);
  });
});

function numbered(from: number, to: number, number: number): Packet {
  const payload = new Uint8Array(46);
  putU32(payload, 0, number);
  return { bytes: ethernetFrame(to === STATIONS ? 0xffff_ffff_ffff : macOf(to), macOf(from), 0x88b5, payload), checksum: 'none' };
}
