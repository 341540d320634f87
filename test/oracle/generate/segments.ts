// Cases for segmentation as a user program meets it: loads of segment registers from an LDT, limit,
// type and presence checks, far transfers within ring 3, LAR LSL VERR VERW ARPL, privileged
// instructions, software interrupts, undefined opcodes, over-long instructions.
import { CODE, CODE_BASE, DATA, LDT, ldtSelector, READ_ONLY, STACK, USER_CS, USER_DS } from '../environment.ts';
import { type Draft, type Maker, SIZES } from './maker.ts';
import { unusualStack } from './stack.ts';

const CODE_END = 0x12000;
/** Selectors worth trying: every LDT entry at each RPL now and then, null ones, GDT ones, beyond the limits. */
function selectors(): number[] {
  const all: number[] = [0, 1, 2, 3, 4, 7, 0x08, 0x0b, 0x18, 0x1b, 0x20, USER_CS, 0x28, 0x2a, USER_DS, 0x07ff, 0xffff, 0xfff8, 0x8007];
  LDT.forEach((_entry, i) => { const s = ((i + 1) << 3) | 4; all.push(s | 3, s); if (i % 3 === 0) all.push(s | 1); });
  return all;
}

const FAR_RANGE = [0x40, 0x80, 0x108, 0x10f, 0x110, 0x1ff, 0x1fff, 0x2000];

export function segmentLoads(m: Maker): void {
  for (const selector of selectors()) {
    for (const seg of [0, 2, 3, 4, 5]) {
      m.plain([0x8e, 0xc0 | (seg << 3)], (d) => d.setOperand(0, 16, selector)); // mov sreg, ax
      if (m.rng.chance(3)) m.plain([0x8e, 0x05 | (seg << 3), 0, 1, 2, 0], (d) => d.poke(DATA + 0x100, 16, selector)); // from memory
    }
    for (const code of [[0x07], [0x17], [0x1f], [0x0f, 0xa1], [0x0f, 0xa9]]) {
      m.plain(code, (d) => d.poke(STACK, 32, (m.rng.u32() & 0xffff0000) | selector));
      if (m.rng.chance(3)) m.plain([0x66, ...code], (d) => d.poke(STACK, 32, (m.rng.u32() & 0xffff0000) | selector));
    }
    for (const code of [[0xc5], [0xc4], [0x0f, 0xb2], [0x0f, 0xb4], [0x0f, 0xb5]]) {
      for (const size of [16, 32] as const) {
        const place = m.memPlace({ plain: true, addr16: false });
        const d = m.draft();
        d.code = [...place.prefixes, ...m.size66(size), ...code, (place.modrm[0] as number) | (m.rng.below(8) << 3), ...place.modrm.slice(1)];
        for (const [r, v] of place.pins) d.pin(r, v);
        const bytes = size / 8;
        d.pokeBytes(place.vaddr ?? DATA, Uint8Array.from({ length: bytes + 2 }, (_, i) => (i < bytes ? m.rng.u32() >>> 24 : selector >>> (8 * (i - bytes)))));
        m.add(d);
      }
    }
    // LAR, LSL, VERR, VERW take any selector and answer with ZF.
    for (const size of [16, 32] as const) {
      for (const op of [0x02, 0x03]) {
        m.plain([...m.size66(size), 0x0f, op, 0xc8], (d) => d.setOperand(0, 16, selector));
        if (m.rng.chance(3)) m.plain([...m.size66(size), 0x0f, op, 0x0d, 0, 1, 2, 0], (d) => d.poke(DATA + 0x100, 16, selector));
      }
    }
    for (const ext of [4, 5]) {
      m.plain([0x0f, 0x00, 0xc0 | (ext << 3)], (d) => d.setOperand(0, 16, selector));
      if (m.rng.chance(3)) m.plain([0x0f, 0x00, 0x05 | (ext << 3), 0, 1, 2, 0], (d) => d.poke(DATA + 0x100, 16, selector));
    }
  }
  for (let i = 0; i < 60; i++) m.form({ opcode: [0x63], size: 16, noPrefix66: true, encodings: 1, draws: 2 }); // ARPL
  for (let seg = 0; seg < 8; seg++) { // MOV from a segment register; 6 and 7 do not exist
    for (const size of [16, 32] as const) {
      m.plain([...m.size66(size), 0x8c, 0xc1 | (seg << 3)]);
      m.plain([...m.size66(size), 0x8c, 0x05 | (seg << 3), 0, 1, 2, 0]);
    }
    m.plain([0x8e, 0xc1 | (1 << 3)]);
    if (seg >= 6) m.plain([0x8e, 0xc1 | (seg << 3)]);
  }
  m.plain([0x8e, 0xc8], (d) => d.setOperand(0, 16, USER_CS)); // mov cs, ax
}

/** Accesses at the edges of every kind of segment. */
export function segmentLimits(m: Maker): void {
  const edges = [0, 1, 0xe, 0xf, 0x10, 0x11, 0xffc, 0xffd, 0xffe, 0xfff, 0x1000, 0x1001, 0x1ffc, 0x1ffd, 0x1ffe, 0x1fff, 0x2000, 0xdfff, 0xe000, 0xfffe, 0xffff, 0x10000, 0x1ffff, 0xffffffff, 0xfffffffd];
  const SEG_PREFIX = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65] as const;
  for (const entry of LDT) {
    if (entry.absent === true || (entry.kind === 'code' && !entry.open)) continue; // no data segment register takes those
    for (const offset of edges) {
      const linear = (entry.base + offset) >>> 0;
      // Only where nobody else lives: the windows, and the holes between them.
      if (linear >= 0x30000 && linear < 0xffffe000) continue;
      for (const size of SIZES) {
        const seg = m.rng.pick(entry.kind !== 'code' && entry.open ? [0, 2, 3, 4, 5] : [0, 3, 4, 5]);
        for (const op of [0x8a, 0x88, 0x00, 0x38]) {
          const d = m.draft();
          d.segs[seg] = ldtSelector(entry.name);
          d.code = [SEG_PREFIX[seg] as number, ...m.size66(size), op + (size === 8 ? 0 : 1), 0x03];
          d.setReg(3, offset);
          d.setOperand(0, size, m.value());
          m.add(d);
        }
      }
      if (entry.kind === 'data' && entry.open) { // the stack faults with #SS
        m.plain([0x8b, 0x45, 0], (d) => { d.segs[2] = ldtSelector(entry.name); d.setReg(5, offset); });
      }
    }
  }
  for (const index of [0, 3, 4, 5]) { // null segments
    for (const op of [0x8a, 0x88]) m.plain([SEG_PREFIX[index] as number, op, 0x05, 0, 1, 2, 0], (d) => { d.segs[index] = 0; }); // Linux turns other null selectors into 0
    m.plain([SEG_PREFIX[index] as number, 0xa4], (d) => { d.segs[index] = 0; d.setReg(6, DATA); d.setReg(7, DATA + 64); });
  }
  // Writing through CS never works; reading does if the segment is readable.
  for (const op of [0x8b, 0x89]) m.plain([0x2e, op, 0x05, 0, 1, 2, 0]);
  for (const name of ['code', 'codeExecuteOnly']) {
    for (const op of [0x8b, 0x89, 0x03]) m.plain([0x2e, op, 0x05, 0, 1, 0, 0], (d) => { d.segs[1] = ldtSelector(name); d.eip = CODE - CODE_BASE; });
  }
  // BOUND.
  for (const size of [16, 32] as const) {
    for (let i = 0; i < 24; i++) {
      const d = m.draft();
      d.code = [...m.size66(size), 0x62, 0x0d, 0, 1, 2, 0];
      const low = m.value() | 0, bytes = size / 8;
      const high = (low + m.rng.below(5) - 1) | 0, index = (m.rng.chance(2) ? low + m.rng.below(7) - 3 : m.value()) | 0;
      d.setReg(1, index >>> 0);
      d.pokeBytes(DATA + 0x100, Uint8Array.from({ length: 2 * bytes }, (_, b) => (b < bytes ? low >>> (8 * b) : high >>> (8 * (b - bytes)))));
      m.add(d);
    }
  }
}

/** JMP, CALL and RET far, IRET: within ring 3, to every kind of selector. */
export function farTransfers(m: Maker): void {
  const le = (n: number, value: number): number[] => Array.from({ length: n }, (_, i) => (value >>> (8 * i)) & 0xff);
  const usable = selectors().filter((s) => s !== 0x33);
  for (const selector of usable) {
    const name = LDT[(selector >> 3) - 1]?.name ?? '';
    const inLdt = (selector & 4) !== 0 && name.startsWith('code');
    const offset = (): number => (inLdt ? m.rng.pick(FAR_RANGE) : CODE + 0x200 + m.rng.below(0x100));
    for (const size of [16, 32] as const) {
      const bytes = size / 8;
      for (const op of [0xea, 0x9a]) m.plain([...m.size66(size), op, ...le(bytes, offset()), ...le(2, selector)]);
      for (const ext of [3, 5]) m.plain([...m.size66(size), 0xff, 0x05 | (ext << 3), 0, 1, 2, 0], (d) => d.pokeBytes(DATA + 0x100, Uint8Array.from([...le(bytes, offset()), ...le(2, selector)])));
      const frame = (d: Draft, ...words: number[]): void => d.pokeBytes(STACK, Uint8Array.from(words.flatMap((word) => le(bytes, word))));
      m.plain([...m.size66(size), 0xcb], (d) => frame(d, offset(), selector));
      m.plain([...m.size66(size), 0xca, 12, 0], (d) => frame(d, offset(), selector));
      m.plain([...m.size66(size), 0xcf], (d) => frame(d, offset(), selector, (m.rng.u32() & ~0x44100) | 2));
    }
  }
  // On stacks that are odd or end.
  for (const name of ['code', 'code16', 'codeExecuteOnly']) {
    for (const size of [16, 32] as const) {
      for (let i = 0; i < 24; i++) m.plain([...m.size66(size), 0x9a, ...le(size / 8, 0x110), ...le(2, ldtSelector(name))], (d) => unusualStack(m, d));
      for (let i = 0; i < 16; i++) {
        m.plain([...m.size66(size), m.rng.pick([0xcb, 0xcf])], (d) => {
          unusualStack(m, d);
          const stack = LDT[((d.segs[2] as number) >> 3) - 1], esp = d.regs[4] as number;
          const at = d.segs[2] === USER_DS || stack === undefined ? esp : stack.base + (stack.is32 ? esp : esp & 0xffff);
          // Garbage there would make it a return to an inner ring, where the order of checks is the processor's own.
          if (at >= READ_ONLY - 16) d.setReg(4, STACK);
          [0x110, ldtSelector(name), 0x202].forEach((word, i) => d.poke((at >= READ_ONLY - 16 ? STACK : at) + (i * size) / 8, size, word));
        });
      }
    }
  }
  // There and back again: a far call to LDT code that returns far.
  m.plain([0x9a, ...le(4, 0x10a), ...le(2, ldtSelector('code')), 0xeb, 1, 0x90, 0xcb]);
  // And one into 16-bit code, which returns with 16-bit frames.
  m.plain([0x66, 0x9a, ...le(2, 0x10a), ...le(2, ldtSelector('code16')), 0x90, 0x90, 0x90, 0x90, 0xcb]);
  // Beyond the limit of the code segment: a fetch that runs into it.
  for (const at of [0x10c, 0x10d, 0x10e, 0x10f]) {
    m.plain([0xb8, 1, 2, 3, 4], (d) => { d.segs[1] = ldtSelector('codeShort'); d.at = CODE_BASE + at; d.eip = at; });
  }
}

/** What ring 3 may not do, and what nobody may. */
export function refused(m: Maker): void {
  const privileged = [
    [0xf4], [0xfa], [0xfb], [0xe4, 0x80], [0xe5, 0x80], [0xe6, 0x80], [0xe7, 0x80], [0xec], [0xed], [0xee], [0xef], [0x66, 0xed],
    [0x0f, 0x06], [0x0f, 0x08], [0x0f, 0x09], [0x0f, 0x30], [0x0f, 0x32], [0x0f, 0x20, 0xc0], [0x0f, 0x22, 0xc0], [0x0f, 0x20, 0xd0], [0x0f, 0x22, 0xd8], [0x0f, 0x20, 0xe0],
    [0x0f, 0x21, 0xc0], [0x0f, 0x23, 0xf8], [0x0f, 0x00, 0xd0], [0x0f, 0x00, 0xd8], [0x0f, 0x01, 0xf0], [0x0f, 0x01, 0x15, 0, 0, 2, 0], [0x0f, 0x01, 0x1d, 0, 0, 2, 0],
    [0x0f, 0x01, 0x38], [0x0f, 0x01, 0x3d, 0, 0, 2, 0],
  ];
  for (const code of privileged) m.plain(code);
  for (const vector of [0, 1, 2, 5, 6, 8, 13, 14, 0x20, 0x7f, 0x81, 0x82, 0xff]) m.plain([0xcd, vector]);
  m.plain([0xcd, 3]); // INT 3 in two bytes: through the gate with DPL 3
  m.plain([0xcd, 4]);
  m.plain([0xcc]);
  for (let i = 0; i < 4; i++) m.plain([0xce], (d) => { d.eflags = (d.eflags & ~0x800) | (i & 1 ? 0x800 : 0); });
  // INT1 (F1) is left to the images: under a hypervisor the processor of the vectors reports it before the instruction.

  const undefinedOpcodes = [
    [0x0f, 0x0b], [0x0f, 0xff, 0xc0], [0x0f, 0xb9, 0xc0], [0x0f, 0x04], [0x0f, 0x0a], [0x0f, 0x0c], [0x0f, 0x24, 0xc0], [0x0f, 0x26, 0xc0], [0x0f, 0x36], [0x0f, 0x39],
    [0x0f, 0xa6, 0xc0], [0x0f, 0xa7, 0xc0], [0xfe, 0xd0], [0xfe, 0xf8], [0xff, 0xf8], [0xff, 0xd8], [0xff, 0xe8], [0xc6, 0xc8], [0xc7, 0xd0], [0x0f, 0xba, 0xc0, 1], [0x0f, 0xba, 0xd8, 1],
    [0x8d, 0xc0], [0x0f, 0xb2, 0xc0], [0x0f, 0xb4, 0xc0], [0x0f, 0xb5, 0xc0], [0x0f, 0xc7, 0xc8], [0x0f, 0xc7, 0x05, 0, 1, 2, 0], [0x0f, 0x00, 0xf0], [0x0f, 0x20, 0xc8], [0x0f, 0x22, 0xe8],
    [0x8e, 0xc8], [0x8e, 0xf0], [0x8c, 0xf0], [0x0f, 0xaa],
  ];
  for (const code of undefinedOpcodes) m.plain(code);
  // LOCK where it may not be: on a register, on what does not write, on what is not lockable.
  const unlockable = [
    [0x01, 0xd8], [0x03, 0x03], [0x8b, 0x03], [0x89, 0x03], [0x39, 0x03], [0x84, 0x03], [0x90], [0x40], [0xff, 0xc0], [0xff, 0x33], [0xc1, 0x23, 1], [0x0f, 0xa3, 0x03], [0x0f, 0xba, 0x23, 1],
    [0xa4], [0xc3], [0xe8, 0, 0, 0, 0], [0x74, 0], [0x8d, 0x03], [0x0f, 0xb1, 0xd8], [0x87, 0xd8], [0x0f, 0xc1, 0xd8], [0xf7, 0xd8], [0x0f, 0xab, 0xd8], [0xc8, 0, 0, 0], [0x50], [0xf4], [0xcc], [0xcd, 0x80],
    [0x81, 0x3b, 1, 0, 0, 0], [0xf7, 0x03, 1, 0, 0, 0], [0xf7, 0x23], [0x0f, 0xaf, 0x03], [0x0f, 0xc8], [0x9c], [0xf0, 0x40],
  ];
  for (const code of unlockable) m.plain([0xf0, ...code], (d) => d.setReg(3, DATA + 0x100));
  // Fifteen bytes are the most; prefixes may repeat.
  for (const count of [1, 5, 10, 12, 13, 14, 15, 20]) {
    for (const [prefix, op] of [[0x66, 0x90], [0x3e, 0x40], [0x2e, 0x41]] as const) m.plain([...Array<number>(count).fill(prefix), op]);
    m.plain([...Array<number>(count).fill(0x66), 0x81, 0xc0, 0x34, 0x12]);
  }
  // Prefixes that mean nothing here.
  for (const prefix of [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67]) for (const code of [[0x01, 0xd8], [0x40], [0x0f, 0xb6, 0xc3], [0x74, 2]]) m.plain([prefix, ...code]);
  for (const prefix of [0xf2, 0xf3]) for (const code of [[0x01, 0xd8], [0x8b, 0x03], [0x40], [0xeb, 2], [0x50]]) m.plain([prefix, ...code], (d) => d.setReg(3, DATA + 0x100));
  // Values differ from machine to machine; that they run does not.
  m.plain([0x0f, 0x31, 0x31, 0xc0, 0x31, 0xd2]);
  m.plain([0x0f, 0xa2, 0x31, 0xc0, 0x31, 0xd2, 0x31, 0xc9, 0x31, 0xdb], (d) => d.setReg(0, 0));
  m.plain([0x9b]);
  // Code that crosses into the next page, and code that crosses into nothing.
  for (let back = 1; back <= 10; back++) {
    for (const code of [[0x81, 0x05, 0, 1, 2, 0, 4, 3, 2, 1], [0xc7, 0x84, 0x8d, 0, 0, 2, 0, 1, 2, 3, 4]]) {
      m.plain(code, (d) => { d.at = 0x11000 - back; d.setReg(5, 0x100); d.setReg(1, 4); });
      m.plain(code.slice(0, back), (d) => { d.at = CODE_END - back; d.setReg(5, 0x100); d.setReg(1, 4); });
    }
  }
}
