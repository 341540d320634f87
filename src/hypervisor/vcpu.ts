// A new vCPU and what it needs at rest. The domain builder sets registers and tables.
import { wide } from '../base/wide.ts';
import type { Domain, Vcpu } from './domain.ts';
import { newVcpuTimers } from './time.ts';

/** A vCPU that is offline, uninitialised and has nothing registered; vcpu_info in the shared page (first 32 vCPUs). */
export function newVcpu(domain: Domain, vcpuId: number): Vcpu {
  return wide({
    domain, vcpuId, cpu: undefined, online: false, initialised: false, blocked: false, polling: undefined,
    guestTableMfn: 0, userTableMfn: 0, kernelMode: true, kernelSs: 0, kernelSp: 0,
    traps: new Array(256).fill(undefined), eventCallback: undefined, failsafeCallback: undefined,
    syscallCallback: undefined, syscall32Callback: undefined, sysenterCallback: undefined, nmiPending: false, nmiInProgress: false,
    gdtFrames: [], gdtEntries: 0, ldtBase: 0, ldtEntries: 0,
    taskSwitched: false, cr0Guest: 0, cr4Guest: 0, debugRegs: [0, 0, 0, 0, 0, 0, 0xffff0ff0, 0x400], cr2Guest: 0,
    iopl: 0, ioBitmapVaddr: 0, ioBitmapPorts: 0,
    vcpuInfoMaddr: vcpuId < 32 ? domain.sharedInfoMfn * 4096 + vcpuId * 64 : 0, vcpuInfoMfn: 0,
    runstateVaddr: 0, timeVaddr: 0, staleAreas: { runstate: false, time: false }, runstate: wide({ state: 3, sinceNs: 0, timesNs: [0, 0, 0, 0] }),
    timers: newVcpuTimers(), oldTable: undefined, ldtFrames: [], inMulticall: false, tlbFlushedAt: 0, segmentBases: wide({ gsKernel: 0, gsUser: 0 }),
  });
}
