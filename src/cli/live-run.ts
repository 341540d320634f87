// Runs a scenario from its beginning, with or without a recording, and sums up.
import { bytesToHex } from '../base/hash.ts';
import { loadImages, portableSpec, type LoadedImages } from '../node/load-images.ts';
import { createRecordingFile, type RecordingFile } from '../node/recording-worker.ts';
import type { World as LoggedWorld } from '../log/packets.ts';
import { CheckWatch, type CheckMode } from '../replay/check-watch.ts';
import { HeldRecording } from '../replay/held-recording.ts';
import { choicesFor, PLAN_OPTION, planText, type ChoicePlan } from '../replay/plan.ts';
import { unmetExpectations } from '../replay/planned-run.ts';
import { profileLines, profileOf, TimedSink } from '../replay/profile.ts';
import { KindCounts, Recorder } from '../replay/recorder.ts';
import { INPUTS_OPTION, type LogMode } from '../replay/whole-digest.ts';
import { eventsToChunks, type BatchedEvents } from '../log/batched-encoder.ts';
import { EventsDigest, recordingDigest } from '../log/digest.ts';
import { encodeMessage } from '../log/packets.ts';
import { buildWorld } from '../sim/build-world.ts';
import { LiveInput, ScriptedInput, StoppableInput, type InputSource } from '../sim/input.ts';
import { OUTCOMES } from '../sim/outcome.ts';
import type { Scenario } from '../sim/scenario.ts';
import { StateDigester } from '../sim/state-digest.ts';
import type { EventSink, World } from '../sim/world.ts';
import { version } from '../node/package-info.ts';
import { drive } from './drive.ts';
import { rememberPlaces } from '../node/image-places.ts';
import { resolveImagePath } from '../node/image-store.ts';
import { refuseToOverwrite } from '../node/output-file.ts';
import { listenToKeys } from './keyboard.ts';
import { startProgress } from './progress.ts';
import { RunCheckpoints } from './run-checkpoints.ts';
import type { RunResult } from './report.ts';
import { durationText, type Summary } from './summary.ts';

export interface LiveRun {
  readonly scenario: Scenario;
  readonly seed: string;
  /** What it does differently from its seed; default: nothing. */
  readonly plan?: ChoicePlan;
  /** Undefined: nothing is recorded. */
  readonly file: string | undefined;
  readonly compression: 'none' | 'deflate';
  /** Default: all. */
  readonly log?: LogMode;
  readonly interactive: boolean;
  readonly showConsole: boolean;
  readonly progress: boolean;
  readonly profile: boolean;
  /** Default: off. */
  readonly check?: CheckMode;
  /** Instructions between two checkpoints beside the recording, or as the cost of replaying says; default: none. */
  readonly checkpointEvery?: number | 'auto';
}

function loggedWorld(run: LiveRun, images: LoadedImages): LoggedWorld {
  const { scenario, seed } = run;
  const { nsPerInsn } = scenario.spec;
  return {
    scenario: scenario.name,
    options: [{ name: 'spec', value: JSON.stringify(portableSpec(scenario.spec)) }, ...(run.log === 'inputs' ? [INPUTS_OPTION] : []), ...(run.plan === undefined ? [] : [{ name: PLAN_OPTION, value: planText(run.plan) }])],
    seed,
    images: images.files.map(({ ref }) => ref),
    nsPerInsnNumerator: nsPerInsn.num,
    nsPerInsnDenominator: nsPerInsn.den,
  };
}

/** Encodes and hashes events without keeping them: the digest of a run that is not recorded. */
class DigestOnly implements EventSink {
  readonly counts = new KindCounts();
  readonly digest = new EventsDigest();
  readonly #events: BatchedEvents;
  constructor(nsPerInsn: { num: number; den: number }) {
    this.#events = eventsToChunks({ chunk: (chunk) => void this.digest.add(chunk.bytes) }, { numerator: nsPerInsn.num, denominator: nsPerInsn.den });
  }
  event(...args: Parameters<EventSink['event']>): void {
    const [kind, domId, vcpuId, retired, nowNs, values, bytes] = args;
    this.counts.add(kind);
    this.#events.emit(kind, domId, vcpuId, retired, nowNs, values, bytes);
  }
  finish(): void {
    this.#events.endChunk();
  }
}

export async function runLive(run: LiveRun): Promise<RunResult> {
  const { scenario } = run;
  const images = await loadImages(scenario.spec);
  const header = loggedWorld(run, images);
  if (run.file !== undefined) refuseToOverwrite(run.file, images.files.map(({ name }) => resolveImagePath(name)));
  const live = run.interactive ? new LiveInput() : undefined;
  let stoppable: StoppableInput | undefined;
  let script: ScriptedInput | undefined;
  const input = (domIdOf: (name: string) => number | undefined): InputSource => {
    script = new ScriptedInput(scenario.spec.input, domIdOf);
    stoppable = new StoppableInput(live ?? script);
    return stoppable;
  };
  // The file is opened when the world is there: one that cannot be built leaves a recording of that name alone.
  const held = run.file === undefined ? undefined : new HeldRecording({ numerator: scenario.spec.nsPerInsn.num, denominator: scenario.spec.nsPerInsn.den });
  let recorder: Recorder | undefined;
  const digestOnly = held === undefined ? new DigestOnly(scenario.spec.nsPerInsn) : undefined;
  const console = new ConsoleText(run.showConsole);
  const { check = 'off' } = run;
  const watch = new CheckWatch(check);
  // The recording ends as if the user had asked for it: it replays.
  watch.onBroken = () => stoppable?.requestStop();
  const makeSink = (world: World): EventSink => {
    if (held === undefined) return watch.remember(timed(digestOnly as DigestOnly, world));
    const digester = new StateDigester(world);
    recorder = new Recorder(held, scenario.spec.nsPerInsn, () => digester.parts(), run.interactive, run.log);
    return watch.remember(timed(recorder, world));
  };
  let timedSink: TimedSink | undefined;
  const timed = (sink: EventSink, made: World): EventSink => (run.profile ? (timedSink = new TimedSink(sink, () => performance.now(), made)) : sink);
  const world = buildWorld({
    // As a replay will have it: the names of this machine's folders reach no guest.
    spec: portableSpec(scenario.spec), images: images.domains, choices: choicesFor(run.seed, run.plan), input, sink: makeSink,
    observers: { consoleOut: (domId, bytes) => console.add(domId, bytes), ...(check === 'off' ? {} : { quiescent: watch.quiescent }) },
    ...(run.profile ? { clock: () => performance.now() } : {}),
  });
  watch.attach(world);
  const checkpoints = run.checkpointEvery === undefined || run.file === undefined ? undefined : new RunCheckpoints(world, run.file, run.checkpointEvery === 'auto' ? undefined : run.checkpointEvery);
  const started = performance.now();
  let recordingFile: RecordingFile | undefined;
  let ended;
  try {
    if (run.file !== undefined) {
      recordingFile = await createRecordingFile(run.file, { world: header, info: [{ name: 'rexen', value: version() }, ...rememberPlaces(images)], compression: run.compression, inline: run.interactive });
      held?.release(recordingFile);
    }
    ended = await driveInterruptibly(world, { label: scenario.name, progress: run.progress, live, checkpoints, stop: () => stoppable?.requestStop() });
  } finally {
    if (ended === undefined) {
      // Something threw: the events up to there are what its report needs.
      recorder?.finish();
      checkpoints?.abandon();
      await recordingFile?.abandon();
    }
  }
  const checked = watch.finish();
  for (const name of images.changedDisks()) process.stderr.write(`rexen: ${name} was written to by another program during the run: the recording names its old content, and will not replay\n`);
  recorder?.finish();
  digestOnly?.finish();
  const end = { instructions: world.insns(), virtualTimeNs: world.nowNs(), outcome: ended.outcome, outcomeText: ended.text };
  const totals = await recordingFile?.finish(end);
  const sidecar = totals === undefined ? undefined : checkpoints?.finish(totals.digest);
  const wallMs = performance.now() - started;
  const digest = totals?.digest ?? recordingDigest(encodeMessage('World', header), (digestOnly as DigestOnly).digest.last);
  const awaited = OUTCOMES[ended.outcome].done || live !== undefined ? undefined : script?.awaited();
  const unmet = [...unmetExpectations(scenario.expect, ended.outcome, scenario.spec, (domId) => console.text(domId)), ...(awaited === undefined ? [] : [awaited])];
  const summary: Summary = {
    scenario: scenario.name, seed: run.seed, outcome: ended.outcome, text: ended.text,
    events: world.eventCount, instructions: end.instructions, virtualTimeNs: end.virtualTimeNs,
    wallMs: Math.round(wallMs * 10) / 10, mips: Math.round((end.instructions / wallMs / 1000) * 10) / 10,
    digest: bytesToHex(digest),
    bytes: totals?.bytes ?? 0,
    ...(totals === undefined ? {} : { file: run.file as string }),
    ...(sidecar === undefined ? {} : { checkpoints: sidecar }),
    ...(unmet.length === 0 ? {} : { unmet }),
    ...(check === 'off' ? {} : { checked }),
    eventsByKind: (recorder ?? (digestOnly as DigestOnly)).counts.byName(),
  };
  const profile = profileOf(world, timedSink);
  return { summary, outcome: ended.outcome, checked, ...(profile === undefined ? {} : { profile: profileLines(profile) }) };
}

export interface DriveFaces {
  readonly label: string;
  readonly progress: boolean;
  readonly live: LiveInput | undefined;
  readonly checkpoints: RunCheckpoints | undefined;
  readonly stop: () => void;
}

/** Drives the world to its end with progress, keys and Ctrl-C, which asks it to stop. */
export async function driveInterruptibly(world: World, { label, progress: wanted, live, checkpoints, stop }: DriveFaces): ReturnType<typeof drive> {
  const keys = live === undefined ? undefined : listenToKeys(live, 1, stop);
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const progress = startProgress(label, undefined, wanted);
  try {
    return await drive(world, {
      ...(live === undefined ? {} : { live }),
      ...(checkpoints === undefined ? {} : { sliceInsns: checkpoints.sliceInsns, sliceEvents: checkpoints.sliceEvents }),
      onSlice: () => {
        checkpoints?.look();
        progress.update(0, `${(world.insns() / 1e6).toFixed(0)} M instructions, ${world.eventCount} events, ${durationText(world.nowNs())} virtual`);
      },
    });
  } finally {
    progress.stop();
    keys?.close();
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

/** Keeps what the guests print, and shows it as it comes. */
export class ConsoleText {
  readonly #show: boolean;
  readonly #texts = new Map<number, string>();

  constructor(show: boolean) {
    this.#show = show;
  }

  add(domId: number, bytes: Uint8Array): void {
    if (this.#show) process.stdout.write(bytes);
    this.#texts.set(domId, (this.#texts.get(domId) ?? '') + Buffer.from(bytes).toString('latin1'));
  }

  text(domId: number): string {
    return this.#texts.get(domId) ?? '';
  }
}
