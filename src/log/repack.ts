// A recording rewritten: other compression, images embedded; the same events, the same digest.
import { assert } from '../base/assert.ts';
import { bytesToHex, sameBytes } from '../base/hash.ts';
import type { Codec, Compression } from './codec.ts';
import type { RunEnd } from './packets.ts';
import type { Recording } from './reader.ts';
import { RecordingWriter, type ByteSink, type RecordingTotals } from './writer.ts';

export interface RepackOptions {
  readonly compression: Compression;
  readonly codec?: Codec;
  /** Images to embed, by the index of their row in the header. */
  readonly images: ReadonlyMap<number, Uint8Array>;
}

/** `recording` must not be truncated, or its rewrite would look whole. */
export function repack(recording: Recording, sink: ByteSink, options: RepackOptions): RecordingTotals {
  const { trailer } = recording;
  assert(trailer !== undefined, `${recording.source.name} is truncated`);
  const writer = new RecordingWriter(sink, {
    world: recording.world,
    worldBytes: recording.worldBytes,
    info: recording.info,
    engineRevision: recording.engineRevision,
    eventVocabulary: recording.eventVocabulary,
    compression: options.compression,
    small: true,
    ...(options.codec === undefined ? {} : { codec: options.codec }),
  });
  const written = new Set<string>();
  recording.world.images.forEach((ref, index) => {
    const bytes = options.images.get(index) ?? recording.image(ref);
    const hash = bytesToHex(ref.blake3);
    if (bytes === undefined || written.has(hash)) return;
    written.add(hash);
    writer.image(ref.blake3, bytes);
  });
  let nextDigest = 0;
  recording.chunks.forEach((chunk, index) => {
    const end = chunk.firstEvent + chunk.eventCount;
    for (; nextDigest < recording.stateDigests.length; nextDigest++) {
      const digest = recording.stateDigests[nextDigest];
      if (digest === undefined || digest.atEvent > end) break;
      writer.stateDigest(digest);
    }
    const vcpus = chunk.vcpus.map(({ domain, vcpu, retired }) => ({ domId: domain, vcpuId: vcpu, retired }));
    writer.chunk({ firstEvent: chunk.firstEvent, eventCount: chunk.eventCount, nowNs: chunk.nowNs, vcpus, landmarks: chunk.landmarks, bytes: recording.chunkBytes(index) });
  });
  for (const digest of recording.stateDigests.slice(nextDigest)) writer.stateDigest(digest);
  const end: RunEnd = { instructions: trailer.instructions, virtualTimeNs: trailer.virtualTimeNs, outcome: trailer.outcome, outcomeText: trailer.outcomeText };
  const totals = writer.finish(end);
  assert(sameBytes(totals.digest, trailer.digest), `rewriting ${recording.source.name} changed its digest`);
  return totals;
}
