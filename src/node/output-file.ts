// Where something is written must not be where it is read from.
import { statSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';

/** Throws UsageError if `output`, by whatever path or link, is one of these files. What is no file is passed over. */
export function refuseToOverwrite(output: string, inputs: readonly string[]): void {
  if (output === '') throw new UsageError('the name of the file to write is empty');
  const there = statSync(output, { throwIfNoEntry: false });
  for (const input of inputs) {
    const stat = statSync(input, { throwIfNoEntry: false });
    if (there !== undefined && stat?.isFile() === true && stat.dev === there.dev && stat.ino === there.ino) throw new UsageError(`${output}: ${output === input ? 'it' : input} is read by this very command and would be lost; write to another place`);
  }
}
