// String instructions: one iteration each; `rep` says how they repeat.
import { add, constant, reg, select, sub } from '../expr.ts';
import type { Lowering, Row } from '../lower.ts';
import type { Expr, MemRef, Width } from '../ir.ts';

const RSI = 6;
const RDI = 7;

const stringRef = (l: Lowering, at: number): MemRef => {
  const mem = l.mem(at);
  return { seg: mem.seg, offset: l.let(l.offset(mem)) };
};

/** Moves SI or DI by the element, up or down. */
function step(l: Lowering, register: number, bytes: number): void {
  const width = l.insn.addressWidth;
  const delta = select({ tag: 'df' }, constant(width, -bytes), constant(width, bytes));
  l.setReg(width, register, add(reg(width, register), delta));
}

function repeats(l: Lowering, comparing: boolean): void {
  const { rep, repne, addressWidth } = l.insn;
  if (!rep && !repne) return;
  l.rep = comparing ? { countWidth: addressWidth, whileZf: repne ? 0 : 1 } : { countWidth: addressWidth };
}

const elementWidth = (l: Lowering): Width => ({ b: 8, w: 16, d: 32, q: 64 })[l.insn.mnemonic.at(-1) as 'b'] as Width;

const movs: Row = (l) => {
  if (l.insn.operands.some((operand) => operand.kind === 'other')) return;
  const width = elementWidth(l);
  const value = l.load(stringRef(l, 1), width);
  l.store(stringRef(l, 0), value);
  step(l, RSI, width / 8);
  step(l, RDI, width / 8);
  repeats(l, false);
};
const cmps: Row = (l) => {
  const width = elementWidth(l);
  const a = l.load(stringRef(l, 0), width);
  const b = l.load(stringRef(l, 1), width);
  const r = l.let(sub(a, b));
  step(l, RSI, width / 8);
  step(l, RDI, width / 8);
  l.flags('sub', a, b, r);
  repeats(l, true);
};
const stos: Row = (l) => {
  const width = elementWidth(l);
  l.store(stringRef(l, 0), reg(width, 0));
  step(l, RDI, width / 8);
  repeats(l, false);
};
const lods: Row = (l) => {
  const width = elementWidth(l);
  const value = l.load(stringRef(l, 1), width);
  l.setReg(width, 0, value);
  step(l, RSI, width / 8);
  repeats(l, false);
};
const scas: Row = (l) => {
  const width = elementWidth(l);
  const b = l.load(stringRef(l, 1), width);
  const a: Expr = l.let(reg(width, 0));
  const r = l.let(sub(a, b));
  step(l, RDI, width / 8);
  l.flags('sub', a, b, r);
  repeats(l, true);
};

const sizes = (name: string, row: Row): Record<string, Row> => Object.fromEntries(['b', 'w', 'd', 'q'].map((size) => [`${name}${size}`, row]));

export const STRING_ROWS: Readonly<Record<string, Row>> = {
  ...sizes('Movs', movs),
  ...sizes('Cmps', cmps),
  ...sizes('Stos', stos),
  ...sizes('Lods', lods),
  ...sizes('Scas', scas),
};
