// A disk of a domain: the image that the host has, which is never changed, and over it everything that
// the guest has written. The disk outlives back ends: it is there again after unplugging.
import { blake3, bytesToHex } from '../base/hash.ts';
import type { ImageReader } from './ports.ts';

const BLOCK_BYTES = 4096;
/** One block of zeros for all: discarded ranges cost nothing. Never written to. */
const ZEROS = new Uint8Array(BLOCK_BYTES);

const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);

export class Disk {
  readonly #image: ImageReader;
  readonly #overlay = new Map<number, Uint8Array>();
  /** Hashes of overlay blocks, for digests; those of `#dirty` are out of date. */
  readonly #hashes = new Map<number, string>();
  readonly #dirty = new Set<number>();

  constructor(image: ImageReader) {
    this.#image = image;
  }

  get sizeBytes(): number {
    return this.#image.sizeBytes;
  }
  /** Blocks that differ, or may differ, from the image. */
  get overlayBlocks(): number {
    return this.#overlay.size;
  }

  /** A copy; zeros past the end of the image. */
  read(offset: number, sizeBytes: number): Uint8Array {
    const bytes = new Uint8Array(sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const within = (offset + done) % BLOCK_BYTES;
      const index = (offset + done - within) / BLOCK_BYTES;
      const own = this.#overlay.get(index);
      const chunk = own === undefined ? this.#imageRun(index, within, sizeBytes - done) : Math.min(sizeBytes - done, BLOCK_BYTES - within);
      bytes.set(own === undefined ? this.#image.read(offset + done, chunk) : own.subarray(within, within + chunk), done);
      done += chunk;
    }
    return bytes;
  }

  /** Bytes from there on that the image alone decides: one read of the host's file instead of many. */
  #imageRun(index: number, within: number, most: number): number {
    let run = BLOCK_BYTES - within;
    for (let next = index + 1; run < most && !this.#overlay.has(next); next++) run += BLOCK_BYTES;
    return Math.min(run, most);
  }

  write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const within = (offset + done) % BLOCK_BYTES;
      const chunk = Math.min(bytes.length - done, BLOCK_BYTES - within);
      this.#change((offset + done - within) / BLOCK_BYTES, within, bytes.subarray(done, done + chunk));
      done += chunk;
    }
  }

  /** Discarded bytes read as zeros. */
  discard(offset: number, sizeBytes: number): void {
    for (let done = 0; done < sizeBytes; ) {
      const within = (offset + done) % BLOCK_BYTES;
      const chunk = Math.min(sizeBytes - done, BLOCK_BYTES - within);
      this.#change((offset + done - within) / BLOCK_BYTES, within, ZEROS.subarray(0, chunk));
      done += chunk;
    }
  }

  #change(index: number, within: number, part: Uint8Array): void {
    const whole = part.length === BLOCK_BYTES;
    const block = new Uint8Array(BLOCK_BYTES);
    if (!whole) block.set(this.read(index * BLOCK_BYTES, BLOCK_BYTES));
    block.set(part, within);
    this.#overlay.set(index, whole && isZero(part) ? ZEROS : block);
    this.#dirty.add(index);
  }

  /** All of it, piece by piece, without what is known to be zeros: for writing the disk out. */
  *pieces(pieceBytes: number): Generator<{ readonly offset: number; readonly bytes: Uint8Array }> {
    if (this.#image.blank === true) {
      yield* this.changedBlocks();
      return;
    }
    for (let offset = 0; offset < this.sizeBytes; offset += pieceBytes) {
      const bytes = this.read(offset, Math.min(pieceBytes, this.sizeBytes - offset));
      if (!isZero(bytes)) yield { offset, bytes };
    }
  }

  /** Blocks of the overlay in ascending order. */
  *changedBlocks(): Generator<{ readonly offset: number; readonly bytes: Uint8Array }> {
    for (const index of this.#indices()) {
      const offset = index * BLOCK_BYTES;
      yield { offset, bytes: (this.#overlay.get(index) as Uint8Array).subarray(0, Math.max(0, Math.min(BLOCK_BYTES, this.sizeBytes - offset))) };
    }
  }
  #indices(): number[] {
    return [...this.#overlay.keys()].sort((a, b) => a - b);
  }

  /** Stands for the whole overlay: equal if and only if the contents are. */
  digest(): string {
    for (const index of this.#dirty) this.#hashes.set(index, bytesToHex(blake3(this.#overlay.get(index) as Uint8Array)));
    this.#dirty.clear();
    const rows = this.#indices().map((index) => `${index} ${this.#hashes.get(index) as string}\n`);
    return bytesToHex(blake3(new TextEncoder().encode(rows.join(''))));
  }

  /** The blocks themselves: a block of the overlay is exchanged, never changed. */
  save(): unknown {
    return this.#indices().map((index) => [index, this.#overlay.get(index)]);
  }
  restore(state: unknown): void {
    this.#overlay.clear();
    this.#hashes.clear();
    this.#dirty.clear();
    for (const [index, block] of state as [number, Uint8Array][]) {
      this.#overlay.set(index, block);
      this.#dirty.add(index);
    }
  }
}

/** Nothing but zeros. */
export const blankImage = (sizeBytes: number): ImageReader => ({ sizeBytes, blank: true, read: (_offset, wanted) => new Uint8Array(wanted) });

/** An image that is in memory. */
export const bytesImage = (bytes: Uint8Array): ImageReader => ({ sizeBytes: bytes.length, read: (offset, wanted) => bytes.slice(Math.min(offset, bytes.length), Math.min(offset + wanted, bytes.length)) });
