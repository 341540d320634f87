// `rexen replay`: runs a recording again and verifies every event.
import type { Command } from 'commander';
import { loadHashes } from '../../node/load-hashes.ts';
import { mapOption } from '../../node/recorded-symbols.ts';
import { divergenceLines } from '../../replay/divergence-report.ts';
import { brokenLines, type CheckMode } from '../../replay/check-watch.ts';
import { checkOption, parsePosition } from '../arguments.ts';
import { runReplay, type ReplayResult } from '../replay-run.ts';
import { summaryLines } from '../summary.ts';

interface ReplayOptions {
  readonly until?: string;
  readonly json?: boolean;
  readonly console?: boolean;
  readonly map?: string;
  readonly images: readonly string[];
  readonly check: CheckMode;
}

/** 0 exact or stopped where asked, 1 diverged, 2 truncated after its verified prefix. */
const EXIT_CODE: Record<ReplayResult['outcome'], 0 | 1 | 2> = { exact: 0, stopped: 0, diverged: 1, broken: 1, truncated: 2 };
const VERDICT: Record<ReplayResult['outcome'], string> = { exact: 'replay: exact', stopped: 'replay: as recorded up to here', diverged: 'replay: DIVERGED', broken: 'replay: BROKEN', truncated: 'replay: exact up to where the recording was cut short' };

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('replay')
    .description('run a recording again and verify every event')
    .argument('<file>', 'a recording')
    .option('--until <position>', 'stop at this event: 118, or 118:d1v0:4021 as dump prints it')
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--console', "show the guest's console")
    .option('--map <file>', "for the report of a divergence: a System.map for the first domain's kernel (default: what the kernel's image says)")
    .addOption(checkOption())
    .option('--json', 'print one JSON object and nothing else')
    .action(replay);
}

async function replay(file: string, options: ReplayOptions): Promise<void> {
  await loadHashes();
  const result = await runReplay({ file, until: options.until === undefined ? undefined : parsePosition(options.until), images: options.images, map: mapOption(options.map), showConsole: options.console === true && options.json !== true, progress: options.json !== true, check: options.check });
  for (const warning of result.warnings) process.stderr.write(`rexen: ${file}: ${warning}\n`);
  process.exitCode = EXIT_CODE[result.outcome];
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ ...result.summary, exact: result.outcome === 'exact', ...(result.report === undefined ? {} : { divergence: result.report }) })}\n`);
    return;
  }
  const lines = summaryLines(result.summary, VERDICT[result.outcome]);
  process.stdout.write(`${[...(result.report === undefined ? [] : divergenceLines(result.report)), ...brokenLines(result.checked), ...lines].join('\n')}\n`);
}
