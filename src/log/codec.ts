// Compression as a port: raw DEFLATE (RFC 1951), by fflate where nothing better is given. Digests
// never cover compressed bytes, so which library and which level wrote them does not matter.
import { deflateSync, inflateSync } from 'fflate';

export interface Codec {
  /** `small`: worth some time. Otherwise a guest waits for it. */
  deflate(bytes: Uint8Array, small: boolean): Uint8Array;
  /** Exactly `rawBytes` bytes, or undefined if the input is damaged or yields another size. */
  inflate(bytes: Uint8Array, rawBytes: number): Uint8Array | undefined;
}

export type Compression = 'none' | 'deflate';

export const fflateCodec: Codec = {
  deflate: (bytes, small) => deflateSync(bytes, { level: small ? 9 : 4 }),
  inflate: (bytes, rawBytes) => {
    try {
      // A given output stops the expansion of a crafted file; one byte more than promised tells
      // whether there was more.
      const out = inflateSync(bytes, { out: new Uint8Array(rawBytes + 1) });
      return out.length === rawBytes ? out : undefined;
    } catch (error) {
      // fflate's own errors are plain Errors with a numeric code; anything else is not about the data.
      if (error instanceof Error && 'code' in error) return undefined;
      throw error;
    }
  },
};
