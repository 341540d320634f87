// The hypervisor: domains, frames, and the doors through which guests and the world call it. A value
// with plain state; every rule lives in the file of its family.
//
//   createHypervisor   places Xen's own frames, fills the free pool
//   createDomain       an empty domain: no frames, no vCPUs
//   allocFrames        gives a domain frames from the pool, in an order the world may choose
//   destroyDomain      takes everything back (page-types.ts: relinquish)
import { assert } from '../base/assert.ts';
import { wide } from '../base/wide.ts';
import { DOMID } from '../abi/domid.ts';
import type { MachineMemory } from '../machine/memory.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER, FrameTable, INVALID_M2P } from './frame-table.ts';
import { GuestAccess } from './guest-access.ts';
import type { Domain, OldTable, Vcpu } from './domain.ts';
import { PAGE_RULES, type PageRules } from './pte-rules.ts';
import type { WorldPort } from './world-port.ts';
import type { Abi, XenBuild } from './personality.ts';
import type { EventChannels } from './event-channels.ts';
import { EVENT_RULES, type EventRules } from './event-rules.ts';
import { GRANT_RULES, type GrantRules } from './grant-rules.ts';
import type { GrantTable } from './grant-table.ts';
import type { HypercallRow } from './hypercall.ts';
import { emitGuestMemory } from './mm-events.ts';
import { flushBeforeReuse } from './tlb-clock.ts';
import { newVcpu } from './vcpu.ts';
import { buildXenTables, type XenTables } from './xen-tables.ts';

export interface Hypervisor {
  readonly machine: MachineMemory;
  readonly frames: FrameTable;
  readonly domains: Map<number, Domain>;
  readonly world: WorldPort;
  readonly build: XenBuild;
  readonly access: GuestAccess;
  /** Xen's page tables that every guest root shares: they map the machine-to-phys tables. */
  readonly xenTables: XenTables;
  /** The rules of page-table entries, as rows. Tests may replace them. */
  rules: PageRules;
  /** The vCPU whose hypercall or fault is being handled; undefined while Xen acts for nobody. */
  current: Vcpu | undefined;
  /** Stands for a vCPU when none is current. */
  readonly idle: { oldTable: OldTable | undefined };
  /** The running hypercall owes the guest a #GP(0) (debug builds: a grant entry was overwritten). */
  pendingGp: boolean;
  /** Rows that a test may replace to bring a historical mistake back. */
  grantRules: GrantRules;
  eventRules: EventRules;
  /** Entries of L1 tables (de)validated since the last question whether to preempt. */
  uncountedWork: number;
  /** By hypercall number. Tests may replace a row. */
  hypercallRows: Record<number, HypercallRow>;
  /** Domain 0 as guests may name it (foreign-domain.ts); no entry of `domains`. undefined: the machine has none. */
  dom0: Domain | undefined;
  domain(domId: number): Domain | undefined;
  vcpu(domId: number, vcpuId: number): Vcpu | undefined;
}

export interface HypervisorOptions {
  readonly machine: MachineMemory;
  readonly world: WorldPort;
  readonly build: XenBuild;
  readonly hypercallRows: Record<number, HypercallRow>;
  /** A frame table of the same machine to use again (it is cleared), instead of a new one. */
  readonly frames?: FrameTable;
}

/** Frames of the first 1 MiB, RAM or not: I/O space to Xen, owned by DOMID_IO (arch_init_memory). */
export const LOW_FRAMES = 0x100;

/** Frame 0 to 1 MiB: low memory; then Xen's frames; then the pool. */
export function createHypervisor(options: HypervisorOptions): Hypervisor {
  const { machine, world, build } = options;
  const frames = options.frames ?? new FrameTable(machine);
  if (options.frames !== undefined) frames.clear();
  assert(frames.frameCount > LOW_FRAMES + 64, `a machine of ${frames.frameCount} frames is too small for Xen`);
  for (let mfn = 0; mfn < LOW_FRAMES; mfn++) {
    frames.owner[mfn] = DOMID.IO;
    frames.refCount[mfn] = 1;
    frames.flags[mfn] = FRAME.allocated;
    frames.type[mfn] = FRAME_TYPE.writable;
    frames.typeCount[mfn] = 1;
  }
  const { tables, nextMfn } = buildXenTables(frames, LOW_FRAMES);
  // Highest first on the stack, so that the lowest free frame is drawn first.
  let free = 0;
  for (let mfn = frames.frameCount - 1; mfn >= nextMfn; mfn--) frames.freeList[free++] = mfn;
  frames.freeCount = free;
  const domains = new Map<number, Domain>();
  const hv: Hypervisor = {
    machine, frames, domains, world, build,
    access: new GuestAccess(machine),
    xenTables: tables,
    rules: PAGE_RULES,
    current: undefined,
    idle: { oldTable: undefined },
    pendingGp: false,
    uncountedWork: 0,
    grantRules: GRANT_RULES,
    eventRules: EVENT_RULES,
    hypercallRows: options.hypercallRows,
    dom0: undefined,
    domain: (domId) => domains.get(domId),
    vcpu: (domId, vcpuId) => domains.get(domId)?.vcpus[vcpuId],
  };
  hv.access.onWrite = (vcpu, vaddr, data) => emitGuestMemory(hv, vcpu, vaddr, data);
  return hv;
}

export interface DomainOptions {
  readonly domId: number;
  readonly name: string;
  readonly abi: Abi;
  readonly privileged: boolean;
  readonly maxPages: number;
  readonly events: EventChannels;
  readonly grants: GrantTable;
  readonly handle?: Uint8Array;
}

/** A domain without memory and vCPUs, registered under its id. */
export function createDomain(hv: Hypervisor, options: DomainOptions): Domain {
  assert(!hv.domains.has(options.domId), `domain ${options.domId} exists already`);
  const domain = newDomain(hv, options);
  hv.domains.set(domain.domId, domain);
  return domain;
}

/** The same, registered nowhere. */
export function newDomain(hv: Hypervisor, options: DomainOptions): Domain {
  return wide({
    domId: options.domId, name: options.name, abi: options.abi, build: hv.build, privileged: options.privileged,
    vcpus: [], life: { kind: 'running' }, paused: false,
    totPages: 0, maxPages: options.maxPages, sharedInfoMfn: 0,
    // Only 32-bit PAE domains start with an assist on (pae_extended_cr3): set by the domain builder.
    vmAssist: 0,
    events: options.events, grants: options.grants, perDomain: undefined,
    leakedTables: [],
    handle: options.handle ?? new Uint8Array(16),
    shutdownCode: undefined, watchdogs: [undefined, undefined], consoleLine: '',
  });
}

/** A vCPU of the domain, not yet loaded with anything; appended to domain.vcpus. */
export function createVcpu(domain: Domain): Vcpu {
  const vcpu = newVcpu(domain, domain.vcpus.length);
  domain.vcpus.push(vcpu);
  return vcpu;
}

/**
 * Takes one frame from the pool: the world's choice among the `window` next ones (1: no choice).
 * undefined when the pool is empty. The frame is zero and belongs to nobody yet.
 */
export function takeFreeFrame(hv: Hypervisor, window = 1): number | undefined {
  const { frames } = hv;
  const count = frames.freeCount;
  if (count === 0) return undefined;
  const options = Math.min(window, count);
  const at = count - 1 - (options > 1 ? hv.world.choose('memory.placement', options) : 0);
  const mfn = frames.freeList[at] as number;
  frames.freeList.copyWithin(at, at + 1, count);
  frames.freeCount = count - 1;
  flushBeforeReuse(hv, mfn);
  return mfn;
}

/** The frame becomes the domain's: allocated, no type (assign_pages). Not counted against maxPages. */
export function assignFrame(hv: Hypervisor, domain: Domain, mfn: number): void {
  const { frames } = hv;
  assert(frames.owner[mfn] === FREE_OWNER, () => `mfn ${mfn} already belongs to ${frames.owner[mfn]}`);
  frames.owner[mfn] = domain.domId;
  frames.type[mfn] = FRAME_TYPE.none;
  frames.typeCount[mfn] = 0;
  frames.refCount[mfn] = 1;
  frames.flags[mfn] = FRAME.allocated;
  domain.totPages++;
}

/** Gives the domain `count` frames; the order is the world's choice (`window` > 1). undefined: not enough memory, nothing taken. */
export function allocFrames(hv: Hypervisor, domain: Domain, count: number, window = 1): number[] | undefined {
  if (hv.frames.freeCount < count) return undefined;
  const mfns: number[] = [];
  for (let i = 0; i < count; i++) {
    const mfn = takeFreeFrame(hv, window) as number;
    assignFrame(hv, domain, mfn);
    mfns.push(mfn);
  }
  return mfns;
}

/** A frame of Xen's, shared writable with the domain (share_xen_page_with_guest): shared_info, grant frames. Not counted in totPages. */
export function allocSharedFrame(hv: Hypervisor, domain: Domain): number | undefined {
  const mfn = takeFreeFrame(hv);
  if (mfn === undefined) return undefined;
  const { frames } = hv;
  frames.owner[mfn] = domain.domId;
  frames.type[mfn] = FRAME_TYPE.writable;
  frames.typeCount[mfn] = 1;
  frames.refCount[mfn] = 1;
  frames.flags[mfn] = FRAME.allocated | FRAME.xenHeap | FRAME.validated;
  return mfn;
}

/** The frame goes back to the pool, scrubbed, without owner or m2p entry. */
export function releaseFrame(hv: Hypervisor, mfn: number): void {
  const { frames } = hv;
  frames.owner[mfn] = FREE_OWNER;
  frames.type[mfn] = FRAME_TYPE.none;
  frames.typeCount[mfn] = 0;
  frames.refCount[mfn] = 0;
  frames.flags[mfn] = 0;
  frames.validEntries[mfn] = 0;
  frames.partialFlags[mfn] = 0;
  frames.linearCount[mfn] = 0;
  // Never 0, which says that no TLB can have it.
  frames.tlbStamp[mfn] = Math.max(frames.tlbClock, 1);
  frames.setM2p(mfn, INVALID_M2P);
  hv.machine.fillFrame(mfn, 0);
  frames.freeList[frames.freeCount] = mfn;
  frames.freeCount++;
}
