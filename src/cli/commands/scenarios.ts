// `rexen scenarios`: what can be recorded by name.
import type { Command } from 'commander';
import { shippedScenarios } from '../../node/scenario-files.ts';

export function register(program: Command): void {
  program
    .command('scenarios')
    .description('list what can be recorded by name')
    .option('--json', 'print an array of {name, title, needs}')
    .action(async (options: { json?: boolean }) => {
      const rows = (await shippedScenarios()).map(({ name, title, needs }) => ({ name, title, needs }));
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
        return;
      }
      const width = Math.max(...rows.map((row) => row.name.length));
      for (const row of rows) process.stdout.write(`${row.name.padEnd(width)}  ${row.title}${row.needs.length > 0 ? `  (first: rexen fetch ${row.needs.join(' ')})` : ''}\n`);
    });
}
