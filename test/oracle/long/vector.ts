// A 64-bit vector and its line of text, in the manner of ../vector.ts:
//
//   4801d8 r12 f8d5 rax=80000000 m7f0012340010=0102 > . f846 rax=7fffffff
//
//   code bytes at CODE, register file, eflags, registers and memory that differ; after `>` the outcome: `.` ran into
//   the INT3 behind it, `#14:6@…` exception; then rip unless it is the natural one, eflags, registers, memory, n = retired.
import type { Patch } from '../vector.ts';
import { CODE, longFile, LONG_FILES, REG64 } from './world.ts';

export interface LongCase {
  readonly code: Uint8Array;
  readonly file: number;
  readonly regs: BigUint64Array;
  readonly eflags: number;
  readonly memory: readonly Patch[];
}
export interface LongOutcome {
  readonly exception?: { readonly vector: number; readonly errorCode: number; readonly cr2: number };
  readonly rip: number;
  readonly regs: BigUint64Array;
  readonly eflags: number;
  readonly memory: readonly Patch[];
  readonly retired?: number;
}
export interface LongVector {
  readonly input: LongCase;
  readonly outcome: LongOutcome;
}

const hexBytes = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const natural = (input: LongCase, faulted: boolean): number => (faulted ? CODE : CODE + input.code.length);

export function formatLong({ input, outcome }: LongVector): string {
  const file = longFile(input.file);
  const parts = [hexBytes(input.code), `r${input.file}`, `f${input.eflags.toString(16)}`];
  const registers = (now: BigUint64Array, before: BigUint64Array): void => REG64.forEach((name, i) => void (now[i] !== before[i] && parts.push(`${name}=${(now[i] as bigint).toString(16)}`)));
  const memory = (patches: readonly Patch[]): void => patches.forEach(({ vaddr, bytes }) => parts.push(`m${vaddr.toString(16)}=${hexBytes(bytes)}`));
  registers(input.regs, file);
  memory(input.memory);
  const { exception } = outcome;
  parts.push('>', exception === undefined ? '.' : `#${exception.vector}:${exception.errorCode.toString(16)}@${exception.cr2.toString(16)}`);
  if (outcome.rip !== natural(input, exception !== undefined)) parts.push(`rip=${outcome.rip.toString(16)}`);
  if (outcome.eflags !== input.eflags) parts.push(`f${outcome.eflags.toString(16)}`);
  registers(outcome.regs, input.regs);
  memory(outcome.memory);
  if (outcome.retired !== undefined) parts.push(`n${outcome.retired}`);
  return parts.join(' ');
}

const FILES = Array.from({ length: LONG_FILES }, (_, i) => longFile(i));

export function parseLong(line: string): LongVector {
  const tokens = line.split(' ');
  const arrow = tokens.indexOf('>');
  if (arrow < 0) throw new Error(`not a vector: ${line}`);
  const take = (list: readonly string[], regs: BigUint64Array, memory: Patch[]): Map<string, string> => {
    const rest = new Map<string, string>();
    for (const token of list) {
      const [name = '', value = ''] = token.split('=');
      const index = (REG64 as readonly string[]).indexOf(name);
      if (index >= 0) regs[index] = BigInt(`0x${value}`);
      else if (name.startsWith('m')) memory.push({ vaddr: parseInt(name.slice(1), 16), bytes: Uint8Array.from(Buffer.from(value, 'hex')) });
      else if (name === 'rip') rest.set('rip', value);
      else rest.set(name[0] as string, name.slice(1));
    }
    return rest;
  };
  const file = parseInt((tokens[1] as string).slice(1), 10);
  const regs = BigUint64Array.from(FILES[file] as BigUint64Array);
  const memory: Patch[] = [];
  const head = take(tokens.slice(2, arrow), regs, memory);
  const input: LongCase = { code: Uint8Array.from(Buffer.from(tokens[0] as string, 'hex')), file, regs, eflags: parseInt(head.get('f') ?? '2', 16), memory };
  const match = /^#(\d+):([0-9a-f]+)@([0-9a-f-]+)$/.exec(tokens[arrow + 1] as string);
  const after = { regs: BigUint64Array.from(regs), memory: [] as Patch[] };
  const tail = take(tokens.slice(arrow + 2), after.regs, after.memory);
  const rip = tail.get('rip');
  const n = tail.get('n');
  return {
    input,
    outcome: {
      ...(match === null ? {} : { exception: { vector: Number(match[1]), errorCode: parseInt(match[2] as string, 16), cr2: parseInt(match[3] as string, 16) } }),
      rip: rip === undefined ? natural(input, match !== null) : parseInt(rip, 16), regs: after.regs, eflags: parseInt(tail.get('f') ?? input.eflags.toString(16), 16), memory: after.memory,
      ...(n === undefined ? {} : { retired: Number(n) }),
    },
  };
}
