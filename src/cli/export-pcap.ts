// `rexen export FILE --pcap OUT`: the frames that passed a network interface.
import { UsageError } from '../base/assert.ts';
import { specOf } from '../node/recorded-world.ts';
import { interfaceName, pcapHeader, pcapRecord, type Interface } from '../replay/pcap.ts';
import type { WorldSpec } from '../sim/spec.ts';
import { eventsToFile, type EventsToFile, type FileSummary } from './events-to-file.ts';

export interface PcapSummary extends FileSummary {
  readonly file: string;
  readonly interface: string;
  readonly frames: number;
}

export interface PcapExport extends EventsToFile {
  /** d1:0; without it the world must have one interface. */
  readonly vif: string | undefined;
}

export async function exportPcap(file: string, options: PcapExport): Promise<PcapSummary> {
  let frames = 0;
  let name = '';
  const summary = await eventsToFile(file, options, (recording) => {
    const wanted = chooseInterface(file, specOf(recording), options.vif);
    name = interfaceName(wanted);
    return {
      begin: pcapHeader(),
      of: ({ kind, domId, nowNs, values, bytes }) => {
        const record = pcapRecord(wanted, kind, domId, nowNs, values, bytes);
        if (record !== undefined) frames++;
        return record;
      },
      end: () => undefined,
    };
  });
  return { file: options.output, interface: name, frames, ...summary };
}

function chooseInterface(file: string, spec: WorldSpec, name: string | undefined): Interface {
  const all = spec.domains.flatMap((domain, index) => (domain.vifs ?? []).map((_vif, deviceId): Interface => ({ domId: index + 1, deviceId })));
  const names = all.map(interfaceName).join(', ');
  const found = name === undefined ? (all.length === 1 ? all[0] : undefined) : all.find((row) => interfaceName(row) === name);
  if (found !== undefined) return found;
  if (all.length === 0) throw new UsageError(`${file}: no domain of it has a network interface`);
  throw new UsageError(name === undefined ? `${file}: say which interface, with --vif; its interfaces are: ${names}` : `${file}: there is no interface ${name}; its interfaces are: ${names}`);
}
