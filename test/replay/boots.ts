// Runs and recordings in memory, for tests: the same parts as the command line uses, without files.
import { blake3 } from '../../src/base/hash.ts';
import { embeddedDisk, openDiskImage } from '../../src/node/disk-image.ts';
import { bytesSource, openRecording, type Recording } from '../../src/log/reader.ts';
import { EncodingWriter } from '../../src/log/encoding-writer.ts';
import { MemorySink, RecordingWriter } from '../../src/log/writer.ts';
import type { Compression } from '../../src/log/codec.ts';
import { specOf } from '../../src/node/recorded-world.ts';
import { loadHashes } from '../../src/node/load-hashes.ts';
import { loadImages, type LoadedImages, portableSpec } from '../../src/node/load-images.ts';
import { findScenario } from '../../src/node/scenario-files.ts';
import { zlibCodec } from '../../src/node/zlib-codec.ts';
import { choicesFor, PLAN_OPTION, planText, type ChoicePlan } from '../../src/replay/plan.ts';
import { Recorder } from '../../src/replay/recorder.ts';
import { INPUTS_OPTION, type LogMode } from '../../src/replay/whole-digest.ts';
import { Replayer } from '../../src/replay/replayer.ts';
import { buildWorld } from '../../src/sim/build-world.ts';
import { ScriptedInput } from '../../src/sim/input.ts';
import type { WorldSpec } from '../../src/sim/spec.ts';
import { StateDigester } from '../../src/sim/state-digest.ts';
import type { EventSink, World } from '../../src/sim/world.ts';

export interface Boot {
  readonly bytes: Uint8Array;
  readonly console: string;
  readonly world: World;
}

export interface BootOptions {
  readonly seed?: string;
  /** What it does differently from its seed. */
  readonly plan?: ChoicePlan;
  readonly change?: (spec: WorldSpec) => WorldSpec;
  readonly log?: LogMode;
  readonly compression?: Compression;
  /** Stands between the world and the recorder. */
  readonly wrap?: (sink: EventSink, world: World) => EventSink;
}

const loaded = new Map<string, LoadedImages>();

export async function imagesOf(spec: WorldSpec): Promise<LoadedImages> {
  await loadHashes();
  const key = JSON.stringify(spec.domains.map(({ kernel, ramdisk, model }) => [kernel, ramdisk, model]));
  let images = loaded.get(key);
  if (images === undefined) loaded.set(key, (images = await loadImages(spec)));
  return images;
}

/** Records a scenario's boot into memory. */
export async function recordBoot(name: string, options: BootOptions = {}): Promise<Boot> {
  await loadHashes();
  const scenario = await findScenario(name);
  const spec = options.change?.(scenario.spec) ?? scenario.spec;
  const images = await imagesOf(spec);
  const seed = options.seed ?? '1';
  const sink = new MemorySink();
  const writer = new RecordingWriter(sink, {
    world: { scenario: name, options: [{ name: 'spec', value: JSON.stringify(portableSpec(spec)) }, ...(options.log === 'inputs' ? [INPUTS_OPTION] : []), ...(options.plan === undefined ? [] : [{ name: PLAN_OPTION, value: planText(options.plan) }])], seed, images: images.files.map(({ ref }) => ref), nsPerInsnNumerator: spec.nsPerInsn.num, nsPerInsnDenominator: spec.nsPerInsn.den },
    compression: options.compression ?? 'deflate',
    codec: zlibCodec(1),
  });
  let console = '';
  let recorder: Recorder | undefined;
  const world = buildWorld({
    spec, images: images.domains, choices: choicesFor(seed, options.plan), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
    observers: { consoleOut: (_domId, bytes) => { console += Buffer.from(bytes).toString('latin1'); } },
    sink: (made) => {
      const digester = new StateDigester(made);
      recorder = new Recorder(new EncodingWriter(writer, { numerator: spec.nsPerInsn.num, denominator: spec.nsPerInsn.den }), spec.nsPerInsn, () => digester.parts(), false, options.log);
      return options.wrap?.(recorder, made) ?? recorder;
    },
  });
  const result = world.advance(Infinity);
  if (result.kind !== 'ended') throw new Error(`the run is ${result.kind}`);
  recorder?.finish();
  writer.finish({ instructions: world.insns(), virtualTimeNs: world.nowNs(), outcome: result.outcome, outcomeText: result.text });
  return { bytes: sink.bytes(), console, world };
}

export interface Replayed {
  readonly verdict: 'exact' | 'diverged' | 'truncated';
  readonly replayer: Replayer;
  readonly recording: Recording;
  readonly world: World;
}

/** Embedded images first, as the command line does. */
async function recordedImages(recording: Recording, spec: WorldSpec): Promise<LoadedImages> {
  const embedded = new Map(recording.world.images.map((ref) => [ref.name, recording.image(ref)]));
  if ([...embedded.values()].some((bytes) => bytes === undefined)) return imagesOf(spec);
  return loadImages(spec, { bytes: (name) => embedded.get(name) as Uint8Array, disk: (name) => (embedded.has(name) ? embeddedDisk(embedded.get(name) as Uint8Array, blake3(embedded.get(name) as Uint8Array)) : openDiskImage(name)) });
}

/** Replays bytes; `wrap` stands between the world and the comparison. Throws RecordingError for bad files. */
export async function replayBytes(bytes: Uint8Array, wrap?: (sink: EventSink, world: World) => EventSink): Promise<Replayed> {
  await loadHashes();
  const recording = openRecording(bytesSource('test.rxr', bytes), { codec: zlibCodec(1) });
  const spec = specOf(recording);
  const images = await recordedImages(recording, spec);
  let digester: StateDigester | undefined;
  const replayer = new Replayer(recording, () => (digester as StateDigester).parts());
  const world = buildWorld({
    spec, images: images.domains, choices: replayer.choices, input: () => replayer.input,
    sink: (made) => {
      digester = new StateDigester(made);
      return wrap?.(replayer, made) ?? replayer;
    },
  });
  while (!replayer.over && world.ended === undefined) world.advance(1_000_000);
  const diverged = replayer.divergence !== undefined || replayer.stateDivergence !== undefined || (!recording.truncated && replayer.encoder.finish() !== undefined);
  return { verdict: diverged ? 'diverged' : recording.truncated ? 'truncated' : 'exact', replayer, recording, world };
}
