// The drivers when things go wrong: faults that a correct guest survives, and the races of devices that come
// late, go while they are busy, and come back.
import { describe, expect, test } from 'vitest';
import type { FaultName, FaultSpec } from '../../src/abi/faults.ts';
import { EVENT, FRAME_WAY, valueIndex } from '../../src/abi/events.ts';
import { patternPage, type DriverPlan } from '../../src/guest/drivers/plan.ts';
import type { DomainSpec, InputStep, WorldSpec } from '../../src/sim/spec.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { kernelOf } from '../../src/testing/guest-play.ts';
import type { XenPlatform } from '../../src/guest/xen/index.ts';
import { recordBoot, replayBytes, type Boot } from '../replay/boots.ts';

const DEEP = process.env['REXEN_DEPTH'] === 'long';
const PAGES = 60;
const PLAN: DriverPlan = {
  disks: [{ disk: 'xvda', steps: [{ do: 'write', page: 0, pages: PAGES, value: 1 }, { do: 'check', page: 0, pages: PAGES, value: 1 }, { do: 'write', page: 0, pages: PAGES, value: 2 }, { do: 'flush' }, { do: 'check', page: 0, pages: PAGES, value: 2 }] }],
  nets: [{ vif: 0, ip: '10.77.0.20', steps: [{ do: 'ping', to: '10.77.0.1', times: 5 }] }],
};

const withPlan = (plan: DriverPlan, change: { readonly input?: readonly InputStep[]; readonly faults?: readonly FaultSpec[]; readonly domain?: (domain: DomainSpec) => DomainSpec }) => (spec: WorldSpec): WorldSpec => ({
  ...spec, maxVirtualSec: 120, input: change.input ?? [], ...(change.faults === undefined ? {} : { faults: change.faults }),
  domains: spec.domains.map((domain) => (change.domain ?? ((same) => same))({ ...domain, model: { ...(domain.model as NonNullable<typeof domain.model>), program: [], drivers: plan } })),
});
const command = (after: string, delayNs: number, ofStep: NonNullable<InputStep['command']>): InputStep => ({ domain: 'model', after, delayNs, command: ofStep });

function wrongPages({ world }: Boot, value: number): number[] {
  const disk = world.disk(1, 'xvda');
  return Array.from({ length: PAGES }, (_, page) => page).filter((page) => {
    const found = disk?.read(page * 4096, 4096) ?? new Uint8Array(0);
    return new Uint8Array(patternPage(value, page).buffer).some((byte, at) => byte !== found[at]);
  });
}
const allWell = /xvda: all steps done[^]*every grant and port is back[^]*every frame is back/;

describe('faults', () => {
  const SURVIVABLE: readonly (readonly [FaultName, number])[] = [
    ['upcall.delay', 4], ['upcall.duplicate', 4], ['upcall.merge', 8], ['hypercall.preempt', 4], ['xenstore.again', 3], ['xenstore.slow', 6], ['block.error', 8], ['block.late', 4],
    ['block.short', 6], ['block.reorder', 3], ['grant.grow', 1],
    ['net.lose', 6], ['net.duplicate', 4], ['net.reorder', 6], ['net.corrupt', 6], ['backend.crash', 60], ['backend.rebind', 10], ['grant.map', 40], ['clock.jump', 100], ['domain.pause', 40],
  ];

  test('each alone and all together: no acknowledged write is lost or torn, everything is given back', async () => {
    const plans: FaultSpec[][] = [...SURVIVABLE.map(([fault, oneIn]) => [{ fault, oneIn }]), SURVIVABLE.map(([fault, oneIn]) => ({ fault, oneIn: oneIn * 4 }))];
    const failed: string[] = [];
    const uneventful: string[] = [];
    for (const faults of plans) {
      for (const seed of DEEP ? Array.from({ length: 50 }, (_, index) => `deep${index}`) : ['1']) {
        const happened = new Set<number>();
        const boot = await recordBoot('suspend', {
          seed, change: withPlan(PLAN, { faults }),
          wrap: (sink) => ({ event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
            if (kind === EVENT.fault) happened.add(values[0] as number);
            sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
          } }),
        });
        if (happened.size === 0) uneventful.push(faults.map(({ fault }) => fault).join(' '));
        const name = `${faults.map(({ fault }) => fault).join(' ')}, seed ${seed}`;
        if (boot.world.ended?.outcome !== 'poweroff' || !allWell.test(boot.console) || !boot.console.includes('10.77.0.1 answered 5 pings')) failed.push(`${name}: ${boot.world.ended?.text}\n${boot.console}`);
        else if (wrongPages(boot, 2).length > 0) failed.push(`${name}: pages ${wrongPages(boot, 2).join()} are wrong`);
      }
    }
    expect(failed).toEqual([]);
    if (!DEEP) expect(uneventful).toEqual([]);
  }, 300_000);

  test.each(['block.short', 'block.reorder', 'grant.grow', 'xenstore.slow'] as const)('%s replays exactly', async (fault) => {
    const { bytes } = await recordBoot('suspend', { change: withPlan(PLAN, { faults: [{ fault, oneIn: 2 }] }) });
    expect((await replayBytes(bytes)).verdict).toBe('exact');
  });

  test('three busy disks that find no reference, because Xen gives the grant table no second page, wait for one another', async () => {
    const names = ['xvda', 'xvdb', 'xvdc'];
    const steps = [{ do: 'write', page: 0, pages: 400, value: 1 }, { do: 'check', page: 0, pages: 400, value: 1 }] as const;
    const busy = (faults: readonly FaultSpec[]) => recordBoot('suspend', {
      change: withPlan({ disks: names.map((disk) => ({ disk, steps })) }, { faults, domain: (domain) => ({ ...domain, disks: names.map((vdev) => ({ vdev, mode: 'w' as const, image: { name: 'blank:8MiB' } })) }) }),
    });
    const boot = await busy([{ fault: 'grant.grow', oneIn: 1 }]);
    for (const name of names) expect(boot.console).toContain(`${name}: all steps done`);
    expect(boot.console).toMatch(/every grant and port is back[^]*every frame is back/);
    const refused = (({ bytes }: Boot): number => [...openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) }).events()].filter(({ kind, values }) => kind === EVENT.grantSetup && values[2] === -1).length);
    expect(refused(boot)).toBeGreaterThan(3);
    expect(refused(await busy([]))).toBe(0);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test.each(['block.error', 'block.short'] as const)('%s: a disk that always fails ends the job with a sentence, and everything is given back', async (fault) => {
    const { console } = await recordBoot('suspend', { change: withPlan(PLAN, { faults: [{ fault, oneIn: 1 }] }) });
    expect(console).toMatch(/xvda: write of 60 pages from 0: the disk fails \(10 times\)[^]*every grant and port is back[^]*every frame is back/);
  });

  test('no frame reaches the guest’s sockets twice, whatever its events do', async () => {
    let delivered = 0;
    const toGuest = valueIndex(FRAME_WAY, 'toGuest');
    const { world } = await recordBoot('suspend', {
      change: withPlan({ nets: PLAN.nets ?? [] }, { faults: [{ fault: 'upcall.duplicate', oneIn: 2 }, { fault: 'upcall.merge', oneIn: 5 }] }),
      wrap: (sink) => ({ event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
        if (kind === EVENT.netFrame && values[1] === toGuest) delivered++;
        sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
      } }),
    });
    const received = (kernelOf(world).platform as XenPlatform).devices?.framesReceived(0).length ?? -1;
    expect(delivered).toBeGreaterThan(5);
    expect(received).toBe(delivered);
  });
});

describe('devices that come and go', () => {
  test('a disk that is unplugged while it is busy and plugged in again loses nothing', async () => {
    for (const seed of ['1', '2', '3']) {
      const boot = await recordBoot('suspend', { seed, change: withPlan(PLAN, { input: [command('xvda: 2048 pages', 40_000, { do: 'detach', device: 'xvda' }), command('', 3_000_000, { do: 'attach', device: 'xvda' })] }) });
      expect(boot.console).toMatch(allWell);
      expect(wrongPages(boot, 2)).toEqual([]);
      expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
    }
  });

  test('one that is unplugged for good ends its job with a sentence, not with silence', async () => {
    const { console, world } = await recordBoot('suspend', { change: withPlan(PLAN, { input: [command('xvda: 2048 pages', 40_000, { do: 'detach', device: 'xvda' })] }) });
    expect(console).toMatch(/xvda: .*no answer came in time/);
    expect(console).toMatch(/every grant and port is back/);
    expect(world.ended?.outcome).toBe('poweroff');
  });

  test('back ends that appear late are found', async () => {
    const late = (domain: DomainSpec): DomainSpec => ({ ...domain, disks: (domain.disks ?? []).map((disk) => ({ ...disk, plugged: false })), vifs: (domain.vifs ?? []).map((vif) => ({ ...vif, plugged: false })) });
    const boot = await recordBoot('suspend', { change: withPlan(PLAN, { domain: late, input: [command('Booting', 2_000_000, { do: 'attach', device: 'xvda' }), command('', 1_000_000, { do: 'attach', device: 'vif0' })] }) });
    expect(boot.console).toMatch(allWell);
    expect(boot.console).toMatch(/10\.77\.0\.1 answered 5 pings/);
  });
});
