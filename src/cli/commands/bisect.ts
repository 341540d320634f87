// `rexen bisect A B --instruction`: from the first event in which two recordings differ down to the
// instruction that parts their states. Exit code 0: they do not part, 1: they do, 2: bad input.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { openIndexed } from '../../log/indexed.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { fileSource } from '../../node/recording-files.ts';
import { zlibCodec } from '../../node/zlib-codec.ts';
import { diffRecordings } from '../../replay/diff.ts';
import { bisectInstructions } from '../../replay/instruction-bisect.ts';
import { stateLines } from '../../replay/state-diff.ts';
import { openTwo, strayedText } from '../two-timelines.ts';

interface BisectOptions {
  readonly instruction?: boolean;
  readonly map?: string;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('bisect')
    .description('find what makes two recordings part: the instruction before which their states are the same and after which they are not')
    .argument('<a>', 'a recording')
    .argument('<b>', 'another one')
    .option('--instruction', 'search between the events, by re-executing both')
    .option('--map <file>', "a System.map for the first domain's kernel (default: its own symbol table)")
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(bisect);
}

async function bisect(fileA: string, fileB: string, options: BisectOptions): Promise<void> {
  if (options.instruction !== true) throw new UsageError('bisect A B takes --instruction; `rexen diff` finds the first event that differs');
  await loadHashes();
  const codec = zlibCodec();
  const diff = diffRecordings(openIndexed(fileSource(fileA), { codec }), openIndexed(fileSource(fileB), { codec }));
  const say = (facts: object, lines: readonly string[]): void => void process.stdout.write(options.json === true ? `${JSON.stringify({ a: fileA, b: fileB, ...facts })}\n` : `${lines.join('\n')}\n`);
  if (diff.events === undefined && diff.state === undefined) return say({ same: diff.same, verdict: diff.verdict }, [diff.verdict]);
  process.exitCode = 1;
  const two = await openTwo(fileA, fileB, options);
  const event = diff.events?.sameEvents ?? (diff.state?.atEvent as number);
  const until = Math.max(...[two.a, two.b].map((timeline) => (diff.events === undefined ? timeline.seekEnd() : timeline.seek({ event: Math.min(event + 1, timeline.recording.eventCount) })).insns));
  const found = bisectInstructions(two.a, two.b, until, two.symbols);
  const strayed = strayedText(two);
  if (strayed !== undefined) return say({ same: false, diff: diff.verdict, problem: strayed }, [`events   ${diff.verdict}`, strayed]);
  say({ same: false, diff: diff.verdict, ...found }, [
    `events   ${diff.verdict}`,
    ...(found.code.length === 0 ? [] : ['code:', ...found.code.map((line) => `    ${line}`)]),
    ...found.eventsA.map((line) => `A   ${line}`),
    ...found.eventsB.map((line) => `B   ${line}`),
    ...(found.state === undefined ? [] : ['state after it:', ...stateLines(found.state)]),
    found.verdict,
  ]);
}
