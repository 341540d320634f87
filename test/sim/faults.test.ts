// Faults: each happens where its row says, is an event with a position, replays, and what a correct guest
// survives a correct guest does survive.
import { describe, expect, test } from 'vitest';
import { FAULTS, FAULT_NAMES, type FaultName, type FaultSpec } from '../../src/abi/faults.ts';
import { EVENT } from '../../src/abi/events.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { Switch } from '../../src/dom0/net/switch.ts';
import { FaultInjector } from '../../src/sim/fault-injector.ts';
import { applySettings } from '../../src/sim/settings.ts';
import { SPEC_DEFAULTS } from '../../src/sim/spec.ts';
import { recordBoot, replayBytes } from '../replay/boots.ts';

const withFaults = (...faults: FaultSpec[]) => ({ change: <S extends object>(spec: S): S => ({ ...spec, faults, maxVirtualSec: 60 }) });
const faultsIn = (bytes: Uint8Array): number => [...openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) }).events()].filter((event) => event.kind === EVENT.fault).length;

describe('our guest', () => {
  test.each(['upcall.delay', 'upcall.duplicate', 'upcall.merge', 'hypercall.preempt', 'xenstore.slow', 'clock.jump', 'domain.pause'] as const)('survives %s, and the run replays', async (fault) => {
    const { bytes, world } = await recordBoot('pv-i386-pae', withFaults({ fault, oneIn: 3 }));
    expect(world.ended?.outcome).toBe('poweroff');
    expect(faultsIn(bytes)).toBeGreaterThan(0);
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });

  test('does not survive that an event is lost, which no Xen does', async () => {
    const { bytes, world } = await recordBoot('pv-i386-pae', withFaults({ fault: 'upcall.drop', oneIn: 5 }));
    expect(FAULTS['upcall.drop'].fatal).toBeDefined();
    expect(world.ended?.outcome).not.toBe('poweroff');
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });

  test('sees at most as many faults as the scenario allows', async () => {
    const { bytes } = await recordBoot('pv-i386-pae', withFaults({ fault: 'upcall.delay', oneIn: 1, most: 3 }));
    expect(faultsIn(bytes)).toBe(3);
  });
});

describe('whether a fault happens', () => {
  const injector = (spec: FaultSpec, pick: (options: number) => number) => {
    const asked: number[] = [];
    const made = new FaultInjector([spec], { nowNs: () => 50, choose: (_name, options) => (asked.push(options), pick(options)), happened: () => {} });
    return { made, asked };
  };
  test.each(FAULT_NAMES)('%s: the first option is always a no, the last ones are its arguments', (fault: FaultName) => {
    const { variants } = FAULTS[fault];
    expect(injector({ fault, oneIn: 3 }, () => 0).made.ask(fault, 1)).toBe(0);
    const { made, asked } = injector({ fault, oneIn: 3 }, (options) => options - 1);
    expect(made.ask(fault, 1)).toBe(variants);
    expect(asked).toEqual([3 * variants]);
  });
  test('is not asked for faults that the scenario does not name, nor before their time', () => {
    const { made, asked } = injector({ fault: 'net.lose', oneIn: 2, fromNs: 51 }, (options) => options - 1);
    expect([made.ask('net.lose', 0), made.ask('net.corrupt', 0)]).toEqual([0, 0]);
    expect(asked).toEqual([]);
  });
});

describe('the switch', () => {
  /** Sends frames numbered 0..count-1 from a to b under a fault that happens to frame 2. */
  function received(fault: FaultName, count = 6): number[][] {
    let nowNs = 0;
    let sent = -1;
    const got: number[][] = [];
    const net = new Switch('br', { nowNs: () => nowNs, latencyNs: () => 1000, wakeAt: () => {}, fault: (name) => (name === fault && sent === 2 ? 1 : 0) });
    net.plug({ name: 'a', receive: () => {} });
    net.plug({ name: 'b', receive: (packet) => void got.push([...packet.bytes.subarray(14)]) });
    for (sent = 0; sent < count; sent++) net.send('a', { bytes: Uint8Array.from([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, sent, 0x55]), checksum: 'none' });
    for (; net.nextNs() < Infinity; net.run()) nowNs = net.nextNs();
    return got;
  }
  test('loses, doubles, delays or changes one frame, and leaves the others alone', () => {
    const order = (fault: FaultName): number[] => received(fault).map((payload) => payload[0] as number);
    expect(order('net.lose')).toEqual([0, 1, 3, 4, 5]);
    expect(order('net.duplicate')).toEqual([0, 1, 2, 2, 3, 4, 5]);
    expect(order('net.reorder')).toEqual([0, 1, 3, 4, 5, 2]);
    const changed = received('net.corrupt');
    expect(changed.filter((payload, index) => payload[0] !== index || payload[1] !== 0x55)).toHaveLength(1);
  });
});

test('--set faults names them, and says which there are', () => {
  const spec = { ...SPEC_DEFAULTS, domains: [] };
  expect(applySettings(spec, ['faults=net.lose:10,block.error:100:1']).faults).toEqual([{ fault: 'net.lose', oneIn: 10 }, { fault: 'block.error', oneIn: 100, most: 1 }]);
  expect(applySettings(spec, ['faults=grant.limit:1::2000,net.lose:10:3:5']).faults).toEqual([{ fault: 'grant.limit', oneIn: 1, fromNs: 2e9 }, { fault: 'net.lose', oneIn: 10, most: 3, fromNs: 5e6 }]);
  for (const bad of ['net.loose:10', 'net.lose', 'net.lose:10:', 'net.lose:10:x', 'net.lose:10:1:', 'net.lose:10:1:-1']) expect(() => applySettings(spec, [`faults=${bad}`])).toThrow(/net\.lose, net\.duplicate/);
  expect(() => applySettings(spec, ['faults=net.lose:0'])).toThrow(/faults/);
});
