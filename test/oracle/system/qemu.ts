// Runs an image under QEMU and returns what it printed on port 0xe9.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CORRECTIONS } from './corrections.ts';

export const IMAGES = ['gates', 'segments', 'control', 'paging', 'paging-pae', 'tasks', 'breakpoints'] as const;

const ARGUMENTS = ['-cpu', 'qemu32,+nx,+sep', '-m', '32', '-display', 'none', '-serial', 'none', '-monitor', 'none', '-no-reboot', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4'];

/** Undefined when QEMU is there, else why not. */
export function whyNoQemu(): string | undefined {
  try {
    execFileSync('qemu-system-i386', ['--version'], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    return 'qemu-system-i386 is not installed';
  }
}

export function runQemu(image: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-qemu-'));
  try {
    const output = join(folder, 'output');
    try {
      execFileSync('qemu-system-i386', [...ARGUMENTS, '-debugcon', `file:${output}`, '-kernel', image], { stdio: 'pipe', timeout: 60_000 });
    } catch (error) {
      // Port 0xf4 makes QEMU leave with (value << 1) | 1.
      if (!(error instanceof Error) || !('status' in error) || error.status !== 1) throw error;
    }
    return readFileSync(output, 'latin1');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** QEMU's text with the corrections of its image; every row must find something to correct. */
export function correct(image: string, text: string): { text: string; used: number } {
  if (!text.endsWith('end\n')) throw new Error(`${image} did not reach its end: ...${text.slice(-200)}`);
  let used = 0;
  const rows = CORRECTIONS.filter((row) => row.image === image);
  const idle = new Set(rows);
  const lines = text.split('\n').map((line) => {
    let now = line;
    for (const row of rows) {
      if (!row.line.test(line)) continue;
      const next = typeof row.to === 'string' ? now.replace(row.from, row.to) : now.replace(row.from, row.to);
      if (next !== now) { idle.delete(row); used++; }
      now = next;
    }
    return now;
  });
  const [unused] = idle;
  if (unused !== undefined) throw new Error(`${image}: the correction "${unused.why}" finds nothing to correct`);
  return { text: lines.join('\n'), used };
}
