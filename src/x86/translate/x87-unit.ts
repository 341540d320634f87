// The ordinary work of the x87 in WebAssembly (../x87/quick.ts says what that is):
//
//    x87(code: i32, operand: i32) -> 0: nothing has happened, the evaluator's turn; else 1, and above bit 8 an answer
//
// `operand` is where the memory operand is in linear memory, checked already. Registers, tags, control and status word are where
// they are kept (../state-layout.ts). A sum, a difference, a product or a quotient is first had as 128 bits, hi:lo with its first
// bit on top and what is lost folded into the last one, then rounded once: exactly what ../x87/ does with bigints. A result that is
// not a normal number of its format (or a zero) is the evaluator's, and so is every exception but a masked #P.
import { CR0 } from '../core.ts';
import { FLAG_BIT } from '../flags.ts';
import { STATE } from '../state-layout.ts';
import { BIAS, FLAG } from '../x87/number.ts';
import { SOURCE, TASK } from '../x87/quick.ts';
import { CONDITIONS, CONTROL_WORD, EXCEPTIONS } from '../x87/unit.ts';
import type { Code } from './assembly.ts';
import { OP, TYPE } from './code-buffer.ts';
import { X87Arithmetic } from './x87-arithmetic.ts';
import { DOUBLE, EXP, I32_NAMES, I64_NAMES, LOCALS, SIGN, SINGLE, TOP_BIT } from './x87-words.ts';

/** The exponent of a whole number whose lowest bit is the significand's. */
const WHOLE = BIAS + 63;
const RC = { shift: 10, mask: 3, chop: 3 } as const;

/** The function's body: (i32, i32) -> i32. */
export const x87Body = (stateBase: number): Uint8Array => new X87(stateBase).body();

class X87 extends X87Arithmetic {
  body(): Uint8Array {
    const { c } = this;
    c.u32(2);
    c.u32(I32_NAMES.length);
    c.byte(TYPE.i32);
    c.u32(I64_NAMES.length);
    c.byte(TYPE.i64);
    this.#begin();
    this.when(this.op(OP.i32_ge_u, this.get('task'), this.k(TASK.statusWord)), () => this.#controlTask());
    this.#second();
    this.when(this.among('add', 'clearSign'), () => this.when(this.not(this.is('storeRegister')), () => this.readRegister(this.field('to'), 'a', 'expA')));
    this.block((done) => {
      this.when(this.is('push'), () => {
        this.place(this.k(7));
        this.refuseIf(this.op(OP.i32_and, this.get('full'), this.get('bit')));
        this.set('top', this.and(this.add(this.get('top'), this.k(7)), 7));
        this.writeRegister(this.k(0), this.get('b'), this.get('expB'));
        done();
      });
      this.when(this.is('storeRegister'), () => {
        this.writeRegister(this.field('to'), this.get('b'), this.get('expB'));
        done();
      });
      this.when(this.is('exchange'), () => {
        this.writeRegister(this.k(0), this.get('b'), this.get('expB'));
        this.writeRegister(this.field('from'), this.get('a'), this.get('expA'));
        done();
      });
      this.when(this.among('changeSign', 'clearSign'), () => {
        this.writeRegister(this.k(0), this.get('a'), this.op(OP.i32_xor, this.get('expA'), this.op(OP.i32_and, this.k(SIGN), this.or(this.get('expA'), this.op(OP.i32_shl, this.is('changeSign'), this.k(15))))));
        done();
      });
      this.when(this.is('storeExtended'), () => {
        this.store(OP.i64_store, this.get('operand'), 0, this.get('a'));
        this.store(OP.i32_store16, this.get('operand'), 8, this.get('expA'));
        done();
      });
      this.requireNumber('a', 'expA');
      this.when(this.among('add', 'compareToFlags'), () => this.requireNumber('b', 'expB'));
      this.when(this.among('compare', 'compareToFlags'), () => {
        this.#compare();
        done();
      });
      this.refuseIf(this.op(OP.i32_ne, this.and(this.get('control'), EXCEPTIONS), this.k(EXCEPTIONS)));
      this.when(this.among('storeInt16', 'storeInt64'), () => {
        this.#storeInteger();
        done();
      });
      this.refuseIf(this.and(this.get('control'), RC.mask << RC.shift));
      this.compute();
    });
    this.#finish();
    c.end();
    return c.written().slice();
  }

  #begin(): void {
    this.refuseIf(this.and(this.stateWord(STATE.cr0), CR0.EM | CR0.TS));
    this.set('status', this.stateWord(STATE.fpuStatus));
    this.set('control', this.stateWord(STATE.fpuControl));
    // Nothing is left behind, and the summary says so.
    this.refuseIf(this.or(this.and(this.get('status'), FLAG.ES | FLAG.B), this.both(this.and(this.get('status'), EXCEPTIONS), this.op(OP.i32_xor, this.get('control'), this.k(-1)))));
    this.set('full', this.stateWord(STATE.fpuFull));
    this.set('top', this.and(this.op(OP.i32_shr_u, this.get('status'), this.k(11)), 7));
    this.set('task', this.field('task'));
    this.set('cleared', this.k(FLAG.C1));
  }

  #controlTask(): void {
    const { c } = this;
    const answer = (value: Code): void => {
      value();
      c.byte(OP.return);
    };
    this.when(this.is('statusWord'), () => answer(this.or(this.k(1), this.op(OP.i32_shl, this.get('status'), this.k(8)))));
    this.when(this.is('storeStatus'), () => this.store(OP.i32_store16, this.get('operand'), 0, this.get('status')));
    this.when(this.is('storeControl'), () => this.store(OP.i32_store16, this.get('operand'), 0, this.get('control')));
    this.when(this.is('loadControl'), () => {
      this.set('n', this.or(this.and(this.memory(OP.i32_load16_u), CONTROL_WORD.keep), this.k(CONTROL_WORD.set)));
      // One that unmasks what has happened leaves an exception behind.
      this.refuseIf(this.both(this.and(this.get('status'), EXCEPTIONS), this.op(OP.i32_xor, this.get('n'), this.k(-1))));
      this.setStateWord(STATE.fpuControl, this.get('n'));
    });
    answer(this.k(1));
  }

  /** b and expB from where the code says. */
  #second(): void {
    this.block((done) => {
      const source = (name: keyof typeof SOURCE): Code => this.op(OP.i32_eq, this.field('source'), this.k(SOURCE[name]));
      const from = (name: keyof typeof SOURCE, read: () => void): void =>
        this.when(source(name), () => {
          read();
          done();
        });
      this.when(source('none'), done);
      from('register', () => this.readRegister(this.field('from'), 'b', 'expB'));
      from('double', () => {
        this.set('t', this.memory(OP.i64_load));
        this.#widen(52n, 11n, DOUBLE.rebias);
      });
      from('single', () => {
        this.set('t', this.wide(this.memory(OP.i32_load)));
        this.#widen(23n, 8n, SINGLE.rebias);
      });
      from('extended', () => {
        this.set('b', this.memory(OP.i64_load));
        this.set('expB', this.load(OP.i32_load16_u, this.get('operand'), 8));
      });
      from('one', () => {
        this.set('b', this.k64(TOP_BIT));
        this.set('expB', this.k(BIAS));
      });
      // A fresh local is zero.
      this.when(source('zero'), done);
      for (const [name, read] of [['int16', this.op(OP.i64_extend_i32_s, this.memory(OP.i32_load16_s))], ['int32', this.op(OP.i64_extend_i32_s, this.memory(OP.i32_load))], ['int64', this.memory(OP.i64_load)]] as const) {
        this.when(source(name), () => this.set('t', read));
      }
      this.when(this.isZero(this.get('t')), done);
      this.when(this.op(OP.i64_lt_s, this.get('t'), this.k64(0n)), () => {
        this.set('t', this.op(OP.i64_sub, this.k64(0n), this.get('t')));
        this.set('expB', this.k(SIGN));
      });
      const zeros = this.op(OP.i64_clz, this.get('t'));
      this.set('expB', this.or(this.get('expB'), this.sub(this.k(WHOLE), this.low32(zeros))));
      this.set('b', this.shl(this.get('t'), zeros));
    });
  }
  /** The single or double whose bits are in t. */
  #widen(fraction: bigint, expBits: bigint, rebias: number): void {
    const mask = (1 << Number(expBits)) - 1;
    this.set('exp', this.and(this.low32(this.shr(this.get('t'), this.k64(fraction))), mask));
    this.set('expB', this.op(OP.i32_shl, this.low32(this.shr(this.get('t'), this.k64(fraction + expBits))), this.k(15)));
    this.set('b', this.shl(this.get('t'), this.k64(64n - fraction)));
    this.when(this.get('exp'), () => {
      this.refuseIf(this.op(OP.i32_eq, this.get('exp'), this.k(mask)));
      this.set('b', this.or64(this.shr(this.get('b'), this.k64(1n)), this.k64(TOP_BIT)));
      this.set('expB', this.or(this.get('expB'), this.add(this.get('exp'), this.k(rebias))));
    }, () => this.refuseIf(this.some64(this.get('b'))));
  }

  #compare(): void {
    const magnitude = (exp: 'expA' | 'expB'): Code => this.and(this.get(exp), EXP);
    const sameExp = this.op(OP.i32_eq, magnitude('expA'), magnitude('expB'));
    const signs = this.op(OP.i32_xor, this.get('expA'), this.get('expB'));
    const negative = this.some(this.and(this.get('expA'), SIGN));
    // exp: equal; n: less.
    this.set('exp', this.both(this.both(sameExp, this.op(OP.i64_eq, this.get('a'), this.get('b'))), this.or(this.not(this.and(signs, SIGN)), this.isZero(this.get('a')))));
    this.set('n', this.or(this.op(OP.i32_lt_u, magnitude('expA'), magnitude('expB')), this.both(sameExp, this.op(OP.i64_lt_u, this.get('a'), this.get('b')))));
    this.when(this.and(signs, SIGN), () => this.set('n', negative), () => this.set('n', this.op(OP.i32_xor, this.get('n'), negative)));
    this.set('n', this.both(this.get('n'), this.not(this.get('exp'))));
    this.when(this.is('compareToFlags'), () => {
      this.set('cleared', this.k(0));
      this.set('answer', this.or(this.op(OP.i32_mul, this.get('exp'), this.k(1 << FLAG_BIT.zf)), this.op(OP.i32_mul, this.get('n'), this.k(1 << FLAG_BIT.cf))));
    }, () => {
      this.set('cleared', this.k(FLAG.C1 | CONDITIONS));
      this.set('flags', this.or(this.op(OP.i32_mul, this.get('exp'), this.k(FLAG.C3)), this.op(OP.i32_mul, this.get('n'), this.k(FLAG.C0))));
    });
  }

  #storeInteger(): void {
    const { c } = this;
    const rounding = this.and(this.op(OP.i32_shr_u, this.get('control'), this.k(RC.shift)), RC.mask);
    this.refuseIf(this.both(this.some(rounding), this.op(OP.i32_ne, rounding, this.k(RC.chop))));
    // n bits are behind the point: 64 and more leave nothing before it.
    this.set('n', this.sub(this.k(WHOLE), this.and(this.get('expA'), EXP)));
    this.refuseIf(this.op(OP.i32_lt_s, this.get('n'), this.k(1)));
    this.when(this.op(OP.i32_lt_s, this.get('n'), this.k(64)), () => {
      this.set('hi', this.shr(this.get('a'), this.wide(this.get('n'))));
      this.set('rest', this.shl(this.get('a'), this.back(this.get('n'))));
    }, () => {
      this.get('a')();
      this.wide(this.some64(this.get('a')))();
      this.op(OP.i32_eq, this.get('n'), this.k(64))();
      c.byte(OP.select);
      c.set(LOCALS.rest);
    });
    this.when(rounding, () => this.set('flags', this.op(OP.i32_mul, this.some64(this.get('rest')), this.k(FLAG.PE))), () => this.roundNearest());
    this.refuseIf(this.op(OP.i64_lt_s, this.get('hi'), this.k64(0n)));
    this.when(this.and(this.get('expA'), SIGN), () => this.set('hi', this.op(OP.i64_sub, this.k64(0n), this.get('hi'))));
    this.when(this.is('storeInt64'), () => this.store(OP.i64_store, this.get('operand'), 0, this.get('hi')));
    this.when(this.is('storeInt32'), () => {
      this.refuseIf(this.op(OP.i64_ne, this.op(OP.i64_extend32_s, this.get('hi')), this.get('hi')));
      this.store(OP.i32_store, this.get('operand'), 0, this.low32(this.get('hi')));
    });
    this.when(this.is('storeInt16'), () => {
      this.refuseIf(this.op(OP.i64_ne, this.op(OP.i64_extend16_s, this.get('hi')), this.get('hi')));
      this.store(OP.i32_store16, this.get('operand'), 0, this.low32(this.get('hi')));
    });
  }

  /** Pops, flags, conditions. */
  #finish(): void {
    for (const least of [1, 2]) {
      this.when(this.op(OP.i32_ge_u, this.field('pops'), this.k(least)), () => {
        this.set('full', this.both(this.get('full'), this.op(OP.i32_xor, this.op(OP.i32_shl, this.k(1), this.get('top')), this.k(-1))));
        this.set('top', this.and(this.add(this.get('top'), this.k(1)), 7));
      });
    }
    this.setStateWord(STATE.fpuFull, this.get('full'));
    const kept = this.both(this.get('status'), this.op(OP.i32_xor, this.or(this.get('cleared'), this.k(7 << 11)), this.k(-1)));
    this.setStateWord(STATE.fpuStatus, this.or(kept, this.get('flags'), this.op(OP.i32_shl, this.get('top'), this.k(11))));
    this.or(this.k(1), this.op(OP.i32_shl, this.get('answer'), this.k(8)))();
  }
}
