// `rexen who FILE mfn|pfn|port|gref|vaddr|path X`: who changed it last, and what happened to it before. A word of
// memory and the frame behind a pfn are in no event: for these the recording is run again.
import type { Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { eventLine } from '../../log/event-text.ts';
import type { Recording } from '../../log/reader.ts';
import { withRecordingFile } from '../../node/recording-files.ts';
import { mapOption, recordedSymbols } from '../../node/recorded-symbols.ts';
import { openTimeline, type Timeline } from '../../node/timeline.ts';
import { SUBJECTS, whoChanged, type Subject } from '../../replay/who.ts';
import { maddrOf, mfnOfPfn, whoChangedWord } from '../../replay/who-word.ts';
import { parsePosition } from '../arguments.ts';
import { reportTruncation, wholeNumber } from '../recording-argument.ts';

interface WhoOptions {
  readonly before?: string;
  readonly domain: string;
  readonly last: string;
  readonly map?: string;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const ASKED = [...SUBJECTS.slice(0, 1), 'pfn', ...SUBJECTS.slice(1, -1), 'vaddr', ...SUBJECTS.slice(-1)];
const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('who')
    .description('tell who changed a frame, a port, a grant, a word of memory or a xenstore key last')
    .argument('<file>', 'a recording')
    .argument('<subject>', ASKED.join(', '))
    .argument('<what>', 'a number (0x for hex), or an absolute path of xenstore')
    .option('--before <position>', 'only what happened before this event')
    .option('--domain <n>', 'whose port or grant it is', '1')
    .option('--last <n>', 'list so many changes', '20')
    .option('--map <file>', "for vaddr: a System.map of the first domain's kernel (default: what the kernel's image says)")
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(who);
}

async function who(file: string, subject: string, what: string, options: WhoOptions): Promise<void> {
  if (!ASKED.includes(subject)) throw new UsageError(`who ${subject}: ask for one of ${ASKED.join(', ')}`);
  const number = subject === 'path' ? 0 : numberOf(subject, what);
  if (subject === 'path' && !what.startsWith('/')) throw new UsageError(`who path ${what}: give an absolute path such as /local/domain/1/name`);
  const domId = wholeNumber('--domain', options.domain);
  if (subject === 'vaddr') return whoWrote(file, what, number, domId, options);
  return withRecordingFile(file, (recording) => whoIn(recording, { file, subject, what, number, domId }, options));
}

interface Question {
  readonly file: string;
  readonly subject: string;
  readonly what: string;
  readonly number: number;
  readonly domId: number;
}

async function whoIn(recording: Recording, { file, subject, what, number, domId }: Question, options: WhoOptions): Promise<void> {
  const before = options.before === undefined ? recording.eventCount : Math.min(recording.eventCount, parsePosition(options.before, '--before').event);
  const mfn = subject === 'pfn' ? await frameBehind(file, number, domId, before, options) : undefined;
  const question = { subject: mfn === undefined ? (subject as Subject) : 'mfn', what: subject === 'path' ? what : (mfn ?? number), domId };
  const { last, count } = whoChanged(recording.events(0, before), question, Math.max(1, wholeNumber('--last', options.last)));
  const context = recording.textContext();
  const lines = last.map((event) => eventLine(event, context));
  const behind = mfn === undefined ? '' : `pfn ${what} of domain ${domId} is mfn 0x${mfn.toString(16)}; `;
  const verdict = `${behind}${count === 0 ? `no event before ${before} changed ${subject} ${what}` : `last changed by ${lines.at(-1)}`}`;
  process.stdout.write(options.json === true ? `${JSON.stringify({ file, subject, what, before, ...(mfn === undefined ? {} : { mfn }), count, verdict, events: lines })}\n` : `${[...lines, ...(count > last.length ? [`(${count - last.length} earlier ones are not listed)`] : []), verdict].join('\n')}\n`);
  reportTruncation(recording);
}

/** Addresses of 64-bit guests are signed numbers, as everywhere. */
function numberOf(subject: string, text: string): number {
  if (!/^0x[0-9a-fA-F]{1,16}$/.test(text)) return wholeNumber(subject, text);
  const number = Number(BigInt.asIntN(64, BigInt(text)));
  if (!Number.isSafeInteger(number)) throw new UsageError(`who ${subject} ${text}: this is no address that a processor takes`);
  return number;
}

async function frameBehind(file: string, pfn: number, domId: number, before: number, options: WhoOptions): Promise<number> {
  const timeline = await openTimeline(file, options);
  try {
    timeline.seek({ event: before });
    const mfn = mfnOfPfn(timeline, domId, pfn);
    if (mfn === undefined) throw new UsageError(`who pfn 0x${pfn.toString(16)}: domain ${domId} has no such frame at event ${before}`);
    return mfn;
  } finally {
    timeline.close();
  }
}

async function whoWrote(file: string, what: string, vaddr: number, domId: number, options: WhoOptions): Promise<void> {
  const map = mapOption(options.map);
  const before = options.before === undefined ? { insns: Infinity } : parsePosition(options.before, '--before');
  const timeline = await openTimeline(file, options);
  try {
    await sayWhoWrote(timeline, { file, subject: 'vaddr', what, number: vaddr, domId }, before, options, map);
  } finally {
    timeline.close();
  }
}

async function sayWhoWrote(timeline: Timeline, { file, what, number: vaddr, domId }: Question, before: Parameters<Timeline['seek']>[0], options: WhoOptions, map: ReturnType<typeof mapOption>): Promise<void> {
  if (timeline.checkpoints.length === 0) throw new UsageError(`${file}: its world has a guest written in TypeScript, which is run again from its start instead of being restored: its memory cannot be searched`);
  timeline.seek(before);
  const maddr = maddrOf(timeline, domId, vaddr);
  if (maddr === undefined) throw new UsageError(`who vaddr ${what}: domain ${domId} maps nothing there at event ${timeline.place().eventCount}`);
  const found = whoChangedWord(timeline, maddr - (maddr % 4), await recordedSymbols(timeline.recording, options.images, map));
  if (timeline.diverged) throw new UsageError(`${file}: this build of Rexen does not make the recording again as it was recorded, so it cannot have its states: ask the build that recorded it`);
  const lines = [...found.code.map((line) => `    ${line}`), ...found.events, `vaddr ${what} of domain ${domId} is maddr 0x${maddr.toString(16)}`, found.verdict];
  process.stdout.write(options.json === true ? `${JSON.stringify({ file, subject: 'vaddr', what, ...found })}\n` : `${lines.join('\n')}\n`);
}
