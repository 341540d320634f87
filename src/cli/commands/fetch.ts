// `rexen fetch`: gets images that the product does not contain, or takes over files the user has.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { fetchImages } from '../../node/fetch-image.ts';
import { KNOWN_IMAGES } from '../../node/image-registry.ts';
import { ownImages, storedImage } from '../../node/image-store.ts';

interface FetchOptions {
  readonly as?: string;
  readonly list?: boolean;
  readonly json?: boolean;
}

/** Of a folder in the cache as well. */
const IMAGE_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]*$/;

export function register(program: Command): void {
  program
    .command('fetch')
    .description('get an image by name, or take one from a local file or Debian package')
    .argument('[names...]', `${KNOWN_IMAGES.map((row) => row.name).join(', ')}, or a file`)
    .option('--as <name>', 'the name for a local file, or for the kernel in a Debian package')
    .option('--list', 'list the known images and your own, and where they are')
    .option('--json', 'print one JSON object and nothing else')
    .action(run);
}

async function run(names: readonly string[], options: FetchOptions): Promise<void> {
  if (options.list === true) {
    list(options.json === true);
    return;
  }
  if (names.length === 0) throw new UsageError(`say what to fetch: ${KNOWN_IMAGES.map((row) => row.name).join(', ')}, or a file`);
  if (options.as !== undefined && !IMAGE_NAME.test(options.as)) throw new UsageError(`--as ${options.as}: a name is made of letters, digits, '.', '_', '+' and '-', and begins with a letter or digit`);
  const images = await fetchImages(names, options.as, (line) => process.stderr.write(`${line}\n`));
  if (options.json === true) process.stdout.write(`${JSON.stringify({ images })}\n`);
  else for (const image of images) process.stdout.write(`${image.name}: ${image.path}\n  ${image.sizeBytes} bytes, sha256 ${image.sha256}, from ${image.origin}\n`);
}

function list(json: boolean): void {
  const known = KNOWN_IMAGES.map((row) => ({ name: row.name, title: row.title, debianPackage: row.debianPackage, path: storedImage(row.name)?.path ?? null }));
  const rows = [...known, ...ownImages().map((image) => ({ name: image.name, title: 'your own', debianPackage: image.origin, path: image.path }))];
  if (json) {
    process.stdout.write(`${JSON.stringify({ images: rows })}\n`);
    return;
  }
  const width = Math.max(...rows.map((row) => row.name.length));
  for (const row of rows) process.stdout.write(`${row.name.padEnd(width)}  ${row.title}, from ${row.debianPackage}${row.path === null ? '' : `\n${' '.repeat(width)}  ${row.path}`}\n`);
}
