// Recordings on disk. One recording is one file, or FILE, FILE.001, FILE.002, ... once it has grown
// past a gibibyte (a protobuf message ends at two); read in a row they are the recording.
import { closeSync, existsSync, fstatSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { packetSizeFromTail, openPacket, TAIL_BYTES } from '../log/packets.ts';
import { openRecording, type ByteSource, type Recording } from '../log/reader.ts';
import type { ByteSink } from '../log/writer.ts';
import { assert, UsageError } from '../base/assert.ts';
import { loadHashes } from './load-hashes.ts';
import { zlibCodec } from './zlib-codec.ts';

export const SEGMENT_BYTES = 1 << 30;
export const segmentPath = (path: string, number: number): string => (number === 0 ? path : `${path}.${String(number).padStart(3, '0')}`);

/** Names the file in an error that Node raised for its descriptor. */
function named<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Error && 'code' in error && !('path' in error)) Object.assign(error, { path });
    throw error;
  }
}

/** Writes whole packets, unbuffered: what was handed over survives the death of this process. */
export class FileSink implements ByteSink {
  readonly path: string;
  readonly #segmentBytes: number;
  #fd: number;
  #segment = 0;
  #size = 0;

  /**
   * Replaces the file, and the further segments of an older recording of that name; with `resume`
   * appends to what another sink has written and closed.
   */
  constructor(path: string, segmentBytes = SEGMENT_BYTES, resume?: SinkState) {
    this.path = path;
    this.#segmentBytes = segmentBytes;
    if (resume !== undefined) {
      this.#segment = resume.segment;
      this.#size = resume.size;
      this.#fd = openSync(segmentPath(path, resume.segment), 'a');
      return;
    }
    this.#fd = openSync(path, 'w');
    for (let number = 1; existsSync(segmentPath(path, number)); number++) rmSync(segmentPath(path, number));
  }

  write(packet: Uint8Array): void {
    named(segmentPath(this.path, this.#segment), () => {
      for (let at = 0; at < packet.length; ) at += writeSync(this.#fd, packet, at);
    });
    this.#size += packet.length;
  }

  nextSegment(): number | undefined {
    if (this.#size < this.#segmentBytes) return undefined;
    closeSync(this.#fd);
    this.#segment++;
    this.#size = 0;
    this.#fd = openSync(segmentPath(this.path, this.#segment), 'w');
    return this.#segment;
  }

  /** Closes the file, and gives what another sink needs to append to it. */
  close(): SinkState {
    closeSync(this.#fd);
    return { segment: this.#segment, size: this.#size };
  }
}

/** Which file is being written, and how much is in it. */
export interface SinkState {
  readonly segment: number;
  readonly size: number;
}

interface OpenFile {
  readonly fd: number;
  readonly from: number;
  sizeBytes: number;
}

function readAt(file: OpenFile, path: string, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(0, Math.min(length, file.sizeBytes - offset)));
  let at = 0;
  named(path, () => {
    while (at < bytes.length) {
      const got = readSync(file.fd, bytes, at, bytes.length - at, offset + at);
      if (got === 0) break;
      at += got;
    }
  });
  return at === bytes.length ? bytes : bytes.subarray(0, at);
}

/** A file that ends in a trailer is the recording's last. */
function isLast(file: OpenFile, path: string): boolean {
  const size = packetSizeFromTail(readAt(file, path, Math.max(0, file.sizeBytes - TAIL_BYTES), TAIL_BYTES));
  return size > 0 && size <= file.sizeBytes && openPacket(readAt(file, path, file.sizeBytes - size, size))?.body === 'trailer';
}

const closeAll = (files: OpenFile[]): void => files.splice(0).forEach(({ fd }) => closeSync(fd));

function openSegments(path: string): OpenFile[] {
  const files: OpenFile[] = [];
  let isWhole = false;
  try {
    for (let number = 0; number === 0 || existsSync(segmentPath(path, number)); number++) {
      const name = segmentPath(path, number);
      // Before it is opened: a pipe is not open until somebody writes into it.
      if (!statSync(name).isFile()) throw new UsageError(`${name}: is not a regular file; give a recording made by "rexen record"`);
      const before = files.at(-1);
      const file: OpenFile = { fd: openSync(name, 'r'), from: before === undefined ? 0 : before.from + before.sizeBytes, sizeBytes: 0 };
      files.push(file);
      file.sizeBytes = fstatSync(file.fd).size;
      if (isLast(file, name)) break;
    }
    isWhole = true;
    return files;
  } finally {
    if (!isWhole) closeAll(files);
  }
}

/** The bytes of a recording in all its files, which stay open until close(). Node's own errors (no such file) come through. */
export function fileSource(path: string): ByteSource & { close(): void } {
  const files = openSegments(path);
  const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  return {
    name: path,
    sizeBytes,
    read: (offset, length) => {
      assert(files.length > 0, () => `${path} is read after it was closed`);
      const number = files.findIndex((file) => offset < file.from + file.sizeBytes);
      const file = files[number];
      if (file === undefined) return new Uint8Array(0);
      const bytes = readAt(file, segmentPath(path, number), offset - file.from, length);
      const rest = Math.min(length, sizeBytes - offset) - bytes.length;
      if (rest <= 0 || bytes.length < file.sizeBytes - (offset - file.from)) return bytes;
      const joined = new Uint8Array(bytes.length + rest);
      joined.set(bytes);
      const more = readAt(files[number + 1] as OpenFile, segmentPath(path, number + 1), 0, rest);
      joined.set(more, bytes.length);
      return joined.subarray(0, bytes.length + more.length);
    },
    close: () => closeAll(files),
  };
}

/** Opens and checks a recording on disk; its files stay open until close(). Throws RecordingError. */
export async function openRecordingFile(path: string): Promise<Recording> {
  await loadHashes();
  const source = fileSource(path);
  let recording: Recording | undefined;
  try {
    recording = openRecording(source, { codec: zlibCodec() });
    return recording;
  } finally {
    if (recording === undefined) source.close();
  }
}

/** Opens and checks a recording, and closes it after the work. Throws RecordingError. */
export async function withRecordingFile<T>(path: string, work: (recording: Recording) => T | Promise<T>): Promise<T> {
  const recording = await openRecordingFile(path);
  try {
    return await work(recording);
  } finally {
    recording.close();
  }
}
