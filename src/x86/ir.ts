// The language in which instruction rows say what they mean. A row turns a decoded instruction into
// statements over expressions; the evaluator (evaluate.ts) runs them, the translator (translate/)
// lowers them to WebAssembly, the tests compare the two. There is no second semantics.
//
// Values. Every value has a width (1, 8, 16, 32, 64 or 128 bits) and is kept zero-extended to it.
// Widths up to 32 live in i32 (a JavaScript number, unsigned), width 64 in i64 (a bigint).
// Operators wrap modulo 2^width. Width 1 is a condition, 0 or 1. Width 128 is a vector of lanes (v128):
// of `bin` it knows and, or, xor; the operators on lanes have tags of their own.
//
// Order. Statements run in order; expressions have no effects and do not fault. Everything that can
// fault (load, store, probe, raiseIf, segment checks) is a statement. The law of precise faults:
// **a statement that can fault comes before every `setReg`, `setFlags`, `store` of its instruction**,
// except that a `store` may follow stores whose targets were probed. After the first effect nothing faults.
//
// REP string instructions are lowered to ONE iteration; `rep` in Lowered says how they repeat (each
// iteration retires as one instruction and rip stays on the instruction while it repeats).
//
// What is too rare or too large for expressions (far transfers, IRET, segment loads, control
// registers, CPUID, ...) is a `system` row: one TypeScript function over the Cpu, in system rows.
// The translator ends its block there and lets the evaluator perform it, but for what is ordinary of the x87.

import type { Quick } from './x87/quick.ts';

export type Width = 1 | 8 | 16 | 32 | 64 | 128;
export type LaneWidth = 8 | 16 | 32 | 64;

export type BinOp = 'add' | 'sub' | 'mul' | 'and' | 'or' | 'xor' | 'shl' | 'shrU' | 'shrS' | 'rotl' | 'rotr' | 'divU' | 'divS' | 'remU' | 'remS';
export type CmpOp = 'eq' | 'ne' | 'ltU' | 'leU' | 'ltS' | 'leS';
/** `clz`, `ctz` of zero give the width. */
export type UnOp = 'not' | 'neg' | 'clz' | 'ctz' | 'popcnt';
/**
 * Operators on two vectors, lane by lane; `lane` is the width of the result's lanes. narrow: twice as wide signed lanes of a, then
 * of b, saturated. dot: sums of two neighbouring products of signed 16-bit lanes (32). mulWide: products of the lower halves (64).
 * sad: sums of eight absolute differences of unsigned bytes (64).
 */
export type LaneOp =
  | 'add' | 'sub' | 'addSatS' | 'addSatU' | 'subSatS' | 'subSatU' | 'mul' | 'mulHighS' | 'mulHighU' | 'mulWide' | 'dot' | 'sad'
  | 'minS' | 'minU' | 'maxS' | 'maxU' | 'avgU' | 'eq' | 'gtS' | 'narrowS' | 'narrowU';
export type FloatFormat = 'f32' | 'f64';
/**
 * What rounds or compares. Lanes of a and b: arithmetic, min and max, compare (by a predicate of CMPPS; all ones or zeros), order
 * (the result is not a vector but ZF, PF and CF at their places). Lanes of b alone: sqrt, the conversions, the approximations.
 */
export type FloatOp =
  | { readonly kind: 'add' | 'sub' | 'mul' | 'div' | 'sqrt' | 'min' | 'max' | 'reciprocal' | 'reciprocalRoot' }
  | { readonly kind: 'compare'; readonly predicate: number }
  | { readonly kind: 'order'; readonly signalling: boolean }
  /** To this format from the other. */
  | { readonly kind: 'reformat' }
  /** To and from signed integers of this width. */
  | { readonly kind: 'fromInt'; readonly width: 32 | 64 }
  | { readonly kind: 'toInt'; readonly width: 32 | 64; readonly truncate: boolean };
export type StatusFlag = 'cf' | 'pf' | 'af' | 'zf' | 'sf' | 'of';

export type Expr =
  /** value: number for widths <= 32, bigint for 64; already truncated to the width, unsigned. */
  | { readonly tag: 'const'; readonly width: Width; readonly value: number | bigint }
  /** A temporary of this instruction; assigned exactly once, before use. */
  | { readonly tag: 'temp'; readonly width: Width; readonly id: number }
  /** GPR `index` truncated to width; `high` selects bits 8..15 (AH, CH, DH, BH), width 8. */
  | { readonly tag: 'reg'; readonly width: Width; readonly index: number; readonly high?: boolean }
  /** Shift and rotate counts must be below the width (the row masks). Division: the row has excluded zero and overflow. */
  | { readonly tag: 'bin'; readonly op: BinOp; readonly width: Width; readonly a: Expr; readonly b: Expr }
  | { readonly tag: 'un'; readonly op: UnOp; readonly width: Width; readonly a: Expr }
  /** Compares two values of `a`'s width; the result has width 1. */
  | { readonly tag: 'cmp'; readonly op: CmpOp; readonly a: Expr; readonly b: Expr }
  | { readonly tag: 'select'; readonly width: Width; readonly cond: Expr; readonly then: Expr; readonly else: Expr }
  /** To `width` from `a`'s width; sext only widens, trunc only narrows, zext widens (from 1 too). */
  | { readonly tag: 'zext' | 'sext' | 'trunc'; readonly width: Width; readonly a: Expr }
  /** One status flag as it is before this instruction, width 1. */
  | { readonly tag: 'flag'; readonly flag: StatusFlag }
  /** Condition code 0..15 of Jcc/SETcc/CMOVcc over the flags before this instruction, width 1. A tag of its own so that it can be fused with the producer. */
  | { readonly tag: 'cond'; readonly cc: number }
  /** DF as width 1. */
  | { readonly tag: 'df' }
  /** The whole eflags image as PUSHF sees it before masking (status, DF and the rest), width 32. */
  | { readonly tag: 'eflags' }
  /** Base of a segment register (width 32 in protected mode, 64 in long mode). */
  | { readonly tag: 'segBase'; readonly width: Width; readonly seg: number }
  /** Selector of a segment register, width 16. */
  | { readonly tag: 'selector'; readonly seg: number }
  /** XMM register, width 128. */
  | { readonly tag: 'xmm'; readonly index: number }
  /** MMX register: the significand of the x87 register of that number, width 64. */
  | { readonly tag: 'mm'; readonly index: number }
  | { readonly tag: 'lanes'; readonly op: LaneOp; readonly lane: LaneWidth; readonly a: Expr; readonly b: Expr }
  /** All lanes (16 bits and more) by the same count (width 32), which is below the lane's width. */
  | { readonly tag: 'laneShift'; readonly op: 'shl' | 'shrU' | 'shrS'; readonly lane: LaneWidth; readonly a: Expr; readonly count: Expr }
  /** Sixteen bytes by their places in a (0 to 15) and b (16 to 31). */
  | { readonly tag: 'shuffle'; readonly bytes: readonly number[]; readonly a: Expr; readonly b: Expr }
  /** One lane; its width is the value's. */
  | { readonly tag: 'lane'; readonly width: LaneWidth; readonly index: number; readonly a: Expr }
  /** `a` with one lane replaced. */
  | { readonly tag: 'setLane'; readonly lane: LaneWidth; readonly index: number; readonly a: Expr; readonly value: Expr }
  /** The lanes' top bits, width 32. */
  | { readonly tag: 'laneSigns'; readonly lane: LaneWidth; readonly a: Expr };

/** Where a memory operand is: offset (address-size arithmetic already applied) within a segment. */
export interface MemRef {
  /** Segment register number (SEG); the limit, type and base checks follow from the mode. */
  readonly seg: number;
  /** Width = the mode's address arithmetic width, 32 in protected mode, 64 in long mode. */
  readonly offset: Expr;
}

export type Stmt =
  | { readonly do: 'let'; readonly id: number; readonly value: Expr }
  /** Loads `width` bits into the temporary; may fault (#PF, #GP, #SS). */
  | { readonly do: 'load'; readonly id: number; readonly width: Width; readonly mem: MemRef; /** also demand write access: the first half of a read-modify-write */ readonly forWrite?: boolean; /** #GP unless the linear address is a multiple of the size */ readonly aligned?: boolean }
  /** May fault unless it was probed or loaded forWrite with the same mem and width. */
  | { readonly do: 'store'; readonly width: Width; readonly mem: MemRef; readonly value: Expr; readonly aligned?: boolean }
  /** Checks that a store of `width` bits would succeed. */
  | { readonly do: 'probe'; readonly width: Width; readonly mem: MemRef }
  /** Merges into the GPR as x86 does: 8 and 16 keep the rest, 32 zeroes the upper half of the slot. */
  | { readonly do: 'setReg'; readonly width: Width; readonly index: number; readonly high?: boolean; readonly value: Expr }
  /** All six status flags from a producer row of flags.ts over up to three operands of `width`. */
  | { readonly do: 'setFlags'; readonly op: string; readonly width: Width; readonly a: Expr; readonly b: Expr; readonly r: Expr }
  /** Single status flags given as width-1 expressions; the others keep their values. Costly: forces the flags to be materialised. */
  | { readonly do: 'setFlagBits'; readonly bits: Partial<Record<StatusFlag, Expr>> }
  | { readonly do: 'setDf'; readonly value: 0 | 1 }
  /** Writes the eflags image under `mask` (bits outside keep their values); value width 32. */
  | { readonly do: 'setEflags'; readonly value: Expr; readonly mask: Expr }
  /** Raises the exception if the condition holds. */
  | { readonly do: 'raiseIf'; readonly cond: Expr; readonly vector: number; readonly errorCode?: number }
  /** 128 bits (high:low) by 64: #DE if `by` is zero or the quotient does not fit; else two temporaries. All values have width 64. */
  | { readonly do: 'divideWide'; readonly signed: boolean; readonly high: Expr; readonly low: Expr; readonly by: Expr; readonly quotient: number; readonly remainder: number }
  /** rip := target (already truncated to the operand size); the CS limit check belongs to the target's fetch... */
  | { readonly do: 'jump'; readonly target: Expr; readonly how: 'direct' | 'indirect' | 'call' | 'ret' }
  /** If cond: rip := target, else falls through. */
  | { readonly do: 'branch'; readonly cond: Expr; readonly target: Expr }
  /** Statements under a condition; temporaries assigned inside are not used outside. May contain faulting statements only before any effect. */
  | { readonly do: 'if'; readonly cond: Expr; readonly then: readonly Stmt[]; readonly else?: readonly Stmt[] }
  /** May MMX or SSE be used now? #UD and #NM as CR0 and CR4 say; mmx: #MF for an x87 exception left behind. First in its instruction. */
  | { readonly do: 'unit'; readonly unit: SimdUnit }
  | { readonly do: 'setXmm'; readonly index: number; readonly value: Expr }
  /** Width 64; the sign and exponent above become ones. */
  | { readonly do: 'setMm'; readonly index: number; readonly value: Expr }
  /** What every MMX instruction does to the x87: TOP is 0, all registers are full. */
  | { readonly do: 'enterMmx' }
  /**
   * `lanes` lanes from the lowest of the result; what is left of it is a's. `format` is the result's, or for toInt and order the
   * source's. Notes flags in MXCSR and raises #XM if one of them is unmasked (then nothing else has happened).
   */
  | { readonly do: 'float'; readonly id: number; readonly op: FloatOp; readonly format: FloatFormat; readonly lanes: 1 | 2 | 4; readonly a: Expr; readonly b: Expr }
  /** Performed in TypeScript by the named system row. Always the only statement of its instruction. `quick`: translated code can do the ordinary itself. */
  | { readonly do: 'system'; readonly row: string; readonly quick?: Quick };

export type SimdUnit = 'mmx' | 'sse';

/** How a string instruction repeats. After one iteration: count := count - 1, then continue while count != 0 and (while == none or ZF matches). Count zero at entry: nothing happens, the instruction retires once. */
export interface Rep {
  readonly countWidth: 16 | 32 | 64;
  readonly whileZf?: 0 | 1;
}
