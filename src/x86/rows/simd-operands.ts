// Operands of MMX and SSE rows. Everything is a vector of 16 bytes; an MMX register is one whose upper half
// is zero, and of the result only the lower half is kept. So most rows are written once for both.
import { lane, mm, setLane, trunc, widthOf, xmm, zext, ZERO_VECTOR } from '../expr.ts';
import type { Expr, LaneWidth, SimdUnit } from '../ir.ts';
import type { Lowering, Row } from '../lower.ts';

/** No #GP for an address that is no multiple of 16. */
const UNALIGNED: ReadonlySet<string> = new Set(['Movups', 'Movupd', 'Movdqu']);

const uses = (l: Lowering, kind: 'mm' | 'xmm'): boolean => l.insn.operands.some((operand) => operand.kind === kind);
export const isMmx = (l: Lowering): boolean => uses(l, 'mm');
export const isSimd = (l: Lowering): boolean => uses(l, 'mm') || uses(l, 'xmm');
/** Bytes of a packed operand. */
export const vectorBytes = (l: Lowering): 8 | 16 => (isMmx(l) ? 8 : 16);

/** What comes first in every instruction of these units. */
export function begin(l: Lowering, ...units: readonly SimdUnit[]): void {
  l.simd = true;
  for (const unit of units) l.stmts.push({ do: 'unit', unit });
}
/** The units of its operands. */
export const unitsOf = (l: Lowering): readonly SimdUnit[] => (uses(l, 'xmm') ? (isMmx(l) ? ['sse', 'mmx'] : ['sse']) : ['mmx']);
/** A row between what comes first and, for MMX, last. */
export const simd = (body: (l: Lowering) => void): Row => (l) => {
  begin(l, ...unitsOf(l));
  body(l);
  if (isMmx(l)) l.stmts.push({ do: 'enterMmx' });
};

/** Operand as a vector; what it has not is zero. */
export function vector(l: Lowering, at: number): Expr {
  const operand = l.insn.operands[at];
  if (operand?.kind === 'xmm') return xmm(operand.index);
  if (operand?.kind === 'mm') return zext(128, mm(operand.index));
  if (operand?.kind === 'mem') {
    const width = l.width(at);
    return zext(128, l.load(l.ref(at), width, width === 128 && !UNALIGNED.has(l.insn.mnemonic)));
  }
  return zext(128, l.read(at, 32));
}
/** The lowest lane of an operand, or a general register, or memory. */
export function scalar(l: Lowering, at: number, width: LaneWidth): Expr {
  const operand = l.insn.operands[at];
  if (operand?.kind === 'xmm') return lane(width, 0, xmm(operand.index));
  if (operand?.kind === 'mm') return width === 64 ? mm(operand.index) : trunc(width, mm(operand.index));
  return operand?.kind === 'mem' ? l.load(l.ref(at), width) : l.read(at);
}

/** Replaces the operand: all of a register; memory of the value's width. */
export function put(l: Lowering, at: number, value: Expr): void {
  const operand = l.insn.operands[at];
  const width = widthOf(value);
  if (operand?.kind === 'xmm') l.stmts.push({ do: 'setXmm', index: operand.index, value: zext(128, value) });
  else if (operand?.kind === 'mm') l.stmts.push({ do: 'setMm', index: operand.index, value: width === 128 ? lane(64, 0, value) : zext(64, value) });
  else if (operand?.kind === 'mem' && width === 128 && !UNALIGNED.has(l.insn.mnemonic)) l.stmts.push({ do: 'store', width, mem: l.ref(at), value, aligned: true });
  else if (operand?.kind === 'mem') l.store(l.ref(at), value);
  else l.write(at, zext(l.width(at), value));
}
/** Replaces one lane of a register. */
export function putLane(l: Lowering, at: number, index: number, value: Expr): void {
  const width = widthOf(value) as LaneWidth;
  put(l, at, setLane(width, index, vector(l, at), value));
}

/** Sixteen places, those beyond the given ones of no matter. */
export const places = (given: readonly number[]): readonly number[] => [...given, ...new Array<number>(16 - given.length).fill(0)];
export const immediate = (l: Lowering, at: number): number => {
  const operand = l.insn.operands[at];
  return operand?.kind === 'imm' ? Number(operand.value & 0xffn) : 0;
};
export { ZERO_VECTOR };
