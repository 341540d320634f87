// The little world in which every user-mode vector runs, on the real processor and on the core
// alike: which pages exist, what is in them before a case, which descriptors there are, and the
// register files from which cases start. A vector names only what differs from this.
//
//   00008000 rw   16-bit addressing reaches it        00020000 rw  data (two pages, stack in the first)
//   0000f000 rw   16-bit offsets wrap at its end      00022000 r   read-only
//   00010000 rwx  code, filled with INT3 (two pages)  00023000 -   nothing, up to 0002ffff

export interface Region {
  readonly name: string;
  readonly vaddr: number;
  readonly sizeBytes: number;
  readonly write: boolean;
  readonly execute: boolean;
}

export const REGIONS: readonly Region[] = [
  { name: 'low', vaddr: 0x8000, sizeBytes: 0x2000, write: true, execute: false },
  { name: 'low-end', vaddr: 0xf000, sizeBytes: 0x1000, write: true, execute: false },
  { name: 'code', vaddr: 0x10000, sizeBytes: 0x2000, write: true, execute: true },
  { name: 'data', vaddr: 0x20000, sizeBytes: 0x2000, write: true, execute: false },
  { name: 'read-only', vaddr: 0x22000, sizeBytes: 0x1000, write: false, execute: false },
];

/** Where a case's code lies unless it says otherwise. */
export const CODE = 0x10100;
export const CODE_BASE = 0x10000;
export const DATA = 0x20000;
export const READ_ONLY = 0x22000;
/** The first address after the data window where nothing is mapped, up to UNMAPPED_END. */
export const UNMAPPED = 0x23000;
export const UNMAPPED_END = 0x30000;
/** Within DATA; every register file's ESP. */
export const STACK = 0x20800;
export const INT3 = 0xcc;

/** xorshift32: the same bytes in every language and for ever. */
export class Rng {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0 || 0x9e3779b9;
    for (let i = 0; i < 8; i++) this.u32();
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.imul(x, 0x9e3779b1) >>> 0;
  }
  below(n: number): number {
    return Math.floor((this.u32() / 0x100000000) * n);
  }
  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new Error('pick from nothing');
    return items[this.below(items.length)] as T;
  }
}

/** What a region holds before every case. */
export function regionContent(region: Region): Uint8Array {
  const bytes = new Uint8Array(region.sizeBytes);
  if (region.execute) return bytes.fill(INT3);
  const rng = new Rng(region.vaddr);
  for (let i = 0; i < bytes.length; i++) bytes[i] = rng.u32() >>> 24;
  return bytes;
}

export const GPR = ['eax', 'ecx', 'edx', 'ebx', 'esp', 'ebp', 'esi', 'edi'] as const;
export const SEGS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
export type Gpr = (typeof GPR)[number];
export type SegName = (typeof SEGS)[number];

/** Values at which carries, signs and widths change. */
export const EDGES = [
  0, 1, 2, 3, 0xf, 0x10, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff, 0x100, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff, 0x10000, 0x7ffffffe,
  0x7fffffff, 0x80000000, 0x80000001, 0xaaaaaaaa, 0x55555555, 0xfffffffe, 0xffffffff,
] as const;

export const REGISTER_FILES = 32;
/** The register files: half edges, half noise; ESP always in the stack. */
export function registerFile(index: number): Uint32Array<ArrayBuffer> {
  const rng = new Rng(0x5eed0000 + index);
  const regs = new Uint32Array(8);
  for (let i = 0; i < 8; i++) regs[i] = rng.chance(2) ? rng.pick(EDGES) : rng.u32();
  regs[4] = STACK;
  return regs;
}

// The descriptors. LDT entries are what modify_ldt can make (DPL 3, S = 1, accessed); the GDT ones
// are Linux's own, as far as a vector may name them.

export interface LdtEntry {
  readonly name: string;
  readonly base: number;
  readonly limit: number;
  readonly kind: 'data' | 'expand-down' | 'code';
  /** Writable data or readable code. */
  readonly open: boolean;
  readonly is32: boolean;
  readonly pages?: boolean;
  readonly absent?: boolean;
}

export const LDT: readonly LdtEntry[] = [
  { name: 'data', base: 0x20000, limit: 0x1fff, kind: 'data', open: true, is32: true },
  { name: 'dataReadOnly', base: 0x20000, limit: 0x1fff, kind: 'data', open: false, is32: true },
  { name: 'down32', base: 0x20000, limit: 0xfff, kind: 'expand-down', open: true, is32: true },
  { name: 'down16', base: 0x12000, limit: 0xdfff, kind: 'expand-down', open: true, is32: false },
  { name: 'code', base: 0x10000, limit: 0x1fff, kind: 'code', open: true, is32: true },
  { name: 'codeExecuteOnly', base: 0x10000, limit: 0x1fff, kind: 'code', open: false, is32: true },
  { name: 'code16', base: 0x10000, limit: 0xffff, kind: 'code', open: true, is32: false },
  { name: 'dataAbsent', base: 0x20000, limit: 0x1fff, kind: 'data', open: true, is32: true, absent: true },
  { name: 'dataPages', base: 0x20000, limit: 0x1, kind: 'data', open: true, is32: true, pages: true },
  { name: 'wrap', base: 0xffffff00, limit: 0x2ffff, kind: 'data', open: true, is32: true, pages: true },
  { name: 'stack16', base: 0x20000, limit: 0x1fff, kind: 'data', open: true, is32: false },
  { name: 'tiny', base: 0x20100, limit: 0x10, kind: 'data', open: true, is32: true },
  { name: 'codeAbsent', base: 0x10000, limit: 0x1fff, kind: 'code', open: true, is32: true, absent: true },
  { name: 'codeShort', base: 0x10000, limit: 0x10f, kind: 'code', open: true, is32: true },
  { name: 'down32Absent', base: 0x20000, limit: 0xfff, kind: 'expand-down', open: true, is32: true, absent: true },
  { name: 'downReadOnly', base: 0x20000, limit: 0xfff, kind: 'expand-down', open: false, is32: true },
];

/** Entry 0 stays empty: a null descriptor that is not the null selector. */
export const LDT_FIRST = 1;
export function ldtSelector(name: string): number {
  const at = LDT.findIndex((entry) => entry.name === name);
  if (at < 0) throw new Error(`no LDT entry ${name}`);
  return ((at + LDT_FIRST) << 3) | 7;
}

/** User flat segments of Linux, also the initial CS and DS, ES, SS. */
export const USER_CS = 0x23;
export const USER_DS = 0x2b;
export const INITIAL_SEGS: readonly number[] = [USER_DS, USER_CS, USER_DS, USER_DS, 0, 0];

export const GDT: readonly { readonly selector: number; readonly base: number; readonly limit: number; readonly access: number }[] = [
  // Access: descriptor bits 40..55; limit in bytes, inclusive.
  { selector: 0x08, base: 0, limit: 0xffffffff, access: 0xc09b }, // kernel code
  { selector: 0x18, base: 0, limit: 0xffffffff, access: 0xc093 }, // kernel data
  { selector: 0x20, base: 0, limit: 0xffffffff, access: 0xc0fb }, // user code
  { selector: 0x28, base: 0, limit: 0xffffffff, access: 0xc0f3 }, // user data
];

export interface Descriptor {
  readonly base: number;
  /** Inclusive, in bytes. */
  readonly limit: number;
  /** Descriptor bits 40..55, the limit's bits as zero. */
  readonly access: number;
}

/** What Linux's fill_ldt() makes of the modify_ldt request (arch/x86/include/asm/desc.h). */
export function ldtDescriptor(entry: LdtEntry): Descriptor {
  const contents = { data: 0, 'expand-down': 4, code: 8 }[entry.kind];
  const type = contents | (entry.open ? 2 : 0) | 1;
  const low = type | 0x10 | 0x60 | (entry.absent ? 0 : 0x80);
  const high = (entry.is32 ? 0x40 : 0) | (entry.pages ? 0x80 : 0);
  return { base: entry.base, limit: entry.pages ? entry.limit * 0x1000 + 0xfff : entry.limit, access: low | (high << 8) };
}

/** The eight bytes of a descriptor as two u32. */
export function descriptorWords({ base, limit, access }: Descriptor): readonly [number, number] {
  const raw = (access & 0x8000) !== 0 ? Math.floor(limit / 0x1000) : limit;
  const low = ((raw & 0xffff) | ((base & 0xffff) << 16)) >>> 0;
  const high = (((base >>> 16) & 0xff) | ((access & 0xf0ff) << 8) | (raw & 0xf0000) | (base & 0xff000000)) >>> 0;
  return [low, high];
}
