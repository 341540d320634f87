// No instruction of an i686 or an x86-64 is forgotten: iced's list of encodings against the rows.
import { Code, CodeExt, CpuidFeature, Instruction, Mnemonic } from 'iced-x86';
import { describe, expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import { ROWS } from '../../src/x86/rows/index.ts';

/** What a Pentium Pro's integer unit has, and the vectors of later ones. */
const I686 = new Set(['INTEL8086', 'INTEL8086_ONLY', 'INTEL186', 'INTEL286', 'INTEL386', 'INTEL486', 'CPUID', 'CX8', 'TSC', 'MSR', 'CMOV', 'RDPMC', 'SEP', 'PAUSE', 'MULTIBYTENOP', 'SMM', 'FPU', 'FPU287', 'FPU387', 'MMX', 'FXSR', 'SSE', 'SSE2', 'CLFSH']);
/** Not instructions: data directives of the decoder, padding, pairs. */
const NONE = new Set([
  'Db', 'Dw', 'Dd', 'Dq', 'Zero_bytes', 'INVALID',
  // An assembler's names for a WAIT and the instruction itself.
  'Finit', 'Fclex', 'Fstsw', 'Fstcw', 'Fstenv', 'Fsave', 'Fdisi', 'Feni', 'Fsetpm',
]);

const nameOf = (table: Record<string, unknown>, value: number): string => String(Object.keys(table).find((key) => table[key] === value));

/** The 64-bit baseline; LAHF and CMPXCHG16B, which not every such processor has, are there too. */
const X86_64 = new Set([...I686, 'X64', 'SYSCALL', 'CMPXCHG16B']);

test.each([['an i686', I686, 850], ['an x86-64', X86_64, 850]] as const)('every instruction of %s with x87, MMX, SSE and SSE2 has a row', (_, features, least) => {
  const long = features === X86_64;
  const lacking = new Set<string>();
  let seen = 0;
  for (const code of Object.values(Code).filter((value): value is Code => typeof value === 'number')) {
    const info = CodeExt.opCode(code);
    const usable = long ? info.mode64 : info.mode32 || info.mode16;
    info.free();
    if (!usable) continue;
    const instruction = new Instruction();
    instruction.code = code;
    const needed = Array.from(instruction.cpuidFeatures(), (feature) => nameOf(CpuidFeature as never, feature));
    const mnemonic = nameOf(Mnemonic as never, instruction.mnemonic);
    instruction.free();
    if (NONE.has(mnemonic) || !needed.every((feature) => features.has(feature))) continue;
    seen++;
    if (ROWS[mnemonic] === undefined) lacking.add(mnemonic);
  }
  expect(seen).toBeGreaterThan(least);
  expect([...lacking]).toEqual([]);
});

/** Runs one instruction at CPL 0 and says how that ended. */
function outcome(hex: string, edx: number, cr4 = 0, cr0 = 0x11): string {
  const machine = new MachineMemory({ frameCount: 16, arenaBytes: 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, edx], tier: 'evaluate' });
  machine.writeBytes(0x1000, Buffer.from(hex, 'hex'));
  cpu.setCr(0, cr0);
  cpu.setCr(4, cr4);
  cpu.setEip(0x1000);
  const exit = cpu.run(1);
  expect(cpu.eip() === 0x1000).toBe(exit.kind !== 'budget');
  return exit.kind === 'exception' ? `#${exit.exception.vector}` : exit.kind === 'unimplemented' ? exit.text : exit.kind;
}

describe('an instruction that is not there', () => {
  test('is #UD if CPUID does not promise it', () => {
    for (const code of ['0f6fc1', '0f28c1', '0f58c1', '660f58c1', '0fae00', '0fae38', '660f6fc1']) expect(outcome(code, 0, 0x200)).toBe('#6');
    // SSE alone is not SSE2.
    expect(outcome('0f58c1', 1 << 25, 0x200)).toBe('budget');
    expect(outcome('660f58c1', 1 << 25, 0x200)).toBe('#6');
    expect(outcome('f30fb8c1', 0xffffffff)).toBe('#6');
    expect(outcome('0f01fb', 0)).toBe('#6');
  });
  test('asks CR0.TS, CR0.EM and CR4.OSFXSR first', () => {
    expect(outcome('d8c1', 1, 0, 0x19)).toBe('#7');
    expect(outcome('d8c1', 1, 0, 0x15)).toBe('#7');
    expect(outcome('0f28c1', 1 << 25, 0)).toBe('#6');
    expect(outcome('0f28c1', 1 << 25, 0x200, 0x19)).toBe('#7');
    expect(outcome('0f28c1', 1 << 25, 0x200, 0x15)).toBe('#6');
    expect(outcome('0f28c1', 1 << 25, 0x200)).toBe('budget');
    expect(outcome('0f6fc1', 1 << 23, 0, 0x19)).toBe('#7');
    expect(outcome('0f6fc1', 1 << 23, 0, 0x15)).toBe('#6');
    expect(outcome('0f6fc1', 1 << 23)).toBe('budget');
    expect(outcome('9b', 1, 0, 0x1b)).toBe('#7');
    expect(outcome('9b', 1, 0, 0x19)).toBe('budget');
  });
});
