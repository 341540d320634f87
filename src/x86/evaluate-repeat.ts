// REP in the plain tier: one iteration, the count, and whether it goes on.
import type { Core } from './core.ts';
import { DONE, type StmtFn } from './evaluate.ts';
import type { Lowered } from './lower.ts';
import { STATE } from './state-layout.ts';

export function repeating(core: Core, lowered: Lowered, body: StmtFn): StmtFn {
  const { countWidth, whileZf } = lowered.rep as NonNullable<Lowered['rep']>;
  const at = core.s + ((STATE.gpr + 8) >> 2);
  const mask = countWidth === 16 ? 0xffff : 0xffffffff;
  const { u32 } = core;
  return () => {
    const low = ((u32[at] as number) & mask) >>> 0;
    const high = countWidth === 64 ? (u32[at + 1] as number) : 0;
    if (low === 0 && high === 0) return DONE.next;
    const done = body();
    if (done !== DONE.next) return done;
    const left = ((low - 1) & mask) >>> 0;
    if (countWidth === 64) {
      u32[at] = left;
      if (low === 0) u32[at + 1] = high - 1;
    } else if (countWidth === 32) {
      u32[at] = left;
      u32[at + 1] = 0;
    } else u32[at] = (((u32[at] as number) & ~mask) | left) >>> 0;
    if (left === 0 && (countWidth !== 64 || u32[at + 1] === 0)) return DONE.next;
    if (whileZf !== undefined && core.flag(3) !== whileZf) return DONE.next;
    return DONE.repeat;
  };
}
