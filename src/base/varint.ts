// Protobuf's variable-length integers on plain byte arrays, for 64-bit values held as two 32-bit
// halves: no bigint and no Long on the hot path. All writers return the position after the last
// byte; the caller has made room (MAX_VARINT_BYTES each).
//
// Not checked: room in the buffer. Readers report a varint that does not end by position -1.

import { InvariantViolation } from './assert.ts';

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

/**
 * Writes an unsigned number; a negative one, or one past 2^53 (a guest's wild value), as its 64-bit
 * two's complement.
 */
export function writeUnsigned(buffer: Uint8Array, at: number, value: number): number {
  const low = value >>> 0;
  if (low === value) {
    if (low < 0x80) {
      buffer[at] = low;
      return at + 1;
    }
    return writeLongVarint32(buffer, at, low);
  }
  if (!Number.isInteger(value)) notAnInteger(value);
  return writeVarint64(buffer, at, low, highHalf(value));
}

/** Writes a signed number in zigzag form; out of range likewise. */
export function writeSigned(buffer: Uint8Array, at: number, value: number): number {
  const low = value >>> 0;
  if (low === value) return writeDoubled(buffer, at, low, 0);
  if (value < 0 && value >= -0x1_0000_0000 && Number.isInteger(value)) return writeDoubled(buffer, at, ~low >>> 0, 1);
  if (!Number.isInteger(value)) notAnInteger(value);
  return writeZigzag64(buffer, at, low, highHalf(value));
}

/** The varint of 2 * low + odd: zigzag of small numbers, i386 addresses and the kernel's last 4 GiB. */
function writeDoubled(buffer: Uint8Array, at: number, low: number, odd: number): number {
  if (low < 0x40) {
    buffer[at] = (low << 1) | odd;
    return at + 1;
  }
  if (low < 0x8000_0000) return writeLongVarint32(buffer, at, ((low << 1) | odd) >>> 0);
  buffer[at] = ((low << 1) & 127) | odd | 128;
  buffer[at + 1] = ((low >>> 6) & 127) | 128;
  buffer[at + 2] = ((low >>> 13) & 127) | 128;
  buffer[at + 3] = ((low >>> 20) & 127) | 128;
  buffer[at + 4] = low >>> 27;
  return at + 5;
}

/** 128 <= value < 2^32, spelled out because most events hold an address. */
function writeLongVarint32(buffer: Uint8Array, at: number, value: number): number {
  buffer[at] = (value & 127) | 128;
  if (value < 0x4000) {
    buffer[at + 1] = value >>> 7;
    return at + 2;
  }
  buffer[at + 1] = ((value >>> 7) & 127) | 128;
  if (value < 0x20_0000) {
    buffer[at + 2] = value >>> 14;
    return at + 3;
  }
  buffer[at + 2] = ((value >>> 14) & 127) | 128;
  if (value < 0x1000_0000) {
    buffer[at + 3] = value >>> 21;
    return at + 4;
  }
  buffer[at + 3] = ((value >>> 21) & 127) | 128;
  buffer[at + 4] = value >>> 28;
  return at + 5;
}

/** Writes a 64-bit pattern from its halves, in zigzag form. */
export function writeSignedHalves(buffer: Uint8Array, at: number, lo: number, hi: number): number {
  if (hi === 0) return writeDoubled(buffer, at, lo >>> 0, 0);
  if (hi >>> 0 === 0xffff_ffff) return writeDoubled(buffer, at, ~lo >>> 0, 1);
  return writeZigzag64(buffer, at, lo, hi);
}

function notAnInteger(value: number): never {
  throw new InvariantViolation(`${value} is not an integer and cannot be written as one`);
}

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
