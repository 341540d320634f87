// A domain that ends, and one that is saved and restored, with devices: what dom0 and Xen hold of it.
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { START_INFO_32 } from '../../src/abi/start-info.ts';
import { checkAll, violationText } from '../../src/checkers/index.ts';
import { blankImage } from '../../src/dom0/disk.ts';
import { parseKernel, type KernelImage } from '../../src/hypervisor/build/kernel-image.ts';
import type { Domain } from '../../src/hypervisor/domain.ts';
import { entryCount } from '../../src/hypervisor/grant-table.ts';
import { crashDomain, shutdownDomain } from '../../src/hypervisor/vcpu-state.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { SPEC_DEFAULTS, type DomainSpec } from '../../src/sim/spec.ts';
import { StateDigester } from '../../src/sim/state-digest.ts';
import type { World } from '../../src/sim/world.ts';
import { MemoryStore } from '../../src/sim/content-store.ts';
import { WorldRecords } from '../../src/sim/world-records.ts';

const kernel = parseKernel(readFileSync(new URL('../../scenarios/guests/images/pv-i386-pae.elf', import.meta.url))) as KernelImage;
const domain = (name: string): DomainSpec => ({
  name, kernel: { name: 'k' }, cmdline: '', memoryMib: 16,
  disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:1M' } }, { vdev: 'xvdb', mode: 'w', image: { name: 'blank:1M' }, plugged: false }],
  vifs: [{ mac: `00:16:3e:00:00:0${name.length}`, bridge: 'xenbr0' }],
});

const worldOf = (...names: readonly string[]): World => worldWith(names.map(domain));
function worldWith(domains: readonly DomainSpec[]): World {
  const images = domains.map(() => ({ kernel, ramdisk: undefined, disks: [blankImage(2 ** 20), blankImage(2 ** 20)] }));
  return buildWorld({ spec: { ...SPEC_DEFAULTS, domains, digestEveryInsns: 0 }, images, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput([], domIdOf) });
}
/** What dom0 reads at that path. */
const read = (world: World, path: string): string | undefined => {
  const saved = world.services.get(0, 'dom0')?.save() as { store: { tree: { nodes: [string, { value: string }][] } } };
  return saved.store.tree.nodes.find(([name]) => name === path)?.[1].value;
};
const frames = (world: World, domId: number): number[] => Array.from({ length: world.hv.frames.frameCount }, (_, mfn) => mfn).filter((mfn) => world.hv.frames.owner[mfn] === domId);

/** What a kernel does before it suspends: its start_info, in EDX, names store and console by pseudo-physical number. */
function prepareSuspension(world: World, one: Domain): { startInfo: number; storePfn: number } {
  const { machine, frames: table } = world.hv;
  const startInfo = frames(world, one.domId).find((mfn) => Buffer.from(machine.readBytes(mfn * 4096, 16)).toString('latin1') === 'xen-3.0-x86_32p\0') as number;
  const at = START_INFO_32.fields;
  const storePfn = table.getM2p(machine.readU32(startInfo * 4096 + at.store_mfn.at));
  machine.writeU32(startInfo * 4096 + at.store_mfn.at, storePfn);
  machine.writeU32(startInfo * 4096 + at.console_mfn.at, table.getM2p(machine.readU32(startInfo * 4096 + at.console_mfn.at)));
  one.vcpus[0]?.cpu?.setReg(2, startInfo);
  return { startInfo, storePfn };
}
const suspend = (world: World, one: Domain): void => {
  world.services.get(0, 'dom0')?.command?.(one.domId, { do: 'save-restore', downNs: 1_000_000 });
  expect(read(world, `/local/domain/${one.domId}/control/shutdown`)).toBe('suspend');
  shutdownDomain(world.hv, one, 2);
  // As after its hypercall: the turn is over.
  world.yielded();
};

beforeAll(loadHashes);

describe('saved and restored', () => {
  test('memory and registers are what they were, all that dom0 and Xen held is new', () => {
    const world = worldOf('a');
    world.advance(50_000);
    const one = world.hv.domain(1) as Domain;
    const { startInfo } = prepareSuspension(world, one);
    const before = { shared: one.sharedInfoMfn, ip: one.vcpus[0]?.cpu?.rip(), memory: frames(world, 1).length, base: one.vcpus[0]?.guestTableMfn };
    suspend(world, one);
    expect(world.ended, 'the world goes on').toBeUndefined();
    for (let slices = 0; slices < 50 && one.life.kind !== 'running'; slices++) world.advance(0);
    expect(one.life.kind).toBe('running');
    expect(world.nowNs()).toBeGreaterThan(1_000_000);
    const at = START_INFO_32.fields;
    const info = (field: { readonly at: number }): number => world.machine.readU32(startInfo * 4096 + field.at);
    expect(one.sharedInfoMfn).not.toBe(before.shared);
    expect([info(at.shared_info), info(at.flags)]).toEqual([one.sharedInfoMfn * 4096, 0]);
    expect(one.events.ports[info(at.store_evtchn)]?.binding.kind).toBe('backend');
    expect(one.events.ports[info(at.console_evtchn)]?.binding.kind).toBe('backend');
    expect(one.events.ports.filter(({ binding }) => binding.kind !== 'free' && binding.kind !== 'reserved')).toHaveLength(2);
    expect(world.machine.readU32(one.sharedInfoMfn * 4096 + 2176), 'all events are masked').toBe(0xffffffff);
    expect([read(world, '/local/domain/1/store/ring-ref'), read(world, '/local/domain/1/store/port')]).toEqual([String(info(at.store_mfn)), String(info(at.store_evtchn))]);
    expect([entryCount(one.grants), Object.keys(one.grants.active), one.grants.backendMappings]).toEqual([512, [], []]);
    expect([one.vcpus[0]?.cpu?.reg(0), one.vcpus[0]?.cpu?.rip(), one.vcpus[0]?.guestTableMfn]).toEqual([0, before.ip, before.base]);
    expect(['vbd/1/51712', 'vif/1/0', 'vbd/1/51728'].map((device) => read(world, `/local/domain/0/backend/${device}/state`)), 'devices that were plugged are there anew').toEqual(['2', '2', undefined]);
    expect(read(world, '/local/domain/1/control/shutdown')).toBe('');
    expect(checkAll(world.hv).map(violationText)).toEqual([]);
  });

  test.each<[string, (world: World, one: Domain, startInfo: number) => void]>([
    ['a start_info that is no frame of its own', (_world, one) => one.vcpus[0]?.cpu?.setReg(2, 3)],
    ['a start_info far outside memory', (_world, one) => one.vcpus[0]?.cpu?.setReg(2, 0xffffffff)],
    ['a page table for its start_info', (_world, one) => one.vcpus[0]?.cpu?.setReg(2, one.vcpus[0]?.guestTableMfn ?? 0)],
    ['the shared page for its start_info', (_world, one) => one.vcpus[0]?.cpu?.setReg(2, one.sharedInfoMfn)],
    ['a store that is not its own', (world, _one, startInfo) => world.machine.writeU32(startInfo * 4096 + START_INFO_32.fields.store_mfn.at, 0x7fffffff)],
  ])('a domain that suspends with %s is destroyed, and nothing else happens', (_what, spoil) => {
    const world = worldOf('a');
    world.advance(50_000);
    const one = world.hv.domain(1) as Domain;
    const { startInfo } = prepareSuspension(world, one);
    spoil(world, one, startInfo);
    suspend(world, one);
    for (let slices = 0; slices < 50 && world.ended === undefined; slices++) world.advance(0);
    expect(world.ended).toEqual({ outcome: 'crash', text: 'domain a was saved and could not be restored' });
    expect(frames(world, 1)).toEqual([]);
  });

  test('a checkpoint from before is restored after it, and one from after before it', () => {
    const world = worldOf('a');
    world.advance(50_000);
    const one = world.hv.domain(1) as Domain;
    prepareSuspension(world, one);
    const records = new WorldRecords(world, new MemoryStore());
    const early = records.save();
    const digest = (): string => JSON.stringify(world.services.digest());
    const earlyDigest = digest();
    suspend(world, one);
    for (let slices = 0; slices < 50 && one.life.kind !== 'running'; slices++) world.advance(0);
    expect(one.life.kind).toBe('running');
    const late = records.save();
    const lateDigest = digest();
    expect(lateDigest).not.toBe(earlyDigest);
    records.restore(early);
    expect(digest()).toBe(earlyDigest);
    records.restore(late);
    expect(digest()).toBe(lateDigest);
  });
});

describe('a domain with room to grow', () => {
  const growing = (): World => worldWith([{ ...domain('a'), maxMemoryMib: 24 }]);
  const balloon = (world: World, mib: number): void => world.services.get(0, 'dom0')?.command?.(1, { do: 'balloon', targetKib: mib * 1024 });
  const memory = (world: World): (string | undefined)[] => ['target', 'static-max'].map((name) => read(world, `/local/domain/1/memory/${name}`));

  test('starts with its memory, and Xen gives it no more than its maxmem', () => {
    const world = growing();
    const one = world.hv.domain(1) as Domain;
    expect([one.totPages, one.maxPages, one.memoryMapPages]).toEqual([16 * 256, 24 * 256, 24 * 256]);
    expect(world.hv.frames.freeCount).toBeGreaterThanOrEqual(8 * 256);
    expect(memory(world)).toEqual(['16384', '24576']);
  });

  test('is told to have no more than that', () => {
    const world = growing();
    balloon(world, 24);
    expect(memory(world)).toEqual(['24576', '24576']);
    balloon(world, 25);
    expect(memory(world)).toEqual(['24576', '24576']);
  });

  test('comes back from a save with the target that it had', () => {
    const world = growing();
    world.advance(50_000);
    const one = world.hv.domain(1) as Domain;
    prepareSuspension(world, one);
    balloon(world, 12);
    suspend(world, one);
    for (let slices = 0; slices < 50 && one.life.kind !== 'running'; slices++) world.advance(0);
    expect(one.life.kind).toBe('running');
    expect(memory(world)).toEqual(['12288', '24576']);
  });
});

describe('the end of one of two domains', () => {
  test('everything that dom0 and Xen hold of it goes; the other one runs on', () => {
    const world = worldOf('a', 'bb');
    world.advance(50_000);
    shutdownDomain(world.hv, world.hv.domain(1) as Domain, 0);
    expect([world.ended, frames(world, 1).length > 4000]).toEqual([undefined, true]);
    for (let slices = 0; slices < 200 && world.hv.domain(1) !== undefined; slices++) world.advance(1000);
    expect(world.hv.domain(1)).toBeUndefined();
    expect(frames(world, 1)).toEqual([]);
    expect(['/local/domain/1', '/local/domain/0/backend/vbd/1/51712', '/libxl/1/device/vbd/51712'].map((path) => read(world, path))).toEqual([undefined, undefined, undefined]);
    expect(read(world, '/local/domain/0/backend/vbd/2/51712/state')).toBe('2');
    expect([world.services.get(1, 'xenstore'), world.services.get(1, 'console'), world.services.get(1, 'vbd-51712')]).toEqual([undefined, undefined, undefined]);
    expect(checkAll(world.hv).map(violationText)).toEqual([]);
    expect(new StateDigester(world).parts().some(({ name }) => name === 'domain 1')).toBe(false);
    expect(world.ended).toBeUndefined();
  });

  test('a crash ends the run at once', () => {
    const world = worldOf('a', 'bb');
    crashDomain(world.hv, world.hv.domain(2) as Domain, 'it went wrong');
    expect(world.ended?.outcome).toBe('crash');
  });
});
