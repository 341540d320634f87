// The mode key: everything that lowering and translated code are specialised for, as bits of one
// number, so that flat segments and the user/supervisor side cost nothing at run time.
import { SEG } from './state-layout.ts';

export type ModeKey = number;

export const MODE = {
  code32: 1, stack32: 2, long: 4,
  /** CPL 3: user translations. */
  user: 8,
  /** << segment number: base 0, limit 4 GiB - 1, present, readable and (but for CS) writable. */
  flatShift: 4,
  /** << segment number (data segments): present, writable, expand-up; base and limit are checked at run time. */
  plainShift: 10,
  /** The code segment's size in units of 4 MiB (1024: all of it), if its base is 0 and it is that round; else 0. */
  codeUnitsShift: 16,
  /** Data accesses must be aligned (CPL 3, CR0.AM, EFLAGS.AC): then no segment counts as flat or plain, so that all take the checked path. */
  align: 1 << 27,
  /** Long mode is active: paging has four levels, addresses have 64 bits. `long` says that the code is 64-bit code, else it is compatibility code. */
  lma: 1 << 28,
  /** The second set of translations is in use (Cpu.switchTables). */
  second: 1 << 29,
} as const;

export interface ModeBits {
  readonly codeWidth: 16 | 32 | 64;
  readonly stackWidth: 16 | 32 | 64;
  readonly user: boolean;
}

export function modeBits(mode: ModeKey): ModeBits {
  return {
    codeWidth: (mode & MODE.long) !== 0 ? 64 : (mode & MODE.code32) !== 0 ? 32 : 16,
    stackWidth: (mode & MODE.long) !== 0 ? 64 : (mode & MODE.stack32) !== 0 ? 32 : 16,
    user: (mode & MODE.user) !== 0,
  };
}
/** The part of a mode that the meaning of bytes depends on. */
export const loweringMode = (mode: ModeKey): ModeKey => mode & (MODE.code32 | MODE.stack32 | MODE.long);
/** Reads and writes (for CS: reads and fetches) through the segment need no check and no base. */
export const isFlat = (mode: ModeKey, seg: number): boolean => ((mode >> (MODE.flatShift + seg)) & 1) !== 0;
export const isPlain = (mode: ModeKey, seg: number): boolean => ((mode >> (MODE.plainShift + seg)) & 1) !== 0;
/** Inclusive limit of a code segment with base 0 and a round size, or -1. */
export const codeLimitOf = (mode: ModeKey): number => ((mode >>> MODE.codeUnitsShift) & 0x7ff) * 0x400000 - 1;
export const CS_FLAT = 1 << (MODE.flatShift + SEG.cs);
