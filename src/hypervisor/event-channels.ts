// Event channels of a domain: what a port is bound to, and how a port becomes pending. The hypercall
// with its checks is hypercalls/event-channel.ts; the FIFO ABI is event-channels-fifo.ts.
//
//   send(port) ── interdomain ──► the other domain's port ─┐
//              ├─ ipi ───────────► the same port ──────────┼─► pending bit ─► selector ─► upcall ─► wake
//              ├─ backend ───────► world.notifyBackend     │   (two-level)
//              └─ unbound ───────► dropped                 │   or queue of the FIFO ABI
//   virq, notifyFromBackend ───────────────────────────────┘
//
// Source: xen/common/event_channel.c, event_2l.c.
import { EVENT } from '../abi/events.ts';
import type { Domain, Vcpu } from './domain.ts';
import { fifoInitPort, fifoIsLinked, fifoIsPending, fifoClearPending, fifoSetPending, fifoUnmask, FIFO_CHANNELS, FIFO_DEFAULT_PRIORITY, type FifoState } from './event-channels-fifo.ts';
import type { Hypervisor } from './hypervisor.ts';
import { assignEventBit, markUpcallPending, setPendingSelector, testEventBit, twoLevelPorts } from './shared-info.ts';
import { wakeVcpu } from './vcpu-state.ts';

/** Virtual interrupts, xen/include/public/xen.h. */
export const VIRQ = { TIMER: 0, DEBUG: 1, CONSOLE: 2, DOM_EXC: 3, TBUF: 4, DEBUGGER: 6, XENOPROF: 7, CON_RING: 8, PCPU_STATE: 9, MEM_EVENT: 10, ARGO: 11, ENOMEM: 12, XENPMU: 13 } as const;
export const NR_VIRQS = 24;
/** get_virq_type(): one per vCPU, one per domain, or one for the whole machine (dom0's). */
export const virqKind = (virq: number): 'vcpu' | 'domain' | 'global' =>
  virq === VIRQ.TIMER || virq === VIRQ.DEBUG || virq === VIRQ.XENOPROF || virq === VIRQ.XENPMU ? 'vcpu' : virq === VIRQ.ARGO ? 'domain' : 'global';

export type PortBinding =
  | { readonly kind: 'free' }
  /** Port 0. */
  | { readonly kind: 'reserved' }
  | { readonly kind: 'unbound'; readonly remoteDomId: number }
  | { readonly kind: 'interdomain'; readonly remoteDomId: number; readonly remotePort: number }
  /** The other end is a simulated back end, which is no domain; the guest sees an interdomain port. */
  | { readonly kind: 'backend'; readonly remoteDomId: number; readonly remotePort: number }
  | { readonly kind: 'virq'; readonly virq: number }
  | { readonly kind: 'ipi' };

export interface EventPort {
  binding: PortBinding;
  /** The vCPU that is notified. */
  notifyVcpuId: number;
  /** FIFO: queue of the next event; queue it was last put on; pending before its array page existed. */
  priority: number;
  lastPriority: number;
  lastVcpuId: number;
  pendingEarly: boolean;
}

export interface EventChannels {
  /** By port number; grows by whole buckets, as Xen's table does (a port past the end does not exist). */
  ports: EventPort[];
  /** Highest port that may be allocated. */
  maxPort: number;
  /** Per vCPU, per VIRQ: the port, 0 = none. */
  virqPorts: number[][];
  fifo: FifoState | undefined;
  /** Where an interrupted EVTCHNOP_reset goes on; 0 = none under way. */
  nextReset: number;
}

/** EVTCHNS_PER_BUCKET: guests see it, since status of a port beyond the table is an error. */
const BUCKET_PORTS = 64;
const DEFAULT_MAX_PORT = 1023;

const newPort = (): EventPort => ({ binding: { kind: 'free' }, notifyVcpuId: 0, priority: FIFO_DEFAULT_PRIORITY, lastPriority: 0, lastVcpuId: 0, pendingEarly: false });

/** Port 0 reserved, one bucket of free ports. `maxPort` is the toolstack's max_event_channels. */
export function newEventChannels(maxPort: number = DEFAULT_MAX_PORT): EventChannels {
  const events: EventChannels = { ports: [], maxPort, virqPorts: [], fifo: undefined, nextReset: 0 };
  addBucket(events);
  (events.ports[0] as EventPort).binding = { kind: 'reserved' };
  return events;
}
function addBucket(events: EventChannels): void {
  for (let i = 0; i < BUCKET_PORTS; i++) events.ports.push(newPort());
}

export const maxPorts = (domain: Domain): number => (domain.events.fifo !== undefined ? FIFO_CHANNELS : twoLevelPorts(domain));
/** The record of a port that exists in the table (free ones too), or undefined. */
export const portOf = (domain: Domain, port: number): EventPort | undefined => domain.events.ports[port];

/** evtchn_usable(): anything that can become pending. */
const usable = (entry: EventPort): boolean => entry.binding.kind !== 'free' && entry.binding.kind !== 'reserved';

/** The lowest free port, now counted as existing, or ENOSPC. get_free_port() and evtchn_allocate_port(). */
export function takeFreePort(hv: Hypervisor, domain: Domain): number | undefined {
  const { events } = domain;
  const limit = Math.min(events.maxPort, maxPorts(domain) - 1);
  for (let port = 0; port <= limit; port++) {
    const entry = events.ports[port];
    if (entry === undefined) {
      addBucket(events);
      return port;
    }
    // A port that still is on a FIFO queue may not be used again.
    if (entry.binding.kind === 'free' && !(events.fifo !== undefined && fifoIsLinked(hv, domain, port))) return port;
  }
  return undefined;
}

/** Gives a taken port its meaning. */
export function bindPort(domain: Domain, port: number, binding: PortBinding, notifyVcpuId = 0): void {
  const entry = domain.events.ports[port] as EventPort;
  entry.binding = binding;
  entry.notifyVcpuId = notifyVcpuId;
  if (domain.events.fifo !== undefined) fifoInitPort(entry);
}

/** evtchn_free(): nothing stays pending for the next user. */
export function freePort(hv: Hypervisor, domain: Domain, port: number): void {
  const entry = domain.events.ports[port] as EventPort;
  if (usable(entry) && hv.eventRules.freeClearsPending) {
    if (domain.events.fifo !== undefined) fifoClearPending(hv, domain, port);
    else assignEventBit(hv, domain, 'evtchn_pending', port, false);
  }
  entry.binding = { kind: 'free' };
  entry.notifyVcpuId = 0;
}

/** vcpu_mark_events_pending(): asks for an upcall and wakes the vCPU, whatever its mask says. */
export function markEventsPending(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.vcpuInfoMaddr === 0 || markUpcallPending(hv, vcpu)) return;
  wakeVcpu(hv, vcpu);
}

/** evtchn_port_set_pending(). */
export function setPending(hv: Hypervisor, domain: Domain, port: number, vcpuId?: number): void {
  const entry = domain.events.ports[port];
  if (entry === undefined || !usable(entry) || domain.life.kind === 'destroyed') return;
  const vcpu = domain.vcpus[vcpuId ?? entry.notifyVcpuId];
  if (vcpu === undefined) return;
  if (domain.events.fifo !== undefined) {
    if (fifoSetPending(hv, vcpu, port, entry)) checkPollers(hv, domain, port);
    return;
  }
  if (assignEventBit(hv, domain, 'evtchn_pending', port, true)) return;
  hv.world.emit(EVENT.evtchnPending, domain.domId, vcpu.vcpuId, [port]);
  if (!testEventBit(hv, domain, 'evtchn_mask', port) && !setPendingSelector(hv, vcpu, port)) markEventsPending(hv, vcpu);
  checkPollers(hv, domain, port);
}

/** evtchn_check_pollers(): a vCPU that polls one port wakes for that port, one that polls several for any. */
export function checkPollers(hv: Hypervisor, domain: Domain, port: number): void {
  for (const vcpu of domain.vcpus) {
    const ports = vcpu.polling?.ports;
    if (ports !== undefined && (ports.length !== 1 || ports[0] === port)) wakeVcpu(hv, vcpu);
  }
}

/** EVTCHNOP_unmask on a port that exists. */
export function unmaskPort(hv: Hypervisor, domain: Domain, port: number): void {
  const entry = domain.events.ports[port] as EventPort;
  const vcpu = domain.vcpus[entry.notifyVcpuId];
  if (!usable(entry) || vcpu === undefined) return;
  if (domain.events.fifo !== undefined) {
    if (fifoUnmask(hv, vcpu, port, entry)) checkPollers(hv, domain, port);
    return;
  }
  if (assignEventBit(hv, domain, 'evtchn_mask', port, false) && testEventBit(hv, domain, 'evtchn_pending', port) && !setPendingSelector(hv, vcpu, port)) {
    markEventsPending(hv, vcpu);
  }
}

/** evtchn_port_poll(): undefined for a port that cannot be polled (EINVAL). */
export function pollPort(hv: Hypervisor, domain: Domain, port: number): boolean | undefined {
  const entry = domain.events.ports[port];
  if (entry === undefined || !usable(entry)) return undefined;
  return domain.events.fifo !== undefined ? fifoIsPending(hv, domain, port) : testEventBit(hv, domain, 'evtchn_pending', port);
}

/** Sends through a port: false if the port is none that one can send through (EINVAL). evtchn_send(). */
export function sendEvent(hv: Hypervisor, domain: Domain, port: number): boolean {
  const binding = domain.events.ports[port]?.binding;
  if (binding === undefined) return false;
  if (binding.kind === 'interdomain') {
    const remote = hv.domain(binding.remoteDomId);
    if (remote !== undefined) setPending(hv, remote, binding.remotePort);
    return true;
  }
  if (binding.kind === 'backend') {
    hv.world.notifyBackend(domain.domId, port);
    return true;
  }
  if (binding.kind === 'ipi') {
    setPending(hv, domain, port);
    return true;
  }
  return binding.kind === 'unbound';
}

/** The port that the vCPU bound to a VIRQ, 0 = none. */
export const virqPort = (domain: Domain, vcpuId: number, virq: number): number => domain.events.virqPorts[vcpuId]?.[virq] ?? 0;
export function setVirqPort(domain: Domain, vcpuId: number, virq: number, port: number): void {
  const { virqPorts } = domain.events;
  while (virqPorts.length <= vcpuId) virqPorts.push(new Array<number>(NR_VIRQS).fill(0));
  (virqPorts[vcpuId] as number[])[virq] = port;
}

/** A per-vCPU virtual interrupt (VIRQ.TIMER, ...); lost when nobody bound it. */
export function raiseVirq(hv: Hypervisor, vcpu: Vcpu, virq: number): void {
  const port = virqPort(vcpu.domain, vcpu.vcpuId, virq);
  if (port !== 0) setPending(hv, vcpu.domain, port, vcpu.vcpuId);
}

// ---- for the domain builder and the back ends of dom0 ---------------------------------------

/** A new unbound port that `remoteDomId` may bind: store and console, before the guest runs. undefined: no port left. */
export function allocUnboundPort(hv: Hypervisor, domain: Domain, remoteDomId: number): number | undefined {
  const port = takeFreePort(hv, domain);
  if (port !== undefined) bindPort(domain, port, { kind: 'unbound', remoteDomId });
  return port;
}

/**
 * A simulated back end of dom0 (domain 0) takes the other end of a guest's unbound port, as its
 * bind_interdomain would. False: the port is not unbound for that domain. `remotePort` is what the
 * guest sees in EVTCHNOP_status.
 */
export function connectBackend(hv: Hypervisor, domId: number, port: number, remotePort = port): boolean {
  const entry = hv.domain(domId)?.events.ports[port];
  if (entry === undefined || entry.binding.kind !== 'unbound' || entry.binding.remoteDomId !== 0) return false;
  entry.binding = { kind: 'backend', remoteDomId: 0, remotePort };
  return true;
}

const isBoundTo = (binding: PortBinding | undefined, remotePort: number): boolean => binding?.kind === 'backend' && binding.remotePort === remotePort;

/** The back end closes its end: the guest's port is unbound again, unless the guest has put it to another use. */
export function disconnectBackend(hv: Hypervisor, domId: number, port: number, remotePort = port): void {
  const entry = hv.domain(domId)?.events.ports[port];
  if (entry !== undefined && isBoundTo(entry.binding, remotePort)) entry.binding = { kind: 'unbound', remoteDomId: 0 };
}

/** The back end sends to the guest through a connected port; ignored when the guest has closed it. */
export function notifyFromBackend(hv: Hypervisor, domId: number, port: number, remotePort = port): void {
  const domain = hv.domain(domId);
  if (domain !== undefined && isBoundTo(domain.events.ports[port]?.binding, remotePort)) setPending(hv, domain, port);
}
