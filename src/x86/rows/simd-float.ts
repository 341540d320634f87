// SSE and SSE2, what rounds and compares: arithmetic, comparisons, conversions.
// Sources: SDM vol. 2, the instructions; vol. 1, 11.4 and 11.5.
import { bit, bool, lane, zext, ZERO_VECTOR } from '../expr.ts';
import type { Expr, FloatFormat, FloatOp, LaneWidth } from '../ir.ts';
import type { Lowering, Row } from '../lower.ts';
import { immediate, put, scalar, simd, vector } from './simd-operands.ts';

interface Shape {
  readonly format: FloatFormat;
  readonly lanes: 1 | 2 | 4;
}
/** By the end of a name. */
const SHAPES: Readonly<Record<string, Shape>> = { ps: { format: 'f32', lanes: 4 }, pd: { format: 'f64', lanes: 2 }, ss: { format: 'f32', lanes: 1 }, sd: { format: 'f64', lanes: 1 } };

/** Operand as a vector of which `lanes` lanes of this width matter: memory is read no further. */
const source = (l: Lowering, at: number, width: LaneWidth, lanes: number): Expr => (lanes === 1 ? zext(128, scalar(l, at, width)) : vector(l, at));
const widthOf = (format: FloatFormat): 32 | 64 => (format === 'f32' ? 32 : 64);

/** The first operand by the second. */
const arithmetic = ({ format, lanes }: Shape, op: (l: Lowering) => FloatOp): Row => simd((l) => {
  const b = source(l, 1, widthOf(format), lanes);
  put(l, 0, l.float(op(l), format, lanes, vector(l, 0), b));
});
const family = (name: string, kind: 'add' | 'sub' | 'mul' | 'div' | 'sqrt' | 'min' | 'max' | 'reciprocal' | 'reciprocalRoot', shapes = 'ps pd ss sd'): Record<string, Row> =>
  Object.fromEntries(shapes.split(' ').map((shape) => [`${name}${shape}`, arithmetic(SHAPES[shape] as Shape, () => ({ kind }))]));

const compares = Object.fromEntries(Object.entries(SHAPES).map(([name, shape]) => [`Cmp${name}`, arithmetic(shape, (l) => ({ kind: 'compare', predicate: immediate(l, 2) & 7 }))]));

/** Into ZF, PF and CF. */
const order = (format: FloatFormat, signalling: boolean): Row => simd((l) => {
  const b = source(l, 1, widthOf(format), 1);
  const flags = l.float({ kind: 'order', signalling }, format, 1, vector(l, 0), b);
  l.flagBits({ cf: bit(flags, 0), pf: bit(flags, 2), af: bool(false), zf: bit(flags, 6), sf: bool(false), of: bool(false) });
});

/** A conversion: what is left of the destination is kept, or becomes zero. */
const convert = (op: FloatOp, format: FloatFormat, lanes: 1 | 2 | 4, from: 32 | 64, keeps: boolean): Row => simd((l) => {
  const b = source(l, 1, from, lanes);
  put(l, 0, l.float(op, format, lanes, keeps ? vector(l, 0) : ZERO_VECTOR, b));
});
/** An integer of a general register, of an operand as wide as that. */
const fromGeneral = (format: FloatFormat): Row => simd((l) => {
  const width = l.width(1) as 32 | 64;
  const b = zext(128, l.read(1));
  put(l, 0, l.float({ kind: 'fromInt', width }, format, 1, vector(l, 0), b));
});
const toGeneral = (format: FloatFormat, truncate: boolean): Row => simd((l) => {
  const width = l.width(0) as 32 | 64;
  const b = source(l, 1, widthOf(format), 1);
  put(l, 0, lane(width, 0, l.float({ kind: 'toInt', width, truncate }, format, 1, ZERO_VECTOR, b)));
});
const int = { kind: 'fromInt', width: 32 } as const;
const toInt = (truncate: boolean) => ({ kind: 'toInt', width: 32, truncate }) as const;
const REFORMAT = { kind: 'reformat' } as const;

export const SIMD_FLOAT_ROWS: Readonly<Record<string, Row>> = {
  ...family('Add', 'add'), ...family('Sub', 'sub'), ...family('Mul', 'mul'), ...family('Div', 'div'), ...family('Sqrt', 'sqrt'), ...family('Min', 'min'), ...family('Max', 'max'),
  ...family('Rcp', 'reciprocal', 'ps ss'), ...family('Rsqrt', 'reciprocalRoot', 'ps ss'),
  ...compares,
  Comiss: order('f32', true), Comisd: order('f64', true), Ucomiss: order('f32', false), Ucomisd: order('f64', false),
  Cvtss2sd: convert(REFORMAT, 'f64', 1, 32, true), Cvtsd2ss: convert(REFORMAT, 'f32', 1, 64, true),
  Cvtps2pd: convert(REFORMAT, 'f64', 2, 32, false), Cvtpd2ps: convert(REFORMAT, 'f32', 2, 64, false),
  Cvtdq2ps: convert(int, 'f32', 4, 32, false), Cvtdq2pd: convert(int, 'f64', 2, 32, false),
  Cvtpi2ps: convert(int, 'f32', 2, 32, true), Cvtpi2pd: convert(int, 'f64', 2, 32, false),
  Cvtps2dq: convert(toInt(false), 'f32', 4, 32, false), Cvttps2dq: convert(toInt(true), 'f32', 4, 32, false),
  Cvtpd2dq: convert(toInt(false), 'f64', 2, 64, false), Cvttpd2dq: convert(toInt(true), 'f64', 2, 64, false),
  Cvtps2pi: convert(toInt(false), 'f32', 2, 32, false), Cvttps2pi: convert(toInt(true), 'f32', 2, 32, false),
  Cvtpd2pi: convert(toInt(false), 'f64', 2, 64, false), Cvttpd2pi: convert(toInt(true), 'f64', 2, 64, false),
  Cvtsi2ss: fromGeneral('f32'), Cvtsi2sd: fromGeneral('f64'),
  Cvtss2si: toGeneral('f32', false), Cvttss2si: toGeneral('f32', true), Cvtsd2si: toGeneral('f64', false), Cvttsd2si: toGeneral('f64', true),
};
