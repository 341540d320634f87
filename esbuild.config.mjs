// What `npm run build` makes of the sources; tsc then checks them and writes their declarations.
//
// Node takes about a millisecond to find, read and link a module: with one file per source file every command spent
// most of a second before its first line ran. So what is reachable from the same entries becomes one file, under
// dist/chunks. Entries are what is started or imported by its path: programs, what the package exports, scenarios, and
// the two files that are workers too (being entries keeps each of them in a file without the programs' code).
import { rmSync } from 'node:fs';
import { build } from 'esbuild';

const entryPoints = [
  'src/cli/main.ts',
  'src/cli/mutants.ts',
  'src/cli/bench/main.ts',
  'src/cli/bench/linux-main.ts',
  'src/cli/bench/guest-child.ts',
  'src/cli/bench/v86-child.ts',
  'src/testing/index.ts',
  'src/node/timeline.ts',
  'src/node/recording-worker.ts',
  'src/node/explore-worker.ts',
  'scenarios/**/*.ts',
];

/** A test builds elsewhere: `node esbuild.config.mjs FOLDER`. */
const outdir = process.argv[2] ?? 'dist';
rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints,
  outdir,
  outbase: '.',
  chunkNames: 'chunks/[name]-[hash]',
  bundle: true,
  splitting: true,
  packages: 'external',
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  logLevel: 'warning',
});
