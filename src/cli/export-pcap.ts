// `rexen export FILE --pcap OUT`: the frames that passed a network interface. A full recording has
// them; one of inputs alone is replayed, and its frames are those of the replay.
import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { UsageError } from '../base/assert.ts';
import { specOf } from '../node/recorded-world.ts';
import { openRecordingFile } from '../node/recording-files.ts';
import { interfaceName, pcapHeader, pcapRecord, type Interface } from '../replay/pcap.ts';
import { logModeOf } from '../replay/whole-digest.ts';
import type { EventSink } from '../sim/world.ts';
import type { WorldSpec } from '../sim/spec.ts';
import type { PositionArgument } from './arguments.ts';
import { runReplay } from './replay-run.ts';

export interface PcapExport {
  readonly output: string;
  /** d1:0; without it the world must have one interface. */
  readonly vif: string | undefined;
  readonly until: PositionArgument | undefined;
  readonly images: readonly string[];
  readonly progress: boolean;
}

export interface PcapSummary {
  readonly file: string;
  readonly interface: string;
  readonly frames: number;
  readonly bytes: number;
  /** The recording has an end, and we came to it. */
  readonly complete: boolean;
}

export async function exportPcap(file: string, options: PcapExport): Promise<PcapSummary> {
  const recording = await openRecordingFile(file);
  const isFull = logModeOf(recording.world) === 'all';
  if (isFull && options.until !== undefined && options.until.event > recording.eventCount) throw new UsageError(`--until ${options.until.event}: the recording has ${recording.eventCount} events`);
  const wanted = chooseInterface(file, specOf(recording), options.vif);
  const partial = `${options.output}.partial`;
  const fd = openSync(partial, 'w');
  const written = { frames: 0, bytes: 0 };
  const write = (bytes: Uint8Array): void => void (written.bytes += writeSync(fd, bytes));
  const take: EventSink['event'] = (kind, domId, _vcpuId, _retired, nowNs, values, bytes) => {
    const record = pcapRecord(wanted, kind, domId, nowNs, values, bytes);
    if (record === undefined) return;
    written.frames++;
    write(record);
  };
  let complete = !recording.truncated && options.until === undefined;
  try {
    write(pcapHeader());
    if (!isFull) {
      const result = await runReplay({ file, images: options.images, until: options.until, showConsole: false, progress: options.progress, onEvent: take });
      if (result.outcome === 'diverged' || result.outcome === 'broken') throw new UsageError(`${file}: the replay is not what was recorded, so its frames are not either; \`rexen replay ${file}\` says where they part`);
      complete = result.outcome === 'exact';
    } else for (const event of recording.events(0, Math.min(recording.eventCount, options.until?.event ?? Infinity))) take(event.kind, event.domId, event.vcpuId, event.retired, event.nowNs, event.values, event.bytes);
    closeSync(fd);
    renameSync(partial, options.output);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
  return { file: options.output, interface: interfaceName(wanted), ...written, complete };
}

function chooseInterface(file: string, spec: WorldSpec, name: string | undefined): Interface {
  const all = spec.domains.flatMap((domain, index) => (domain.vifs ?? []).map((_vif, deviceId): Interface => ({ domId: index + 1, deviceId })));
  const names = all.map(interfaceName).join(', ') || 'none';
  const found = name === undefined ? (all.length === 1 ? all[0] : undefined) : all.find((row) => interfaceName(row) === name);
  if (found !== undefined) return found;
  throw new UsageError(name === undefined && all.length > 1 ? `${file}: say which interface, with --vif; its interfaces are: ${names}` : `${file}: there is no interface${name === undefined ? '' : ` ${name}`}; its interfaces are: ${names}`);
}
