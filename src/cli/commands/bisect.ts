// `rexen bisect A B --instruction`: from the first event in which two recordings differ down to the
// instruction that parts their states. Exit code 0: they do not part, 1: they do, 2: bad input.
// `rexen bisect SCENARIO --bad SEED`: the few choices that make a run fail (bisect-scenario.ts).
import { Option, type Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { openIndexed } from '../../log/indexed.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { fileSource } from '../../node/recording-files.ts';
import { zlibCodec } from '../../node/zlib-codec.ts';
import { diffRecordings } from '../../replay/diff.ts';
import { bisectInstructions } from '../../replay/instruction-bisect.ts';
import { stateLines } from '../../replay/state-diff.ts';
import { bisectScenario, type ScenarioBisectOptions } from '../bisect-scenario.ts';
import { strayedText, withTwo } from '../two-timelines.ts';

interface BisectOptions extends ScenarioBisectOptions {
  readonly instruction?: boolean;
  readonly map?: string;
  readonly images: readonly string[];
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('bisect')
    .description('find what makes two recordings part (bisect A B --instruction), or which choices and faults make a scenario fail (bisect SCENARIO --bad SEED)')
    .argument('<a>', 'a recording; or a scenario, as `run` takes it')
    .argument('[b]', 'another recording')
    .option('--instruction', 'search between the events, by re-executing both')
    .option('--map <file>', "a System.map for the first domain's kernel (default: what the kernel's image says)")
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--bad <seed>', 'of a scenario: a seed that fails')
    .option('--good <seed>', 'of a scenario: a seed that does not; finds which choices of the bad one flip it')
    .option('--shrink', 'of a scenario: find the smallest plan that fails, against the calmest run (every answer 0, no fault)')
    .option('--outcome <word>', 'of a scenario: the outcome that counts as failure (default: to fail as the bad seed does)')
    .option('--set <key=value>', 'of a scenario: change a setting of the world; may be given several times', collect, [])
    .option('--plan <text>', 'of a scenario: what the failing run does differently from the bad seed')
    .option('-o, --output <file>', 'of a scenario: record the smallest failing run')
    .addOption(new Option('--max-runs <n>', 'of a scenario: runs to try at most (default 5000)'))
    .option('--json', 'print one JSON object and nothing else')
    .action(bisect);
}

async function bisect(fileA: string, fileB: string | undefined, options: BisectOptions): Promise<void> {
  if (fileB === undefined) return bisectScenario(fileA, options);
  if (options.instruction !== true) throw new UsageError('bisect A B takes --instruction; `rexen diff` finds the first event that differs');
  await loadHashes();
  const codec = zlibCodec();
  const diff = diffRecordings(openIndexed(fileSource(fileA), { codec }), openIndexed(fileSource(fileB), { codec }));
  const say = (facts: object, lines: readonly string[]): void => void process.stdout.write(options.json === true ? `${JSON.stringify({ a: fileA, b: fileB, ...facts })}\n` : `${lines.join('\n')}\n`);
  if (diff.events === undefined && diff.state === undefined) return say({ same: diff.same, verdict: diff.verdict }, [diff.verdict]);
  process.exitCode = 1;
  return withTwo(fileA, fileB, options, (two) => {
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
  });
}
