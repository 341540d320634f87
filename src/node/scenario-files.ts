// Finds scenarios: those that the product ships (by name), a scenario file, an xl.cfg file or a kernel
// image (by path), which makes a scenario of its own.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, extname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { UsageError } from '../base/assert.ts';
import { linuxDomain } from '../sim/linux-domain.ts';
import { defineScenario, type Scenario, type ScenarioInput } from '../sim/scenario.ts';
import { specFrom } from '../sim/spec.ts';
import { looksLikeXlConfig, xlScenario } from '../sim/xl/scenario.ts';
import { initramfsNameOf, knownImage } from './image-registry.ts';
import { storedImage } from './image-store.ts';
import { packageRoot } from './package-info.ts';

const RUNS_FROM_SOURCE = fileURLToPath(import.meta.url).endsWith('.ts');
const CODE_ENDINGS = new Set(['.ts', '.mts', '.js', '.mjs']);

function shippedFolder(): string {
  return RUNS_FROM_SOURCE ? join(packageRoot(), 'scenarios') : join(packageRoot(), 'dist', 'scenarios');
}

async function loadFile(path: string): Promise<Scenario> {
  let module: { scenario?: unknown };
  try {
    module = (await import(pathToFileURL(path).href)) as { scenario?: unknown };
  } catch (error) {
    if (error instanceof UsageError || !(error instanceof Error)) throw error;
    throw new UsageError(`${path}: this scenario file could not be loaded: ${error.message.split('\n')[0]}`);
  }
  const { scenario } = module;
  if (typeof scenario !== 'object' || scenario === null) throw new UsageError(`${path}: a scenario file exports \`scenario\`; write: export const scenario = { name: '...', title: '...', domains: [...] }`);
  return scenarioFrom(path, scenario);
}

/** What a file exports: a whole scenario, or what defineScenario() makes one of, so that a file needs no import. */
function scenarioFrom(path: string, exported: object): Scenario {
  const scenario = 'spec' in exported ? (exported as Scenario) : defineScenario({ name: basename(path, extname(path)), title: path, ...(exported as Omit<ScenarioInput, 'name' | 'title'>) });
  if (specFrom(scenario.spec) === undefined) throw new UsageError(`${path}: its scenario cannot be run; each of its domains needs a name, a kernel, a cmdline and memoryMib, and everything else must be as src/sim/spec.ts has it`);
  return scenario;
}

/** All shipped scenarios, ordered by name. */
export async function shippedScenarios(): Promise<Scenario[]> {
  const folder = shippedFolder();
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => (name.endsWith('.ts') && !name.endsWith('.d.ts')) || name.endsWith('.js'));
  const loaded = await Promise.all(files.map((name) => loadFile(join(folder, name))));
  return loaded.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** A name as in scenarios/, the path of a scenario file, or the path of a kernel. Throws UsageError. */
export async function findScenario(name: string): Promise<Scenario> {
  const shipped = await shippedScenarios();
  const found = shipped.find((scenario) => scenario.name === name);
  if (found !== undefined) return found;
  // A fetched image can be booted by its name: a Linux kernel with what was fetched with it, others as a kernel of one's own.
  if (knownImage(name)?.linux === true || storedImage(initramfsNameOf(name)) !== undefined) return linuxScenario(name);
  if (storedImage(name) !== undefined || knownImage(name) !== undefined) return kernelScenario(name);
  if (!existsSync(name)) {
    const close = shipped.filter((scenario) => scenario.name.includes(name) || name.includes(scenario.name)).map((scenario) => scenario.name);
    const hint = close.length > 0 ? `; did you mean ${close.join(' or ')}?` : '; `rexen scenarios` lists what there is';
    throw new UsageError(`${name}: neither a scenario nor a file${hint}`);
  }
  if (!statSync(name).isFile()) throw new UsageError(`${name}: is not a file; give a scenario file or a kernel image`);
  if (CODE_ENDINGS.has(extname(name))) return loadFile(builtVersionOf(resolve(name)));
  return xlFile(name) ?? kernelScenario(name);
}

/** Enough to tell a configuration from a kernel. */
const SNIFFED_BYTES = 64 * 1024;

/** An xl.cfg file; undefined for files that look like none. */
function xlFile(path: string): Scenario | undefined {
  const bytes = readFileSync(path);
  if (!looksLikeXlConfig(bytes.subarray(0, SNIFFED_BYTES).toString('latin1'))) return undefined;
  const { scenario, notes } = xlScenario(path, bytes.toString('utf8'), basename(path, extname(path)));
  for (const note of notes) process.stderr.write(`rexen: ${path}: ${note}\n`);
  return scenario;
}

/** A scenario of the checkout is loaded in its compiled form: Node 20 does not read TypeScript. */
function builtVersionOf(path: string): string {
  const inTree = relative(join(packageRoot(), 'scenarios'), path);
  if (RUNS_FROM_SOURCE || inTree.startsWith(`..${sep}`) || !path.endsWith('.ts')) return path;
  const built = join(packageRoot(), 'dist', 'scenarios', inTree.replace(/\.ts$/, '.js'));
  return existsSync(built) ? built : path;
}

/** Another kernel that was fetched with its modules, as the scenario debian-linux boots the machine's own. */
function linuxScenario(name: string): Scenario {
  return defineScenario({
    name, title: `${knownImage(name)?.title ?? `The Linux kernel ${name}`}, with console, disk and network`, needs: [name],
    domains: [linuxDomain({ name: 'linux', kernel: name })],
    expect: { outcome: 'poweroff', console: ['BOOT-OK', 'ALL-OK'] },
    interactive: { cmdline: 'console=hvc0 rexen.shell' },
  });
}

/** A user's own kernel, with the defaults of a small domain. */
function kernelScenario(path: string): Scenario {
  return defineScenario({
    name: basename(path),
    title: `Boot ${path}`,
    domains: [{ name: 'guest', kernel: { name: path }, cmdline: '', memoryMib: 128 }],
  });
}
