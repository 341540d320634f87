// `rexen checkpoint FILE`: replays a recording and leaves checkpoints in a file beside it.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import type { Recording } from '../../log/reader.ts';
import { withRecordingFile } from '../../node/recording-files.ts';
import { recordedWorld } from '../../node/recorded-world.ts';
import { divergenceLines, reportDivergence } from '../../replay/divergence-report.ts';
import { imageSymbols } from '../../replay/symbols.ts';
import { buildReplayWorld, type ReplayWorld } from '../../replay/replay-world.ts';
import { startProgress, type Progress } from '../progress.ts';
import { wholeNumber } from '../recording-argument.ts';
import { RunCheckpoints } from '../run-checkpoints.ts';

interface CheckpointOptions {
  readonly every?: string;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];
const LEAST_EVERY = 1000;
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export function register(program: Command): void {
  program
    .command('checkpoint')
    .description('replay a recording and leave checkpoints in a file beside it (FILE.rxc), which `replay --until` and `rexen/timeline` use')
    .argument('<file>', 'a recording')
    .option('--every <n>', 'instructions between two of them (default: as the cost of replaying says: few in loops, many where much happens)')
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action((file: string, options: CheckpointOptions) => withRecordingFile(file, (recording) => checkpoint(file, recording, options)));
}

/** A distance between checkpoints. Throws UsageError. */
export function everyArgument(option: string, text: string): number {
  const every = wholeNumber(option, text);
  if (every < LEAST_EVERY) throw new UsageError(`${option} ${text}: give at least ${LEAST_EVERY} instructions`);
  return every;
}

async function checkpoint(file: string, recording: Recording, options: CheckpointOptions): Promise<void> {
  const everyInsns = options.every === undefined ? undefined : everyArgument('--every', options.every);
  const { spec, images } = await recordedWorld(recording, options.images);
  const started = performance.now();
  const run = buildReplayWorld({ recording, spec, images: images.domains });
  const { world } = run;
  const checkpoints = new RunCheckpoints(world, file, everyInsns);
  try {
    const interrupted = await runWithCheckpoints(run, checkpoints, startProgress('checkpoints', recording.eventCount, options.json !== true));
    const report = reportDivergence(world, run.replayer, () => imageSymbols(images.domains));
    if (report !== undefined) {
      process.exitCode = 1;
      process.stdout.write(options.json === true ? `${JSON.stringify({ file, exact: false, divergence: report })}\n` : `${divergenceLines(report).join('\n')}\n`);
      return;
    }
    const saved = checkpoints.finish(recording.digest);
    if (interrupted) process.exitCode = 1;
    const facts = { file: saved.file, checkpoints: saved.count, instructions: world.insns(), bytes: saved.bytes, wallMs: Math.round(performance.now() - started), ...(interrupted ? { interrupted } : {}) };
    process.stdout.write(options.json === true ? `${JSON.stringify(facts)}\n` : `${interrupted ? 'interrupted: ' : ''}${facts.checkpoints} checkpoints of ${facts.instructions} instructions in ${facts.file}, ${facts.bytes} bytes\n`);
  } finally {
    // After finish() there is nothing left to abandon.
    checkpoints.abandon();
  }
}

/** To the end, or to where the replay differs, or until somebody interrupts: what there is by then is kept. */
async function runWithCheckpoints({ world, replayer }: ReplayWorld, checkpoints: RunCheckpoints, progress: Progress): Promise<boolean> {
  let interrupted = false;
  const stop = (): void => void (interrupted = true);
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    while (!interrupted && world.ended === undefined && world.sink?.over !== true) {
      world.advance(checkpoints.sliceInsns, world.eventCount + checkpoints.sliceEvents);
      if (!replayer.diverged) checkpoints.look();
      progress.update(world.eventCount, `${(world.insns() / 1e6).toFixed(0)} M instructions`);
      await nextTurn();
    }
    return interrupted;
  } finally {
    progress.stop();
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}
