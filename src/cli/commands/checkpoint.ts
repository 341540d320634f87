// `rexen checkpoint FILE`: replays a recording and leaves checkpoints in a file beside it.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { saveCheckpoints } from '../../node/checkpoint-files.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { openRecordingFile } from '../../node/recording-files.ts';
import { recordedWorld } from '../../node/recorded-world.ts';
import { divergenceLines, reportDivergence } from '../../replay/divergence-report.ts';
import { checkpointEvery, Timeline } from '../../replay/timeline.ts';
import { wholeNumber } from '../recording-argument.ts';

interface CheckpointOptions {
  readonly every?: string;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];
const LEAST_EVERY = 1000;

export function register(program: Command): void {
  program
    .command('checkpoint')
    .description('replay a recording and leave checkpoints in a file beside it (FILE.rxc), which `replay --until` and `rexen/timeline` use')
    .argument('<file>', 'a recording')
    .option('--every <n>', 'instructions between two of them (default: some 256 of them, at most 20,000,000 apart)')
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(checkpoint);
}

/** A distance between checkpoints. Throws UsageError. */
export function everyArgument(option: string, text: string): number {
  const every = wholeNumber(option, text);
  if (every < LEAST_EVERY) throw new UsageError(`${option} ${text}: give at least ${LEAST_EVERY} instructions`);
  return every;
}

async function checkpoint(file: string, options: CheckpointOptions): Promise<void> {
  await loadHashes();
  const recording = await openRecordingFile(file);
  const everyInsns = options.every === undefined ? checkpointEvery(recording.trailer?.instructions ?? 0) : everyArgument('--every', options.every);
  const { spec, images } = await recordedWorld(recording, options.images);
  const started = performance.now();
  const timeline = new Timeline({ recording, spec, images: images.domains, everyInsns });
  const place = timeline.seekEnd();
  if (timeline.checkpoints.length === 0) throw new UsageError(`${file}: its world has a guest written in TypeScript, which is run again from its start instead of being restored`);
  const report = timeline.diverged ? reportDivergence(timeline.world, timeline.run.replayer) : undefined;
  if (report !== undefined) {
    process.exitCode = 1;
    process.stdout.write(options.json === true ? `${JSON.stringify({ file, exact: false, divergence: report })}\n` : `${divergenceLines(report).join('\n')}\n`);
    return;
  }
  const saved = saveCheckpoints(file, recording.digest, timeline.store, timeline.checkpoints);
  const facts = { file: saved.file, checkpoints: timeline.checkpoints.length, everyInsns, instructions: place.insns, bytes: saved.bytes, wallMs: Math.round(performance.now() - started) };
  process.stdout.write(options.json === true ? `${JSON.stringify(facts)}\n` : `${facts.checkpoints} checkpoints of ${facts.instructions} instructions in ${facts.file}, ${facts.bytes} bytes\n`);
}
