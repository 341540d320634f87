// The paravirt_ops guest boots on the shadow-paging host in both shapes under all three interfaces; its
// recordings replay exactly, and mistakes in how a host keeps shadows are found.
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import type { ShadowPager } from '../../src/shadow/pager.ts';
import type { DomainSpec } from '../../src/sim/spec.ts';
import type { World } from '../../src/sim/world.ts';
import { GUEST_SETUPS, guestProblems } from '../../src/testing/index.ts';
import { recordBoot, replayBytes } from '../replay/boots.ts';
import { MISTAKES, PROGRAMS } from './mistakes.ts';

const NAMES = ['lguest', 'vmi', 'kvm'].flatMap((backend) => ['pae', 'nopae'].map((paging) => `boot-${paging}-${backend}`));

/** Events of a boot as text, with the log's own positions. */
async function eventsOf(name: string, timesliceInsns: number): Promise<{ readonly text: string; readonly kinds: ReadonlyMap<number, number>; readonly whats: ReadonlySet<number> }> {
  const events: string[] = [];
  const kinds = new Map<number, number>();
  const whats = new Set<number>();
  await recordBoot(name, {
    change: (spec) => ({ ...spec, timesliceInsns, digestEveryInsns: 0 }),
    wrap: (sink) => ({
      event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
        events.push(`${kind} ${retired} ${nowNs} ${values.join()}`);
        kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
        if (kind === EVENT.shadowFault) whats.add(values[2] as number);
        sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
      },
    }),
  });
  return { text: events.join('\n'), kinds, whats };
}

describe.each(NAMES)('%s', (name) => {
  test('boots, forks, copies on write, leaves every frame behind, and replays exactly with any seed', async () => {
    for (const seed of ['1', '2']) {
      const { bytes, console, world } = await recordBoot(name, { seed });
      expect(world.ended?.outcome).toBe('poweroff');
      expect(console).toMatch(new RegExp(`Booting paravirtualized kernel on ${name.split('-')[2]}\r\nchild\r\nparent\r\nall processes have ended; every frame is back`));
      expect((await replayBytes(bytes)).verdict).toBe('exact');
    }
  });

  test('does the same at the same instructions however often the scheduler looks, and the log tells of it', async () => {
    const first = await eventsOf(name, 1_000_000);
    expect((await eventsOf(name, 1_237)).text).toBe(first.text);
    expect(first.kinds.get(EVENT.shadowFault)).toBeGreaterThan(50);
    expect(first.kinds.get(EVENT.shadowCall)).toBeGreaterThan(50);
    // filled, the guest's own; emulated where stores trap.
    expect([...first.whats].sort((a, b) => a - b)).toEqual(name.endsWith('kvm') ? [0, 1, 2] : [0, 1]);
  });
});

describe('a host with a mistake', () => {
  test.each(MISTAKES)('that %s is found', (_what, backends, plant) => {
    for (const setup of GUEST_SETUPS.filter(({ backend }) => backends.includes(backend))) {
      const prepare = (world: World): void => plant((world.hosts.get(1) as { pager: ShadowPager }).pager);
      expect(PROGRAMS.flatMap((program) => guestProblems(program, [setup])), setup.name).toEqual([]);
      expect(PROGRAMS.flatMap((program) => guestProblems(program, [setup], { prepare })).length, setup.name).toBeGreaterThan(0);
    }
  });
});

test('a guest on shadow tables has a world to itself and no devices of dom0’s', async () => {
  await expect(recordBoot('boot-pae-lguest', { change: (spec) => ({ ...spec, domains: [...spec.domains, { ...(spec.domains[0] as DomainSpec), name: 'other' }] }) })).rejects.toThrow(/such a guest has a world to itself/);
  await expect(recordBoot('boot-pae-kvm', { change: (spec) => ({ ...spec, domains: [{ ...(spec.domains[0] as DomainSpec), vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }] }] }) })).rejects.toThrow(/no disks and no network/);
  await expect(recordBoot('boot-pae-kvm', { change: (spec) => ({ ...spec, domains: [{ ...(spec.domains[0] as DomainSpec), memoryMib: 2 }] }) })).rejects.toThrow(/needs at least 4 MiB/);
});
