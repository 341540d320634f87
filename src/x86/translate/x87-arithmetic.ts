// Sums, products and quotients of the x87 in WebAssembly, and the one place where they are rounded.
import { BIAS } from '../x87/number.ts';
import type { Code } from './assembly.ts';
import { OP } from './code-buffer.ts';
import { DOUBLE, EXP, SIGN, SINGLE, TOP_BIT, X87Words } from './x87-words.ts';

export class X87Arithmetic extends X87Words {
  /** The four operations, and the stores of singles and doubles, which only round. */
  compute(): void {
    this.set('low', this.k(1));
    this.set('high', this.k(EXP - 1));
    const precision = this.and(this.op(OP.i32_shr_u, this.get('control'), this.k(8)), 3);
    this.when(this.not(precision), () => this.set('cut', this.k(SINGLE.cut)));
    this.when(this.op(OP.i32_eq, precision, this.k(2)), () => this.set('cut', this.k(DOUBLE.cut)));
    this.when(this.field('reversed'), () => this.#exchange());
    this.set('sign', this.and(this.get('expA'), SIGN));
    this.set('hi', this.get('a'));
    this.set('exp', this.and(this.get('expA'), EXP));
    this.block((rounded) => {
      this.block((round) => {
        for (const [task, { cut, low, high }] of [['storeSingle', SINGLE], ['storeDouble', DOUBLE]] as const) {
          this.when(this.is(task), () => {
            this.when(this.isZero(this.get('hi')), rounded);
            this.set('cut', this.k(cut));
            this.set('low', this.k(low));
            this.set('high', this.k(high));
            round();
          });
        }
        this.when(this.among('add', 'subtract'), () => {
          this.when(this.is('subtract'), () => this.set('expB', this.op(OP.i32_xor, this.get('expB'), this.k(SIGN))));
          this.addOrSubtract(rounded);
          round();
        });
        this.set('sign', this.and(this.op(OP.i32_xor, this.get('expA'), this.get('expB')), SIGN));
        const zeroResult = (): void => {
          this.set('hi', this.k64(0n));
          this.set('exp', this.k(0));
          rounded();
        };
        this.when(this.is('multiply'), () => {
          this.when(this.or(this.isZero(this.get('a')), this.isZero(this.get('b'))), zeroResult);
          this.#multiply();
          round();
        });
        this.refuseIf(this.isZero(this.get('b')));
        this.when(this.isZero(this.get('a')), zeroResult);
        this.#divide();
      });
      this.roundResult();
    });
    const value = this.or(this.get('sign'), this.get('exp'));
    this.when(this.among('storeSingle', 'storeDouble'), () => this.#narrow(), () => this.writeRegister(this.field('to'), this.get('hi'), value));
  }

  /** a and b, in t and n meanwhile. */
  #exchange(): void {
    this.set('t', this.get('a'));
    this.set('a', this.get('b'));
    this.set('b', this.get('t'));
    this.set('n', this.get('expA'));
    this.set('expA', this.get('expB'));
    this.set('expB', this.get('n'));
  }

  /** The larger magnitude is made a; b is shifted to where it stands. */
  addOrSubtract(zeroResult: () => void): void {
    const magnitude = (exp: 'expA' | 'expB'): Code => this.and(this.get(exp), EXP);
    const smaller = this.or(this.op(OP.i32_lt_u, magnitude('expA'), magnitude('expB')), this.both(this.op(OP.i32_eq, magnitude('expA'), magnitude('expB')), this.op(OP.i64_lt_u, this.get('a'), this.get('b'))));
    this.when(smaller, () => this.#exchange());
    // Of two zeros (the larger one is zero): their sign, or none.
    this.when(this.isZero(this.get('a')), () => {
      this.set('sign', this.and(this.both(this.get('expA'), this.get('expB')), SIGN));
      this.set('hi', this.k64(0n));
      this.set('exp', this.k(0));
      zeroResult();
    });
    this.set('sign', this.and(this.get('expA'), SIGN));
    this.set('exp', magnitude('expA'));
    this.set('n', this.sub(this.get('exp'), magnitude('expB')));
    const n = this.get('n');
    const b = this.get('b');
    // b:rest := b / 2^n.
    this.when(this.op(OP.i32_lt_u, n, this.k(64)), () => {
      this.when(n, () => {
        this.set('rest', this.shl(b, this.back(n)));
        this.set('b', this.shr(b, this.wide(n)));
      });
    }, () => {
      this.when(this.op(OP.i32_lt_u, n, this.k(128)), () => {
        this.set('rest', this.shr(b, this.wide(n)));
        this.when(this.and(n, 63), () => this.set('rest', this.or64(this.get('rest'), this.wide(this.some64(this.shl(b, this.back(n)))))));
      }, () => this.set('rest', this.wide(this.some64(b))));
      this.set('b', this.k64(0n));
    });
    this.when(this.and(this.op(OP.i32_xor, this.get('expA'), this.get('expB')), SIGN), () => {
      this.set('lo', this.op(OP.i64_sub, this.k64(0n), this.get('rest')));
      this.set('hi', this.op(OP.i64_sub, this.op(OP.i64_sub, this.get('a'), b), this.wide(this.some64(this.get('rest')))));
      this.when(this.isZero(this.get('hi')), () => {
        this.when(this.isZero(this.get('lo')), () => {
          this.set('sign', this.k(0));
          this.set('exp', this.k(0));
          zeroResult();
        });
        this.set('hi', this.get('lo'));
        this.set('lo', this.k64(0n));
        this.set('exp', this.sub(this.get('exp'), this.k(64)));
      });
      this.set('n', this.low32(this.op(OP.i64_clz, this.get('hi'))));
      this.when(n, () => {
        this.set('hi', this.or64(this.shl(this.get('hi'), this.wide(n)), this.shr(this.get('lo'), this.back(n))));
        this.set('lo', this.shl(this.get('lo'), this.wide(n)));
        this.set('exp', this.sub(this.get('exp'), n));
      });
    }, () => {
      this.set('lo', this.get('rest'));
      this.set('hi', this.op(OP.i64_add, this.get('a'), b));
      this.when(this.op(OP.i64_lt_u, this.get('hi'), this.get('a')), () => {
        this.set('lo', this.or64(this.shr(this.get('lo'), this.k64(1n)), this.op(OP.i64_and, this.get('lo'), this.k64(1n)), this.shl(this.get('hi'), this.k64(63n))));
        this.set('hi', this.or64(this.shr(this.get('hi'), this.k64(1n)), this.k64(TOP_BIT)));
        this.set('exp', this.add(this.get('exp'), this.k(1)));
      });
    });
  }

  #multiply(): void {
    const low = (x: 'a' | 'b' | 't' | 'rest' | 'lo'): Code => this.op(OP.i64_and, this.get(x), this.k64(0xffffffffn));
    const high = (x: 'a' | 'b' | 't' | 'rest' | 'lo'): Code => this.shr(this.get(x), this.k64(32n));
    const times = (x: Code, y: Code): Code => this.op(OP.i64_mul, x, y);
    const plus = (...all: Code[]): Code => all.reduce((x, y) => this.op(OP.i64_add, x, y));
    this.set('lo', times(low('a'), low('b')));
    this.set('t', plus(times(high('a'), low('b')), high('lo')));
    this.set('rest', plus(times(low('a'), high('b')), low('t')));
    this.set('hi', plus(times(high('a'), high('b')), high('t'), high('rest')));
    this.set('lo', this.or64(this.shl(this.get('rest'), this.k64(32n)), low('lo')));
    this.set('exp', this.sub(this.add(this.and(this.get('expA'), EXP), this.and(this.get('expB'), EXP)), this.k(BIAS - 1)));
    this.when(this.op(OP.i64_ge_s, this.get('hi'), this.k64(0n)), () => {
      this.set('hi', this.or64(this.shl(this.get('hi'), this.k64(1n)), this.shr(this.get('lo'), this.k64(63n))));
      this.set('lo', this.shl(this.get('lo'), this.k64(1n)));
      this.set('exp', this.sub(this.get('exp'), this.k(1)));
    });
  }

  /** A bit at a time; a is the remainder. */
  #divide(): void {
    const { c } = this;
    const a = this.get('a');
    const b = this.get('b');
    this.set('n', this.op(OP.i64_ge_u, a, b));
    this.set('exp', this.add(this.sub(this.and(this.get('expA'), EXP), this.and(this.get('expB'), EXP)), this.add(this.k(BIAS - 1), this.get('n'))));
    this.set('hi', this.wide(this.get('n')));
    this.when(this.get('n'), () => this.set('a', this.op(OP.i64_sub, a, b)));
    this.set('n', this.sub(this.k(64), this.get('n')));
    c.open(OP.loop);
    this.depth++;
    this.set('bit', this.op(OP.i64_lt_s, a, this.k64(0n)));
    this.set('a', this.shl(a, this.k64(1n)));
    this.set('hi', this.shl(this.get('hi'), this.k64(1n)));
    this.when(this.or(this.get('bit'), this.op(OP.i64_ge_u, a, b)), () => {
      this.set('a', this.op(OP.i64_sub, a, b));
      this.set('hi', this.or64(this.get('hi'), this.k64(1n)));
    });
    this.set('n', this.sub(this.get('n'), this.k(1)));
    this.get('n')();
    c.brIf(0);
    c.end();
    this.depth--;
    // Half of b, more, less or nothing is left.
    this.set('lo', this.wide(this.some64(a)));
    this.when(this.both(this.some64(a), this.op(OP.i64_ge_u, a, this.op(OP.i64_sub, b, a))), () => {
      this.set('lo', this.or64(this.k64(TOP_BIT), this.wide(this.op(OP.i64_ne, a, this.op(OP.i64_sub, b, a)))));
    });
  }

  /** hi:lo, whose first bit is on top, to 64 - cut bits. */
  roundResult(): void {
    const cut = this.get('cut');
    this.refuseIf(this.op(OP.i32_lt_s, this.get('exp'), this.get('low')));
    this.set('rest', this.get('lo'));
    this.when(cut, () => {
      this.set('rest', this.or64(this.shl(this.get('hi'), this.back(cut)), this.shr(this.get('lo'), this.wide(cut)), this.wide(this.some64(this.shl(this.get('lo'), this.back(cut))))));
      this.set('hi', this.shr(this.get('hi'), this.wide(cut)));
    });
    this.roundNearest();
    this.set('hi', this.shl(this.get('hi'), this.wide(cut)));
    // It was all ones.
    this.when(this.isZero(this.get('hi')), () => {
      this.set('hi', this.k64(TOP_BIT));
      this.set('exp', this.add(this.get('exp'), this.k(1)));
    });
    this.refuseIf(this.op(OP.i32_gt_s, this.get('exp'), this.get('high')));
  }

  #narrow(): void {
    const signAt = (bit: bigint): Code => this.shl(this.wide(this.get('sign')), this.k64(bit - 15n));
    const magnitude = (fraction: bigint, rebias: number): Code => {
      const rest = this.shr(this.shl(this.get('hi'), this.k64(1n)), this.k64(64n - fraction));
      return this.or64(rest, this.shl(this.wide(this.sub(this.get('exp'), this.op(OP.i32_mul, this.some(this.get('exp')), this.k(rebias)))), this.k64(fraction)));
    };
    this.when(this.is('storeDouble'), () => this.store(OP.i64_store, this.get('operand'), 0, this.or64(signAt(63n), magnitude(52n, DOUBLE.rebias))), () => {
      this.store(OP.i32_store, this.get('operand'), 0, this.low32(this.or64(signAt(31n), magnitude(23n, SINGLE.rebias))));
    });
  }
}
