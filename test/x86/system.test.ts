// System instructions: the bare-metal images of test/oracle/system print on the core, in every tier,
// what they print on the processor.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createCpu } from '../../src/x86/create.ts';
import { runImage } from '../oracle/bare-machine.ts';
import { whyNotLive } from '../oracle/live.ts';
import { correct, IMAGES, runQemu, whyNoQemu } from '../oracle/system/qemu.ts';

const folder = join(import.meta.dirname, '..', 'oracle', 'system');
const long = process.env['REXEN_DEPTH'] === 'long';
const SHOWN = 25;

describe.each(['evaluate', 'translate', ...(long ? ['auto' as const] : [])] as const)('with the tier set to %s,', (tier) => {
  test.each(IMAGES)('the image %s prints what the processor would', (image) => {
    const expected = readFileSync(join(folder, 'expected', `${image}.txt`), 'latin1').split('\n');
    const run = runImage(createCpu, tier, readFileSync(join(folder, 'images', `${image}.elf`)));
    const actual = run.text.split('\n');
    const wrong: string[] = [];
    for (let i = 0; i < Math.max(expected.length, actual.length); i++) {
      if (expected[i] !== actual[i]) wrong.push(`line ${i + 1}\n  want ${expected[i] ?? '(nothing)'}\n  have ${actual[i] ?? '(nothing)'}`);
    }
    if (run.outcome !== 'end' || wrong.length > 0) throw new Error(`${image}: ${run.outcome}; ${wrong.length} of ${expected.length} lines differ\n${wrong.slice(0, SHOWN).join('\n')}`);
  });

  test('a fault that nobody can take ends the run as a triple fault', () => {
    const run = runImage(createCpu, tier, readFileSync(join(folder, 'images', 'triple.elf')));
    expect(run).toMatchObject({ outcome: 'tripleFault', text: 'before\n' });
  });
});

test('the committed images are what their sources build', (context) => {
  const why = whyNotLive();
  const version = why === undefined ? execFileSync('gcc', ['--version'], { encoding: 'utf8' }) : '';
  if (why !== undefined || !version.includes('12.2.0')) return context.skip(why ?? 'this is not the gcc 12.2.0 of the committed images');
  const built = mkdtempSync(join(tmpdir(), 'rexen-images-'));
  try {
    execFileSync(join(folder, 'build.sh'), [built], { stdio: 'pipe' });
    for (const image of [...IMAGES, 'triple']) {
      const same = readFileSync(join(built, `${image}.elf`)).equals(readFileSync(join(folder, 'images', `${image}.elf`)));
      expect(same, `${image}.elf differs from what ${folder}/build.sh builds`).toBe(true);
    }
  } finally {
    rmSync(built, { recursive: true, force: true });
  }
});

test('the expected answers are QEMU\'s, as corrected', (context) => {
  if (!long) return context.skip('only with REXEN_DEPTH=long');
  const why = whyNoQemu();
  if (why !== undefined) return context.skip(why);
  if (!execFileSync('qemu-system-i386', ['--version'], { encoding: 'utf8' }).includes('version 7.2')) return context.skip('the corrections are those of QEMU 7.2');
  for (const image of IMAGES) {
    expect(correct(image, runQemu(join(folder, 'images', `${image}.elf`))).text).toBe(readFileSync(join(folder, 'expected', `${image}.txt`), 'latin1'));
  }
});
