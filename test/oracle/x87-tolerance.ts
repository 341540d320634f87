// The transcendental instructions of the x87 are the one place where results of real processors are not
// fixed to the last bit: the manual promises less than one unit in the last place (SDM vol. 1, 8.3.10),
// and vendors and models differ. So of these, results are compared within one unit, and C1, which says
// whether the last bit was rounded up, is not compared after them. Everything else of the state is.
import { X87_IMAGE, X87_IMAGE_BYTES } from './generate/x87.ts';
import type { Case, Patch } from './vector.ts';

export interface ToleranceRow {
  /** Second opcode byte after D9. */
  readonly opcode: number;
  readonly name: string;
  /** Units in the last place. */
  readonly ulp: bigint;
  /** Whether this operand is one for which the manual leaves the result undefined. */
  readonly undefinedFor?: (exponent: number, sign: number) => boolean;
}
const BIAS = 16383;
export const X87_TOLERANCE: readonly ToleranceRow[] = [
  // |ST(0)| from 1 on: undefined.
  { opcode: 0xf0, name: 'F2xm1', ulp: 1n, undefinedFor: (exponent) => exponent >= BIAS && exponent !== 0x7fff },
  { opcode: 0xf1, name: 'Fyl2x', ulp: 1n },
  { opcode: 0xf2, name: 'Fptan', ulp: 1n },
  { opcode: 0xf3, name: 'Fpatan', ulp: 1n },
  // |ST(0)| beyond 1 - sqrt(1/2): undefined.
  { opcode: 0xf9, name: 'Fyl2xp1', ulp: 1n, undefinedFor: (exponent) => exponent >= BIAS - 2 && exponent !== 0x7fff },
  { opcode: 0xfb, name: 'Fsincos', ulp: 1n },
  { opcode: 0xfe, name: 'Fsin', ulp: 1n },
  { opcode: 0xff, name: 'Fcos', ulp: 1n },
];

const OPCODE_AT = 8;
const STATUS_AT = 4;
const C1 = 0x200;
const REGISTERS_AT = 28;

/** The row of a case FNINIT, FRSTOR, one transcendental instruction, FNSAVE. */
export function toleranceOf({ code }: Case): ToleranceRow | undefined {
  if (code.length !== 16 || code[2] !== 0xdd || code[3] !== 0x25 || code[OPCODE_AT] !== 0xd9) return undefined;
  return X87_TOLERANCE.find((row) => row.opcode === code[OPCODE_AT + 1]);
}

/** The saved state as memory holds it afterwards, and whatever else changed. */
function stateAfter(input: Case, memory: readonly Patch[]): { image: Uint8Array; elsewhere: boolean } {
  const image = new Uint8Array(X87_IMAGE_BYTES);
  let elsewhere = false;
  const put = ({ vaddr, bytes }: Patch, after: boolean): void => bytes.forEach((byte, i) => {
    const at = vaddr + i - X87_IMAGE;
    if (at >= 0 && at < X87_IMAGE_BYTES) image[at] = byte;
    else if (after) elsewhere = true;
  });
  for (const patch of input.memory) put(patch, false);
  for (const patch of memory) put(patch, true);
  return { image, elsewhere };
}
/** Register numbers in the order of their values, so that neighbours differ by one. */
const ordinal = (view: DataView, at: number): bigint => {
  const high = view.getUint16(at + 8, true);
  const magnitude = (BigInt(high & 0x7fff) << 63n) + (view.getBigUint64(at, true) & ((1n << 63n) - 1n));
  return high >> 15 === 1 ? -magnitude : magnitude;
};

/** Is the memory that a transcendental instruction left what the processor left, to the row's tolerance? */
export function closeEnough(row: ToleranceRow, input: Case, expected: readonly Patch[], actual: readonly Patch[]): boolean {
  const before = new DataView(stateAfter(input, []).image.buffer);
  const high = before.getUint16(REGISTERS_AT + 8, true);
  if (row.undefinedFor?.(high & 0x7fff, high >> 15) === true) return true;
  const want = stateAfter(input, expected);
  const got = stateAfter(input, actual);
  if (want.elsewhere !== got.elsewhere) return false;
  const [wanted, gotten] = [new DataView(want.image.buffer), new DataView(got.image.buffer)];
  for (let at = 0; at < REGISTERS_AT; at += 2) {
    const differs = wanted.getUint16(at, true) ^ gotten.getUint16(at, true);
    if ((at === STATUS_AT ? differs & ~C1 : differs) !== 0) return false;
  }
  for (let at = REGISTERS_AT; at < X87_IMAGE_BYTES; at += 10) {
    const distance = ordinal(wanted, at) - ordinal(gotten, at);
    if (distance > row.ulp || distance < -row.ulp) return false;
  }
  return true;
}
