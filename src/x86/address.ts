// Linear addresses and rip as JavaScript numbers. Outside long mode they are unsigned 32-bit numbers. In long
// mode they are the sign-extended 48 bits of a canonical address, a signed number: 0xffffffff81000000 is
// -0x7f000000. Such a number is exact, plain + and - wrap as addresses do (-1 + 1 is 0), `& 0xfff` and
// `>>> 0` (the low half) are right for both signs, and no bigint is needed. Only `>>> 12` is wrong: pageOf().
//
// What is not canonical has no such number: whoever makes an address asks isCanonical() of its upper half first.

const TWO32 = 0x1_0000_0000;
/** First address beyond the lower canonical half. */
export const CANONICAL_END = 2 ** 47;

/** Bits 32..63 of an address, unsigned. */
export const highHalf = (vaddr: number): number => Math.floor(vaddr / TWO32) >>> 0;
/** The address with these halves; exact if it is canonical. */
export const fromHalves = (low: number, high: number): number => (high | 0) * TWO32 + (low >>> 0);
/** Are bits 47..63 all alike, seen from bits 32..63? */
export function isCanonical(high: number): boolean {
  const top = (high | 0) >> 15;
  return top === 0 || top === -1;
}
/** The same of a number that arithmetic may have moved out of the canonical halves. */
export const inCanonicalRange = (vaddr: number): boolean => vaddr >= -CANONICAL_END && vaddr < CANONICAL_END;

/** The page's number; signed like the address. */
export const pageOf = (vaddr: number): number => Math.floor(vaddr / 4096);
/** Where the page after an address's begins. */
export const nextPageOf = (vaddr: number, lma: boolean): number => {
  const next = (Math.floor(vaddr / 4096) + 1) * 4096;
  return lma ? next : next >>> 0;
};
/** Halves of vaddr >>> 12 as 64 bits: what STATE.fetchVpn and the TLB's vpn hold. */
export const vpnLow = (vaddr: number): number => Math.floor(vaddr / 4096) >>> 0;
export const vpnHigh = (vaddr: number): number => Math.floor(vaddr / TWO32) >>> 12;

/** An address from 64 bits; undefined if it is not canonical. */
export function addressOf(bits: bigint): number | undefined {
  const value = BigInt.asIntN(64, bits);
  return value === BigInt.asIntN(48, value) ? Number(value) : undefined;
}
/** The 64 bits of an address. */
export const bitsOf = (vaddr: number): bigint => BigInt.asUintN(64, BigInt(vaddr));
