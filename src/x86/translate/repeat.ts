// Repeated string instructions. Each iteration is charged and precise: rip stays on the instruction until it is
// done, and an iteration that cannot go on leaves the region with everything before it performed.
//
// MOVS and STOS upwards also have a fast way: as many iterations as count, budget and both pages allow at once,
// by memory.copy and memory.fill. The TLB sees the same lookups (the later ones would only hit).
import type { Expr, Width } from '../ir.ts';
import { SEG, STATE } from '../state-layout.ts';
import { OP, OP_FC, TYPE } from './code-buffer.ts';
import { type Frame, LOCAL } from './frame.ts';
import { emitAccess, emitTagCheck, type StopSite } from './memory-access.ts';
import type { RegionInsn } from './region.ts';
import type { StatementEmitter } from './statement.ts';

const RCX = 1;
const RSI = 6;
const RDI = 7;
/** Below this many iterations the fast way is not worth its checks. */
const MIN_BULK = 4;

export function emitRepeat(f: Frame, statements: StatementEmitter, { vaddr, lowered }: RegionInsn): void {
  const { c } = f;
  const { countWidth, whileZf } = lowered.rep as NonNullable<typeof lowered.rep>;
  const stop = { vaddr, giveBack: 0 };
  const count = { tag: 'reg', width: countWidth, index: RCX } as const;
  const constant = (value: number): Expr => ({ tag: 'const', width: countWidth, value: countWidth === 64 ? BigInt(value) : value });
  const charge = (): void => {
    c.get(LOCAL.budget);
    c.const32(1);
    c.byte(OP.i32_sub);
    c.set(LOCAL.budget);
  };
  statements.begin(stop);
  const done = f.open(OP.block);
  // A count of zero: nothing happens, and that is one instruction.
  statements.expr(count);
  c.byte(countWidth === 64 ? OP.i64_eqz : OP.i32_eqz);
  f.open(OP.if);
  c.get(LOCAL.budget);
  c.byte(OP.i32_eqz);
  f.open(OP.if);
  f.exitTo(f.stopDepth, vaddr, 0);
  f.close();
  charge();
  f.br(done);
  f.close();
  const again = f.open(OP.loop);
  c.get(LOCAL.budget);
  c.byte(OP.i32_eqz);
  f.open(OP.if);
  f.exitTo(f.stopDepth, vaddr, 0);
  f.close();
  // Compatibility code keeps 32-bit addresses in 64-bit registers: one by one is enough for it.
  if (countWidth === (f.target.long ? 64 : 32)) {
    const match = /^(Movs|Stos)([bwdq])$/.exec(lowered.insn.mnemonic);
    const plain = lowered.insn.operands.every((operand) => operand.kind !== 'mem' || f.target.segments[operand.mem.seg] === 'flat');
    if (match !== null && plain) emitBulk(f, match[1] === 'Movs', ({ b: 8, w: 16, d: 32, q: 64 } as const)[match[2] as 'b'], stop, again, done);
  }
  // The second and later iterations see the flags of the one before.
  if (whileZf !== undefined) statements.known = undefined;
  for (const s of lowered.stmts) statements.statement(s, new Set());
  statements.statement({ do: 'setReg', width: countWidth, index: RCX, value: { tag: 'bin', op: 'sub', width: countWidth, a: count, b: constant(1) } }, new Set());
  charge();
  statements.expr({ tag: 'cmp', op: 'ne', a: count, b: constant(0) });
  if (whileZf !== undefined) {
    statements.flag('zf');
    if (whileZf === 0) c.byte(OP.i32_eqz);
    c.byte(OP.i32_and);
  }
  f.brIf(again);
  f.close();
  f.close();
}

/** Many iterations at once if that changes nothing; falls through to the single iteration otherwise. */
function emitBulk(f: Frame, copies: boolean, width: Width, stop: StopSite, again: number, done: number): void {
  const { c } = f;
  const { long } = f.target;
  const shift = Math.log2(width / 8);
  const [ecx, esi, edi, eax] = [LOCAL.gpr + RCX, LOCAL.gpr + RSI, LOCAL.gpr + RDI, LOCAL.gpr];
  for (const index of copies ? [RCX, RSI, RDI] : [0, RCX, RDI]) f.gprRead.add(index);
  for (const index of copies ? [RCX, RSI, RDI] : [RCX, RDI]) f.gprWritten.add(index);
  const times = f.temp(TYPE.i32);
  const sizeBytes = f.temp(TYPE.i32);
  const single = f.open(OP.block);
  // 1. Upwards only.
  f.loadState32(STATE.eflagsRest);
  c.const32(0x400);
  c.byte(OP.i32_and);
  f.brIf(single);
  if (!copies && width > 8) {
    emitSeveralBytes(f, eax, width);
    f.brIf(single);
  }
  // 2. times = min(count, budget, elements left in each page).
  const least = (push: () => void): void => {
    c.get(times);
    push();
    c.get(times);
    push();
    c.byte(OP.i32_lt_u);
    c.byte(OP.select);
    c.set(times);
  };
  const leftInPage = (register: number) => (): void => {
    c.const32(4096);
    c.get(register);
    f.wrap();
    c.const32(4095);
    c.byte(OP.i32_and);
    c.byte(OP.i32_sub);
    c.const32(shift);
    c.byte(OP.i32_shr_u);
  };
  if (long) {
    // Counts beyond 32 bits are cut: what is left comes in another round.
    c.const64(0x7fffffffn);
    c.get(ecx);
    c.const64(0x7fffffffn);
    c.get(ecx);
    c.byte(OP.i64_lt_u);
    c.byte(OP.select);
  } else c.get(ecx);
  f.wrap();
  c.set(times);
  least(() => c.get(LOCAL.budget));
  least(leftInPage(edi));
  if (copies) least(leftInPage(esi));
  c.get(times);
  c.const32(MIN_BULK);
  c.byte(OP.i32_lt_u);
  f.brIf(single);
  c.get(times);
  c.const32(shift);
  c.byte(OP.i32_shl);
  c.set(sizeBytes);
  // 3. The accesses of the first iteration; the whole page must be open to stores, not only this element.
  const from = copies ? emitAccess(f, 'read', width, SEG.ds, () => c.get(esi), stop) : 0;
  const to = emitAccess(f, 'write', width, SEG.es, () => c.get(edi), stop);
  emitTagCheck(f, 'write', edi);
  f.brIf(single);
  if (copies) {
    // Where a store feeds a later load, the elements must go one by one.
    c.get(to);
    c.get(from);
    c.byte(OP.i32_sub);
    c.get(sizeBytes);
    c.byte(OP.i32_lt_u);
    f.brIf(single);
  }
  c.get(to);
  if (copies) c.get(from);
  else {
    c.get(eax);
    f.wrap();
  }
  c.get(sizeBytes);
  c.byte(OP.prefix_fc);
  c.u32(copies ? OP_FC.memory_copy : OP_FC.memory_fill);
  c.byte(0);
  if (copies) c.byte(0);
  // 4. What those iterations leave behind.
  const add = (local: number, by: number, op: number): void => {
    c.get(local);
    c.get(by);
    if (long && local !== LOCAL.budget) c.byte(OP.i64_extend_i32_u);
    c.byte(op);
    c.set(local);
  };
  const [plus, minus] = long ? [OP.i64_add, OP.i64_sub] : [OP.i32_add, OP.i32_sub];
  if (copies) add(esi, sizeBytes, plus);
  add(edi, sizeBytes, plus);
  add(ecx, times, minus);
  add(LOCAL.budget, times, OP.i32_sub);
  c.get(ecx);
  if (long) {
    c.byte(OP.i64_eqz);
    c.byte(OP.i32_eqz);
  }
  f.brIf(again);
  f.br(done);
  f.close();
}

/** Pushes 1 if the accumulator's bytes are not all alike: only what repeats one byte can be filled. */
function emitSeveralBytes(f: Frame, accumulator: number, width: Width): void {
  const { c } = f;
  if (width === 64) {
    c.get(accumulator);
    c.get(accumulator);
    c.const64(0xffn);
    c.byte(OP.i64_and);
    c.const64(0x0101010101010101n);
    c.byte(OP.i64_mul);
    c.byte(OP.i64_ne);
    return;
  }
  c.get(accumulator);
  f.wrap();
  if (width === 16) {
    c.const32(0xffff);
    c.byte(OP.i32_and);
  }
  c.get(accumulator);
  f.wrap();
  c.const32(0xff);
  c.byte(OP.i32_and);
  c.const32(width === 16 ? 0x0101 : 0x01010101);
  c.byte(OP.i32_mul);
  c.byte(OP.i32_ne);
}
