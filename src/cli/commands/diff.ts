// `rexen diff A B`: where two recordings part. Exit code 0: they are the same, 1: they differ, 2: bad input.
import type { Command } from 'commander';
import { eventJson } from '../../log/event-decoder.ts';
import { CountedSource, openIndexed } from '../../log/indexed.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { fileSource } from '../../node/recording-files.ts';
import { zlibCodec } from '../../node/zlib-codec.ts';
import { diffLines, diffRecordings, type DiffSide } from '../../replay/diff.ts';
import { wholeNumber } from '../recording-argument.ts';

interface DiffOptions {
  readonly context: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program
    .command('diff')
    .description('find where two recordings part: the first event that differs, and what became of it')
    .argument('<a>', 'a recording')
    .argument('<b>', 'another one')
    .option('--context <n>', 'events to show before and after', '10')
    .option('--json', 'print one JSON object and nothing else')
    .action(diff);
}

async function diff(a: string, b: string, options: DiffOptions): Promise<void> {
  await loadHashes();
  const context = Math.min(wholeNumber('--context', options.context), 1000);
  const started = performance.now();
  const sources = [a, b].map((file) => new CountedSource(fileSource(file))) as [CountedSource, CountedSource];
  const [left, right] = [openIndexed(sources[0], { codec: zlibCodec() }), openIndexed(sources[1], { codec: zlibCodec() })];
  const found = diffRecordings(left, right, context);
  const wallMs = Math.round((performance.now() - started) * 10) / 10;
  process.exitCode = found.same ? 0 : 1;
  if (options.json === true) {
    const side = ({ event, line, after }: DiffSide) => ({ line, after, ...(event === undefined ? {} : { index: event.index, retired: event.retired, nowNs: event.nowNs, event: eventJson(event) }) });
    const events = found.events === undefined ? {} : { events: { ...found.events, a: side(found.events.a), b: side(found.events.b) } };
    process.stdout.write(`${JSON.stringify({ a, b, ...found, ...events, bytesRead: { a: sources[0].bytesRead, b: sources[1].bytesRead }, bytes: { a: sources[0].sizeBytes, b: sources[1].sizeBytes }, wallMs })}\n`);
    return;
  }
  process.stdout.write(`${diffLines(found, { a, b }).join('\n')}\n`);
}
