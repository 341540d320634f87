// All invariants hold: after every operation of recorded scripts and of random programs on all four
// ABIs, with hypercalls preempted in their middle; and after every event of recorded boots.
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { PrngStream } from '../../src/base/prng.ts';
import { InvariantChecker, violationText, type ExtraHold } from '../../src/checkers/index.ts';
import { destroyDomain } from '../../src/hypervisor/destroy-domain.ts';
import type { Hypervisor } from '../../src/hypervisor/hypervisor.ts';
import { storedImage } from '../../src/node/image-store.ts';
import { CheckWatch } from '../../src/replay/check-watch.ts';
import { ConformRunner, type Script } from '../../src/replay/conform.ts';
import type { ConformContext } from '../../src/replay/conform-op.ts';
import { parseScripts } from '../../src/replay/conform-script.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { SeededChoices } from '../../src/sim/choices.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import type { EventSink, World } from '../../src/sim/world.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { program } from '../hypervisor/mm-programs.ts';
import { imagesOf } from '../replay/boots.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const ABIS = ['pv64', 'pv32pae', 'xen3-pae', 'xen3-nopae'] as const;
const PROGRAMS = LONG ? 2000 : 30;
const SCRIPTS_EVERY = LONG ? 1 : 12;

let hv: Hypervisor | undefined;
let checker: InvariantChecker | undefined;
let held: readonly ExtraHold[] = [];
let checks = 0;
const problems: string[] = [];

/** Checks everything; the frames of d2 that its (imagined) tables map writable are held by hand. */
function look({ hv: now, mfns }: ConformContext): void {
  if (now !== hv) {
    hv = now;
    checker = new InvariantChecker(now);
    held = ['foreign', 'foreign1', 'foreign2'].map((name) => ({ mfn: mfns.get(name) as number, typed: 'writable' }));
  }
  checks++;
  if (problems.length === 0) problems.push(...(checker as InvariantChecker).run({ extra: held }).map(violationText));
}

describe('invariants hold after every operation', () => {
  for (const family of ['mm', 'evtchn', 'gnttab'] as const) {
    test(`of recorded scripts (${family})`, { timeout: 600_000 }, () => {
      for (const abi of ['pv64', 'pv32pae'] as const) {
        let turn = 0;
        const runner = new ConformRunner({ preempt: () => ++turn % 5 === 0, afterOp: look });
        const text = gunzipSync(readFileSync(new URL(`../conformance/${family}.${abi}.jsonl.gz`, import.meta.url))).toString();
        parseScripts(text, family).filter((_, n) => n % SCRIPTS_EVERY === 0).forEach((script) => {
          problems.length = 0;
          runner.run(script);
          expect(problems, `${family} ${abi} ${script.id}`).toEqual([]);
        });
      }
      expect(checks).toBeGreaterThan(100);
    });
  }

  for (const abi of ABIS) {
    test(`of random programs, whose domains leave nothing (${abi})`, { timeout: 3_600_000 }, () => {
      let turn = 0;
      const runner = new ConformRunner({
        preempt: () => ++turn % 7 === 0,
        afterOp: look,
        afterScript: (context) => {
          destroyDomain(context.hv, context.d1);
          look(context);
        },
      });
      for (let n = 0; n < PROGRAMS; n++) {
        problems.length = 0;
        const seed = `${abi}:${n}`;
        runner.run({ id: seed, abi: abi as Script['abi'], family: 'mm', sub: 'checked', ops: program(new PrngStream(seed, 'checked')), results: [] });
        expect(problems, `seed ${seed}`).toEqual([]);
      }
    });
  }
});

const quiet: EventSink = { event: () => {} };

/** Runs a scenario to its end with a watch; `meddle` sees every event first. */
async function watched(name: string, mode: 'every' | 'epoch' | CheckWatch, meddle: (world: World, eventCount: number) => void = () => {}): Promise<{ watch: CheckWatch; world: World }> {
  await loadHashes();
  const { spec } = await findScenario(name);
  const images = await imagesOf(spec);
  const watch = typeof mode === 'string' ? new CheckWatch(mode) : mode;
  const world = buildWorld({
    spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
    observers: { quiescent: watch.quiescent },
    sink: (made) => watch.wrap({ ...quiet, event: () => meddle(made, made.eventCount) }),
  });
  watch.attach(world);
  while (world.ended === undefined && world.sink?.over !== true) world.advance(1_000_000);
  watch.finish();
  return { watch, world };
}

describe('a boot with a watch', () => {
  const guests = ['pv-i386-pae', 'pv-i386-nopae', ...(LONG && storedImage('grub-i386') !== undefined ? ['grub-i386'] : [])];
  test.each(guests)('%s keeps every invariant after every event', { timeout: 600_000 }, async (name) => {
    const { watch, world } = await watched(name, 'every');
    expect(watch.broken).toBeUndefined();
    expect(world.ended?.outcome).toBe('poweroff');
    expect(watch.checks).toBeGreaterThan(500);
  });

  test('ends at the first point of rest after the event that broke something, and tells what led there', async () => {
    const { watch, world } = await watched('pv-i386-pae', 'every', ({ hv: { frames } }, eventCount) => {
      if (eventCount === 700) frames.refCount[frames.freeList[0] as number] = 1;
    });
    expect(watch.broken?.position).toMatch(/^7\d\d:d1v0:/);
    expect(watch.broken?.violations[0]?.checker).toBe('counts');
    expect(watch.broken?.history).toHaveLength(20);
    expect(watch.broken?.history.at(-1)).toContain(watch.broken?.position);
    expect(world.eventCount).toBeLessThan(750);
  });

  test('by epochs notices it later', async () => {
    const { watch } = await watched('pv-i386-pae', 'epoch', ({ hv: { frames } }, eventCount) => {
      if (eventCount === 700) frames.refCount[frames.freeList[0] as number] = 1;
    });
    expect(watch.broken).toBeDefined();
    expect(watch.checks).toBeLessThan(10);
  });

  test('by itself goes over from every event to epochs when that has cost much, and says where', async () => {
    const ample = await watched('pv-i386-pae', new CheckWatch('auto'));
    expect(ample.watch.finish()).toEqual({ checks: expect.any(Number), broken: undefined });
    const frames = ample.world.hv.frames.frameCount;
    const { watch } = await watched('pv-i386-pae', new CheckWatch('auto', 100 * frames), ({ hv }, eventCount) => {
      if (eventCount === 900) hv.frames.refCount[hv.frames.freeList[0] as number] = 1;
    });
    const { checks, broken, sparseFrom = 0 } = watch.finish();
    expect(sparseFrom).toBeGreaterThan(99);
    expect(sparseFrom).toBeLessThan(900);
    expect(checks).toBeGreaterThan(100);
    expect(checks).toBeLessThan(110);
    expect(broken?.violations[0]?.checker).toBe('counts');
  });
});
