// The commands that go to places in recordings and compare them, as a user meets them.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'rexen-timeline-'));
const LOADER = ['--import', join(ROOT, 'node_modules/tsx/dist/loader.mjs'), join(ROOT, 'src/cli/main.ts')];

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function rexen(...args: readonly string[]): Promise<Ran> {
  return new Promise((done) => {
    execFile(process.execPath, [...LOADER, ...args], { cwd: folder, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      done({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout, stderr });
    });
  });
}

beforeAll(async () => {
  const recorded = await rexen('record', 'pv-i386-pae', '-o', 'pae.rxr', '--json', '--max-instructions', '1200000');
  expect(JSON.parse(recorded.stdout)).toMatchObject({ outcome: 'limit' });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('with --json, one object', () => {
  test('branch: the new recording, verified, names its parent; diff and bisect find where it left', async () => {
    const branch = await rexen('branch', 'pae.rxr', '--at', '900', '--seed', '7', '--set', 'max-instructions=1_250_000', '-o', 'b.rxr', '--verify', '--json');
    expect(branch.code).toBe(1); // the limit, again
    expect(JSON.parse(branch.stdout)).toMatchObject({ outcome: 'limit', instructions: 1_250_000, file: 'b.rxr', parent: { file: 'pae.rxr', events: 900 }, verified: { same: true } });
    const parent = JSON.parse((await rexen('info', 'pae.rxr', '--json')).stdout) as { digest: string; parent: unknown };
    expect(parent.parent).toBe(null);
    expect(JSON.parse((await rexen('info', 'b.rxr', '--json')).stdout)).toMatchObject({ parent: { digest: parent.digest, events: 900 } });
    expect((await rexen('info', 'b.rxr')).stdout).toContain(`parent         ${parent.digest}, left after 900 events\n`);
    const diff = await rexen('diff', 'pae.rxr', 'b.rxr', '--json');
    expect(diff.code).toBe(1);
    expect(JSON.parse(diff.stdout)).toMatchObject({ same: false, verdict: expect.stringMatching(/backend\.latency/) });
    const named = await rexen('diff', 'pae.rxr', 'b.rxr', '--context', '8');
    expect(named.stdout).toMatch(/upcall ip=0xc01013a7 <hypercall_page\+0x3a7> handler=0x[0-9a-f]{8} <event_entry>/);
    writeFileSync(join(folder, 'System.map'), 'c0100000 T my_kernel\n');
    const mapped = await rexen('diff', 'pae.rxr', 'b.rxr', '--context', '8', '--map', 'System.map');
    expect(mapped.stdout).toContain('upcall ip=0xc01013a7 <my_kernel+0x13a7>');
    const bisect = await rexen('bisect', 'pae.rxr', 'b.rxr', '--instruction', '--json');
    expect(bisect.code).toBe(1);
    expect(JSON.parse(bisect.stdout)).toMatchObject({ same: false, verdict: expect.stringMatching(/parts the states/) });
  });

  test('checkpoint: the file beside the recording, from which replay --until starts', async () => {
    const made = await rexen('checkpoint', 'pae.rxr', '--every', '200000', '--json');
    expect(made).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(made.stdout)).toMatchObject({ file: 'pae.rxc', checkpoints: 6 });
    expect(existsSync(join(folder, 'pae.rxc'))).toBe(true);
    // At the first point of rest after it.
    const until = await rexen('replay', 'pae.rxr', '--until', '950', '--json');
    expect(JSON.parse(until.stdout)).toMatchObject({ outcome: 'stopped', events: 952, text: expect.stringMatching(/from the checkpoint/) });
  });

  test('record --checkpoint-every: the same, of a run whose inputs come from a script and not from a recording', async () => {
    const made = await rexen('record', 'pv-i386-pae', '-o', 'every.rxr', '--checkpoint-every', '200000', '--json');
    expect(JSON.parse(made.stdout)).toMatchObject({ outcome: 'poweroff', checkpoints: { file: 'every.rxc', count: expect.any(Number) } });
    const until = await rexen('replay', 'every.rxr', '--until', '950', '--json');
    expect(until).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(until.stdout)).toMatchObject({ outcome: 'stopped', events: 952, text: expect.stringMatching(/from the checkpoint/) });
  });

  test('who: the last event and those before it', async () => {
    const who = await rexen('who', 'pae.rxr', 'port', '1', '--before', '950', '--json');
    expect(who.code).toBe(0);
    expect(JSON.parse(who.stdout)).toMatchObject({ subject: 'port', before: 950, count: expect.any(Number), verdict: expect.stringMatching(/last changed by/) });
  });
});

test.each([
  ['branch beyond the end', ['branch', 'pae.rxr', '--at', '99999'], /pae\.rxr: the recording has \d+ events, so nothing can go on at 99999/],
  ['branch with other memory', ['branch', 'pae.rxr', '--at', '900', '--set', 'memory=64'], /memory decides what happens before the position too; a branch can change max-instructions/],
  ['branch over its parent', ['branch', 'pae.rxr', '--at', '900', '-o', './pae.rxr'], /does not take the place/],
  ['branch with a limit before the place', ['branch', 'pae.rxr', '--at', '900', '--set', 'max-instructions=5'], /the run ends \(limit\) after \d+ events and 5 instructions/],
  ['who of an address that is not mapped', ['who', 'pae.rxr', 'vaddr', '0x1000', '--before', '900'], /domain 1 maps nothing there at event 900/],
  ['who of a relative path', ['who', 'pae.rxr', 'path', 'name'], /give an absolute path/],
  ['checkpoints too near', ['checkpoint', 'pae.rxr', '--every', '5'], /--every 5: give at least 1000/],
  ['checkpoints of a guest in TypeScript, before a recording is written over', ['record', 'boot-pae', '-o', 'pae.rxr', '--checkpoint-every', 'auto'], /written in TypeScript/],
  ['a System.map that is none', ['diff', 'pae.rxr', 'pae.rxr', '--map', 'pae.rxr'], /--map pae\.rxr: has no line such as/],
  ['bisect without a way', ['bisect', 'pae.rxr', 'pae.rxr'], /takes --instruction/],
] as const)('bad input gets one sentence and exit code 2: %s', async (_what, args, sentence) => {
  const ran = await rexen(...args, '--json');
  expect(ran.code).toBe(2);
  expect(ran.stderr).toMatch(sentence);
  expect(JSON.parse(ran.stdout)).toEqual({ outcome: 'refused', error: expect.any(String) });
});
