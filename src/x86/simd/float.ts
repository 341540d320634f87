// A float statement at work: lane by lane over images, then MXCSR, then #XM or the result.
import { CR4, type Core } from '../core.ts';
import type { Vectors } from '../evaluate-vector.ts';
import { type Exception, VECTOR } from '../exit.ts';
import type { FloatFormat, FloatOp } from '../ir.ts';
import { STATE } from '../state-layout.ts';
import { PRE_FLAGS } from '../x87/number.ts';
import { ARITHMETIC, compare, orderFlags } from './float-arithmetic.ts';
import { fromInteger, reciprocal, reciprocalRoot, reformat, toInteger } from './float-convert.ts';
import { LaneOutcome, LAYOUT, MXCSR } from './float-number.ts';

const XM: Exception = { vector: VECTOR.XM };
const UD: Exception = { vector: VECTOR.UD };

/** Widths of the lanes that an operation reads of b and writes. */
export function laneWidths(op: FloatOp, format: FloatFormat): { readonly from: 32 | 64; readonly to: 32 | 64 } {
  const { bits } = LAYOUT[format];
  switch (op.kind) {
    case 'reformat':
      return { from: bits === 32 ? 64 : 32, to: bits };
    case 'fromInt':
      return { from: op.width, to: bits };
    case 'toInt':
      return { from: bits, to: op.width };
    default:
      return { from: bits, to: bits };
  }
}

type LaneFn = (out: LaneOutcome, a: bigint, b: bigint) => bigint;
function laneFunction(op: FloatOp, format: FloatFormat): LaneFn {
  const of = LAYOUT[format];
  switch (op.kind) {
    case 'compare': {
      const perform = compare(op.predicate);
      return (out, a, b) => perform(out, of, a, b);
    }
    case 'order':
      return (out, a, b) => BigInt(orderFlags(out, of, a, b, op.signalling));
    case 'reformat': {
      const from = LAYOUT[format === 'f32' ? 'f64' : 'f32'];
      return (out, _, b) => reformat(out, from, of, b);
    }
    case 'fromInt':
      return (out, _, b) => fromInteger(out, of, b, op.width);
    case 'toInt':
      return (out, _, b) => toInteger(out, of, b, op.width, op.truncate);
    case 'reciprocal':
      return (_out, _, b) => reciprocal(b);
    case 'reciprocalRoot':
      return (_out, _, b) => reciprocalRoot(b);
    default: {
      const perform = ARITHMETIC[op.kind];
      return (out, a, b) => perform(out, of, a, b);
    }
  }
}

const read = (v: Vectors, place: number, width: 32 | 64, lane: number): bigint => (width === 64 ? (v.u64[place * 2 + lane] as bigint) : BigInt(v.u32[place * 4 + lane] as number));
function write(v: Vectors, place: number, width: 32 | 64, lane: number, image: bigint): void {
  if (width === 64) v.u64[place * 2 + lane] = image;
  else v.u32[place * 4 + lane] = Number(image);
}

/** Notes flags; the exception, if an unmasked one is among them. */
function post(core: Core, outcomes: readonly LaneOutcome[]): Exception | undefined {
  const mxcsr = core.get32(STATE.mxcsr);
  const masks = (mxcsr >> MXCSR.maskShift) & MXCSR.flags;
  let flags = 0;
  for (const { flags: found } of outcomes) flags |= found & MXCSR.flags;
  // What is found before computing keeps all lanes from being computed.
  if ((flags & PRE_FLAGS & ~masks) !== 0) flags &= PRE_FLAGS;
  core.set32(STATE.mxcsr, mxcsr | flags);
  if ((flags & ~masks) === 0) return undefined;
  return (core.get32(STATE.cr4) & CR4.OSXMMEXCPT) !== 0 ? XM : UD;
}

/** A function that performs the statement: operands at places a and b, the result to place `to`; false with core.fault. */
export function floatFunction(core: Core, v: Vectors, op: FloatOp, format: FloatFormat, lanes: number): (to: number, a: number, b: number) => boolean {
  const perform = laneFunction(op, format);
  const { from, to: width } = laneWidths(op, format);
  const images = new Array<bigint>(lanes).fill(0n);
  return (to, a, b) => {
    const mxcsr = core.get32(STATE.mxcsr);
    const outcomes: LaneOutcome[] = [];
    for (let lane = 0; lane < lanes; lane++) {
      const out = new LaneOutcome(mxcsr);
      images[lane] = perform(out, read(v, a, from, lane), read(v, b, from, lane));
      outcomes.push(out);
    }
    const refused = post(core, outcomes);
    if (refused !== undefined) {
      core.fault = refused;
      return false;
    }
    v.copy(to, a);
    for (let lane = 0; lane < lanes; lane++) write(v, to, width, lane, images[lane] as bigint);
    return true;
  };
}
