// HYPERVISOR_event_channel_op: bind, send, close, status and the switch to the FIFO ABI. One row per
// command; each returns a number for the guest's accumulator.
// Source: do_event_channel_op() in xen/common/event_channel.c, xen/include/public/event_channel.h.
import { ERRNO, type ErrnoName } from '../../abi/errno.ts';
import { BIND_HOW, EVENT, valueIndex } from '../../abi/events.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import { layout, type Layout, type Field } from '../../base/layout.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Domain, Vcpu } from '../domain.ts';
import {
  bindPort, freePort, NR_VIRQS, portOf, sendEvent, setPending, setVirqPort, takeFreePort, unmaskPort, virqKind, virqPort, type EventPort, type PortBinding,
} from '../event-channels.ts';
import { FIFO_LINK_BITS, FIFO_MIN_PRIORITY, fifoDestroy, fifoExpandArray, fifoInitControl } from '../event-channels-fifo.ts';
import { domainByAnyId } from '../foreign-domain.ts';
import { readStruct, writeStruct, type StructValues } from '../guest-struct.ts';
import { done, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';

const source = 'xen/include/public/event_channel.h';
const ALLOC_UNBOUND = layout({ sizeBytes: 8, source, fields: { dom: { at: 0, type: 'u16' }, remote_dom: { at: 2, type: 'u16' }, port: { at: 4, type: 'u32' } } });
const BIND_INTERDOMAIN = layout({ sizeBytes: 12, source, fields: { remote_dom: { at: 0, type: 'u16' }, remote_port: { at: 4, type: 'u32' }, local_port: { at: 8, type: 'u32' } } });
const BIND_VIRQ = layout({ sizeBytes: 12, source, fields: { virq: { at: 0, type: 'u32' }, vcpu: { at: 4, type: 'u32' }, port: { at: 8, type: 'u32' } } });
const BIND_PIRQ = layout({ sizeBytes: 12, source, fields: { pirq: { at: 0, type: 'u32' }, flags: { at: 4, type: 'u32' }, port: { at: 8, type: 'u32' } } });
const BIND_IPI = layout({ sizeBytes: 8, source, fields: { vcpu: { at: 0, type: 'u32' }, port: { at: 4, type: 'u32' } } });
const PORT_ONLY = layout({ sizeBytes: 4, source, fields: { port: { at: 0, type: 'u32' } } });
const STATUS = layout({ sizeBytes: 24, source, fields: { dom: { at: 0, type: 'u16' }, port: { at: 4, type: 'u32' }, status: { at: 8, type: 'u32' }, vcpu: { at: 12, type: 'u32' }, u0: { at: 16, type: 'u32' }, u1: { at: 20, type: 'u32' } } });
const BIND_VCPU = layout({ sizeBytes: 8, source, fields: { port: { at: 0, type: 'u32' }, vcpu: { at: 4, type: 'u32' } } });
const RESET = layout({ sizeBytes: 2, source, fields: { dom: { at: 0, type: 'u16' } } });
const INIT_CONTROL = layout({ sizeBytes: 24, source, fields: { control_gfn: { at: 0, type: 'u64' }, offset: { at: 8, type: 'u32' }, vcpu: { at: 12, type: 'u32' }, link_bits: { at: 16, type: 'u8' } } });
const EXPAND_ARRAY = layout({ sizeBytes: 8, source, fields: { array_gfn: { at: 0, type: 'u64' } } });
const SET_PRIORITY = layout({ sizeBytes: 8, source, fields: { port: { at: 0, type: 'u32' }, priority: { at: 4, type: 'u32' } } });

export const EVTCHNOP = {
  bind_interdomain: 0, bind_virq: 1, bind_pirq: 2, close: 3, send: 4, status: 5, alloc_unbound: 6, bind_ipi: 7, bind_vcpu: 8, unmask: 9, reset: 10,
  init_control: 11, expand_array: 12, set_priority: 13, reset_cont: 14,
} as const;
/** EVTCHNSTAT_* by binding. */
const STATUS_CODE: Readonly<Record<PortBinding['kind'], number>> = { free: 0, reserved: 0, unbound: 1, interdomain: 2, backend: 2, virq: 4, ipi: 5 };
/** Interrupt lines a domU is told of: 24 of the I/O APIC and 32 more; none of them may it use. */
const NR_PIRQS = 56;

/** A refusal, or the fields that change in the guest's structure (none: nothing is copied back). */
type Answer<F extends Record<string, Field>> = ErrnoName | Partial<StructValues<F>> | undefined;
interface OpRow {
  readonly layout: Layout<Record<string, Field>>;
  readonly run: (hv: Hypervisor, vcpu: Vcpu, values: StructValues<Record<string, Field>>) => Answer<Record<string, Field>>;
}
function op<F extends Record<string, Field>>(table: Layout<F>, run: (hv: Hypervisor, vcpu: Vcpu, values: StructValues<F>) => Answer<F>): OpRow {
  return { layout: table, run } as unknown as OpRow;
}

/** XSM_TARGET: only the domain itself (or one that controls it) may. */
const mayTarget = (current: Domain, target: Domain): boolean => current === target || current.privileged;

/** Logs a binding; missing facts are 0. */
function noteBind(hv: Hypervisor, vcpu: Vcpu, how: (typeof BIND_HOW)[number], port: number, more: { remoteDomId?: number; remotePort?: number; virq?: number } = {}): void {
  hv.world.emit(EVENT.evtchnBind, vcpu.domain.domId, vcpu.vcpuId, [valueIndex(BIND_HOW, how), port, more.remoteDomId ?? 0, more.remotePort ?? 0, more.virq ?? 0, 0]);
}

/** A port was taken and cannot be bound after all: it stays free (check_free_port). */
function giveUpPort(hv: Hypervisor, domain: Domain, port: number, errno: ErrnoName): ErrnoName {
  if (!hv.eventRules.failedBindFreesPort) bindPort(domain, port, { kind: 'reserved' });
  return errno;
}

function allocUnbound(hv: Hypervisor, vcpu: Vcpu, { dom, remote_dom }: { dom: number; remote_dom: number }): Answer<typeof ALLOC_UNBOUND.fields> {
  const domain = domainByAnyId(hv, vcpu.domain, dom);
  if (domain === undefined) return 'ESRCH';
  const port = takeFreePort(hv, domain);
  if (port === undefined) return 'ENOSPC';
  if (!mayTarget(vcpu.domain, domain)) return giveUpPort(hv, domain, port, 'EPERM');
  const remoteDomId = remote_dom === 0x7ff0 ? vcpu.domain.domId : remote_dom;
  bindPort(domain, port, { kind: 'unbound', remoteDomId });
  noteBind(hv, vcpu, 'unbound', port, { remoteDomId });
  return { port };
}

function bindInterdomain(hv: Hypervisor, vcpu: Vcpu, { remote_dom, remote_port }: { remote_dom: number; remote_port: number }): Answer<typeof BIND_INTERDOMAIN.fields> {
  const local = vcpu.domain;
  const remote = domainByAnyId(hv, local, remote_dom);
  if (remote === undefined) return 'ESRCH';
  const port = takeFreePort(hv, local);
  if (port === undefined) return 'ENOSPC';
  const far = portOf(remote, remote_port);
  const waitsForUs = far?.binding.kind === 'unbound' && (far.binding.remoteDomId === local.domId || !hv.eventRules.bindNeedsPermission);
  if (far === undefined || !waitsForUs) return giveUpPort(hv, local, port, 'EINVAL');
  bindPort(local, port, { kind: 'interdomain', remoteDomId: remote.domId, remotePort: remote_port });
  far.binding = { kind: 'interdomain', remoteDomId: local.domId, remotePort: port };
  noteBind(hv, vcpu, 'interdomain', port, { remoteDomId: remote.domId, remotePort: remote_port });
  // Events sent before the binding were dropped: one is made up for them.
  setPending(hv, local, port);
  return { local_port: port };
}

function bindVirq(hv: Hypervisor, vcpu: Vcpu, { virq, vcpu: vcpuId }: { virq: number; vcpu: number }): Answer<typeof BIND_VIRQ.fields> {
  const { domain } = vcpu;
  if (virq >= NR_VIRQS) return 'EINVAL';
  const kind = virqKind(virq);
  if (kind !== 'vcpu' && vcpuId !== 0) return 'EINVAL';
  if (domain.vcpus[vcpuId] === undefined) return 'ENOENT';
  // Machine-wide interrupts go to the hardware domain alone.
  if (kind === 'global') return 'EBUSY';
  if (virqPort(domain, vcpuId, virq) !== 0) return 'EEXIST';
  const port = takeFreePort(hv, domain);
  if (port === undefined) return 'ENOSPC';
  bindPort(domain, port, { kind: 'virq', virq }, vcpuId);
  setVirqPort(domain, vcpuId, virq, port);
  noteBind(hv, vcpu, 'virq', port, { virq });
  return { port };
}

function bindIpi(hv: Hypervisor, vcpu: Vcpu, { vcpu: vcpuId }: { vcpu: number }): Answer<typeof BIND_IPI.fields> {
  const { domain } = vcpu;
  if (domain.vcpus[vcpuId] === undefined) return 'ENOENT';
  const port = takeFreePort(hv, domain);
  if (port === undefined) return 'ENOSPC';
  bindPort(domain, port, { kind: 'ipi' }, vcpuId);
  noteBind(hv, vcpu, 'ipi', port);
  return { port };
}

/** evtchn_close(): false if there is nothing to close (EINVAL). */
export function closePort(hv: Hypervisor, domain: Domain, port: number): boolean {
  const entry = portOf(domain, port);
  if (entry === undefined) return false;
  const { binding } = entry;
  if (binding.kind === 'free' || binding.kind === 'reserved') return false;
  if (binding.kind === 'virq') {
    const vcpuId = virqKind(binding.virq) === 'vcpu' ? entry.notifyVcpuId : 0;
    setVirqPort(domain, vcpuId, binding.virq, 0);
  }
  freePort(hv, domain, port);
  if (binding.kind === 'interdomain') {
    const far = hv.domain(binding.remoteDomId);
    const farEntry = far === undefined ? undefined : portOf(far, binding.remotePort);
    // The other end goes back to waiting for this domain. A port bound to itself is simply free.
    if (farEntry !== undefined && farEntry !== entry && hv.eventRules.closeUnbindsPeer) farEntry.binding = { kind: 'unbound', remoteDomId: domain.domId };
  }
  return true;
}

function close(hv: Hypervisor, vcpu: Vcpu, { port }: { port: number }): Answer<typeof PORT_ONLY.fields> {
  const closed = closePort(hv, vcpu.domain, port);
  hv.world.emit(EVENT.evtchnClose, vcpu.domain.domId, vcpu.vcpuId, [port, closed ? 0 : -ERRNO.EINVAL]);
  return closed ? undefined : 'EINVAL';
}

function send(hv: Hypervisor, vcpu: Vcpu, { port }: { port: number }): Answer<typeof PORT_ONLY.fields> {
  const binding = portOf(vcpu.domain, port)?.binding;
  const far = binding !== undefined && 'remotePort' in binding ? binding : undefined;
  const sent = sendEvent(hv, vcpu.domain, port);
  hv.world.emit(EVENT.evtchnSend, vcpu.domain.domId, vcpu.vcpuId, [port, far?.remoteDomId ?? 0, far?.remotePort ?? 0, sent ? 0 : -ERRNO.EINVAL]);
  return sent ? undefined : 'EINVAL';
}

function status(hv: Hypervisor, vcpu: Vcpu, { dom, port }: { dom: number; port: number }): Answer<typeof STATUS.fields> {
  const domain = domainByAnyId(hv, vcpu.domain, dom);
  if (domain === undefined) return 'ESRCH';
  const entry = portOf(domain, port);
  if (entry === undefined) return 'EINVAL';
  if (!mayTarget(vcpu.domain, domain)) return 'EPERM';
  return { status: STATUS_CODE[entry.binding.kind], vcpu: entry.notifyVcpuId, ...statusDetails(entry) };
}
function statusDetails({ binding }: EventPort): { u0?: number; u1?: number } {
  switch (binding.kind) {
    case 'unbound': return { u0: binding.remoteDomId };
    case 'interdomain':
    case 'backend': return { u0: binding.remoteDomId, u1: binding.remotePort };
    case 'virq': return { u0: binding.virq };
    default: return {};
  }
}

function bindVcpu(hv: Hypervisor, vcpu: Vcpu, { port, vcpu: vcpuId }: { port: number; vcpu: number }): Answer<typeof BIND_VCPU.fields> {
  const refusal = tryBindVcpu(vcpu.domain, port, vcpuId);
  hv.world.emit(EVENT.evtchnBindVcpu, vcpu.domain.domId, vcpu.vcpuId, [port, vcpuId, refusal === undefined ? 0 : -ERRNO[refusal]]);
  return refusal;
}
function tryBindVcpu(domain: Domain, port: number, vcpuId: number): ErrnoName | undefined {
  if (domain.vcpus[vcpuId] === undefined) return 'ENOENT';
  const entry = portOf(domain, port);
  if (entry === undefined) return 'EINVAL';
  const { kind } = entry.binding;
  const movable = kind === 'unbound' || kind === 'interdomain' || kind === 'backend' || (entry.binding.kind === 'virq' && virqKind(entry.binding.virq) !== 'vcpu');
  if (!movable) return 'EINVAL';
  entry.notifyVcpuId = vcpuId;
  return undefined;
}

function unmask(hv: Hypervisor, vcpu: Vcpu, { port }: { port: number }): Answer<typeof PORT_ONLY.fields> {
  const exists = portOf(vcpu.domain, port) !== undefined;
  if (exists) unmaskPort(hv, vcpu.domain, port);
  hv.world.emit(EVENT.evtchnUnmask, vcpu.domain.domId, vcpu.vcpuId, [port, exists ? 0 : -ERRNO.EINVAL]);
  return exists ? undefined : 'EINVAL';
}

/** evtchn_reset(): closes every port and goes back to the two-level ABI. Never long enough here to be preempted. */
export function resetEventChannels(hv: Hypervisor, domain: Domain): void {
  for (let port = 1; port < domain.events.ports.length; port++) closePort(hv, domain, port);
  fifoDestroy(hv, domain);
  domain.events.nextReset = 0;
}
/** `resuming` goes on with a reset that was interrupted; none ever is. */
const reset = (resuming: boolean) => (hv: Hypervisor, vcpu: Vcpu, { dom }: { dom: number }): Answer<typeof RESET.fields> => {
  const domain = domainByAnyId(hv, vcpu.domain, dom);
  if (domain === undefined) return 'ESRCH';
  if (!mayTarget(vcpu.domain, domain)) return 'EPERM';
  if (domain !== vcpu.domain && !domain.paused) return 'EINVAL';
  if (resuming) return 'EBUSY';
  resetEventChannels(hv, domain);
  return undefined;
};

function initControl(hv: Hypervisor, vcpu: Vcpu, values: StructValues<typeof INIT_CONTROL.fields>): Answer<typeof INIT_CONTROL.fields> {
  const target = vcpu.domain.vcpus[values.vcpu];
  if (target === undefined) return 'ENOENT';
  return fifoInitControl(hv, target, values.control_gfn, values.offset) ?? { link_bits: FIFO_LINK_BITS };
}

function setPriority(_hv: Hypervisor, vcpu: Vcpu, { port, priority }: { port: number; priority: number }): Answer<typeof SET_PRIORITY.fields> {
  const entry = portOf(vcpu.domain, port);
  if (entry === undefined) return 'EINVAL';
  if (vcpu.domain.events.fifo === undefined) return 'ENOSYS';
  if (entry.binding.kind === 'free' || entry.binding.kind === 'reserved') return 'EACCES';
  if (priority > FIFO_MIN_PRIORITY) return 'EINVAL';
  entry.priority = priority;
  return undefined;
}

const OPS: Readonly<Record<number, OpRow>> = {
  [EVTCHNOP.bind_interdomain]: op(BIND_INTERDOMAIN, bindInterdomain),
  [EVTCHNOP.bind_virq]: op(BIND_VIRQ, bindVirq),
  [EVTCHNOP.bind_pirq]: op(BIND_PIRQ, (_hv, _vcpu, { pirq }) => (pirq >= NR_PIRQS ? 'EINVAL' : 'EPERM')),
  [EVTCHNOP.close]: op(PORT_ONLY, close),
  [EVTCHNOP.send]: op(PORT_ONLY, send),
  [EVTCHNOP.status]: op(STATUS, status),
  [EVTCHNOP.alloc_unbound]: op(ALLOC_UNBOUND, allocUnbound),
  [EVTCHNOP.bind_ipi]: op(BIND_IPI, bindIpi),
  [EVTCHNOP.bind_vcpu]: op(BIND_VCPU, bindVcpu),
  [EVTCHNOP.unmask]: op(PORT_ONLY, unmask),
  [EVTCHNOP.reset]: op(RESET, reset(false)),
  [EVTCHNOP.init_control]: op(INIT_CONTROL, initControl),
  [EVTCHNOP.expand_array]: op(EXPAND_ARRAY, (hv, vcpu, { array_gfn }) => fifoExpandArray(hv, vcpu.domain, array_gfn)),
  [EVTCHNOP.set_priority]: op(SET_PRIORITY, setPriority),
  [EVTCHNOP.reset_cont]: op(RESET, reset(true)),
};
/** The commands of the old form, EVTCHNOP_* in struct evtchn_op. */
const LAST_COMPAT_OP = EVTCHNOP.unmask;
const COMPAT_ARG_AT = 4;

function eventChannelOp(hv: Hypervisor, vcpu: Vcpu, command: number, vaddr: number): HypercallOutcome {
  const row = OPS[command];
  if (row === undefined) return done(-ERRNO.ENOSYS);
  const struct = readStruct(hv, vcpu, vaddr, row.layout);
  if (struct === undefined) return done(-ERRNO.EFAULT);
  const answer = row.run(hv, vcpu, struct.values);
  if (typeof answer === 'string') return done(-ERRNO[answer]);
  // Xen does not undo what was done when the answer cannot be copied out.
  return done(answer === undefined || writeStruct(hv, vcpu, struct, answer) ? 0 : -ERRNO.EFAULT);
}

const COMMANDS = Object.fromEntries(Object.entries(EVTCHNOP).map(([name, nr]) => [nr, name]));
export const EVENT_CHANNEL_ROWS: HypercallRows = {
  [HYPERCALL.event_channel_op]: {
    name: 'event_channel_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }], commands: COMMANDS,
    handle: (hv, vcpu, args) => eventChannelOp(hv, vcpu, args.u32(0), args.addr(1)),
  },
  [HYPERCALL.event_channel_op_compat]: {
    name: 'event_channel_op_compat', args: [{ name: 'uop', kind: 'handle' }],
    handle: (hv, vcpu, args) => {
      const command = hv.access.readU32(vcpu, args.addr(0));
      // The structure is copied whole first: 24 bytes of union follow the command.
      if (command === undefined || hv.access.copyFromGuest(vcpu, args.addr(0), COMPAT_ARG_AT + STATUS.sizeBytes) === undefined) return done(-ERRNO.EFAULT);
      return command > LAST_COMPAT_OP ? done(-ERRNO.ENOSYS) : eventChannelOp(hv, vcpu, command, args.addr(0) + COMPAT_ARG_AT);
    },
  },
};
