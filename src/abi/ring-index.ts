// Free-running ring indices: 32-bit counters that wrap, of which only differences mean anything.

/** How far `to` is ahead of `from`, modulo 2^32. */
export const indexDistance = (from: number, to: number): number => (to - from) >>> 0;
/** The index `count` further on. */
export const indexAdd = (index: number, count: number): number => (index + count) >>> 0;
