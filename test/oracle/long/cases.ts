// Cases for 64-bit code: every integer row with REX registers and widths, every addressing form, faults included.
import { Rng } from '../environment.ts';
import type { Patch } from '../vector.ts';
import { longSimd } from './simd.ts';
import type { LongCase } from './vector.ts';
import { CODE, DATA, GS_BASE, longFile, LONG_FILES, LONG_REGIONS, random64, READ_ONLY, UNMAPPED, value64 } from './world.ts';

type Width = 8 | 16 | 32 | 64;
const WIDTHS: readonly Width[] = [8, 16, 32, 64];
const STATUS = 0x8d5;

interface Operand {
  /** REX.B, X bits, and what follows the opcode with reg = 0. */
  readonly rexBits: number;
  readonly prefixes: readonly number[];
  readonly modrm: readonly number[];
  readonly reg?: number;
  readonly vaddr?: number;
  readonly pins: readonly (readonly [number, bigint])[];
}

interface Form {
  readonly opcode: readonly number[];
  readonly width: Width;
  /** The /digit; absent: a register operand. */
  readonly ext?: number;
  readonly modrm?: 'reg' | 'mem' | 'both' | 'none';
  readonly immBytes?: number;
  readonly imms?: readonly number[];
  readonly prefixes?: readonly number[];
  readonly encodings?: number;
  readonly draws?: number;
  readonly memBytes?: number;
  /** Operand size is 64 without REX.W (PUSH, near branches). */
  readonly default64?: boolean;
  readonly tune?: (draft: Draft, operand: Operand | undefined, rng: Rng) => void;
}

interface Draft {
  code: number[];
  regs: BigUint64Array<ArrayBuffer>;
  eflags: number;
  memory: Patch[];
  readonly pinned: Set<number>;
}

const bytesOf = (value: bigint, count: number): number[] => Array.from({ length: count }, (_, i) => Number((BigInt.asUintN(64, value) >> BigInt(8 * i)) & 0xffn));

export class LongMaker {
  readonly rng: Rng;
  readonly cases: LongCase[] = [];
  constructor(seed: number) {
    this.rng = new Rng(seed);
  }

  /** Where a memory operand lies: mostly in the data, now and then where it faults. */
  #target(bytes: number): number {
    const { rng } = this;
    const fate = rng.below(40);
    if (fate === 0) return UNMAPPED + rng.below(0x1000);
    if (fate === 1) return READ_ONLY + 4 * rng.below(0x3f0);
    if (fate === 2) return READ_ONLY - rng.below(bytes);
    if (fate === 3) return UNMAPPED - rng.below(bytes);
    if (fate <= 6) return DATA + 0x1000 - rng.below(bytes);
    return DATA + 0x10 + rng.below(0xf00);
  }

  /** RSP stays canonical: the harness could not return into a case whose RSP is not. */
  memory(bytes: number, at = this.#target(bytes)): Operand {
    for (;;) {
      const operand = this.#memory(bytes, at);
      if (operand.pins.every(([register, value]) => register !== 4 || BigInt.asIntN(48, value) === BigInt.asIntN(64, value))) return operand;
    }
  }
  #memory(bytes: number, at: number): Operand {
    const { rng } = this;
    if (rng.chance(60)) return this.#notCanonical();
    const gs = rng.chance(12);
    const offset = BigInt(at - (gs ? GS_BASE : 0));
    const prefixes = gs ? [0x65] : rng.chance(20) ? [rng.pick([0x2e, 0x3e, 0x26, 0x36])] : [];
    const mod = rng.below(3);
    const displacement = mod === 0 ? 0n : mod === 1 ? BigInt.asIntN(8, BigInt(rng.u32())) : BigInt.asIntN(32, BigInt(rng.u32()));
    const tail = mod === 0 ? [] : mod === 1 ? bytesOf(displacement, 1) : bytesOf(displacement, 4);
    const base = rng.below(16);
    // RBP and R13 have no form without a displacement, RSP and R12 none without SIB.
    if ((base & 7) === 5 && mod === 0) return gs ? { rexBits: 0, prefixes, modrm: [0x04, 0x25, ...bytesOf(offset, 4)], vaddr: at, pins: [] } : this.memory(bytes, at);
    if ((base & 7) !== 4 && rng.chance(2)) return { rexBits: base >> 3, prefixes, modrm: [(mod << 6) | (base & 7), ...tail], vaddr: at, pins: [[base, offset - displacement]] };
    const scale = rng.below(4);
    const index = rng.below(16);
    const sib = (scale << 6) | ((index & 7) << 3) | (base & 7);
    const rexBits = (base >> 3) | ((index >> 3) << 1);
    if (index === 4) return { rexBits, prefixes, modrm: [(mod << 6) | 4, sib, ...tail], vaddr: at, pins: [[base, offset - displacement]] };
    if (index === base) return this.memory(bytes, at);
    const indexValue = random64(rng);
    return { rexBits, prefixes, modrm: [(mod << 6) | 4, sib, ...tail], vaddr: at, pins: [[index, indexValue], [base, offset - displacement - (indexValue << BigInt(scale))]] };
  }
  #notCanonical(): Operand {
    const { rng } = this;
    const base = rng.pick([0, 3, 5, 6, 9, 13]);
    return { rexBits: base >> 3, prefixes: [], modrm: [0x40 | (base & 7), 0], pins: [[base, rng.pick([1n << 47n, (1n << 47n) - 1n, -(1n << 47n) - 1n, 1n << 63n, random64(rng) | (1n << 62n)])]] };
  }

  draft(): { draft: Draft; file: number } {
    const { rng } = this;
    const file = rng.below(LONG_FILES);
    return { file, draft: { code: [], regs: longFile(file), eflags: ((rng.u32() & STATUS) | 2 | (rng.chance(8) ? 0x400 : 0)) >>> 0, memory: [], pinned: new Set() } };
  }
  add(file: number, { code, regs, eflags, memory }: Draft): void {
    this.cases.push({ code: Uint8Array.from(code), file, regs, eflags, memory });
  }
  plain(code: readonly number[], tune?: (draft: Draft, rng: Rng) => void): void {
    const { draft, file } = this.draft();
    draft.code = [...code];
    tune?.(draft, this.rng);
    this.add(file, draft);
  }
  poke(draft: Draft, vaddr: number, value: bigint, count: number): void {
    const inside = (at: number): boolean => LONG_REGIONS.some((r) => r.write && !r.execute && at >= r.vaddr && at < r.vaddr + r.sizeBytes);
    if (inside(vaddr) && inside(vaddr + count - 1)) draft.memory.push({ vaddr, bytes: Uint8Array.from(bytesOf(value, count)) });
  }
  setReg(draft: Draft, index: number, value: bigint): void {
    if (!draft.pinned.has(index) && index !== 4) draft.regs[index] = BigInt.asUintN(64, value);
  }

  form(form: Form): void {
    const { rng } = this;
    const { width } = form;
    for (let e = 0; e < (form.encodings ?? 3); e++) {
      const wanted = form.modrm ?? 'both';
      const reg = form.ext ?? rng.below(16);
      const operand: Operand | undefined = wanted === 'none' ? undefined
        : wanted === 'reg' || (wanted === 'both' && e % 2 === 0) ? this.#register(rng.below(16))
        : this.memory(form.memBytes ?? width / 8);
      const wide = width === 64 && form.default64 !== true;
      const rexByte = 0x40 | (wide ? 8 : 0) | (reg >= 8 ? 4 : 0) | (operand?.rexBits ?? 0);
      // Without REX byte registers 4 to 7 are AH, CH, DH, BH: both are wanted.
      const rex = rexByte !== 0x40 || rng.chance(width === 8 ? 2 : 6) ? [rexByte] : [];
      const head = [...(form.prefixes ?? []), ...(operand?.prefixes ?? []), ...(width === 16 ? [0x66] : []), ...rex, ...form.opcode];
      const immediate = Array.from({ length: form.immBytes ?? 0 }, () => 0);
      const value = form.imms !== undefined ? BigInt(rng.pick(form.imms)) : value64(rng);
      immediate.forEach((_, i) => (immediate[i] = Number((value >> BigInt(8 * i)) & 0xffn)));
      const body = operand === undefined ? [] : [(operand.modrm[0] as number) | ((reg & 7) << 3), ...operand.modrm.slice(1)];
      for (let d = 0; d < (form.draws ?? 5); d++) {
        const { draft, file } = this.draft();
        draft.code = [...head, ...body, ...immediate];
        for (const [register, pinned] of operand?.pins ?? []) {
          draft.regs[register] = BigInt.asUintN(64, pinned);
          draft.pinned.add(register);
        }
        if (form.ext === undefined && operand !== undefined) this.setReg(draft, reg, value64(rng));
        if (operand?.reg !== undefined) this.setReg(draft, operand.reg, value64(rng));
        if (operand?.vaddr !== undefined) this.poke(draft, operand.vaddr, value64(rng), form.memBytes ?? width / 8);
        form.tune?.(draft, operand, rng);
        this.add(file, draft);
      }
    }
  }
  #register(reg: number): Operand {
    return { rexBits: reg >> 3, prefixes: [], modrm: [0xc0 | (reg & 7)], reg, pins: [] };
  }
}

const w = (width: Width): number => (width === 8 ? 0 : 1);
const immOf = (width: Width): number => Math.min(width, 32) / 8;
const wideWidths: readonly Width[] = [16, 32, 64];

export function longAlu(m: LongMaker): void {
  for (let op = 0; op < 8; op++) {
    for (const width of WIDTHS) {
      m.form({ opcode: [op * 8 + w(width)], width, encodings: 6 });
      m.form({ opcode: [op * 8 + 2 + w(width)], width, encodings: 4 });
      m.form({ opcode: [op * 8 + 4 + w(width)], width, modrm: 'none', immBytes: immOf(width), encodings: 2 });
      m.form({ opcode: [0x80 + w(width)], ext: op, width, immBytes: immOf(width), encodings: 4 });
      if (width !== 8) m.form({ opcode: [0x83], ext: op, width, immBytes: 1, encodings: 4 });
      if (op !== 7) m.form({ prefixes: [0xf0], opcode: [op * 8 + w(width)], width, modrm: 'mem', encodings: 1, draws: 2 });
    }
  }
  for (const width of WIDTHS) {
    m.form({ opcode: [0x84 + w(width)], width, encodings: 4 });
    m.form({ opcode: [0xa8 + w(width)], width, modrm: 'none', immBytes: immOf(width), encodings: 2 });
    m.form({ opcode: [0xf6 + w(width)], ext: 0, width, immBytes: immOf(width), encodings: 4 });
    for (const ext of [2, 3]) m.form({ opcode: [0xf6 + w(width)], ext, width, encodings: 5 });
    for (const ext of [0, 1]) m.form({ opcode: [0xfe + w(width)], ext, width, encodings: 5 });
  }
}

export function longShifts(m: LongMaker): void {
  const counts = [...Array.from({ length: 10 }, (_, i) => i), 15, 16, 17, 30, 31, 32, 33, 47, 62, 63, 64, 65, 127, 128, 255];
  for (const width of WIDTHS) {
    for (let ext = 0; ext < 8; ext++) {
      m.form({ opcode: [0xd0 + w(width)], ext, width, encodings: 2, draws: 5 });
      for (const count of counts) m.form({ opcode: [0xc0 + w(width)], ext, width, immBytes: 1, imms: [count], encodings: 1, draws: 3 });
      m.form({ opcode: [0xd2 + w(width)], ext, width, encodings: 3, draws: 14, tune: (d, _o, rng) => m.setReg(d, 1, BigInt(rng.pick(counts)) | (random64(rng) << 8n)) });
    }
    if (width === 8) continue;
    // A count above the operand size leaves result and flags undefined (SDM vol. 2, SHLD): not asked.
    const defined = counts.filter((count) => (count & (width === 64 ? 63 : 31)) <= width);
    for (const op of [0xa4, 0xac]) {
      for (const count of defined) m.form({ opcode: [0x0f, op], width, immBytes: 1, imms: [count], encodings: 1, draws: 2 });
      m.form({ opcode: [0x0f, op + 1], width, encodings: 4, draws: 10, tune: (d, o, rng) => {
        if (d.pinned.has(1) || o?.reg === 1) d.code = [0x90];
        else d.regs[1] = BigInt(rng.pick(defined)) | BigInt.asUintN(64, random64(rng) << 8n);
      } });
    }
  }
}

export function longMultiply(m: LongMaker): void {
  for (const width of WIDTHS) {
    for (const ext of [4, 5]) m.form({ opcode: [0xf6 + w(width)], ext, width, encodings: 8, draws: 8, tune: (d, _o, rng) => m.setReg(d, 0, value64(rng)) });
    for (const ext of [6, 7]) {
      m.form({ opcode: [0xf6 + w(width)], ext, width, encodings: 4, draws: 6 });
      // Quotients that fit, fit just so, and just do not.
      m.form({ opcode: [0xf6 + w(width)], ext, width, encodings: 10, draws: 14, tune: (d, o, rng) => {
        const divisor = BigInt.asUintN(width, rng.chance(3) ? rng.pick([1n, 2n, 3n, 0x7fn, -1n, -2n, 1n << 62n, 1n << 63n]) : random64(rng) >> BigInt(rng.below(width)));
        const half = BigInt.asIntN(width, divisor) / 2n;
        const high = ext === 6 ? (rng.chance(2) || divisor === 0n ? 0n : random64(rng) % (divisor + 1n)) : rng.pick([0n, -1n, 0n, -1n, 1n, half, -half, half - 1n]);
        m.setReg(d, 0, width === 8 ? (BigInt.asUintN(8, high) << 8n) | BigInt(rng.below(256)) : value64(rng));
        if (width !== 8) m.setReg(d, 2, BigInt.asUintN(width, high));
        if (o?.reg !== undefined && o.reg !== 0 && o.reg !== 2) m.setReg(d, o.reg, divisor);
        if (o?.vaddr !== undefined) m.poke(d, o.vaddr, divisor, width / 8);
      } });
    }
    if (width === 8) continue;
    m.form({ opcode: [0x0f, 0xaf], width, encodings: 10, draws: 8 });
    m.form({ opcode: [0x69], width, immBytes: immOf(width), encodings: 10, draws: 5 });
    m.form({ opcode: [0x6b], width, immBytes: 1, encodings: 10, draws: 5 });
    for (const op of [0x98, 0x99]) m.form({ opcode: [op], width, modrm: 'none', encodings: 1, draws: 12, tune: (d, _o, rng) => m.setReg(d, 0, value64(rng)) });
  }
}

export function longMove(m: LongMaker): void {
  const { rng } = m;
  for (const width of WIDTHS) {
    for (const op of [0x88, 0x8a, 0x86]) m.form({ opcode: [op + w(width)], width, encodings: 10, draws: 3 });
    m.form({ opcode: [0xc6 + w(width)], ext: 0, width, immBytes: immOf(width), encodings: 8, draws: 2 });
    for (let reg = 0; reg < 16; reg++) {
      const rex = 0x40 | (width === 64 ? 8 : 0) | (reg >> 3);
      m.plain([...(width === 16 ? [0x66] : []), rex, (width === 8 ? 0xb0 : 0xb8) + (reg & 7), ...bytesOf(value64(rng), width / 8)]);
      if (width !== 8) m.plain([...(width === 16 ? [0x66] : []), rex, 0x90 + (reg & 7)]);
      if (width >= 32) m.plain([rex, 0x0f, 0xc8 + (reg & 7)]);
    }
    for (const op of [0xa0, 0xa2]) {
      for (const at of [DATA + 0x100, DATA + 0xffd, READ_ONLY + 8, UNMAPPED + 1]) {
        m.plain([...(width === 16 ? [0x66] : []), ...(width === 64 ? [0x48] : []), op + w(width), ...bytesOf(BigInt(at), 8)]);
        m.plain([0x67, ...(width === 64 ? [0x48] : []), op + w(width), ...bytesOf(BigInt(at), 4)]);
      }
      m.plain([op + w(width), ...bytesOf(1n << 47n, 8)]);
    }
  }
  for (const to of wideWidths) {
    for (const op of [0xb6, 0xbe]) {
      m.form({ opcode: [0x0f, op], width: to, memBytes: 1, encodings: 6, draws: 4 });
      m.form({ opcode: [0x0f, op + 1], width: to, memBytes: 2, encodings: 6, draws: 4 });
    }
    m.form({ opcode: [0x63], width: to, memBytes: 4, encodings: 6, draws: 4 });
    m.form({ opcode: [0x8d], width: to, modrm: 'mem', encodings: 40, draws: 1 });
    m.form({ prefixes: [0x67], opcode: [0x8d], width: to, modrm: 'mem', encodings: 12, draws: 1 });
  }
  // The addressing forms themselves; 32-bit addresses; operands relative to rip.
  m.form({ opcode: [0x8b], width: 64, modrm: 'mem', encodings: 400, draws: 1 });
  m.form({ opcode: [0x01], width: 64, modrm: 'mem', encodings: 200, draws: 1 });
  m.form({ prefixes: [0x67], opcode: [0x8b], width: 32, modrm: 'mem', encodings: 40, draws: 1 });
  for (const code of [[0x48, 0x8b, 0x05], [0x4c, 0x8d, 0x3d], [0x67, 0x48, 0x8d, 0x05], [0x03, 0x0d], [0x66, 0x3b, 0x15], [0x67, 0x8b, 0x05]]) for (let i = 0; i < 4; i++) m.plain([...code, ...bytesOf(BigInt(rng.below(0x800)), 4)]);
  for (let i = 0; i < 6; i++) m.plain([0x48, 0x83, 0x05, ...bytesOf(BigInt(0x200 + rng.below(0x800)), 4), rng.below(256)]);
  for (const prefix of [[], [0x67], [0x65]]) for (let i = 0; i < 4; i++) m.plain([...prefix, 0xd7], (d) => m.setReg(d, 3, BigInt(prefix[0] === 0x65 ? 0x100 : DATA + 0x200)));
  for (const op of [0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0x90]) for (let i = 0; i < 4; i++) m.plain([op]);
  for (const sreg of [0, 2, 3, 4, 5]) for (const rex of [[], [0x48], [0x66]]) m.plain([...rex, 0x8c, 0xc0 | (sreg << 3)]);
}

export function longBits(m: LongMaker): void {
  for (let cc = 0; cc < 16; cc++) {
    m.form({ opcode: [0x0f, 0x90 + cc], ext: 0, width: 8, encodings: 2, draws: 8 });
    for (const width of wideWidths) m.form({ opcode: [0x0f, 0x40 + cc], width, encodings: 2, draws: 8 });
  }
  for (const width of wideWidths) {
    for (const op of [0xa3, 0xab, 0xb3, 0xbb]) {
      m.form({ opcode: [0x0f, op], width, modrm: 'reg', encodings: 3, draws: 6 });
      m.form({ opcode: [0x0f, op], width, modrm: 'mem', encodings: 8, draws: 4, tune: (d, o, rng) => {
        // The register operand: a signed offset that stays near.
        const at = d.code.indexOf(0x0f);
        const rexByte = d.code[at - 1] ?? 0;
        const reg = (((d.code[at + 2] ?? 0) >> 3) & 7) | ((rexByte & 0xf0) === 0x40 && (rexByte & 4) !== 0 ? 8 : 0);
        if (d.pinned.has(reg) || reg === 4 || o?.vaddr === undefined) d.code = [0x90];
        else d.regs[reg] = BigInt.asUintN(64, width === 16 ? BigInt.asUintN(16, BigInt(rng.below(0x2000) - 0x1000)) | (random64(rng) << 16n) : BigInt(rng.below(0x2000) - 0x1000) & (width === 32 ? 0xffffffffn : -1n));
      } });
    }
    for (const ext of [4, 5, 6, 7]) m.form({ opcode: [0x0f, 0xba], ext, width, immBytes: 1, encodings: 6, draws: 3 });
    for (const op of [0xbc, 0xbd]) m.form({ opcode: [0x0f, op], width, encodings: 6, draws: 8, tune: (d, o, rng) => {
      const value = rng.chance(5) ? 0n : random64(rng) >> BigInt(rng.below(64));
      if (o?.reg !== undefined) m.setReg(d, o.reg, value);
      if (o?.vaddr !== undefined) m.poke(d, o.vaddr, value, width / 8);
    } });
  }
  for (const width of WIDTHS) {
    for (const op of [0xb0, 0xc0]) m.form({ opcode: [0x0f, op + w(width)], width, encodings: 6, draws: 6, tune: (d, o, rng) => {
      if (op === 0xc0 || rng.chance(2)) return;
      const value = value64(rng);
      m.setReg(d, 0, value);
      if (o?.reg !== undefined && o.reg !== 0) m.setReg(d, o.reg, value);
      if (o?.vaddr !== undefined) m.poke(d, o.vaddr, value, width / 8);
    } });
  }
  for (const width of [32, 64] as const) {
    m.form({ opcode: [0x0f, 0xc7], ext: 1, width, modrm: 'mem', memBytes: width / 4, encodings: 24, draws: 3, tune: (d, o, rng) => {
      if (o?.vaddr === undefined || rng.chance(2)) return;
      m.poke(d, o.vaddr, d.regs[0] as bigint, width / 8);
      m.poke(d, o.vaddr + width / 8, d.regs[2] as bigint, width / 8);
    } });
    for (let i = 0; i < 24; i++) m.plain([0xf0, 0x48, 0x0f, 0xc7, 0x0e], (d) => {
      const at = DATA + 0x100 + 16 * i;
      d.regs[6] = BigInt(at);
      if (i % 2 === 0) m.poke(d, at, d.regs[0] as bigint, 8);
      if (i % 2 === 0) m.poke(d, at + 8, d.regs[2] as bigint, 8);
    });
  }
}

export function longStack(m: LongMaker): void {
  const { rng } = m;
  for (let reg = 0; reg < 16; reg++) {
    const rex = reg >= 8 ? [0x41] : rng.chance(3) ? [0x48] : [];
    for (const prefix of [[], [0x66]]) for (const op of [0x50, 0x58]) m.plain([...prefix, ...rex, op + (reg & 7)]);
  }
  for (const width of [16, 64] as const) {
    m.form({ opcode: [0xff], ext: 6, width, default64: true, encodings: 12, draws: 2 });
    m.form({ opcode: [0x8f], ext: 0, width, default64: true, encodings: 12, draws: 2 });
  }
  for (let i = 0; i < 8; i++) {
    for (const prefix of [[], [0x66]]) {
      m.plain([...prefix, 0x68, ...bytesOf(value64(rng), prefix.length > 0 ? 2 : 4)]);
      m.plain([...prefix, 0x6a, rng.below(256)]);
      m.plain([...prefix, 0x9c]);
      m.plain([...prefix, 0x9d], (d) => m.poke(d, DATA + 0x800, BigInt(rng.u32() & 0x244cd5), 8));
    }
    m.plain([0xc8, rng.below(256), rng.below(3), i & 3], (d) => m.setReg(d, 5, BigInt(DATA + 0x900)));
    m.plain([0xc8, rng.below(256), 0, i * 5], (d) => m.setReg(d, 5, BigInt(DATA + 0x10 + rng.below(0x2f00))));
    m.plain([0xc9], (d) => m.setReg(d, 5, BigInt(DATA + rng.below(0x2100))));
    m.plain([0x66, 0xc9], (d) => m.setReg(d, 5, BigInt(DATA + 0x300)));
    for (const op of [0xa0, 0xa8]) m.plain([0x0f, op]);
  }
  // Stacks that are not there: #SS for what is not canonical, #PF for what is not mapped.
  for (const sp of [1n << 63n, (1n << 47n) + 8n, (1n << 47n) + 64n, -(1n << 47n) - 64n, BigInt(UNMAPPED), BigInt(READ_ONLY + 0x10)].map((value) => BigInt.asUintN(64, value))) {
    for (const code of [[0x50], [0x58], [0x68, 1, 2, 3, 4], [0xc3], [0x9c], [0xe8, 0, 0, 0, 0], [0xff, 0x34, 0x24], [0xc8, 0, 0, 0], [0x48, 0x8b, 0x04, 0x24]]) m.plain([0x4c, 0x89, 0xfc, ...code], (d) => void (d.regs[15] = sp)); // MOV RSP, R15 first
    for (const code of [[0xc9], [0x48, 0x8b, 0x45, 0x00], [0x3e, 0x48, 0x8b, 0x45, 0x00], [0x48, 0x8b, 0x44, 0x05, 0x00]]) m.plain(code, (d) => {
      d.regs[5] = sp;
      d.regs[0] = 0n;
    });
  }
}

/** Near transfers among a few places of the code window. */
export function longBranches(m: LongMaker): void {
  const { rng } = m;
  const nops = (n: number): number[] => Array.from({ length: n }, () => 0x90);
  for (let cc = 0; cc < 16; cc++) {
    for (let i = 0; i < 4; i++) m.plain([0x70 + cc, 3, ...nops(2), 0xcc, 0x90]);
    for (let i = 0; i < 4; i++) m.plain([0x0f, 0x80 + cc, 2, 0, 0, 0, 0x90, 0xcc, 0x90]);
  }
  for (const prefix of [[], [0x67]]) for (const op of [0xe0, 0xe1, 0xe2, 0xe3]) for (let i = 0; i < 6; i++) m.plain([...prefix, op, 2, 0x90, 0xcc, 0x90], (d) => m.setReg(d, 1, rng.pick([0n, 1n, 2n, 1n << 32n, (1n << 32n) + 1n, random64(rng)])));
  for (let i = 0; i < 6; i++) {
    m.plain([0xe8, 2, 0, 0, 0, 0xcc, 0xcc, 0x90]);
    m.plain([0xe9, 2, 0, 0, 0, 0xcc, 0xcc, 0x90]);
    m.plain([0xeb, 1, 0xcc, 0x90]);
    m.plain([0xc3], (d) => m.poke(d, DATA + 0x800, BigInt(CODE + 0x40), 8));
    m.plain([0xc2, 8 * i, 0], (d) => m.poke(d, DATA + 0x800, BigInt(CODE + 0x40), 8));
    for (const ext of [2, 4]) {
      m.plain([0x41, 0xff, 0xc0 | (ext << 3) | 1], (d) => void (d.regs[9] = BigInt(CODE + 0x80)));
      m.plain([0xff, (ext << 3) | 6], (d) => {
        d.regs[6] = BigInt(DATA + 0x200);
        m.poke(d, DATA + 0x200, BigInt(CODE + 0x80), 8);
      });
      m.plain([0xff, 0xc0 | (ext << 3)], (d) => void (d.regs[0] = BigInt(UNMAPPED + 5)));
    }
  }
}

export function longStrings(m: LongMaker): void {
  const { rng } = m;
  for (const op of [0xa4, 0xa6, 0xaa, 0xac, 0xae]) {
    for (const width of WIDTHS) {
      for (const prefix of [[], [0xf3], [0xf2]]) {
        for (let i = 0; i < 8; i++) {
          if (prefix[0] === 0xf2 && op !== 0xa6 && op !== 0xae) continue;
          const address = rng.chance(8) ? [0x67] : [];
          m.plain([...prefix, ...address, ...(width === 16 ? [0x66] : []), ...(width === 64 ? [0x48] : []), op + w(width)], (d) => {
            const place = (): bigint => BigInt(rng.chance(6) ? READ_ONLY - rng.below(40) : rng.chance(20) ? UNMAPPED - rng.below(30) : DATA + 0x100 + rng.below(0x1d00));
            d.regs[6] = place();
            d.regs[7] = rng.chance(4) ? (d.regs[6] as bigint) + BigInt(rng.below(17) - 8) : place();
            d.regs[1] = address.length > 0 ? (random64(rng) << 32n) & 0xffffffff00000000n : BigInt(rng.below(24));
            if (address.length > 0) d.regs[1] = 0n;
            if (rng.chance(30)) d.regs[7] = 1n << 47n;
            if (rng.chance(4)) d.regs[0] = 0n;
          });
        }
      }
    }
  }
}

/** What 64-bit mode does not have. */
export function longRefused(m: LongMaker): void {
  for (const op of [0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea]) m.plain([op, 0, 0, 0, 0, 0, 0]);
  for (const code of [[0xf4], [0xfa], [0xfb], [0x0f, 0x01, 0xf8], [0x0f, 0x07], [0x48, 0x0f, 0x07], [0x0f, 0x30], [0x0f, 0x32], [0x0f, 0x20, 0xc0], [0x44, 0x0f, 0x20, 0xc0], [0x0f, 0x22, 0xc0], [0x0f, 0x06], [0xe4, 0x10], [0xe6, 0x10], [0xec], [0xee], [0x0f, 0x0b], [0xf0, 0x90], [0x0f, 0x09]]) m.plain(code);
}

export interface LongGroup {
  readonly name: string;
  readonly seed: number;
  readonly fill: (m: LongMaker) => void;
  readonly count?: boolean;
}
export const LONG_GROUPS: readonly LongGroup[] = [
  { name: 'long-alu', seed: 60, fill: longAlu },
  { name: 'long-shifts', seed: 61, fill: longShifts },
  { name: 'long-multiply', seed: 62, fill: longMultiply },
  { name: 'long-move', seed: 63, fill: longMove },
  { name: 'long-bits', seed: 64, fill: longBits },
  { name: 'long-stack', seed: 65, fill: longStack },
  { name: 'long-branches', seed: 66, fill: longBranches, count: true },
  { name: 'long-strings', seed: 67, fill: longStrings, count: true },
  { name: 'long-refused', seed: 68, fill: longRefused },
  { name: 'long-simd', seed: 69, fill: longSimd },
];
export function makeLongCases({ seed, fill }: LongGroup, salt = 0): LongCase[] {
  const maker = new LongMaker((seed * 0x01000193) ^ Math.imul(salt, 0x9e3779b1));
  fill(maker);
  return maker.cases;
}
