// Cases for the stack and for near transfers: PUSH and POP in all forms, ENTER, LEAVE, CALL, RET, Jcc, LOOP.
import { CODE, CODE_BASE, ldtSelector, READ_ONLY, STACK, UNMAPPED } from '../environment.ts';
import { type Draft, ESP, type Maker } from './maker.ts';

const SIZES = [16, 32] as const;

/** Now and then the stack ends where the next push or pop faults, or is a 16-bit or expand-down segment. */
export function unusualStack(m: Maker, d: Draft): void {
  const fate = m.rng.below(16);
  if (fate === 0) d.setReg(ESP, READ_ONLY + 4 + 2 * m.rng.below(8)); // pushes hit the read-only page
  if (fate === 1) d.setReg(ESP, UNMAPPED - 2 * m.rng.below(6)); // pops run off the end
  if (fate === 2) d.setReg(ESP, 0x20000 + 2 * m.rng.below(6)); // pushes run off the start
  if (fate === 3) d.setReg(ESP, (d.regs[ESP] as number) - 1); // unaligned is fine
  if (fate === 4) { d.segs[2] = ldtSelector('stack16'); d.setReg(ESP, ((m.rng.u32() & 0xffff0000) | (0x800 + 2 * m.rng.below(16))) >>> 0); }
  if (fate === 5) { d.segs[2] = ldtSelector('stack16'); d.setReg(ESP, ((m.rng.u32() & 0xffff0000) | m.rng.pick([0, 2, 4, 0x1ffc, 0x1ffe, 0x2000, 6, 16])) >>> 0); }
  if (fate === 6) { d.segs[2] = ldtSelector('down32'); d.setReg(ESP, 0x1000 + 2 * m.rng.below(8)); }
  if (fate === 7) { d.segs[2] = ldtSelector('down16'); d.setReg(ESP, ((m.rng.u32() & 0xffff0000) | (0xe000 + 2 * m.rng.below(24))) >>> 0); }
  if (fate === 8) { d.segs[2] = ldtSelector('data'); d.setReg(ESP, 0x1ff0 + 2 * m.rng.below(10)); }
}

export function pushPop(m: Maker): void {
  const tune = (d: Draft): void => unusualStack(m, d);
  for (const size of SIZES) {
    for (let reg = 0; reg < 8; reg++) {
      m.form({ opcode: [0x50 + reg], size, modrm: 'none', encodings: 1, draws: 6, noEsp: true, tune });
      m.form({ opcode: [0x58 + reg], size, modrm: 'none', encodings: 1, draws: 6, noEsp: true, tune });
    }
    m.form({ opcode: [0x68], size, modrm: 'none', immBits: [size], encodings: 3, draws: 4, tune });
    m.form({ opcode: [0x6a], size, modrm: 'none', immBits: [8], encodings: 4, draws: 3, tune });
    m.form({ opcode: [0xff], ext: 6, size, encodings: 8, draws: 5, noEsp: true, tune });
    m.form({ opcode: [0x8f], ext: 0, size, encodings: 8, draws: 5, noEsp: true, tune });
    // push [esp+x] uses the old ESP, pop [esp+x] the new one.
    for (const [op, ext] of [[0xff, 6], [0x8f, 0]] as const) {
      for (const disp of [0, 4, 8, 0xfc, 0x7c]) m.form({ opcode: [op, 0x44 | (ext << 3), 0x24, disp], size, modrm: 'none', encodings: 1, draws: 3, tune });
      m.form({ opcode: [op, 0x04 | (ext << 3), 0x24], size, modrm: 'none', encodings: 1, draws: 4, tune });
      m.form({ opcode: [op, 0xc4 | (ext << 3)], size, modrm: 'none', encodings: 1, draws: 4, tune }); // ESP itself
    }
    for (const op of [0x60, 0x61]) m.form({ opcode: [op], size, modrm: 'none', encodings: 1, draws: 16, tune });
    m.form({ opcode: [0x9c], size, modrm: 'none', encodings: 1, draws: 16, tune });
    // POPF: everything but what would end the vector's world (TF has its own group, AC too).
    m.form({ opcode: [0x9d], size, modrm: 'none', encodings: 1, draws: 30, tune: (d) => { d.poke(STACK, 32, m.rng.u32() & ~0x40100); if (m.rng.chance(6)) tune(d); } });
    m.form({ opcode: [0xc9], size, modrm: 'none', encodings: 1, draws: 12, tune: (d) => d.setReg(5, m.rng.chance(8) ? m.value() : STACK + 4 * m.rng.below(64)) });
    for (const level of [0, 1, 2, 3, 7, 31, 32, 33, 0xff]) {
      for (const bytes of [0, 1, 8, 0x100, 0x8000]) {
        m.form({ opcode: [0xc8, bytes & 0xff, bytes >> 8, level], size, modrm: 'none', encodings: 1, draws: 2, tune: (d) => { d.setReg(5, STACK + 0x100 + 4 * m.rng.below(16)); if (m.rng.chance(8)) tune(d); } });
      }
    }
    for (const op of [0x06, 0x0e, 0x16, 0x1e]) m.form({ opcode: [op], size, modrm: 'none', encodings: 1, draws: 4, tune });
    for (const op of [0xa0, 0xa8]) m.form({ opcode: [0x0f, op], size, modrm: 'none', encodings: 1, draws: 4, tune });
  }
}

/** The INT3 fill behind the code is where a branch should land; a byte of distance each way. */
export function branches(m: Maker): void {
  const near = (bits: 8 | 16 | 32, value: number): number[] => Array.from({ length: bits / 8 }, (_, i) => (value >>> (8 * i)) & 0xff);
  for (let cc = 0; cc < 16; cc++) {
    for (let i = 0; i < 16; i++) m.plain([0x70 + cc, m.rng.pick([0, 1, 0x10, 0x7f, 0x80, 0xf0])]);
    for (const size of SIZES) for (let i = 0; i < 8; i++) m.plain([...m.size66(size), 0x0f, 0x80 + cc, ...near(size, m.rng.pick([0, 1, 0x100, 0x1000, -0x40, 0x7fffff00]))]);
  }
  for (const op of [0xe0, 0xe1, 0xe2, 0xe3]) {
    for (const prefix of [[], [0x67]]) {
      for (const ecx of [0, 1, 2, 0xffff, 0x10000, 0x10001, 0xffffffff, 0x80000000]) for (let i = 0; i < 3; i++) m.plain([...prefix, op, m.rng.pick([0, 5, 0x7f, 0x90])], (d) => d.setReg(1, ecx));
    }
    // Loops that run.
    for (const ecx of [1, 2, 5, 30]) m.plain([0x40, op, 0xfd], (d) => d.setReg(1, ecx));
    m.plain([0x66, op, 0x00]);
  }
  for (const size of SIZES) {
    for (const distance of [0, 1, 0x100, 0xe00, -0x20, -0x5000, 0x13000]) {
      for (const op of [0xe8, 0xe9]) for (let i = 0; i < 3; i++) m.plain([...m.size66(size), op, ...near(size, distance)], (d) => { if (i > 0) unusualStack(m, d); });
    }
    m.plain([...m.size66(size), 0xeb, 0x10]);
    m.plain([...m.size66(size), 0xeb, 0xfe - 0x20]);
    const targets = (d: Draft): number => {
      const fate = m.rng.below(10);
      if (fate === 0) return UNMAPPED + 0x10;
      if (fate === 1) return 0x20010; // no-execute
      return CODE + 0x40 + m.rng.below(0x1e00) - (d.segs[1] === 0x23 ? 0 : CODE_BASE);
    };
    for (const ext of [2, 4]) {
      m.form({ opcode: [0xff], ext, size, encodings: 14, draws: 4, noEsp: true, tune: (d, place) => {
        const to = targets(d);
        if (place?.reg !== undefined) d.setReg(place.reg, to);
        if (place?.vaddr !== undefined) d.poke(place.vaddr, size, to);
        unusualStack(m, d);
      } });
      m.form({ opcode: [0xff, 0x44 | (ext << 3), 0x24, 4], size, modrm: 'none', encodings: 1, draws: 4, tune: (d) => d.poke(STACK + 4, size, targets(d)) });
      m.plain([...m.size66(size), 0xff, 0xc4 | (ext << 3)], (d) => d.setReg(ESP, STACK)); // through ESP
    }
    for (const code of [[0xc3], [0xc2, 0, 0], [0xc2, 8, 0], [0xc2, 0xff, 0xff], [0xf3, 0xc3]]) {
      for (let i = 0; i < 8; i++) m.plain([...m.size66(size), ...code], (d) => { d.poke(STACK, size, targets(d)); if (i > 4) unusualStack(m, d); });
    }
  }
  // To the last byte of a code segment and beyond its limit, by every kind of near transfer.
  for (const distance of [0, 4, 8, 9, 10, 0x20, 0xef0, -0x101, -0x110]) {
    const short = (d: Draft): void => { d.segs[1] = ldtSelector('codeShort'); d.eip = CODE - CODE_BASE; };
    const codes = [[0xe9, ...near(32, distance)], [0xe8, ...near(32, distance)], [0x66, 0xe9, ...near(16, distance)], [0x0f, 0x84, ...near(32, distance)], [0xe2, distance & 0x7f], [0xeb, distance & 0xff], [0x74, distance & 0xff]];
    for (const code of codes) m.plain(code, short);
    for (const code of [[0xff, 0xe3], [0xff, 0xd3], [0x66, 0xff, 0xe3]]) m.plain(code, (d) => { short(d); d.setReg(3, (CODE - CODE_BASE + 5 + distance) >>> 0); });
    for (const code of [[0xc3], [0xc2, 4, 0]]) m.plain(code, (d) => { short(d); d.poke(STACK, 32, (CODE - CODE_BASE + 5 + distance) >>> 0); });
  }
  // A call and its return; a return into the middle.
  m.plain([0xe8, 2, 0, 0, 0, 0xeb, 2, 0xc3, 0x90]);
  m.plain([0xe8, 0, 0, 0, 0, 0x58]);
  m.plain([0x68, ...near(32, CODE + 0x200), 0xc3]);
}
