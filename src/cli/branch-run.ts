// Continues from a position of a recording into a new one.
import { UsageError } from '../base/assert.ts';
import type { FaultSpec } from '../abi/faults.ts';
import { bytesToHex } from '../base/hash.ts';
import type { Recording } from '../log/reader.ts';
import type { World as LoggedWorld } from '../log/packets.ts';
import { portableSpec } from '../node/load-images.ts';
import { version } from '../node/package-info.ts';
import { recordedWorld } from '../node/recorded-world.ts';
import { withRecordingFile } from '../node/recording-files.ts';
import { createRecordingFile } from '../node/recording-worker.ts';
import { Branch } from '../replay/branch.ts';
import { reportDivergence, type DivergenceReport } from '../replay/divergence-report.ts';
import { imageSymbols } from '../replay/symbols.ts';
import { logModeOf } from '../replay/whole-digest.ts';
import { leftTo } from '../replay/timeline.ts';
import { LiveInput, ScriptedInput, StoppableInput } from '../sim/input.ts';
import { applySettings } from '../sim/settings.ts';
import { MOST_VIRTUAL_SEC, type WorldSpec } from '../sim/spec.ts';
import type { PositionArgument } from './arguments.ts';
import { embedImages } from './commands/pack.ts';
import { ConsoleText, driveInterruptibly } from './live-run.ts';
import { startProgress } from './progress.ts';
import type { RunResult } from './report.ts';

export interface BranchRun {
  readonly file: string;
  readonly at: PositionArgument;
  /** Default: the parent's. */
  readonly seed: string | undefined;
  readonly settings: readonly string[];
  readonly output: string;
  readonly images: readonly string[];
  readonly interactive: boolean;
  readonly showConsole: boolean;
  readonly progress: boolean;
}

/** Settings that decide nothing of what has happened by any position. */
export const BRANCH_SETTINGS: readonly string[] = ['max-instructions', 'max-time', 'faults'];
const SLICE_INSNS = 20_000_000;
const SLICE_EVENTS = 50_000;
/** What a person sees of the time before: about a screen. */
const SHOWN_BEFORE_CHARS = 2000;
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The spec with its settings changed, and what may go wrong from the position on. Throws UsageError. */
export function branchSpec(spec: WorldSpec, settings: readonly string[]): { readonly spec: WorldSpec; readonly faults: readonly FaultSpec[] } {
  const { faults: before = [], ...rest } = spec;
  const changed = applySettings(rest, settings);
  for (const setting of settings) {
    const key = setting.slice(0, setting.indexOf('='));
    if (!BRANCH_SETTINGS.includes(key)) throw new UsageError(`--set ${setting}: ${key} decides what happens before the position too; a branch can change ${BRANCH_SETTINGS.join(', ')}`);
  }
  const { faults = [], ...later } = changed;
  const known = faults.find(({ fault }) => before.some((other) => other.fault === fault));
  if (known !== undefined) throw new UsageError(`--set faults: ${known.fault} may happen in the recording already, and how often cannot change on the way`);
  return { spec: { ...later, ...(spec.faults === undefined ? {} : { faults: before }) }, faults };
}

/** A report instead of a result: the parent is not made again as it was recorded. */
export const runBranch = (run: BranchRun): Promise<RunResult | { readonly divergence: DivergenceReport }> => withRecordingFile(run.file, (recording) => branchOff(run, recording));

async function branchOff(run: BranchRun, recording: Recording): Promise<RunResult | { readonly divergence: DivergenceReport }> {
  // A recording of inputs does not know how many events there were.
  if (logModeOf(recording.world) === 'all' && run.at.event > recording.eventCount) throw new UsageError(`${run.file}: the recording has ${recording.eventCount} events, so nothing can go on at ${run.at.event}`);
  const { spec: parentSpec, images } = await recordedWorld(recording, run.images);
  const { spec, faults } = branchSpec(parentSpec, run.settings);
  const seed = run.seed ?? recording.world.seed;
  const live = run.interactive ? new LiveInput() : undefined;
  let stoppable: StoppableInput | undefined;
  const console = new ConsoleText(false);
  let shown = false;
  const branch = new Branch({
    recording, faults, seed, images: images.domains, flushInputs: run.interactive,
    // A person takes time, and may: it counts as virtual time while the guest waits.
    spec: live === undefined ? spec : { ...spec, input: [], maxVirtualSec: run.settings.some((setting) => setting.startsWith('max-time=')) ? spec.maxVirtualSec : MOST_VIRTUAL_SEC },
    input: (domIdOf) => (stoppable = new StoppableInput(live ?? new ScriptedInput(spec.input, domIdOf))),
    observers: { consoleOut: (domId, bytes) => (shown ? void process.stdout.write(bytes) : console.add(domId, bytes)) },
  });
  const started = performance.now();
  await runToPosition(branch, run);
  const divergence = branch.diverged ? reportDivergence(branch.world, branch.replayer, () => imageSymbols(images.domains)) : undefined;
  if (divergence !== undefined) return { divergence };
  branch.leave();
  shown = run.showConsole;
  if (shown && run.interactive) process.stdout.write(console.text(1).slice(-SHOWN_BEFORE_CHARS));
  const parent = { file: run.file, digest: bytesToHex(recording.digest), events: branch.world.eventCount };
  const file = await createRecordingFile(run.output, { world: headerOf(recording, branch, seed), info: [{ name: 'rexen', value: version() }, ...recording.info.filter(({ name }) => name !== 'rexen')], compression: 'deflate', inline: run.interactive });
  let ended;
  try {
    branch.writeTo(file);
    ended = await driveInterruptibly(branch.world, { label: recording.world.scenario, progress: run.progress, live, checkpoints: undefined, stop: () => stoppable?.requestStop() });
  } finally {
    branch.recorder.finish();
    if (ended === undefined) await file.abandon();
  }
  const { world } = branch;
  const totals = await file.finish({ instructions: world.insns(), virtualTimeNs: world.nowNs(), outcome: ended.outcome, outcomeText: ended.text });
  const bytes = await carryImages(recording, run.output, totals.bytes);
  const wallMs = performance.now() - started;
  return {
    summary: {
      scenario: recording.world.scenario, seed, outcome: ended.outcome, text: ended.text, events: world.eventCount, instructions: world.insns(), virtualTimeNs: world.nowNs(),
      wallMs: Math.round(wallMs * 10) / 10, mips: Math.round((world.insns() / wallMs / 1000) * 10) / 10, digest: bytesToHex(totals.digest), bytes, file: run.output, parent,
      eventsByKind: branch.recorder.counts.byName(),
    },
    outcome: ended.outcome, checked: { checks: 0, broken: undefined },
  };
}

/** As recorded, to the position or to where the parent is not made again. Throws UsageError if the position is not on the way. */
async function runToPosition(branch: Branch, { file, at, progress: wanted }: BranchRun): Promise<void> {
  const { world } = branch;
  const progress = startProgress('to the position', at.event, wanted);
  try {
    for (;;) {
      const left = leftTo(world, at);
      if (left === undefined || branch.diverged) break;
      world.advance(Math.min(left, SLICE_INSNS), world.eventCount < at.event ? Math.min(at.event, world.eventCount + SLICE_EVENTS) : Infinity);
      if (world.ended !== undefined) break;
      progress.update(world.eventCount, `${(world.insns() / 1e6).toFixed(0)} M instructions`);
      await nextTurn();
    }
  } finally {
    progress.stop();
  }
  if (branch.diverged || world.ended === undefined) return;
  throw new UsageError(`${file}: the run ends (${world.ended.outcome}) after ${world.eventCount} events and ${world.insns()} instructions, so nothing can go on at ${at.event}; choose an earlier position${world.ended.outcome === 'limit' ? ', or a higher limit with --set' : ''}`);
}

function headerOf(recording: Recording, { world, spec }: Branch, seed: string): LoggedWorld {
  const { scenario, images, nsPerInsnNumerator, nsPerInsnDenominator } = recording.world;
  return { scenario, options: [{ name: 'spec', value: JSON.stringify(portableSpec(spec)) }], seed, images, nsPerInsnNumerator, nsPerInsnDenominator, parentDigest: recording.digest, parentEvents: world.eventCount };
}

/** Images that only the parent has inside go along. Returns the file's size. */
async function carryImages(parent: Recording, file: string, sizeBytes: number): Promise<number> {
  const images = new Map(parent.world.images.flatMap((ref, index): [number, Uint8Array][] => {
    const bytes = parent.image(ref);
    return bytes === undefined ? [] : [[index, bytes]];
  }));
  return images.size === 0 ? sizeBytes : withRecordingFile(file, (own) => embedImages(own, file, images, 'deflate').bytes);
}
