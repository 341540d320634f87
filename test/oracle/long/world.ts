// The world of the 64-bit vectors: which pages exist, what is in them before a case, from which registers cases start.
//
//   00010000 rwx      code, filled with INT3 (two pages)       7f0012340000 rw  data (two pages, stack in the first)
//                                                              7f0012342000 r   read-only; nothing behind it
// GS has a base within the data; FS is left to the C library of the harness.
import { INT3, Rng } from '../environment.ts';

export interface LongRegion {
  readonly vaddr: number;
  readonly sizeBytes: number;
  readonly write: boolean;
  readonly execute: boolean;
}
export const CODE = 0x10100;
export const DATA = 0x7f0012340000;
export const READ_ONLY = DATA + 0x2000;
export const UNMAPPED = DATA + 0x3000;
export const STACK = DATA + 0x800;
export const GS_BASE = DATA + 0x1234;
export const LONG_REGIONS: readonly LongRegion[] = [
  { vaddr: 0x10000, sizeBytes: 0x2000, write: true, execute: true },
  { vaddr: DATA, sizeBytes: 0x2000, write: true, execute: false },
  { vaddr: READ_ONLY, sizeBytes: 0x1000, write: false, execute: false },
];
export const REG64 = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const;

/** What a region holds before every case. */
export function longContent({ sizeBytes, execute, vaddr }: LongRegion): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  if (execute) return bytes.fill(INT3);
  const rng = new Rng(vaddr % 0x7fffffff);
  for (let i = 0; i < bytes.length; i++) bytes[i] = rng.u32() >>> 24;
  return bytes;
}

/** Values at which carries, signs and widths change. */
const EDGES64: readonly bigint[] = [8n, 16n, 32n, 64n].flatMap((width) => [1n << (width - 1n), (1n << (width - 1n)) - 1n, (1n << width) - 1n, (1n << width) - 2n, 1n << (width & 63n)]).concat([0n, 1n, 2n, 0xfn, 0x10n, 0xffffffff80000000n, 0xffffffff7fffffffn, 0xaaaaaaaaaaaaaaaan]);
export const random64 = (rng: Rng): bigint => (BigInt(rng.u32()) << 32n) | BigInt(rng.u32());
export const value64 = (rng: Rng): bigint => (rng.chance(2) ? BigInt.asUintN(64, rng.pick(EDGES64)) : random64(rng) >> BigInt(rng.chance(3) ? rng.below(64) : 0));

export const LONG_FILES = 32;
/** The register files; RSP is always in the stack. */
export function longFile(index: number): BigUint64Array<ArrayBuffer> {
  const rng = new Rng(0x10e60000 + index);
  const regs = BigUint64Array.from({ length: 16 }, () => value64(rng));
  regs[4] = BigInt(STACK);
  return regs;
}
