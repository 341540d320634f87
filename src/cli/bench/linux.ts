// `npm run bench:linux`: Debian's kernel and the same initramfs, booted here and in QEMU's record and
// replay (TCG, -icount shift=3: 8 ns an instruction, as the worlds here are set for it), in one run.
// Until the guest's console shows BOOT-OK, each process tells how much CPU time it took, all its
// threads together, and how much memory at most. `--json` prints one object.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { UsageError } from '../../base/assert.ts';
import { resolveImage } from '../../node/image-store.ts';
import { initramfsNameOf } from '../../node/image-registry.ts';
import { packageRoot } from '../../node/package-info.ts';

const MARK = 'BOOT-OK';
const CLOCK_TICKS_PER_SEC = 100;
const QEMU = 'qemu-system-x86_64';
/** No steps after BOOT-OK: the guest powers off. */
const CMDLINE = 'rexen.steps=none';
const NS_PER_INSN = 8;
const LOOK_MS = 20;

/** What one boot came to when the mark appeared. */
interface Boot {
  readonly cpuSeconds: number;
  readonly peakMib: number;
}
export interface LinuxBench {
  readonly kernel: string;
  readonly rounds: number;
  readonly rexen: { readonly record: readonly Boot[]; readonly replay: readonly Boot[]; readonly logBytes: number; readonly inputsLogBytes: number; readonly instructions: number };
  readonly qemu: { readonly record: readonly Boot[]; readonly replay: readonly Boot[]; readonly logBytes: number; readonly logGzipBytes: number } | undefined;
}

/** User and system time of a living process and its threads. */
function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\) /, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_SEC;
}
function peakMibOf(pid: number): number {
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) / 1024);
}

/**
 * Runs until the mark is on its output, and is let go on to its end. The output is a file, looked at now and then: what a
 * pipe takes of QEMU in one go differs from run to run, and its replay stops there ("Missing character write event").
 */
async function bootOf(program: string, args: readonly string[], output: string): Promise<Boot> {
  const fd = openSync(output, 'w');
  const child = spawn(program, args, { stdio: ['ignore', fd, 'inherit'] });
  closeSync(fd);
  let ended = false;
  child.on('close', () => void (ended = true));
  let boot: Boot | undefined;
  while (!ended) {
    const pid = child.pid;
    if (boot === undefined && pid !== undefined && readFileSync(output, 'latin1').includes(MARK) && existsSync(`/proc/${pid}/status`)) boot = { cpuSeconds: cpuSecondsOf(pid), peakMib: peakMibOf(pid) };
    await sleep(LOOK_MS);
  }
  if (boot === undefined) throw new UsageError(`${program} ${args.join(' ')} never showed ${MARK}; the last it showed was: ${readFileSync(output, 'latin1').trim().split('\n').at(-1) ?? ''}`);
  return boot;
}

function qemuArgs(mode: 'record' | 'replay', folder: string, kernel: string, initramfs: string, memoryMib: number): string[] {
  return [
    '-accel', 'tcg', '-icount', `shift=3,rr=${mode},rrfile=${join(folder, 'rr.bin')}`, '-net', 'none', '-m', String(memoryMib), '-display', 'none', '-serial', 'stdio', '-monitor', 'none',
    '-no-reboot', '-kernel', kernel, '-initrd', initramfs, '-append', `console=ttyS0 ${CMDLINE}`,
  ];
}

export async function benchLinux(kernelName: string, rounds: number, memoryMib: number, say: (text: string) => void): Promise<LinuxBench> {
  const kernel = resolveImage(kernelName).path;
  const initramfs = resolveImage(initramfsNameOf(kernelName)).path;
  const main = join(packageRoot(), 'dist', 'src', 'cli', 'main.js');
  const folder = mkdtempSync(join(tmpdir(), 'rexen-bench-'));
  const hasQemu = spawnSync(QEMU, ['--version']).error === undefined;
  const file = (name: string): string => join(folder, name);
  const record = (name: string, extra: readonly string[]): Promise<Boot> =>
    bootOf(process.execPath, [main, 'record', kernelName, '--ramdisk', initramfs, '--memory', String(memoryMib), '--cmdline', `console=hvc0 ${CMDLINE}`, '--set', `ns-per-insn=${NS_PER_INSN}`, '-o', file(name), ...extra], file('console'));
  try {
    const rexen = { record: [] as Boot[], replay: [] as Boot[] };
    const qemu = { record: [] as Boot[], replay: [] as Boot[] };
    for (let round = 1; round <= rounds; round++) {
      say(`round ${round} of ${rounds}`);
      rexen.record.push(await record('linux.rxr', []));
      if (hasQemu) qemu.record.push(await bootOf(QEMU, qemuArgs('record', folder, kernel, initramfs, memoryMib), file('console')));
      rexen.replay.push(await bootOf(process.execPath, [main, 'replay', file('linux.rxr'), '--console', '--images', kernel, '--images', initramfs], file('console')));
      if (hasQemu) qemu.replay.push(await bootOf(QEMU, qemuArgs('replay', folder, kernel, initramfs, memoryMib), file('console')));
    }
    await record('inputs.rxr', ['--log', 'inputs']);
    const info = JSON.parse(spawnSync(process.execPath, [main, 'info', file('linux.rxr'), '--json'], { encoding: 'utf8' }).stdout) as { instructions: number };
    return {
      kernel: kernelName, rounds,
      rexen: { ...rexen, logBytes: statSync(file('linux.rxr')).size, inputsLogBytes: statSync(file('inputs.rxr')).size, instructions: info.instructions },
      qemu: hasQemu ? { ...qemu, logBytes: statSync(file('rr.bin')).size, logGzipBytes: gzipSync(readFileSync(file('rr.bin'))).length } : undefined,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] as number;
const cpu = (boots: readonly Boot[]): string => `${median(boots.map((boot) => boot.cpuSeconds)).toFixed(1)} s (${Math.min(...boots.map((boot) => boot.cpuSeconds)).toFixed(1)} to ${Math.max(...boots.map((boot) => boot.cpuSeconds)).toFixed(1)})`;
const peak = (boots: readonly Boot[]): string => `${Math.max(...boots.map((boot) => boot.peakMib))} MiB`;

export function linuxLines(bench: LinuxBench): string[] {
  const { rexen, qemu } = bench;
  const row = (what: string, ours: string, theirs: string | undefined): string => `${what.padEnd(30)} ${ours.padEnd(24)} ${theirs ?? '-'}`;
  const ratio = (ours: readonly Boot[], theirs: readonly Boot[]): string => (median(ours.map((boot) => boot.cpuSeconds)) / median(theirs.map((boot) => boot.cpuSeconds))).toFixed(2);
  return [
    row(`${bench.kernel} to ${MARK}`, 'Rexen', 'QEMU, -icount shift=3'),
    row('CPU time, recording', cpu(rexen.record), qemu && cpu(qemu.record)),
    row('CPU time, replay', cpu(rexen.replay), qemu && cpu(qemu.replay)),
    row('guest instructions', rexen.instructions.toLocaleString('en-US'), undefined),
    row('peak memory, recording', peak(rexen.record), qemu && peak(qemu.record)),
    row('log', `${rexen.logBytes.toLocaleString('en-US')} bytes`, qemu && `${qemu.logBytes.toLocaleString('en-US')} bytes`),
    row('log, inputs only / gzipped', `${rexen.inputsLogBytes.toLocaleString('en-US')} bytes`, qemu && `${qemu.logGzipBytes.toLocaleString('en-US')} bytes`),
    ...(qemu === undefined ? [`left out: ${QEMU} is not here (apt-get install qemu-system-x86)`] : [`Rexen over QEMU, medians of ${bench.rounds}: recording ${ratio(rexen.record, qemu.record)}, replay ${ratio(rexen.replay, qemu.replay)}`]),
  ];
}

export const canMeasure = (): boolean => existsSync('/proc/self/stat');
