// The command line as a user meets it: exit codes, one clear sentence for bad input, JSON alone on
// stdout, and never a stack trace.
import { execFile, spawn } from 'node:child_process';
import { closeSync, copyFileSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { knownImage } from '../../src/node/image-registry.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'rexen-cli-'));
const LOADER = ['--import', join(ROOT, 'node_modules/tsx/dist/loader.mjs'), join(ROOT, 'src/cli/main.ts')];
const at = (name: string): string => join(folder, name);

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `rexen ARGS` in another folder than the checkout. */
function rexen(...args: readonly string[]): Promise<Ran> {
  return new Promise((done) => {
    execFile(process.execPath, [...LOADER, ...args], { cwd: folder, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      done({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout, stderr });
    });
  });
}

interface Summary {
  readonly outcome: string;
  readonly events: number;
  readonly instructions: number;
  readonly virtualTimeNs: number;
  readonly wallMs: number;
  readonly bytes: number;
  readonly digest: string;
  readonly exact?: boolean;
}
/** stdout must be one JSON object and nothing else. */
const json = (ran: Ran): Summary => JSON.parse(ran.stdout) as Summary;

let recorded: Ran;
beforeAll(async () => {
  recorded = await rexen('record', 'pv-i386-pae', '-o', at('pae.rxr'), '--json');
  const bytes = readFileSync(at('pae.rxr'));
  writeFileSync(at('cut.rxr'), bytes.subarray(0, bytes.length - 700));
  writeFileSync(at('short.rxr'), bytes.subarray(0, 60));
  const flipped = Uint8Array.from(bytes);
  flipped[bytes.length >> 1] = (flipped[bytes.length >> 1] as number) ^ 4;
  writeFileSync(at('flipped.rxr'), flipped);
  writeFileSync(at('junk.bin'), Uint8Array.from({ length: 5000 }, (_, i) => (i * 37) & 0xff));
  copyFileSync(join(ROOT, 'scenarios/guests/images/pv-i386-pae.elf'), at('kernel.elf'));
  writeFileSync(at('broken.mjs'), 'export const nothing = 1;\n');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('recording and replaying', () => {
  test('what `npm start` runs ends as README shows it', async () => {
    const ran = await rexen('tour');
    const block = readFileSync(join(ROOT, 'README.md'), 'utf8').split('`npm start` ends like this:\n\n')[1]?.split('\n\n')[0] ?? '';
    // Kinds are cut short there, and how many bytes compression leaves is zlib's business.
    const shown = block.split('\n').map((line) => line.slice(4)).filter((line) => !line.endsWith('...') && !line.startsWith('recording'));
    expect(shown.length).toBeGreaterThan(4);
    for (const line of shown) expect(ran.stdout).toContain(`\n${line}`);
    expect(ran.code).toBe(0);
  });

  test('record --json prints one object with the figures', () => {
    expect(recorded.code).toBe(0);
    expect(json(recorded)).toMatchObject({ outcome: 'poweroff', events: expect.any(Number), instructions: expect.any(Number), virtualTimeNs: expect.any(Number), wallMs: expect.any(Number), bytes: expect.any(Number), digest: expect.stringMatching(/^[0-9a-f]{64}$/) });
  });

  test('replay is exact, in another folder than the recording was made in', async () => {
    const ran = await rexen('replay', at('pae.rxr'), '--json');
    expect(ran.code).toBe(0);
    expect(json(ran)).toMatchObject({ exact: true, outcome: 'poweroff', digest: json(recorded).digest });
  });

  test('run has the digest of record, and makes no file', async () => {
    const ran = await rexen('run', 'pv-i386-pae', '--json');
    expect(ran.code).toBe(0);
    expect(json(ran).digest).toBe(json(recorded).digest);
  });

  test('replay --until stops at that event', async () => {
    const told = await rexen('replay', at('pae.rxr'), '--until', '118');
    expect(told.stdout, 'the whole file is not these events').toMatch(/recording +\S*pae\.rxr, [0-9,]+ bytes\n/);
    const ran = await rexen('replay', at('pae.rxr'), '--until', '118', '--json');
    expect(ran.code).toBe(0);
    expect(json(ran)).toMatchObject({ outcome: 'stopped', exact: false });
    expect(json(ran).events).toBeGreaterThanOrEqual(118);
    expect(json(ran).events).toBeLessThan(130);
  });

  test('a crash that was recorded and replays exactly is 0; recording it is 1', async () => {
    expect((await rexen('record', 'pv-i386-pae', '--cmdline', 'panic', '-o', at('panic.rxr'), '--json')).code).toBe(1);
    expect((await rexen('run', 'pv-i386-pae', '--cmdline', 'panic')).stdout).toMatch(/\nran: done, but the run itself failed, as its outcome says \(exit code 1\)\n$/);
    const ran = await rexen('replay', at('panic.rxr'), '--json');
    expect(ran.code).toBe(0);
    expect(json(ran)).toMatchObject({ exact: true, outcome: 'crash' });
  });

  test('a run that comes to no end says for what its script still waits', async () => {
    writeFileSync(at('waits.mjs'), "export const scenario = { domains: [{ name: 'guest', kernel: { name: 'builtin:pv-i386-pae.elf' }, cmdline: '', memoryMib: 16 }], input: [{ domain: 'guest', after: 'no such prompt', send: 'x' }] };\n");
    const ran = await rexen('run', at('waits.mjs'), '--max-instructions', '100000', '--json');
    expect(ran.code).toBe(1);
    expect(json(ran)).toMatchObject({ outcome: 'limit', unmet: ['the script waits for "no such prompt" on the console of guest (step 1 of 1)'] });
  });

  test('a guest that spins for ever meets its limit, and that replays exactly', async () => {
    const ran = await rexen('record', 'pv-i386-pae', '--cmdline', 'spin', '--max-instructions', '3_000_000', '-o', at('spin.rxr'), '--json');
    expect(ran.code).toBe(1);
    expect(json(ran)).toMatchObject({ outcome: 'limit', instructions: 3_000_000 });
    expect((await rexen('replay', at('spin.rxr'), '--json')).code).toBe(0);
  });

  test.each(['triple', 'crash', 'wild'])('a hostile guest (%s) neither crashes nor hangs the tool', async (cmdline) => {
    const ran = await rexen('run', 'pv-i386-pae', '--cmdline', cmdline, '--json');
    expect(ran.code).toBe(cmdline === 'wild' ? 0 : 1);
    expect(json(ran).outcome).toBe(cmdline === 'wild' ? 'poweroff' : 'crash');
  });

  test('a truncated recording is 2 after its verified prefix, and says so', async () => {
    const ran = await rexen('replay', at('cut.rxr'), '--json');
    expect(ran.code).toBe(2);
    expect(json(ran)).toMatchObject({ outcome: 'truncated', exact: false });
  });

  test('check replays under every checker; run --check counts its checks', async () => {
    const ran = await rexen('check', at('pae.rxr'), '--json');
    expect(ran.code).toBe(0);
    expect(JSON.parse(ran.stdout)).toMatchObject({ held: true, exact: true, outcome: 'exact', checks: expect.any(Number) });
    expect((JSON.parse(ran.stdout) as { checkers: { held: boolean }[] }).checkers.every(({ held }) => held)).toBe(true);
    expect((await rexen('check', at('cut.rxr'), '--json')).code).toBe(2);
    const live = await rexen('run', 'pv-i386-pae', '--check', 'epoch', '--json');
    expect(live.code).toBe(0);
    expect(JSON.parse(live.stdout)).toMatchObject({ digest: json(recorded).digest, checked: { checks: expect.any(Number) } });
  });

  test('scenarios --json is an array of name, title and needs', async () => {
    const rows = JSON.parse((await rexen('scenarios', '--json')).stdout) as { name: string; title: string; needs: string[] }[];
    expect(rows.map((row) => row.name)).toEqual(expect.arrayContaining(['grub-i386', 'pv-i386-nopae', 'pv-i386-pae']));
    for (const row of rows) expect(Object.keys(row)).toEqual(['name', 'title', 'needs']);
    // What a scenario says to fetch can be fetched: linux-bare named what another fetch makes.
    for (const { needs } of rows) for (const name of needs) expect(knownImage(name), name).toBeDefined();
  });
});

test('check finds a mistake that is planted in the guest’s pinning, and shows the smallest program', { timeout: 120_000 }, async () => {
  const ran = await rexen('check', '--property', 'guest-memory', '--set', 'bug=freed-while-pinned');
  expect([ran.code, ran.stderr]).toEqual([1, '']);
  const shown = readFileSync(join(ROOT, 'README.md'), 'utf8').split('--set bug=freed-while-pinned\n')[1]?.split('\n\n')[0];
  expect(ran.stdout.trimEnd().split('\n')).toEqual(shown?.split('\n').map((line) => line.slice(4)));
  expect(ran.stdout).toMatch(/BROKEN by program 1 of seed 1.*\n\[.*"op":"exec".*\]\n.*pinned at the end/);
});

test('a search for a program that breaks a property shows how far it is, on a terminal only, and tells what held when it is interrupted', { timeout: 120_000 }, async () => {
  const quiet = await rexen('check', '--property', 'guest-memory', '--runs', '3');
  expect([quiet.code, quiet.stderr]).toEqual([0, '']);
  expect(quiet.stdout).toMatch(/guest-memory: held in 3 programs \(seed 1\)\n$/);

  const child = spawn(process.execPath, ['--import', 'data:text/javascript,process.stderr.isTTY = true', ...LOADER, 'check', '--property', 'guest-memory', '--runs', '100000'], { cwd: folder });
  let [said, told] = ['', ''];
  let asked = false;
  child.stdout.on('data', (chunk: Buffer) => void (told += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
    if (!asked && /[1-9]\d* of 100000 programs/.test(said)) asked = child.kill('SIGINT'); // once: a second one ends it as it is
  });
  const code = await new Promise((done) => child.on('close', done));
  expect(code).toBe(1);
  expect(said).toMatch(/guest-memory \[.*\] 0%/);
  expect(told).toMatch(/guest-memory: interrupted; held in [1-9]\d* of 100000 programs \(seed 1\)\n$/);
});

describe('bad input gets one clear sentence and exit code 2', () => {
  test.each([
    ['a kernel that is no kernel', ['record', 'junk.bin'], /junk\.bin.* is not an ELF kernel/],
    ['an ELF file without Xen notes', ['record', process.execPath], /no Xen ELF notes/],
    ['an unknown scenario', ['record', 'pv-i386'], /pv-i386: neither a scenario nor a file.*pv-i386-pae/],
    ['a scenario file that exports none', ['run', './broken.mjs'], /broken\.mjs: a scenario file exports/],
    ['a seed that is no number', ['record', 'pv-i386-pae', '--seed', 'abc'], /--seed abc: a seed is a whole number/],
    ['an unknown setting', ['run', 'pv-i386-pae', '--set', 'foo=1'], /there is no setting foo; the keys are memory/],
    ['too little memory', ['run', 'pv-i386-pae', '--memory', '1'], /must be a whole number from 4 to 3500/],
    ['an unknown option', ['run', 'pv-i386-pae', '--bogus'], /unknown option '--bogus'/],
    ['an unknown command', ['frob'], /unknown command 'frob'/],
    ['a missing ramdisk', ['run', 'pv-i386-pae', '--ramdisk', 'nowhere.img'], /nowhere\.img/],
    ['a recording that is none', ['replay', 'junk.bin'], /junk\.bin: this is not a Rexen recording/],
    ['a recording that is not there', ['replay', 'nowhere.rxr'], /nowhere\.rxr does not exist/],
    ['a recording cut in its header', ['replay', 'short.rxr'], /short\.rxr: .*header/],
    ['a recording with a flipped bit', ['replay', 'flipped.rxr'], /flipped\.rxr: .*damaged/],
    ['a recording to check that is none', ['check', 'junk.bin'], /junk\.bin: this is not a Rexen recording/],
    ['a mistake of the guest’s that is none', ['check', '--property', 'guest-memory', '--set', 'bug=none'], /^rexen: --set bug=none: bug \(.*\) must be one of pin-too-late, unpin-too-late, missed-readonly, freed-while-pinned, batch-out-of-order\n$/],
    ['a setting for a recording', ['check', 'pae.rxr', '--set', 'bug=pin-too-late'], /^rexen: --set goes with --property/],
    ['a position that is none', ['replay', 'pae.rxr', '--until', 'x'], /--until x: a position is/],
    ['no place to write', ['record', 'pv-i386-pae', '-o', ''], /the name of the file to write is empty/],
    ['a kernel as the place to write', ['record', 'kernel.elf', '-o', './kernel.elf'], /^rexen: \.\/kernel\.elf: kernel\.elf is read by this very command and would be lost; write to another place\n$/],
    ['a ramdisk as the place to write', ['record', 'pv-i386-pae', '--ramdisk', 'kernel.elf', '-o', 'kernel.elf'], /^rexen: kernel\.elf: it is read by this very command/],
    ['the recording as the place to write', ['export', 'pae.rxr', '--trace', 'pae.rxr'], /^rexen: pae\.rxr: it is read by this very command/],
    ['a file to write that is named twice', ['export', 'pae.rxr', '--pcap', 'a.pcap', '-o', 'b.pcap'], /^rexen: the file to write is named twice, a\.pcap and b\.pcap: leave one out\n$/],
    ['nothing to export', ['export', 'pae.rxr'], /^rexen: say what to export: --disk xvda, --pcap or --trace\n$/],
    ['a capture of a world without a network', ['export', 'pae.rxr', '--pcap'], /^rexen: pae\.rxr: no domain of it has a network interface\n$/],
    ['a disk that the world does not have', ['export', 'pae.rxr', '--disk', 'xvda'], /^rexen: pae\.rxr: there is no disk xvda; the disks are: none\n$/],
    ['a name that is none for an image', ['fetch', 'kernel.elf', '--as', '../x'], /--as \.\.\/x: a name is made of letters, digits/],
    ['an option that stands for a setting', ['run', 'pv-i386-pae', '--memory', 'abc'], /^rexen: --memory abc: memory \(/],
    ['events from behind the end', ['dump', 'pae.rxr', '--from', '999999'], /--from 999999: the recording has \d+ events/],
    ['events to before the first', ['dump', 'pae.rxr', '--from', '10', '--to', '5'], /--to 5: this is before --from 10/],
    ['a place that cannot be written', ['record', 'pv-i386-pae', '-o', '/nowhere/x.rxr'], /\/nowhere\/x\.rxr: there is no folder \/nowhere/],
  ] as const)('%s', async (_what, args, sentence) => {
    const ran = await rexen(...args);
    expect(ran.code).toBe(2);
    expect(ran.stderr).toMatch(sentence);
    expect(ran.stderr).not.toMatch(/^\s+at /m);
    expect(ran.stdout).toBe('');
  });

  test('what is exported has the recording\'s name, or the one that is given', async () => {
    expect(await rexen('export', 'pae.rxr', '--trace')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^pae\.trace\.json: \d+ events/) });
    expect(await rexen('export', 'pae.rxr', '--trace', '-o', 'other.json')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^other\.json: /) });
    expect(readFileSync(at('other.json')).equals(readFileSync(at('pae.trace.json')))).toBe(true);
  });

  test('a world that cannot be built leaves an older recording of that name alone, and nothing where there was none', async () => {
    writeFileSync(at('ramdisk.img'), new Uint8Array(8 << 20));
    const older = readFileSync(at('pae.rxr'));
    writeFileSync(at('older.rxr'), older);
    for (const output of ['older.rxr', 'none.rxr']) {
      const ran = await rexen('record', 'pv-i386-pae', '--memory', '8', '--ramdisk', 'ramdisk.img', '-o', output);
      expect(ran).toMatchObject({ code: 2, stdout: '', stderr: expect.stringMatching(/does not fit into 8 MiB/) });
    }
    expect(readFileSync(at('older.rxr')).equals(older)).toBe(true);
    expect(readdirSync(folder).filter((name) => name.startsWith('none'))).toEqual([]);
  });

  test.each([['record', 'nowhere'], ['replay', 'junk.bin'], ['run', 'pv-i386-pae', '--bogus'], ['conform', 'nowhere.jsonl'], ['fetch', 'nowhere'], ['check', '--property', 'none'], ['frob']])('with --json one object on stdout as well: %s %s', async (...args) => {
    const ran = await rexen(...args, '--json');
    expect(ran.code).toBe(2);
    expect(JSON.parse(ran.stdout)).toEqual({ outcome: 'refused', error: expect.any(String) });
    expect(ran.stderr).toContain((JSON.parse(ran.stdout) as { error: string }).error);
  });

  test.runIf(existsSync('/dev/full'))('output that cannot be written', async () => {
    const full = openSync('/dev/full', 'w');
    const code = await new Promise<[number | null, string]>((done) => {
      const child = spawn(process.execPath, [...LOADER, 'scenarios'], { cwd: folder, stdio: ['ignore', full, 'pipe'] });
      let said = '';
      child.stderr?.on('data', (chunk: Buffer) => void (said += chunk.toString()));
      child.on('close', (exit) => done([exit, said]));
    });
    closeSync(full);
    expect(code).toEqual([2, expect.stringMatching(/^rexen: the output could not be written: ENOSPC.*\n$/)]);
  });
});
