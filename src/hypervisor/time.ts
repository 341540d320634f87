// Time as a guest sees it: the pvclock record, runstate accounting, and the timers that Xen keeps
// for a vCPU. The virtual TSC is virtual time in the world's unit, so that any two reads of either
// clock agree; the world sets it.
// Sources: xen/arch/x86/time.c, xen/common/sched/core.c, xen/common/domain.c.
import { EVENT, TIMER_KIND, valueIndex } from '../abi/events.ts';
import { wide } from '../base/wide.ts';
import type { Domain, Vcpu } from './domain.ts';
import { raiseVirq, VIRQ } from './event-channels.ts';
import type { Hypervisor } from './hypervisor.ts';
import { writeTimeRecord, type TimeRecord } from './shared-info.ts';
import { shutdownDomain, wakeVcpu } from './vcpu-state.ts';
import type { TimerKind } from './world-port.ts';

/** What Xen keeps of a vCPU's timers; the deadlines themselves are events of the world. */
export interface VcpuTimers {
  /** Deadlines in ns of virtual time; undefined = not set. */
  singleshotNs: number | undefined;
  pollNs: number | undefined;
  /** Period in ns; 0 = off. */
  periodicNs: number;
  periodicLastNs: number;
  /** When vcpu_info.time was last written; -1 = never. */
  timeRecordNs: number;
}
export const newVcpuTimers = (): VcpuTimers => wide({ singleshotNs: undefined, pollNs: undefined, periodicNs: 0, periodicLastNs: 0, timeRecordNs: -1 });

/** Xen writes a new record about once a second (local time calibration, EPOCH in time.c). */
const RECORD_LIFE_NS = 1e9;
export const MILLISECOND_NS = 1e6;
/** Longest delay that Xen believes (STIME_DELTA_MAX): about 13 days for one-shot timers. */
export const HUGE_TIMEOUT_NS = 2 ** 50;

/** set_time_scale(): ns = ((ticks << shift) * mul) >> 32 for a clock of that many ticks a second. */
export function timeScale(ticksPerSecond: number): { mul: number; shift: number } {
  let shift = 0;
  let ticks = ticksPerSecond;
  while (ticks > 2e9) {
    ticks = Math.floor(ticks / 2);
    shift--;
  }
  while (ticks <= 1e9) {
    ticks *= 2;
    shift++;
  }
  return { mul: Number((1_000_000_000n << 32n) / BigInt(ticks)), shift };
}

/** Writes the vCPU's time record: vcpu_info, and the registered copy if there is one. */
export function updateTimeRecord(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.vcpuInfoMaddr === 0) return;
  const nowNs = hv.world.nowNs();
  const khz = hv.world.tscKhz();
  const { mul, shift } = timeScale(khz * 1000);
  const record: TimeRecord = { tscTimestamp: Math.floor((nowNs * khz) / 1e6), systemTimeNs: nowNs, tscToSystemMul: mul, tscShift: shift };
  vcpu.timers.timeRecordNs = nowNs;
  const bytes = writeTimeRecord(hv, vcpu, record);
  if (vcpu.timeVaddr !== 0) vcpu.staleAreas.time = !hv.access.copyToGuest(vcpu, vcpu.timeVaddr, bytes);
}

/** A 64-bit guest is back in its kernel: what its user tables did not map is written now. */
export function writeStaleAreas(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.staleAreas.runstate) updateRunstateArea(hv, vcpu);
  if (vcpu.staleAreas.time) updateTimeRecord(hv, vcpu);
}

/** Before a run: a record that has grown old is renewed. */
export function refreshTimeRecord(hv: Hypervisor, vcpu: Vcpu): void {
  const last = vcpu.timers.timeRecordNs;
  if (last < 0 || hv.world.nowNs() - last >= RECORD_LIFE_NS) updateTimeRecord(hv, vcpu);
}

// ---- runstate --------------------------------------------------------------------------------

/** RUNSTATE_* of xen/include/public/vcpu.h. */
export const RUNSTATE = { running: 0, runnable: 1, blocked: 2, offline: 3 } as const;
const RUNSTATE_UPDATE_HI = 0x8000_0000;
const VMASST_runstate_update_flag = 5;

/** Books the time since the last change to the old state and enters the new one. */
export function changeRunstate(hv: Hypervisor, vcpu: Vcpu, state: number): void {
  const { runstate } = vcpu;
  const nowNs = hv.world.nowNs();
  if (runstate.state === state) return;
  runstate.timesNs[runstate.state] = (runstate.timesNs[runstate.state] as number) + (nowNs - runstate.sinceNs);
  runstate.state = state;
  runstate.sinceNs = nowNs;
}

/**
 * struct vcpu_runstate_info: state, entry time, four times; i386 packs the u64 on 4 bytes. The time since
 * the entry is counted in for VCPUOP_get_runstate_info (`upToNs`), not in the registered area.
 */
export function runstateBytes(vcpu: Vcpu, upToNs: number | undefined): Uint8Array {
  const wide = vcpu.domain.abi.wordBits === 64;
  const bytes = new Uint8Array(wide ? 48 : 44);
  const view = new DataView(bytes.buffer);
  const { state, sinceNs, timesNs } = vcpu.runstate;
  view.setUint32(0, state, true);
  const at = wide ? 8 : 4;
  view.setBigUint64(at, BigInt(sinceNs), true);
  timesNs.forEach((ns, index) => view.setBigUint64(at + 8 + index * 8, BigInt(index === state && upToNs !== undefined ? ns + (upToNs - sinceNs) : ns), true));
  return bytes;
}

/** Copies the runstate to the area that the guest registered; with the assist, under its update flag. */
export function updateRunstateArea(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.runstateVaddr === 0) return;
  const bytes = runstateBytes(vcpu, undefined);
  const entryHighAt = vcpu.domain.abi.wordBits === 64 ? 12 : 8;
  const flagged = (vcpu.domain.vmAssist & (1 << VMASST_runstate_update_flag)) !== 0;
  const high = new DataView(bytes.buffer).getUint32(entryHighAt, true);
  if (flagged) hv.access.writeU32(vcpu, vcpu.runstateVaddr + entryHighAt, (high | RUNSTATE_UPDATE_HI) >>> 0);
  vcpu.staleAreas.runstate = !hv.access.copyToGuest(vcpu, vcpu.runstateVaddr, bytes);
}

// ---- timers ----------------------------------------------------------------------------------

/** Sets or (undefined) cancels one of the vCPU's timers. */
export function setVcpuTimer(hv: Hypervisor, vcpu: Vcpu, kind: TimerKind, wantedNs: number | undefined): void {
  // Guests may ask for any 64 bits: after the end of time is never.
  const deadlineNs = wantedNs === undefined ? undefined : Math.min(wantedNs, Number.MAX_SAFE_INTEGER);
  const { timers } = vcpu;
  const { domId } = vcpu.domain;
  const had = kind === 'singleshot' ? timers.singleshotNs : kind === 'poll' ? timers.pollNs : undefined;
  if (kind === 'singleshot') timers.singleshotNs = deadlineNs;
  if (kind === 'poll') timers.pollNs = deadlineNs;
  hv.world.setTimer(domId, vcpu.vcpuId, kind, deadlineNs);
  const timer = valueIndex(TIMER_KIND, kind);
  if (deadlineNs !== undefined) hv.world.emit(EVENT.timerSet, domId, vcpu.vcpuId, [timer, deadlineNs]);
  else if (had !== undefined || (kind !== 'singleshot' && kind !== 'poll')) hv.world.emit(EVENT.timerCancelled, domId, vcpu.vcpuId, [timer]);
}

/** vcpu_set_periodic_timer(): 0 stops it. A period that has already passed ticks at once. */
export function setPeriodicTimer(hv: Hypervisor, vcpu: Vcpu, periodNs: number): void {
  vcpu.timers.periodicNs = periodNs;
  if (periodNs === 0) setVcpuTimer(hv, vcpu, 'periodic', undefined);
  else periodicWork(hv, vcpu);
}

function periodicWork(hv: Hypervisor, vcpu: Vcpu): void {
  const { timers } = vcpu;
  const nowNs = hv.world.nowNs();
  let next = timers.periodicLastNs + timers.periodicNs;
  if (nowNs >= next) {
    raiseVirq(hv, vcpu, VIRQ.TIMER);
    timers.periodicLastNs = nowNs;
    next = nowNs + timers.periodicNs;
  }
  setVcpuTimer(hv, vcpu, 'periodic', next);
}

/** The world calls this when a timer is due. Timers of domains that are gone do nothing. */
export function timerFired(hv: Hypervisor, domId: number, vcpuId: number, kind: TimerKind): void {
  const vcpu = hv.vcpu(domId, vcpuId);
  if (vcpu === undefined || vcpu.domain.life.kind !== 'running') return;
  if (kind === 'periodic') {
    if (vcpu.timers.periodicNs !== 0) periodicWork(hv, vcpu);
  } else if (kind === 'singleshot') {
    vcpu.timers.singleshotNs = undefined;
    raiseVirq(hv, vcpu, VIRQ.TIMER);
  } else if (kind === 'watchdog1' || kind === 'watchdog2') {
    shutdownDomain(hv, vcpu.domain, SHUTDOWN_watchdog, 'its watchdog timer expired');
  } else {
    vcpu.timers.pollNs = undefined;
    if (vcpu.polling !== undefined) wakeVcpu(hv, vcpu);
  }
}

/** A domain's two watchdogs are timers of its first vCPU. */
const WATCHDOGS = ['watchdog1', 'watchdog2'] as const;

/** Sets a watchdog of the domain by its id (1 or 2), or with undefined gives it back. */
export function setWatchdog(hv: Hypervisor, domain: Domain, id: number, deadlineNs: number | undefined): void {
  domain.watchdogs[id - 1] = deadlineNs;
  const [first] = domain.vcpus;
  if (first !== undefined) setVcpuTimer(hv, first, WATCHDOGS[id - 1] as (typeof WATCHDOGS)[number], deadlineNs);
}
const SHUTDOWN_watchdog = 4;
