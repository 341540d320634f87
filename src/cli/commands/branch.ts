// `rexen branch FILE --at P`: goes on from a position of a recording into a new one, with another seed, with
// faults from there on, or with a person at the console.
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { divergenceLines } from '../../replay/divergence-report.ts';
import { parsePosition, parseSeed } from '../arguments.ts';
import { BRANCH_SETTINGS, runBranch } from '../branch-run.ts';
import { report } from '../report.ts';
import { verifyRecording } from '../self-check.ts';

interface BranchOptions {
  readonly at: string;
  readonly seed?: string;
  readonly set: readonly string[];
  readonly output?: string;
  readonly interactive?: boolean;
  readonly verify?: boolean;
  readonly images: readonly string[];
  readonly json?: boolean;
  readonly quiet?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('branch')
    .description('go on from a position of a recording into a new recording: the same events up to there, then another seed, faults or a person')
    .argument('<file>', 'a recording')
    .requiredOption('--at <position>', 'where to leave it: 118, or 118:d1v0:4021 as dump prints it')
    .option('--seed <n>', "seed of every choice from there on (default: the recording's, with which the run goes on as it did)")
    .option('--set <key=value>', `change a setting from there on (${BRANCH_SETTINGS.join(', ')}); may be given several times`, collect, [])
    .option('-o, --output <file>', 'the new recording (default: FILE-at-EVENT.rxr)')
    .option('--interactive', "type at the console yourself from there on instead of following the script's rest (Ctrl-] ends)")
    .option('--verify', 'replay the new recording at once and say whether it is exact')
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .option('--quiet', "do not show the guest's console")
    .action(branch);
}

async function branch(file: string, options: BranchOptions): Promise<void> {
  await loadHashes();
  const at = parsePosition(options.at, '--at');
  const output = options.output ?? `${file.replace(/\.rxr$/, '')}-at-${at.event}.rxr`;
  if (resolve(output) === resolve(file)) throw new UsageError(`-o ${output}: a branch does not take the place of the recording that it leaves`);
  const result = await runBranch({
    file, at, output, seed: options.seed === undefined ? undefined : parseSeed(options.seed), settings: options.set, images: options.images, interactive: options.interactive === true,
    showConsole: options.json !== true && options.quiet !== true, progress: options.json !== true,
  });
  if ('divergence' in result) {
    process.exitCode = 1;
    process.stdout.write(options.json === true ? `${JSON.stringify({ file, outcome: 'diverged', divergence: result.divergence })}\n` : `${divergenceLines(result.divergence).join('\n')}\n`);
    return;
  }
  const verified = options.verify === true ? await verifyRecording(output, options.json !== true) : undefined;
  const shown = verified === undefined ? result : { ...result, summary: { ...result.summary, verified: { same: verified.same, text: verified.text } } };
  const code = report(shown, { json: options.json === true, what: `left ${file} after ${result.summary.parent?.events} events` });
  if (verified?.same === false && options.json !== true) process.stdout.write(`${verified.lines.join('\n')}\n`);
  process.exitCode = verified?.same === false ? 1 : code;
}
