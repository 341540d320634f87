// The file of checkpoints beside a recording.
import { closeSync, existsSync, fstatSync, openSync, readSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import type { ByteSource, Recording } from '../log/reader.ts';
import { CheckpointWriter, readCheckpoints, type LoadedCheckpoints } from '../replay/checkpoint-file.ts';
import { zlibCodec } from './zlib-codec.ts';

export const checkpointPath = (recording: string): string => `${recording.replace(/\.rxr$/, '')}.rxc`;

/** Their file stays open for contents that are wanted later, until close(). */
export interface FoundCheckpoints extends LoadedCheckpoints {
  close(): void;
}

/** Undefined: there is none. Problems are whole sentences. */
export function findCheckpoints(path: string, recording: Recording): FoundCheckpoints | { readonly problem: string } | undefined {
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
  if (!('problem' in found)) return { into: (store) => found.into(store), close: () => closeSync(fd) };
  closeSync(fd);
  return { problem: `${file} ${found.problem}: it is ignored; "rexen checkpoint" makes it anew` };
}

export interface CheckpointFile {
  readonly writer: CheckpointWriter;
  /** The file is there from now on. */
  finish(digest: Uint8Array): { readonly file: string; readonly bytes: number };
  /** Nothing is left of it. */
  abandon(): void;
}

/** A file that is written piece by piece under another name, and gets its own when it is whole. */
export function createCheckpointFile(recording: string): CheckpointFile {
  const file = checkpointPath(recording);
  const partial = `${file}.${process.pid}.partial`;
  const fd = openSync(partial, 'w');
  let isOpen = true;
  const close = (): void => {
    if (isOpen) closeSync(fd);
    isOpen = false;
  };
  const writer = new CheckpointWriter((piece) => {
    for (let done = 0; done < piece.length; ) done += writeSync(fd, piece, done);
  }, zlibCodec());
  return {
    writer,
    finish: (digest) => {
      writer.finish(digest);
      close();
      renameSync(partial, file);
      return { file, bytes: writer.sizeBytes };
    },
    abandon: () => {
      if (!isOpen) return;
      close();
      unlinkSync(partial);
    },
  };
}
