// `rexen check FILE`: replays a recording with every checker at work after every event, or in a long one after as many as a minute allows.
// `rexen check --property NAME`: random programs instead (check-property.ts).
import { Option, type Command } from 'commander';
import { CHECKERS } from '../../checkers/index.ts';
import { SHADOWS } from '../../checkers/shadow-checker.ts';
import { SHADOW_TLB } from '../../checkers/shadow-tlb-checker.ts';
import { UsageError } from '../../base/assert.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { brokenLines, EPOCH_EVENTS, type CheckMode } from '../../replay/check-watch.ts';
import { divergenceLines } from '../../replay/divergence-report.ts';
import { checkPropertyCommand } from './check-property.ts';
import { runReplay, type ReplayResult } from '../replay-run.ts';
import { summaryLines } from '../summary.ts';

interface CheckCommandOptions {
  readonly json?: boolean;
  readonly images: readonly string[];
  readonly property?: string;
  readonly runs?: string;
  readonly seed?: string;
  readonly program?: string;
  readonly set: readonly string[];
  readonly check: CheckMode;
}

/** 0 all held and the replay was exact, 1 an invariant was broken or the replay diverged, 2 truncated after its verified prefix. */
const EXIT_CODE: Record<ReplayResult['outcome'], 0 | 1 | 2> = { exact: 0, stopped: 0, diverged: 1, broken: 1, truncated: 2 };

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('check')
    .description('replay a recording and check all invariants of the hypervisor after every event')
    .argument('[file]', 'a recording')
    .option('--property <name>', 'instead of a recording: random programs of a hostile guest against that property')
    .option('--runs <n>', 'with --property: so many programs (1000; of guest-memory and the drivers’ 100)')
    .option('--seed <n>', 'with --property: their seed (1)')
    .option('--program <file>', 'with --property: this program (JSON) instead of random ones')
    .option('--set <key=value>', 'with --property guest-memory: bug=NAME plants a mistake in the guest’s pinning of page tables, to be found', collect, [])
    .addOption(new Option('--check <when>', `after every event, every ${EPOCH_EVENTS} events (epoch), or after every event for about a minute and then as epoch (auto)`).choices(['auto', 'every', 'epoch']).default('auto'))
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(check);
}

async function check(file: string | undefined, options: CheckCommandOptions): Promise<void> {
  const { property } = options;
  if (property !== undefined) {
    if (file !== undefined) throw new UsageError('check takes a recording or --property, not both');
    return checkPropertyCommand({ ...options, property });
  }
  if (options.set.length > 0) throw new UsageError('--set goes with --property: a recording is replayed with the settings that it was made with');
  if (file === undefined) throw new UsageError('check takes a recording, or --property NAME');
  await loadHashes();
  const result = await runReplay({ file, until: undefined, images: options.images, showConsole: false, progress: options.json !== true, check: options.check });
  for (const warning of result.warnings) process.stderr.write(`rexen: ${file}: ${warning}\n`);
  process.exitCode = EXIT_CODE[result.outcome];
  const { checks, sparseFrom, broken, shadowChecks } = result.checked;
  const checkers = [...CHECKERS, ...(shadowChecks === undefined ? [] : [SHADOWS, SHADOW_TLB])].map(({ name, claim }) => ({ name, claim, held: !(broken?.violations ?? []).some(({ checker }) => checker === name) }));
  if (options.json === true) {
    const { outcome, summary, report } = result;
    process.stdout.write(`${JSON.stringify({ file, held: broken === undefined, exact: outcome === 'exact', outcome, checks, ...(sparseFrom === undefined ? {} : { everyEventUpTo: sparseFrom }), ...(shadowChecks === undefined ? {} : { shadowChecks }), events: summary.events, wallMs: summary.wallMs, checkers, ...(broken === undefined ? {} : { broken }), ...(report === undefined ? {} : { divergence: report }) })}\n`);
    return;
  }
  const lines = [
    ...(result.report === undefined ? [] : divergenceLines(result.report)),
    ...brokenLines(result.checked),
    ...checkers.map(({ name, claim, held }) => `${held ? 'held  ' : 'BROKEN'}  ${name}: ${claim}`),
    ...summaryLines(result.summary, VERDICT[result.outcome]),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

const VERDICT: Record<ReplayResult['outcome'], string> = {
  exact: 'check: everything held, the replay is exact', stopped: 'check: everything held up to here', broken: 'check: BROKEN', diverged: 'check: the replay DIVERGED',
  truncated: 'check: everything held up to where the recording was cut short',
};
