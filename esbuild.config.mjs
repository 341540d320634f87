// What `npm run build` makes of the sources; tsc then checks them and writes their declarations.
//
// Node takes about a millisecond to find, read and link a module: with one file per source file every command spent
// most of a second before its first line ran. So what is reachable from the same entries becomes one file, under
// dist/chunks. Entries are what is started or imported by its path: programs, what the package exports, scenarios, and
// the three files that are workers too (being entries keeps each of them in a file without the programs' code).
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';
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
  'src/node/read-ahead.ts',
  'src/node/explore-worker.ts',
  'scenarios/**/*.ts',
];

const require = createRequire(import.meta.url);
/**
 * Packages that are CommonJS. Imported, Node reads their source once more to find the names that they export (0.08 of the
 * 0.1 s that importing iced-x86 took); required, it asks the finished module. The names are known here.
 */
const COMMONJS = ['cli-progress', 'hash-wasm', 'iced-x86', 'lz4js', 'protobufjs', 'seedrandom', 'xz-decompress'];
const required = {
  name: 'required',
  setup(building) {
    building.onResolve({ filter: new RegExp(`^(${COMMONJS.join('|')})$`) }, ({ path }) => ({ path, namespace: 'required' }));
    building.onLoad({ filter: /.*/, namespace: 'required' }, ({ path }) => {
      const names = Object.keys(require(path)).filter((name) => /^[A-Za-z_$][\w$]*$/.test(name) && name !== 'default');
      return { contents: `import { createRequire } from 'node:module';\nconst it = createRequire(import.meta.url)('${path}');\nexport default it;\n${names.map((name) => `export const ${name} = it.${name};`).join('\n')}` };
    });
  },
};

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
  plugins: [required],
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  logLevel: 'warning',
});
