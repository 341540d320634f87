// A vector: one case (registers, flags, segments, memory, code) and what the processor made of it;
// and the line of text in which it is kept. A line names only what differs from environment.ts:
//
//   01d8 r12 f8d5 eax=80000000 m20010=0102 > . f846 eax=7fffffff n1
//
//   code bytes, register file, eflags, overrides of registers and segment registers, memory (m),
//   code address (@) when not the usual one; then after `>` the outcome: `.` ran into the INT3 that
//   follows, `#14:6@23000` exception with error code and cr2; then what differs afterwards: MXCSR (x) of an
//   exception of SSE, eip unless it is the natural one, eflags, registers, segments, memory, n = instructions retired.
import { CODE, GPR, INITIAL_SEGS, registerFile, REGISTER_FILES, SEGS } from './environment.ts';

export interface Patch {
  readonly vaddr: number;
  readonly bytes: Uint8Array;
}

export interface Case {
  readonly code: Uint8Array;
  /** Linear address of the code. */
  readonly at: number;
  readonly eip: number;
  readonly file: number;
  readonly regs: Uint32Array;
  /** Status flags, DF and whatever else the case wants; bit 1 is always set, IF left out. */
  readonly eflags: number;
  readonly segs: readonly number[];
  readonly memory: readonly Patch[];
}

export interface Outcome {
  /** Absent: the code ran to the INT3 behind it. */
  readonly exception?: { readonly vector: number; readonly errorCode: number; readonly cr2: number };
  /** Of an exception of SSE: MXCSR, where it says which. */
  readonly mxcsr?: number;
  readonly eip: number;
  readonly regs: Uint32Array;
  readonly eflags: number;
  readonly segs: readonly number[];
  readonly memory: readonly Patch[];
  /** Instructions retired, where the processor was asked (by single steps). */
  readonly retired?: number;
}

export interface Vector {
  readonly input: Case;
  readonly outcome: Outcome;
}

/** Flags that vectors speak of: all but IF (Linux owns it) and RF (set in the image of every fault). */
export const EFLAGS_COMPARED = 0x267dd7 & ~0x200;

const hex = (value: number): string => (value >>> 0).toString(16);
const hexBytes = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const unhexBytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'));
/** Where eip would be if nothing special happened. */
const naturalEip = (input: Case, faulted: boolean): number => (faulted ? input.eip : (input.eip + input.code.length) >>> 0);

export function formatVector({ input, outcome }: Vector): string {
  const parts = [hexBytes(input.code), `r${input.file}`, `f${hex(input.eflags)}`];
  const file = registerFile(input.file);
  if (input.at !== CODE) parts.push(`@${hex(input.at)}`);
  if (input.eip !== input.at) parts.push(`ip=${hex(input.eip)}`);
  GPR.forEach((name, i) => { if (input.regs[i] !== file[i]) parts.push(`${name}=${hex(input.regs[i] as number)}`); });
  SEGS.forEach((name, i) => { if (input.segs[i] !== INITIAL_SEGS[i]) parts.push(`${name}=${hex(input.segs[i] as number)}`); });
  for (const patch of input.memory) parts.push(`m${hex(patch.vaddr)}=${hexBytes(patch.bytes)}`);
  parts.push('>');
  const { exception } = outcome;
  parts.push(exception === undefined ? '.' : `#${exception.vector}:${hex(exception.errorCode)}@${hex(exception.cr2)}`);
  if (outcome.mxcsr !== undefined) parts.push(`x${hex(outcome.mxcsr)}`);
  if (outcome.eip !== naturalEip(input, exception !== undefined)) parts.push(`ip=${hex(outcome.eip)}`);
  if (outcome.eflags !== input.eflags) parts.push(`f${hex(outcome.eflags)}`);
  GPR.forEach((name, i) => { if (outcome.regs[i] !== input.regs[i]) parts.push(`${name}=${hex(outcome.regs[i] as number)}`); });
  SEGS.forEach((name, i) => { if (outcome.segs[i] !== input.segs[i]) parts.push(`${name}=${hex(outcome.segs[i] as number)}`); });
  for (const patch of outcome.memory) parts.push(`m${hex(patch.vaddr)}=${hexBytes(patch.bytes)}`);
  if (outcome.retired !== undefined) parts.push(`n${outcome.retired}`);
  return parts.join(' ');
}

const FILES = Array.from({ length: REGISTER_FILES }, (_, i) => registerFile(i));

/** Applies `name=value` and `m` tokens; returns those it does not know. */
function applyTokens(tokens: readonly string[], regs: Uint32Array, segs: number[], memory: Patch[]): string[] {
  const rest: string[] = [];
  for (const token of tokens) {
    const equals = token.indexOf('=');
    const name = equals < 0 ? '' : token.slice(0, equals);
    const value = token.slice(equals + 1);
    const gpr = (GPR as readonly string[]).indexOf(name);
    const seg = (SEGS as readonly string[]).indexOf(name);
    if (gpr >= 0) regs[gpr] = parseInt(value, 16);
    else if (seg >= 0) segs[seg] = parseInt(value, 16);
    else if (equals > 0 && token.startsWith('m')) memory.push({ vaddr: parseInt(name.slice(1), 16), bytes: unhexBytes(value) });
    else rest.push(token);
  }
  return rest;
}

export function parseVector(line: string): Vector {
  const tokens = line.split(' ');
  const arrow = tokens.indexOf('>');
  if (arrow < 0) throw new Error(`not a vector: ${line}`);
  const code = unhexBytes(tokens[0] as string);
  let file = 0, eflags = 2, at = CODE, eip: number | undefined;
  const head = tokens.slice(1, arrow);
  for (const token of head) if (/^r\d+$/.test(token)) file = Number(token.slice(1));
  const regs = Uint32Array.from(FILES[file] as Uint32Array);
  const segs = [...INITIAL_SEGS];
  const memory: Patch[] = [];
  for (const token of applyTokens(head, regs, segs, memory)) {
    if (token.startsWith('ip=')) eip = parseInt(token.slice(3), 16);
    else if (token.startsWith('f')) eflags = parseInt(token.slice(1), 16);
    else if (token.startsWith('@')) at = parseInt(token.slice(1), 16);
    else if (!token.startsWith('r')) throw new Error(`unknown token ${token} in ${line}`);
  }
  const input: Case = { code, at, eip: eip ?? at, file, regs, eflags, segs, memory };

  const verdict = tokens[arrow + 1] as string;
  const match = /^#(\d+):([0-9a-f]+)@([0-9a-f]+)$/.exec(verdict);
  if (verdict !== '.' && match === null) throw new Error(`unknown outcome ${verdict} in ${line}`);
  const exception = match === null ? undefined : { vector: Number(match[1]), errorCode: parseInt(match[2] as string, 16), cr2: parseInt(match[3] as string, 16) };
  const after = { regs: Uint32Array.from(regs), segs: [...segs], memory: [] as Patch[] };
  let flagsAfter = eflags, eipAfter = naturalEip(input, exception !== undefined), retired: number | undefined, mxcsr: number | undefined;
  for (const token of applyTokens(tokens.slice(arrow + 2), after.regs, after.segs, after.memory)) {
    if (token.startsWith('ip=')) eipAfter = parseInt(token.slice(3), 16);
    else if (token.startsWith('f')) flagsAfter = parseInt(token.slice(1), 16);
    else if (token.startsWith('x')) mxcsr = parseInt(token.slice(1), 16);
    else if (token.startsWith('n')) retired = Number(token.slice(1));
    else throw new Error(`unknown token ${token} in ${line}`);
  }
  return {
    input,
    outcome: {
      ...(exception === undefined ? {} : { exception }), ...(mxcsr === undefined ? {} : { mxcsr }), eip: eipAfter, regs: after.regs, eflags: flagsAfter, segs: after.segs, memory: after.memory,
      ...(retired === undefined ? {} : { retired }),
    },
  };
}
