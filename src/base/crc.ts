// CRC-32C (Castagnoli, RFC 3720 appendix B.4), eight bytes a step. The file format's guard against
// damage: it runs over compressed packets, so its speed hardly matters, but it must be there before
// any asynchronous set-up is.

const POLYNOMIAL = 0x82f63b78; // reflected
const TABLES: Uint32Array[] = [];
for (let slice = 0; slice < 8; slice++) {
  const table = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = slice === 0 ? byte : ((TABLES[slice - 1] as Uint32Array)[byte] as number);
    if (slice === 0) for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    else crc = (crc >>> 8) ^ ((TABLES[0] as Uint32Array)[crc & 255] as number);
    table[byte] = crc >>> 0;
  }
  TABLES.push(table);
}
const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as [Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array];

/** CRC-32C of bytes[from..to), unsigned. `previous` continues the CRC of what came before. */
export function crc32c(bytes: Uint8Array, from = 0, to = bytes.length, previous = 0): number {
  let crc = ~previous;
  let at = from;
  for (; at + 8 <= to; at += 8) {
    const a = crc ^ ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24));
    crc =
      (T7[a & 255] as number) ^ (T6[(a >>> 8) & 255] as number) ^ (T5[(a >>> 16) & 255] as number) ^ (T4[a >>> 24] as number) ^
      (T3[bytes[at + 4] as number] as number) ^ (T2[bytes[at + 5] as number] as number) ^ (T1[bytes[at + 6] as number] as number) ^ (T0[bytes[at + 7] as number] as number);
  }
  for (; at < to; at++) crc = (crc >>> 8) ^ (T0[(crc ^ (bytes[at] as number)) & 255] as number);
  return ~crc >>> 0;
}
