// Gets an image that the product knows of, from Debian's archive through apt-get (no root needed),
// or takes one that the user has: a kernel, or a Debian package.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { UsageError } from '../base/assert.ts';
import { debianPackageFiles, isDebianPackage } from './debian-package.ts';
import { KNOWN_IMAGES, knownImage, type KnownImage } from './image-registry.ts';
import { cacheFolder, storeImage, type StoredImage } from './image-store.ts';

const DOWNLOAD_TIMEOUT_MS = 10 * 60 * 1000;

/** What to do when the archive cannot be reached. */
const byHand = (row: KnownImage): string =>
  `on a machine that can, run \`apt-get download ${row.debianPackage}\` and give the file here: \`rexen fetch FILE.deb\`${row.metaPackage === true ? ' (the package that this one depends on)' : ''}`;

/** A known name, or a path with `as` to name what is in it. `say` gets lines about what goes on. */
export async function fetchImage(nameOrPath: string, as: string | undefined, say: (line: string) => void): Promise<StoredImage[]> {
  const row = knownImage(nameOrPath);
  if (row !== undefined && as === undefined) return [await fetchKnown(row, say)];
  if (!existsSync(nameOrPath)) throw new UsageError(`${nameOrPath}: neither a known image (${KNOWN_IMAGES.map((known) => known.name).join(', ')}) nor a file`);
  return takeFile(nameOrPath, as);
}

/** A Debian package gives every known image that is in it; any other file is an image itself. */
async function takeFile(path: string, as: string | undefined): Promise<StoredImage[]> {
  const bytes = new Uint8Array(readFileSync(path));
  if (!isDebianPackage(bytes)) {
    const byName = KNOWN_IMAGES.find((row) => row.inside.test(`usr/lib/grub-xen/${basename(path)}`) || row.inside.test(`boot/${basename(path)}`));
    return [storeImage(as ?? byName?.name ?? basename(path), bytes, path)];
  }
  const rows = as === undefined ? KNOWN_IMAGES : KNOWN_IMAGES.filter((row) => row.name === as);
  const files = await debianPackageFiles(bytes, path, (inside) => rows.some((row) => row.inside.test(inside)));
  const stored = rows.flatMap((row) => {
    const file = files.find((candidate) => row.inside.test(candidate.path));
    return file === undefined ? [] : [storeImage(row.name, file.bytes, `${basename(path)}: ${file.path}`)];
  });
  if (stored.length === 0) throw new UsageError(`${path}: this package has none of the known images${as === undefined ? '' : ` named ${as}`} (${KNOWN_IMAGES.map((row) => `${row.name} is in ${row.debianPackage}`).join(', ')})`);
  return stored;
}

async function fetchKnown(row: KnownImage, say: (line: string) => void): Promise<StoredImage> {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-fetch-'));
  try {
    const file = downloadPackage(row, folder, say);
    const path = join(folder, file);
    const files = await debianPackageFiles(new Uint8Array(readFileSync(path)), file, (inside) => row.inside.test(inside));
    const found = files[0];
    if (found === undefined) throw new UsageError(`${file} does not contain ${row.name} any more; give the file yourself: \`rexen fetch FILE --as ${row.name}\``);
    return storeImage(row.name, found.bytes, `${file}: ${found.path}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The name of the .deb in `folder`. */
function downloadPackage(row: KnownImage, folder: string, say: (line: string) => void): string {
  // The system's package lists first; if they are missing or old, lists of our own.
  let trouble = '';
  for (const options of [[], ownLists()]) {
    if (options.length > 0) {
      say(`apt-get has no usable package lists (${trouble}); getting them`);
      const update = apt('apt-get', [...options, 'update'], folder);
      if (!update.ok) throw new UsageError(`${row.name} could not be fetched: apt-get update says "${update.text}"; ${byHand(row)}`);
    }
    const name = row.metaPackage === true ? dependencyOf(row, options, folder) : row.debianPackage;
    if (name === undefined) {
      trouble = `${row.debianPackage} is not in them`;
      continue;
    }
    say(`downloading Debian's package ${name}`);
    const download = apt('apt-get', [...options, 'download', name], folder);
    const file = readdirSync(folder).find((entry) => entry.endsWith('.deb'));
    if (download.ok && file !== undefined) return file;
    trouble = download.text;
  }
  throw new UsageError(`${row.name} could not be fetched: apt-get says "${trouble}"; ${byHand(row)}`);
}

/** Options that make apt-get keep lists in our cache, for which no rights are needed. */
function ownLists(): string[] {
  const folder = join(cacheFolder(), 'apt');
  for (const part of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(folder, part), { recursive: true });
  return ['-o', `Dir::State::Lists=${join(folder, 'lists')}`, '-o', `Dir::Cache=${join(folder, 'cache')}`, '-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User='];
}

/** The package that a meta package stands for at the moment. */
function dependencyOf(row: KnownImage, options: readonly string[], folder: string): string | undefined {
  const depends = apt('apt-cache', [...options, 'depends', row.debianPackage], folder);
  return /Depends: (linux-image-\S+)/.exec(depends.output)?.[1];
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
