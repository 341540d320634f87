// Status flags by producer. An arithmetic instruction does not compute six flags: it leaves behind
// which producer it was and its operands (a, b, r of one width), and whoever needs a flag computes
// that one. These rows are the only place that says how.
//
// `cond` holds direct forms of condition codes for producers where they are shorter than the flags'
// own definition (a comparison instead of SF != OF); the tests hold them against the definition.
// Source: Intel SDM vol. 2, the "Flags Affected" of each instruction; AMD APM vol. 3 likewise.
import { assert } from '../base/assert.ts';
import { and, bit, bool, cmp, constant, eq, isZero, ltU, mul, mulHigh64, ne, not, not1, or, or1, sext, shrS, signBit, trunc, un, xor, xor1, widthOf } from './expr.ts';
import type { Expr, StatusFlag, Width } from './ir.ts';

export const STATUS_FLAGS = ['cf', 'pf', 'af', 'zf', 'sf', 'of'] as const satisfies readonly StatusFlag[];
/** Bit of each status flag in eflags. */
export const FLAG_BIT: Readonly<Record<StatusFlag, number>> = { cf: 0, pf: 2, af: 4, zf: 6, sf: 7, of: 11 };
export const STATUS_MASK = 0x8d5;
export const EFLAGS = { TF: 0x100, IF: 0x200, DF: 0x400, IOPL: 0x3000, NT: 0x4000, RF: 0x10000, VM: 0x20000, AC: 0x40000, VIF: 0x80000, VIP: 0x100000, ID: 0x200000 } as const;

type Rule = (a: Expr, b: Expr, r: Expr) => Expr;
export interface FlagRow extends Readonly<Record<StatusFlag, Rule>> {
  /** Condition codes (even ones; odd ones are their negations) with a shorter form. */
  readonly cond?: Readonly<Record<number, Rule>>;
}

const zero: Rule = () => bool(false);
const resultZero: Rule = (_a, _b, r) => isZero(r);
const resultSign: Rule = (_a, _b, r) => signBit(r);
const resultParity: Rule = (_a, _b, r) => isZero(and(un('popcnt', trunc(8, r)), constant(8, 1)));
const halfCarry: Rule = (a, b, r) => bit(xor(xor(a, b), r), 4);
const addOverflow: Rule = (a, b, r) => signBit(and(xor(a, r), xor(b, r)));
const subOverflow: Rule = (a, b, r) => signBit(and(xor(a, b), xor(a, r)));
const nibbleIs = (value: number): Rule => (_a, _b, r) => eq(and(r, constant(widthOf(r), 15)), constant(widthOf(r), value));
const lowBit = (of: (a: Expr, b: Expr) => Expr): Rule => (a, b) => bit(of(a, b), 0);
const ofResult = { zf: resultZero, sf: resultSign, pf: resultParity };
const minOf = (r: Expr): Expr => constant(widthOf(r), 1n << BigInt(widthOf(r) - 1));
const maxOf = (r: Expr): Expr => constant(widthOf(r), (1n << BigInt(widthOf(r) - 1)) - 1n);

const productOverflow: Rule = (a, b, r) => {
  const width = widthOf(r);
  if (width === 64) return ne(mulHigh64(true, a, b, (value) => value), shrS(r, constant(64, 63)));
  const wide = (width * 2) as Width;
  return ne(sext(wide, r), mul(sext(wide, a), sext(wide, b)));
};

/** Append only: the position is the producer's number in STATE.flagOp. */
export const FLAG_ROWS: Readonly<Record<string, FlagRow>> = {
  /** r is the image of the status bits as in eflags. */
  explicit: { cf: (_a, _b, r) => bit(r, 0), pf: (_a, _b, r) => bit(r, 2), af: (_a, _b, r) => bit(r, 4), zf: (_a, _b, r) => bit(r, 6), sf: (_a, _b, r) => bit(r, 7), of: (_a, _b, r) => bit(r, 11) },
  add: { ...ofResult, cf: (a, _b, r) => ltU(r, a), af: halfCarry, of: addOverflow },
  adc: { ...ofResult, cf: (a, b, r) => signBit(or(and(a, b), and(or(a, b), not(r)))), af: halfCarry, of: addOverflow },
  sub: {
    ...ofResult, cf: (a, b) => ltU(a, b), af: halfCarry, of: subOverflow,
    cond: { 2: (a, b) => ltU(a, b), 4: (a, b) => eq(a, b), 6: (a, b) => cmp('leU', a, b), 12: (a, b) => cmp('ltS', a, b), 14: (a, b) => cmp('leS', a, b) },
  },
  sbb: { ...ofResult, cf: (a, b, r) => signBit(or(and(not(a), b), and(or(not(a), b), r))), af: halfCarry, of: subOverflow },
  logic: {
    ...ofResult, cf: zero, af: zero, of: zero,
    cond: { 6: resultZero, 12: resultSign, 14: (_a, _b, r) => cmp('leS', r, constant(widthOf(r), 0)) },
  },
  /** b is the carry before: INC and DEC keep it. */
  inc: { ...ofResult, cf: lowBit((_a, b) => b), af: nibbleIs(0), of: (_a, _b, r) => eq(r, minOf(r)) },
  dec: { ...ofResult, cf: lowBit((_a, b) => b), af: nibbleIs(15), of: (_a, _b, r) => eq(r, maxOf(r)) },
  /** Shifts and multiplications: a is CF, b is OF (both in bit 0), AF is 0. */
  given: { ...ofResult, cf: lowBit((a) => a), af: zero, of: lowBit((_a, b) => b) },
  /** Signed multiplication to one register: does the product differ from its lower half? */
  imul: { ...ofResult, cf: productOverflow, af: zero, of: productOverflow },
};
export const FLAG_OPS: readonly string[] = Object.keys(FLAG_ROWS);

const WIDTH_CODE: Partial<Record<Width, number>> = { 8: 0, 16: 1, 32: 2, 64: 3 };
const CODE_WIDTH: readonly Width[] = [8, 16, 32, 64];
/** STATE.flagOp of a producer at a width. */
export function flagOpCode(op: string, width: Width): number {
  const number = FLAG_OPS.indexOf(op);
  const code = WIDTH_CODE[width];
  assert(number >= 0 && code !== undefined, () => `no flag producer ${op} at width ${width}`);
  return number * 4 + code;
}
export const flagOpOf = (code: number): { readonly op: string; readonly width: Width } => ({ op: FLAG_OPS[code >> 2] as string, width: CODE_WIDTH[code & 3] as Width });
/** flagOpCode('explicit', 32): the canonical form. */
export const EXPLICIT = 2;

/** Condition codes 0, 2, .. 14 over single flags; odd codes negate. */
const CONDITIONS: readonly ((get: (flag: StatusFlag) => Expr) => Expr)[] = [
  (get) => get('of'),
  (get) => get('cf'),
  (get) => get('zf'),
  (get) => or1(get('cf'), get('zf')),
  (get) => get('sf'),
  (get) => get('pf'),
  (get) => xor1(get('sf'), get('of')),
  (get) => or1(get('zf'), xor1(get('sf'), get('of'))),
];

/** Condition code `cc` over whatever delivers single flags. */
export function conditionOf(cc: number, get: (flag: StatusFlag) => Expr): Expr {
  const base = (CONDITIONS[cc >> 1] as (typeof CONDITIONS)[number])(get);
  return (cc & 1) === 0 ? base : not1(base);
}

/** Condition code `cc` straight from a producer's operands, by the short form where there is one. */
export function conditionFrom(op: string, cc: number, a: Expr, b: Expr, r: Expr): Expr {
  const row = FLAG_ROWS[op] as FlagRow;
  const short = row.cond?.[cc & ~1];
  if (short === undefined) return conditionOf(cc, (name) => row[name](a, b, r));
  const value = short(a, b, r);
  return (cc & 1) === 0 ? value : negated(value);
}

function negated(value: Expr): Expr {
  if (value.tag !== 'cmp') return not1(value);
  const { op, a, b } = value;
  switch (op) {
    case 'eq':
      return ne(a, b);
    case 'ne':
      return eq(a, b);
    case 'ltU':
      return cmp('leU', b, a);
    case 'leU':
      return cmp('ltU', b, a);
    case 'ltS':
      return cmp('leS', b, a);
    case 'leS':
      return cmp('ltS', b, a);
  }
}

