// Branded integers: at run time plain numbers, at compile time kinds that do not mix.
// `mfn` is what page tables hold, `pfn` the pseudo-physical index of a domain, `gfn` what a guest
// writes (for PV guests equal to the mfn); `maddr` and `vaddr` are byte addresses.

declare const brand: unique symbol;
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** Machine frame number, 0 <= mfn < 2^40. */
export type Mfn = Brand<number, 'Mfn'>;
/** Pseudo-physical frame number of one domain. */
export type Pfn = Brand<number, 'Pfn'>;
/** Machine byte address, 0 <= maddr < 2^52. */
export type Maddr = Brand<number, 'Maddr'>;
/** Domain identifier, 0..0x7ff0 (DOMID_SELF and friends are not identifiers of a domain). */
export type DomId = Brand<number, 'DomId'>;
/** Event-channel port, local to a domain. */
export type Port = Brand<number, 'Port'>;
/** Grant reference, local to the granting domain. */
export type Gref = Brand<number, 'Gref'>;

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;

export const mfnToMaddr = (mfn: Mfn): Maddr => (mfn * PAGE_SIZE) as Maddr;
export const maddrToMfn = (maddr: Maddr): Mfn => Math.floor(maddr / PAGE_SIZE) as Mfn;
