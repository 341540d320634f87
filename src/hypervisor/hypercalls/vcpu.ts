// HYPERVISOR_vcpu_op: bring vCPUs up and down, register the areas that Xen writes, set timers.
// Source: do_vcpu_op() in xen/arch/x86/domain.c, common_vcpu_op() in xen/common/domain.c.
// Not here: register_{runstate,vcpu_time}_phys_area (-ENOSYS in Xen too); VCPUOP_initialise of a second
// vCPU, which needs a processor from the world (-ENOSYS).
import { ERRNO } from '../../abi/errno.ts';
import { HYPERCALL } from '../../abi/hypercall-numbers.ts';
import { layout } from '../../base/layout.ts';
import type { HypercallRows } from '../dispatch.ts';
import type { Vcpu } from '../domain.ts';
import { markEventsPending, raiseVirq, VIRQ } from '../event-channels.ts';
import { holdWritableFrame } from '../frame-hold.ts';
import { guestRangeOk } from '../guest-access.ts';
import { readStruct } from '../guest-struct.ts';
import { done, type HypercallArgs, type HypercallOutcome } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { fillPendingSelector } from '../shared-info.ts';
import { MILLISECOND_NS, runstateBytes, setPeriodicTimer, setVcpuTimer, updateRunstateArea, updateTimeRecord } from '../time.ts';
import { setVcpuOnline, shutdownDomain, SHUTDOWN, wakeVcpu } from '../vcpu-state.ts';

const source = 'xen/include/public/vcpu.h';
const PERIODIC = layout({ sizeBytes: 8, source, fields: { period_ns: { at: 0, type: 'u64' } } });
const SINGLESHOT_64 = layout({ sizeBytes: 16, source, fields: { timeout_abs_ns: { at: 0, type: 'u64' }, flags: { at: 8, type: 'u32' } } });
/** i386 aligns a u64 to 4 bytes: no padding at the end. */
const SINGLESHOT_32 = layout({ sizeBytes: 12, source, fields: { timeout_abs_ns: { at: 0, type: 'u64' }, flags: { at: 8, type: 'u32' } } });
const VCPU_INFO_ARG = layout({ sizeBytes: 16, source, fields: { mfn: { at: 0, type: 'u64' }, offset: { at: 8, type: 'u32' } } });

export const VCPUOP = {
  initialise: 0, up: 1, down: 2, is_up: 3, get_runstate_info: 4, register_runstate_memory_area: 5, set_periodic_timer: 6, stop_periodic_timer: 7,
  set_singleshot_timer: 8, stop_singleshot_timer: 9, register_vcpu_info: 10, send_nmi: 11, get_physid: 12, register_vcpu_time_memory_area: 13,
} as const;
/** STIME_DELTA_MAX: a period of more than this is refused. */
const STIME_DELTA_MAX_NS = 2 ** 62;
const VCPU_INFO_BYTES = 64;
const RUNSTATE_BYTES = { 32: 44, 64: 48 } as const;
const TIME_BYTES = 32;

/** `current` makes the call, `vcpu` is the one named in it. */
type Handler = (hv: Hypervisor, current: Vcpu, vcpu: Vcpu, vaddr: number) => HypercallOutcome;
const EFAULT = done(-ERRNO.EFAULT);
const OK = done(0);

/** struct vcpu_guest_context: read whole before anything is decided. */
const CONTEXT_BYTES = { 32: 2800, 64: 5168 } as const;
const initialise: Handler = (hv, current, vcpu, vaddr) => {
  if (hv.access.copyFromGuest(current, vaddr, CONTEXT_BYTES[current.domain.abi.wordBits]) === undefined) return EFAULT;
  return done(vcpu.initialised ? -ERRNO.EEXIST : -ERRNO.ENOSYS);
};

const up: Handler = (hv, _current, vcpu) => {
  if (!vcpu.initialised) return done(-ERRNO.EINVAL);
  setVcpuOnline(hv, vcpu, true);
  return OK;
};

/** The last vCPU to go down takes the domain with it. */
const down: Handler = (hv, _current, vcpu) => {
  const others = vcpu.domain.vcpus.some((other) => other !== vcpu && other.online);
  if (!others) shutdownDomain(hv, vcpu.domain, SHUTDOWN.poweroff, 'its last vCPU went down');
  else setVcpuOnline(hv, vcpu, false);
  return OK;
};

const getRunstate: Handler = (hv, current, vcpu, vaddr) => (hv.access.copyToGuest(current, vaddr, runstateBytes(vcpu, hv.world.nowNs())) ? OK : EFAULT);

/** Both "memory area" calls: the handle's own address is stored, not a frame. */
function registerArea(hv: Hypervisor, current: Vcpu, vaddr: number, sizeBytes: number): number | undefined {
  const area = hv.access.readWord(current, vaddr);
  return area === undefined || !guestRangeOk(current.domain.abi, area, sizeBytes) ? undefined : area;
}
const registerRunstate: Handler = (hv, current, vcpu, vaddr) => {
  const area = registerArea(hv, current, vaddr, RUNSTATE_BYTES[current.domain.abi.wordBits]);
  if (area === undefined) return EFAULT;
  vcpu.runstateVaddr = area;
  updateRunstateArea(hv, vcpu);
  return OK;
};
const registerTime: Handler = (hv, current, vcpu, vaddr) => {
  const area = registerArea(hv, current, vaddr, TIME_BYTES);
  if (area === undefined) return EFAULT;
  vcpu.timeVaddr = area;
  updateTimeRecord(hv, vcpu);
  return OK;
};

const setPeriodic: Handler = (hv, current, vcpu, vaddr) => {
  const arg = readStruct(hv, current, vaddr, PERIODIC);
  if (arg === undefined) return EFAULT;
  const { period_ns: periodNs } = arg.values;
  if (periodNs < MILLISECOND_NS || periodNs > STIME_DELTA_MAX_NS) return done(-ERRNO.EINVAL);
  setPeriodicTimer(hv, vcpu, periodNs);
  return OK;
};
const stopPeriodic: Handler = (hv, _current, vcpu) => {
  setPeriodicTimer(hv, vcpu, 0);
  return OK;
};

/** A deadline in the past raises the timer's interrupt at once. */
const setSingleshot: Handler = (hv, current, vcpu, vaddr) => {
  if (vcpu !== current) return done(-ERRNO.EINVAL);
  const arg = readStruct(hv, current, vaddr, current.domain.abi.wordBits === 64 ? SINGLESHOT_64 : SINGLESHOT_32);
  if (arg === undefined) return EFAULT;
  const deadlineNs = arg.values.timeout_abs_ns;
  if (deadlineNs < hv.world.nowNs()) {
    setVcpuTimer(hv, vcpu, 'singleshot', undefined);
    raiseVirq(hv, vcpu, VIRQ.TIMER);
  } else setVcpuTimer(hv, vcpu, 'singleshot', deadlineNs);
  return OK;
};
const stopSingleshot: Handler = (hv, current, vcpu) => {
  if (vcpu !== current) return done(-ERRNO.EINVAL);
  setVcpuTimer(hv, vcpu, 'singleshot', undefined);
  return OK;
};

/** Moves vcpu_info out of the shared page, once; everything is marked pending so that nothing is lost. */
const registerVcpuInfo: Handler = (hv, current, vcpu, vaddr) => {
  const arg = readStruct(hv, current, vaddr, VCPU_INFO_ARG);
  if (arg === undefined) return EFAULT;
  const { mfn, offset } = arg.values;
  if (mfn >= 2 ** 52) return done(-ERRNO.EINVAL);
  if (vcpu.vcpuInfoMfn !== 0) return done(-ERRNO.EBUSY);
  const maddr = mfn * 4096 + offset;
  const frame = Math.floor(maddr / 4096);
  if (frame !== mfn) return done(-ERRNO.EINVAL);
  if (offset + VCPU_INFO_BYTES > 4096 || offset % (current.domain.abi.wordBits / 8) !== 0) return done(-ERRNO.ENXIO);
  if (!hv.frames.has(mfn) || hv.frames.owner[mfn] !== vcpu.domain.domId) return done(-ERRNO.EINVAL);
  if (!holdWritableFrame(hv, vcpu.domain, mfn)) return done(-ERRNO.EACCES);
  const old = vcpu.vcpuInfoMaddr === 0 ? new Uint8Array(VCPU_INFO_BYTES) : hv.machine.readBytes(vcpu.vcpuInfoMaddr, VCPU_INFO_BYTES);
  // A vCPU without one has events masked: vcpu_info_populate() copies the dummy one.
  if (vcpu.vcpuInfoMaddr === 0) old[1] = 1;
  hv.machine.writeBytes(maddr, old);
  vcpu.vcpuInfoMaddr = maddr;
  vcpu.vcpuInfoMfn = mfn;
  fillPendingSelector(hv, vcpu);
  markEventsPending(hv, vcpu);
  updateTimeRecord(hv, vcpu);
  return OK;
};

const sendNmi: Handler = (hv, _current, vcpu, vaddr) => {
  if (vaddr !== 0) return done(-ERRNO.EINVAL);
  vcpu.nmiPending = true;
  wakeVcpu(hv, vcpu);
  return OK;
};

const HANDLERS: Readonly<Record<number, Handler>> = {
  [VCPUOP.initialise]: initialise, [VCPUOP.up]: up, [VCPUOP.down]: down, [VCPUOP.is_up]: (_hv, _current, vcpu) => done(vcpu.online ? 1 : 0),
  [VCPUOP.get_runstate_info]: getRunstate, [VCPUOP.register_runstate_memory_area]: registerRunstate, [VCPUOP.set_periodic_timer]: setPeriodic,
  [VCPUOP.stop_periodic_timer]: stopPeriodic, [VCPUOP.set_singleshot_timer]: setSingleshot, [VCPUOP.stop_singleshot_timer]: stopSingleshot,
  [VCPUOP.register_vcpu_info]: registerVcpuInfo, [VCPUOP.send_nmi]: sendNmi,
  // Only for vCPUs that are pinned to a processor.
  [VCPUOP.get_physid]: () => done(-ERRNO.EINVAL),
  [VCPUOP.register_vcpu_time_memory_area]: registerTime,
};

function vcpuOp(hv: Hypervisor, current: Vcpu, args: HypercallArgs): HypercallOutcome {
  const vcpu = current.domain.vcpus[args.u32(1)];
  if (vcpu === undefined) return done(-ERRNO.ENOENT);
  const handler = HANDLERS[args.u32(0)];
  return handler === undefined ? done(-ERRNO.ENOSYS) : handler(hv, current, vcpu, args.addr(2));
}

export const VCPU_ROWS: HypercallRows = {
  [HYPERCALL.vcpu_op]: {
    name: 'vcpu_op', args: [{ name: 'cmd', kind: 'cmd' }, { name: 'vcpuid', kind: 'u32' }, { name: 'extra_args', kind: 'handle' }],
    commands: Object.fromEntries(Object.entries(VCPUOP).map(([name, nr]) => [nr, name])), handle: vcpuOp,
  },
};
