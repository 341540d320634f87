// RCPPS, RCPSS, RSQRTPS and RSQRTSS are approximations: the manual bounds their relative error by 1.5 * 2^-12 (SDM
// vol. 2, RCPPS) and leaves the rest to the processor; makers and models differ. So of these, two results are
// compared within twice that bound, zeros, infinities and NaNs exactly, and everything else of the state exactly.
import { SIMD_IMAGE } from './generate/simd.ts';
import type { Case, Patch } from './vector.ts';

const BOUND = 2 * 1.5 * 2 ** -12;
const XMM = { from: SIMD_IMAGE + 160, to: SIMD_IMAGE + 288 } as const;
/** Behind FXRSTOR, whose bytes these are. */
const AT = 8;

/** Is the case one of an approximation? */
export function isApproximation({ code }: Case): boolean {
  if (code[0] !== 0x0f || code[1] !== 0xae || code[2] !== 0x0c) return false;
  const at = code[AT] === 0xf3 ? AT + 1 : AT;
  return code[at] === 0x0f && (code[at + 1] === 0x52 || code[at + 1] === 0x53);
}

const byteMap = (memory: readonly Patch[]): Map<number, number> => new Map(memory.flatMap(({ vaddr, bytes }) => [...bytes].map((byte, i): [number, number] => [vaddr + i, byte])));
/** Near the least normal number a reciprocal may be flushed to zero, or not. */
const LEAST = 2 ** -126;
const flushed = (a: number, b: number): boolean => Math.abs(a) === LEAST && b === 0 && Math.sign(a) === Math.sign(1 / b);
const close = (a: number, b: number): boolean =>
  flushed(a, b) || flushed(b, a) || (Number.isFinite(a) && Number.isFinite(b) && a !== 0 && Math.abs(a - b) <= BOUND * Math.abs(a));

/** Is the memory that it left what the processor left, within the bound? */
export function approximatelyEqual(input: Case, expected: readonly Patch[], actual: readonly Patch[]): boolean {
  const [before, want, got] = [byteMap(input.memory), byteMap(expected), byteMap(actual)];
  const changed = new Set([...want.keys(), ...got.keys()]);
  const word = (after: ReadonlyMap<number, number>, at: number): { image: number; value: number } | undefined => {
    const view = new DataView(new ArrayBuffer(4));
    for (let i = 0; i < 4; i++) {
      const byte = after.get(at + i) ?? before.get(at + i);
      // A register that the case left as the page had it.
      if (byte === undefined) return undefined;
      view.setUint8(i, byte);
    }
    return { image: view.getUint32(0, true), value: view.getFloat32(0, true) };
  };
  for (const at of changed) {
    if (at < XMM.from || at >= XMM.to) {
      if (want.get(at) !== got.get(at)) return false;
      continue;
    }
    const [a, b] = [word(want, at & ~3), word(got, at & ~3)];
    if (a === undefined || b === undefined || (a.image !== b.image && !close(a.value, b.value))) return false;
  }
  return true;
}
