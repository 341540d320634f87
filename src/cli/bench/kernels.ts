// K1 to K4 inside our guest beside v86 running the multiboot build of the same C, in the same run.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { guestImagesFolder } from '../../node/package-info.ts';
import type { KernelRow } from './kernel-timer.ts';

/** Retired instructions of one pass, and the checksum that it must print. */
export const KERNELS = [
  { name: 'K1', what: 'integer ALU', insns: 700_000_021, checksum: 'e59da1b7' },
  { name: 'K2', what: 'memory sum and copy', insns: 849_347_662, checksum: '48700000' },
  { name: 'K3', what: 'sort and sieve', insns: 965_259_367, checksum: 'f954105e' },
  { name: 'K4', what: 'calls through a table', insns: 269_705_280, checksum: 'e5937698' },
] as const;

export interface KernelResult {
  readonly name: string;
  readonly what: string;
  /** MIPS by CPU time of the whole process, best of the passes, and the median. */
  readonly rexenMips: number;
  readonly rexenMedianMips: number;
  readonly v86Mips: number | undefined;
  readonly v86MedianMips: number | undefined;
  readonly ratio: number | undefined;
}

const run = promisify(execFile);
const BIOS_FOLDERS = ['/usr/share/seabios', '/usr/share/qemu'];

export function seabiosFolder(): string | undefined {
  return BIOS_FOLDERS.find((folder) => existsSync(join(folder, 'bios.bin')) && existsSync(join(folder, 'vgabios.bin')));
}

async function child(script: string, args: readonly string[]): Promise<KernelRow[]> {
  const here = fileURLToPath(import.meta.url);
  const path = join(dirname(here), `${script}${here.endsWith('.ts') ? '.ts' : '.js'}`);
  const { stdout } = await run(process.execPath, [...process.execArgv, path, ...args], { maxBuffer: 1 << 24 });
  return stdout.trim().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as KernelRow);
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] as number;

/** Alternates between the two, `rounds` times with two passes each. */
export async function benchKernels(rounds: number, progress: (text: string) => void): Promise<KernelResult[]> {
  const bios = seabiosFolder();
  const rows = { rexen: [] as KernelRow[], v86: [] as KernelRow[] };
  for (let round = 0; round < rounds; round++) {
    progress(`kernels, round ${round + 1} of ${rounds}`);
    rows.rexen.push(...(await child('guest-child', ['2'])));
    if (bios !== undefined) rows.v86.push(...(await child('v86-child', [join(guestImagesFolder(), 'bench-paging.elf'), join(bios, 'bios.bin'), join(bios, 'vgabios.bin'), '2'])));
  }
  return KERNELS.map(({ name, what, insns, checksum }) => {
    const mips = (all: readonly KernelRow[]): number[] => all.filter((row) => row.name === name).map((row) => {
      if (row.checksum !== checksum) throw new Error(`${name} printed checksum ${row.checksum}, not ${checksum}`);
      return Math.round(insns / row.cpuMs / 1000);
    });
    const ours = mips(rows.rexen);
    const theirs = mips(rows.v86);
    if (ours.length === 0) throw new Error(`${name} did not run`);
    const best = Math.max(...ours);
    const v86Best = theirs.length === 0 ? undefined : Math.max(...theirs);
    return { name, what, rexenMips: best, rexenMedianMips: median(ours), v86Mips: v86Best, v86MedianMips: theirs.length === 0 ? undefined : median(theirs), ratio: v86Best === undefined ? undefined : Math.round((best / v86Best) * 100) / 100 };
  });
}
