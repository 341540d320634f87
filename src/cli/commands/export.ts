// `rexen export`: what a recorded run left behind, as files of its own. A disk: the image with all that
// the guest wrote, as it stood at the end of the recording or at a position. The run is replayed, and
// verified, to get there; nothing is written if it is not what was recorded. The frames of a network
// interface: a capture file (export-pcap.ts). All events as a picture in time: a trace (export-trace.ts).
import { closeSync, ftruncateSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, extname } from 'node:path';
import type { Command } from 'commander';
import { assert, UsageError } from '../../base/assert.ts';
import type { Disk } from '../../dom0/disk.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { specOf } from '../../node/recorded-world.ts';
import { withRecordingFile } from '../../node/recording-files.ts';
import { refuseToOverwrite } from '../../node/output-file.ts';
import { parsePosition } from '../arguments.ts';
import type { EventsToFile } from '../events-to-file.ts';
import { exportPcap } from '../export-pcap.ts';
import { exportTrace } from '../export-trace.ts';
import { runReplay } from '../replay-run.ts';

interface ExportOptions {
  readonly disk?: string;
  /** Where to, or true: as `output` says. */
  readonly pcap?: string | true;
  readonly trace?: string | true;
  readonly vif?: string;
  readonly domain?: string;
  readonly output?: string;
  readonly until?: string;
  readonly images: readonly string[];
  readonly json?: boolean;
}

const PIECE_BYTES = 1024 * 1024;
const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

export function register(program: Command): void {
  program
    .command('export')
    .description('write a disk of a recorded run as an image file, the frames of a network interface as a capture file, or all events as a trace to look at')
    .argument('<file>', 'a recording')
    .option('--disk <vdev>', 'the disk, as the guest calls it: xvda')
    .option('--pcap [file]', 'write the frames that passed a network interface, for tcpdump or Wireshark; times are virtual')
    .option('--trace [file]', 'write what ran when, and every event, for ui.perfetto.dev or chrome://tracing; times are virtual')
    .option('--vif <name>', 'with --pcap: which interface, as d1:0 (default: the only one)')
    .option('--domain <name>', 'the domain (default: the first that has such a disk)')
    .option('-o, --output <file>', 'the file to write (default: DISK.img, or the recording\'s name with .pcap or .trace.json)')
    .option('--until <position>', 'as the disk stood at this event: 118, or 118:d1v0:4021')
    .option('--images <path>', 'a file or folder in which to look for images; may be given several times', collect, [])
    .option('--json', 'print one JSON object and nothing else')
    .action(execute);
}

async function execute(file: string, options: ExportOptions): Promise<void> {
  const vdev = options.disk;
  if ([vdev, options.pcap, options.trace].filter((asked) => asked !== undefined).length !== 1) throw new UsageError('say what to export: --disk xvda, --pcap or --trace');
  const output = outputOf(file, options);
  refuseToOverwrite(output, [file]);
  await loadHashes();
  if (vdev === undefined) return executeEvents(file, output, options);
  // Before the replay, which may take minutes.
  const domains = await withRecordingFile(file, (recording) => specOf(recording).domains.filter(({ name }) => options.domain === undefined || options.domain === name));
  if (!domains.some(({ disks = [] }) => disks.some((row) => row.vdev === vdev))) {
    const known = domains.flatMap(({ name, disks = [] }) => disks.map((row) => `${row.vdev} of ${name}`));
    throw new UsageError(`${file}: there is no disk ${vdev}${options.domain === undefined ? '' : ` of a domain ${options.domain}`}; the disks are: ${known.join(', ') || 'none'}`);
  }
  let disk: Disk | undefined;
  const result = await runReplay({
    file, images: options.images, until: options.until === undefined ? undefined : parsePosition(options.until), showConsole: false, progress: options.json !== true,
    atEnd: (world, spec) => {
      spec.domains.forEach((domain, index) => {
        if (options.domain === undefined || options.domain === domain.name) disk ??= world.disk(index + 1, vdev);
      });
    },
  });
  assert(disk !== undefined, () => `the world of ${file} has no disk ${vdev}`);
  if (result.outcome === 'diverged' || result.outcome === 'broken') throw new UsageError(`${file}: the replay is not what was recorded, so its disks are not either; \`rexen replay ${file}\` says where they part`);
  writeDisk(disk, output);
  const summary = { file: output, bytes: disk.sizeBytes, changedBlocks: disk.overlayBlocks, complete: result.outcome === 'exact' };
  process.stdout.write(options.json === true ? `${JSON.stringify(summary)}\n` : `${output}: ${disk.sizeBytes} bytes, ${disk.overlayBlocks} blocks of 4096 bytes written by the guest${summary.complete ? '' : `; the run ${result.outcome === 'stopped' ? 'was stopped where asked' : 'is cut short'}`}\n`);
}

function outputOf(file: string, { disk, pcap, trace, output }: ExportOptions): string {
  const named = pcap ?? trace;
  if (typeof named === 'string') {
    if (output !== undefined) throw new UsageError(`the file to write is named twice, ${named} and ${output}: leave one out`);
    return named;
  }
  const name = basename(file, extname(file));
  return output ?? (disk === undefined ? `${name}${pcap === undefined ? '.trace.json' : '.pcap'}` : `${disk}.img`);
}

async function executeEvents(file: string, output: string, options: ExportOptions): Promise<void> {
  const json = options.json === true;
  const shared: Omit<EventsToFile, 'output'> = { until: options.until === undefined ? undefined : parsePosition(options.until), images: options.images, progress: !json };
  const summary = options.pcap === undefined ? await exportTrace(file, { ...shared, output }) : await exportPcap(file, { ...shared, output, vif: options.vif });
  const what = 'frames' in summary ? `${summary.frames} frames of ${summary.interface}` : `${summary.events} events, for ui.perfetto.dev`;
  process.stdout.write(json ? `${JSON.stringify(summary)}\n` : `${summary.file}: ${what}, ${summary.bytes} bytes${summary.complete ? '' : '; not to the end of the run'}\n`);
  if (!summary.truncated) return;
  if (!json) process.stderr.write(`rexen: ${file}: the recording was cut short; what is whole of it was used\n`);
  process.exitCode = 2;
}

/** Runs of zeros become holes. The file appears under its name only when it is whole. */
function writeDisk(disk: Disk, output: string): void {
  const partial = `${output}.partial`;
  const fd = openSync(partial, 'w');
  try {
    ftruncateSync(fd, disk.sizeBytes);
    for (const { offset, bytes } of disk.pieces(PIECE_BYTES)) writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
    renameSync(partial, output);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
}
