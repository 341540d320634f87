// `git bisect run` with rexen's exit codes, to the end: a history of ten commits of somebody's scenario, the
// sixth of which has a mistake that only some schedules show, and the fourth a file that cannot be judged.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'rexen-git-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The built program if it is not older than its sources: it starts faster. */
function rexen(): readonly string[] {
  const built = join(ROOT, 'dist/src/cli/main.js');
  const newest = Math.max(...['src', 'scenarios'].flatMap((room) => readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' }).map((name) => statSync(join(ROOT, room, name)).mtimeMs)));
  if (existsSync(built) && statSync(built).mtimeMs >= newest) return [process.execPath, built];
  return [process.execPath, '--import', join(ROOT, 'node_modules/tsx/dist/loader.mjs'), join(ROOT, 'src/cli/main.ts')];
}

const git = (...args: readonly string[]): string =>
  execFileSync('git', ['-c', 'user.name=Somebody', '-c', 'user.email=somebody@example.org', '-c', 'commit.gpgsign=false', ...args], { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

interface Version {
  readonly about: string;
  readonly pages?: number;
  readonly memoryMib?: number;
  /** The write does not wait for the one before it, nor a barrier for anything. */
  readonly hurries?: boolean;
  readonly isBroken?: boolean;
}

/** A scenario without an import: writes pages twice, and reads them back. */
function scenarioText({ about, pages = 8, memoryMib = 4, hurries = false, isBroken = false }: Version): string {
  const write = (value: number, more: object): object => ({ do: 'write', page: 0, pages, value, ...more });
  const steps = [write(1, { ahead: true }), write(2, hurries ? {} : { barrier: true }), { do: 'check', page: 0, pages, value: 2 }];
  const domain = {
    name: 'guest', kernel: { name: 'model:paravirt' }, cmdline: '', memoryMib, disks: [{ vdev: 'xvda', mode: 'w', image: { name: 'blank:1MiB' } }],
    model: { guest: 'paravirt', backend: 'xen', paging: 'pae', program: [], drivers: { disks: [{ disk: 'xvda', steps }] } },
  };
  const scenario = { name: 'disk', title: about, domains: [domain], expect: { console: ['xvda: all steps done'] } };
  return `// ${about}\nexport const scenario = ${JSON.stringify(scenario, undefined, 2)}${isBroken ? ' }' : ';'}\n`;
}

const HISTORY: readonly Version[] = [
  { about: 'A disk is written twice and read back' },
  { about: 'More pages', pages: 10 },
  { about: 'A larger guest', pages: 10, memoryMib: 6 },
  { about: 'Fewer pages', pages: 9, memoryMib: 6 },
  { about: 'A smaller guest', pages: 9 },
  { about: 'Faster: no barrier', pages: 9, hurries: true },
  { about: 'Half-finished', pages: 9, hurries: true, isBroken: true },
  { about: 'More pages', pages: 12, hurries: true },
  { about: 'A larger guest', pages: 12, memoryMib: 6, hurries: true },
  { about: 'Fewer pages', pages: 8, memoryMib: 6, hurries: true },
];

test('the commit that brought the regression in is found, and one that cannot be judged is skipped', () => {
  git('init', '--quiet', '--initial-branch=main');
  for (const [index, version] of HISTORY.entries()) {
    writeFileSync(join(folder, 'disk.mjs'), scenarioText(version));
    git('add', 'disk.mjs');
    git('commit', '--quiet', '--allow-empty', '-m', `${index + 1}: ${version.about}`);
  }
  git('bisect', 'start', 'HEAD', 'HEAD~9');
  const said = git('bisect', 'run', ...rexen(), 'explore', './disk.mjs', '--seeds', '1..6', '--first', '--no-shrink', '--jobs', '1', '--git-bisect');
  expect(said).toMatch(/is the first bad commit\n[^]*6: Faster: no barrier/);
  const log = git('bisect', 'log');
  expect(log).toMatch(/# bad: \[[0-9a-f]+\] 6: /);
  expect(log).toMatch(/# good: \[[0-9a-f]+\] 5: /);
  expect(log).toMatch(/# skip: \[[0-9a-f]+\] 7: /);
}, 300_000);
