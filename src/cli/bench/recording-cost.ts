// What recording and replaying cost: a plain run, the same run recorded to a file, and its replay,
// interleaved, so that a busy machine slows all three alike. Ratios of medians, with their spread.
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadImages, portableSpec, type LoadedImages } from '../../node/load-images.ts';
import { ReadAhead } from '../../node/read-ahead.ts';
import { openRecordingFile } from '../../node/recording-files.ts';
import { createRecordingFile } from '../../node/recording-worker.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { profileOf, TimedSink, type Profile } from '../../replay/profile.ts';
import { Recorder } from '../../replay/recorder.ts';
import { Replayer } from '../../replay/replayer.ts';
import { buildWorld } from '../../sim/build-world.ts';
import { SeededChoices } from '../../sim/choices.ts';
import { ScriptedInput } from '../../sim/input.ts';
import type { WorldSpec } from '../../sim/spec.ts';
import { StateDigester } from '../../sim/state-digest.ts';
import { applySettings } from '../../sim/settings.ts';
import type { World } from '../../sim/world.ts';

export interface Workload {
  readonly name: string;
  readonly scenario: string;
  readonly settings: readonly string[];
  readonly change?: (spec: WorldSpec) => WorldSpec;
}

export interface CostResult {
  readonly name: string;
  readonly events: number;
  readonly instructions: number;
  readonly plainMs: number;
  readonly recordMs: number;
  readonly replayMs: number;
  /** Processor time of all threads: medians. */
  readonly recordCpuMs: number;
  readonly replayCpuMs: number;
  /** Median of the ratios within each interleaved round, and the middle half of them. */
  readonly recordOverRun: number;
  readonly recordOverRunSpread: readonly [number, number];
  readonly replayOverRecord: number;
  readonly replayOverRecordSpread: readonly [number, number];
  readonly eventsPerSecond: number;
  readonly bytesPerEvent: number;
  readonly bytesPer1000Insns: number;
  readonly profile: Profile;
}

const SLICE_INSNS = 20_000_000;
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function toEnd(world: World): Promise<void> {
  while (world.ended === undefined) {
    world.advance(SLICE_INSNS);
    await nextTurn();
  }
}

async function plain(spec: WorldSpec, images: LoadedImages): Promise<{ ms: number; world: World }> {
  const started = performance.now();
  const world = buildWorld({ spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf) });
  await toEnd(world);
  return { ms: performance.now() - started, world };
}

/** Of the whole process, so far. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function record(spec: WorldSpec, images: LoadedImages, file: string, clock?: () => number): Promise<{ ms: number; cpu: number; profile: Profile | undefined }> {
  const target = await createRecordingFile(file, {
    world: { scenario: 'bench', options: [{ name: 'spec', value: JSON.stringify(portableSpec(spec)) }], seed: '1', images: images.files.map(({ ref }) => ref), nsPerInsnNumerator: spec.nsPerInsn.num, nsPerInsnDenominator: spec.nsPerInsn.den },
  });
  const started = performance.now();
  const cpuAtStart = cpuMs();
  let recorder: Recorder | undefined;
  let timed: TimedSink | undefined;
  const world = buildWorld({
    spec, images: images.domains, choices: new SeededChoices('1'), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
    sink: (made) => {
      const digester = new StateDigester(made);
      recorder = new Recorder(target, spec.nsPerInsn, () => digester.parts(), false);
      return clock === undefined ? recorder : (timed = new TimedSink(recorder, clock, made));
    },
    ...(clock === undefined ? {} : { clock }),
  });
  await toEnd(world);
  recorder?.finish();
  await target.finish({ instructions: world.insns(), virtualTimeNs: world.nowNs(), outcome: world.ended?.outcome ?? '', outcomeText: '' });
  return { ms: performance.now() - started, cpu: cpuMs() - cpuAtStart, profile: profileOf(world, timed) };
}

async function replay(spec: WorldSpec, images: LoadedImages, file: string): Promise<{ ms: number; cpu: number }> {
  const started = performance.now();
  const cpuAtStart = cpuMs();
  const recording = await openRecordingFile(file);
  const decoded = ReadAhead.start(file, recording);
  let digester: StateDigester | undefined;
  const replayer = new Replayer(recording, () => (digester as StateDigester).parts(), decoded);
  const world = buildWorld({
    spec, images: images.domains, choices: replayer.choices, input: () => replayer.input,
    sink: (made) => {
      digester = new StateDigester(made);
      return replayer;
    },
  });
  await toEnd(world);
  if (replayer.divergence !== undefined || replayer.stateDivergence !== undefined || replayer.encoder.finish() !== undefined) throw new Error('the replay diverged');
  await decoded?.close();
  recording.close();
  return { ms: performance.now() - started, cpu: cpuMs() - cpuAtStart };
}

const sorted = (values: readonly number[]): number[] => values.toSorted((a, b) => a - b);
const median = (values: readonly number[]): number => sorted(values)[values.length >> 1] as number;
const middleHalf = (values: readonly number[]): readonly [number, number] => {
  const order = sorted(values);
  return [order[order.length >> 2] as number, order[Math.min(order.length - 1, Math.ceil(order.length * 0.75))] as number];
};
const round3 = (value: number): number => Math.round(value * 1000) / 1000;

/** `rounds` interleaved triples after one that warms up. */
export async function benchCost(workload: Workload, rounds: number, progress: (text: string) => void): Promise<CostResult> {
  const scenario = await findScenario(workload.scenario);
  const settled = applySettings(scenario.spec, workload.settings);
  const spec = workload.change?.(settled) ?? settled;
  const images = await loadImages(spec);
  const folder = mkdtempSync(join(tmpdir(), 'rexen-bench-'));
  const file = join(folder, 'bench.rxr');
  try {
    const { world } = await plain(spec, images);
    await record(spec, images, file);
    await replay(spec, images, file);
    const times: { plain: number; record: number; replay: number; recordCpu: number; replayCpu: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      progress(`${workload.name}, round ${round + 1} of ${rounds}`);
      const p = (await plain(spec, images)).ms;
      const recorded = await record(spec, images, file);
      const replayed = await replay(spec, images, file);
      times.push({ plain: p, record: recorded.ms, replay: replayed.ms, recordCpu: recorded.cpu, replayCpu: replayed.cpu });
    }
    const { profile } = await record(spec, images, file, () => performance.now());
    const recordRatios = times.map((time) => time.record / time.plain);
    const replayRatios = times.map((time) => time.replay / time.record);
    const bytes = statSync(file).size;
    const recordMs = median(times.map((time) => time.record));
    return {
      name: workload.name, events: world.eventCount, instructions: world.insns(),
      plainMs: round3(median(times.map((time) => time.plain))), recordMs: round3(recordMs), replayMs: round3(median(times.map((time) => time.replay))),
      recordCpuMs: round3(median(times.map((time) => time.recordCpu))), replayCpuMs: round3(median(times.map((time) => time.replayCpu))),
      recordOverRun: round3(median(recordRatios)), recordOverRunSpread: middleHalf(recordRatios).map(round3) as [number, number],
      replayOverRecord: round3(median(replayRatios)), replayOverRecordSpread: middleHalf(replayRatios).map(round3) as [number, number],
      eventsPerSecond: Math.round((world.eventCount / recordMs) * 1000), bytesPerEvent: round3(bytes / world.eventCount), bytesPer1000Insns: round3((bytes / world.insns()) * 1000),
      profile: profile as Profile,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
