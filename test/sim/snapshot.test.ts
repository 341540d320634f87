// A world can be put aside at any instruction and taken up again as if nothing had happened: by the same
// world, by a fresh one, forwards and backwards. And where a run is interrupted changes nothing.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { bytesToHex } from '../../src/base/hash.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { shippedScenarios, findScenario } from '../../src/node/scenario-files.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { MemoryStore } from '../../src/sim/content-store.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import { decodeGraph, encodeGraph } from '../../src/sim/plain-graph.ts';
import { sameState, Snapshots, type Snapshot } from '../../src/sim/snapshot.ts';
import type { WorldSpec } from '../../src/sim/spec.ts';
import { StateDigester } from '../../src/sim/state-digest.ts';
import type { World } from '../../src/sim/world.ts';
import { imagesOf } from '../replay/boots.ts';

const long = process.env['REXEN_DEPTH'] === 'long';
const GUESTS = ['pv-i386-pae', 'pv-i386-nopae'];
const WITH_GRUB = storedImage('grub-i386') === undefined ? GUESTS : [...GUESTS, 'grub-i386'];
/** Every scenario whose images are here and whose guests are machine code; Linux takes minutes. */
const RESTORABLE = (await shippedScenarios()).filter(({ name, needs, spec }) => (long || !name.includes('linux')) && needs.every((image) => storedImage(image) !== undefined) && spec.domains.every(({ model }) => model === undefined)).map(({ name }) => name);

interface Run {
  readonly world: World;
  readonly events: string[];
  digest(): string;
}

async function start(name: string, change: (spec: WorldSpec) => WorldSpec = (spec) => spec): Promise<Run> {
  await loadHashes();
  const scenario = await findScenario(name);
  const spec = change({ ...scenario.spec, digestEveryInsns: 0 });
  const images = await imagesOf(spec);
  const events: string[] = [];
  const world = buildWorld({
    spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
    sink: () => ({ event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => void events.push(`${kind} ${domId} ${vcpuId} ${retired} ${nowNs} ${values.join()} ${bytes === undefined ? '' : bytesToHex(bytes)}`) }),
  });
  const digester = new StateDigester(world);
  return { world, events, digest: () => digester.parts().map(({ name: part, digest }) => `${part} ${bytesToHex(digest)}`).join('\n') };
}

const end = (world: World): void => {
  while (world.ended === undefined) expect(world.advance(Infinity).kind).not.toBe('idle');
};

describe.each(long ? WITH_GRUB : ['pv-i386-nopae'])('%s', (name) => {
  test('runs the same in pieces of any size as in one', async () => {
    const whole = await start(name);
    end(whole.world);
    const pieces = await start(name);
    const prng = new PrngStream('pieces', name);
    // Single steps at times, or a boot would take for ever.
    while (pieces.world.ended === undefined) pieces.world.advance(prng.below(40) === 0 ? 1 + prng.below(60) : 1 + prng.below(long ? 3_000 : 100_000));
    expect(pieces.events.join('\n') === whole.events.join('\n')).toBe(true);
    expect(pieces.digest()).toBe(whole.digest());
  });

  // An upcall that a guest has just unmasked is its own to find: an interruption there must not deliver it.
  test('runs the same step by step where things happen', async () => {
    const whole = await start(name);
    end(whole.world);
    const stepped = await start(name);
    while (stepped.world.ended === undefined) {
      stepped.world.advance(Infinity, stepped.world.eventCount + 1);
      for (let i = 0; i < 40 && stepped.world.ended === undefined; i++) stepped.world.advance(1);
    }
    expect(stepped.events.join('\n') === whole.events.join('\n')).toBe(true);
  });

});

test('our guest is among the worlds to restore', () => expect(RESTORABLE).toEqual(expect.arrayContaining(GUESTS)));

describe.each(RESTORABLE)('%s', (name) => {
  test('is restored at any instruction, in any order, into a used world and a fresh one, and goes on exactly', async () => {
    const straight = await start(name);
    const store = new MemoryStore();
    const snapshots = new Snapshots(straight.world, store);
    const prng = new PrngStream('restore', name);
    const kept: { snapshot: Snapshot; events: number; digest: string }[] = [];
    const keep = (run: Run, from: Snapshots) => ({ snapshot: from.take(), events: run.events.length, digest: run.digest() });
    const total = await start(name).then(({ world }) => (end(world), world.insns()));
    const places = Array.from({ length: long ? 60 : 14 }, () => prng.below(total)).sort((a, b) => a - b);
    kept.push(keep(straight, snapshots));
    for (const place of places) {
      straight.world.advance(Math.max(0, place - straight.world.insns()));
      kept.push(keep(straight, snapshots));
    }
    end(straight.world);
    kept.push(keep(straight, snapshots));

    const fresh = await start(name);
    for (const [run, own] of [[straight, snapshots], [fresh, new Snapshots(fresh.world, store)]] as const) {
      for (let i = 0; i < (long ? 100 : 5); i++) {
        const at = prng.below(kept.length);
        const to = Math.min(kept.length - 1, at + prng.below(4));
        const { snapshot, events, digest } = kept[at] as (typeof kept)[number];
        own.restore(snapshot);
        expect(run.digest()).toBe(digest);
        expect(run.world.insns()).toBe(snapshot.insns);
        const before = run.events.length;
        const target = kept[to] as (typeof kept)[number];
        if (to === kept.length - 1) end(run.world);
        else if (to > at) run.world.advance(target.snapshot.insns - run.world.insns());
        expect(run.events.slice(before).join('\n') === straight.events.slice(events, target.events).join('\n'), `from ${snapshot.eventCount} to ${target.snapshot.eventCount}`).toBe(true);
        expect(run.digest()).toBe(target.digest);
        expect(sameState(store, own.take(), target.snapshot)).toBe(true);
      }
    }
  });
});

describe('what a checkpoint holds', () => {
  test('every field of the world is saved, or is wiring that is named here with its reason', () => {
    const WIRING: Readonly<Record<string, string>> = {
      hosts: 'of guests on shadow tables, which are run again from their start; what lies below such a guest lies in frames',
      spec: 'a constant of the recording', machine: 'its bytes are saved by Snapshots', clock: 'idleNs is saved; the rest is of the spec', queue: 'saved as its entries',
      choices: 'a row of its own', observers: 'of the host', frameHashes: 'derived from memory', hv: 'a row of its own', sink: 'of the host', profile: 'of the host', input: 'a row of its own',
      '#lastNs': 'of the spec', disk: 'asks the services',
    };
    const source = readFileSync(join(import.meta.dirname, '../../src/sim/world.ts'), 'utf8');
    const body = source.slice(source.indexOf('export class World'));
    const fields = [...body.slice(0, body.indexOf('constructor(')).matchAll(/^ {2}(?:readonly )?(#?[A-Za-z]+)(?:!?: | = )/gm)].map((match) => match[1] as string);
    expect(fields).toContain('#preemptAt');
    const saved = source.slice(source.indexOf('saveOwn()'), source.indexOf('restoreOwn('));
    expect(fields.filter((field) => !saved.includes(`this.${field}`) && WIRING[field] === undefined)).toEqual([]);
  });

  test('what cannot be data is refused with the way to it, not lost', () => {
    const externals = { nameOf: () => undefined, find: () => undefined };
    expect(() => encodeGraph({ a: [{ b: () => 1 }] }, externals)).toThrow('a.0.b is a function');
    expect(() => encodeGraph({ a: new (class Thing {})() }, externals)).toThrow('a is a Thing');
  });

  test('a new field of the hypervisor must be given a row', async () => {
    const { world } = await start('pv-i386-pae');
    const snapshots = new Snapshots(world, new MemoryStore());
    Object.assign(world.hv, { planted: 1 });
    expect(() => snapshots.take()).toThrow('hypervisor.planted is neither state nor wiring');
  });

  test('records keep what JSON loses, shared objects and circles too', () => {
    const outside = { name: 'vcpu' };
    const externals = { nameOf: (value: object) => (value === outside ? 'outside' : undefined), find: () => outside };
    const shared: Record<string, unknown> = { u: undefined, n: -0, inf: Infinity, nan: NaN, big: 1n << 70n };
    shared['self'] = shared;
    const value = { a: shared, b: [shared, outside], map: new Map<unknown, unknown>([[1, new Set([2])], ['k', Uint8Array.of(1, 2)]]), words: BigUint64Array.of(1n) };
    const back = decodeGraph(encodeGraph(value, externals), externals) as typeof value;
    expect(back).toEqual(value);
    expect(back.b[0]).toBe(back.a);
    expect(back.a['self']).toBe(back.a);
    expect(back.b[1]).toBe(outside);
    expect(Object.hasOwn(back.a, 'u')).toBe(true);
  });
});
