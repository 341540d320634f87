// Content hashes: BLAKE3, 256 bits, everywhere (images, events, states). The code is WebAssembly
// from the package hash-wasm, whose set-up is asynchronous; since the core rooms know no promises,
// the host loads it once (node/load-hashes.ts) and installs it here before anything is hashed.
import { assert } from './assert.ts';

export const DIGEST_BYTES = 32;

/** A running hash. `snapshot` gives the digest so far without ending it. */
export interface RunningHash {
  update(bytes: Uint8Array): void;
  snapshot(): Uint8Array;
  /** Bytes from which `runningHash` goes on, in another thread too; not a format to keep. */
  save(): Uint8Array;
}

/** What a host has to provide. */
export interface HashProvider {
  blake3(bytes: Uint8Array): Uint8Array;
  running(saved?: Uint8Array): RunningHash;
}

let provider: HashProvider | undefined;
export function installHashes(hashes: HashProvider): void {
  provider = hashes;
}
function installed(): HashProvider {
  assert(provider !== undefined, 'hashes are used before loadHashes() has finished');
  return provider;
}

/** BLAKE3 of one byte string, 32 bytes. */
export const blake3 = (bytes: Uint8Array): Uint8Array => installed().blake3(bytes);
export const runningHash = (saved?: Uint8Array): RunningHash => installed().running(saved);

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));
export function bytesToHex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += HEX[byte] as string;
  return text;
}
/** Of pairs of hexadecimal digits. */
export const hexToBytes = (hex: string): Uint8Array => Uint8Array.from({ length: hex.length / 2 }, (_, at) => Number.parseInt(hex.slice(2 * at, 2 * at + 2), 16));
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
