// The state every conformance script starts in (FORMAT section 3): a machine with Xen, d1 who runs
// the script and an idle d2, built through the hypervisor's own rules. The machine and the frame
// table are used again for the next script; only frames that a script touched are cleared.
//
//   VA 0x100000..     kernel pages (argument structures)        live_l1
//   VA 0x3fe00000+..  v0..v11, w0..w7, gt                       scratch_l1 = live_l2[511]
import { assert } from '../base/assert.ts';
import { MachineMemory } from '../machine/memory.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { newEventChannels } from '../hypervisor/event-channels.ts';
import { FrameTable } from '../hypervisor/frame-table.ts';
import { newGrantTable } from '../hypervisor/grant-table.ts';
import type { HypercallRow } from '../hypervisor/hypercall.ts';
import { FRAME, FRAME_TYPE } from '../hypervisor/frame-table.ts';
import { allocFrames, allocSharedFrame, createDomain, createHypervisor, createVcpu, type Hypervisor } from '../hypervisor/hypervisor.ts';
import { fillM2pSlot, VMASST, writeEntry } from '../hypervisor/page-tables.ts';
import { getPage, getPageAndType, getPageAndTypeFor, getType, PUT, putOldTable } from '../hypervisor/page-types.ts';
import { tableIndex } from '../hypervisor/page-walk.ts';
import { ABIS, type AbiName, XEN_BUILDS, type XenBuild } from '../hypervisor/personality.ts';
import type { PageRules } from '../hypervisor/pte-rules.ts';
import { setGdt } from '../hypervisor/hypercalls/descriptors.ts';
import { ScriptCpu } from './script-cpu.ts';
import type { EventRules } from '../hypervisor/event-rules.ts';
import { RECORDED_GRANT_RULES, type GrantRules } from '../hypervisor/grant-rules.ts';
import type { WorldPort } from '../hypervisor/world-port.ts';

/** Enough for the names of section 3 (`free` is 0x2000); "no RAM" starts behind it. */
const FRAME_COUNT = 0x2100;
const FREE_BELOW_END = 0x100;
const ARENA_BYTES = 2 * 1024 * 1024;
/** 32 MiB, and what a domain may grow to. */
const MAX_PAGES = 8192 + 1024;
const KERNEL_PAGES = 8;
export const KERNEL_VADDR = 0x10_0000;
export const SCRATCH_VADDR = 0x3fe0_0000;
export const GRANT_SLOT = 48;

/** A world that decides nothing: time stands still, nobody listens. `preempt` may be replaced. */
function quietWorld(preempt: (units: number) => boolean, onEvent: (kind: number) => void = () => undefined): WorldPort {
  return {
    nowNs: () => 1_000_000_000, tscKhz: () => 1_000_000, wallClockAtZeroSec: () => 0, setTimer: () => undefined, vcpuRunnable: () => undefined, yielded: () => undefined,
    notifyBackend: () => undefined, domainShutdown: () => undefined, preempt, emit: (kind) => onEvent(kind), choose: () => 0,
  };
}

export interface ConformState {
  readonly hv: Hypervisor;
  readonly d1: Domain;
  readonly vcpu: Vcpu;
  readonly d2: Domain;
  readonly mfns: Map<string, number>;
  /** Words of scratch_l1 and the live tables at the start, for `final`. */
  readonly initial: Map<string, Uint32Array>;
}

export interface ConformWorldOptions {
  readonly build?: XenBuild;
  readonly hypercallRows: Record<number, HypercallRow>;
  readonly rules?: PageRules;
  readonly grantRules?: GrantRules;
  readonly eventRules?: EventRules;
  readonly preempt?: (units: number) => boolean;
  /** A smaller machine than the corpus needs: faster to check. */
  readonly frameCount?: number;
  readonly onEvent?: (kind: number) => void;
}

/** Builds the initial state again and again on one machine. */
export class ConformWorld {
  readonly #machine: MachineMemory;
  readonly #frames: FrameTable;
  readonly #options: ConformWorldOptions;
  readonly #world: WorldPort;

  constructor(options: ConformWorldOptions) {
    this.#options = options;
    this.#machine = new MachineMemory({ frameCount: options.frameCount ?? FRAME_COUNT, arenaBytes: ARENA_BYTES });
    this.#frames = new FrameTable(this.#machine);
    this.#world = quietWorld(options.preempt ?? (() => false), options.onEvent);
  }

  fresh(abiName: AbiName): ConformState {
    const machine = this.#machine;
    for (const mfn of machine.dirtyFrames()) machine.fillFrame(mfn, 0);
    machine.clearDirty();
    const hv = createHypervisor({ machine, world: this.#world, build: this.#options.build ?? XEN_BUILDS.debug, hypercallRows: this.#options.hypercallRows, frames: this.#frames });
    if (this.#options.rules !== undefined) hv.rules = this.#options.rules;
    hv.grantRules = this.#options.grantRules ?? RECORDED_GRANT_RULES;
    if (this.#options.eventRules !== undefined) hv.eventRules = this.#options.eventRules;
    const freeMfn = this.#options.frameCount === undefined ? FRAME_COUNT - FREE_BELOW_END : this.#options.frameCount - 1;
    holdFrame(hv, freeMfn);
    const mfns = new Map<string, number>([
      ['vga', 0xb8], ['mmio', 0xfee00], ['hole', 0xe0000], ['beyond', 0x100_0000], ['zero', 0], ['free', freeMfn], ['xen', hv.xenTables.imageMfn],
    ]);
    const d1 = buildDomain(hv, abiName, 1);
    const vcpu = buildGuest(hv, d1, mfns);
    const d2 = buildDomain(hv, abiName, 2);
    buildPeer(hv, d2, mfns);
    const initial = new Map<string, Uint32Array>();
    for (const name of LIVE_TABLES) {
      const mfn = mfns.get(name);
      if (mfn !== undefined) initial.set(name, machine.u32.slice((machine.ramBase + mfn * 4096) / 4, (machine.ramBase + (mfn + 1) * 4096) / 4));
    }
    return { hv, d1, vcpu, d2, mfns, initial };
  }
}
export const LIVE_TABLES = ['scratch_l1', 'live_l2', 'live_l3', 'root'] as const;

/** Keeps a frame out of the pool: it stays free RAM that nobody owns. */
function holdFrame(hv: Hypervisor, mfn: number): void {
  const { frames } = hv;
  const at = frames.freeList.subarray(0, frames.freeCount).indexOf(mfn);
  assert(at >= 0, `frame ${mfn} is not free`);
  frames.freeList.copyWithin(at, at + 1, frames.freeCount);
  frames.freeCount--;
}

function buildDomain(hv: Hypervisor, abiName: AbiName, domId: number): Domain {
  const domain = createDomain(hv, {
    domId, name: `d${domId}`, abi: ABIS[abiName], privileged: false, maxPages: MAX_PAGES, events: newEventChannels(), grants: newGrantTable(),
  });
  if (domain.abi.levels === 3) domain.vmAssist = 2 ** VMASST.paeExtendedCr3;
  domain.sharedInfoMfn = allocSharedFrame(hv, domain) as number;
  domain.grants.sharedMfns.push(allocSharedFrame(hv, domain) as number);
  return domain;
}

/** Frames with consecutive pseudo-physical numbers. */
function give(hv: Hypervisor, domain: Domain, count: number): number[] {
  const mfns = allocFrames(hv, domain, count) as number[];
  mfns.forEach((mfn) => hv.frames.setM2p(mfn, domain.totPages - count + mfns.indexOf(mfn)));
  return mfns;
}

function buildGuest(hv: Hypervisor, d1: Domain, mfns: Map<string, number>): Vcpu {
  const { abi } = d1;
  const wide = abi.pteBytes === 8;
  const own = abi.levels === 4 ? ['live_l3', 'live_l2', 'root'] : abi.levels === 3 ? ['xen_l2', 'low_l2a', 'low_l2b', 'live_l2', 'root'] : ['root'];
  const names = [...Array.from({ length: 12 }, (_, i) => `f${i}`), 'scratch_l1', 'live_l1', 'kernel_l1', 'start_info', 'console', 'store', 'gdt', ...own];
  give(hv, d1, names.length).forEach((mfn, i) => mfns.set(names[i] as string, mfn));
  // A two-level root is the L2.
  if (abi.levels === 2) mfns.set('live_l2', mfns.get('root') as number);
  mfns.set('shared_info', d1.sharedInfoMfn);
  mfns.set('gnttab', d1.grants.sharedMfns[0] as number);
  const mfn = (name: string): number => mfns.get(name) as number;
  const entry = (table: string, index: number, target: number, flags: number): void =>
    writeEntry(hv, mfn(table), index, wide, ((target << 12) | flags) >>> 0, target >>> 20);

  // The kernel's address space begins at 0; all but the first page of what lies below it is mapped.
  const firstSlot = tableIndex(abi.levels, 1, KERNEL_VADDR);
  const low = give(hv, d1, 1)[0] as number;
  for (let slot = 1; slot < firstSlot; slot++) entry('live_l1', slot, low, 0x63);
  const kernel = give(hv, d1, KERNEL_PAGES);
  kernel.forEach((frame, i) => entry('live_l1', firstSlot + i, frame, 0x63));
  ['start_info', 'console', 'store', 'shared_info'].forEach((name, i) => entry('live_l1', firstSlot + KERNEL_PAGES + i, mfn(name), 0x63));
  entry('live_l1', firstSlot + KERNEL_PAGES + 4, mfn('gdt'), 0x61);
  const magic = new TextEncoder().encode(abi.wordBits === 64 ? 'xen-3.0-x86_64' : abi.levels === 3 ? 'xen-3.0-x86_32p' : 'xen-3.0-x86_32');
  hv.machine.writeBytes(mfn('start_info') * 4096, magic);
  // evtchn_upcall_mask of vCPU 0: the scripts take no upcalls.
  hv.machine.writeU8(mfn('shared_info') * 4096 + 1, 1);

  const scratchSlot = tableIndex(abi.levels, 1, SCRATCH_VADDR);
  for (let i = 0; i < 12; i++) entry('scratch_l1', scratchSlot + i, mfn(`f${i}`), 0x63);
  entry('scratch_l1', scratchSlot + GRANT_SLOT, mfn('gnttab'), 0x63);
  entry('live_l2', 0, mfn('live_l1'), 0x67);
  entry('live_l2', 1, mfn('kernel_l1'), 0x67);
  entry('live_l2', tableIndex(abi.levels, 2, SCRATCH_VADDR), mfn('scratch_l1'), 0x67);
  if (abi.levels === 4) {
    entry('live_l3', 0, mfn('live_l2'), 0x67);
    entry('root', 0, mfn('live_l3'), 0x67);
  } else if (abi.levels === 3) {
    // On 32-bit Xen the root's entries are those of the processor: present, and little else.
    ['live_l2', 'low_l2a', 'low_l2b', 'xen_l2'].forEach((name, i) => entry('root', i, mfn(name), abi.onXen3 ? 0x1 : 0x61));
  }

  const vcpu = createVcpu(d1);
  const root = mfn('root');
  vcpu.online = true;
  vcpu.cpu = new ScriptCpu(hv.machine, vcpu);
  // Pinned, and loaded as the kernel's base (pv64: and the user's).
  assert(getPage(hv, root, d1.domId) && getType(hv, root, abi.levels, true) === 0, 'the initial tables are refused');
  hv.frames.flags[root] = (hv.frames.flags[root] as number) | FRAME.pinned;
  for (let use = 0; use < (abi.levels === 4 ? 2 : 1); use++) assert(getPageAndTypeFor(hv, root, d1.domId, abi.levels, PUT.preemptible) === 0, 'the initial root is refused');
  vcpu.guestTableMfn = root;
  if (abi.levels === 4) {
    vcpu.userTableMfn = root;
    fillM2pSlot(hv, root);
  }
  assert(setGdt(hv, vcpu, [mfn('gdt')], 16) === 0, 'the initial GDT is refused');
  assert(putOldTable(hv, hv.idle) === 0, 'no table is left over');
  return vcpu;
}

/** d2: three frames that its own tables map writable; nothing else of it can be seen. */
function buildPeer(hv: Hypervisor, d2: Domain, mfns: Map<string, number>): void {
  const names = ['foreign', 'foreign1', 'foreign2'];
  give(hv, d2, names.length).forEach((mfn, i) => {
    mfns.set(names[i] as string, mfn);
    assert(getPageAndType(hv, mfn, d2.domId, FRAME_TYPE.writable), 'a frame of d2 is refused');
  });
  createVcpu(d2).online = true;
}

