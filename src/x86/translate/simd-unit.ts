// Statements of MMX and SSE: may the units be used, registers, and what MMX does to the x87 (simd/unit.ts says the same to the evaluator).
import { CR0, CR4 } from '../core.ts';
import type { SimdUnit, Stmt } from '../ir.ts';
import { STATE } from '../state-layout.ts';
import { FLAG } from '../x87/number.ts';
import { OP } from './code-buffer.ts';
import { emitFloat } from './float.ts';
import type { Frame } from './frame.ts';
import type { StatementEmitter } from './statement.ts';

export function emitSimd(s: StatementEmitter, stmt: Extract<Stmt, { do: 'unit' | 'setXmm' | 'setMm' | 'enterMmx' | 'float' }>): void {
  const { f } = s;
  switch (stmt.do) {
    case 'unit':
      return s.once(stmt.unit, () => emitUnitRefused(f, stmt.unit));
    case 'setXmm':
      s.expr(stmt.value);
      return f.c.set(f.xmm(stmt.index, true));
    case 'setMm':
      return emitSetMm(f, stmt.index, () => s.expr(stmt.value));
    case 'enterMmx':
      return emitEnterMmx(f);
    case 'float':
      return s.define(stmt.id, emitFloat(s, stmt));
  }
}

/** Pushes nonzero if the evaluator must look: it knows which exception that is, if any. */
export function emitUnitRefused(f: Frame, unit: SimdUnit): void {
  const { c } = f;
  f.loadState32(STATE.cr0);
  c.const32(CR0.EM | CR0.TS);
  c.byte(OP.i32_and);
  if (unit === 'sse') {
    f.loadState32(STATE.cr4);
    c.const32(CR4.OSFXSR);
    c.byte(OP.i32_and);
    c.const32(CR4.OSFXSR);
    c.byte(OP.i32_xor);
  } else {
    f.loadState32(STATE.fpuStatus);
    c.const32(FLAG.ES);
    c.byte(OP.i32_and);
  }
  c.byte(OP.i32_or);
}

function emitSetMm(f: Frame, index: number, push: () => void): void {
  f.c.const32(f.target.stateBase);
  push();
  f.c.memory(OP.i64_store, STATE.fpuReg + index * 16);
  f.storeState32(STATE.fpuReg + index * 16 + 8, () => f.c.const32(0xffff));
}

const TOP_MASK = 7 << 11;
function emitEnterMmx(f: Frame): void {
  f.storeState32(STATE.fpuStatus, () => {
    f.loadState32(STATE.fpuStatus);
    f.c.const32(~TOP_MASK);
    f.c.byte(OP.i32_and);
  });
  f.storeState32(STATE.fpuFull, () => f.c.const32(0xff));
}
