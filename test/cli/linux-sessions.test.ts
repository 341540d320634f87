// Debian's Linux from the command line, as a user meets it: a person at its console, a recording that is
// killed, a recording of inputs alone, GRUB before it. All of it takes minutes: REXEN_DEPTH=long.
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { storedImage } from '../../src/node/image-store.ts';

const LONG = process.env['REXEN_DEPTH'] === 'long';
const TIMEOUT_MS = 3_600_000;
const REXEN = [process.execPath, '--import', join(resolve(import.meta.dirname, '../..'), 'node_modules/tsx/dist/loader.mjs'), join(resolve(import.meta.dirname, '../..'), 'src/cli/main.ts')] as const;
/** What QEMU's log of the same boot comes to, gzipped. */
const INPUTS_BYTES = 96 * 1024;

const folder = mkdtempSync(join(tmpdir(), 'rexen-linux-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

function rexen(...args: readonly string[]): Promise<{ readonly code: number; readonly stdout: string }> {
  return new Promise((done) => {
    execFile(REXEN[0], [...REXEN.slice(1), ...args], { cwd: folder, maxBuffer: 1 << 26 }, (error, stdout) => done({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout }));
  });
}
const replayed = async (file: string): Promise<object> => {
  const { code, stdout } = await rexen('replay', at(file), '--json');
  return { code, ...(JSON.parse(stdout) as object) };
};
const lacks = (...names: readonly string[]): string | undefined => {
  const missing = names.filter((name) => storedImage(name) === undefined);
  return missing.length === 0 ? undefined : `not here: ${missing.join(', ')}`;
};

/** Types at a pseudo-terminal, which `script` makes: each text once what it waits for has been shown since the one before. */
function typing(command: readonly string[], steps: readonly (readonly [after: string, keys: string])[]): Promise<{ readonly code: number | null; readonly shown: string }> {
  return new Promise((done) => {
    const child = spawn('script', ['-qfec', command.map((part) => `'${part}'`).join(' '), '/dev/null'], { cwd: folder, stdio: ['pipe', 'pipe', 'inherit'] });
    let raw = '';
    let shown = '';
    let from = 0;
    let next = 0;
    child.stdout.on('data', (chunk: Buffer) => {
      raw += chunk.toString('latin1');
      // The guest ends its lines with CR LF, and the terminals between us add a CR each.
      shown = raw.replace(/\r+\n/g, '\r\n');
      const step = steps[next];
      if (step === undefined) return;
      const found = shown.indexOf(step[0], from);
      if (found < 0) return;
      from = found + step[0].length;
      next++;
      child.stdin.write(step[1]);
    });
    child.on('close', (code) => done({ code, shown }));
  });
}

describe.runIf(LONG)('a Linux guest', () => {
  test('gives a person a shell with echo, editing and Ctrl-C; the session replays exactly', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('debian-linux', 'debian-linux-initramfs');
    if (missing !== undefined) skip(missing);
    const { code, shown } = await typing([...REXEN, 'record', 'debian-linux', '--interactive', '-o', at('session.rxr')], [
      ['/ # ', 'ls /\r'], ['/ # ', 'head -n 2 /proc/cpuinfo\r'], ['/ # ', 'echo helXX\x7f\x7flo\r'], ['/ # ', "echo sle''eps; sleep 1000\r"], ['\r\nsleeps\r\n', '\x03'], ['/ # ', 'echo code $?\r'], ['/ # ', 'exit\r'],
    ]);
    expect(shown).toMatch(/ls \/\r\n.*bin .*init /);
    expect(shown).toContain('vendor_id\t: GenuineIntel');
    expect(shown).toContain('\r\nhello\r\n');
    expect(shown).toContain('^C');
    expect(shown).toContain('\r\ncode 130\r\n');
    expect(shown).toMatch(/outcome +poweroff/);
    expect(code).toBe(0);
    expect(await replayed('session.rxr')).toMatchObject({ code: 0, exact: true });
  });

  test('killed while it is recorded leaves a recording whose prefix replays, with exit code 2', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('debian-linux', 'debian-linux-initramfs');
    if (missing !== undefined) skip(missing);
    const child = spawn(REXEN[0], [...REXEN.slice(1), 'record', 'debian-linux', '-o', at('killed.rxr')], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise<void>((done) => {
      let shown = '';
      child.stdout.on('data', (chunk: Buffer) => {
        shown += chunk.toString('latin1');
        if (shown.includes('Run /init')) child.kill('SIGKILL');
      });
      child.on('close', () => done());
    });
    const result = (await replayed('killed.rxr')) as { events: number };
    expect(result).toMatchObject({ code: 2, outcome: 'truncated', exact: false });
    expect(result.events).toBeGreaterThan(100_000);
  });

  test('of which inputs and digests alone are recorded fits into 96 KiB and replays exactly', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('debian-linux', 'debian-linux-initramfs');
    if (missing !== undefined) skip(missing);
    expect((await rexen('record', 'debian-linux', '-o', at('inputs.rxr'), '--log', 'inputs', '--json')).code).toBe(0);
    expect(statSync(at('inputs.rxr')).size).toBeLessThan(INPUTS_BYTES);
    expect(await replayed('inputs.rxr')).toMatchObject({ code: 0, exact: true });
  });

  test('is loaded from its disk by PV GRUB, in one recording that replays exactly', { timeout: TIMEOUT_MS }, async ({ skip }) => {
    const missing = lacks('grub-x86_64', 'debian-linux-boot-disk');
    if (missing !== undefined) skip(missing);
    const { code, stdout } = await rexen('record', 'grub-linux', '-o', at('grub.rxr'), '--json');
    expect(JSON.parse(stdout)).toMatchObject({ outcome: 'poweroff' });
    expect(code).toBe(0);
    expect(await replayed('grub.rxr')).toMatchObject({ code: 0, exact: true });
  });
});
