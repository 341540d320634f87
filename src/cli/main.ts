#!/usr/bin/env node
// The command line: one thin file per command, and the one place where errors become exit codes.
// 0 done or exact · 1 diverged, crashed or limit · 2 bad input or usage · 3 a bug of Rexen itself.
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { Command, CommanderError } from 'commander';
import { UsageError } from '../base/assert.ts';
import '../node/engine-flags.ts';
import { version } from '../node/package-info.ts';

/** Read when it is asked for: `rexen info` needs no processor. In the order of the help. */
const COMMANDS = {
  record: () => import('./commands/record.ts'),
  replay: () => import('./commands/replay.ts'),
  info: () => import('./commands/info.ts'),
  dump: () => import('./commands/dump.ts'),
  diff: () => import('./commands/diff.ts'),
  bisect: () => import('./commands/bisect.ts'),
  explore: () => import('./commands/explore.ts'),
  branch: () => import('./commands/branch.ts'),
  who: () => import('./commands/who.ts'),
  checkpoint: () => import('./commands/checkpoint.ts'),
  pack: () => import('./commands/pack.ts'),
  scenarios: () => import('./commands/scenarios.ts'),
  fetch: () => import('./commands/fetch.ts'),
  conform: () => import('./commands/conform.ts'),
  check: () => import('./commands/check.ts'),
  tour: () => import('./commands/tour.ts'),
  export: () => import('./commands/export.ts'),
} as const satisfies Record<string, () => Promise<{ readonly register: (program: Command) => void }>>;

/** The modules of the command that is named; of all of them for help, and for a name that is none. */
const modulesFor = (name: string | undefined): ReturnType<(typeof COMMANDS)[keyof typeof COMMANDS]>[] => {
  const key = name === 'run' ? 'record' : name;
  return key !== undefined && Object.hasOwn(COMMANDS, key) ? [COMMANDS[key as keyof typeof COMMANDS]()] : Object.values(COMMANDS).map((load) => load());
};

async function main(argv: readonly string[]): Promise<void> {
  const program = new Command('rexen')
    .description('Deterministic record/replay simulation of Xen paravirtual guests.')
    .version(version())
    .exitOverride()
    .showHelpAfterError('(rexen --help lists the commands, rexen COMMAND --help the options)');
  for (const { register } of await Promise.all(modulesFor(argv[2]))) register(program);
  for (const command of program.commands) command.exitOverride().option(GIT_BISECT, 'exit with 125 instead of 2: `git bisect run` skips what cannot be judged');
  try {
    await program.parseAsync([...argv]);
    if (process.exitCode === 2) process.exitCode = badInput(argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has said it already, help and version included.
      process.exitCode = error.exitCode === 0 ? 0 : badInput(argv);
      if (error.exitCode !== 0) tellProgram(argv, 2, error.message.replace(/^error: /, ''));
      return;
    }
    const problem = error instanceof UsageError ? error.message : hostProblem(error);
    const exitCode = problem === undefined ? 3 : 2;
    process.exitCode = exitCode === 2 ? badInput(argv) : exitCode;
    const said = problem ?? `this is a bug in Rexen, not in your input; please report it with the command line.\n${error instanceof Error ? error.stack : String(error)}`;
    process.stderr.write(`rexen: ${said}\n`);
    tellProgram(argv, exitCode, said);
  }
}

const GIT_BISECT = '--git-bisect';
const badInput = (argv: readonly string[]): 2 | 125 => (argv.includes(GIT_BISECT) ? 125 : 2);

/** Who asked for JSON gets an object on stdout when there is nothing else to give, too. */
function tellProgram(argv: readonly string[], exitCode: 2 | 3, error: string): void {
  if (argv.includes('--json')) process.stdout.write(`${JSON.stringify({ outcome: exitCode === 2 ? 'refused' : 'bug', error })}\n`);
}

/** What the host's file system has to say, as one sentence. */
function hostProblem(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined;
  const path = 'path' in error && typeof error.path === 'string' ? error.path : 'a file';
  const texts: Record<string, string> = {
    ENOENT: existsSync(dirname(path)) ? `${path} does not exist` : `${path}: there is no folder ${dirname(path)}`,
    EACCES: `${path} may not be accessed; check its permissions`,
    EISDIR: `${path} is a directory, not a file`,
    ENOSPC: `the disk is full while writing ${path}; what is there already can be replayed up to its last whole chunk`,
    EROFS: `${path} is on a read-only file system; choose another place with -o`,
    ENOTDIR: `${path}: a part of this path is not a directory`,
    EFBIG: `${path} may not grow any further; raise the limit (ulimit -f), or write elsewhere with -o`,
    EPIPE: 'the reader of the output went away',
  };
  // Whatever else the system refuses about a file (EDQUOT, EIO, EMFILE, ELOOP, ...) is no bug either.
  const other = 'path' in error && 'syscall' in error ? `${path}: ${error.message}` : undefined;
  return texts[error.code] ?? other;
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  process.stderr.write(`rexen: the output could not be written: ${error.message}\n`);
  process.exit(2);
});
await main(process.argv);
