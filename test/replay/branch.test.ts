// A branch is the parent up to its position, and a recording of its own from there on.
import { describe, expect, test } from 'vitest';
import { EVENT } from '../../src/abi/events.ts';
import type { FaultSpec } from '../../src/abi/faults.ts';
import { EncodingWriter, rateOf } from '../../src/log/encoding-writer.ts';
import { bytesSource, openRecording, type Recording } from '../../src/log/reader.ts';
import { MemorySink, RecordingWriter } from '../../src/log/writer.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { Branch } from '../../src/replay/branch.ts';
import { firstDifferentEvent } from '../../src/replay/diff.ts';
import { LiveInput, ScriptedInput } from '../../src/sim/input.ts';
import type { WorldSpec } from '../../src/sim/spec.ts';
import { imagesOf, recordBoot, replayBytes } from './boots.ts';

const opened = (bytes: Uint8Array): Recording => openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) });

const recordings = new Map<string, Uint8Array>();
async function recorded(name: string): Promise<Uint8Array> {
  const bytes = recordings.get(name) ?? (await recordBoot(name)).bytes;
  recordings.set(name, bytes);
  return bytes;
}

interface BranchOff {
  readonly at: number;
  readonly seed?: string;
  readonly faults?: readonly FaultSpec[];
  readonly spec?: Partial<WorldSpec>;
  /** Typed by a person right after the position. */
  readonly typed?: string;
  /** Events after which the run is broken off: its file is what a killed run leaves. */
  readonly killAt?: number;
}

/** The branch's file, and where it left. */
async function branchOff(parent: Uint8Array, { at, seed, faults = [], spec: changed = {}, typed, killAt = Infinity }: BranchOff): Promise<{ bytes: Uint8Array; left: number }> {
  const recording = opened(parent);
  const spec = { ...specOf(recording), ...changed };
  const live = typed === undefined ? undefined : new LiveInput();
  const branch = new Branch({
    recording, spec, faults, seed: seed ?? recording.world.seed, images: (await imagesOf(spec)).domains, flushInputs: live !== undefined,
    input: (domIdOf) => live ?? new ScriptedInput(spec.input, domIdOf),
  });
  branch.world.advance(Infinity, at);
  expect(branch.diverged).toBe(false);
  branch.leave();
  const left = branch.world.eventCount;
  const sink = new MemorySink();
  const world = { ...recording.world, options: [{ name: 'spec', value: JSON.stringify(branch.spec) }], seed: seed ?? recording.world.seed, parentDigest: recording.digest, parentEvents: left };
  const writer = new RecordingWriter(sink, { world, compression: 'deflate', codec: zlibCodec(1) });
  branch.writeTo(new EncodingWriter(writer, rateOf(world)));
  if (typed !== undefined) live?.push({ kind: 'console', domId: 1, bytes: new TextEncoder().encode(typed) });
  let ended = branch.world.advance(Infinity, killAt);
  for (; ended.kind === 'idle'; ended = branch.world.advance(Infinity, killAt)) branch.world.jumpTo(ended.untilNs);
  branch.recorder.finish();
  if (killAt === Infinity) {
    if (ended.kind !== 'ended') throw new Error(`the branch is ${ended.kind}`);
    writer.finish({ instructions: branch.world.insns(), virtualTimeNs: branch.world.nowNs(), outcome: ended.outcome, outcomeText: ended.text });
  }
  return { bytes: sink.bytes(), left };
}

const verdict = async (bytes: Uint8Array): Promise<string> => (await replayBytes(bytes)).verdict;

describe.each(['pv-i386-pae', 'two-domains'])('a branch of %s', (name) => {
  test('with the same seed is the parent again, wherever it leaves', async () => {
    const parent = await recorded(name);
    for (const part of name === 'two-domains' ? [0.5] : [0, 0.7]) {
      const { bytes, left } = await branchOff(parent, { at: Math.floor(opened(parent).eventCount * part) });
      expect(firstDifferentEvent(opened(parent), opened(bytes))).toBeUndefined();
      expect(opened(bytes).world).toMatchObject({ parentDigest: opened(parent).digest, parentEvents: left });
      expect(await verdict(bytes)).toBe('exact');
    }
  });

  test('with another seed parts from it after the position and not before, and replays exactly; so does a branch of it', async () => {
    const parent = await recorded(name);
    const { bytes, left } = await branchOff(parent, { at: 600, seed: '7' });
    expect(firstDifferentEvent(opened(parent), opened(bytes))).toBeGreaterThanOrEqual(left);
    expect(firstDifferentEvent(opened(parent), opened(bytes))).toBeLessThan(opened(bytes).eventCount);
    expect(await verdict(bytes)).toBe('exact');
    const second = await branchOff(bytes, { at: 1000, seed: '8' });
    expect(firstDifferentEvent(opened(bytes), opened(second.bytes))).toBeGreaterThanOrEqual(second.left);
    expect(await verdict(second.bytes)).toBe('exact');
  });
});

test('what goes wrong in a branch goes wrong after its position, and replays exactly', async () => {
  const parent = await recorded('pv-i386-pae');
  const { bytes, left } = await branchOff(parent, { at: 900, faults: [{ fault: 'upcall.delay', oneIn: 2 }, { fault: 'domain.pause', oneIn: 20 }] });
  expect(firstDifferentEvent(opened(parent), opened(bytes))).toBeGreaterThanOrEqual(left);
  expect([...opened(bytes).events(left)].some(({ kind }) => kind === EVENT.fault)).toBe(true);
  expect(await verdict(bytes)).toBe('exact');
});

test('a run that met its limit goes on from its end as it would have without one', async () => {
  const whole = await recorded('pv-i386-pae');
  const limited = (await recordBoot('pv-i386-pae', { change: (spec) => ({ ...spec, maxInstructions: 1_300_000 }) })).bytes;
  const { eventCount } = opened(limited);
  expect(eventCount).toBeLessThan(opened(whole).eventCount);
  const { bytes } = await branchOff(limited, { at: eventCount, spec: { maxInstructions: 1_000_000_000 } });
  expect(firstDifferentEvent(opened(whole), opened(bytes))).toBeUndefined();
  expect(await verdict(bytes)).toBe('exact');
});

test('a recording of inputs can be left too: the branch holds all events', async () => {
  const whole = await recorded('pv-i386-pae');
  const inputs = (await recordBoot('pv-i386-pae', { log: 'inputs' })).bytes;
  const { bytes } = await branchOff(inputs, { at: 900 });
  expect(firstDifferentEvent(opened(whole), opened(bytes))).toBeUndefined();
});

test('a branch that was killed replays as far as it came, and can be left where it ends', async () => {
  const parent = await recorded('pv-i386-pae');
  const whole = (await branchOff(parent, { at: 500, seed: '9' })).bytes;
  const cut = (await branchOff(parent, { at: 500, seed: '9', killAt: 1500 })).bytes;
  expect(opened(cut).truncated).toBe(true);
  expect(await verdict(cut)).toBe('truncated');
  const { bytes } = await branchOff(cut, { at: opened(cut).eventCount });
  expect(firstDifferentEvent(opened(whole), opened(bytes))).toBeUndefined();
});

test('what a person types after the position is in the branch, and replays', async () => {
  const parent = await recorded('pv-i386-pae');
  const { bytes, left } = await branchOff(parent, { at: 1000, typed: 'x' });
  const inputs = [...opened(bytes).inputs()].filter(({ kind }) => kind === EVENT.consoleIn);
  expect(inputs.map((input) => new TextDecoder().decode(input.bytes))).toEqual(['x']);
  expect(inputs[0]?.index).toBeGreaterThanOrEqual(left);
  expect(await verdict(bytes)).toBe('exact');
});
