// Asks the processor of this machine about 64-bit cases. The stream's format is described in ../harness/run-long.c.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EFLAGS_COMPARED, type Patch } from '../vector.ts';
import type { LongCase, LongOutcome } from './vector.ts';
import { CODE, GS_BASE, LONG_REGIONS, longContent } from './world.ts';

const HARNESS = join(import.meta.dirname, '..', 'harness', 'run-long.c');
const FLAGS = ['-m64', '-O1', '-static', '-fno-stack-protector', '-mno-sse', '-mgeneral-regs-only', '-fno-tree-loop-distribute-patterns', '-Wall', '-Wextra'];
const SIGNAL_VTALRM = 26;

function writeInput(cases: readonly LongCase[], step: boolean): Uint8Array {
  const words: number[] = [];
  const push64 = (value: bigint): void => void words.push(Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn));
  const bytes = (raw: Uint8Array): void => {
    for (let i = 0; i < raw.length; i += 4) words.push(((raw[i] ?? 0) | ((raw[i + 1] ?? 0) << 8) | ((raw[i + 2] ?? 0) << 16) | ((raw[i + 3] ?? 0) << 24)) >>> 0);
  };
  push64(BigInt(GS_BASE));
  words.push(LONG_REGIONS.length);
  for (const region of LONG_REGIONS) {
    push64(BigInt(region.vaddr));
    words.push(region.sizeBytes, 1 | (region.write ? 2 : 0) | (region.execute ? 4 : 0));
    bytes(longContent(region));
  }
  words.push(cases.length);
  for (const input of cases) {
    input.regs.forEach(push64);
    push64(BigInt(CODE));
    words.push(input.eflags, step ? 1 : 0, input.memory.length + 1);
    for (const { vaddr, bytes: raw } of [...input.memory, { vaddr: CODE, bytes: input.code }]) {
      push64(BigInt(vaddr));
      words.push(raw.length);
      bytes(raw);
    }
  }
  return new Uint8Array(Uint32Array.from(words).buffer);
}

function readOutput(raw: Uint8Array, cases: readonly LongCase[], step: boolean): LongOutcome[] {
  const words = new Uint32Array(raw.buffer, raw.byteOffset, raw.byteLength >> 2);
  let at = 0;
  const next = (): number => {
    if (at >= words.length) throw new Error('the harness ended early: its output is cut');
    return words[at++] as number;
  };
  const next64 = (): bigint => BigInt(next()) | (BigInt(next()) << 32n);
  return cases.map((input): LongOutcome => {
    const signal = next(), vector = next(), errorCode = next(), cr2 = Number(BigInt.asIntN(64, next64())), steps = next();
    const regs = BigUint64Array.from({ length: 16 }, next64);
    const rip = Number(BigInt.asIntN(64, next64()));
    const eflags = (((next() & EFLAGS_COMPARED) | 2) >>> 0) & (step ? ~0x100 : -1);
    const memory: Patch[] = [];
    let run: { vaddr: number; bytes: number[] } | undefined;
    for (let n = next(); n > 0; n--) {
      const vaddr = Number(next64()), byte = next();
      if (run !== undefined && run.vaddr + run.bytes.length === vaddr) run.bytes.push(byte);
      else {
        if (run !== undefined) memory.push({ vaddr: run.vaddr, bytes: Uint8Array.from(run.bytes) });
        run = { vaddr, bytes: [byte] };
      }
    }
    if (run !== undefined) memory.push({ vaddr: run.vaddr, bytes: Uint8Array.from(run.bytes) });
    if (signal === SIGNAL_VTALRM) throw new Error(`a case never ends: ${Buffer.from(input.code).toString('hex')}`);
    const retired = step ? { retired: steps } : {};
    const own = rip - 1 >= CODE && rip - 1 < CODE + input.code.length;
    if (vector === 3 && !own) return { rip: rip - 1, regs, eflags, memory, ...retired };
    return { exception: { vector, errorCode: vector === 1 || vector === 3 ? 0 : errorCode, cr2: vector === 14 ? cr2 : 0 }, rip, regs, eflags, memory, ...retired };
  });
}

export function runLongLive(cases: readonly LongCase[], step = false): LongOutcome[] {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-oracle-'));
  try {
    const program = join(folder, 'run-long');
    execFileSync('gcc', [...FLAGS, '-o', program, HARNESS], { stdio: ['ignore', 'ignore', 'inherit'] });
    writeFileSync(join(folder, 'input'), writeInput(cases, step));
    execFileSync(program, [join(folder, 'input'), join(folder, 'output')], { stdio: ['ignore', 'ignore', 'pipe'] });
    return readOutput(Uint8Array.from(readFileSync(join(folder, 'output'))), cases, step);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
