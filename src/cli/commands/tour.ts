// `npm start`: records the boot of a small guest, replays it, verifies it, and sums up. What a
// newcomer sees first.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { loadHashes } from '../../node/load-hashes.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { divergenceLines } from '../../replay/divergence-report.ts';
import { runLive } from '../live-run.ts';
import { exitCodeOf } from '../report.ts';
import { runReplay } from '../replay-run.ts';
import { durationText, summaryLines } from '../summary.ts';

const SCENARIO = 'pv-i386-pae';

export function register(program: Command): void {
  program
    .command('tour')
    .description('record the boot of a small guest, replay it and verify every event')
    .action(tour);
}

async function tour(): Promise<void> {
  await loadHashes();
  const folder = mkdtempSync(join(tmpdir(), 'rexen-'));
  const file = join(folder, `${SCENARIO}.rxr`);
  try {
    process.stdout.write(`Recording ${SCENARIO}: a small paravirtual kernel, as machine code, on the simulated Xen.\n\n`);
    const recorded = await runLive({ scenario: await findScenario(SCENARIO), seed: '1', file, compression: 'deflate', interactive: false, showConsole: true, progress: false, profile: false });
    process.stdout.write('\nReplaying it: the same kernel again, every event compared with the recording.\n');
    const replayed = await runReplay({ file, until: undefined, images: [], showConsole: false, progress: true });
    const good = exitCodeOf(recorded) === 0 && replayed.outcome === 'exact';
    if (replayed.report !== undefined) process.stdout.write(`${divergenceLines(replayed.report).join('\n')}\n`);
    const verdict = `replay: ${replayed.outcome} (${durationText(replayed.summary.wallMs * 1e6)})`;
    process.stdout.write(`\n${summaryLines({ ...recorded.summary, file: `${SCENARIO}.rxr` }, verdict).join('\n')}\n`);
    process.exitCode = good ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
