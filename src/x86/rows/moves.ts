// Data movement, conditions, the stack, flags. SDM vol. 2.
import { VECTOR } from '../exit.ts';
import { EFLAGS } from '../flags.ts';
import { add, and, bin, bit, bool, cond, constant, flag, nonZero, not1, or, reg, select, sext, shl, shrU, trunc, widthOf, zext } from '../expr.ts';
import type { Lowering, Row } from '../lower.ts';
import type { Expr, MemRef, Width } from '../ir.ts';
import { SEG } from '../state-layout.ts';

/** Condition names in encoding order. iced spells some differently; both are here. */
const CONDITION_CODES: Readonly<Record<string, number>> = { o: 0, no: 1, b: 2, ae: 3, e: 4, ne: 5, be: 6, a: 7, s: 8, ns: 9, p: 10, np: 11, l: 12, ge: 13, le: 14, g: 15 };

const conditional = (prefix: string, row: (cc: number) => Row): Record<string, Row> => Object.fromEntries(Object.entries(CONDITION_CODES).map(([name, cc]) => [`${prefix}${name}`, row(cc)]));

const segmentMove: Row = (l) => l.system('movToSeg');

const pushWidth = (l: Lowering): Width => (l.insn.stackDelta === -2 ? 16 : l.insn.stackDelta === -8 ? 64 : 32);
const popWidth = (l: Lowering): Width => (l.insn.stackDelta === 2 ? 16 : l.insn.stackDelta === 8 ? 64 : 32);

/** PUSHA/POPA order: AX CX DX BX SP BP SI DI. */
const pushAll = (width: Width): Row => (l) => {
  const bytes = width / 8;
  for (let i = 0; i < 8; i++) l.stmts.push({ do: 'probe', width, mem: l.stackRef(-bytes * (i + 1)) });
  for (let i = 0; i < 8; i++) l.store(l.stackRef(-bytes * (i + 1)), reg(width, i));
  l.moveSp(-bytes * 8);
};
const popAll = (width: Width): Row => (l) => {
  const bytes = width / 8;
  const values = [7, 6, 5, -1, 3, 2, 1, 0].map((index, i) => (index < 0 ? undefined : { index, value: l.top(width, i * bytes) }));
  for (const slot of values) if (slot !== undefined) l.setReg(width, slot.index, slot.value);
  l.moveSp(bytes * 8);
};

/** BT family: the bit string's element may lie beyond the operand when the offset is a register. */
const bitTest = (change: ((value: Expr, mask: Expr) => Expr) | undefined): Row => (l) => {
  const width = l.width(0);
  const immediate = l.insn.operands[1]?.kind === 'imm';
  const offset = l.let(l.read(1, width));
  const inElement = l.let(and(offset, constant(width, width - 1)));
  let ref: MemRef | undefined;
  let value: Expr;
  if (l.isMem(0)) {
    const mem = l.mem(0);
    let at = l.offset(mem);
    if (!immediate) {
      const addressWidth = mem.addressWidth;
      const element = bin('shrS', sext(widthOf(at) > width ? widthOf(at) : width, offset), constant(widthOf(at) > width ? widthOf(at) : width, Math.log2(width)));
      const bytes = shl(element, constant(widthOf(element), Math.log2(width / 8)));
      at = add(at, trunc(widthOf(at), bytes));
      if (addressWidth < widthOf(at)) at = and(at, constant(widthOf(at), addressWidth === 16 ? 0xffff : 0xffff_ffff));
    }
    ref = { seg: mem.seg, offset: l.let(at) };
    value = change === undefined ? l.load(ref, width) : l.loadForWrite(ref, width);
  } else value = l.let(l.read(0));
  const mask = shl(constant(width, 1), inElement);
  const carry = l.let(nonZero(and(value, mask)));
  if (change !== undefined) {
    const changed = change(value, mask);
    if (ref !== undefined) l.store(ref, changed);
    else l.write(0, changed);
  }
  l.flagBits({ cf: carry });
};
const xchg: Row = (l) => {
  // The memory operand, if any, is read for writing and written before the register.
  const at = l.isMem(1) ? 1 : 0;
  const other = 1 - at;
  const a = l.let(l.readForWrite(at));
  const b = l.let(l.read(other));
  l.write(at, b);
  l.write(other, a);
};

/** Every flag but RF and VM. */
const pushFlags: Row = (l) => {
  const width = pushWidth(l);
  const image = and({ tag: 'eflags' }, constant(32, ~(EFLAGS.RF | EFLAGS.VM) >>> 0));
  l.push(width === 32 ? image : width === 64 ? zext(64, image) : trunc(16, image));
};

const bswap: Row = (l) => {
  const width = l.width(0);
  const value = l.read(0);
  const bytes = width / 8;
  let swapped: Expr | undefined;
  for (let i = 0; i < bytes; i++) {
    const byte = and(shrU(value, constant(width, i * 8)), constant(width, 0xff));
    const placed = shl(byte, constant(width, (bytes - 1 - i) * 8));
    swapped = swapped === undefined ? placed : or(swapped, placed);
  }
  // 16-bit BSWAP is undefined; processors give zero.
  l.write(0, width === 16 ? constant(16, 0) : (swapped as Expr));
};

export const MOVE_ROWS: Readonly<Record<string, Row>> = {
  Mov: (l) => {
    const [to, from] = l.insn.operands;
    if (to?.kind === 'sreg') return segmentMove(l);
    if (to?.kind === 'creg' || from?.kind === 'creg') return l.system('movCr');
    if (to?.kind === 'dreg' || from?.kind === 'dreg') return l.system('movDr');
    if (from?.kind === 'sreg') {
      const selector: Expr = { tag: 'selector', seg: from.index };
      if (to?.kind === 'mem') l.store(l.ref(0), selector);
      else l.write(0, zext(l.width(0), selector));
      return;
    }
    l.write(0, l.read(1, l.width(0)));
  },
  Movzx: (l) => l.write(0, zext(l.width(0), l.read(1))),
  Movsx: (l) => l.write(0, sext(l.width(0), l.read(1))),
  Movsxd: (l) => l.write(0, sext(l.width(0), l.read(1))),
  Lea: (l) => {
    const width = l.width(0);
    const mem = l.mem(1);
    const offset = l.offset(mem);
    l.write(0, widthOf(offset) === width ? offset : widthOf(offset) > width ? trunc(width, offset) : zext(width, offset));
  },
  Xchg: xchg,
  Bswap: bswap,
  Xlatb: (l) => {
    const width = l.insn.addressWidth;
    const at = add(reg(width, 3), zext(width, reg(8, 0)));
    const mem = l.mem(0);
    l.setReg(8, 0, l.load({ seg: mem.seg, offset: l.asOffset(at) }, 8));
  },
  ...conditional('Set', (cc) => (l) => l.write(0, zext(8, cond(cc)))),
  ...conditional('Cmov', (cc) => (l) => {
    // The source is read, and may fault, whether the condition holds or not.
    const value = l.let(l.read(1));
    l.write(0, select(cond(cc), value, l.read(0)));
  }),
  Push: (l) => {
    const operand = l.insn.operands[0];
    const width = pushWidth(l);
    // A pushed segment register writes only its 16 bits on current processors, the rest stays; zero-extending is the older, documented behaviour.
    if (operand?.kind === 'sreg') l.push(zext(width, { tag: 'selector', seg: operand.index }), width);
    else l.push(l.read(0, width), width);
  },
  Pop: (l) => {
    const operand = l.insn.operands[0];
    if (operand?.kind === 'sreg') return l.system('popSeg');
    const width = popWidth(l);
    const value = l.top(width);
    if (operand?.kind === 'mem') {
      l.store(l.ref(0, width / 8), value);
      l.moveSp(width / 8);
      return;
    }
    l.moveSp(width / 8);
    l.write(0, value);
  },
  Pusha: pushAll(16),
  Pushad: pushAll(32),
  Popa: popAll(16),
  Popad: popAll(32),
  Pushf: pushFlags,
  Pushfd: pushFlags,
  Popf: (l) => l.system('popf'),
  Popfd: (l) => l.system('popf'),
  Pushfq: pushFlags,
  Popfq: (l) => l.system('popf'),
  Lahf: (l) => l.setReg(8, 0, or(and(trunc(8, { tag: 'eflags' }), constant(8, 0xd5)), constant(8, 2)), true),
  Sahf: (l) => {
    const image = l.let(reg(8, 0, true));
    l.flagBits({ cf: bit(image, 0), pf: bit(image, 2), af: bit(image, 4), zf: bit(image, 6), sf: bit(image, 7) });
  },
  Salc: (l) => l.setReg(8, 0, select(flag('cf'), constant(8, 0xff), constant(8, 0))),
  Clc: (l) => l.flagBits({ cf: bool(false) }),
  Stc: (l) => l.flagBits({ cf: bool(true) }),
  Cmc: (l) => l.flagBits({ cf: not1(flag('cf')) }),
  Cld: (l) => void l.stmts.push({ do: 'setDf', value: 0 }),
  Std: (l) => void l.stmts.push({ do: 'setDf', value: 1 }),
  Bt: bitTest(undefined),
  Bts: bitTest((value, mask) => or(value, mask)),
  Btr: bitTest((value, mask) => and(value, { tag: 'un', op: 'not', width: widthOf(mask), a: mask })),
  Btc: bitTest((value, mask) => bin('xor', value, mask)),
  Bound: (l) => {
    const width = l.width(0);
    const index = l.read(0);
    const ref = l.ref(1);
    const held = l.let(ref.offset);
    const lower = l.load({ seg: ref.seg, offset: held }, width);
    const upper = l.load({ seg: ref.seg, offset: add(held, constant(widthOf(held), width / 8)) }, width);
    l.raiseIf({ tag: 'cmp', op: 'ltS', a: index, b: lower }, VECTOR.BR);
    l.raiseIf({ tag: 'cmp', op: 'ltS', a: upper, b: index }, VECTOR.BR);
  },
  Leave: (l) => {
    const width = popWidthOfLeave(l);
    const frame = reg(l.stackWidth, 5);
    const value = l.load({ seg: SEG.ss, offset: l.asOffset(frame) }, width);
    l.setReg(l.stackWidth, 4, add(frame, constant(l.stackWidth, width / 8)));
    l.setReg(width, 5, value);
  },
  Nop: () => {},
  Pause: () => {},
  Fnop: () => {},
  Endbr32: () => {},
  Endbr64: () => {},
  Reservednop: () => {},
  Prefetchwt1: () => {},
  PrefetchReserved: () => {},
  Prefetchw: () => {},
  Prefetcht0: () => {},
  Prefetcht1: () => {},
  Prefetcht2: () => {},
  Prefetchnta: () => {},
  Prefetch: () => {},
};

function popWidthOfLeave(l: Lowering): Width {
  return l.insn.code === 'Leavew' ? 16 : l.insn.code === 'Leaveq' ? 64 : 32;
}
