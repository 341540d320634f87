// Vector expressions to closures. A vector has a place of 16 bytes in a buffer that all closures of a core
// share; running a node writes its place. Typed arrays over that buffer are the lanes.
import { assert, unreachable } from '../base/assert.ts';
import type { Core } from './core.ts';
import type { BigFn, NumberFn } from './evaluate-expr.ts';
import { widthOf } from './expr.ts';
import type { Expr, LaneOp, LaneWidth } from './ir.ts';
import { readLinear, writeLinear } from './memory-access.ts';
import { STATE } from './state-layout.ts';

/** Places for temporaries, then for the nodes of one instruction's expressions. */
const NODE_PLACES = 128;

export class Vectors {
  readonly temps: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly u64: BigUint64Array;
  readonly i8: Int8Array;
  readonly i16: Int16Array;
  readonly i32: Int32Array;

  constructor(temps: number) {
    this.temps = temps;
    const buffer = new ArrayBuffer((temps + NODE_PLACES) * 16);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.u64 = new BigUint64Array(buffer);
    this.i8 = new Int8Array(buffer);
    this.i16 = new Int16Array(buffer);
    this.i32 = new Int32Array(buffer);
  }
  unsigned(lane: 8 | 16 | 32): Uint8Array | Uint16Array | Uint32Array {
    return lane === 8 ? this.u8 : lane === 16 ? this.u16 : this.u32;
  }
  signed(lane: 8 | 16 | 32): Int8Array | Int16Array | Int32Array {
    return lane === 8 ? this.i8 : lane === 16 ? this.i16 : this.i32;
  }
  copy(to: number, from: number): void {
    for (let i = 0; i < 4; i++) this.u32[to * 4 + i] = this.u32[from * 4 + i] as number;
  }
  /** From and to the processor's memory, by word index. */
  take(to: number, words: Uint32Array, from: number): void {
    for (let i = 0; i < 4; i++) this.u32[to * 4 + i] = words[from + i] as number;
  }
  give(words: Uint32Array, to: number, from: number): void {
    for (let i = 0; i < 4; i++) words[to + i] = this.u32[from * 4 + i] as number;
  }
  /** A guest's 16 bytes, all of them or none; false with core.fault on a fault. The pages are looked up as those of any access. */
  load(core: Core, to: number, vaddr: number): boolean {
    for (let i = 0; i < 4; i++) {
      const word = readLinear(core, core.wrap(vaddr + 4 * i), 4, core.user);
      if (word !== word) return false;
      this.u32[to * 4 + i] = word;
    }
    return true;
  }
  /** The caller has probed. */
  store(core: Core, from: number, vaddr: number): boolean {
    for (let i = 0; i < 4; i++) if (!writeLinear(core, core.wrap(vaddr + 4 * i), 4, this.u32[from * 4 + i] as number, core.user)) return false;
    return true;
  }
}

/** A vector's place, and how it gets there. */
export interface VectorFn {
  readonly at: number;
  readonly run: () => void;
}
const NOTHING = (): void => {};

/** What scalar expressions the vectors of one instruction are mixed with. */
interface Scalars {
  number(expr: Expr): NumberFn;
  big(expr: Expr): BigFn;
}

export class VectorCompiler {
  readonly #core: Core;
  readonly #v: Vectors;
  readonly #scalars: Scalars;
  #used = 0;

  constructor(core: Core, vectors: Vectors, scalars: Scalars) {
    this.#core = core;
    this.#v = vectors;
    this.#scalars = scalars;
  }

  #place(): number {
    assert(this.#used < NODE_PLACES, () => `an instruction with more than ${NODE_PLACES} vectors`);
    return this.#v.temps + this.#used++;
  }

  vector(expr: Expr): VectorFn {
    const v = this.#v;
    switch (expr.tag) {
      case 'temp':
        return { at: expr.id, run: NOTHING };
      case 'const': {
        const at = this.#place();
        const low = BigInt.asUintN(64, BigInt(expr.value));
        const high = BigInt(expr.value) >> 64n;
        return { at, run: () => void ((v.u64[at * 2] = low), (v.u64[at * 2 + 1] = high)) };
      }
      case 'xmm': {
        const at = this.#place();
        const { u32, s } = this.#core;
        const from = s + ((STATE.xmm + expr.index * 16) >> 2);
        return { at, run: () => v.take(at, u32, from) };
      }
      case 'zext':
        return this.#widen(expr.a);
      case 'bin':
        return this.#bitwise(expr);
      case 'select': {
        const cond = this.#scalars.number(expr.cond);
        const then = this.vector(expr.then);
        const otherwise = this.vector(expr.else);
        const at = this.#place();
        return { at, run: () => {
          const chosen = cond() !== 0 ? then : otherwise;
          chosen.run();
          v.copy(at, chosen.at);
        } };
      }
      case 'lanes':
        return this.#lanes(expr.op, expr.lane, expr.a, expr.b);
      case 'laneShift':
        return this.#shift(expr);
      case 'shuffle':
        return this.#shuffle(expr.bytes, expr.a, expr.b);
      case 'setLane':
        return this.#setLane(expr);
      default:
        return assert(false, `${expr.tag} has no 128-bit form`) as never;
    }
  }

  #widen(a: Expr): VectorFn {
    const v = this.#v;
    const at = this.#place();
    if (widthOf(a) === 64) {
      const value = this.#scalars.big(a);
      return { at, run: () => void ((v.u64[at * 2] = value()), (v.u64[at * 2 + 1] = 0n)) };
    }
    const value = this.#scalars.number(a);
    return { at, run: () => {
      v.u64[at * 2] = 0n;
      v.u64[at * 2 + 1] = 0n;
      v.u32[at * 4] = value();
    } };
  }

  /** Both operands, then `perform` over their places. */
  #binary(left: Expr, right: Expr, perform: (to: number, a: number, b: number) => void): VectorFn {
    const a = this.vector(left);
    const b = this.vector(right);
    const at = this.#place();
    return { at, run: () => {
      a.run();
      b.run();
      perform(at, a.at, b.at);
    } };
  }

  #bitwise(expr: Extract<Expr, { tag: 'bin' }>): VectorFn {
    const { u32 } = this.#v;
    const word = { and: (a: number, b: number) => a & b, or: (a: number, b: number) => a | b, xor: (a: number, b: number) => a ^ b }[expr.op as 'and'];
    assert(word !== undefined, `${expr.op} has no 128-bit form`);
    return this.#binary(expr.a, expr.b, (to, a, b) => {
      for (let i = 0; i < 4; i++) u32[to * 4 + i] = word(u32[a * 4 + i] as number, u32[b * 4 + i] as number);
    });
  }

  #lanes(op: LaneOp, lane: LaneWidth, left: Expr, right: Expr): VectorFn {
    const v = this.#v;
    if (op === 'sad') return this.#binary(left, right, (to, a, b) => absoluteDifferences(v, to, a, b));
    if (op === 'dot') {
      return this.#binary(left, right, (to, a, b) => {
        const product = (i: number): number => (v.i16[a * 8 + i] as number) * (v.i16[b * 8 + i] as number);
        for (let i = 0; i < 4; i++) v.u32[to * 4 + i] = product(2 * i) + product(2 * i + 1);
      });
    }
    if (op === 'narrowS' || op === 'narrowU') return this.#narrow(op, lane, left, right);
    if (lane === 64) {
      const operate = LANE64[op];
      assert(operate !== undefined, () => `${op} has no lanes of 64 bits`);
      return this.#binary(left, right, (to, a, b) => {
        for (let i = 0; i < 2; i++) v.u64[to * 2 + i] = operate(v.u64[a * 2 + i] as bigint, v.u64[b * 2 + i] as bigint);
      });
    }
    const { signed, of } = LANE_OPS[op];
    const operate = of(lane);
    const from = signed ? v.signed(lane) : v.unsigned(lane);
    const into = v.unsigned(lane);
    const count = 128 / lane;
    return this.#binary(left, right, (to, a, b) => {
      for (let i = 0; i < count; i++) into[to * count + i] = operate(from[a * count + i] as number, from[b * count + i] as number);
    });
  }

  #narrow(op: 'narrowS' | 'narrowU', lane: LaneWidth, left: Expr, right: Expr): VectorFn {
    const v = this.#v;
    const half = 64 / lane;
    const [low, high] = op === 'narrowU' ? [0, 2 ** lane - 1] : [-(2 ** (lane - 1)), 2 ** (lane - 1) - 1];
    const from = v.signed(lane === 8 ? 16 : 32);
    const into = v.unsigned(lane as 8 | 16);
    return this.#binary(left, right, (to, a, b) => {
      for (let i = 0; i < half; i++) {
        into[to * half * 2 + i] = Math.min(Math.max(from[a * half + i] as number, low), high);
        into[to * half * 2 + half + i] = Math.min(Math.max(from[b * half + i] as number, low), high);
      }
    });
  }

  #shift({ op, lane, a, count }: Extract<Expr, { tag: 'laneShift' }>): VectorFn {
    const v = this.#v;
    const source = this.vector(a);
    const by = this.#scalars.number(count);
    const at = this.#place();
    if (lane === 64) {
      return { at, run: () => {
        source.run();
        const bits = BigInt(by());
        for (let i = 0; i < 2; i++) {
          const value = v.u64[source.at * 2 + i] as bigint;
          v.u64[at * 2 + i] = op === 'shl' ? value << bits : op === 'shrU' ? value >> bits : BigInt.asIntN(64, value) >> bits;
        }
      } };
    }
    const n = 128 / lane;
    const from = op === 'shrS' ? v.signed(lane) : v.unsigned(lane);
    const into = v.unsigned(lane);
    return { at, run: () => {
      source.run();
      const bits = by();
      for (let i = 0; i < n; i++) {
        const value = from[source.at * n + i] as number;
        into[at * n + i] = op === 'shl' ? value << bits : op === 'shrU' ? value >>> bits : value >> bits;
      }
    } };
  }

  #shuffle(bytes: readonly number[], left: Expr, right: Expr): VectorFn {
    const { u8 } = this.#v;
    assert(bytes.length === 16, `a shuffle of ${bytes.length} bytes`);
    return this.#binary(left, right, (to, a, b) => {
      for (let i = 0; i < 16; i++) {
        const from = bytes[i] as number;
        u8[to * 16 + i] = u8[from < 16 ? a * 16 + from : b * 16 + from - 16] as number;
      }
    });
  }

  #setLane({ lane, index, a, value }: Extract<Expr, { tag: 'setLane' }>): VectorFn {
    const v = this.#v;
    const source = this.vector(a);
    const at = this.#place();
    const put = lane === 64 ? bigSetter(v, this.#scalars.big(value)) : numberSetter(v, lane, this.#scalars.number(value));
    const where = at * (128 / lane) + index;
    return { at, run: () => {
      source.run();
      v.copy(at, source.at);
      put(where);
    } };
  }

  // -- back to scalars -----------------------------------------------------------------------------

  lane({ width, index, a }: Extract<Expr, { tag: 'lane' }>): NumberFn {
    const v = this.#v;
    const source = this.vector(a);
    assert(width !== 64, 'a lane of 64 bits is no number');
    const lanes = v.unsigned(width as 32);
    const from = source.at * (128 / width) + index;
    return () => {
      source.run();
      return lanes[from] as number;
    };
  }
  lane64(index: number, a: Expr): BigFn {
    const v = this.#v;
    const source = this.vector(a);
    return () => {
      source.run();
      return v.u64[source.at * 2 + index] as bigint;
    };
  }
  signs(lane: LaneWidth, a: Expr): NumberFn {
    const { u8 } = this.#v;
    const source = this.vector(a);
    const bytes = lane / 8;
    return () => {
      source.run();
      let bits = 0;
      for (let i = 0; i < 16 / bytes; i++) bits |= ((u8[source.at * 16 + i * bytes + bytes - 1] as number) >> 7) << i;
      return bits;
    };
  }
}

const numberSetter = (v: Vectors, lane: 8 | 16 | 32, value: NumberFn) => (where: number): void => void (v.unsigned(lane)[where] = value());
const bigSetter = (v: Vectors, value: BigFn) => (where: number): void => void (v.u64[where] = value());

function absoluteDifferences(v: Vectors, to: number, a: number, b: number): void {
  for (let half = 0; half < 2; half++) {
    let sum = 0;
    for (let i = half * 8; i < half * 8 + 8; i++) sum += Math.abs((v.u8[a * 16 + i] as number) - (v.u8[b * 16 + i] as number));
    v.u64[to * 2 + half] = BigInt(sum);
  }
}

interface LaneRule {
  readonly signed: boolean;
  /** What is stored wraps to the lane's width. */
  readonly of: (lane: number) => (a: number, b: number) => number;
}
const clamp = (low: number, high: number, value: number): number => (value < low ? low : value > high ? high : value);
const rule = (signed: boolean, perform: (a: number, b: number) => number): LaneRule => ({ signed, of: () => perform });
const saturating = (signed: boolean, perform: (a: number, b: number) => number): LaneRule => ({
  signed,
  of: (lane) => {
    const [low, high] = signed ? [-(2 ** (lane - 1)), 2 ** (lane - 1) - 1] : [0, 2 ** lane - 1];
    return (a, b) => clamp(low, high, perform(a, b));
  },
});
const upper = (signed: boolean): LaneRule => ({ signed, of: (lane) => (a, b) => Math.floor((a * b) / 2 ** lane) });
const elsewhere = (): never => unreachable('performed by a function of its own' as never);
const LANE_OPS: Readonly<Record<LaneOp, LaneRule>> = {
  add: rule(false, (a, b) => a + b), sub: rule(false, (a, b) => a - b), mul: rule(true, (a, b) => Math.imul(a, b)),
  addSatS: saturating(true, (a, b) => a + b), addSatU: saturating(false, (a, b) => a + b),
  subSatS: saturating(true, (a, b) => a - b), subSatU: saturating(false, (a, b) => a - b),
  mulHighS: upper(true), mulHighU: upper(false),
  minS: rule(true, Math.min), minU: rule(false, Math.min), maxS: rule(true, Math.max), maxU: rule(false, Math.max),
  avgU: rule(false, (a, b) => (a + b + 1) >>> 1), eq: rule(false, (a, b) => (a === b ? -1 : 0)), gtS: rule(true, (a, b) => (a > b ? -1 : 0)),
  mulWide: { signed: false, of: elsewhere }, dot: { signed: true, of: elsewhere }, sad: { signed: false, of: elsewhere },
  narrowS: { signed: true, of: elsewhere }, narrowU: { signed: true, of: elsewhere },
};
const LOW32 = 0xffff_ffffn;
const LANE64: Partial<Readonly<Record<LaneOp, (a: bigint, b: bigint) => bigint>>> = {
  add: (a, b) => a + b, sub: (a, b) => a - b, mulWide: (a, b) => (a & LOW32) * (b & LOW32),
};
