// `rexen check --property NAME`: random programs of a hostile guest against a shipped property, or one
// program again (`--program FILE`). fast-check is loaded here only, so that everything else of Rexen
// works without it. Ctrl-C ends a search between two programs, and what has been found out is told.
import { readFileSync, writeFileSync } from 'node:fs';
import { UsageError } from '../../base/assert.ts';
import { startProgress } from '../progress.ts';

type Testing = typeof import('../../testing/index.ts');

export interface CheckPropertyArguments {
  readonly property: string;
  readonly runs?: string;
  readonly seed?: string;
  readonly program?: string;
  readonly set?: readonly string[];
  readonly json?: boolean;
}

async function loadTesting(): Promise<Testing> {
  try {
    return await import('../../testing/index.ts');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND' && error.message.includes('fast-check')) {
      throw new UsageError('properties need the package fast-check, which is not installed; run: npm install fast-check');
    }
    throw error;
  }
}

function wholeNumber(text: string | undefined, name: string, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isInteger(value) || value < (name === 'runs' ? 1 : -0x8000_0000) || value > 0x7fff_ffff) throw new UsageError(`--${name} takes a whole number${name === 'runs' ? ' above 0' : ''}, not ${JSON.stringify(text)}`);
  return value;
}

/** The mistake that `--set bug=NAME` names, the last one given. */
function plantedBug({ PINNING_BUGS, GUEST_PROPERTY }: Testing, property: string, assignments: readonly string[]): import('../../testing/index.ts').PinningBug | undefined {
  let bug: import('../../testing/index.ts').PinningBug | undefined;
  for (const assignment of assignments) {
    if (property !== GUEST_PROPERTY.name) throw new UsageError(`--set ${assignment}: ${property} takes no settings; ${GUEST_PROPERTY.name} takes bug`);
    const [key = '', value = ''] = assignment.split(/=(.*)/s);
    if (key !== 'bug') throw new UsageError(`--set ${assignment}: write it as bug=NAME; with --property there is no other setting`);
    bug = PINNING_BUGS.find((name) => name === value);
    if (bug === undefined) throw new UsageError(`--set ${assignment}: bug (a mistake planted in the paravirt_ops guest’s pinning) must be one of ${PINNING_BUGS.join(', ')}`);
  }
  return bug;
}

/** Exit code 0: it held; 1: it is broken, or the search was interrupted. */
export async function checkPropertyCommand({ property: name, runs, seed, program: file, set = [], json }: CheckPropertyArguments): Promise<void> {
  const testing = await loadTesting();
  const drivers = testing.driverPropertyByName(name);
  const property = testing.propertyByName(name);
  const isGuest = name === testing.GUEST_PROPERTY.name;
  if (!isGuest && drivers === undefined && property === undefined) throw new UsageError(`no property is called ${JSON.stringify(name)}; there are ${[...testing.PROPERTIES, testing.GUEST_PROPERTY, ...testing.DRIVER_PROPERTIES].map((each) => each.name).join(', ')}`);
  const bug = plantedBug(testing, name, set);
  if (property !== undefined) {
    if (file !== undefined) return playFile(testing, property, file, json === true);
    const options = { runs: wholeNumber(runs, 'runs', 1000), seed: wholeNumber(seed, 'seed', 1) };
    const { result, interrupted } = await search(testing, name, testing.propertyRun(property, options), json === true);
    return tellHostile(testing, property, result, { of: options.runs, interrupted, json: json === true });
  }
  if (file !== undefined) throw new UsageError(`--program takes programs of a hostile guest; ${name} draws its own kind`);
  const options = { runs: wholeNumber(runs, 'runs', 100), seed: wholeNumber(seed, 'seed', 1) };
  const { result, interrupted } = drivers !== undefined
    ? await search(testing, name, testing.driverPropertyRun(drivers, options), json === true)
    : await search(testing, name, testing.guestPropertyRun(bug === undefined ? options : { ...options, setups: testing.setupsWithBug(bug) }), json === true);
  tellGuest(drivers ?? testing.GUEST_PROPERTY, result, { of: options.runs, interrupted, json: json === true });
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Plays a program at a time, with progress, until somebody interrupts. */
async function search<Program, Result>(testing: Testing, name: string, run: import('../../testing/index.ts').PropertyRun<Program, Result>, quiet: boolean): Promise<{ readonly result: Result; readonly interrupted: boolean }> {
  const { numRuns } = run.parameters;
  let interrupted = false;
  const stop = (): void => void (interrupted = true);
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const progress = startProgress(name, numRuns, !quiet);
  let watched;
  try {
    watched = await testing.watchProperty(run, async (played, failed) => {
      progress.update(played, failed === 0 ? `${played} of ${numRuns} programs` : `${played} programs, the one that fails is being made small`);
      await nextTurn();
      return !interrupted;
    });
  } finally {
    progress.stop();
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
  return { result: run.result(watched.details), interrupted: watched.stopped };
}

interface Telling {
  /** So many programs were to be played. */
  readonly of: number;
  readonly interrupted: boolean;
  readonly json: boolean;
}

const heldText = (name: string, { runs, seed }: { readonly runs: number; readonly seed: number }, { of, interrupted }: Telling): string =>
  interrupted ? `${name}: interrupted; held in ${runs} of ${of} programs (seed ${seed})` : `${name}: held in ${runs} programs (seed ${seed})`;
const exitCode = (failure: object | undefined, interrupted: boolean): 0 | 1 => (failure === undefined && !interrupted ? 0 : 1);

/** One program of a hostile guest, from a file. */
function playFile(testing: Testing, { name, judges }: import('../../testing/index.ts').Property, file: string, json: boolean): void {
  const program = testing.parseProgram(readFileSync(file, 'utf8'), file);
  const finding = testing.play(program, { judges });
  process.exitCode = finding === undefined ? 0 : 1;
  const lines = [testing.programText(program), '', ...(finding === undefined ? [`${name}: held`] : [`${name}: BROKEN after step ${Math.min(finding.step, program.steps.length)}`, ...finding.problems.map((problem) => `  ${problem}`)])];
  process.stdout.write(json ? `${JSON.stringify({ property: name, held: finding === undefined, ...finding })}\n` : `${lines.join('\n')}\n`);
}

function tellHostile(testing: Testing, { name, claim }: import('../../testing/index.ts').Property, result: import('../../testing/index.ts').PropertyResult, telling: Telling): void {
  const { seed, runs, failure } = result;
  const { interrupted } = telling;
  process.exitCode = exitCode(failure, interrupted);
  if (telling.json) {
    process.stdout.write(`${JSON.stringify({ property: name, claim, seed, runs, ...(interrupted ? { interrupted } : {}), held: failure === undefined, ...(failure === undefined ? {} : { program: failure.program, operations: failure.operations, problems: failure.problems }) })}\n`);
    return;
  }
  if (failure === undefined) return void process.stdout.write(`${claim}\n${heldText(name, result, telling)}\n`);
  const saved = `rexen-${name}-${seed}.json`;
  writeFileSync(saved, `${JSON.stringify(failure.program)}\n`);
  process.stdout.write(`${testing.failureText(result, saved).join('\n')}\n`);
}

/** A property of the paravirt_ops guest: its programs are those of user processes, or plans for its drivers. */
function tellGuest({ name, claim }: { readonly name: string; readonly claim: string }, result: import('../../testing/index.ts').GuestPropertyResult | import('../../testing/index.ts').DriverPropertyResult, telling: Telling): void {
  const { runs, seed, failure } = result;
  const { interrupted } = telling;
  process.exitCode = exitCode(failure, interrupted);
  if (telling.json) process.stdout.write(`${JSON.stringify({ property: name, claim, seed, runs, ...(interrupted ? { interrupted } : {}), held: failure === undefined, ...failure })}\n`);
  else if (failure === undefined) process.stdout.write(`${claim}\n${heldText(name, result, telling)}\n`);
  else process.stdout.write(`${[claim, `${name}: BROKEN by program ${runs} of seed ${seed}; the smallest found${interrupted ? ' until it was interrupted' : ''}:`, JSON.stringify(failure.program), ...failure.problems.map((problem) => `  ${problem}`)].join('\n')}\n`);
}
