// `rexen info`: what a recording holds, after checking every byte of it.
import type { Command } from 'commander';
import { ENGINE_REVISION } from '../../abi/revision.ts';
import { bytesToHex } from '../../base/hash.ts';
import type { Recording } from '../../log/reader.ts';
import { withRecordingFile } from '../../node/recording-files.ts';
import { reportTruncation } from '../recording-argument.ts';

export function register(program: Command): void {
  program
    .command('info')
    .description('show what a recording holds, and check it')
    .argument('<file>', 'a recording')
    .option('--json', 'print one JSON object and nothing else')
    .action((file: string, options: { json?: boolean }) => withRecordingFile(file, (recording) => {
      recording.verify();
      const facts = describe(file, recording);
      process.stdout.write(options.json === true ? `${JSON.stringify(facts, null, 2)}\n` : `${lines(facts).join('\n')}\n`);
      reportTruncation(recording);
    }));
}

/** Which recording this one is a branch of, by its digest, as `info` shows it there. */
function parentOf({ world }: Recording): { readonly digest: string; readonly events: number } | null {
  if (world.parentDigest === undefined || world.parentDigest.length === 0) return null;
  return { digest: bytesToHex(world.parentDigest), events: world.parentEvents ?? 0 };
}

function describe(file: string, recording: Recording) {
  const { world, trailer } = recording;
  const rawBytes = recording.chunks.reduce((sum, chunk) => sum + chunk.rawBytes, 0);
  const compressed = recording.chunks.some((chunk) => chunk.compressed);
  const byKind = [...recording.countByKind()].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const last = recording.eventCount === 0 ? undefined : recording.eventAt(recording.eventCount - 1);
  return {
    file,
    outcome: trailer?.outcome ?? 'truncated',
    outcomeText: trailer?.outcomeText ?? 'the recording was cut short',
    truncated: recording.truncated,
    scenario: world.scenario,
    seed: world.seed,
    parent: parentOf(recording),
    options: Object.fromEntries(world.options.map(({ name, value }) => [name, value])),
    images: world.images.map((image) => ({ name: image.name, sizeBytes: image.sizeBytes, blake3: bytesToHex(image.blake3), embedded: recording.embeds(image) })),
    nsPerInsn: world.nsPerInsnNumerator / world.nsPerInsnDenominator,
    events: recording.eventCount,
    instructions: trailer?.instructions ?? null,
    virtualTimeNs: trailer?.virtualTimeNs ?? last?.nowNs ?? 0,
    bytes: recording.source.sizeBytes,
    eventBytes: recording.chunks.reduce((sum, chunk) => sum + chunk.payloadBytes, 0),
    rawBytes,
    bytesPerEvent: recording.eventCount === 0 ? null : Number((recording.source.sizeBytes / recording.eventCount).toFixed(3)),
    compression: compressed ? 'deflate' : 'none',
    chunks: recording.chunks.length,
    stateDigests: recording.stateDigests.length,
    digest: bytesToHex(recording.digest),
    formatVersion: recording.formatVersion,
    engineRevision: recording.engineRevision,
    sameEngine: recording.engineRevision === ENGINE_REVISION,
    info: Object.fromEntries(recording.info.map(({ name, value }) => [name, value])),
    eventsByKind: Object.fromEntries(byKind),
  };
}

const thousands = (value: number): string => value.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ',');

function lines(facts: ReturnType<typeof describe>): string[] {
  const rows: (readonly [string, string])[] = [
    ['scenario', `${facts.scenario}, seed ${facts.seed}`],
    ...(facts.parent === null ? [] : [['parent', `${facts.parent.digest}, left after ${thousands(facts.parent.events)} events`] as const]),
    ...Object.entries(facts.options).map(([name, value]) => ['option', `${name}=${value}`] as const),
    ...facts.images.map((image) => ['image', `${image.name}, ${thousands(image.sizeBytes)} bytes, blake3 ${image.blake3.slice(0, 16)}, ${image.embedded ? 'embedded' : 'not embedded'}`] as const),
    ['outcome', `${facts.outcome}: ${facts.outcomeText}`],
    ['events', `${thousands(facts.events)} in ${thousands(facts.chunks)} chunks, ${thousands(facts.stateDigests)} state digests`],
    ['instructions', facts.instructions === null ? 'unknown' : thousands(facts.instructions)],
    ['virtual time', `${thousands(facts.virtualTimeNs)} ns`],
    ['size', `${thousands(facts.bytes)} bytes${facts.bytesPerEvent === null ? '' : `, ${facts.bytesPerEvent} an event`} (${thousands(facts.rawBytes)} before compression)`],
    ['digest', facts.digest],
    ['format', `${facts.formatVersion}, engine revision ${facts.engineRevision}${facts.sameEngine ? '' : ` (this is ${ENGINE_REVISION})`}`],
    ...Object.entries(facts.info),
    ...Object.entries(facts.eventsByKind).map(([kind, count], index) => [index === 0 ? 'by kind' : '', `${thousands(count).padStart(12)} ${kind}`] as const),
  ];
  return rows.map(([name, value]) => `${name.padEnd(14)} ${value}`);
}
