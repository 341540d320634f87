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
/** Reads and writes (for CS: reads and fetches) through the segment need no check and no base. */
export const isFlat = (mode: ModeKey, seg: number): boolean => ((mode >> (MODE.flatShift + seg)) & 1) !== 0;
export const CS_FLAT = 1 << (MODE.flatShift + SEG.cs);
