// Downloads a package from Debian's archive through apt-get, without root: with the system's package
// lists, or, where those are missing, old or of another suite, with lists of our own in the cache.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { KNOWN_IMAGES, type KnownImage } from './image-registry.ts';
import { cacheFolder } from './image-store.ts';

const DOWNLOAD_TIMEOUT_MS = 10 * 60 * 1000;

/** What to do when the archive cannot be reached. */
const byHand = (row: KnownImage): string =>
  `on a machine that can, run \`apt-get download ${row.debianPackage}\` and give the file here: \`rexen fetch FILE.deb\`${row.metaPackage === true ? ' (the package that this one depends on)' : ''}`;

/** Downloads the row's package into `folder`, in several parts if need be; the names of the .debs there. Throws UsageError that says what to do. */
export function downloadPackage(row: KnownImage, folder: string, say: (line: string) => void): string[] {
  let trouble = row.suite === undefined ? '' : `${row.suite} is another suite`;
  const ways = row.suite === undefined ? [[], ownLists()] : [suiteLists(row, row.suite, folder)];
  for (const options of ways) {
    if (options.length > 0) {
      say(row.suite === undefined ? `apt-get has no usable package lists (${trouble}); getting them` : `getting the package lists of ${row.suite}`);
      const update = apt('apt-get', [...options, 'update'], folder);
      if (!update.ok) throw new UsageError(`${row.name} could not be fetched: apt-get update says "${update.text}"; ${byHand(row)}`);
    }
    const name = row.metaPackage === true ? dependencyOf(row, options, folder) : row.debianPackage;
    if (name === undefined) {
      trouble = `${row.debianPackage} is not in them`;
      continue;
    }
    const parts = row.linux === true ? kernelParts(name, options, folder) : [name];
    say(`downloading Debian's package ${parts.join(', ')}`);
    const download = apt('apt-get', [...options, 'download', ...parts], folder);
    const files = readdirSync(folder).filter((entry) => entry.endsWith('.deb')).sort((a, b) => (a < b ? -1 : 1));
    if (download.ok && files.length > 0) return files;
    trouble = download.text;
  }
  throw new UsageError(`${row.name} could not be fetched: apt-get says "${trouble}"; ${byHand(row)}`);
}

/** Options that make apt-get keep lists in our cache, for which no rights are needed. */
function ownLists(part = 'apt'): string[] {
  const folder = join(cacheFolder(), part);
  for (const inner of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(folder, inner), { recursive: true });
  return ['-o', `Dir::State::Lists=${join(folder, 'lists')}`, '-o', `Dir::Cache=${join(folder, 'cache')}`, '-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User='];
}

/** Lists of another suite of the archive that this machine uses. */
function suiteLists(row: KnownImage, suite: string, folder: string): string[] {
  const targets = apt('apt-get', ['indextargets', '--format', '$(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages'], folder);
  const main = targets.output.split('\n').map((line) => line.split(' ')).find(([, release, component]) => component === 'main' && /^[a-z]+$/.test(release ?? ''));
  if (main === undefined) throw new UsageError(`${row.name} could not be fetched: apt-get knows no archive of Debian on this machine; ${byHand(row)}`);
  const options = ownLists(`apt-${suite}`);
  const list = join(cacheFolder(), `apt-${suite}`, 'sources.list');
  writeFileSync(list, `deb ${main[0]} ${suite} main\n`);
  return [...options, '-o', `Dir::Etc::SourceList=${list}`, '-o', 'Dir::Etc::SourceParts=/dev/null'];
}

/** The package that a meta package stands for at the moment. */
function dependencyOf(row: KnownImage, options: readonly string[], folder: string): string | undefined {
  const depends = apt('apt-cache', [...options, 'depends', row.debianPackage], folder);
  return /Depends: (linux-image-\S+)/.exec(depends.output)?.[1];
}

/** Since Debian 14 the package of a kernel is empty: what was in it is in those that it depends on. */
function kernelParts(name: string, options: readonly string[], folder: string): string[] {
  const depends = apt('apt-cache', [...options, 'depends', name], folder);
  const parts = [...depends.output.matchAll(/Depends: (linux-(?:base|binary|modules)-\d\S*)/g)].map((match) => match[1] as string);
  return parts.some((part) => part.startsWith('linux-binary-')) ? parts : [name];
}

function apt(program: string, args: readonly string[], folder: string): { ok: boolean; text: string; output: string } {
  const result = spawnSync(program, args, { cwd: folder, encoding: 'utf8', timeout: DOWNLOAD_TIMEOUT_MS, env: { ...process.env, LC_ALL: 'C' } });
  if (result.error !== undefined) {
    const missing = 'code' in result.error && result.error.code === 'ENOENT';
    throw new UsageError(missing ? `this machine has no ${program}; on a Debian machine run \`apt-get download PACKAGE\` (${KNOWN_IMAGES.map((row) => `${row.name}: ${row.debianPackage}`).join(', ')}) and give the file here: \`rexen fetch FILE.deb\`` : `${program} could not be run: ${result.error.message}`);
  }
  const errors = result.stderr.split('\n').filter((line) => line.startsWith('E:'));
  return { ok: result.status === 0, text: (errors[0] ?? result.stderr.trim().split('\n')[0] ?? '').replace(/^E: /, ''), output: result.stdout };
}
