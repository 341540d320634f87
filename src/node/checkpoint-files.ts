// The file of checkpoints beside a recording.
import { closeSync, existsSync, fstatSync, openSync, readSync, renameSync, writeSync } from 'node:fs';
import type { ByteSource, Recording } from '../log/reader.ts';
import { readCheckpoints, writeCheckpoints, type LoadedCheckpoints } from '../replay/checkpoint-file.ts';
import type { MemoryStore } from '../sim/content-store.ts';
import type { Snapshot } from '../sim/snapshot.ts';
import { zlibCodec } from './zlib-codec.ts';

export const checkpointPath = (recording: string): string => `${recording.replace(/\.rxr$/, '')}.rxc`;

/** Undefined: there is none. Problems are whole sentences. */
export function findCheckpoints(path: string, recording: Recording): LoadedCheckpoints | { readonly problem: string } | undefined {
  const file = checkpointPath(path);
  if (!existsSync(file)) return undefined;
  const fd = openSync(file, 'r');
  const { size } = fstatSync(fd);
  const source: ByteSource = {
    name: file,
    sizeBytes: size,
    read: (offset, length) => {
      const bytes = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
      const got = readSync(fd, bytes, 0, bytes.length, offset);
      return got === bytes.length ? bytes : bytes.subarray(0, got);
    },
  };
  const found = readCheckpoints(source, recording, zlibCodec());
  // The file stays open for contents that are wanted later; the process's end closes it.
  if (!('problem' in found)) return found;
  closeSync(fd);
  return { problem: `${file} ${found.problem}: it is ignored; "rexen checkpoint" makes it anew` };
}

/** Writes the file whole or not at all; returns its size. */
export function saveCheckpoints(path: string, digest: Uint8Array, store: MemoryStore, snapshots: readonly Snapshot[]): { readonly file: string; readonly bytes: number } {
  const file = checkpointPath(path);
  const partial = `${file}.${process.pid}.partial`;
  const fd = openSync(partial, 'w');
  let bytes = 0;
  try {
    writeCheckpoints((piece) => {
      bytes += piece.length;
      for (let done = 0; done < piece.length; ) done += writeSync(fd, piece, done);
    }, digest, store, snapshots, zlibCodec());
  } finally {
    closeSync(fd);
  }
  renameSync(partial, file);
  return { file, bytes };
}
