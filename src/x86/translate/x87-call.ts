// An instruction of the x87 inside a block: the call of the function that does the ordinary (x87-unit.ts), and what it leaves to
// whoever knows the place: the addresses that FNSTENV shows, flags, AX.
import { assert } from '../../base/assert.ts';
import { SEG, SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import type { Stmt, Width } from '../ir.ts';
import { OP, TYPE } from './code-buffer.ts';
import { HELPER } from './frame.ts';
import { emitAccess, type StopSite } from './memory-access.ts';
import { emitUnitRefused } from './simd-unit.ts';
import type { StatementEmitter } from './statement.ts';

export function emitX87(s: StatementEmitter, { row, quick }: Extract<Stmt, { do: 'system' }>, stop: StopSite): void {
  assert(quick !== undefined, `system row ${row} inside a block`);
  const { code, mem, sizeBytes, writes, opcode, into } = quick;
  const { f } = s;
  const { c } = f;
  const answer = f.temp(TYPE.i32);
  const offset = f.temp(f.word);
  if (mem !== undefined) {
    // #NM and #MF come before memory is looked at: the TLB would tell.
    s.once('mmx', () => emitUnitRefused(f, 'mmx'));
    s.word(mem.offset);
    c.set(offset);
  }
  const host = mem === undefined ? undefined : emitAccess(f, writes ? 'write' : 'read', (8 * sizeBytes) as Width | 80, mem.seg, () => c.get(offset), stop);
  c.const32(code);
  if (host === undefined) c.const32(0);
  else c.get(host);
  c.index(OP.call, HELPER.x87);
  c.tee(answer);
  c.byte(OP.i32_eqz);
  f.open(OP.if);
  s.leave();
  f.close();
  if (opcode !== undefined) {
    const selector = (seg: number): void => f.loadState32(STATE.seg + seg * SEG_SLOT_BYTES);
    f.storeState32(STATE.fpuOpcode, () => c.const32(opcode));
    f.storeState32(STATE.fpuIp, () => c.const32(stop.vaddr));
    f.storeState32(STATE.fpuIpHigh, () => c.const32(f.target.long ? Math.floor(stop.vaddr / 2 ** 32) : 0));
    f.storeState32(STATE.fpuCs, () => selector(SEG.cs));
    if (mem !== undefined) {
      const half = (shift: bigint): void => {
        c.get(offset);
        if (!f.target.long) return;
        c.const64(shift);
        c.byte(OP.i64_shr_u);
        f.wrap();
      };
      f.storeState32(STATE.fpuDp, () => half(0n));
      f.storeState32(STATE.fpuDpHigh, () => (f.target.long ? half(32n) : c.const32(0)));
      f.storeState32(STATE.fpuDs, () => selector(mem.seg));
    }
  }
  if (into === undefined) return;
  c.get(answer);
  c.const32(8);
  c.byte(OP.i32_shr_u);
  if (into === 'flags') return s.setImage();
  c.set(answer);
  s.define(0, answer);
  s.statement({ do: 'setReg', width: 16, index: 0, value: { tag: 'temp', width: 16, id: 0 } }, NONE);
}
const NONE: ReadonlySet<never> = new Set<never>();
