// The x87 instructions that compute: where operands come from and results go. Each row finds its
// operands, lets x87/ compute, and if no unmasked exception refuses the result writes it back.
// Sources: SDM vol. 1, chapter 8; vol. 2, the instructions. The order is law: faults of memory first,
// then a store's own exceptions, then registers and flags.
import type { Insn } from '../decode.ts';
import { add, type Binary, compare, divide, extract, multiply, remainder, roundToInteger, scale, squareRoot, subtract } from '../x87/arithmetic.ts';
import { CONSTANT_NAMES, constantFor } from '../x87/constants.ts';
import { fromDecimal, fromInteger, narrow, toDecimal, toInteger, widen } from '../x87/formats.ts';
import { DOUBLE, FLAG, type F80, INDEFINITE, KIND, kindOf, MAX_EXP, type Outcome, SINGLE, withSign, zero } from '../x87/number.ts';
import { type Angle, arctangent, cosine, sine, tangent, twoToXMinusOne, yTimesLog2, yTimesLog2Plus1 } from '../x87/transcendental.ts';
import { CONDITIONS, ONE, setTop, topOf, Unit } from '../x87/unit.ts';
import { type SystemResult, type SystemRow } from './row.ts';
import { canWrite, fault, gate, memOf, readOperand, rememberPointers, waiting, writeOperand } from './x87-memory.ts';

type Body = (unit: Unit, insn: Insn) => SystemResult;
const x87 = (body: Body): SystemRow => (core, insn) => {
  const refused = gate(core) ?? waiting(core);
  if (refused !== undefined) return refused;
  const unit = new Unit(core);
  const result = body(unit, insn);
  if (result !== undefined) return result;
  rememberPointers(core, insn);
  unit.finish();
  return undefined;
};

// -- operands --------------------------------------------------------------------------------------

const stIndex = (insn: Insn, at: number): number => {
  const operand = insn.operands[at];
  return operand?.kind === 'st' ? operand.index : 0;
};
interface MemoryFormat {
  readonly bytes: number;
  readonly read: (out: Outcome, bits: bigint) => F80;
  /** What is stored of a number. */
  readonly write: (out: Outcome, x: F80) => bigint;
}
const integer = (bits: number): MemoryFormat => ({ bytes: bits / 8, read: (_out, value) => fromInteger(BigInt.asIntN(bits, value)), write: (out, x) => toInteger(out, x, bits) });
const imageOf = (x: F80): bigint => (BigInt((x.sign << 15) | x.exp) << 64n) | x.sig;
const FORMATS: Readonly<Record<string, MemoryFormat>> = {
  m32fp: { bytes: 4, read: (out, bits) => widen(out, SINGLE, bits), write: (out, x) => narrow(out, SINGLE, x) },
  m64fp: { bytes: 8, read: (out, bits) => widen(out, DOUBLE, bits), write: (out, x) => narrow(out, DOUBLE, x) },
  m80fp: {
    bytes: 10,
    read: (_out, bits) => ({ sign: Number(bits >> 79n) & 1, exp: Number(bits >> 64n) & MAX_EXP, sig: BigInt.asUintN(64, bits) }),
    write: (_out, x) => imageOf(x),
  },
  m16int: integer(16),
  m32int: integer(32),
  m64int: integer(64),
  m80bcd: { bytes: 10, read: (_out, bits) => fromDecimal(bits), write: toDecimal },
};
const formatOf = (insn: Insn): MemoryFormat => FORMATS[insn.code.slice(insn.code.indexOf('_') + 1)] as MemoryFormat;
/** Reads the memory operand; undefined with core.fault on a fault. */
function readMemory(unit: Unit, insn: Insn): F80 | undefined {
  const mem = memOf(insn);
  const format = formatOf(insn);
  const bits = mem === undefined ? undefined : readOperand(unit.core, mem, format.bytes);
  return bits === undefined ? undefined : format.read(unit, bits);
}

// -- loads and stores ------------------------------------------------------------------------------

/** Pushes unless that is refused. */
function push(unit: Unit, x: F80): undefined {
  const value = unit.isEmpty(7) ? x : unit.overflow();
  if (!unit.refused()) unit.push(value);
  return undefined;
}
const load: Body = (unit, insn) => {
  if (memOf(insn) === undefined) {
    if (!unit.isEmpty(7)) return push(unit, INDEFINITE);
    return push(unit, unit.st(stIndex(insn, 0)));
  }
  const x = readMemory(unit, insn);
  if (x === undefined) return fault(unit.core);
  if (!unit.isEmpty(7)) return push(unit, x);
  if (insn.code.startsWith('Fld_m80') || insn.mnemonic !== 'Fld') return push(unit, x);
  const kind = kindOf(x);
  if (kind === KIND.snan) {
    unit.flags |= FLAG.IE;
    return push(unit, { ...x, sig: x.sig | (1n << 62n) });
  }
  // A denormal that is loaded is loaded, even with its exception unmasked.
  unit.push(x);
  unit.denormal(KIND.normal);
  return undefined;
};
const store = (pops: boolean): Body => (unit, insn) => {
  const { core } = unit;
  const mem = memOf(insn);
  if (mem === undefined) {
    const x = unit.st(0);
    if (unit.refused()) return undefined;
    unit.set(stIndex(insn, 0), x);
    if (pops) unit.pop();
    return undefined;
  }
  const format = formatOf(insn);
  const empty = unit.isEmpty(0);
  const x = unit.st(0);
  const bits = empty ? format.write(new Unit(core), x) : format.write(unit, x);
  // A store that will not take place faults all the same.
  if (!canWrite(core, mem, format.bytes)) return fault(core);
  if (unit.refused()) return undefined;
  // An unmasked over- or underflow has nowhere to put its result either.
  if ((unit.flags & (FLAG.OE | FLAG.UE) & ~unit.control) !== 0) {
    unit.flags &= ~(FLAG.PE | FLAG.C1);
    return undefined;
  }
  if (!writeOperand(core, mem, format.bytes, bits)) return fault(core);
  if (pops) unit.pop();
  return undefined;
};
/** FSTPNCE: an empty ST(0) is no exception, and is not moved. */
const storeQuietly: Body = (unit, insn) => {
  if (!unit.isEmpty(0)) unit.set(stIndex(insn, 0), unit.raw(0));
  unit.pop();
  return undefined;
};

// -- arithmetic ------------------------------------------------------------------------------------

const reversed = (operation: Binary): Binary => (out, a, b) => operation(out, b, a);
/** The first operand is the destination. */
const arithmetic = (operation: Binary, pops = false): Body => (unit, insn) => {
  const memory = memOf(insn) !== undefined;
  const to = memory ? 0 : stIndex(insn, 0);
  const from = memory ? 0 : stIndex(insn, 1);
  const operand = memory ? readMemory(unit, insn) : undefined;
  if (memory && operand === undefined) return fault(unit.core);
  const a = unit.st(to);
  const b = operand ?? unit.st(from);
  const result = unit.stackFault ? INDEFINITE : operation(unit, a, b);
  if (unit.refused()) return undefined;
  unit.set(to, result);
  if (pops) unit.pop();
  return undefined;
};
const ARITHMETIC: Readonly<Record<string, Binary>> = { add, sub: subtract, subr: reversed(subtract), mul: multiply, div: divide, divr: reversed(divide) };
const unary = (operation: (out: Outcome, x: F80) => F80): Body => (unit) => {
  const x = unit.st(0);
  const result = unit.stackFault ? x : operation(unit, x);
  if (!unit.refused()) unit.set(0, result);
  return undefined;
};
/** ST(0) by ST(1). */
const binary = (operation: Binary): Body => (unit) => {
  const a = unit.st(0);
  const b = unit.st(1);
  const result = unit.stackFault ? INDEFINITE : operation(unit, a, b);
  if (!unit.refused()) unit.set(0, result);
  return undefined;
};
/** C0 and C3 say something of a quotient only if there is one. */
const remaindering = (nearest: boolean): Body => (unit, insn) => {
  const hasQuotient = kindOf(unit.raw(0)) < KIND.infinite && kindOf(unit.raw(1)) <= KIND.infinite;
  unit.cleared = FLAG.C1 | FLAG.C2;
  binary(remainder(nearest))(unit, insn);
  if (hasQuotient && (unit.flags & FLAG.IE) === 0 && !unit.refused()) unit.cleared |= CONDITIONS;
  return undefined;
};
/** ST(0) and ST(1) into ST(1), popping. */
const folding = (operation: Binary): Body => (unit) => {
  const a = unit.st(0);
  const b = unit.st(1);
  const result = unit.stackFault ? INDEFINITE : operation(unit, a, b);
  if (unit.refused()) return undefined;
  unit.pop();
  unit.set(0, result);
  return undefined;
};
/** Sign only: not even a signalling NaN is asked. */
const signed = (sign: (x: F80) => number): Body => unary((_out, x) => withSign(x, sign(x)));

/** Two results: the first replaces ST(0), the second is pushed. */
function replaceAndPush(unit: Unit, results: () => readonly [F80, F80]): undefined {
  const empty = unit.isEmpty(0);
  const full = !unit.isEmpty(7);
  const pair: readonly [F80, F80] = full ? [unit.overflow(), INDEFINITE] : empty ? [unit.underflow(), INDEFINITE] : results();
  if (unit.refused()) return undefined;
  unit.set(0, pair[0]);
  unit.push(pair[1]);
  return undefined;
}
const angle = (operation: Angle): Body => (unit) => {
  const x = unit.st(0);
  const result = unit.stackFault ? x : operation(unit, x);
  unit.cleared = FLAG.C1 | FLAG.C2;
  if (result === undefined) unit.flags |= FLAG.C2;
  else if (!unit.refused()) unit.set(0, result);
  return undefined;
};
/** FSINCOS, FPTAN: with the second result pushed. */
const anglePair = (first: Angle, second: (unit: Unit, x: F80, first: F80) => F80): Body => (unit) => {
  const x = unit.raw(0);
  unit.cleared = FLAG.C1 | FLAG.C2;
  const outOfRange = !unit.isEmpty(0) && unit.isEmpty(7) && first(new Unit(unit.core), x) === undefined;
  if (outOfRange) {
    unit.flags |= FLAG.C2;
    return undefined;
  }
  return replaceAndPush(unit, () => {
    const result = first(unit, x) as F80;
    return [result, second(unit, x, result)];
  });
};

// -- comparisons -----------------------------------------------------------------------------------

interface Comparing {
  readonly quietly?: boolean;
  readonly pops?: number;
  /** Into ZF, PF, CF. */
  readonly eflags?: boolean;
}
const ZF = 0x40;
const PF = 4;
const CF = 1;
const comparison = ({ quietly = false, pops = 0, eflags = false }: Comparing, other?: F80): Body => (unit, insn) => {
  const { core } = unit;
  const memory = memOf(insn) !== undefined;
  const operand = memory ? readMemory(unit, insn) : other;
  if (memory && operand === undefined) return fault(core);
  const a = unit.st(0);
  const b = operand ?? unit.st(insn.operands.length === 0 ? 1 : stIndex(insn, insn.operands.length - 1));
  const order = unit.stackFault ? CONDITIONS : compare(unit, a, b, quietly);
  // The verdict is given even if an unmasked exception keeps the stack from being popped.
  const refused = unit.refused();
  if (eflags) {
    core.setStatus(((order & FLAG.C3) !== 0 ? ZF : 0) | ((order & FLAG.C2) !== 0 ? PF : 0) | ((order & FLAG.C0) !== 0 ? CF : 0));
    unit.cleared = unit.stackFault ? FLAG.C1 : 0;
  } else {
    unit.cleared = FLAG.C1 | CONDITIONS;
    unit.flags |= order;
  }
  for (let i = 0; i < pops && !refused; i++) unit.pop();
  return undefined;
};
/** C3, C2, C0 by KIND. */
const CLASSES = [FLAG.C3, FLAG.C3 | FLAG.C2, FLAG.C2, FLAG.C2 | FLAG.C0, FLAG.C0, FLAG.C0, 0];
const examine: Body = (unit) => {
  const x = unit.raw(0);
  unit.cleared = FLAG.C1 | CONDITIONS;
  unit.flags |= (x.sign === 1 ? FLAG.C1 : 0) | (unit.isEmpty(0) ? FLAG.C3 | FLAG.C0 : (CLASSES[kindOf(x)] as number));
  return undefined;
};

// -- moves within the stack ------------------------------------------------------------------------

const exchange: Body = (unit, insn) => {
  const i = stIndex(insn, 1);
  const a = unit.st(0);
  const b = unit.st(i);
  if (unit.refused()) return undefined;
  unit.set(0, b);
  unit.set(i, a);
  return undefined;
};
const MOVE_CONDITIONS: Readonly<Record<string, (status: number) => boolean>> = {
  b: (status) => (status & CF) !== 0,
  e: (status) => (status & ZF) !== 0,
  be: (status) => (status & (CF | ZF)) !== 0,
  u: (status) => (status & PF) !== 0,
};
const moveIf = (condition: (status: number) => boolean, sense: boolean): Body => (unit, insn) => {
  unit.st(0);
  const x = unit.st(stIndex(insn, 1));
  unit.cleared = unit.stackFault ? FLAG.C1 : 0;
  if (unit.refused()) return undefined;
  if (unit.stackFault) unit.set(0, INDEFINITE);
  else if (condition(unit.core.status()) === sense) unit.set(0, x);
  return undefined;
};
const rotate = (by: number): Body => (unit) => {
  setTop(unit.core, topOf(unit.core) + by);
  return undefined;
};
const release = (pops: boolean): Body => (unit, insn) => {
  unit.free(stIndex(insn, 0));
  if (pops) unit.pop();
  return undefined;
};

const BODIES: Readonly<Record<string, Body>> = {
  Fld: load, Fild: load, Fbld: load,
  Fst: store(false), Fist: store(false), Fstp: store(true), Fistp: store(true), Fbstp: store(true), Fstpnce: storeQuietly,
  ...Object.fromEntries(CONSTANT_NAMES.map((name): [string, Body] => [name, (unit) => push(unit, constantFor(name, unit.control))])),
  ...Object.fromEntries(Object.entries(ARITHMETIC).flatMap(([name, operation]): [string, Body][] => [[`F${name}`, arithmetic(operation)], [`F${name}p`, arithmetic(operation, true)], [`Fi${name}`, arithmetic(operation)]])),
  Fsqrt: unary(squareRoot), Frndint: unary(roundToInteger), F2xm1: unary(twoToXMinusOne), Fabs: signed(() => 0), Fchs: signed((x) => x.sign ^ 1),
  Fscale: binary(scale), Fprem: remaindering(false), Fprem1: remaindering(true),
  Fpatan: folding(arctangent), Fyl2x: folding(yTimesLog2), Fyl2xp1: folding(yTimesLog2Plus1),
  Fxtract: (unit) => replaceAndPush(unit, () => extract(unit, unit.raw(0))),
  Fsin: angle(sine), Fcos: angle(cosine),
  Fsincos: anglePair(sine, (unit, x) => cosine(unit, x) as F80),
  // A NaN is pushed twice.
  Fptan: anglePair(tangent, (_unit, _x, result) => (kindOf(result) >= KIND.qnan ? result : ONE)),
  Fcom: comparison({}), Fcomp: comparison({ pops: 1 }), Fcompp: comparison({ pops: 2 }), Ficom: comparison({}), Ficomp: comparison({ pops: 1 }),
  Fucom: comparison({ quietly: true }), Fucomp: comparison({ quietly: true, pops: 1 }), Fucompp: comparison({ quietly: true, pops: 2 }),
  Fcomi: comparison({ eflags: true }), Fcomip: comparison({ eflags: true, pops: 1 }),
  Fucomi: comparison({ eflags: true, quietly: true }), Fucomip: comparison({ eflags: true, quietly: true, pops: 1 }),
  Ftst: comparison({}, zero(0)), Fxam: examine,
  ...Object.fromEntries(Object.entries(MOVE_CONDITIONS).flatMap(([name, condition]): [string, Body][] => [[`Fcmov${name}`, moveIf(condition, true)], [`Fcmovn${name}`, moveIf(condition, false)]])),
  Fxch: exchange, Ffree: release(false), Ffreep: release(true), Fincstp: rotate(1), Fdecstp: rotate(-1),
  Fnop: (unit) => {
    unit.cleared = 0;
    return undefined;
  },
};
export const X87_ROWS: Readonly<Record<string, SystemRow>> = Object.fromEntries(Object.entries(BODIES).map(([name, body]) => [name, x87(body)]));
