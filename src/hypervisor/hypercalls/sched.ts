// HYPERVISOR_sched_op (both generations) and set_timer_op: yield, block, poll, shut down.
// Source: do_sched_op() and do_set_timer_op() in xen/common/sched/core.c.
import { ERRNO } from '../../abi/errno.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import { layout, type Field, type Layout } from '../../base/layout.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Vcpu } from '../domain.ts';
import { pollPort } from '../event-channels.ts';
import { domainById } from '../foreign-domain.ts';
import { readStruct } from '../guest-struct.ts';
import { done, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { setUpcallMask, upcallMask, upcallPending } from '../shared-info.ts';
import { HUGE_TIMEOUT_NS, MILLISECOND_NS, setVcpuTimer, setWatchdog } from '../time.ts';
import { blockVcpu, shutdownDomain, yieldVcpu } from '../vcpu-state.ts';

const source = 'xen/include/public/sched.h';
const SHUTDOWN_ARG = layout({ sizeBytes: 4, source, fields: { reason: { at: 0, type: 'u32' } } });
/** The ports handle is a guest word: 4 bytes, or 8. */
type PollFields = { ports: Field; nr_ports: Field; timeout: Field };
const POLL_32: Layout<PollFields> = layout({ sizeBytes: 16, source, fields: { ports: { at: 0, type: 'u32' }, nr_ports: { at: 4, type: 'u32' }, timeout: { at: 8, type: 'u64' } } });
const POLL_64: Layout<PollFields> = layout({ sizeBytes: 24, source, fields: { ports: { at: 0, type: 'u64' }, nr_ports: { at: 8, type: 'u32' }, timeout: { at: 16, type: 'u64' } } });
const REMOTE_SHUTDOWN = layout({ sizeBytes: 8, source, fields: { domain_id: { at: 0, type: 'u16' }, reason: { at: 4, type: 'u32' } } });
const WATCHDOG = layout({ sizeBytes: 8, source, fields: { id: { at: 0, type: 'u32' }, timeout: { at: 4, type: 'u32' } } });

export const SCHEDOP = { yield: 0, block: 1, shutdown: 2, poll: 3, remote_shutdown: 4, shutdown_code: 5, watchdog: 6, pin_override: 7 } as const;
/** "Fairly arbitrary limit" of do_poll(). */
const MAX_POLL_PORTS = 128;
const SECOND_NS = 1e9;

const EFAULT = done(-ERRNO.EFAULT);
type Handler = (hv: Hypervisor, vcpu: Vcpu, vaddr: number) => HypercallOutcome;

/** Is an upcall due at once? local_events_need_delivery(). */
const eventsNeedDelivery = (hv: Hypervisor, vcpu: Vcpu): boolean => upcallPending(hv, vcpu) && upcallMask(hv, vcpu) === 0;

const yieldOp: Handler = (hv, vcpu) => {
  yieldVcpu(hv, vcpu);
  return done(0);
};

/** Enables events and waits, unless one is pending already: no wake-up is lost in between. */
const block: Handler = (hv, vcpu) => {
  setUpcallMask(hv, vcpu, 0);
  if (!eventsNeedDelivery(hv, vcpu)) blockVcpu(hv, vcpu, undefined);
  return done(0);
};

const shutdown: Handler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, SHUTDOWN_ARG);
  if (arg === undefined) return EFAULT;
  shutdownDomain(hv, vcpu.domain, arg.values.reason & 0xff);
  return done(0);
};

const shutdownCode: Handler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, SHUTDOWN_ARG);
  if (arg === undefined) return EFAULT;
  vcpu.domain.shutdownCode ??= arg.values.reason & 0xff;
  return done(0);
};

const poll: Handler = (hv, vcpu, vaddr) => {
  const wide = vcpu.domain.abi.wordBits === 64;
  const bytes = readStruct(hv, vcpu, vaddr, wide ? POLL_64 : POLL_32);
  if (bytes === undefined) return EFAULT;
  const { nr_ports: count, timeout } = bytes.values;
  if (count > MAX_POLL_PORTS) return done(-ERRNO.EINVAL);
  const portsVaddr = hv.access.readWord(vcpu, vaddr);
  if (portsVaddr === undefined) return EFAULT;
  if (eventsNeedDelivery(hv, vcpu)) return done(0);
  const ports: number[] = [];
  for (let index = 0; index < count; index++) {
    const port = hv.access.readU32(vcpu, portsVaddr + index * 4);
    if (port === undefined) return EFAULT;
    const pending = pollPort(hv, vcpu.domain, port);
    if (pending === undefined) return done(-ERRNO.EINVAL);
    if (pending) return done(0);
    ports.push(port);
  }
  blockVcpu(hv, vcpu, ports);
  if (timeout !== 0) setVcpuTimer(hv, vcpu, 'poll', timeout);
  return done(0);
};

/** Only somebody who controls the other domain may; a domU controls nobody. */
const remoteShutdown: Handler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, REMOTE_SHUTDOWN);
  if (arg === undefined) return EFAULT;
  const target = domainById(hv, arg.values.domain_id);
  if (target === undefined) return done(-ERRNO.ESRCH);
  if (!vcpu.domain.privileged) return done(-ERRNO.EPERM);
  shutdownDomain(hv, target, arg.values.reason & 0xff);
  return done(0);
};

/** domain_watchdog(): id 0 takes a free timer and returns its id; timeout 0 gives one back. */
const watchdog: Handler = (hv, vcpu, vaddr) => {
  const arg = readStruct(hv, vcpu, vaddr, WATCHDOG);
  if (arg === undefined) return EFAULT;
  const { id, timeout } = arg.values;
  const { watchdogs } = vcpu.domain;
  if (id > watchdogs.length) return done(-ERRNO.EINVAL);
  const deadline = hv.world.nowNs() + timeout * SECOND_NS;
  if (id === 0) {
    const free = watchdogs.indexOf(undefined);
    if (free < 0) return done(-ERRNO.ENOSPC);
    setWatchdog(hv, vcpu.domain, free + 1, deadline);
    return done(free + 1);
  }
  if (watchdogs[id - 1] === undefined) return done(-ERRNO.EINVAL);
  setWatchdog(hv, vcpu.domain, id, timeout === 0 ? undefined : deadline);
  return done(0);
};

const HANDLERS: Readonly<Record<number, Handler>> = {
  [SCHEDOP.yield]: yieldOp, [SCHEDOP.block]: block, [SCHEDOP.shutdown]: shutdown, [SCHEDOP.poll]: poll, [SCHEDOP.remote_shutdown]: remoteShutdown,
  [SCHEDOP.shutdown_code]: shutdownCode, [SCHEDOP.watchdog]: watchdog,
  // Hardware domain only.
  [SCHEDOP.pin_override]: () => done(-ERRNO.EPERM),
};

function schedOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const handler = HANDLERS[args.u32(0)];
  return handler === undefined ? done(-ERRNO.ENOSYS) : handler(hv, vcpu, args.addr(1));
}

/** do_sched_op_compat(): the shutdown reason is the argument itself. */
function schedOpCompat(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const command = args.u32(0);
  if (command === SCHEDOP.yield) return yieldOp(hv, vcpu, 0);
  if (command === SCHEDOP.block) return block(hv, vcpu, 0);
  if (command !== SCHEDOP.shutdown) return done(-ERRNO.ENOSYS);
  shutdownDomain(hv, vcpu.domain, args.u32(1) & 0xff);
  return done(0);
}

/** Timeouts that look like a wrapped clock fire in 100 ms instead: a work-around for Linux that Xen keeps. */
const WRAPPED_TIMEOUT_NS = 100 * MILLISECOND_NS;

/** One-shot timer: 32-bit guests pass the deadline in two registers, low half first. */
function setTimerOp(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const wide = vcpu.domain.abi.wordBits === 64;
  const lo = args.lo[0] as number;
  const hi = (wide ? args.hi[0] : args.lo[1]) as number;
  const nowNs = hv.world.nowNs();
  if (lo === 0 && hi === 0) setVcpuTimer(hv, vcpu, 'singleshot', undefined);
  else {
    const deadline = (hi | 0) * 0x1_0000_0000 + lo;
    const wrapped = deadline < 0 || deadline - nowNs >= HUGE_TIMEOUT_NS;
    setVcpuTimer(hv, vcpu, 'singleshot', wrapped ? nowNs + WRAPPED_TIMEOUT_NS : deadline);
  }
  return done(0);
}

const COMMANDS = Object.fromEntries(Object.entries(SCHEDOP).map(([name, nr]) => [nr, name]));
export const SCHED_ROWS: HypercallRows = {
  [HYPERCALL.sched_op]: { name: 'sched_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'handle' }], commands: COMMANDS, handle: schedOp },
  [HYPERCALL.sched_op_compat]: { name: 'sched_op_compat', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'arg', kind: 'u32' }], commands: COMMANDS, handle: schedOpCompat },
  [HYPERCALL.set_timer_op]: { name: 'set_timer_op', args: [{ name: 'timeout', kind: 'u64' }], handle: setTimerOp },
};
