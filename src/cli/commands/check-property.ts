// `rexen check --property NAME`: random programs of a hostile guest against a shipped property, or one
// program again (`--program FILE`). fast-check is loaded here only, so that everything else of Rexen
// works without it.
import { readFileSync, writeFileSync } from 'node:fs';
import { UsageError } from '../../base/assert.ts';

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

/** Exit code 0: it held; 1: it is broken. */
export async function checkPropertyCommand({ property: name, runs, seed, program: file, set = [], json }: CheckPropertyArguments): Promise<void> {
  const testing = await loadTesting();
  const options = { runs: wholeNumber(runs, 'runs', 100), seed: wholeNumber(seed, 'seed', 1) };
  const drivers = testing.driverPropertyByName(name);
  const isKnown = name === testing.GUEST_PROPERTY.name || drivers !== undefined || testing.propertyByName(name) !== undefined;
  const bug = isKnown ? plantedBug(testing, name, set) : undefined;
  if (name === testing.GUEST_PROPERTY.name || drivers !== undefined) {
    if (file !== undefined) throw new UsageError(`--program takes programs of a hostile guest; ${name} draws its own kind`);
    if (drivers === undefined) return tellGuest(testing.GUEST_PROPERTY, testing.checkGuestProperty(bug === undefined ? options : { ...options, setups: testing.setupsWithBug(bug) }), json === true);
    return tellGuest(drivers, testing.checkDriverProperty(drivers, options), json === true);
  }
  const property = testing.propertyByName(name);
  if (property === undefined) throw new UsageError(`no property is called ${JSON.stringify(name)}; there are ${[...testing.PROPERTIES, testing.GUEST_PROPERTY, ...testing.DRIVER_PROPERTIES].map((each) => each.name).join(', ')}`);
  if (file !== undefined) {
    const program = testing.parseProgram(readFileSync(file, 'utf8'), file);
    const finding = testing.play(program, { judges: property.judges });
    process.exitCode = finding === undefined ? 0 : 1;
    const lines = [testing.programText(program), '', ...(finding === undefined ? [`${name}: held`] : [`${name}: BROKEN after step ${Math.min(finding.step, program.steps.length)}`, ...finding.problems.map((problem) => `  ${problem}`)])];
    process.stdout.write(json === true ? `${JSON.stringify({ property: name, held: finding === undefined, ...finding })}\n` : `${lines.join('\n')}\n`);
    return;
  }
  const result = testing.checkProperty(property, { runs: wholeNumber(runs, 'runs', 1000), seed: wholeNumber(seed, 'seed', 1) });
  process.exitCode = result.failure === undefined ? 0 : 1;
  if (json === true) {
    process.stdout.write(`${JSON.stringify({ property: name, claim: property.claim, seed: result.seed, runs: result.runs, held: result.failure === undefined, ...(result.failure === undefined ? {} : { program: result.failure.program, operations: result.failure.operations, problems: result.failure.problems }) })}\n`);
    return;
  }
  let saved: string | undefined;
  if (result.failure !== undefined) {
    saved = `rexen-${name}-${result.seed}.json`;
    writeFileSync(saved, `${JSON.stringify(result.failure.program)}\n`);
  }
  process.stdout.write(`${[...(result.failure === undefined ? [`${property.claim}`] : []), ...testing.failureText(result, saved)].join('\n')}\n`);
}

/** A property of the paravirt_ops guest: its programs are those of user processes, or plans for its drivers. */
function tellGuest({ name, claim }: { readonly name: string; readonly claim: string }, { runs, seed, failure }: import('../../testing/index.ts').GuestPropertyResult | import('../../testing/index.ts').DriverPropertyResult, json: boolean): void {
  process.exitCode = failure === undefined ? 0 : 1;
  if (json) process.stdout.write(`${JSON.stringify({ property: name, claim, seed, runs, held: failure === undefined, ...failure })}\n`);
  else if (failure === undefined) process.stdout.write(`${claim}\n${name}: held in ${runs} programs (seed ${seed})\n`);
  else process.stdout.write(`${[claim, `${name}: BROKEN by program ${runs} of seed ${seed}; the smallest found:`, JSON.stringify(failure.program), ...failure.problems.map((problem) => `  ${problem}`)].join('\n')}\n`);
}
