// `rexen diff A B`: where two recordings part. Exit code 0: they are the same, 1: they differ, 2: bad input.
// What builds worlds and reads kernels is loaded only where it is asked for: the verdict comes from the files alone.
import type { Command } from 'commander';
import { eventJson } from '../../log/event-decoder.ts';
import { CountedSource, openIndexed } from '../../log/indexed.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { fileSource } from '../../node/recording-files.ts';
import { zlibCodec } from '../../node/zlib-codec.ts';
import type { Recording } from '../../log/reader.ts';
import { diffLines, diffRecordings, showsAddress, type DiffSide, type RecordingDiff, type TwoSymbols } from '../../replay/diff.ts';
import type { StateDiff } from '../../replay/state-diff.ts';
import { wholeNumber } from '../recording-argument.ts';

interface DiffOptions {
  readonly context: string;
  readonly json?: boolean;
  readonly state?: boolean;
  readonly map?: string;
  readonly images: readonly string[];
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('diff')
    .description('find where two recordings part: the first event that differs, and what became of it')
    .argument('<a>', 'a recording')
    .argument('<b>', 'another one')
    .option('--context <n>', 'events to show before and after', '10')
    .option('--state', 're-execute both up to there and show what differs in their states')
    .option('--map <file>', "a System.map for the first domain's kernel (default: what the kernel's image says)")
    .option('--images <path>', 'a file or folder in which to look for images (for names, and with --state); may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(diff);
}

async function diff(a: string, b: string, options: DiffOptions): Promise<void> {
  await loadHashes();
  if (options.map !== undefined) (await import('../../node/recorded-symbols.ts')).mapOption(options.map);
  const context = Math.min(wholeNumber('--context', options.context), 1000);
  const files = [a, b].map(fileSource);
  try {
    await sayDifference(a, b, files.map((file) => new CountedSource(file)) as [CountedSource, CountedSource], context, options);
  } finally {
    for (const file of files) file.close();
  }
}

async function sayDifference(a: string, b: string, sources: readonly [CountedSource, CountedSource], context: number, options: DiffOptions): Promise<void> {
  const started = performance.now();
  const [left, right] = [openIndexed(sources[0], { codec: zlibCodec() }), openIndexed(sources[1], { codec: zlibCodec() })];
  const plain = diffRecordings(left, right, context);
  const wallMs = Math.round((performance.now() - started) * 10) / 10;
  process.exitCode = plain.same ? 0 : 1;
  const found = showsAddress(plain) ? diffRecordings(left, right, context, await symbolsOfBoth([left.recording, right.recording], options)) : plain;
  const state = options.state === true && !found.same ? await stateThere(a, b, found, options) : undefined;
  if (options.json === true) {
    const side = ({ event, line, after }: DiffSide) => ({ line, after, ...(event === undefined ? {} : { index: event.index, retired: event.retired, nowNs: event.nowNs, event: eventJson(event) }) });
    const events = found.events === undefined ? {} : { events: { ...found.events, a: side(found.events.a), b: side(found.events.b) } };
    process.stdout.write(`${JSON.stringify({ a, b, ...found, ...events, ...(state === undefined ? {} : { states: state }), bytesRead: { a: sources[0].bytesRead, b: sources[1].bytesRead }, bytes: { a: sources[0].sizeBytes, b: sources[1].sizeBytes }, wallMs })}\n`);
    return;
  }
  const lines = diffLines(found, { a, b });
  process.stdout.write(`${[...lines.slice(0, -1), ...(state?.lines ?? []), ...lines.slice(-1)].join('\n')}\n`);
}

/** Names are looked up only where there is something to name: reading a kernel takes longer than all else. */
async function symbolsOfBoth([a, b]: readonly [Recording, Recording], { images, map }: DiffOptions): Promise<TwoSymbols> {
  const { mapOption, recordedSymbols } = await import('../../node/recorded-symbols.ts');
  const bytes = mapOption(map);
  return { a: await recordedSymbols(a, images, bytes), b: await recordedSymbols(b, images, bytes) };
}

/** Right behind the first event that differs, or at the state digest that does. */
async function stateThere(a: string, b: string, found: RecordingDiff, options: DiffOptions): Promise<{ readonly lines: readonly string[]; readonly diff?: StateDiff; readonly problem?: string }> {
  const { strayedText, withTwo } = await import('../two-timelines.ts');
  const { backtraceLines } = await import('../../replay/backtrace.ts');
  const { compareWorlds, stateLines } = await import('../../replay/state-diff.ts');
  return withTwo(a, b, options, (two) => {
    const event = found.state?.atEvent ?? (found.events === undefined ? Infinity : found.events.sameEvents + 1);
    for (const timeline of [two.a, two.b]) {
      if (event >= timeline.recording.eventCount) timeline.seekEnd();
      else timeline.seek({ event });
    }
    const problem = strayedText(two);
    if (problem !== undefined) return { lines: [problem], problem };
    const diff = compareWorlds(two.a.world, two.b.world, two.symbols);
    const [left, right] = [two.a, two.b].map((timeline) => backtraceLines(timeline.world, two.symbols)) as [string[], string[]];
    const both = left.join() === right.join();
    const stack = both ? left.map((line) => `A, B   ${line}`) : [...left.map((line) => `A      ${line}`), ...right.map((line) => `B      ${line}`)];
    return { lines: ['state there:', ...stateLines(diff), ...stack], diff };
  });
}
