// Debian's Linux as a 64-bit PV guest. Its hypercalls are held against what a real Xen saw of the same
// kernel in a domain of 256 MiB with the same command line (linux-6.1-cloud-kinds.txt.gz: number, result
// and those arguments that do not depend on where things lie, one line a call, continuations merged).
// The whole boots are long: they run under REXEN_DEPTH=long.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { storedImage } from '../../src/node/image-store.ts';
import { bytesSource, openRecording } from '../../src/log/reader.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import type { WorldSpec } from '../../src/sim/spec.ts';
import { recordBoot, replayBytes } from './boots.ts';
import { atSuspension, framesOfGuest } from './suspension.ts';
import { differences, hypercallsOf, kindOf, withoutContinuations } from './hypercall-trace.ts';

const long = process.env['REXEN_DEPTH'] === 'long';
/** Boots take minutes where others want the processor too. */
const TIMEOUT_MS = long ? 3_600_000 : 600_000;
const KERNEL = 'debian-linux-cloud';
const TRACED_KERNEL = '6.1.0-56-cloud-amd64';

const reference = (): string[] => gunzipSync(readFileSync(join(import.meta.dirname, 'linux-6.1-cloud-kinds.txt.gz'))).toString().trimEnd().split('\n');
const lacks = (...names: readonly string[]): string | undefined => {
  const missing = names.filter((name) => storedImage(name) === undefined);
  return missing.length === 0 ? undefined : `not here: run ${missing.map((name) => `\`npx rexen fetch ${name}\``).join(', ')}`;
};

/** As the traced domain was: no ramdisk, an early console. */
const asTraced = (spec: WorldSpec): WorldSpec => ({
  ...spec,
  domains: spec.domains.map(({ ramdisk: _ramdisk, ...domain }) => ({ ...domain, cmdline: 'console=hvc0 earlyprintk=xen' })),
});

/** Timer interrupts come when they come: re-arming the timer, and the empty call by which Linux looks for events. */
const isTiming = (kind: string): boolean => kind.startsWith('24(8,') || kind.startsWith('17(0)') || kind.startsWith('32(4)');

/** Where the boots part, and why. Counted in calls of the reference. */
const PAGE_TABLES = {
  // The traced domain was built by Xen itself, with its first page tables in another order than a toolstack's: Linux
  // can give back one of them there, and three here.
  at: 20, onlyFirst: [], onlySecond: Array.from({ length: 2 }, () => '14(8000000000000063,2) = 0'),
};
const DEBUG_STORE = {
  // The traced machine was an AMD model: Intel processors have a debug store, whose 33 pages Linux maps.
  at: 15962, onlyFirst: [], onlySecond: Array.from({ length: 33 }, () => ['1(1) = 0', '26(1) = 0']).flat(),
};
const TIME_AREA = {
  // There the TSC was not stable, so user space may not read it.
  at: 16161, onlyFirst: [], onlySecond: ['24(d,0) = 0'],
};

describe("Debian's Linux 6.1", () => {
  test('makes the hypercalls that real Xen saw, in that order, with those results, and what was recorded replays exactly', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks(KERNEL, `${KERNEL}-initramfs`);
    if (missing !== undefined) skip(missing);
    const calls = long ? 17_000 : 5_500;
    const boot = await recordBoot('linux-bare', { change: (spec) => ({ ...asTraced(spec), maxInstructions: long ? 20_000_000_000 : 42_000_000 }) });
    if (!boot.console.includes(TRACED_KERNEL) && long) skip(`the trace is of ${TRACED_KERNEL}`);
    const kinds = withoutContinuations(hypercallsOf(openRecording(bytesSource('linux', boot.bytes), { codec: zlibCodec(1) }), 120_000)).map(kindOf);
    expect(kinds.length).toBeGreaterThan(calls);
    const expected = reference();
    const explained = long ? [PAGE_TABLES, DEBUG_STORE, TIME_AREA] : [PAGE_TABLES];
    const found = differences(expected.slice(0, calls), kinds.slice(0, calls + 100), explained.length + 1);
    expect(found.slice(0, explained.length)).toEqual(explained);
    if (long) {
      // From here on timer interrupts come between; without them the lists agree until tasks are switched:
      // an AMD processor keeps the base of a null GS, so Linux clears it by a hypercall.
      expect(found[explained.length]?.onlyFirst[0]).toBe('17(0) = 262167');
      const [a, b, c, last] = differences(expected.filter((kind) => !isTiming(kind)), kinds.filter((kind) => !isTiming(kind)), 4);
      expect([a, b, c].map((difference) => difference?.onlySecond)).toEqual(explained.map(({ onlySecond }) => onlySecond));
      expect(last?.onlyFirst[0]).toBe('25(1) = 0');
      expect(last?.at).toBeGreaterThan(50_000);
    } else expect(found).toHaveLength(1);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });
});

describe.runIf(long)('to user space', () => {
  test.for([['debian-linux-bullseye', '5.10'], ['debian-linux-cloud', '6.1'], ['debian-linux', '6.1'], ['debian-linux-trixie', '6.12']] as const)('%s (%s): BOOT-OK, disk and network, power-off, and an exact replay', { timeout: TIMEOUT_MS }, async ([name, version], { skip }) => {
    const missing = lacks(name, `${name}-initramfs`);
    if (missing !== undefined) skip(missing);
    const boot = await recordBoot(name);
    expect(boot.world.ended?.outcome).toBe('poweroff');
    expect(boot.console).toMatch(new RegExp(`Linux version ${version.replace('.', '\\.')}[^]*BOOT-OK[^]*ok      it is read back from the disk[^]*ok      the gateway answers[^]*ALL-OK`));
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test('is saved and restored twice, the second time with its disk busy: other machine frames, and all goes on', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('debian-linux', 'debian-linux-initramfs');
    if (missing !== undefined) skip(missing);
    const frames: Map<number, number>[] = [];
    const boot = await recordBoot('debian-linux', {
      change: (spec) => ({ ...spec, input: ['BOOT-OK', 'ok      a file is written'].map((after) => ({ domain: 'linux', after, delayNs: 1000, command: { do: 'save-restore' } })) }),
      wrap: atSuspension((world) => void frames.push(framesOfGuest(world))),
    });
    expect(frames).toHaveLength(2);
    expect([...frames[0] as Map<number, number>].filter(([pfn, mfn]) => frames[1]?.get(pfn) === mfn)).toEqual([]);
    expect(boot.world.ended?.outcome).toBe('poweroff');
    expect(boot.console).toMatch(/BOOT-OK[^]*Restarting tasks[^]*ok      a file is written[^]*Restarting tasks[^]*ok      it is read back from the disk[^]*ok      the gateway answers[^]*ALL-OK/);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test('pings a second domain, which says that it answered', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('debian-linux', 'debian-linux-initramfs');
    if (missing !== undefined) skip(missing);
    const boot = await recordBoot('debian-linux-peer');
    expect(boot.world.ended?.outcome).toBe('poweroff');
    for (const words of ['ok      the second domain answers', 'ALL-OK', 'vif0: 3 pings answered']) expect(boot.console).toContain(words);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });

  test('two kernels in one world, taking turns', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks(KERNEL, `${KERNEL}-initramfs`);
    if (missing !== undefined) skip(missing);
    const boot = await recordBoot('linux-bare', {
      change: (spec) => ({ ...spec, domains: spec.domains.flatMap((domain) => [{ ...domain, name: 'first' }, { ...domain, name: 'second' }]) }),
    });
    expect(boot.world.ended?.outcome).toBe('poweroff');
    expect(boot.console.match(/BOOT-OK/g)).toHaveLength(2);
    expect(boot.console.match(/ALL-OK/g)).toHaveLength(2);
    expect((await replayBytes(boot.bytes)).verdict).toBe('exact');
  });
});
