// MMX, SSE and SSE2 in 64-bit mode, as ../generate/simd.ts makes them for both modes: here with XMM8 to XMM15, 64-bit
// general registers, and operands and states anywhere. [R15] is the state, [R14] the operand.
import type { Rng } from '../environment.ts';
import { type Content, encode, formOf, HINTS, integers, isApproximate, isFloat, LONG_SIMD_CODES, masked, numbers, type SimdCode, usesMmx } from '../generate/simd.ts';
import type { Patch } from '../vector.ts';
import type { LongMaker } from './cases.ts';
import { DATA, READ_ONLY, UNMAPPED } from './world.ts';

const IMAGE = DATA + 0x100;
const OPERAND = DATA + 0x400;
const AT = { mxcsr: 24, st: 32, xmm: 160 } as const;
/** FXRSTOR and FXSAVE, or their forms with 64-bit pointers; then AMD's own bit of the mask of MXCSR is made zero. */
const restore = (wide: boolean): number[] => [wide ? 0x49 : 0x41, 0x0f, 0xae, 0x0f];
const save = (wide: boolean): number[] => [wide ? 0x49 : 0x41, 0x0f, 0xae, 0x07, 0x66, 0x41, 0xc7, 0x47, 0x1e, 0, 0];

const place = (rng: Rng, sizeBytes: number): number => {
  const fate = rng.below(12);
  return fate === 0 ? OPERAND + 1 + rng.below(15) : fate === 1 ? DATA + 0x1000 - rng.below(sizeBytes + 1) : fate === 2 ? rng.pick([UNMAPPED, READ_ONLY + 0x10, UNMAPPED - 8]) : OPERAND + 16 * rng.below(4);
};
const valueOf = (bytes: Uint8Array): bigint => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

/** Only where every byte is writable. */
function poke(draft: { memory: Patch[] }, vaddr: number, bytes: Uint8Array): void {
  if (vaddr >= DATA && vaddr + bytes.length <= READ_ONLY) draft.memory.push({ vaddr, bytes });
}

function emit(maker: LongMaker, code: SimdCode, content: Content): void {
  const { rng } = maker;
  const wide = rng.chance(2);
  const choice = encode(code, rng, code.kinds.some((kind) => kind.endsWith('_or_mem')) && rng.chance(3), 'r14');
  maker.plain([...restore(wide), ...choice.bytes, ...save(wide)], (draft) => {
    const masked = code.kinds[0] === 'seg_rDI';
    const vaddr = masked ? OPERAND + rng.below(16) : place(rng, code.memoryBytes || 1);
    draft.regs[15] = BigInt(IMAGE);
    draft.regs[14] = BigInt(vaddr);
    if (masked) draft.regs[7] = BigInt(vaddr);
    const top = usesMmx(code) ? rng.below(8) : 0;
    const header = new DataView(new ArrayBuffer(AT.st));
    header.setUint16(0, 0x37f, true);
    header.setUint16(2, top << 11, true);
    header.setUint8(4, usesMmx(code) ? rng.below(256) : 0);
    header.setUint32(AT.mxcsr, content.mxcsr(rng), true);
    poke(draft, IMAGE, new Uint8Array(header.buffer));
    poke(draft, IMAGE + AT.st, new Uint8Array(AT.xmm - AT.st));
    code.kinds.forEach((kind, i) => {
      const register = choice.registers[i] as number;
      if (register < 0) return;
      if (kind.startsWith('xmm')) poke(draft, IMAGE + AT.xmm + 16 * register, content.bytes(rng, 16));
      else if (kind.startsWith('mm')) poke(draft, IMAGE + AT.st + 16 * ((register - top) & 7), content.bytes(rng, 8));
      else maker.setReg(draft, register, rng.pick([0n, 1n, -1n, 1n << 63n, (1n << 53n) + 1n, 0x7fffffffn, valueOf(content.bytes(rng, 8))]));
    });
    if (choice.registers.includes(-1) && !masked) poke(draft, vaddr, content.bytes(rng, Math.max(code.memoryBytes, 4)));
  });
}

export function longSimd(maker: LongMaker): void {
  for (const code of LONG_SIMD_CODES) {
    if (HINTS.test(code.name) || isApproximate(code)) continue;
    const float = isFloat(code);
    const content = float ? numbers(formOf(code), masked) : integers;
    for (let n = /r64|rm64/.test(code.name) ? 16 : float ? 6 : 4; n > 0; n--) emit(maker, code, content);
  }
}
