// What the commands that read a recording share: opening it, numbers on the command line, and what
// is said about one that was cut short.
import { UsageError } from '../base/assert.ts';
import type { Recording } from '../log/reader.ts';

/** A whole number from an option's text. Throws UsageError. */
export function wholeNumber(option: string, text: string): number {
  const value = /^[0-9_]+$/.test(text) ? Number(text.replaceAll('_', '')) : NaN;
  if (!Number.isSafeInteger(value)) throw new UsageError(`${option} ${text}: give a whole number`);
  return value;
}

/** After the readable part of a truncated recording has been used: says so, and sets exit code 2. */
export function reportTruncation(recording: Recording): void {
  if (!recording.truncated) return;
  process.stderr.write(`rexen: ${truncationText(recording)}\n`);
  process.exitCode = 2;
}

export const truncationText = (recording: Recording): string =>
  `${recording.source.name}: the recording was cut short; its first ${recording.eventCount} events are whole and can be used`;

/** Writes to stdout and waits while the reader is slower than we are. */
export async function writeOut(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise<void>((resolve) => process.stdout.once('drain', resolve));
}
