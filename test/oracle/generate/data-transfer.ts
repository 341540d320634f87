// Cases for moving data: MOV and kin, LEA, XCHG, CMOV, SETcc, bit tests, exchanges with compare.
import { type Draft, type Maker, SIZES, type Size } from './maker.ts';
import { DATA, LDT } from '../environment.ts';

const byteOf = (size: Size): number => (size === 8 ? 0 : 1);

/** MOV in all forms, MOVZX, MOVSX, LEA, XCHG, BSWAP, XLAT, LAHF, SAHF, flag instructions, NOPs. */
export function move(m: Maker): void {
  for (const size of SIZES) {
    const w = byteOf(size);
    m.form({ opcode: [0x88 + w], size, encodings: 12, draws: 3 });
    m.form({ opcode: [0x8a + w], size, encodings: 12, draws: 3 });
    m.form({ opcode: [0xc6 + w], ext: 0, size, immBits: [size], encodings: 12, draws: 2 });
    m.form({ opcode: [0x86 + w], size, encodings: 10, draws: 4 });
    m.form({ prefixes: [0xf0], opcode: [0x86 + w], size, modrm: 'mem', encodings: 2, draws: 2 });
    for (let reg = 0; reg < 8; reg++) m.form({ opcode: [(size === 8 ? 0xb0 : 0xb8) + reg], size, modrm: 'none', immBits: [size], encodings: 2, draws: 2 });
    for (const op of [0xa0, 0xa2]) { // moffs: address size decides the immediate
      for (let i = 0; i < 8; i++) {
        const place = m.memPlace({ bytes: size / 8 });
        const addr16 = place.prefixes.includes(0x67) === (m.bits === 32);
        const base = place.seg === undefined ? 0 : LDT[(place.seg[1] >> 3) - 1]?.base ?? 0;
        const offset = ((place.vaddr ?? DATA) - base) >>> 0;
        const draft = m.draft();
        draft.code = [...place.prefixes, ...m.size66(size), op + w, ...Array.from({ length: addr16 ? 2 : 4 }, (_, b) => (offset >>> (8 * b)) & 0xff)];
        if (place.seg !== undefined) draft.segs[place.seg[0]] = place.seg[1];
        draft.poke(place.vaddr ?? DATA, size, m.value());
        m.add(draft);
      }
    }
  }
  for (const from of [8, 16] as const) {
    for (const op of [0xb6, 0xbe]) for (const to of [16, 32] as const) m.form({ opcode: [0x0f, op + (from === 16 ? 1 : 0)], size: from, regSize: to, encodings: 8, draws: 4 });
  }
  for (const size of [16, 32] as const) {
    m.form({ opcode: [0x8d], size, modrm: 'mem', encodings: 60, draws: 2 });
    for (let reg = 0; reg < 8; reg++) m.form({ opcode: [0x90 + reg], size, modrm: 'none', encodings: 1, draws: 2 });
  }
  // Every ModRM byte and, behind rm = 4, a spread of SIB bytes: the addressing forms themselves.
  for (let i = 0; i < 500; i++) m.form({ opcode: [m.rng.pick([0x8b, 0x03, 0x89])], size: 32, modrm: 'mem', encodings: 1, draws: 1 });
  for (let reg = 0; reg < 8; reg++) m.form({ opcode: [0x0f, 0xc8 + reg], size: 32, modrm: 'none', encodings: 1, draws: 3 });
  for (const prefix of [[], [0x67], [0x64], [0x2e]]) {
    for (let i = 0; i < 8; i++) {
      const draft = m.draft();
      draft.code = [...prefix, 0xd7];
      const addr16 = (prefix[0] === 0x67) === (m.bits === 32);
      draft.setReg(3, addr16 ? ((m.rng.u32() & 0xffff0000) | (0x8000 + m.rng.below(0x1000))) >>> 0 : prefix[0] === 0x64 ? 0x1000 - m.rng.below(256) : DATA + m.rng.below(0x1000));
      if (prefix[0] === 0x64) draft.segs[4] = 0x0f;
      m.add(draft);
    }
  }
  for (const op of [0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0x90]) for (let i = 0; i < 10; i++) m.plain([op]);
  m.form({ opcode: [0x0f, 0x1f], ext: 0, size: 32, encodings: 6, draws: 1 });
  m.form({ opcode: [0x0f, 0x1f], ext: 0, size: 16, encodings: 3, draws: 1 });
  for (let ext = 0; ext < 4; ext++) m.form({ opcode: [0x0f, 0x18], ext, size: 32, modrm: 'mem', encodings: 3, draws: 1 });
  for (const ext of [0, 1]) m.form({ opcode: [0x0f, 0x0d], ext, size: 32, modrm: 'mem', encodings: 3, draws: 1 });
  for (const code of [[0xf3, 0x90], [0x66, 0x90], [0x0f, 0x1e, 0xc0], [0x0f, 0x19, 0xc0], [0x26, 0x3e, 0x90]]) m.plain(code);
}

/** What is neither integer nor privileged, as far as kernels use it: x87 control, fences, hints. */
export function others(m: Maker): void {
  const at = [0x00, 0x01, 0x02, 0x00], far = [0x80, 0x01, 0x02, 0x00]; // DATA + 0x100, DATA + 0x180
  const fninit = [0xdb, 0xe3];
  for (const code of [
    [...fninit, 0xd9, 0x3d, ...at], // FNSTCW
    [...fninit, 0xdf, 0xe0], [...fninit, 0xdd, 0x3d, ...at], // FNSTSW AX, memory
    [...fninit, 0xd9, 0x2d, ...at, 0xd9, 0x3d, ...far], // FLDCW, FNSTCW
    [...fninit, 0xdb, 0xe2, 0xdf, 0xe0], // FNCLEX
    [0xd9, 0xd0], [0x9b], // FNOP, WAIT
    [0x0f, 0xae, 0xe8], [0x0f, 0xae, 0xf0], [0x0f, 0xae, 0xf8], [0x0f, 0xae, 0x3d, ...at], // LFENCE, MFENCE, SFENCE, CLFLUSH
    [0xf3, 0x0f, 0x1e, 0xfb], [0xf3, 0x0f, 0x1e, 0xfa], // ENDBR32, ENDBR64
    [0x66, 0x6d], [0x0f, 0x33], // INSW, RDPMC: refused
  ]) {
    for (let i = 0; i < 2; i++) m.plain(code, (d) => d.poke(DATA + 0x100, 16, 0x37f & ~(i << 8))); // a control word that masks everything
  }
  for (let ext = 0; ext < 8; ext++) m.form({ opcode: [0x0f, 0x0d], ext, size: 32, modrm: 'mem', encodings: 2, draws: 1 });
}

/** All sixteen conditions: SETcc, CMOVcc, under random flags. */
export function conditions(m: Maker): void {
  for (let cc = 0; cc < 16; cc++) {
    m.form({ opcode: [0x0f, 0x90 + cc], ext: 0, size: 8, encodings: 3, draws: 12 });
    for (const size of [16, 32] as const) m.form({ opcode: [0x0f, 0x40 + cc], size, encodings: 3, draws: 10 });
  }
}

/** BT BTS BTR BTC with offsets beyond the operand, BSF, BSR, CMPXCHG, XADD, CMPXCHG8B. */
export function bits(m: Maker): void {
  for (const size of [16, 32] as const) {
    for (const op of [0xa3, 0xab, 0xb3, 0xbb]) {
      m.form({ opcode: [0x0f, op], size, modrm: 'reg', encodings: 3, draws: 8 });
      // In memory the bit offset is signed and reaches far: keep it within the window, and let one in ten leave it.
      m.form({ opcode: [0x0f, op], size, modrm: 'mem', encodings: 8, draws: 6, tune: farBit(size) });
      if (op !== 0xa3) m.form({ prefixes: [0xf0], opcode: [0x0f, op], size, modrm: 'mem', encodings: 1, draws: 4, plain: true, tune: farBit(size) });
    }
    for (const ext of [4, 5, 6, 7]) {
      m.form({ opcode: [0x0f, 0xba], ext, size, immBits: [8], encodings: 10, draws: 4 });
      if (ext !== 4) m.form({ prefixes: [0xf0], opcode: [0x0f, 0xba], ext, size, modrm: 'mem', immBits: [8], encodings: 2, draws: 2, plain: true });
    }
    for (const op of [0xbc, 0xbd]) m.form({ opcode: [0x0f, op], size, encodings: 8, draws: 8, tune: (d, place, rng) => {
      const value = rng.chance(6) ? 0 : (rng.u32() >>> rng.below(32)) & (rng.chance(2) ? 0xffffffff : 0xffff0000);
      if (place?.reg !== undefined) d.setOperand(place.reg, size, value);
      if (place?.vaddr !== undefined) d.poke(place.vaddr, size, value);
    } });
  }
  for (const size of SIZES) {
    const w = byteOf(size);
    for (const prefixes of [[], [0xf0]]) {
      const modrm = prefixes.length > 0 ? 'mem' : 'both';
      m.form({ prefixes, opcode: [0x0f, 0xb0 + w], size, modrm, encodings: 5, draws: 8, tune: (d, place, rng) => {
        const value = m.value();
        if (rng.chance(2)) { // make it succeed
          d.setOperand(0, size, value);
          if (place?.reg !== undefined && place.reg !== 0) d.setOperand(place.reg, size, value);
          if (place?.vaddr !== undefined) d.poke(place.vaddr, size, value);
        } else d.setOperand(0, size, m.value());
      } });
      m.form({ prefixes, opcode: [0x0f, 0xc0 + w], size, modrm, encodings: 5, draws: 6 });
    }
  }
  for (const prefixes of [[], [0xf0]]) {
    m.form({ prefixes, opcode: [0x0f, 0xc7], ext: 1, size: 32, modrm: 'mem', memBytes: 8, encodings: 14, draws: 4, tune: (d, place, rng) => {
      if (place?.vaddr === undefined || rng.chance(2)) return;
      const low = d.regs[0] as number, high = d.regs[2] as number; // EDX:EAX equal: it is exchanged
      d.pokeBytes(place.vaddr, Uint8Array.from({ length: 8 }, (_, i) => (i < 4 ? low >>> (8 * i) : high >>> (8 * (i - 4)))));
    } });
  }
}

function farBit(size: Size) {
  return (d: Draft, place: { vaddr?: number } | undefined, rng: { below(n: number): number; chance(n: number): boolean; u32(): number }): void => {
    // The register operand is in ModRM.reg, which is at a fixed place behind the opcode.
    const at = d.code.findIndex((byte, i) => byte === 0x0f && [0xa3, 0xab, 0xb3, 0xbb].includes(d.code[i + 1] ?? 0));
    const reg = ((d.code[at + 2] ?? 0) >> 3) & 7;
    if (place?.vaddr === undefined || d.pinned.has(reg)) {
      if (place?.vaddr !== undefined && d.pinned.has(reg)) d.code = [0x90]; // its address register is its offset: lands anywhere
      return;
    }
    const bit = rng.chance(10) ? UNMAPPED_BITS : rng.below(0x2000) - 0x1000;
    d.setOperand(reg, size, size === 16 ? bit & 0xffff : bit >>> 0);
    if (size === 16 && bit === UNMAPPED_BITS) d.setOperand(reg, size, 0x7ff0);
  };
}
/** From the data window into the unmapped pages. */
const UNMAPPED_BITS = 0x2800 * 8;
