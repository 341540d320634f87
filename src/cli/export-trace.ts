// `rexen export FILE --trace OUT`: the recording as a picture in time (log/trace-view.ts).
import { TraceView } from '../log/trace-view.ts';
import { specOf } from '../node/recorded-world.ts';
import { eventsToFile, type EventsToFile, type FileSummary } from './events-to-file.ts';

export interface TraceSummary extends FileSummary {
  readonly file: string;
  readonly events: number;
}

export async function exportTrace(file: string, options: EventsToFile): Promise<TraceSummary> {
  const encoder = new TextEncoder();
  let [events, separator] = [0, '\n'];
  const rows = (of: Iterable<string>): Uint8Array => {
    let text = '';
    for (const row of of) {
      text += separator + row;
      separator = ',\n';
    }
    return encoder.encode(text);
  };
  const summary = await eventsToFile(file, options, (recording) => {
    const view = new TraceView(recording.world, specOf(recording).domains.map((domain) => domain.name));
    return {
      begin: encoder.encode('{"displayTimeUnit":"ns","traceEvents":['),
      of: (event) => (events++, rows(view.rowsOf(event))),
      end: () => encoder.encode(`${new TextDecoder().decode(rows(view.end()))}\n]}\n`),
    };
  });
  return { file: options.output, events, ...summary };
}
