// `rexen conform`: runs recorded hypercall scripts of a real Xen against this hypervisor, as the
// debug build that was recorded, and reports every difference.
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { BAD_RECORDINGS } from '../../replay/conform-exceptions.ts';
import { ConformRunner, type Difference, type Script } from '../../replay/conform.ts';
import { parseScripts } from '../../replay/conform-script.ts';

/** Differences printed in text form; --json has all of them. */
const SHOWN = 20;

export interface ConformReport {
  readonly outcome: 'agrees' | 'differs';
  readonly scripts: number;
  readonly operations: number;
  readonly agreeing: number;
  readonly differing: number;
  /** Scripts that differ and are listed as bad recordings, with the reason. */
  readonly badRecordings: readonly { readonly script: string; readonly reason: string }[];
  readonly bySub: Readonly<Record<string, { readonly scripts: number; readonly differing: number }>>;
  readonly differences: readonly Difference[];
  readonly wallMs: number;
}

export function register(program: Command): void {
  program
    .command('conform')
    .description('compare the hypervisor with recorded answers of a real Xen')
    .argument('<files...>', 'scripts, one JSON object a line (.jsonl or .jsonl.gz)')
    .option('--json', 'print one JSON object and nothing else')
    .action((files: string[], options: { json?: boolean }) => {
      const report = conformFiles(files);
      process.stdout.write(options.json === true ? `${JSON.stringify(report, null, 2)}\n` : `${textLines(report).join('\n')}\n`);
      process.exitCode = report.outcome === 'agrees' ? 0 : 1;
    });
}

/** Runs every script of the files. Throws UsageError for a file that holds no scripts. */
export function conformFiles(files: readonly string[]): ConformReport {
  const started = Date.now();
  const runner = new ConformRunner();
  const differences: Difference[] = [];
  const bySub: Record<string, { scripts: number; differing: number }> = {};
  const bad: { script: string; reason: string }[] = [];
  let scripts = 0;
  let operations = 0;
  let differing = 0;
  for (const file of files) {
    for (const script of readScripts(file)) {
      const found = runner.run(script);
      scripts++;
      operations += script.ops.length;
      const sub = (bySub[`${script.abi} ${script.sub}`] ??= { scripts: 0, differing: 0 });
      sub.scripts++;
      if (found.length === 0) continue;
      differing++;
      sub.differing++;
      differences.push(...found);
      const reason = BAD_RECORDINGS[script.id];
      if (reason !== undefined) bad.push({ script: script.id, reason });
    }
  }
  return {
    outcome: differing === bad.length ? 'agrees' : 'differs', scripts, operations, agreeing: scripts - differing, differing, badRecordings: bad, bySub, differences,
    wallMs: Date.now() - started,
  };
}

function readScripts(file: string): Script[] {
  const bytes = readFileSync(file);
  const packed = bytes[0] === 0x1f && bytes[1] === 0x8b;
  let text: string;
  try {
    text = (packed ? gunzipSync(bytes) : bytes).toString('utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error) throw new UsageError(`${file} is a damaged gzip file; fetch it again`);
    throw error;
  }
  return parseScripts(text, file);
}

function textLines(report: ConformReport): string[] {
  const lines = report.differences.slice(0, SHOWN).map((difference) => {
    const where = typeof difference.at === 'number' ? `operation ${difference.at} ${JSON.stringify(difference.operation)}` : difference.at;
    return `${difference.script}: ${where}: expected ${JSON.stringify(difference.expected)}, got ${JSON.stringify(difference.actual)}`;
  });
  if (report.differences.length > SHOWN) lines.push(`... and ${report.differences.length - SHOWN} more differences (--json lists them)`);
  for (const [sub, { scripts, differing }] of Object.entries(report.bySub)) if (differing > 0) lines.push(`${sub}: ${differing} of ${scripts} scripts differ`);
  for (const { script, reason } of report.badRecordings) lines.push(`${script} is a bad recording: ${reason}`);
  lines.push(`${report.scripts} scripts, ${report.agreeing} agree, ${report.differing} differ (${report.operations} operations, ${(report.wallMs / 1000).toFixed(1)} s)`);
  return lines;
}
