// `rexen dump`: the events of a recording, one line or one JSON object each, streamed.
import type { Command } from 'commander';
import { EVENT, EVENT_ROWS, eventRow, type EventRow } from '../../abi/events.ts';
import { UsageError } from '../../base/assert.ts';
import { bytesToHex } from '../../base/hash.ts';
import { eventJson } from '../../log/event-decoder.ts';
import { eventLine, eventText, hypercallView, type TextContext } from '../../log/event-text.ts';
import { positionText, type PositionedEvent, type Recording } from '../../log/reader.ts';
import { withRecordingFile } from '../../node/recording-files.ts';
import { reportTruncation, wholeNumber, writeOut } from '../recording-argument.ts';

interface DumpOptions {
  readonly kind?: readonly string[];
  readonly from?: string;
  readonly to?: string;
  readonly domain?: string;
  readonly json?: boolean;
}

const collect = (value: string, earlier: readonly string[] | undefined): readonly string[] => [...(earlier ?? []), ...value.split(',')];
/** Text is gathered up to this length before it is written. */
const BATCH_CHARACTERS = 1 << 16;

export function register(program: Command): void {
  program
    .command('dump')
    .description('print the events of a recording')
    .argument('<file>', 'a recording')
    .option('--kind <names>', 'only these kinds of events, such as hypercall or evtchnSend (comma-separated, or given several times)', collect)
    .option('--from <n>', 'first event, by its index')
    .option('--to <n>', 'last event, inclusive')
    .option('--domain <n>', 'only events of this domain')
    .option('--json', 'print one JSON object; "events" holds each event as protobuf\'s JSON form of the message Event, and its decoded view')
    .action((file: string, options: DumpOptions) => withRecordingFile(file, (recording) => dump(file, recording, options)));
}

async function dump(file: string, recording: Recording, options: DumpOptions): Promise<void> {
  const kinds = options.kind === undefined ? undefined : new Set(options.kind.map(kindNumber));
  const domain = options.domain === undefined ? undefined : wholeNumber('--domain', options.domain);
  const from = options.from === undefined ? 0 : wholeNumber('--from', options.from);
  const to = options.to === undefined ? recording.eventCount : Math.min(recording.eventCount, wholeNumber('--to', options.to) + 1);
  if (from > recording.eventCount) throw new UsageError(`--from ${options.from}: the recording has ${recording.eventCount} events`);
  if (options.to !== undefined && to <= from && from < recording.eventCount) throw new UsageError(`--to ${options.to}: this is before --from ${from}`);
  const context = recording.textContext();
  const json = options.json === true;
  if (json) await writeOut(`${JSON.stringify(head(file, recording)).slice(0, -1)},"events":[`);
  let batch = '';
  let separator = '\n';
  for (const event of recording.events(from, to)) {
    if ((kinds !== undefined && !kinds.has(event.kind)) || (domain !== undefined && event.domId !== domain)) continue;
    batch += json ? `${separator}${JSON.stringify(dumpedEvent(event, context))}` : `${eventLine(event, context)}\n`;
    separator = ',\n';
    if (batch.length >= BATCH_CHARACTERS) {
      await writeOut(batch);
      batch = '';
    }
  }
  await writeOut(json ? `${batch}\n]}\n` : batch);
  reportTruncation(recording);
}

function head(file: string, recording: Recording) {
  return { file, scenario: recording.world.scenario, seed: recording.world.seed, outcome: recording.trailer?.outcome ?? 'truncated', truncated: recording.truncated, digest: bytesToHex(recording.digest) };
}

/** `event` is what protoc shows; the rest is computed from it and from the events before. */
function dumpedEvent(event: PositionedEvent, context: TextContext) {
  const isHypercall = event.kind === EVENT.hypercall || event.kind === EVENT.multicallEntry;
  return {
    index: event.index,
    position: positionText(event),
    kind: eventRow(event.kind)?.name,
    role: eventRow(event.kind)?.role,
    domain: event.domId,
    vcpu: event.vcpuId,
    retired: event.retired,
    nowNs: event.nowNs,
    event: eventJson(event),
    ...(isHypercall ? { call: hypercallView(event, context) } : {}),
    text: eventText(event, context),
  };
}

function kindNumber(name: string): number {
  const rows: readonly EventRow[] = EVENT_ROWS;
  const row = rows.find((candidate) => candidate.name.toLowerCase() === name.replaceAll('_', '').toLowerCase());
  if (row === undefined) throw new UsageError(`--kind ${name}: there is no such kind of event; the kinds are ${rows.map((candidate) => candidate.name).join(', ')}`);
  return row.kind;
}
