// Lowered statements to closures that run them on one core: the plain tier. It runs cold code, the
// tail of a budget and whatever translated code leaves to it, and is the translator's test oracle.
import { assert } from '../base/assert.ts';
import { unreachable } from '../base/assert.ts';
import type { Core } from './core.ts';
import { ExprCompiler, type Temps } from './evaluate-expr.ts';
import { VECTOR, type CpuExit } from './exit.ts';
import { Vectors } from './evaluate-vector.ts';
import { widthOf } from './expr.ts';
import { EFLAGS, FLAG_BIT, flagOpCode } from './flags.ts';
import type { Lowered } from './lower.ts';
import type { Stmt, StatusFlag } from './ir.ts';
import { read64, readLinear, vectorLinear, probeWrite, segmentLinear, write64, writeLinear } from './memory-access.ts';
import { enterMmx, unitRefused } from './simd/unit.ts';
import { STATE } from './state-layout.ts';
import { SYSTEM_ROWS } from './system/index.ts';

/** How an instruction ended. */
export const DONE = { next: 0, jumped: 1, fault: 2, exit: 3, repeat: 4 } as const;
export type Done = (typeof DONE)[keyof typeof DONE];
type StmtFn = () => Done;

export interface Evaluator {
  readonly core: Core;
  /** Set when a statement ended with DONE.exit. */
  exit: CpuExit | undefined;
}

const MAX_TEMPS = 64;
/** Temporaries live only within one instruction: all closures of a core share them. */
export const newTemps = (): Temps => ({ n: new Float64Array(MAX_TEMPS), big: new Array<bigint>(MAX_TEMPS).fill(0n), vectors: new Vectors(MAX_TEMPS) });

/** A function that runs the instruction (one iteration of a REP). rip is set for jumped; else the caller moves it. */
export function compile(evaluator: Evaluator, temps: Temps, lowered: Lowered): () => Done {
  assert(lowered.tempCount <= MAX_TEMPS, `${lowered.insn.code} needs ${lowered.tempCount} temporaries`);
  const compiler = new StmtCompiler(evaluator, temps, lowered);
  const body = lowered.kind === 'transfer' ? compiler.transfer(lowered.stmts) : compiler.sequence(lowered.stmts);
  return lowered.rep === undefined ? body : repeating(evaluator.core, lowered, body);
}

/** One iteration, the count, and whether it goes on. */
function repeating(core: Core, lowered: Lowered, body: StmtFn): StmtFn {
  const { countWidth, whileZf } = lowered.rep as NonNullable<Lowered['rep']>;
  const at = core.s + ((STATE.gpr + 8) >> 2);
  const mask = countWidth === 16 ? 0xffff : 0xffffffff;
  return () => {
    const count = (core.u32[at] as number) & mask;
    if (count === 0) return DONE.next;
    const done = body();
    if (done !== DONE.next) return done;
    const left = (count - 1) & mask;
    core.u32[at] = countWidth === 16 ? (((core.u32[at] as number) & ~mask) | left) >>> 0 : left >>> 0;
    if (left === 0) return DONE.next;
    if (whileZf !== undefined && core.flag(3) !== whileZf) return DONE.next;
    return DONE.repeat;
  };
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
    const core = this.#core;
    const target = this.#expr.number(last.target);
    const taken = last.do === 'branch' ? this.#expr.number(last.cond) : undefined;
    const check = (): Done => {
      if (core.csFlat || target() <= core.get32(STATE.seg + 32 + 16) || taken?.() === 0) return DONE.next;
      core.fault = { vector: VECTOR.GP, errorCode: 0 };
      return DONE.fault;
    };
    const all = stmts.map((stmt) => this.#stmt(stmt));
    return inOrder([...all.slice(0, effect), check, ...all.slice(effect)]);
  }

  sequence(stmts: readonly Stmt[]): StmtFn {
    return inOrder(stmts.map((stmt) => this.#stmt(stmt)));
  }
  #stmt(stmt: Stmt): StmtFn {
    const core = this.#core;
    const { n, big } = this.#temps;
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
          const value = this.#expr.big(stmt.value);
          return () => {
            big[id] = value();
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
        const offset = this.#expr.number(stmt.mem.offset);
        const { seg } = stmt.mem;
        const bytes = stmt.width / 8;
        return () => {
          const vaddr = segmentLinear(core, seg, offset(), bytes, true);
          return vaddr < 0 || !probeWrite(core, vaddr, bytes, core.user) ? DONE.fault : DONE.next;
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
      case 'jump': {
        const target = this.#expr.number(stmt.target);
        return () => this.#jump(target());
      }
      case 'branch': {
        const cond = this.#expr.number(stmt.cond);
        const target = this.#expr.number(stmt.target);
        return () => (cond() === 0 ? DONE.next : this.#jump(target()));
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
        return this.#simd(stmt);
      case 'system': {
        const row = SYSTEM_ROWS[stmt.row];
        assert(row !== undefined, `system row ${stmt.row} is missing`);
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

  #jump(target: number): Done {
    this.#core.set32(STATE.rip, target);
    return DONE.jumped;
  }

  #load(stmt: Extract<Stmt, { do: 'load' }>): StmtFn {
    const core = this.#core;
    const { n, big } = this.#temps;
    const offset = this.#expr.number(stmt.mem.offset);
    const { seg } = stmt.mem;
    const { id } = stmt;
    const forWrite = stmt.forWrite === true;
    const bytes = stmt.width / 8;
    if (bytes === 16) {
      const { vectors } = this.#temps;
      const aligned = stmt.aligned === true;
      return () => {
        const vaddr = vectorLinear(core, seg, offset(), false, aligned);
        return vaddr >= 0 && vectors.load(core, id, vaddr) ? DONE.next : DONE.fault;
      };
    }
    if (bytes === 8) {
      return () => {
        const vaddr = segmentLinear(core, seg, offset(), 8, forWrite);
        if (vaddr < 0 || (forWrite && !probeWrite(core, vaddr, 8, core.user))) return DONE.fault;
        const value = read64(core, vaddr, core.user);
        if (value === undefined) return DONE.fault;
        big[id] = value;
        return DONE.next;
      };
    }
    return () => {
      const vaddr = segmentLinear(core, seg, offset(), bytes, forWrite);
      if (vaddr < 0 || (forWrite && !probeWrite(core, vaddr, bytes, core.user))) return DONE.fault;
      const value = readLinear(core, vaddr, bytes, core.user);
      if (value !== value) return DONE.fault;
      n[id] = value;
      return DONE.next;
    };
  }

  #store(stmt: Extract<Stmt, { do: 'store' }>): StmtFn {
    const core = this.#core;
    const offset = this.#expr.number(stmt.mem.offset);
    const { seg } = stmt.mem;
    const bytes = stmt.width / 8;
    if (bytes === 16) {
      const value = this.#expr.vector(stmt.value);
      const { vectors } = this.#temps;
      const aligned = stmt.aligned === true;
      return () => {
        const vaddr = vectorLinear(core, seg, offset(), true, aligned);
        if (vaddr < 0 || !probeWrite(core, vaddr, 16, core.user)) return DONE.fault;
        value.run();
        return vectors.store(core, value.at, vaddr) ? DONE.next : DONE.fault;
      };
    }
    if (bytes === 8) {
      const value = this.#expr.big(stmt.value);
      return () => {
        const vaddr = segmentLinear(core, seg, offset(), 8, true);
        return vaddr < 0 || !write64(core, vaddr, value(), core.user) ? DONE.fault : DONE.next;
      };
    }
    const value = this.#expr.number(stmt.value);
    return () => {
      const vaddr = segmentLinear(core, seg, offset(), bytes, true);
      return vaddr < 0 || !writeLinear(core, vaddr, bytes, value(), core.user) ? DONE.fault : DONE.next;
    };
  }

  #simd(stmt: Extract<Stmt, { do: 'unit' | 'setXmm' | 'setMm' | 'enterMmx' }>): StmtFn {
    const core = this.#core;
    switch (stmt.do) {
      case 'unit':
        return () => {
          const refused = unitRefused(core, stmt.unit);
          if (refused === undefined) return DONE.next;
          core.fault = refused;
          return DONE.fault;
        };
      case 'setXmm': {
        const value = this.#expr.vector(stmt.value);
        const { vectors } = this.#temps;
        const at = core.s + ((STATE.xmm + stmt.index * 16) >> 2);
        return () => {
          value.run();
          vectors.give(core.u32, at, value.at);
          return DONE.next;
        };
      }
      case 'setMm': {
        const value = this.#expr.big(stmt.value);
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
    }
  }

  #setReg(stmt: Extract<Stmt, { do: 'setReg' }>): StmtFn {
    const core = this.#core;
    const { u32 } = core;
    const at = core.s + ((STATE.gpr + stmt.index * 8) >> 2);
    if (stmt.width === 64) {
      const value = this.#expr.big(stmt.value);
      const byte = at * 4;
      return () => {
        core.view.setBigUint64(byte, value(), true);
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
      const a = this.#expr.big(stmt.a);
      const b = this.#expr.big(stmt.b);
      const r = this.#expr.big(stmt.r);
      return () => {
        const [va, vb, vr] = [a(), b(), r()];
        core.set32(STATE.flagOp, code);
        core.view.setBigUint64(core.stateBase + STATE.flagA, va, true);
        core.view.setBigUint64(core.stateBase + STATE.flagB, vb, true);
        core.view.setBigUint64(core.stateBase + STATE.flagR, vr, true);
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
