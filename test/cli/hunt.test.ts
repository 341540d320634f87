// `explore` and `bisect SCENARIO` as a user meets them, in this process: what they print, their exit codes,
// and one sentence for each bad input. (That a sentence becomes exit code 2 is tested in commands.test.ts.)
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { UsageError } from '../../src/base/assert.ts';
import { register as bisect } from '../../src/cli/commands/bisect.ts';
import { register as explore } from '../../src/cli/commands/explore.ts';
import { register as replay } from '../../src/cli/commands/replay.ts';
import { inOrder } from '../../src/node/explore-worker.ts';
import { parsePlan } from '../../src/replay/plan.ts';

const folder = mkdtempSync(join(tmpdir(), 'rexen-hunt-'));
const at = (name: string): string => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ran {
  readonly code: number;
  readonly stdout: string;
}

/** Runs a command here; what it refuses is thrown. */
async function rexen(...args: readonly string[]): Promise<Ran> {
  const program = new Command('rexen').exitOverride().configureOutput({ writeErr: () => {} });
  for (const register of [explore, bisect, replay]) register(program);
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  let stdout = '';
  const spy = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    await program.parseAsync(['node', 'rexen', ...args]);
    return { code: Number(process.exitCode ?? 0), stdout };
  } finally {
    process.exitCode = before;
    spy.mockRestore();
  }
}

describe('bad input is one sentence', () => {
  writeFileSync(at('broken.mjs'), 'export const scenario = {;\n');
  writeFileSync(at('other.mjs'), 'export const scenario = { title: "no domains", domains: [] };\n');
  writeFileSync(at('nothing.mjs'), 'export const what = 1;\n');
  test.each([
    [['explore', 'planted', '--seeds', '5'], /--seeds 5: give a range such as 1\.\.10000/],
    [['explore', 'planted', '--seeds', '5..1'], /--seeds 5\.\.1: give a range/],
    [['explore', 'planted', '--seeds', '1..2', '--jobs', '0'], /--jobs 0: give 1 to 1024 threads/],
    [['explore', 'planted', '--seeds', '1..2', '--jobs', 'all'], /--jobs all: give a whole number/],
    [['explore', 'planted', '--seeds', '1..2', '--set', 'bug=none-such'], /bug \(.*\) must be one of lost-wakeup, no-final-check/],
    [['explore', 'plantd', '--seeds', '1..2'], /plantd: neither a scenario nor a file/],
    [['explore', at('broken.mjs'), '--seeds', '1..2'], /broken\.mjs: this scenario file could not be loaded/],
    [['explore', at('nothing.mjs'), '--seeds', '1..2'], /nothing\.mjs: a scenario file exports `scenario`/],
    [['explore', at('other.mjs'), '--seeds', '1..2'], /other\.mjs: its scenario cannot be run/],
    [['bisect', 'planted', '--shrink'], /takes --bad SEED/],
    [['bisect', 'planted', '--bad', '1'], /either --good SEED .* or --shrink/],
    [['bisect', 'planted', '--bad', '1', '--good', '2', '--shrink'], /either --good SEED .* or --shrink/],
    [['bisect', 'planted', '--bad', 'one', '--shrink'], /a seed is a whole number/],
    [['bisect', 'planted', '--bad', '1', '--shrink', '--outcome', 'sad'], /--outcome sad: the outcomes are poweroff/],
    [['bisect', 'planted', '--bad', '1', '--shrink', '--max-runs', 'many'], /--max-runs many: give a whole number/],
    [['bisect', 'planted', '--bad', '1', '--shrink', '--plan', 'calm,x#1=1'], /--plan: there is no choice x/],
  ] as const)('%j', async (args, sentence) => {
    const refused = await rexen(...args).then(() => undefined, (error: unknown) => error);
    expect(refused).toBeInstanceOf(UsageError);
    expect((refused as Error).message).toMatch(sentence);
    expect((refused as Error).message).not.toMatch(/\n/);
  });
  test.each([['explore', 'planted'], ['explore', 'planted', '--seeds', '1..2', '--policy', 'luck'], ['bisect']])('%j is refused before anything runs', async (...args) => {
    await expect(rexen(...args)).rejects.toThrow(/required option|invalid|missing required/);
  });
});

describe('a hunt', () => {
  const BUG = ['--set', 'bug=flush-reordered'] as const;
  const out = at('out');
  const state = join(out, 'state.jsonl');
  const sweep = (...more: readonly string[]) => rexen('explore', 'planted', '--seeds', '1..3', ...BUG, '--out', out, '--json', ...more);
  interface Swept {
    readonly seeds: number;
    readonly resumed: number;
    readonly failed: number;
    readonly causes: readonly { readonly firstSeed: number; readonly count: number; readonly plan: string; readonly runs: number; readonly file: string; readonly command: string }[];
  }
  const swept = ({ stdout }: Ran): Swept => JSON.parse(stdout) as Swept;
  let first: Ran;
  beforeAll(async () => { first = await sweep(); });

  test('finds, counts, makes small, and leaves a recording that replays', async () => {
    expect(first.code).toBe(1);
    const found = swept(first);
    expect(found).toMatchObject({ seeds: 3, resumed: 0, causes: [{ firstSeed: 2, count: found.failed }] });
    const [cause] = found.causes;
    expect(parsePlan(cause?.plan ?? '').answers).toHaveLength(1);
    expect(cause?.command).toBe(`rexen replay ${cause?.file}`);
    const replayed = await rexen('replay', cause?.file ?? '', '--json');
    expect(replayed.code).toBe(0);
    expect(JSON.parse(replayed.stdout)).toMatchObject({ exact: true });
  });

  test('goes on where it was interrupted, and makes nothing small twice', async () => {
    const lines = readFileSync(state, 'utf8').trimEnd().split('\n');
    // In the midst of writing the third seed: it and what followed is done again, and comes out the same.
    writeFileSync(state, `${lines.slice(0, 3).join('\n')}\n${lines[3]?.slice(0, 30)}`);
    expect(swept(await sweep())).toEqual({ ...swept(first), resumed: 2 });
    expect(readFileSync(state, 'utf8').trimEnd().split('\n')).toEqual(lines);
    // All is there: what is printed of the search comes from the file.
    writeFileSync(state, readFileSync(state, 'utf8').replace(/"runs":\d+/, '"runs":12345'));
    expect(swept(await sweep())).toMatchObject({ resumed: 3, causes: [{ runs: 12345 }] });
  });

  test('a folder of another sweep, or one that is damaged, is refused', async () => {
    await expect(rexen('explore', 'planted', '--seeds', '1..3', '--out', out)).rejects.toThrow(/belongs to another sweep/);
    writeFileSync(state, `${readFileSync(state, 'utf8').split('\n')[0]}\nnull\n`);
    await expect(sweep()).rejects.toThrow(/is damaged/);
  });

  test('--first ends at the first failure; without --out the command runs the plan', async () => {
    const ran = await rexen('explore', 'planted', '--seeds', '1..50', '--first', '--no-shrink', ...BUG, '--json');
    expect(ran.code).toBe(1);
    expect(swept(ran)).toMatchObject({ seeds: 2, failed: 1, causes: [{ firstSeed: 2 }] });
    const none = await rexen('explore', 'planted', '--seeds', '1..2', '--first');
    expect(none.code).toBe(0);
    expect(none.stdout).toMatch(/explored: 2 of 2 seeds, 0 failed, 0 causes/);
  });

  test('bisect says what makes the seed fail, or why it cannot', async () => {
    const file = at('min.rxr');
    const found = await rexen('bisect', 'planted', ...BUG, '--bad', '2', '--shrink', '-o', file);
    expect(found.code).toBe(0);
    expect(found.stdout).toMatch(/search +\d+ runs; 1 of \d+ choices that differ from the calmest run are needed, and none of them can be spared\nplan +calm,disk\.latency#1=\d+\n/);
    expect(found.stdout).toMatch(/with it +\d+:d0v0:0 grantUnmap .*\nwithout it +\d+:d0v0:0 grantUnmap .*\n/);
    expect(found.stdout).toMatch(/again +rexen replay /);
    expect((await rexen('replay', file)).code).toBe(0);
    const good = await rexen('bisect', 'planted', '--bad', '1', '--shrink', '--json');
    expect(good.code).toBe(1);
    expect(JSON.parse(good.stdout)).toMatchObject({ found: false, problem: expect.stringMatching(/^seed 1 does not fail: poweroff/) });
    const short = await rexen('bisect', 'planted', ...BUG, '--bad', '2', '--shrink', '--max-runs', '4');
    expect(short.code).toBe(1);
    expect(short.stdout).toMatch(/after 4 runs \d+ of \d+ choices are left; allow more with --max-runs/);
  });
});

describe('several threads', () => {
  test('answer in any order, and are heard in the order of the questions', async () => {
    const turns: (() => void)[] = [];
    /** Whoever asked last is answered first. */
    const slow = (question: number) => new Promise<number>((done) => { turns.push(() => done(question)); });
    const taken: number[] = [];
    const over = inOrder([1, 2, 3, 4, 5, 6, 7, 8, 9][Symbol.iterator](), [slow, slow, slow], (answer) => {
      taken.push(answer);
      return answer !== 5;
    });
    for (let rounds = 0; rounds < 40; rounds++) {
      turns.pop()?.();
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    await over;
    expect(taken).toEqual([1, 2, 3, 4, 5]);
  });
});
