// The command of `npm run bench:linux`.
import { UsageError } from '../../base/assert.ts';
import { benchLinux, canMeasure, linuxLines } from './linux.ts';

const DEFAULT_ROUNDS = 3;
const MEMORY_MIB = 256;

const argument = (name: string): string | undefined => {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
};

try {
  if (!canMeasure()) throw new UsageError('bench:linux reads CPU times from /proc, which only Linux has');
  const rounds = Number(argument('--rounds') ?? DEFAULT_ROUNDS);
  if (!Number.isInteger(rounds) || rounds < 1) throw new UsageError('--rounds takes a whole number from 1');
  const bench = await benchLinux(argument('--kernel') ?? 'debian-linux', rounds, MEMORY_MIB, (text) => void process.stderr.write(`${text}\n`));
  process.stdout.write(process.argv.includes('--json') ? `${JSON.stringify(bench)}\n` : `${linuxLines(bench).join('\n')}\n`);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`bench:linux: ${error.message}\n`);
  process.exitCode = 2;
}
