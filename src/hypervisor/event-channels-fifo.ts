// The FIFO ABI of event channels: one 32-bit word per port in pages that the guest gave, linked into
// sixteen queues per vCPU whose heads are in a control block, also the guest's. The guest may write
// all of it at any time: links are followed by the guest only, never by Xen, and the tail that Xen
// keeps is checked against the LINKED bit before it is used.
// Source: xen/common/event_fifo.c, xen/include/public/event_channel.h.
import { EVENT } from '../abi/events.ts';
import type { Domain, Vcpu } from './domain.ts';
import { markEventsPending, type EventPort } from './event-channels.ts';
import { holdWritableFrame, releaseWritableFrame } from './frame-hold.ts';
import type { Hypervisor } from './hypervisor.ts';
import { assignBit, testBit, testEventBit, twoLevelPorts } from './shared-info.ts';

export const FIFO_CHANNELS = 1 << 17;
export const FIFO_QUEUES = 16;
export const FIFO_DEFAULT_PRIORITY = 7;
export const FIFO_MIN_PRIORITY = 15;
export const FIFO_LINK_BITS = 17;
const LINK_MASK = (1 << FIFO_LINK_BITS) - 1;
/** Bits of an event word. */
const WORD = { pending: 31, masked: 30, linked: 29, busy: 28 } as const;
const WORDS_PER_PAGE = 1024;
const MAX_ARRAY_PAGES = FIFO_CHANNELS / WORDS_PER_PAGE;
/** struct evtchn_fifo_control_block: ready u32, pad, head[16]. */
const HEAD_AT = 8;
export const CONTROL_BLOCK_BYTES = 72;

export interface FifoVcpu {
  /** Machine address, 0 = none yet. */
  controlMaddr: number;
  /** Last port of each queue, 0 = none. */
  tails: number[];
}
export interface FifoState {
  /** Frames of the event array, in order. */
  arrayMfns: number[];
  vcpus: FifoVcpu[];
}

const newFifoVcpu = (): FifoVcpu => ({ controlMaddr: 0, tails: new Array<number>(FIFO_QUEUES).fill(0) });

/** Machine address of a port's word; undefined while its page is missing. */
function wordMaddr(domain: Domain, port: number): number | undefined {
  const mfn = domain.events.fifo?.arrayMfns[Math.floor(port / WORDS_PER_PAGE)];
  return mfn === undefined ? undefined : mfn * 4096 + (port % WORDS_PER_PAGE) * 4;
}

export function fifoInitPort(entry: EventPort): void {
  entry.priority = FIFO_DEFAULT_PRIORITY;
}

const testWord = (hv: Hypervisor, domain: Domain, port: number, bit: number, missing: boolean): boolean => {
  const at = wordMaddr(domain, port);
  return at === undefined ? missing : testBit(hv, at, bit);
};
export const fifoIsPending = (hv: Hypervisor, domain: Domain, port: number): boolean => testWord(hv, domain, port, WORD.pending, false);
export const fifoIsLinked = (hv: Hypervisor, domain: Domain, port: number): boolean => testWord(hv, domain, port, WORD.linked, false);

export function fifoClearPending(hv: Hypervisor, domain: Domain, port: number): void {
  const at = wordMaddr(domain, port);
  if (at !== undefined) assignBit(hv, at, WORD.pending, false);
}

/** Points the tail's word at the next port, if the tail still is linked. */
function setLink(hv: Hypervisor, maddr: number, link: number): boolean {
  const word = hv.machine.readU32(maddr);
  if (((word >>> WORD.linked) & 1) === 0) return false;
  hv.machine.writeU32(maddr, ((word & ~((1 << WORD.busy) | LINK_MASK)) | link) >>> 0);
  return true;
}

/** evtchn_fifo_set_pending(). True: the port was not pending before, so that pollers are to be asked. */
export function fifoSetPending(hv: Hypervisor, vcpu: Vcpu, port: number, entry: EventPort): boolean {
  const { domain } = vcpu;
  const fifo = domain.events.fifo as FifoState;
  const maddr = wordMaddr(domain, port);
  if (maddr === undefined) {
    entry.pendingEarly = true;
    return false;
  }
  const mine = fifo.vcpus[vcpu.vcpuId];
  if (mine === undefined || mine.controlMaddr === 0) return false; // no control block: the event is dropped
  const fresh = !assignBit(hv, maddr, WORD.pending, true);
  if (fresh) hv.world.emit(EVENT.evtchnPending, domain.domId, vcpu.vcpuId, [port]);
  if (testBit(hv, maddr, WORD.masked) || assignBit(hv, maddr, WORD.linked, true)) return fresh;
  // If this port was the tail of its old queue, that queue is empty now.
  const old = fifo.vcpus[entry.lastVcpuId];
  if (old !== undefined && old.tails[entry.lastPriority] === port) old.tails[entry.lastPriority] = 0;
  const { priority } = entry;
  entry.lastVcpuId = vcpu.vcpuId;
  entry.lastPriority = priority;
  const tail = mine.tails[priority] as number;
  const tailMaddr = tail === 0 ? undefined : wordMaddr(domain, tail);
  const linked = tailMaddr !== undefined && setLink(hv, tailMaddr, port);
  if (!linked) hv.machine.writeU32(mine.controlMaddr + HEAD_AT + priority * 4, port);
  mine.tails[priority] = port;
  if (!linked && !assignBit(hv, mine.controlMaddr, priority, true)) markEventsPending(hv, vcpu);
  return fresh;
}

/** evtchn_fifo_unmask(). */
export function fifoUnmask(hv: Hypervisor, vcpu: Vcpu, port: number, entry: EventPort): boolean {
  const maddr = wordMaddr(vcpu.domain, port);
  if (maddr === undefined) return false;
  assignBit(hv, maddr, WORD.masked, false);
  return testBit(hv, maddr, WORD.pending) ? fifoSetPending(hv, vcpu, port, entry) : false;
}

/** A page of the guest's that Xen writes events into. */
const holdPage = (hv: Hypervisor, domain: Domain, mfn: number): boolean =>
  hv.eventRules.arrayPagesHeld ? holdWritableFrame(hv, domain, mfn) : hv.frames.has(mfn) && hv.frames.owner[mfn] === domain.domId;
const releasePage = (hv: Hypervisor, domain: Domain, mfn: number): void => {
  if (hv.eventRules.arrayPagesHeld) releaseWritableFrame(hv, domain, mfn);
};

/**
 * EVTCHNOP_init_control: the first one switches the domain to this ABI. Events pending in the old
 * ABI are kept for when their array page comes. `vcpu` exists; refusals are errno names.
 */
export function fifoInitControl(hv: Hypervisor, vcpu: Vcpu, mfn: number, offset: number): 'EINVAL' | undefined {
  const { domain } = vcpu;
  if (offset > 4096 - CONTROL_BLOCK_BYTES || offset % 8 !== 0) return 'EINVAL';
  const before = domain.events.fifo;
  if (before !== undefined && (before.vcpus[vcpu.vcpuId]?.controlMaddr ?? 0) !== 0 && hv.eventRules.controlBlockOnce) return 'EINVAL';
  if (!holdPage(hv, domain, mfn)) return 'EINVAL';
  const fifo: FifoState = before ?? { arrayMfns: [], vcpus: domain.vcpus.map(newFifoVcpu) };
  while (fifo.vcpus.length <= vcpu.vcpuId) fifo.vcpus.push(newFifoVcpu());
  (fifo.vcpus[vcpu.vcpuId] as FifoVcpu).controlMaddr = mfn * 4096 + offset;
  if (before !== undefined) return undefined;
  for (let port = 1; port < Math.min(twoLevelPorts(domain), domain.events.ports.length); port++) {
    const entry = domain.events.ports[port] as EventPort;
    if (testEventBit(hv, domain, 'evtchn_pending', port)) entry.pendingEarly = true;
    entry.priority = FIFO_DEFAULT_PRIORITY;
  }
  domain.events.fifo = fifo;
  return undefined;
}

/** EVTCHNOP_expand_array. */
export function fifoExpandArray(hv: Hypervisor, domain: Domain, mfn: number): 'EINVAL' | 'ENOSPC' | 'EOPNOTSUPP' | undefined {
  const { fifo, ports } = domain.events;
  if (fifo === undefined) return 'EOPNOTSUPP';
  if (fifo.arrayMfns.length >= MAX_ARRAY_PAGES) return 'ENOSPC';
  if (!holdPage(hv, domain, mfn)) return 'EINVAL';
  const first = fifo.arrayMfns.length * WORDS_PER_PAGE;
  fifo.arrayMfns.push(mfn);
  for (let port = first; port < Math.min(first + WORDS_PER_PAGE, ports.length); port++) {
    const entry = ports[port] as EventPort;
    const vcpu = domain.vcpus[entry.notifyVcpuId];
    if (entry.pendingEarly && vcpu !== undefined) fifoSetPending(hv, vcpu, port, entry);
  }
  return undefined;
}

/** Back to the two-level ABI (EVTCHNOP_reset, domain destruction): the guest's pages are let go. */
export function fifoDestroy(hv: Hypervisor, domain: Domain): void {
  const { fifo } = domain.events;
  if (fifo === undefined) return;
  for (const { controlMaddr } of fifo.vcpus) if (controlMaddr !== 0) releasePage(hv, domain, Math.floor(controlMaddr / 4096));
  for (const mfn of fifo.arrayMfns) releasePage(hv, domain, mfn);
  domain.events.fifo = undefined;
}
