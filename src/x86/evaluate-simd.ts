// Statements of MMX and SSE to closures.
import type { Core } from './core.ts';
import { DONE, type StmtFn } from './evaluate.ts';
import type { ExprCompiler, Temps } from './evaluate-expr.ts';
import type { Stmt } from './ir.ts';
import { floatFunction } from './simd/float.ts';
import { enterMmx, unitRefused } from './simd/unit.ts';
import { STATE } from './state-layout.ts';

export function simdStatement(core: Core, temps: Temps, expr: ExprCompiler, stmt: Extract<Stmt, { do: 'unit' | 'setXmm' | 'setMm' | 'enterMmx' | 'float' }>): StmtFn {
  const { n, vectors } = temps;
  switch (stmt.do) {
    case 'unit':
      return () => {
        const refused = unitRefused(core, stmt.unit);
        if (refused === undefined) return DONE.next;
        core.fault = refused;
        return DONE.fault;
      };
    case 'setXmm': {
      const value = expr.vector(stmt.value);
      const at = core.s + ((STATE.xmm + stmt.index * 16) >> 2);
      return () => {
        value.run();
        vectors.give(core.u32, at, value.at);
        return DONE.next;
      };
    }
    case 'setMm': {
      const value = expr.big(stmt.value);
      const at = STATE.fpuReg + stmt.index * 16;
      return () => {
        core.view.setBigUint64(core.stateBase + at, value(), true);
        core.set32(at + 8, 0xffff);
        return DONE.next;
      };
    }
    case 'enterMmx':
      return () => {
        enterMmx(core);
        return DONE.next;
      };
    case 'float': {
      const { id } = stmt;
      const a = expr.vector(stmt.a);
      const b = expr.vector(stmt.b);
      const perform = floatFunction(core, vectors, stmt.op, stmt.format, stmt.lanes);
      const order = stmt.op.kind === 'order';
      return () => {
        a.run();
        b.run();
        if (!perform(id, a.at, b.at)) return DONE.fault;
        if (order) n[id] = vectors.u32[id * 4] as number;
        return DONE.next;
      };
    }
  }
}
