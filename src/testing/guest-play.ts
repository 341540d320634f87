// Runs a program of the model guest on one back end and says what is not as it must be:
//
//   the kernel stopped by itself, refused by nobody, and with every frame back
//   every process saw what the model of it (guest-model.ts) sees
//   on shadow tables: whenever they must be true, they are (checkers/shadow-checker.ts), and so is what the
//   processor keeps of them (checkers/shadow-tlb-checker.ts)
//   on Xen: nothing stays pinned but the kernel's own tables, no port and no grant is left
import type { ModelGuest } from '../guest/index.ts';
import type { Kernel } from '../guest/kernel/kernel.ts';
import type { Paging } from '../guest/pte.ts';
import type { UserStep } from '../guest/user-program.ts';
import type { PinDiscipline, PinningBug, XenCounts } from '../guest/xen/state.ts';
import type { XenPlatform } from '../guest/xen/index.ts';
import { shadowProblems } from '../checkers/shadow-checker.ts';
import { shadowViewOf } from '../checkers/shadow-tables.ts';
import { shadowTlbProblems } from '../checkers/shadow-tlb-checker.ts';
import { FRAME } from '../hypervisor/frame-table.ts';
import type { MemoryPool } from '../machine/memory-pool.ts';
import type { HostCounts, ShadowHost } from '../shadow/host.ts';
import { buildWorld } from '../sim/build-world.ts';
import { SeededChoices } from '../sim/choices.ts';
import { ScriptedInput } from '../sim/input.ts';
import { BareMachine } from '../sim/model/bare-machine.ts';
import { modelKernelImage } from '../sim/model/model-image.ts';
import { ModelProcessor } from '../sim/model/model-processor.ts';
import { SPEC_DEFAULTS, type WorldSpec } from '../sim/spec.ts';
import type { World } from '../sim/world.ts';
import { expectedHistories } from './guest-model.ts';

/** One way to run the kernel. */
export interface GuestSetup {
  readonly name: string;
  readonly backend: ModelGuest['backend'];
  readonly paging: Paging;
  readonly pinning?: PinDiscipline;
  readonly bug?: PinningBug;
}

export const GUEST_SETUPS: readonly GuestSetup[] = [
  { name: 'native, PAE', backend: 'native', paging: 'pae' },
  { name: 'native, two-level', backend: 'native', paging: 'nopae' },
  { name: 'xen, PAE, late pinning', backend: 'xen', paging: 'pae', pinning: 'late' },
  { name: 'xen, two-level, late pinning', backend: 'xen', paging: 'nopae', pinning: 'late' },
  { name: 'xen, PAE, writable page tables', backend: 'xen', paging: 'pae', pinning: 'writable' },
  { name: 'xen, two-level, writable page tables', backend: 'xen', paging: 'nopae', pinning: 'writable' },
  { name: 'xen, PAE, early pinning', backend: 'xen', paging: 'pae', pinning: 'early' },
  { name: 'xen, two-level, early pinning', backend: 'xen', paging: 'nopae', pinning: 'early' },
  { name: 'lguest, PAE', backend: 'lguest', paging: 'pae' },
  { name: 'lguest, two-level', backend: 'lguest', paging: 'nopae' },
  { name: 'vmi, PAE', backend: 'vmi', paging: 'pae' },
  { name: 'vmi, two-level', backend: 'vmi', paging: 'nopae' },
  { name: 'kvm, PAE', backend: 'kvm', paging: 'pae' },
  { name: 'kvm, two-level', backend: 'kvm', paging: 'nopae' },
];

export interface GuestRun {
  readonly outcome: string;
  readonly console: string;
  readonly histories: ReadonlyMap<string, readonly string[]>;
  /** What Xen was asked; undefined elsewhere. */
  readonly counts: XenCounts | undefined;
  /** What the shadow-paging host did; undefined elsewhere. */
  readonly shadowCounts: HostCounts | undefined;
  readonly insns: number;
  /** What does not hold, apart from histories. */
  readonly problems: readonly string[];
}

const MEMORY_MIB = 6;
const MOST_INSNS = 200_000_000;
/** Of each run no more are told. */
const MOST_SHADOW_PROBLEMS = 5;
/** Ports that live as long as the domain: xenstore, console, the timer. */
const LASTING_PORTS = 3;
/** Of version 1; the first eight are the toolstack's. */
const GRANT_ENTRY_BYTES = 8;
const RESERVED_GRANTS = 8;
const GTF_type_mask = 3;

function specOf({ backend, paging, pinning, bug }: GuestSetup, program: readonly UserStep[]): ModelGuest {
  return { guest: 'paravirt', backend, paging, program, ...(pinning === undefined ? {} : { pinning }), ...(bug === undefined ? {} : { bug }) };
}

export interface PlayGuestOptions {
  readonly memoryMib?: number;
  readonly seed?: string;
  /** Of a back end with a world: called before it runs. For mistakes to be found. */
  readonly prepare?: (world: World) => void;
  /** Memory that the machine takes and gives back. */
  readonly pool?: MemoryPool;
}

/** Plays a program; Xen's world has no recording. */
export function playGuest(setup: GuestSetup, program: readonly UserStep[], options: PlayGuestOptions = {}): GuestRun {
  return setup.backend === 'native' ? playBare(specOf(setup, program), options) : playWorld(specOf(setup, program), options);
}

function playBare(spec: ModelGuest, { memoryMib = MEMORY_MIB, pool }: PlayGuestOptions): GuestRun {
  const machine = new BareMachine(spec, memoryMib, pool);
  const { outcome, text, insns } = machine.run(MOST_INSNS);
  pool?.giveBack(machine.machine);
  return { outcome, console: machine.console, histories: historiesOf(machine.kernel), counts: undefined, shadowCounts: undefined, insns, problems: kernelProblems(outcome, text, machine.console) };
}

/** On Xen or on the shadow-paging host. */
function playWorld(model: ModelGuest, { memoryMib = MEMORY_MIB, seed = '1', prepare, pool }: PlayGuestOptions): GuestRun {
  const spec: WorldSpec = { ...SPEC_DEFAULTS, digestEveryInsns: 0, maxInstructions: MOST_INSNS, domains: [{ name: 'guest', kernel: { name: 'model:paravirt' }, model, cmdline: '', memoryMib }] };
  let console = '';
  const world = buildWorld({
    spec, images: [{ kernel: modelKernelImage(model), ramdisk: undefined }], choices: new SeededChoices(seed), input: (domIdOf) => new ScriptedInput([], domIdOf),
    observers: { consoleOut: (_domId, bytes) => { for (const byte of bytes) console += String.fromCharCode(byte); } },
    ...(pool === undefined ? {} : { pool }),
  });
  const shadow = world.hosts.get(1);
  const watch = shadow === undefined ? undefined : watchShadow(shadow);
  prepare?.(world);
  const end = world.advance(Infinity);
  const kernel = kernelOf(world);
  const outcome = end.kind === 'ended' ? end.outcome : end.kind;
  const problems = kernelProblems(outcome, end.kind === 'ended' ? end.text : '', console);
  if (watch !== undefined) problems.push(...watch.problems);
  else if (problems.length === 0) problems.push(...xenProblems(world));
  const counts = shadow === undefined ? (kernel.platform as XenPlatform).xen.counts : undefined;
  pool?.giveBack(world.machine);
  return { outcome, console, histories: historiesOf(kernel), counts, shadowCounts: shadow?.counts, insns: world.insns(), problems };
}

/** Judges the shadows at every flush, and what the processor keeps of them. */
function watchShadow(host: ShadowHost): { readonly problems: string[] } {
  const problems: string[] = [];
  host.world.flushed = (pages) => {
    if (problems.length >= MOST_SHADOW_PROBLEMS) return;
    const view = shadowViewOf(host);
    problems.push(...shadowProblems(view), ...shadowTlbProblems(view, pages));
  };
  return { problems };
}

/** The kernel that a world's first domain runs. */
export function kernelOf(world: World): Kernel {
  const cpu = world.hv.vcpu(1, 0)?.cpu;
  if (!(cpu instanceof ModelProcessor) || cpu.code === undefined) throw new TypeError('the world’s first domain runs no model guest');
  return cpu.code as unknown as Kernel;
}

const historiesOf = (kernel: Kernel): ReadonlyMap<string, readonly string[]> => kernel.scheduler?.histories ?? new Map();

function kernelProblems(outcome: string, text: string, console: string): string[] {
  const problems: string[] = [];
  const panic = /kernel panic: ([^\r]*)/.exec(console)?.[1];
  if (panic !== undefined) problems.push(`the kernel gave up: ${panic}`);
  else if (outcome !== 'poweroff') problems.push(`the run ended with ${outcome}: ${text}`);
  else if (!console.includes('every frame is back')) problems.push(`frames are missing: ${console.trim().split('\r\n').at(-1)}`);
  return problems;
}

/** What a guest that has powered off still shares, as Xen has it: ports, grants that somebody uses, entries of its grant table. */
export function sharedLeftovers({ hv }: World): string[] {
  const domain = hv.domain(1);
  if (domain === undefined) return [];
  const problems: string[] = [];
  const ports = domain.events.ports.filter(({ binding }) => binding.kind !== 'free' && binding.kind !== 'reserved').length;
  if (ports !== LASTING_PORTS) problems.push(`${ports} ports are in use at the end, not ${LASTING_PORTS}`);
  const used = Object.keys(domain.grants.active);
  if (used.length > 0) problems.push(`grants ${used.join(', ')} are in use at the end`);
  let entries = 0;
  domain.grants.sharedMfns.forEach((mfn, page) => {
    for (let entry = 0; entry < 4096 / GRANT_ENTRY_BYTES; entry++) if ((page > 0 || entry >= RESERVED_GRANTS) && (hv.machine.readU16(mfn * 4096 + entry * GRANT_ENTRY_BYTES) & GTF_type_mask) !== 0) entries++;
  });
  if (entries > 0) problems.push(`${entries} entries of its grant table still grant something at the end`);
  return problems;
}

/** What a guest leaves behind in Xen. */
function xenProblems(world: World): string[] {
  const problems: string[] = [];
  const { frames } = world.hv;
  let pinned = 0;
  for (let mfn = 0; mfn < frames.frameCount; mfn++) if (frames.owner[mfn] === 1 && ((frames.flags[mfn] as number) & FRAME.pinned) !== 0) pinned++;
  if (pinned !== 1) problems.push(`${pinned} page tables are pinned at the end, where only the kernel's root should be`);
  problems.push(...sharedLeftovers(world));
  return problems;
}

/** Plays a program on every setup and compares what processes saw with the model. Empty: all is well. */
export function guestProblems(program: readonly UserStep[], setups: readonly GuestSetup[] = GUEST_SETUPS, options: PlayGuestOptions = {}): string[] {
  const expected = expectedHistories(program);
  const problems: string[] = [];
  const hypercalls = new Map<string, number>();
  for (const setup of setups) {
    const run = playGuest(setup, program, options);
    problems.push(...run.problems.map((problem) => `${setup.name}: ${problem}`));
    if (run.problems.length === 0) problems.push(...historyProblems(expected, run.histories).map((problem) => `${setup.name}: ${problem}`));
    if (run.counts !== undefined) hypercalls.set(`${setup.paging} ${setup.pinning ?? 'late'}`, run.counts.hypercalls);
  }
  for (const paging of ['pae', 'nopae']) {
    const late = hypercalls.get(`${paging} late`);
    const early = hypercalls.get(`${paging} early`);
    if (late !== undefined && early !== undefined && late > early) problems.push(`xen, ${paging}: late pinning took ${late} hypercalls, early pinning ${early}`);
  }
  return problems;
}

function historyProblems(expected: ReadonlyMap<string, readonly string[]>, seen: ReadonlyMap<string, readonly string[]>): string[] {
  const problems: string[] = [];
  for (const path of new Set([...expected.keys(), ...seen.keys()])) {
    const want = expected.get(path) ?? [];
    const got = seen.get(path) ?? [];
    const at = want.findIndex((line, index) => line !== got[index]);
    const first = at >= 0 ? at : got.length > want.length ? want.length : -1;
    if (first >= 0) problems.push(`process ${path}, event ${first}: expected ${want[first] ?? 'nothing more'}, saw ${got[first] ?? 'nothing more'}`);
  }
  return problems;
}
