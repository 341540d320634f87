// Protobuf's variable-length integers on plain byte arrays, for 64-bit values held as two 32-bit
// halves: no bigint and no Long on the hot path. All writers return the position after the last
// byte; the caller has made room (MAX_VARINT_BYTES each).
//
// Not checked: room in the buffer. Readers report a varint that does not end by position -1.

export const MAX_VARINT_BYTES = 10;
const TWO32 = 0x1_0000_0000;

/** Writes 0 <= value < 2^32. */
export function writeVarint32(buffer: Uint8Array, at: number, value: number): number {
  let rest = value >>> 0;
  while (rest > 127) {
    buffer[at++] = (rest & 127) | 128;
    rest >>>= 7;
  }
  buffer[at++] = rest;
  return at;
}

/** Writes an unsigned 64-bit value given as halves. */
export function writeVarint64(buffer: Uint8Array, at: number, lo: number, hi: number): number {
  lo >>>= 0;
  hi >>>= 0;
  while (hi !== 0) {
    buffer[at++] = (lo & 127) | 128;
    lo = ((lo >>> 7) | (hi << 25)) >>> 0;
    hi >>>= 7;
  }
  return writeVarint32(buffer, at, lo);
}

/** Writes a signed 64-bit value given as halves, in zigzag form (protobuf's sint64). */
export function writeZigzag64(buffer: Uint8Array, at: number, lo: number, hi: number): number {
  const sign = hi >> 31;
  return writeVarint64(buffer, at, (lo << 1) ^ sign, ((hi << 1) | (lo >>> 31)) ^ sign);
}

/** High half of a number's two's complement; exact for integers below 2^53 in size. */
export const highHalf = (value: number): number => Math.floor(value / TWO32) >>> 0;
/** Low half of a number's two's complement. */
export const lowHalf = (value: number): number => value >>> 0;

/** Halves of the last value read: module-level, because a returned pair would be an allocation per field. */
export const varint = { lo: 0, hi: 0 };

/**
 * Reads a varint into `varint`; returns the position after it, or -1 if it runs past `end` or past
 * ten bytes.
 */
export function readVarint(buffer: Uint8Array, at: number, end: number): number {
  let lo = 0;
  let hi = 0;
  for (let shift = 0; shift < 70; shift += 7) {
    if (at >= end) return -1;
    const byte = buffer[at++] as number;
    const bits = byte & 127;
    if (shift < 28) lo |= bits << shift;
    else if (shift === 28) {
      lo |= bits << 28;
      hi = bits >>> 4;
    } else if (shift < 63) hi |= bits << (shift - 32);
    else hi |= bits << 31;
    if (byte < 128) {
      varint.lo = lo >>> 0;
      varint.hi = hi >>> 0;
      return at;
    }
  }
  return -1;
}

/** The last value as an unsigned number; exact below 2^53. */
export const varintUnsigned = (): number => varint.hi * TWO32 + varint.lo;

/** Undoes zigzag on the last value, in place: halves of a signed 64-bit value. */
export function unzigzag(): void {
  const sign = -(varint.lo & 1);
  const lo = ((varint.lo >>> 1) | (varint.hi << 31)) ^ sign;
  varint.hi = ((varint.hi >>> 1) ^ sign) >>> 0;
  varint.lo = lo >>> 0;
}

/** The last value, taken as signed halves, as a number; exact below 2^53 in size. */
export const varintSigned = (): number => (varint.hi | 0) * TWO32 + varint.lo;
