// Asks the processor of this machine: builds the C harness, hands it cases, reads outcomes back.
// Needs Linux on x86-64 with gcc -m32; where the kernel runs no 32-bit programs, cases that mean the same in 64-bit mode run there. The stream's format is described in harness/run-vectors.c.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LDT, LDT_FIRST, REGIONS, regionContent } from './environment.ts';
import { EFLAGS_COMPARED, type Case, type Outcome, type Patch } from './vector.ts';

const HARNESS = join(dirname(fileURLToPath(import.meta.url)), 'harness', 'run-vectors.c');
const FLAGS = ['-O1', '-static', '-fno-stack-protector', '-fno-tree-loop-distribute-patterns', '-Wall', '-Wextra', '-mgeneral-regs-only'];
const CONTENTS = { data: 0, 'expand-down': 1, code: 2 } as const;

/** Which programs this machine builds and runs: 32-bit ones, or only 64-bit ones; or why none. */
function wordSize(): '-m32' | '-m64' | Error {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-oracle-'));
  let last = new Error('nothing tried');
  try {
    writeFileSync(join(folder, 'probe.c'), 'int main(void) { return 0; }\n');
    for (const flag of ['-m32', '-m64'] as const) {
      try {
        execFileSync('gcc', [flag, '-static', '-o', join(folder, 'probe'), join(folder, 'probe.c')], { stdio: 'pipe' });
        // Not what cannot be executed: execFileSync would hand it to a shell.
        execFileSync('/bin/sh', ['-c', `exec ${join(folder, 'probe')}`], { stdio: 'pipe' });
        return flag;
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        last = error;
      }
    }
    return last;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Undefined when this machine can build and run the harness, else why not. `anyMode`: for cases that mean the same in 64-bit mode. */
export function whyNotLive(anyMode = false): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return `the harness runs on Linux x86-64, this is ${process.platform} ${process.arch}`;
  const size = wordSize();
  if (size === '-m64' && !anyMode) return 'this machine runs no 32-bit programs';
  return size instanceof Error ? `gcc does not work here (${size.message.split('\n')[0]})` : undefined;
}

class Words {
  #words = new Uint32Array(1 << 20);
  #length = 0;
  push(...values: readonly number[]): void {
    for (const value of values) {
      if (this.#length === this.#words.length) {
        const larger = new Uint32Array(this.#words.length * 2);
        larger.set(this.#words);
        this.#words = larger;
      }
      this.#words[this.#length++] = value;
    }
  }
  bytes(raw: Uint8Array): void {
    for (let i = 0; i < raw.length; i += 4) this.push(((raw[i] ?? 0) | ((raw[i + 1] ?? 0) << 8) | ((raw[i + 2] ?? 0) << 16) | ((raw[i + 3] ?? 0) << 24)) >>> 0);
  }
  buffer(): Uint8Array {
    return new Uint8Array(this.#words.buffer, 0, this.#length * 4);
  }
}

function writeInput(cases: readonly Case[], step: boolean): Uint8Array {
  const words = new Words();
  words.push(LDT.length);
  LDT.forEach((entry, i) => {
    const flags = (entry.is32 ? 1 : 0) | (CONTENTS[entry.kind] << 1) | (entry.open ? 0 : 8) | (entry.pages ? 16 : 0) | (entry.absent ? 32 : 0);
    words.push(i + LDT_FIRST, entry.base, entry.limit, flags);
  });
  words.push(REGIONS.length);
  for (const region of REGIONS) {
    words.push(region.vaddr, region.sizeBytes, 1 | (region.write ? 2 : 0) | (region.execute ? 4 : 0));
    words.bytes(regionContent(region));
  }
  words.push(cases.length);
  for (const input of cases) {
    words.push(...input.regs, input.eip, input.eflags, ...input.segs, step ? 1 : 0, input.memory.length + 1);
    for (const patch of [...input.memory, { vaddr: input.at, bytes: input.code }]) {
      words.push(patch.vaddr, patch.bytes.length);
      words.bytes(patch.bytes);
    }
  }
  return words.buffer();
}

const SIGNAL_VTALRM = 26;
const VECTOR_XM = 19;

function readOutput(raw: Uint8Array, cases: readonly Case[], step: boolean): Outcome[] {
  const words = new Uint32Array(raw.buffer, raw.byteOffset, raw.byteLength >> 2);
  let at = 0;
  const next = (): number => {
    if (at >= words.length) throw new Error('the harness ended early: its output is cut');
    return words[at++] as number;
  };
  return cases.map((input): Outcome => {
    const signal = next(), vector = next(), errorCode = next(), cr2 = next(), steps = next(), mxcsr = next();
    const regs = Uint32Array.from({ length: 8 }, next);
    const eip = next();
    const eflags = ((next() & EFLAGS_COMPARED) | 2) >>> 0;
    const segs = Array.from({ length: 6 }, next);
    const memory: Patch[] = [];
    let run: { vaddr: number; bytes: number[] } | undefined;
    const flush = (): void => { if (run !== undefined) memory.push({ vaddr: run.vaddr, bytes: Uint8Array.from(run.bytes) }); };
    for (let n = next(); n > 0; n--) {
      const vaddr = next(), byte = next();
      if (run !== undefined && run.vaddr + run.bytes.length === vaddr) run.bytes.push(byte);
      else { flush(); run = { vaddr, bytes: [byte] }; }
    }
    flush();
    if (signal === SIGNAL_VTALRM) throw new Error(`a case never ends: ${Buffer.from(input.code).toString('hex')}`);
    const retired = step ? { retired: steps } : {};
    // The INT3 that fills the code pages ends a case; one that the case itself holds is its outcome.
    const breakAt = eip - 1 - input.eip + input.at;
    const own = breakAt >= input.at && breakAt < input.at + input.code.length;
    if (vector === 3 && !own) return { eip: (eip - 1) >>> 0, regs, eflags: step ? eflags & ~0x100 : eflags, segs, memory, ...retired };
    return { exception: { vector, errorCode: vector === 1 || vector === 3 ? 0 : errorCode, cr2: vector === 14 ? cr2 : 0 }, ...(vector === VECTOR_XM ? { mxcsr } : {}), eip, regs, eflags: step ? eflags & ~0x100 : eflags, segs, memory, ...retired };
  });
}

/** Runs the cases on this machine's processor. `step` counts instructions by single steps. */
export function runLive(cases: readonly Case[], step = false): Outcome[] {
  const folder = mkdtempSync(join(tmpdir(), 'rexen-oracle-'));
  try {
    const program = join(folder, 'run-vectors');
    const size = wordSize();
    if (size instanceof Error) throw size;
    execFileSync('gcc', [size, ...FLAGS, '-o', program, HARNESS], { stdio: ['ignore', 'ignore', 'inherit'] });
    writeFileSync(join(folder, 'input'), writeInput(cases, step));
    execFileSync(program, [join(folder, 'input'), join(folder, 'output')], { stdio: ['ignore', 'ignore', 'pipe'] });
    return readOutput(Uint8Array.from(readFileSync(join(folder, 'output'))), cases, step);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
