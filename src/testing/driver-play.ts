// Runs the paravirt_ops guest with a disk and a network under a plan of faults and a person's commands, and
// says what is not as it must be:
//
//   writes     what the disk has acknowledged is on it, whole, unless later writes were asked for (of which a
//              disk that fails half-way may leave some sectors)
//   frames     none reaches the guest's network more often than dom0 has delivered it
//   recovery   the guest powers off with every grant, port and frame back, as it says and as Xen has it; or it
//              stops, and says why. It never waits for ever, and Xen never has to stop it
//
// The guest may lose an interface or a disk that is taken from it, but then its job says so.
import { EVENT, FRAME_WAY, valueIndex } from '../abi/events.ts';
import { crc32c } from '../base/crc.ts';
import type { FaultSpec } from '../abi/faults.ts';
import { blankImage } from '../dom0/disk.ts';
import type { ToolstackCommand } from '../dom0/toolstack.ts';
import type { Disk as GuestDisk } from '../guest/drivers/blkfront.ts';
import { patternPage, type DiskStep, type DriverPlan, type NetStep } from '../guest/drivers/plan.ts';
import type { ModelGuest } from '../guest/index.ts';
import type { MemoryPool } from '../machine/memory-pool.ts';
import type { Paging } from '../guest/pte.ts';
import type { XenPlatform } from '../guest/xen/index.ts';
import { buildWorld } from '../sim/build-world.ts';
import { SeededChoices } from '../sim/choices.ts';
import { ScriptedInput } from '../sim/input.ts';
import { modelKernelImage } from '../sim/model/model-image.ts';
import { SPEC_DEFAULTS, type InputStep, type WorldSpec } from '../sim/spec.ts';
import type { EventSink, World } from '../sim/world.ts';
import { kernelOf, sharedLeftovers } from './guest-play.ts';

/** What somebody with `xl` does, so long after the one before (the first: after the kernel's banner). */
export interface DriverCommand {
  readonly delayNs: number;
  readonly command: ToolstackCommand;
}

export interface DriverProgram {
  readonly paging: Paging;
  /** Of the scheduler's choices and the faults. */
  readonly seed: number;
  readonly disk: readonly DiskStep[];
  readonly net: readonly NetStep[];
  readonly faults: readonly FaultSpec[];
  readonly commands: readonly DriverCommand[];
}

export type DriverJudge = 'writes' | 'frames' | 'recovery';
export const DRIVER_JUDGES: readonly DriverJudge[] = ['writes', 'frames', 'recovery'];

const DISK = 'xvda';
export const DISK_PAGES = 64;
const GUEST_IP = '10.77.0.20';
const MEMORY_MIB = 6;
const MOST_INSNS = 500_000_000;
/** Longer than every patience of the guest's together. */
const MOST_VIRTUAL_SEC = 900;
const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;
const TO_GUEST = valueIndex(FRAME_WAY, 'toGuest');

function specOf(program: DriverProgram, model: ModelGuest): WorldSpec {
  const input = program.commands.map(({ delayNs, command }, index): InputStep => ({ domain: 'guest', after: index === 0 ? 'Booting' : '', delayNs, command }));
  return {
    ...SPEC_DEFAULTS, digestEveryInsns: 0, maxInstructions: MOST_INSNS, maxVirtualSec: MOST_VIRTUAL_SEC, input, faults: program.faults,
    domains: [{
      name: 'guest', kernel: { name: 'model:paravirt' }, model, cmdline: '', memoryMib: MEMORY_MIB,
      disks: [{ vdev: DISK, mode: 'w', image: { name: `blank:${DISK_PAGES * 4}KiB` } }], vifs: [{ mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    }],
  };
}

export interface DriverRun {
  readonly console: string;
  readonly outcome: string;
  readonly text: string;
  /** Checksums of the frames that dom0 put into the guest's ring. */
  readonly delivered: readonly number[];
  readonly world: World;
}

/** `pool`: whoever gives it gives the world's memory back. */
export function playDrivers(program: DriverProgram, prepare?: (world: World) => void, pool?: MemoryPool): DriverRun {
  const drivers: DriverPlan = { disks: [{ disk: DISK, steps: program.disk }], nets: [{ vif: 0, ip: GUEST_IP, steps: program.net }] };
  const model: ModelGuest = { guest: 'paravirt', backend: 'xen', paging: program.paging, program: [], drivers };
  let console = '';
  const delivered: number[] = [];
  const sink: EventSink = {
    event: (kind, _domId, _vcpuId, _retired, _nowNs, values, bytes) => {
      if (kind === EVENT.netFrame && values[1] === TO_GUEST && bytes !== undefined) delivered.push(crc32c(bytes));
    },
  };
  const spec = specOf(program, model);
  const world = buildWorld({
    spec, images: [{ kernel: modelKernelImage(model), ramdisk: undefined, disks: [blankImage(DISK_PAGES * PAGE_BYTES)] }],
    choices: new SeededChoices(String(program.seed)), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf), sink: () => sink,
    observers: { consoleOut: (_domId, bytes) => { for (const byte of bytes) console += String.fromCharCode(byte); } },
    ...(pool === undefined ? {} : { pool }),
  });
  prepare?.(world);
  const end = world.advance(Infinity);
  return { console, outcome: end.kind === 'ended' ? end.outcome : end.kind, text: end.kind === 'ended' ? end.text : '', delivered, world };
}

type Judge = (run: DriverRun) => readonly string[];

const driversOf = ({ world }: DriverRun) => (kernelOf(world).platform as XenPlatform).devices;

/** For each page the patterns that may be there: the last acknowledged one, and what was asked for after it. */
function possiblePatterns(disk: GuestDisk | undefined): number[][] {
  const possible = Array.from({ length: DISK_PAGES }, () => [0]);
  for (const { transfer: { page, pfns, left, failure }, value } of disk?.written ?? []) {
    const acknowledged = left === 0 && failure === undefined;
    for (let at = page; at < page + pfns.length; at++) possible[at] = acknowledged ? [value] : [...(possible[at] as number[]), value];
  }
  return possible;
}

const patternBytes = (value: number, page: number): Uint8Array => (value === 0 ? new Uint8Array(PAGE_BYTES) : new Uint8Array(patternPage(value, page).buffer));

/** Each unit of the page is that of one of the patterns. */
function isOneOf(bytes: Uint8Array, values: readonly number[], page: number, unitBytes: number): boolean {
  const patterns = values.map((value) => patternBytes(value, page));
  const isOf = (pattern: Uint8Array, from: number): boolean => pattern.subarray(from, from + unitBytes).every((byte, at) => byte === bytes[from + at]);
  for (let from = 0; from < PAGE_BYTES; from += unitBytes) if (!patterns.some((pattern) => isOf(pattern, from))) return false;
  return bytes.length === PAGE_BYTES;
}

const writes: Judge = (run) => {
  const disk = run.world.disk(1, DISK);
  const fallsShort = run.world.spec.faults?.some(({ fault }) => fault === 'block.short') === true;
  const problems: string[] = [];
  possiblePatterns(driversOf(run)?.disk(DISK)).forEach((values, page) => {
    const found = disk?.read(page * PAGE_BYTES, PAGE_BYTES) ?? new Uint8Array(PAGE_BYTES);
    if (!isOneOf(found, values, page, fallsShort ? SECTOR_BYTES : PAGE_BYTES)) problems.push(`page ${page} of the disk holds none of what was last written to it (${values.join(', ')})`);
  });
  const wrong = /page \d+ is not what was written[^\r]*/.exec(run.console)?.[0];
  if (wrong !== undefined) problems.push(`the guest read: ${wrong}`);
  return problems;
};

const frames: Judge = (run) => {
  const left = new Map<number, number>();
  for (const sum of run.delivered) left.set(sum, (left.get(sum) ?? 0) + 1);
  const problems: string[] = [];
  for (const sum of driversOf(run)?.framesReceived(0) ?? []) {
    const count = left.get(sum) ?? 0;
    if (count === 0) problems.push(`a frame (checksum ${sum.toString(16)}) reached the network more often than it was delivered`);
    left.set(sum, count - 1);
  }
  return problems;
};

const recovery: Judge = ({ console, outcome, text, world }) => {
  const panic = /kernel panic: [^\r]+/.exec(console)?.[0];
  // It has stopped by itself, and has said why.
  if (panic !== undefined && outcome === 'crash') return [];
  if (outcome !== 'poweroff' && outcome !== 'reboot') return [`the run ended with ${outcome}: ${text}; the last line was: ${console.trim().split('\r\n').at(-1) ?? ''}`];
  const problems: string[] = [];
  for (const what of ['disk', 'net'] as const) if (!(what === 'disk' ? /xvda: /m : /vif0: /m).test(console)) problems.push(`the job of the ${what} has said nothing`);
  if (!console.includes('every grant and port is back')) problems.push(`grants or ports are not back: ${/\d+ grants and \d+ ports are not back/.exec(console)?.[0] ?? 'nothing is said'}`);
  return [...problems, ...sharedLeftovers(world)];
};

const JUDGES: Readonly<Record<DriverJudge, Judge>> = { writes, frames, recovery };

/** Empty: all is well. */
export function driverProblems(program: DriverProgram, judges: readonly DriverJudge[] = DRIVER_JUDGES, prepare?: (world: World) => void, pool?: MemoryPool): string[] {
  const run = playDrivers(program, prepare, pool);
  const problems = judges.flatMap((judge) => JUDGES[judge](run).map((problem) => `${judge}: ${problem}`));
  // Not before: the judges read the guest's grant table.
  pool?.giveBack(run.world.machine);
  return problems;
}
