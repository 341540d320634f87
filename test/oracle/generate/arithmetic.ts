// Cases for the arithmetic rows: ALU, shifts and rotates, multiply and divide, BCD.
import { type Draft, type Form, type Maker, type Place, type Size, SIZES } from './maker.ts';
import { EDGES, type Rng } from '../environment.ts';

const byteOf = (size: Size): number => (size === 8 ? 0 : 1);
const imm = (size: Size): readonly Size[] => [size];

/** ADD OR ADC SBB AND SUB XOR CMP; TEST, NOT, NEG, INC, DEC. */
export function alu(m: Maker): void {
  for (let op = 0; op < 8; op++) {
    for (const size of SIZES) {
      const w = byteOf(size);
      m.form({ opcode: [op * 8 + w], size, encodings: 5 });
      m.form({ opcode: [op * 8 + 2 + w], size, encodings: 4 });
      m.form({ opcode: [op * 8 + 4 + w], size, modrm: 'none', immBits: imm(size), encodings: 3, tune: (d) => d.setOperand(0, size, m.value()) });
      m.form({ opcode: [0x80 + w], ext: op, size, immBits: imm(size), encodings: 4 });
      if (size === 8) m.form({ opcode: [0x82], ext: op, size, immBits: [8], encodings: 2 });
      else m.form({ opcode: [0x83], ext: op, size, immBits: [8], encodings: 4 });
      // Equal operands, and a carry that decides (ADC, SBB).
      m.form({ opcode: [op * 8 + w], size, modrm: 'reg', encodings: 2, draws: 4, tune: equalOrNext });
      if (op !== 7) {
        m.form({ prefixes: [0xf0], opcode: [op * 8 + w], size, modrm: 'mem', encodings: 1, draws: 3 });
        m.form({ prefixes: [0xf0], opcode: [0x80 + w], ext: op, size, modrm: 'mem', immBits: imm(size), encodings: 1, draws: 3 });
      }
    }
  }
  for (const size of SIZES) {
    const w = byteOf(size);
    m.form({ opcode: [0x84 + w], size, encodings: 5 });
    m.form({ opcode: [0xa8 + w], size, modrm: 'none', immBits: imm(size), encodings: 4, tune: (d) => d.setOperand(0, size, m.value()) });
    m.form({ opcode: [0xf6 + w], ext: 0, size, immBits: imm(size), encodings: 4 });
    m.form({ opcode: [0xf6 + w], ext: 1, size, immBits: imm(size), encodings: 2 });
    for (const ext of [2, 3]) {
      m.form({ opcode: [0xf6 + w], ext, size, encodings: 5, draws: 8 });
      m.form({ prefixes: [0xf0], opcode: [0xf6 + w], ext, size, modrm: 'mem', encodings: 1, draws: 3 });
    }
    for (const ext of [0, 1]) {
      m.form({ opcode: [0xfe + w], ext, size, encodings: 5, draws: 8 });
      m.form({ prefixes: [0xf0], opcode: [0xfe + w], ext, size, modrm: 'mem', encodings: 1, draws: 3 });
    }
  }
  for (let reg = 0; reg < 8; reg++) {
    for (const size of [16, 32] as const) {
      for (const base of [0x40, 0x48]) m.form({ opcode: [base + reg], size, modrm: 'none', encodings: 1, draws: 5, tune: (d) => d.setOperand(reg, size, m.value()) });
    }
  }
}

function equalOrNext(draft: Draft, place: Place | undefined, rng: Rng): void {
  if (place?.reg === undefined) return;
  const value = rng.pick(EDGES), other = (value + rng.below(3) - 1) >>> 0;
  for (const i of [0, 1, 2, 3, 5, 6, 7]) draft.regs[i] = i === place.reg ? value : other;
}

/** ROL ROR RCL RCR SHL SHR SAL SAR by 1, imm8, CL: every count from 0 to 33 and some wild ones; SHLD, SHRD. */
export function shifts(m: Maker): void {
  const counts = [...Array.from({ length: 34 }, (_, i) => i), 63, 64, 127, 128, 255];
  for (let ext = 0; ext < 8; ext++) {
    for (const size of SIZES) {
      const w = byteOf(size);
      m.form({ opcode: [0xd0 + w], ext, size, encodings: 4, draws: 8 });
      for (const count of counts) {
        const shape: Omit<Form, 'opcode'> = { ext, size, encodings: 1, draws: 3, modrm: m.rng.chance(3) ? 'mem' : 'reg', plain: true };
        m.form({ ...shape, opcode: [0xc0 + w], immBits: [8], imms: [count] });
      }
      for (let e = 0; e < 4; e++) {
        m.form({ opcode: [0xd2 + w], ext, size, encodings: 1, draws: 40, modrm: e < 2 ? 'reg' : 'mem', noEsp: true, tune: (d, _p, rng) => { if (!d.pinned.has(1)) d.setOperand(1, 8, rng.pick(counts)); } });
      }
    }
  }
  for (const [byImm, byCl] of [[0xa4, 0xa5], [0xac, 0xad]] as const) {
    for (const size of [16, 32] as const) {
      // A count above the operand size leaves result and flags undefined (SDM vol. 2, SHLD): not asked.
      const defined = counts.filter((count) => (count & 31) <= size);
      for (const count of defined) m.form({ opcode: [0x0f, byImm], size, immBits: [8], imms: [count], encodings: 2, draws: 3, plain: true });
      m.form({ opcode: [0x0f, byImm], size, immBits: [8], imms: [1, 4, 15], encodings: 6, draws: 3 });
      m.form({ opcode: [0x0f, byCl], size, encodings: 8, draws: 12, noEsp: true, tune: (d, p, rng) => {
        if (d.pinned.has(1)) d.regs[1] = (d.regs[1] as number); // its count is part of an address: kept only if defined
        else d.setOperand(1, 8, rng.pick(defined));
        if ((d.regs[1] as number & 31) > size && p !== undefined) d.code = [0x90];
      } });
    }
  }
}

const DIVIDENDS = [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff];

/** MUL IMUL DIV IDIV, IMUL in two and three operands, CBW CWDE CWD CDQ. */
export function multiply(m: Maker): void {
  for (const size of SIZES) {
    const w = byteOf(size);
    const accumulators = (d: Draft): void => {
      d.setOperand(0, size, m.value());
      if (size === 8) d.setOperand(4, 8, m.value());
      else d.setOperand(2, size, m.value());
    };
    for (const ext of [4, 5]) m.form({ opcode: [0xf6 + w], ext, size, encodings: 8, draws: 8, tune: accumulators });
    for (const ext of [6, 7]) {
      m.form({ opcode: [0xf6 + w], ext, size, encodings: 6, draws: 8, tune: accumulators });
      // Quotients that fit, fit just so, and just do not.
      m.form({ opcode: [0xf6 + w], ext, size, encodings: 10, draws: 16, plain: true, noEsp: true, tune: (d, place, rng) => {
        const divisor = rng.chance(3) ? rng.pick([1, 2, 3, 0x7f, 0x80, 0xff, 0xffffffff]) : (rng.u32() >>> rng.below(size));
        const high = ext === 6 ? (rng.chance(2) ? 0 : divisor === 0 ? 0 : rng.below(Math.min(divisor, 0x7fffffff) + 1)) : rng.pick([0, 0xffffffff, 0, 0xffffffff, 1, divisor >>> 1, (-(divisor >>> 1)) >>> 0]);
        const low = rng.chance(2) ? rng.pick(DIVIDENDS) : rng.u32();
        d.setOperand(0, size, low);
        if (size === 8) d.setOperand(4, 8, high);
        else d.setOperand(2, size, high);
        if (place?.reg !== undefined && place.reg !== 0 && place.reg !== (size === 8 ? 4 : 2)) d.setOperand(place.reg, size, divisor);
        if (place?.vaddr !== undefined) d.poke(place.vaddr, size, divisor);
      } });
    }
    if (size === 8) continue;
    m.form({ opcode: [0x0f, 0xaf], size, encodings: 10, draws: 8 });
    m.form({ opcode: [0x69], size, immBits: imm(size), encodings: 14, draws: 5 });
    m.form({ opcode: [0x6b], size, immBits: [8], encodings: 14, draws: 5 });
    for (const op of [0x98, 0x99]) m.form({ opcode: [op], size, modrm: 'none', encodings: 1, draws: 14, tune: (d) => { d.setReg(0, m.value()); d.setReg(2, m.value()); } });
  }
}

/** AAA AAS DAA DAS over every AL with both flags; AAM, AAD with edges of the base; SALC. */
export function bcd(m: Maker): void {
  for (const op of [0x27, 0x2f, 0x37, 0x3f]) {
    for (let al = 0; al < 256; al++) {
      const draft = m.draft();
      draft.code = [op];
      draft.eflags = (draft.eflags & ~0x11) | (al & 1 ? (m.rng.u32() & 0x11) : m.rng.pick([0, 1, 0x10, 0x11]));
      draft.setReg(0, ((draft.regs[0] as number) & 0xffffff00) | al);
      m.add(draft);
    }
  }
  for (const op of [0xd4, 0xd5]) {
    for (const base of [10, 0, 1, 2, 3, 7, 16, 100, 0x7f, 0x80, 0xff]) m.form({ opcode: [op, base], size: 8, modrm: 'none', noPrefix66: true, encodings: 1, draws: 12, tune: (d) => d.setReg(0, m.value()) });
  }
  for (let i = 0; i < 6; i++) m.plain([0xd6]);
}
