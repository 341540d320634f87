// Bytes to plain records, with iced-x86 as the decoder. Everything that rows need is read once and
// nothing of iced's own objects stays alive. A browser build swaps the import.
import { Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, Mnemonic, OpKind, Register, type Instruction } from 'iced-x86';
import type { Width } from './ir.ts';
import { SEG } from './state-layout.ts';

export type Operand =
  | { readonly kind: 'reg'; readonly width: Width; readonly index: number; readonly high: boolean }
  | { readonly kind: 'sreg'; readonly index: number }
  | { readonly kind: 'creg' | 'dreg'; readonly index: number }
  | { readonly kind: 'mem'; readonly mem: MemOperand }
  /** Already extended to the width of the operation. */
  | { readonly kind: 'imm'; readonly value: bigint }
  | { readonly kind: 'near'; readonly target: number }
  | { readonly kind: 'far'; readonly selector: number; readonly offset: number }
  /** An x87 register by its place in the stack. */
  | { readonly kind: 'st'; readonly index: number }
  | { readonly kind: 'xmm' | 'mm'; readonly index: number }
  /** Registers that no row here knows (bounds, masks, ...). */
  | { readonly kind: 'other' };

export interface MemOperand {
  readonly seg: number;
  /** GPR numbers, -1 for none. */
  readonly base: number;
  readonly index: number;
  readonly scale: 1 | 2 | 4 | 8;
  /** Low 32 bits; in 64-bit code all 64, sign-extended (bigints only for MOV's absolute addresses beyond 2^53). */
  readonly displacement: number | bigint;
  /** `displacement` is the address that an operand relative to rip means at this place. */
  readonly ripRelative?: true;
  readonly addressWidth: 16 | 32 | 64;
  /** Implicit string operand: DI or SI of the address width. */
  readonly string?: 'si' | 'di';
}

export interface Insn {
  readonly vaddr: number;
  readonly lengthBytes: number;
  readonly mnemonic: string;
  /** iced's name of the exact encoding, e.g. Mov_r32_rm32. */
  readonly code: string;
  readonly operands: readonly Operand[];
  readonly lock: boolean;
  /** F3 and F2 prefixes. */
  readonly rep: boolean;
  readonly repne: boolean;
  /** iced's MemorySize number; rows that need it look at operand widths instead. */
  readonly memorySize: number;
  readonly addressWidth: 16 | 32 | 64;
  readonly stackDelta: number;
  /** An explicit segment prefix, -1 for none. */
  readonly segPrefix: number;
  /**
   * Where in its bytes the number stands in which it differs from others of its kind, and the number's size (0: there is none): the
   * displacement of memory or of a near branch, or what MOV puts into a register, if that has four bytes. Told of 64-bit code, where
   * somebody asks (interpret/shapes.ts).
   */
  readonly numberAt: number;
  readonly numberBytes: number;
  /** The 11 bits that the x87 keeps of an instruction's opcode; meaningless for others. */
  readonly fpuOpcode: number;
}

export const MAX_INSN_BYTES = 15;

const MNEMONIC_NAMES: readonly string[] = namesOf(Mnemonic as unknown as Record<string, unknown>);
const CODE_NAMES: readonly string[] = namesOf(Code as unknown as Record<string, unknown>);
function namesOf(table: Record<string, unknown>): string[] {
  const names: string[] = [];
  for (const [key, value] of Object.entries(table)) if (typeof value === 'number') names[value] = key;
  return names;
}

const SEGMENT_OF: Readonly<Record<number, number>> = { [Register.ES]: SEG.es, [Register.CS]: SEG.cs, [Register.SS]: SEG.ss, [Register.DS]: SEG.ds, [Register.FS]: SEG.fs, [Register.GS]: SEG.gs };

/** iced register number → operand. Built once. */
const REGISTER_OPERANDS = new Map<number, Operand>();
for (let i = 0; i < 16; i++) {
  REGISTER_OPERANDS.set(Register.RAX + i, { kind: 'reg', width: 64, index: i, high: false });
  REGISTER_OPERANDS.set(Register.EAX + i, { kind: 'reg', width: 32, index: i, high: false });
  REGISTER_OPERANDS.set(Register.AX + i, { kind: 'reg', width: 16, index: i, high: false });
  REGISTER_OPERANDS.set(Register.CR0 + i, { kind: 'creg', index: i });
  REGISTER_OPERANDS.set(Register.DR0 + i, { kind: 'dreg', index: i });
}
for (let i = 0; i < 4; i++) {
  REGISTER_OPERANDS.set(Register.AL + i, { kind: 'reg', width: 8, index: i, high: false });
  REGISTER_OPERANDS.set(Register.AH + i, { kind: 'reg', width: 8, index: i, high: true });
}
for (let i = 0; i < 8; i++) {
  REGISTER_OPERANDS.set(Register.ST0 + i, { kind: 'st', index: i });
  REGISTER_OPERANDS.set(Register.MM0 + i, { kind: 'mm', index: i });
}
for (let i = 0; i < 16; i++) REGISTER_OPERANDS.set(Register.XMM0 + i, { kind: 'xmm', index: i });
for (let i = 0; i < 12; i++) REGISTER_OPERANDS.set(Register.SPL + i, { kind: 'reg', width: 8, index: i + 4, high: false });
for (const [register, index] of Object.entries(SEGMENT_OF)) REGISTER_OPERANDS.set(Number(register), { kind: 'sreg', index });

function gprIndex(register: number): { index: number; width: 16 | 32 | 64 } | undefined {
  const operand = REGISTER_OPERANDS.get(register);
  return operand?.kind === 'reg' && operand.width >= 16 ? { index: operand.index, width: operand.width as 16 | 32 | 64 } : undefined;
}

const STRING_KINDS: Readonly<Record<number, { string: 'si' | 'di'; width: 16 | 32 | 64; es: boolean }>> = {
  [OpKind.MemorySegSI]: { string: 'si', width: 16, es: false },
  [OpKind.MemorySegESI]: { string: 'si', width: 32, es: false },
  [OpKind.MemorySegRSI]: { string: 'si', width: 64, es: false },
  // Masked stores.
  [OpKind.MemorySegDI]: { string: 'di', width: 16, es: false },
  [OpKind.MemorySegEDI]: { string: 'di', width: 32, es: false },
  [OpKind.MemorySegRDI]: { string: 'di', width: 64, es: false },
  [OpKind.MemoryESDI]: { string: 'di', width: 16, es: true },
  [OpKind.MemoryESEDI]: { string: 'di', width: 32, es: true },
  [OpKind.MemoryESRDI]: { string: 'di', width: 64, es: true },
};

/** In 64-bit code the ES, CS, SS and DS prefixes mean nothing: the base register decides between DS and SS. */
function memOperand64(instruction: Instruction): MemOperand {
  const { memoryBase } = instruction;
  const base = gprIndex(memoryBase);
  const index = gprIndex(instruction.memoryIndex);
  const rip = memoryBase === Register.RIP || memoryBase === Register.EIP;
  const addressWidth = base?.width ?? index?.width ?? (memoryBase === Register.EIP || instruction.memoryDisplSize === 4 ? 32 : 64);
  const displacement = instruction.memoryDisplacement;
  const seg = SEGMENT_OF[instruction.memorySegment] ?? SEG.ds;
  return {
    seg: seg >= SEG.fs ? seg : base !== undefined && (base.index === 4 || base.index === 5) ? SEG.ss : SEG.ds,
    base: base?.index ?? -1,
    index: index?.index ?? -1,
    scale: instruction.memoryIndexScale as 1 | 2 | 4 | 8,
    displacement: addressWidth === 32 ? Number(BigInt.asUintN(32, displacement)) : Number.isSafeInteger(Number(displacement)) ? Number(displacement) : displacement,
    addressWidth,
    ...(rip ? { ripRelative: true } : {}),
  };
}

function memOperand(instruction: Instruction, bitness: number): MemOperand {
  if (bitness === 64) return memOperand64(instruction);
  const base = gprIndex(instruction.memoryBase);
  const index = gprIndex(instruction.memoryIndex);
  const displSize = instruction.memoryDisplSize;
  const addressWidth = base?.width ?? index?.width ?? (displSize === 2 ? 16 : displSize === 4 ? 32 : (bitness as 16 | 32));
  return {
    seg: SEGMENT_OF[instruction.memorySegment] ?? SEG.ds,
    base: base?.index ?? -1,
    index: index?.index ?? -1,
    scale: instruction.memoryIndexScale as 1 | 2 | 4 | 8,
    displacement: Number(BigInt.asUintN(32, instruction.memoryDisplacement)),
    addressWidth,
  };
}

const IMMEDIATE_KINDS = new Set([OpKind.Immediate8, OpKind.Immediate8_2nd, OpKind.Immediate16, OpKind.Immediate32, OpKind.Immediate64, OpKind.Immediate8to16, OpKind.Immediate8to32, OpKind.Immediate8to64, OpKind.Immediate32to64]);

function operandOf(instruction: Instruction, at: number, bitness: number): Operand {
  const kind = instruction.opKind(at);
  if (kind === OpKind.Register) return REGISTER_OPERANDS.get(instruction.opRegister(at)) ?? { kind: 'other' };
  if (kind === OpKind.Memory) return { kind: 'mem', mem: memOperand(instruction, bitness) };
  if (IMMEDIATE_KINDS.has(kind)) return { kind: 'imm', value: instruction.immediate(at) };
  if (kind === OpKind.NearBranch32) return { kind: 'near', target: instruction.nearBranch32 };
  if (kind === OpKind.NearBranch16) return { kind: 'near', target: instruction.nearBranch16 };
  if (kind === OpKind.NearBranch64) return { kind: 'near', target: Number(BigInt.asIntN(64, instruction.nearBranch64)) };
  if (kind === OpKind.FarBranch32) return { kind: 'far', selector: instruction.farBranchSelector, offset: instruction.farBranch32 };
  if (kind === OpKind.FarBranch16) return { kind: 'far', selector: instruction.farBranchSelector, offset: instruction.farBranch16 };
  const string = STRING_KINDS[kind];
  if (string !== undefined) {
    const prefixed = SEGMENT_OF[instruction.memorySegment] ?? SEG.ds;
    const seg = string.es ? SEG.es : bitness === 64 && prefixed < SEG.fs ? SEG.ds : prefixed;
    return { kind: 'mem', mem: { seg, base: string.string === 'si' ? 6 : 7, index: -1, scale: 1, displacement: 0, addressWidth: string.width, string: string.string } };
  }
  return { kind: 'other' };
}

/** F2/F3/F0/segment/66/67 (and REX) prefix bytes in front of the opcode, for what iced leaves out. */
function scanPrefixes(bytes: Uint8Array, bitness: number): { f2: boolean; f3: boolean; a67: boolean; opcodeAt: number } {
  let f2 = false;
  let f3 = false;
  let a67 = false;
  let opcodeAt = 0;
  for (const byte of bytes) {
    // Of F2 and F3 the last one counts.
    if (byte === 0xf2) [f2, f3] = [true, false];
    else if (byte === 0xf3) [f2, f3] = [false, true];
    else if (byte === 0x67) a67 = true;
    else if (byte !== 0xf0 && byte !== 0x66 && byte !== 0x2e && byte !== 0x36 && byte !== 0x3e && byte !== 0x26 && byte !== 0x64 && byte !== 0x65 && !(bitness === 64 && (byte & 0xf0) === 0x40)) break;
    opcodeAt++;
  }
  return { f2, f3, a67, opcodeAt };
}

export type DecodeResult = { readonly kind: 'insn'; readonly insn: Insn } | { readonly kind: 'invalid' } | { readonly kind: 'needMore' } | { readonly kind: 'tooLong' };

/**
 * Decodes the instruction at the start of `bytes` (up to 15 are looked at). needMore: it goes on
 * beyond them; tooLong: beyond 15. Pure.
 */
export function decode(bytes: Uint8Array, vaddr: number, bitness: 16 | 32 | 64): DecodeResult {
  return nearBranch(bytes, vaddr, bitness) ?? decodeAny(bytes, vaddr, bitness);
}

/** Near branches without prefixes as iced told them once, by bitness and opcode: a boot decodes very many, and only the target differs. */
const NEAR_BRANCHES = new Map<number, Insn>();

function nearBranch(bytes: Uint8Array, vaddr: number, bitness: 16 | 32 | 64): DecodeResult | undefined {
  if (bitness === 16) return undefined;
  const first = bytes[0] as number;
  const second = bytes[1] as number;
  const isCallOrJmp32 = first === 0xe8 || first === 0xe9;
  const isJcc32 = first === 0x0f && (second & 0xf0) === 0x80;
  if (!isCallOrJmp32 && !isJcc32 && first !== 0xeb && (first & 0xf0) !== 0x70) return undefined;
  const lengthBytes = isCallOrJmp32 ? 5 : isJcc32 ? 6 : 2;
  if (bytes.length < lengthBytes) return undefined;
  const key = bitness * 0x10000 + first * 0x100 + (isJcc32 ? second : 0);
  let known = NEAR_BRANCHES.get(key);
  if (known === undefined) {
    const decoded = decodeAny(bytes, vaddr, bitness);
    if (decoded.kind !== 'insn') return decoded;
    NEAR_BRANCHES.set(key, (known = decoded.insn));
  }
  const at = lengthBytes - 4;
  const distance = lengthBytes === 2 ? (second << 24) >> 24 : (bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24);
  const target = vaddr + lengthBytes + distance;
  return { kind: 'insn', insn: { ...known, vaddr, operands: [{ kind: 'near', target: bitness === 32 ? target >>> 0 : target }] } };
}

function decodeAny(bytes: Uint8Array, vaddr: number, bitness: 16 | 32 | 64): DecodeResult {
  const window = bytes.length > MAX_INSN_BYTES ? bytes.subarray(0, MAX_INSN_BYTES) : bytes;
  const decoder = new Decoder(bitness, window, DecoderOptions.None);
  decoder.ip = BigInt.asUintN(64, BigInt(vaddr));
  const instruction = decoder.decode();
  try {
    if (instruction.isInvalid) {
      // iced stops at 15 bytes by itself and then calls the instruction invalid.
      if (instruction.length >= MAX_INSN_BYTES) return { kind: 'tooLong' };
      return decoder.lastError === DecoderError.NoMoreBytes ? { kind: 'needMore' } : { kind: 'invalid' };
    }
    const prefixes = scanPrefixes(window, bitness);
    const operands: Operand[] = [];
    for (let at = 0; at < instruction.opCount; at++) operands.push(operandOf(instruction, at, bitness));
    const defaultAddress = bitness;
    const number = bitness === 64 ? numberOf(decoder, instruction, operands) : NO_NUMBER;
    return {
      kind: 'insn',
      insn: {
        vaddr,
        lengthBytes: instruction.length,
        mnemonic: MNEMONIC_NAMES[instruction.mnemonic] as string,
        code: CODE_NAMES[instruction.code] as string,
        operands,
        lock: instruction.hasLockPrefix,
        rep: prefixes.f3,
        repne: prefixes.f2,
        memorySize: instruction.memorySize,
        addressWidth: prefixes.a67 ? (defaultAddress === 64 ? 32 : defaultAddress === 32 ? 16 : 32) : defaultAddress,
        stackDelta: instruction.stackPointerIncrement,
        segPrefix: instruction.hasSegmentPrefix ? (SEGMENT_OF[instruction.segmentPrefix] ?? -1) : -1,
        numberAt: number.at,
        numberBytes: number.sizeBytes,
        fpuOpcode: (((window[prefixes.opcodeAt] ?? 0) & 7) << 8) | (window[prefixes.opcodeAt + 1] ?? 0),
      },
    };
  } finally {
    instruction.free();
    decoder.free();
  }
}

function numberOf(decoder: Decoder, instruction: Instruction, operands: readonly Operand[]): { at: number; sizeBytes: number } {
  const immediate = operands[0]?.kind === 'near' || (instruction.mnemonic === Mnemonic.Mov && operands[0]?.kind === 'reg' && operands[1]?.kind === 'imm');
  if (!immediate && instruction.memoryDisplSize === 0) return NO_NUMBER;
  const offsets = decoder.getConstantOffsets(instruction);
  const found = immediate ? { at: offsets.immediateOffset, sizeBytes: offsets.immediateSize } : { at: offsets.displacementOffset, sizeBytes: offsets.displacementSize };
  offsets.free();
  return operands[1]?.kind === 'imm' && immediate && found.sizeBytes !== 4 ? NO_NUMBER : found;
}
const NO_NUMBER = { at: 0, sizeBytes: 0 };

const FEATURE_NAMES: readonly string[] = namesOf(CpuidFeature as unknown as Record<string, unknown>);
/** The CPUID features that an instruction belongs to, by iced's names. Costs a second decoding. */
export function cpuidFeatures(bytes: Uint8Array, bitness: 16 | 32 | 64): readonly string[] {
  const decoder = new Decoder(bitness, bytes.subarray(0, MAX_INSN_BYTES), DecoderOptions.None);
  const instruction = decoder.decode();
  const names = Array.from(instruction.cpuidFeatures(), (feature) => FEATURE_NAMES[feature] as string);
  instruction.free();
  decoder.free();
  return names;
}
