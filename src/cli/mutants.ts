// `npm run mutants`: brings each historical mistake back, lets the shipped properties look for it, and
// says after how many programs it was found and how small it got. `-- --json` prints the figures.
import { propertyByName } from '../testing/properties.ts';
import { checkProperty, IMPOSSIBLE, MUTANTS, programText, type Property } from '../testing/index.ts';

const MAX_RUNS = 2000;
const SEED = 1;

interface Row {
  readonly name: string;
  readonly advisory: string;
  readonly cause: string;
  readonly found: boolean;
  readonly runs: number;
  readonly operations: number;
  readonly script: string;
}

function measure(): Row[] {
  const property = propertyByName('everything') as Property;
  return MUTANTS.map(({ name, advisory, cause, rules }) => {
    const { runs, failure } = checkProperty(property, { runs: MAX_RUNS, seed: SEED, rules });
    return { name, advisory, cause, found: failure !== undefined, runs, operations: failure?.operations ?? 0, script: failure === undefined ? '' : programText(failure.program) };
  });
}

const rows = measure();
if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify(rows.map(({ name, advisory, found, runs, operations }) => ({ name, advisory, found, runs, operations })))}\n`);
else {
  const lines = [
    '| advisory | what was wrong | found after | smallest program |', '|---|---|---|---|',
    ...rows.map(({ advisory, cause, found, runs, operations }) => `| ${advisory} | ${cause} | ${found ? `${runs} programs` : `not in ${runs}`} | ${found ? `${operations} operation${operations === 1 ? '' : 's'}` : '-'} |`),
    '', ...IMPOSSIBLE.map(({ advisory, why }) => `- ${advisory}: ${why}.`),
  ];
  if (process.argv.includes('--scripts')) for (const { name, script } of rows) lines.push('', name, script);
  process.stdout.write(`${lines.join('\n')}\n`);
}
if (rows.some(({ found }) => !found)) process.exitCode = 1;
