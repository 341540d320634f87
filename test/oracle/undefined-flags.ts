// What the manual leaves undefined, as rows: which status flags of which instruction, and why. The
// vectors keep what this processor did; comparing ignores these bits. (Source of all rows: Intel SDM
// vol. 2, "Flags Affected" of the instruction, and vol. 1 appendix A.)
import { Code, Decoder, Mnemonic } from 'iced-x86';
import { CODE_BASE, ldtSelector } from './environment.ts';
import type { Case, Outcome } from './vector.ts';

const CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800;
const ALL = CF | PF | AF | ZF | SF | OF;

export interface UndefinedRow {
  readonly names: readonly string[];
  /** The undefined flags, given the count masked to five bits and the operand size in bits (shifts only). */
  readonly mask: (count: number, size: number) => number;
  readonly why: string;
}

const shiftOf = (count: number): number => (count === 0 ? 0 : count === 1 ? 0 : OF);

export const UNDEFINED_FLAGS: readonly UndefinedRow[] = [
  { names: ['And', 'Or', 'Xor', 'Test'], mask: () => AF, why: 'AF is undefined after logic' },
  { names: ['Mul', 'Imul'], mask: () => SF | ZF | AF | PF, why: 'a product defines only CF and OF' },
  { names: ['Div', 'Idiv'], mask: () => ALL, why: 'a quotient defines no flag' },
  { names: ['Aaa', 'Aas'], mask: () => OF | SF | ZF | PF, why: 'ASCII adjustment defines only AF and CF' },
  { names: ['Daa', 'Das'], mask: () => OF, why: 'OF is undefined after decimal adjustment' },
  { names: ['Aam', 'Aad'], mask: () => OF | AF | CF, why: 'SF, ZF and PF follow AL, the rest is undefined' },
  {
    names: ['Shl', 'Sal', 'Shr'],
    mask: (count, size) => (count === 0 ? 0 : AF | shiftOf(count) | (count >= size ? CF : 0)),
    why: 'OF only by a count of 1; AF never; CF not when the count reaches the operand size',
  },
  { names: ['Sar'], mask: (count) => (count === 0 ? 0 : AF | shiftOf(count)), why: 'OF only by a count of 1; AF never' },
  { names: ['Rol', 'Ror', 'Rcl', 'Rcr'], mask: shiftOf, why: 'OF only by a count of 1' },
  {
    names: ['Shld', 'Shrd'],
    mask: (count, size) => (count === 0 ? 0 : count > size ? ALL : AF | shiftOf(count)),
    why: 'OF only by a count of 1; AF never; everything when the count exceeds the operand size',
  },
  { names: ['Bt', 'Bts', 'Btr', 'Btc'], mask: () => OF | SF | AF | PF, why: 'only CF is defined, ZF is kept' },
  { names: ['Bsf', 'Bsr'], mask: () => CF | OF | SF | AF | PF, why: 'only ZF is defined' },
];

const BY_NAME = new Map(UNDEFINED_FLAGS.flatMap((row) => row.names.map((name) => [name, row] as const)));

export interface Ignored {
  readonly flags: number;
  readonly why: string | undefined;
  /** The outcome's memory is not compared, and why. */
  readonly memory: string | undefined;
  /** Only the page of the faulting address is compared, and why. */
  readonly address: string | undefined;
  /** The outcome's general registers are not compared, and why. */
  readonly registers: string | undefined;
}

/** Those that move many bytes at once probe them in an order of the processor's own. */
const MANY_BYTES: ReadonlySet<string> = new Set(['Fxsave', 'Fxrstor', 'Maskmovdqu', 'Maskmovq']);
/** The instruction at which a case of several ended. */
function lastReached(input: Case, outcome: Outcome): string {
  const at = outcome.eip - input.eip;
  if (at <= 0 || at >= input.code.length) return '';
  const decoder = new Decoder(32, input.code.subarray(at), 0);
  const instruction = decoder.decode();
  const name = Mnemonic[instruction.mnemonic] ?? '';
  instruction.free();
  decoder.free();
  return name;
}

/** The words of a frame that is popped at once are read in an order that is the processor's own business. */
const MANY_READS: ReadonlySet<string> = new Set(['Iret', 'Iretd', 'Retf', 'Popa', 'Popad']);

/** A POPA that faults in the middle may have loaded registers already: it is restarted with them all on the stack. */
const MANY_LOADS: ReadonlySet<string> = new Set(['Popa', 'Popad']);

/** Instructions that store more than once: a fault may leave the earlier stores behind, or not. */
const MANY_STORES: ReadonlySet<string> = new Set(['Enter', 'Pusha', 'Pushad', 'Call']);

/** Segment registers pushed as 32 bits: the upper half is zero or untouched (SDM vol. 2, PUSH). */
const SEG_PUSHES: ReadonlySet<number> = new Set([Code.Pushd_ES, Code.Pushd_CS, Code.Pushd_SS, Code.Pushd_DS, Code.Pushd_FS, Code.Pushd_GS]);

/** What of a vector's outcome is not to be compared. */
export function ignored(input: Case, outcome: Outcome): Ignored {
  const bits = input.segs[1] === ldtSelector('code16') ? 16 : 32;
  const decoder = new Decoder(bits, input.code, 0);
  decoder.ip = BigInt(input.at - CODE_BASE);
  const instruction = decoder.decode();
  try {
    const alone = instruction.length === input.code.length;
    const name = Mnemonic[instruction.mnemonic] ?? '';
    const memory = outcome.exception !== undefined && MANY_STORES.has(name) && outcome.exception.vector !== 1 ? 'a faulting instruction of many stores may leave some of them behind'
      : SEG_PUSHES.has(instruction.code) ? 'the upper half of a pushed segment register is zero or untouched' : undefined;
    const registers = outcome.exception !== undefined && MANY_LOADS.has(name) && outcome.exception.vector !== 1 ? 'a faulting POPA may have loaded some registers' : undefined;
    const address = outcome.exception?.vector === 14 && MANY_BYTES.has(lastReached(input, outcome)) ? 'many bytes are probed in an order of the processor\'s own'
      : MANY_READS.has(name) ? 'a frame is read in an order of the processor\'s own' : undefined;
    const row = BY_NAME.get(name);
    // Longer cases end in an instruction that defines every flag.
    if (row === undefined || (!alone && (input.eflags & 0x100) === 0)) return { flags: 0, why: undefined, memory, registers, address };
    const code = Code[instruction.code] ?? '';
    const size = Number(/_rm(\d+)/.exec(code)?.[1] ?? 32);
    const last = input.code[input.code.length - 1] as number;
    const count = (code.endsWith('_CL') ? (input.regs[1] as number) : code.endsWith('_1') ? 1 : last) & 31;
    // A fault before anything happened keeps the flags.
    const flags = outcome.exception !== undefined && outcome.exception.vector !== 1 ? 0 : row.mask(count, size);
    return { flags, why: row.why, memory, registers, address };
  } finally {
    instruction.free();
    decoder.free();
  }
}
