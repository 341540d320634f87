// `rexen who FILE mfn|port|gref|path X`: who changed it last, and what happened to it before.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { eventLine } from '../../log/event-text.ts';
import { openRecordingFile } from '../../node/recording-files.ts';
import { SUBJECTS, whoChanged, type Subject } from '../../replay/who.ts';
import { parsePosition } from '../arguments.ts';
import { reportTruncation, wholeNumber } from '../recording-argument.ts';

interface WhoOptions {
  readonly before?: string;
  readonly domain: string;
  readonly last: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program
    .command('who')
    .description('tell from the events of a recording who changed a frame, a port, a grant or a xenstore key last')
    .argument('<file>', 'a recording')
    .argument('<subject>', SUBJECTS.join(', '))
    .argument('<what>', 'a number (0x for hex), or an absolute path of xenstore')
    .option('--before <position>', 'only what happened before this event')
    .option('--domain <n>', 'whose port or grant it is', '1')
    .option('--last <n>', 'list so many changes', '20')
    .option('--json', 'print one JSON object and nothing else')
    .action(who);
}

async function who(file: string, subject: string, what: string, options: WhoOptions): Promise<void> {
  if (!SUBJECTS.includes(subject as Subject)) throw new UsageError(`who ${subject}: ask for one of ${SUBJECTS.join(', ')}`);
  const number = /^0x[0-9a-fA-F]{1,12}$/.test(what) ? Number(what) : subject === 'path' ? 0 : wholeNumber(subject, what);
  if (subject === 'path' && !what.startsWith('/')) throw new UsageError(`who path ${what}: give an absolute path such as /local/domain/1/name`);
  const recording = await openRecordingFile(file);
  const before = options.before === undefined ? recording.eventCount : Math.min(recording.eventCount, parsePosition(options.before, '--before').event);
  const question = { subject: subject as Subject, what: subject === 'path' ? what : number, domId: wholeNumber('--domain', options.domain) };
  const { last, count } = whoChanged(recording.events(0, before), question, Math.max(1, wholeNumber('--last', options.last)));
  const context = recording.textContext();
  const lines = last.map((event) => eventLine(event, context));
  const verdict = count === 0 ? `no event before ${before} changed ${subject} ${what}` : `last changed by ${lines.at(-1)}`;
  process.stdout.write(options.json === true ? `${JSON.stringify({ file, subject, what, before, count, verdict, events: lines })}\n` : `${[...lines, ...(count > last.length ? [`(${count - last.length} earlier ones are not listed)`] : []), verdict].join('\n')}\n`);
  reportTruncation(recording);
}
