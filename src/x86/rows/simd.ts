// MMX, SSE and SSE2: moves, integers, shuffles, logic. What rounds is in simd-float.ts.
// Sources: SDM vol. 2, the instructions; vol. 1, chapters 9 to 11.
import { and, cmp, constant, lane, lanes, or, select, setLane, shuffle, trunc, xor } from '../expr.ts';
import type { Expr, LaneOp, LaneWidth } from '../ir.ts';
import type { Lowering, Row } from '../lower.ts';
import { begin, immediate, isMmx, isSimd, places, put, putLane, scalar, simd, vector, vectorBytes, ZERO_VECTOR } from './simd-operands.ts';
import { MOVE_ROWS } from './moves.ts';
import { SIMD_FLOAT_ROWS } from './simd-float.ts';
import { STRING_ROWS } from './strings.ts';

// -- lane by lane ------------------------------------------------------------------------------------

/** The first operand, by the second. */
const binary = (operate: (a: Expr, b: Expr, l: Lowering) => Expr): Row => simd((l) => {
  const b = vector(l, 1);
  put(l, 0, operate(vector(l, 0), b, l));
});
const of = (op: LaneOp, width: LaneWidth): Row => binary((a, b) => lanes(op, width, a, b));
const family = (prefix: string, op: LaneOp, widths: string): Record<string, Row> =>
  Object.fromEntries([...widths].map((letter) => [`${prefix}${letter}`, of(op, ({ b: 8, w: 16, d: 32, q: 64 } as const)[letter as 'b'])]));
const ONES = constant(128, (1n << 128n) - 1n);
const AND = binary(and);
const OR = binary(or);
const XOR = binary(xor);
const AND_NOT = binary((a, b) => and(xor(a, ONES), b));

/** Lanes of a saturated into the lower half of the result, those of b into the upper. */
const pack = (op: 'narrowS' | 'narrowU', width: LaneWidth): Row => binary((a, b, l) => {
  if (!isMmx(l)) return lanes(op, width, a, b);
  const both = setLane(64, 1, a, lane(64, 0, b));
  return lanes(op, width, both, both);
});

// -- shuffles ------------------------------------------------------------------------------------------

/** Elements of the lower or upper halves of a and b in turn. */
const unpack = (bytes: number, high: boolean): Row => binary((a, b, l) => {
  const half = vectorBytes(l) / 2;
  const from: number[] = [];
  for (let at = high ? half : 0; from.length < 2 * half; at += bytes) {
    for (const operand of [0, 16]) for (let i = 0; i < bytes; i++) from.push(operand + at + i);
  }
  return shuffle(places(from), a, b);
});
/** Elements by their numbers; those of the second operand start at 16 / bytes. */
const elements = (bytes: number, numbers: readonly number[]): readonly number[] => places(numbers.flatMap((n) => Array.from({ length: bytes }, (_, i) => n * bytes + i)));
const two = (selector: number, i: number): number => (selector >> (2 * i)) & 3;

/** One source, four elements selected by an immediate; `start`: which four of the eight words, or all of what there is. */
const select4 = (bytes: number, start?: number): Row => simd((l) => {
  const source = l.let(vector(l, 1));
  const selector = immediate(l, 2);
  const chosen = [0, 1, 2, 3].map((i) => (start ?? 0) + two(selector, i));
  const whole = start === undefined ? chosen : start === 0 ? [...chosen, 4, 5, 6, 7] : [0, 1, 2, 3, ...chosen];
  put(l, 0, shuffle(elements(bytes, whole), source, source));
});

/** A vector with a zero one: bytes moved by an immediate. */
const byteShift = (left: boolean): Row => simd((l) => {
  const by = Math.min(immediate(l, 1), 16);
  const from = Array.from({ length: 16 }, (_, i) => (left ? (i < by ? 16 : i - by) : i + by < 16 ? i + by : 16));
  put(l, 0, shuffle(from, vector(l, 0), ZERO_VECTOR));
});

// -- shifts ------------------------------------------------------------------------------------------

/** Counts beyond the lane give zeros, or signs. */
const shift = (op: 'shl' | 'shrU' | 'shrS', width: LaneWidth): Row => simd((l) => {
  const shifted = (a: Expr, count: Expr): Expr => ({ tag: 'laneShift', op, lane: width, a, count });
  if (l.insn.operands[1]?.kind === 'imm') {
    const count = immediate(l, 1);
    const a = vector(l, 0);
    put(l, 0, count >= width && op !== 'shrS' ? ZERO_VECTOR : shifted(a, constant(32, Math.min(count, width - 1))));
    return;
  }
  const count = l.let(lane(64, 0, vector(l, 1)));
  const beyond = cmp('ltU', constant(64, width - 1), count);
  const a = vector(l, 0);
  if (op === 'shrS') put(l, 0, shifted(a, select(beyond, constant(32, width - 1), trunc(32, count))));
  else put(l, 0, select(beyond, ZERO_VECTOR, shifted(a, and(trunc(32, count), constant(32, width - 1)))));
});
const shifts = (name: string, op: 'shl' | 'shrU' | 'shrS', letters: string): Record<string, Row> =>
  Object.fromEntries([...letters].map((letter) => [`${name}${letter}`, shift(op, ({ w: 16, d: 32, q: 64 } as const)[letter as 'w'])]));

// -- moves -------------------------------------------------------------------------------------------

const move = simd((l) => put(l, 0, vector(l, 1)));
/** The lowest element: memory and general registers to a register zero the rest. */
const moveLow = (width: LaneWidth): Row => simd((l) => put(l, 0, scalar(l, 1, width)));
/** The lowest element: a register keeps the rest of another. */
const moveScalar = (width: LaneWidth): Row => simd((l) => {
  const value = scalar(l, 1, width);
  if (l.insn.operands[0]?.kind === 'xmm' && l.insn.operands[1]?.kind === 'xmm') putLane(l, 0, 0, value);
  else put(l, 0, value);
});
/** One half of a register to or from memory. */
const moveHalf = (index: 0 | 1): Row => simd((l) => {
  if (l.isMem(1)) putLane(l, 0, index, l.load(l.ref(1), 64));
  else put(l, 0, lane(64, index, vector(l, 1)));
});
const betweenHalves = (to: 0 | 1): Row => simd((l) => putLane(l, 0, to, lane(64, 1 - to, vector(l, 1))));
const signs = (width: LaneWidth): Row => simd((l) => put(l, 0, { tag: 'laneSigns', lane: width, a: vector(l, 1) }));
const extractWord = simd((l) => put(l, 0, lane(16, immediate(l, 2) & (vectorBytes(l) / 2 - 1), vector(l, 1))));
const insertWord = simd((l) => {
  const value = l.isMem(1) ? l.load(l.ref(1), 16) : trunc(16, l.read(1));
  putLane(l, 0, immediate(l, 2) & (vectorBytes(l) / 2 - 1), value);
});
const between = (to: 'mm' | 'xmm'): Row => simd((l) => put(l, 0, to === 'xmm' ? vector(l, 1) : scalar(l, 1, 64)));

/** iced has one name for two instructions. */
const either = (vectorial: Row, other: Row | undefined): Row => (l) => (isSimd(l) ? vectorial : (other as Row))(l);
const named = (names: readonly string[], row: Row): Record<string, Row> => Object.fromEntries(names.map((name) => [name, row]));
/** Performed in TypeScript, which asks for its units itself. */
const system = (name: string): Row => (l) => {
  begin(l);
  l.system(name);
};
/** Order is kept anyway. Kernels use them without a look at CPUID (Debian's GRUB for 32-bit Xen does): there whatever it says. */
const fence: Row = () => {};

export const SIMD_ROWS: Readonly<Record<string, Row>> = {
  ...SIMD_FLOAT_ROWS,
  Cmpsd: either(SIMD_FLOAT_ROWS['Cmpsd'] as Row, STRING_ROWS['Cmpsd']),
  ...named(['Movaps', 'Movapd', 'Movdqa', 'Movups', 'Movupd', 'Movdqu', 'Movntps', 'Movntpd', 'Movntdq'], move),
  Movd: moveLow(32),
  ...named(['Movq', 'Movntq'], moveLow(64)),
  Movss: moveScalar(32),
  Movsd: either(moveScalar(64), STRING_ROWS['Movsd']),
  ...named(['Movlps', 'Movlpd'], moveHalf(0)),
  ...named(['Movhps', 'Movhpd'], moveHalf(1)),
  Movhlps: betweenHalves(0), Movlhps: betweenHalves(1),
  Movmskps: signs(32), Movmskpd: signs(64), Pmovmskb: signs(8),
  Pextrw: extractWord, Pinsrw: insertWord,
  Movq2dq: between('xmm'), Movdq2q: between('mm'),
  Movnti: (l) => {
    begin(l);
    (MOVE_ROWS['Mov'] as Row)(l);
  },

  ...named(['Pand', 'Andps', 'Andpd'], AND), ...named(['Por', 'Orps', 'Orpd'], OR), ...named(['Pxor', 'Xorps', 'Xorpd'], XOR), ...named(['Pandn', 'Andnps', 'Andnpd'], AND_NOT),
  ...family('Padd', 'add', 'bwdq'), ...family('Psub', 'sub', 'bwdq'), ...family('Padds', 'addSatS', 'bw'), ...family('Paddus', 'addSatU', 'bw'),
  ...family('Psubs', 'subSatS', 'bw'), ...family('Psubus', 'subSatU', 'bw'), ...family('Pcmpeq', 'eq', 'bwd'), ...family('Pcmpgt', 'gtS', 'bwd'),
  Pminub: of('minU', 8), Pmaxub: of('maxU', 8), Pminsw: of('minS', 16), Pmaxsw: of('maxS', 16), Pavgb: of('avgU', 8), Pavgw: of('avgU', 16),
  Pmullw: of('mul', 16), Pmulhw: of('mulHighS', 16), Pmulhuw: of('mulHighU', 16), Pmuludq: of('mulWide', 64), Pmaddwd: of('dot', 32), Psadbw: of('sad', 64),
  Packsswb: pack('narrowS', 8), Packssdw: pack('narrowS', 16), Packuswb: pack('narrowU', 8),

  Punpcklbw: unpack(1, false), Punpcklwd: unpack(2, false), Punpckldq: unpack(4, false), Punpcklqdq: unpack(8, false),
  Punpckhbw: unpack(1, true), Punpckhwd: unpack(2, true), Punpckhdq: unpack(4, true), Punpckhqdq: unpack(8, true),
  Unpcklps: unpack(4, false), Unpckhps: unpack(4, true), Unpcklpd: unpack(8, false), Unpckhpd: unpack(8, true),
  Pshufd: select4(4), Pshufw: select4(2), Pshuflw: select4(2, 0), Pshufhw: select4(2, 4),
  Shufps: binary((a, b, l) => {
    const n = immediate(l, 2);
    return shuffle(elements(4, [two(n, 0), two(n, 1), 4 + two(n, 2), 4 + two(n, 3)]), a, b);
  }),
  Shufpd: binary((a, b, l) => shuffle(elements(8, [immediate(l, 2) & 1, 2 + ((immediate(l, 2) >> 1) & 1)]), a, b)),
  ...shifts('Psll', 'shl', 'wdq'), ...shifts('Psrl', 'shrU', 'wdq'), ...shifts('Psra', 'shrS', 'wd'),
  Pslldq: byteShift(true), Psrldq: byteShift(false),

  ...Object.fromEntries(['Emms', 'Ldmxcsr', 'Stmxcsr', 'Fxsave', 'Fxrstor', 'Fxsave64', 'Fxrstor64', 'Maskmovq', 'Maskmovdqu'].map((name) => [name, system(name)])),
  ...named(['Mfence', 'Lfence', 'Sfence'], fence),
  // Looks its line up as a load of a byte does.
  Clflush: (l) => {
    begin(l);
    l.load(l.ref(0), 8);
  },
};


