// Memory operands: the inline TLB check of tlb-layout.ts, and the call of the slow path when it misses.
// The slow path (the paging unit) returns the linear-memory address of the access, or 0 when the evaluator
// must perform the instruction: a fault, an access that crosses into the next page, a store into code.
// Nothing of the instruction has happened by then (the law of precise faults in ir.ts).
import type { Expr, MemRef, Width } from '../ir.ts';
import { SEG_SLOT_BYTES, STATE } from '../state-layout.ts';
import { TLB, TLB_ENTRIES } from '../tlb-layout.ts';
import { OP, TYPE } from './code-buffer.ts';
import type { Frame } from './frame.ts';
import { HELPER } from './frame.ts';
import { SIMD } from './vector.ts';

export type AccessKind = 'read' | 'write';

/** Where to go when the evaluator must take over. */
export interface StopSite {
  readonly vaddr: number;
  /** Instructions of the block from this one on: they were charged and are given back. */
  readonly giveBack: number;
}

/** Emits the check of one access; leaves the address in the returned local. `pushOffset` pushes the offset as a register's type. */
export function emitAccess(f: Frame, kind: AccessKind, width: Width | 80, seg: number, pushOffset: () => void, stop: StopSite, aligned = false): number {
  const { c, target } = f;
  const sizeBytes = width / 8;
  const { long } = target;
  const at = f.temp(f.word);
  const entry = f.temp(TYPE.i32);
  const host = f.temp(TYPE.i32);
  const segment = target.segments[seg] ?? 'never';
  pushOffset();
  if (segment === 'checked') {
    c.tee(at);
    emitLimitCheck(f, at, sizeBytes, seg, stop);
    f.wrap();
    f.loadState32(STATE.seg + seg * SEG_SLOT_BYTES + 8);
    c.byte(OP.i32_add);
    if (long) c.byte(OP.i64_extend_i32_u);
  } else if (segment === 'based') {
    c.const32(target.stateBase);
    c.memory(OP.i64_load, STATE.seg + seg * SEG_SLOT_BYTES + 8);
    c.byte(OP.i64_add);
  }
  c.tee(at);
  if (aligned) {
    f.wrap();
    c.const32(sizeBytes - 1);
    c.byte(OP.i32_and);
    f.open(OP.if);
    f.exitTo(f.stopDepth, stop.vaddr, stop.giveBack);
    f.close();
    c.get(at);
  }
  emitEntry(f);
  c.tee(entry);
  c.memory(long ? OP.i64_load : OP.i32_load, target.tlbBase + tagOf(f, kind));
  c.get(at);
  if (sizeBytes > 1) {
    f.constWord(sizeBytes - 1);
    c.byte(long ? OP.i64_add : OP.i32_add);
  }
  emitPageDiffers(f);
  f.open(OP.if);
  c.get(at);
  c.const32(sizeBytes);
  c.index(OP.call, kind === 'read' ? HELPER.slowRead : HELPER.slowWrite);
  c.tee(host);
  c.byte(OP.i32_eqz);
  f.open(OP.if);
  f.exitTo(f.stopDepth, stop.vaddr, stop.giveBack);
  f.close();
  c.byte(OP.else);
  c.get(at);
  f.wrap();
  c.get(entry);
  c.memory(OP.i32_load, target.tlbBase + TLB.addend);
  c.byte(OP.i32_add);
  c.set(host);
  f.close();
  return host;
}

/** A linear address on the stack becomes the offset of its TLB entry. */
function emitEntry(f: Frame): void {
  const { c } = f;
  f.constWord(6);
  c.byte(f.target.long ? OP.i64_shr_u : OP.i32_shr_u);
  f.wrap();
  c.const32((TLB_ENTRIES - 1) << 6);
  c.byte(OP.i32_and);
}
/** A tag and a linear address on the stack become 1 if the address is not in the tag's page. */
function emitPageDiffers(f: Frame): void {
  const { c } = f;
  f.constWord(-4096);
  c.byte(f.target.long ? OP.i64_and : OP.i32_and);
  c.byte(f.target.long ? OP.i64_ne : OP.i32_ne);
}

const tagOf = (f: Frame, kind: AccessKind): number =>
  kind === 'read' ? (f.target.user ? TLB.readUser : TLB.readSup) : f.target.user ? TLB.writeUser : TLB.writeSup;

/** Pushes 1 if the inline check of an access at the linear address in `at` would miss. */
export function emitTagCheck(f: Frame, kind: AccessKind, at: number): void {
  const { c } = f;
  c.get(at);
  emitEntry(f);
  c.memory(f.target.long ? OP.i64_load : OP.i32_load, f.target.tlbBase + tagOf(f, kind));
  c.get(at);
  emitPageDiffers(f);
}

/** offset + size - 1 must not pass the inclusive limit (in 64-bit arithmetic, so that nothing wraps). */
function emitLimitCheck(f: Frame, offset: number, sizeBytes: number, seg: number, stop: StopSite): void {
  const { c } = f;
  c.get(offset);
  if (!f.target.long) c.byte(OP.i64_extend_i32_u);
  c.const64(BigInt(sizeBytes - 1));
  c.byte(OP.i64_add);
  f.loadState32(STATE.seg + seg * SEG_SLOT_BYTES + 16);
  c.byte(OP.i64_extend_i32_u);
  c.byte(OP.i64_gt_u);
  f.open(OP.if);
  f.exitTo(f.stopDepth, stop.vaddr, stop.giveBack);
  f.close();
}

export function emitLoad(f: Frame, host: number, width: Width): void {
  f.c.get(host);
  if (width === 128) f.c.simdMemory(SIMD.v128_load, 0);
  else f.c.memory(width === 8 ? OP.i32_load8_u : width === 16 ? OP.i32_load16_u : width === 32 ? OP.i32_load : OP.i64_load, 0);
}

/** Stores the value that `push` pushes. */
export function emitStore(f: Frame, host: number, width: Width, push: () => void): void {
  f.c.get(host);
  push();
  if (width === 128) f.c.simdMemory(SIMD.v128_store, 0);
  else f.c.memory(width === 8 ? OP.i32_store8 : width === 16 ? OP.i32_store16 : width === 32 ? OP.i32_store : OP.i64_store, 0);
}

/** Structural equality: a store finds the address that its probe or load already checked. */
export function sameMem(a: MemRef, b: MemRef): boolean {
  return a === b || (a.seg === b.seg && sameExpr(a.offset, b.offset));
}

export function sameExpr(a: Expr, b: Expr): boolean {
  if (a === b) return true;
  if (a.tag !== b.tag) return false;
  const left = a as unknown as Record<string, unknown>;
  const right = b as unknown as Record<string, unknown>;
  for (const key in left) {
    const x = left[key];
    const y = right[key];
    if (x === y) continue;
    if (typeof x !== 'object' || typeof y !== 'object' || x === null || y === null || !sameExpr(x as Expr, y as Expr)) return false;
  }
  return true;
}
