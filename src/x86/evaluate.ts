// Lowered statements to closures that run them on one core: the plain tier. It runs cold code, the
// tail of a budget and whatever translated code leaves to it, and is the translator's test oracle.
import { assert } from '../base/assert.ts';
import { unreachable } from '../base/assert.ts';
import type { Core } from './core.ts';
import { isCanonical } from './address.ts';
import { ExprCompiler, type NumberFn, type Temps } from './evaluate-expr.ts';
import { splitBig, upper } from './evaluate-pair.ts';
import { VECTOR, type CpuExit } from './exit.ts';
import { simdStatement } from './evaluate-simd.ts';
import { Vectors } from './evaluate-vector.ts';
import { widthOf } from './expr.ts';
import { EFLAGS, FLAG_BIT, flagOpCode } from './flags.ts';
import { repeating } from './evaluate-repeat.ts';
import type { Lowered } from './lower.ts';
import type { Expr, MemRef, Stmt, StatusFlag } from './ir.ts';
import { alignedVector, pairHigh, readLinear, readPair, probeWrite, segmentLinear, segmentLinear64, writeLinear, writePair } from './memory-access.ts';
import { STATE } from './state-layout.ts';
import { SYSTEM_ROWS } from './system/index.ts';

/** How an instruction ended. */
export const DONE = { next: 0, jumped: 1, fault: 2, exit: 3, repeat: 4 } as const;
export type Done = (typeof DONE)[keyof typeof DONE];
export type StmtFn = () => Done;

export interface Evaluator {
  readonly core: Core;
  /** Set when a statement ended with DONE.exit. */
  exit: CpuExit | undefined;
}

const MAX_TEMPS = 64;
/** Temporaries live only within one instruction: all closures of a core share them. */
export const newTemps = (): Temps => ({ n: new Float64Array(MAX_TEMPS), lo: new Int32Array(MAX_TEMPS), hi: new Int32Array(MAX_TEMPS), vectors: new Vectors(MAX_TEMPS) });

/** A function that runs the instruction (one iteration of a REP). rip is set for jumped; else the caller moves it. */
export function compile(evaluator: Evaluator, temps: Temps, lowered: Lowered): () => Done {
  assert(lowered.tempCount <= MAX_TEMPS, () => `${lowered.insn.code} needs ${lowered.tempCount} temporaries`);
  const compiler = new StmtCompiler(evaluator, temps, lowered);
  const body = lowered.kind === 'transfer' ? compiler.transfer(lowered.stmts) : compiler.sequence(lowered.stmts);
  return lowered.rep === undefined ? body : repeating(evaluator.core, lowered, body);
}

function inOrder(fns: readonly StmtFn[]): StmtFn {
  const [a, b, c, d] = fns;
  if (a === undefined) return () => DONE.next;
  if (b === undefined) return a;
  if (c === undefined) return () => a() || b();
  if (d === undefined) return () => a() || b() || c();
  if (fns.length === 4) return () => a() || b() || c() || d();
  return () => {
    for (let i = 0; i < fns.length; i++) {
      const done = (fns[i] as StmtFn)();
      if (done !== 0) return done;
    }
    return DONE.next;
  };
}

class StmtCompiler {
  readonly #evaluator: Evaluator;
  readonly #core: Core;
  readonly #temps: Temps;
  readonly #lowered: Lowered;
  readonly #expr: ExprCompiler;

  constructor(evaluator: Evaluator, temps: Temps, lowered: Lowered) {
    this.#evaluator = evaluator;
    this.#core = evaluator.core;
    this.#temps = temps;
    this.#lowered = lowered;
    this.#expr = new ExprCompiler(evaluator.core, temps);
  }

  /** A target beyond the limit of CS faults before the transfer has any effect. */
  transfer(stmts: readonly Stmt[]): StmtFn {
    const last = stmts.at(-1);
    if (last?.do !== 'jump' && last?.do !== 'branch') return this.sequence(stmts);
    const effect = stmts.findIndex((stmt) => stmt.do === 'store' || stmt.do === 'setReg' || stmt.do === 'jump' || stmt.do === 'branch');
    const check = widthOf(last.target) === 64 ? this.#canonicalTarget(last) : this.#targetInLimit(last);
    const all = stmts.map((stmt) => this.#stmt(stmt));
    return inOrder([...all.slice(0, effect), check, ...all.slice(effect)]);
  }

  #targetInLimit(last: Extract<Stmt, { do: 'jump' | 'branch' }>): StmtFn {
    const core = this.#core;
    const target = this.#expr.number(last.target);
    const taken = last.do === 'branch' ? this.#expr.number(last.cond) : undefined;
    return () => {
      if (core.csFlat || target() <= core.get32(STATE.seg + 32 + 16) || taken?.() === 0) return DONE.next;
      core.fault = { vector: VECTOR.GP, errorCode: 0 };
      return DONE.fault;
    };
  }
  #canonicalTarget(last: Extract<Stmt, { do: 'jump' | 'branch' }>): StmtFn {
    const core = this.#core;
    const target = this.#expr.pair(last.target);
    const taken = last.do === 'branch' ? this.#expr.number(last.cond) : undefined;
    return () => {
      target();
      if (isCanonical(upper.half) || taken?.() === 0) return DONE.next;
      core.fault = { vector: VECTOR.GP, errorCode: 0 };
      return DONE.fault;
    };
  }

  /** The linear address of an access, or NaN. */
  #linear(mem: MemRef, bytes: number, write: boolean): NumberFn {
    const core = this.#core;
    const { seg } = mem;
    if (widthOf(mem.offset) !== 64) {
      const offset = this.#expr.number(mem.offset);
      return () => segmentLinear(core, seg, offset(), bytes, write);
    }
    const offset = this.#expr.pair(mem.offset);
    return () => {
      const low = offset();
      return segmentLinear64(core, seg, low, upper.half, bytes);
    };
  }

  sequence(stmts: readonly Stmt[]): StmtFn {
    return inOrder(stmts.map((stmt) => this.#stmt(stmt)));
  }
  #stmt(stmt: Stmt): StmtFn {
    const core = this.#core;
    const { n, lo, hi } = this.#temps;
    switch (stmt.do) {
      case 'let': {
        const { id } = stmt;
        if (widthOf(stmt.value) === 128) {
          const value = this.#expr.vector(stmt.value);
          const { vectors } = this.#temps;
          return () => {
            value.run();
            vectors.copy(id, value.at);
            return DONE.next;
          };
        }
        if (widthOf(stmt.value) === 64) {
          const value = this.#expr.pair(stmt.value);
          return () => {
            lo[id] = value();
            hi[id] = upper.half;
            return DONE.next;
          };
        }
        const value = this.#expr.number(stmt.value);
        return () => {
          n[id] = value();
          return DONE.next;
        };
      }
      case 'load':
        return this.#load(stmt);
      case 'store':
        return this.#store(stmt);
      case 'probe': {
        const bytes = stmt.width / 8;
        const linear = this.#linear(stmt.mem, bytes, true);
        return () => {
          const vaddr = linear();
          return vaddr !== vaddr || !probeWrite(core, vaddr, bytes, core.user) ? DONE.fault : DONE.next;
        };
      }
      case 'setReg':
        return this.#setReg(stmt);
      case 'setFlags':
        return this.#setFlags(stmt);
      case 'setFlagBits': {
        const bits = Object.entries(stmt.bits).map(([name, expr]) => ({ shift: FLAG_BIT[name as StatusFlag], value: this.#expr.number(expr) }));
        const mask = bits.reduce((all, { shift }) => all | (1 << shift), 0);
        return () => {
          let image = core.status() & ~mask;
          // All expressions see the flags as they were before.
          for (const { shift, value } of bits) image |= value() << shift;
          core.setStatus(image);
          return DONE.next;
        };
      }
      case 'setDf': {
        const { value } = stmt;
        return () => {
          const rest = core.get32(STATE.eflagsRest);
          core.set32(STATE.eflagsRest, value === 1 ? rest | EFLAGS.DF : rest & ~EFLAGS.DF);
          return DONE.next;
        };
      }
      case 'setEflags': {
        const value = this.#expr.number(stmt.value);
        const mask = this.#expr.number(stmt.mask);
        return () => {
          const bits = mask();
          core.setEflags(((core.eflags() & ~bits) | (value() & bits)) >>> 0);
          return DONE.next;
        };
      }
      case 'raiseIf': {
        const cond = this.#expr.number(stmt.cond);
        const exception = stmt.errorCode === undefined ? { vector: stmt.vector } : { vector: stmt.vector, errorCode: stmt.errorCode };
        return () => {
          if (cond() === 0) return DONE.next;
          core.fault = exception;
          return DONE.fault;
        };
      }
      case 'divideWide':
        return this.#divideWide(stmt);
      case 'jump':
        return this.#jump(stmt.target);
      case 'branch': {
        const cond = this.#expr.number(stmt.cond);
        const jump = this.#jump(stmt.target);
        return () => (cond() === 0 ? DONE.next : jump());
      }
      case 'if': {
        const cond = this.#expr.number(stmt.cond);
        const then = this.sequence(stmt.then);
        const otherwise = stmt.else === undefined ? undefined : this.sequence(stmt.else);
        return () => (cond() !== 0 ? then() : otherwise === undefined ? DONE.next : otherwise());
      }
      case 'unit':
      case 'setXmm':
      case 'setMm':
      case 'enterMmx':
      case 'float':
        return simdStatement(core, this.#temps, this.#expr, stmt);
      case 'system': {
        const row = SYSTEM_ROWS[stmt.row];
        assert(row !== undefined, () => `system row ${stmt.row} is missing`);
        const { insn } = this.#lowered;
        const evaluator = this.#evaluator;
        return () => {
          const result = row(core, insn);
          if (result === undefined) return DONE.next;
          if (result === 'jumped') return DONE.jumped;
          if (result === 'repeat') return DONE.repeat;
          if ('kind' in result) {
            evaluator.exit = result;
            return DONE.exit;
          }
          core.fault = result;
          return DONE.fault;
        };
      }
      default:
        return unreachable(stmt);
    }
  }

  #divideWide({ signed, ...stmt }: Extract<Stmt, { do: 'divideWide' }>): StmtFn {
    const core = this.#core;
    const { lo, hi } = this.#temps;
    const [high, low, by] = [this.#expr.big(stmt.high), this.#expr.big(stmt.low), this.#expr.big(stmt.by)];
    const value = (bits: bigint): bigint => (signed ? BigInt.asIntN(64, bits) : bits);
    return () => {
      const divisor = value(by());
      const dividend = value(high()) * 0x1_0000_0000_0000_0000n + low();
      const quotient = divisor === 0n ? 0n : dividend / divisor;
      if (divisor === 0n || quotient !== (signed ? BigInt.asIntN(64, quotient) : BigInt.asUintN(64, quotient))) {
        core.fault = { vector: VECTOR.DE };
        return DONE.fault;
      }
      lo[stmt.quotient] = splitBig(quotient);
      hi[stmt.quotient] = upper.half;
      lo[stmt.remainder] = splitBig(dividend % divisor);
      hi[stmt.remainder] = upper.half;
      return DONE.next;
    };
  }

  #jump(to: Expr): StmtFn {
    const core = this.#core;
    const at = core.s + (STATE.rip >> 2);
    const { u32 } = core;
    if (widthOf(to) === 64) {
      const target = this.#expr.pair(to);
      return () => {
        u32[at] = target();
        u32[at + 1] = upper.half;
        return DONE.jumped;
      };
    }
    const target = this.#expr.number(to);
    return () => {
      u32[at] = target();
      return DONE.jumped;
    };
  }

  #load(stmt: Extract<Stmt, { do: 'load' }>): StmtFn {
    const core = this.#core;
    const { n, lo, hi } = this.#temps;
    const { id } = stmt;
    const forWrite = stmt.forWrite === true;
    const bytes = stmt.width / 8;
    const linear = this.#linear(stmt.mem, bytes, forWrite);
    if (bytes === 16) {
      const { vectors } = this.#temps;
      const aligned = stmt.aligned === true;
      return () => {
        const vaddr = alignedVector(core, linear(), aligned);
        return vaddr === vaddr && vectors.load(core, id, vaddr) ? DONE.next : DONE.fault;
      };
    }
    if (bytes === 8) {
      return () => {
        const vaddr = linear();
        if (vaddr !== vaddr || (forWrite && !probeWrite(core, vaddr, 8, core.user))) return DONE.fault;
        const low = readPair(core, vaddr, core.user);
        if (low !== low) return DONE.fault;
        lo[id] = low;
        hi[id] = pairHigh.half;
        return DONE.next;
      };
    }
    return () => {
      const vaddr = linear();
      if (vaddr !== vaddr || (forWrite && !probeWrite(core, vaddr, bytes, core.user))) return DONE.fault;
      const value = readLinear(core, vaddr, bytes, core.user);
      if (value !== value) return DONE.fault;
      n[id] = value;
      return DONE.next;
    };
  }

  #store(stmt: Extract<Stmt, { do: 'store' }>): StmtFn {
    const core = this.#core;
    const bytes = stmt.width / 8;
    const linear = this.#linear(stmt.mem, bytes, true);
    if (bytes === 16) {
      const value = this.#expr.vector(stmt.value);
      const { vectors } = this.#temps;
      const aligned = stmt.aligned === true;
      return () => {
        const vaddr = alignedVector(core, linear(), aligned);
        if (vaddr !== vaddr || !probeWrite(core, vaddr, 16, core.user)) return DONE.fault;
        value.run();
        return vectors.store(core, value.at, vaddr) ? DONE.next : DONE.fault;
      };
    }
    if (bytes === 8) {
      const value = this.#expr.pair(stmt.value);
      return () => {
        const vaddr = linear();
        if (vaddr !== vaddr) return DONE.fault;
        const low = value();
        return writePair(core, vaddr, low, upper.half, core.user) ? DONE.next : DONE.fault;
      };
    }
    const value = this.#expr.number(stmt.value);
    return () => {
      const vaddr = linear();
      return vaddr !== vaddr || !writeLinear(core, vaddr, bytes, value(), core.user) ? DONE.fault : DONE.next;
    };
  }

  #setReg(stmt: Extract<Stmt, { do: 'setReg' }>): StmtFn {
    const core = this.#core;
    const { u32 } = core;
    const at = core.s + ((STATE.gpr + stmt.index * 8) >> 2);
    if (stmt.width === 64) {
      const value = this.#expr.pair(stmt.value);
      return () => {
        u32[at] = value();
        u32[at + 1] = upper.half;
        return DONE.next;
      };
    }
    const value = this.#expr.number(stmt.value);
    if (stmt.high === true) {
      return () => {
        const v = value();
        u32[at] = ((u32[at] as number) & 0xffff00ff) | (v << 8);
        return DONE.next;
      };
    }
    switch (stmt.width) {
      case 8:
        return () => {
          const v = value();
          u32[at] = ((u32[at] as number) & 0xffffff00) | v;
          return DONE.next;
        };
      case 16:
        return () => {
          const v = value();
          u32[at] = ((u32[at] as number) & 0xffff0000) | v;
          return DONE.next;
        };
      default:
        return () => {
          u32[at] = value();
          u32[at + 1] = 0;
          return DONE.next;
        };
    }
  }

  #setFlags(stmt: Extract<Stmt, { do: 'setFlags' }>): StmtFn {
    const core = this.#core;
    const code = flagOpCode(stmt.op, stmt.width);
    if (stmt.width === 64) {
      const a = this.#expr.pair(stmt.a);
      const b = this.#expr.pair(stmt.b);
      const r = this.#expr.pair(stmt.r);
      const { u32 } = core;
      const at = core.s + (STATE.flagA >> 2);
      return () => {
        const al = a();
        const ah = upper.half;
        const bl = b();
        const bh = upper.half;
        u32[at + 4] = r();
        u32[at + 5] = upper.half;
        core.set32(STATE.flagOp, code);
        u32[at] = al;
        u32[at + 1] = ah;
        u32[at + 2] = bl;
        u32[at + 3] = bh;
        return DONE.next;
      };
    }
    const a = this.#expr.number(stmt.a);
    const b = this.#expr.number(stmt.b);
    const r = this.#expr.number(stmt.r);
    return () => {
      const va = a();
      const vb = b();
      const vr = r();
      core.set32(STATE.flagOp, code);
      core.set32(STATE.flagA, va);
      core.set32(STATE.flagB, vb);
      core.set32(STATE.flagR, vr);
      return DONE.next;
    };
  }
}
