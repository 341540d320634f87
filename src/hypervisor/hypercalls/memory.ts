// memory_op: a domain's reservation. Commands are rows. Source: do_memory_op(), xen/common/memory.c;
// arch_memory_op() and subarch_memory_op(), xen/arch/x86. Commands for auto-translated guests are
// answered as for a PV guest: most do not exist for it.
import { ERRNO } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import type { Domain, Vcpu } from '../domain.ts';
import { domainByAnyId, mayControl } from '../foreign-domain.ts';
import { INVALID_M2P } from '../frame-table.ts';
import { allocRun, removeFrame } from '../frame-ownership.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { emitMm } from '../mm-events.ts';
import { preemptCheck } from '../page-types.ts';
import { MACHPHYS_VIRT_END } from '../personality.ts';
import { memoryExchange } from './memory-exchange.ts';

/** The command's low bits; above is the extent where a preempted call goes on. */
const CMD_MASK = 0x3f;
const EXTENT_SHIFT = 64;
/** CONFIG_DOMU_MAX_ORDER. */
export const MAX_ORDER = 9;
const EXACT_NODE = 0x20000;
const POPULATE_ON_DEMAND = 0x10000;

export interface Reservation {
  readonly extents: number;
  readonly count: number;
  readonly order: number;
  readonly memFlags: number;
  readonly domId: number;
}
export const reservationBytes = (vcpu: Vcpu): number => (vcpu.domain.abi.wordBits === 64 ? 32 : 20);

/** struct xen_memory_reservation from what the door copied last, at that offset. */
export function parseReservation(hv: Hypervisor, vcpu: Vcpu, at: number): Reservation {
  const { view } = hv.access;
  const wide = vcpu.domain.abi.wordBits === 64;
  const u32 = (offset: number): number => view.getUint32(at + offset, true);
  if (wide) return { extents: view.getInt32(at + 4, true) * 0x1_0000_0000 + u32(0), count: u32(12) * 0x1_0000_0000 + u32(8), order: u32(16), memFlags: u32(20), domId: view.getUint16(at + 24, true) };
  return { extents: u32(0), count: u32(4), order: u32(8), memFlags: u32(12), domId: view.getUint16(at + 16, true) };
}

type Adjust = (hv: Hypervisor, vcpu: Vcpu, domain: Domain, reservation: Reservation, start: number) => { done: number; preempted: boolean };

/** Performs one extent; false: stop here. */
type Extent = (hv: Hypervisor, vcpu: Vcpu, domain: Domain, reservation: Reservation, index: number) => boolean;

const perExtent = (extent: Extent): Adjust => (hv, vcpu, domain, reservation, start) => {
  if (reservation.order > MAX_ORDER) return { done: start, preempted: false };
  let i = start;
  for (; i < reservation.count; i++) {
    if (i !== start && preemptCheck(hv)) return { done: i, preempted: true };
    if (!extent(hv, vcpu, domain, reservation, i)) break;
  }
  return { done: i, preempted: false };
};

const wordBytes = (vcpu: Vcpu): number => vcpu.domain.abi.wordBits / 8;

/** Frames of the domain's own, unless a fault says that there are none just now. */
const runFor = (hv: Hypervisor, domain: Domain, order: number): number | undefined => ((hv.world.fault?.('hypercall.retry', domain.domId) ?? 0) > 0 ? undefined : allocRun(hv, domain, order));

const increase = perExtent((hv, vcpu, domain, { extents, order }, i) => {
  const first = runFor(hv, domain, order);
  if (first !== undefined) for (let j = 0; j < 2 ** order; j++) emitMm(hv, EVENT.frameGiven, first + j, INVALID_M2P);
  return first !== undefined && (extents === 0 || hv.access.writeWord(vcpu, extents + i * wordBytes(vcpu), first));
});

const decrease = perExtent((hv, vcpu, domain, { extents, order }, i) => {
  const first = hv.access.readWord(vcpu, extents + i * wordBytes(vcpu));
  if (first === undefined) return false;
  for (let j = 0; j < 2 ** order; j++) {
    if (removeFrame(hv, domain, first + j) !== 0) return false;
    emitMm(hv, EVENT.frameTaken, first + j);
  }
  return true;
});

const populate = perExtent((hv, vcpu, domain, { extents, order, memFlags }, i) => {
  const at = extents + i * wordBytes(vcpu);
  const pfn = hv.access.readWord(vcpu, at);
  if (pfn === undefined) return false;
  // Nobody may populate on demand for itself.
  if ((memFlags & POPULATE_ON_DEMAND) !== 0) return domain !== vcpu.domain;
  const first = runFor(hv, domain, order);
  if (first === undefined) return false;
  for (let j = 0; j < 2 ** order; j++) {
    hv.frames.setM2p(first + j, (pfn + j) >>> 0, Math.floor((pfn + j) / 0x1_0000_0000) >>> 0);
    emitMm(hv, EVENT.frameGiven, first + j, (pfn + j) >>> 0);
  }
  return hv.access.writeWord(vcpu, at, first);
});

/** increase, decrease, populate: the number of extents done, whatever stopped the rest. */
const adjust = (work: Adjust) => (hv: Hypervisor, vcpu: Vcpu, arg: number, start: number, command: number): HypercallOutcome => {
  if (!hv.access.read(vcpu, arg, reservationBytes(vcpu))) return done(start);
  const reservation = parseReservation(hv, vcpu, 0);
  // A larger list could not be continued.
  if (reservation.count > 0xffff_ffff / EXTENT_SHIFT || start >= reservation.count) return done(start);
  const domain = domainByAnyId(hv, vcpu.domain, reservation.domId);
  if (domain === undefined || (reservation.memFlags & EXACT_NODE) !== 0 || !mayControl(vcpu.domain, domain.domId)) return done(start);
  const result = work(hv, vcpu, domain, reservation, start);
  return result.preempted ? { kind: 'continuation', args: [command + result.done * EXTENT_SHIFT, arg] } : done(result.done);
};

/** Queries about a domain: a u16 domid in guest memory. */
const query = (answer: (hv: Hypervisor, domain: Domain) => number) => (hv: Hypervisor, vcpu: Vcpu, arg: number): HypercallOutcome => {
  const domId = hv.access.readU16(vcpu, arg);
  if (domId === undefined) return done(-ERRNO.EFAULT);
  const domain = domainByAnyId(hv, vcpu.domain, domId);
  if (domain === undefined) return done(-ERRNO.ESRCH);
  return done(mayControl(vcpu.domain, domain.domId) ? answer(hv, domain) : -ERRNO.EPERM);
};

/** Where a guest sees the machine-to-phys table: first and last+1 address, and the last frame it could describe. */
function machphysMapping(hv: Hypervisor, vcpu: Vcpu, arg: number): HypercallOutcome {
  const { abi } = vcpu.domain;
  const end = MACHPHYS_VIRT_END[abi.name];
  const words = [abi.machphysVirtStart, end, (end - abi.machphysVirtStart) / abi.machphysEntryBytes - 1];
  const bytes = wordBytes(vcpu);
  return done(words.every((word, i) => hv.access.writeWord(vcpu, arg + i * bytes, word)) ? 0 : -ERRNO.EFAULT);
}

/** XENMEM_machphys_mfn_list: the frames of the table, one for each 2 MiB of it. */
const machphysList = (compat: boolean) => (hv: Hypervisor, vcpu: Vcpu, arg: number): HypercallOutcome => {
  const bytes = wordBytes(vcpu);
  if (!hv.access.read(vcpu, arg, bytes * 2 + 4)) return done(-ERRNO.EFAULT);
  const max = hv.access.view.getUint32(0, true);
  const list = bytes === 8 ? hv.access.view.getInt32(12, true) * 0x1_0000_0000 + hv.access.view.getUint32(8, true) : hv.access.view.getUint32(4, true);
  const small = compat || vcpu.domain.abi.wordBits === 32;
  const total = Math.ceil((hv.frames.frameCount * (small ? 4 : 8)) / 0x20_0000);
  const first = small ? hv.frames.m2p32Mfn : hv.frames.m2p64Mfn;
  let i = 0;
  for (; i < Math.min(max, total); i++) if (!hv.access.writeWord(vcpu, list + i * bytes, first + i * 512)) return done(-ERRNO.EFAULT);
  return done(hv.access.writeU32(vcpu, arg + bytes * 2, i) ? 0 : -ERRNO.EFAULT);
};

/** XEN_DOMCTL_set_memory_map's only entry: struct e820entry, packed. */
const E820_ENTRY_BYTES = 20;
const E820_RAM = 1;

/** XENMEM_memory_map. Source: arch_memory_op(), xen/arch/x86/mm.c. */
function memoryMap(hv: Hypervisor, vcpu: Vcpu, arg: number): HypercallOutcome {
  const { memoryMapPages } = vcpu.domain;
  if (memoryMapPages === undefined) return done(-ERRNO.ENOSYS);
  // struct xen_memory_map: how many entries there is room for, and where.
  const bytes = wordBytes(vcpu);
  if (!hv.access.read(vcpu, arg, bytes * 2)) return done(-ERRNO.EFAULT);
  const room = hv.access.view.getUint32(0, true);
  const buffer = bytes === 8 ? hv.access.view.getInt32(12, true) * 0x1_0000_0000 + hv.access.view.getUint32(8, true) : hv.access.view.getUint32(4, true);
  // Without a buffer it is asked how many there are.
  const count = buffer === 0 ? 1 : Math.min(room, 1);
  const entry = new DataView(new ArrayBuffer(E820_ENTRY_BYTES));
  entry.setBigUint64(8, BigInt(memoryMapPages) * 4096n, true);
  entry.setUint32(16, E820_RAM, true);
  const copied = buffer === 0 || count === 0 || hv.access.copyToGuest(vcpu, buffer, new Uint8Array(entry.buffer));
  return done(copied && hv.access.writeU32(vcpu, arg, count) ? 0 : -ERRNO.EFAULT);
}

interface MemoryRow {
  readonly name: string;
  /** May a call go on at an extent other than 0? */
  readonly continues?: true;
  readonly run: (hv: Hypervisor, vcpu: Vcpu, arg: number, start: number, command: number) => HypercallOutcome;
}
const refuse = (rc: number) => (): HypercallOutcome => done(rc);

/** By command number, xen/include/public/memory.h (XENMEM_*). */
export const MEMORY_ROWS: Readonly<Record<number, MemoryRow>> = {
  0: { name: 'increase_reservation', continues: true, run: adjust(increase) },
  1: { name: 'decrease_reservation', continues: true, run: adjust(decrease) },
  2: { name: 'maximum_ram_page', run: (hv) => done(hv.frames.frameCount) },
  3: { name: 'current_reservation', run: query((_hv, domain) => domain.totPages) },
  4: { name: 'maximum_reservation', run: query((_hv, domain) => domain.maxPages) },
  5: { name: 'machphys_mfn_list', continues: true, run: machphysList(false) },
  6: { name: 'populate_physmap', continues: true, run: adjust(populate) },
  // Auto-translated guests only.
  7: { name: 'add_to_physmap', continues: true, run: refuse(-ERRNO.ENOSYS) },
  9: { name: 'memory_map', continues: true, run: memoryMap },
  10: { name: 'machine_memory_map', continues: true, run: refuse(-ERRNO.EPERM) },
  11: { name: 'exchange', run: memoryExchange },
  12: { name: 'machphys_mapping', continues: true, run: machphysMapping },
  14: { name: 'maximum_gpfn', run: query((_hv, domain) => Math.max(domain.totPages, 1) - 1) },
  15: { name: 'remove_from_physmap', run: refuse(-ERRNO.ENOSYS) },
  25: { name: 'machphys_compat_mfn_list', continues: true, run: machphysList(true) },
};

function memoryOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const full = vcpu.domain.abi.wordBits === 64 ? args.u64(0) : args.u32(0);
  const command = args.u32(0) & CMD_MASK;
  const start = Math.floor(full / EXTENT_SHIFT);
  const row = MEMORY_ROWS[command];
  if (row === undefined) return done(-ERRNO.ENOSYS);
  if (start !== 0 && row.continues !== true) return done(-ERRNO.EINVAL);
  return row.run(hv, vcpu, args.addr(1), start, command);
}

export const memoryRows: Record<number, HypercallRow> = {
  12: {
    name: 'memory_op', handle: memoryOp, args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }],
    commands: Object.fromEntries(Object.entries(MEMORY_ROWS).map(([number, row]) => [number, row.name])),
  },
};
