// Replays a recording: builds the world that its header describes, runs it with the recorded choices
// and inputs, compares every event and state digest.
import { ENGINE_REVISION } from '../abi/revision.ts';
import { UsageError } from '../base/assert.ts';
import { bytesToHex } from '../base/hash.ts';
import type { Recording } from '../log/reader.ts';
import { findCheckpoints } from '../node/checkpoint-files.ts';
import type { LoadedImages } from '../node/load-images.ts';
import { ReadAhead } from '../node/read-ahead.ts';
import { recordedWorld } from '../node/recorded-world.ts';
import { withRecordingFile } from '../node/recording-files.ts';
import { CheckWatch, type CheckMode, type CheckSummary } from '../replay/check-watch.ts';
import { reportDivergence, type DivergenceReport } from '../replay/divergence-report.ts';
import { buildReplayWorld } from '../replay/replay-world.ts';
import type { Replayer } from '../replay/replayer.ts';
import { logModeOf } from '../replay/whole-digest.ts';
import { isBefore, leftTo, Timeline } from '../replay/timeline.ts';
import { imageSymbols } from '../replay/symbols.ts';
import type { DomainImages } from '../sim/build-world.ts';
import type { WorldSpec } from '../sim/spec.ts';
import type { EventSink, World } from '../sim/world.ts';
import type { PositionArgument } from './arguments.ts';
import { startProgress } from './progress.ts';
import type { Summary } from './summary.ts';

export interface ReplayRun {
  readonly file: string;
  readonly until: PositionArgument | undefined;
  readonly images: readonly string[];
  /** A System.map for the first domain's kernel. */
  readonly map?: Uint8Array | undefined;
  readonly showConsole: boolean;
  readonly progress: boolean;
  /** Default: off. */
  readonly check?: CheckMode;
  /** The world as it is when the replay has come to its end, whatever the verdict. */
  readonly atEnd?: (world: World, spec: WorldSpec) => void;
  /** Sees every event of the replay. */
  readonly onEvent?: EventSink['event'];
}

export interface ReplayResult {
  readonly summary: Summary;
  /** exact: everything was compared and equal. truncated: so was everything that is left. stopped: up to --until. broken: an invariant was. */
  readonly outcome: 'exact' | 'diverged' | 'truncated' | 'stopped' | 'broken';
  readonly checked: CheckSummary;
  readonly report: DivergenceReport | undefined;
  readonly warnings: readonly string[];
}

const SLICE_INSNS = 20_000_000;
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export const runReplay = (run: ReplayRun): Promise<ReplayResult> => withRecordingFile(run.file, (recording) => replayRecording(run, recording));

async function replayRecording(run: ReplayRun, recording: Recording): Promise<ReplayResult> {
  const { spec, images } = await recordedWorld(recording, run.images);
  const { check = 'off' } = run;
  const watch = new CheckWatch(check);
  // Checkpoints lead to a position; what a check, the console or a listener would have seen before is wanted otherwise.
  if (run.until !== undefined && check === 'off' && !run.showConsole && run.onEvent === undefined) {
    const sought = seekWithCheckpoints(run, run.until, recording, spec, images.domains);
    if (sought !== undefined) return sought;
  }
  const decoded = ReadAhead.start(run.file, recording);
  try {
    return await replayAll(run, recording, spec, images, watch, decoded);
  } finally {
    await decoded?.close();
  }
}

async function replayAll(run: ReplayRun, recording: Recording, spec: WorldSpec, images: LoadedImages, watch: CheckWatch, decoded: ReadAhead | undefined): Promise<ReplayResult> {
  const { check = 'off' } = run;
  const { world, replayer } = buildReplayWorld({
    recording, spec, images: images.domains, decoded, wrap: (sink) => watch.wrap(run.onEvent === undefined ? sink : overheard(sink, run.onEvent)),
    observers: {
      ...(run.showConsole ? { consoleOut: (_domId: number, bytes: Uint8Array) => void process.stdout.write(bytes) } : {}),
      ...(check === 'off' ? {} : { quiescent: watch.quiescent }),
    },
  });
  watch.attach(world);
  const progress = startProgress('replay', recording.eventCount, run.progress);
  const started = performance.now();
  const stopped = await replayTo(world, replayer, run.until, () => progress.update(world.eventCount, `${(world.insns() / 1e6).toFixed(0)} M instructions`));
  progress.stop();
  run.atEnd?.(world, spec);
  const checked = watch.finish();
  const wallMs = performance.now() - started;
  const outcome = checked.broken !== undefined ? 'broken' : outcomeOf(world, replayer, stopped);
  const summary: Summary = {
    scenario: recording.world.scenario, seed: recording.world.seed,
    outcome: outcome === 'exact' ? (recording.trailer?.outcome ?? 'exact') : outcome, text: outcomeText(outcome, recording),
    events: world.eventCount, instructions: world.insns(), virtualTimeNs: world.nowNs(),
    wallMs: Math.round(wallMs * 10) / 10, mips: Math.round((world.insns() / wallMs / 1000) * 10) / 10,
    digest: bytesToHex(recording.digest), bytes: recording.source.sizeBytes, file: run.file,
    exact: outcome === 'exact', ...(check === 'off' ? {} : { checked }), eventsByKind: replayer.counts.byName(),
  };
  return { summary, outcome, checked, report: outcome === 'diverged' ? reportDivergence(world, replayer, () => imageSymbols(images.domains, run.map)) : undefined, warnings: warningsOf(recording) };
}

/** Undefined: there are no checkpoints that serve; then the replay begins at the beginning. */
function seekWithCheckpoints(run: ReplayRun, until: PositionArgument, recording: Recording, spec: WorldSpec, images: readonly DomainImages[]): ReplayResult | undefined {
  refuseBeyondEnd(recording, until);
  const beside = findCheckpoints(run.file, recording);
  if (beside === undefined) return undefined;
  if ('problem' in beside) {
    process.stderr.write(`rexen: ${beside.problem}\n`);
    return undefined;
  }
  try {
    return seekThere(run, until, new Timeline({ recording, spec, images, checkpoints: beside, everyInsns: 0 }), spec);
  } finally {
    beside.close();
  }
}

function seekThere(run: ReplayRun, until: PositionArgument, timeline: Timeline, spec: WorldSpec): ReplayResult | undefined {
  const started = performance.now();
  const { recording } = timeline;
  const place = timeline.seek(until);
  if (timeline.damage !== undefined) process.stderr.write(`rexen: ${timeline.damage}: its checkpoints are ignored; "rexen checkpoint" makes them anew\n`);
  // A checkpoint may be wrong in ways that no hash shows (another build): only a replay from the beginning says so of a recording.
  if (timeline.diverged || isBefore(place, until)) return undefined;
  const wallMs = performance.now() - started;
  const { world } = timeline;
  const from = timeline.startedAt;
  run.atEnd?.(world, spec);
  const summary: Summary = {
    scenario: recording.world.scenario, seed: recording.world.seed, outcome: 'stopped',
    text: `stopped at the requested position; everything from the checkpoint at event ${from.eventCount} (${from.insns} instructions) on was as recorded`,
    events: world.eventCount, instructions: world.insns(), virtualTimeNs: world.nowNs(),
    wallMs: Math.round(wallMs * 10) / 10, mips: Math.round(((world.insns() - from.insns) / wallMs / 1000) * 10) / 10,
    digest: bytesToHex(recording.digest), bytes: recording.source.sizeBytes, file: run.file, exact: false, eventsByKind: timeline.run.replayer.counts.byName(),
  };
  return { summary, outcome: 'stopped', checked: { checks: 0, broken: undefined }, report: undefined, warnings: warningsOf(recording) };
}

function refuseBeyondEnd(recording: Recording, until: PositionArgument): void {
  // A recording of inputs does not know how many events there were.
  if (logModeOf(recording.world) === 'all' && until.event > recording.eventCount) throw new UsageError(`--until ${until.event}: the recording has ${recording.eventCount} events`);
}

/** The same sink, with somebody listening. */
function overheard(sink: EventSink, listener: EventSink['event']): EventSink {
  return {
    event: (...args) => {
      listener(...args);
      sink.event(...args);
    },
    ...(sink.stateDigest === undefined ? {} : { stateDigest: (eventCount: number, insns: number) => sink.stateDigest?.(eventCount, insns) }),
    get over() { return sink.over === true; },
  };
}

/** Runs until the recording is used up; true if it stopped at the wanted position before. */
async function replayTo(world: World, replayer: Replayer, until: PositionArgument | undefined, onSlice: () => void): Promise<boolean> {
  if (until !== undefined) refuseBeyondEnd(replayer.recording, until);
  for (;;) {
    if (world.sink?.over === true || world.ended !== undefined) return false;
    const left = until === undefined ? SLICE_INSNS : leftTo(world, until);
    if (left === undefined) return true;
    const result = world.advance(until === undefined ? left : Math.min(left, 100_000), until === undefined || world.eventCount >= until.event ? Infinity : until.event);
    onSlice();
    if (result.kind !== 'running') return false;
    await nextTurn();
  }
}

function outcomeOf(world: World, replayer: Replayer, stopped: boolean): ReplayResult['outcome'] {
  if (replayer.divergence !== undefined || replayer.stateDivergence !== undefined) return 'diverged';
  if (stopped) return 'stopped';
  if (replayer.recording.truncated) return replayer.encoder.matchedAll ? 'truncated' : 'diverged';
  if (replayer.encoder.finish() !== undefined) return 'diverged';
  const trailer = replayer.recording.trailer;
  return trailer !== undefined && trailer.instructions === world.insns() && trailer.outcome === world.ended?.outcome ? 'exact' : 'diverged';
}

function outcomeText(outcome: ReplayResult['outcome'], recording: Recording): string {
  switch (outcome) {
    case 'exact':
      return recording.trailer?.outcomeText ?? '';
    case 'truncated':
      return `the recording was cut short; its ${recording.eventCount} events up to the last whole chunk were replayed and verified`;
    case 'stopped':
      return 'stopped at the requested position; everything up to it was as recorded';
    case 'broken':
      return 'an invariant is broken';
    case 'diverged':
      return 'the replay is not what was recorded';
  }
}

function warningsOf(recording: Recording): string[] {
  return recording.engineRevision === ENGINE_REVISION ? [] : [`the recording was made by engine revision ${recording.engineRevision}, this is ${ENGINE_REVISION}: a divergence may be a difference between the two`];
}
