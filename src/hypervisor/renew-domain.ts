// A suspended domain comes back as after a save and a restore: memory, page tables and registers are
// what they were, everything that Xen and dom0 held for it is new. Event channels, grants, the shared
// page, registered areas and timers are gone; start_info says where their successors are.
//
//   guest    SCHEDOP_shutdown(suspend, start_info's frame in the third register); in start_info the
//            frames of store and console as pseudo-physical numbers
//   renew    other machine frames (relocate-domain.ts) · new shared page · new ports · offers of store and
//            console · start_info · returns 0
//
// A guest that does not say where its list of frames is keeps them: a restore that happened to get the same ones.
// Source: tools/libs/guest/xg_sr_restore_x86_pv.c (process_start_info, process_shared_info).
import { SHARED_INFO_32, SHARED_INFO_64 } from '../abi/shared-info.ts';
import { START_INFO_32, START_INFO_64 } from '../abi/start-info.ts';
import { assert } from '../base/assert.ts';
import type { Domain, Vcpu } from './domain.ts';
import { releaseChannelsAndGrants } from './domain-end.ts';
import { allocUnboundPort } from './event-channels.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import { growGrantTable, newGrantTable, seedGrant } from './grant-table.ts';
import { allocSharedFrame, type Hypervisor } from './hypervisor.ts';
import { putAllocation } from './page-types.ts';
import { planRelocation, relocate } from './relocate-domain.ts';
import { setUpcallMask, writeWallClock } from './shared-info.ts';
import { newVcpuTimers, updateTimeRecord } from './time.ts';
import type { TimerKind } from './world-port.ts';

export interface RenewedEnds {
  readonly storeMfn: number;
  readonly storePort: number;
  readonly consoleMfn: number;
  readonly consolePort: number;
}

/** GNTTAB_RESERVED_*. */
const RESERVED = { console: 0, xenstore: 1 } as const;
const BACKEND_DOMID = 0;
const SHUTDOWN_SUSPEND = 2;
const ACCUMULATOR = 0;
/** EDX, RDX. */
const THIRD_ARGUMENT = 2;
/** The shared page, the grant table, and what they may need besides. */
const FRAMES_NEEDED = 8;
const LEGACY_VCPUS = 32;
const VCPU_INFO_BYTES = 64;
const TIMERS: readonly TimerKind[] = ['singleshot', 'periodic', 'poll'];
const WATCHDOGS: readonly TimerKind[] = ['watchdog1', 'watchdog2'];

/** `problem`: what the guest left undone, as the end of a sentence; all that is left for the domain is its end. */
export function renewDomain(hv: Hypervisor, domain: Domain): RenewedEnds | { readonly problem: string } {
  assert(hv.current === undefined, 'a domain is renewed while Xen acts for a guest');
  if (domain.life.kind !== 'shutdown' || domain.life.reason !== SHUTDOWN_SUSPEND) return { problem: 'it is not suspended' };
  const vcpu = domain.vcpus[0] as Vcpu;
  const startInfoMfn = (vcpu.cpu?.reg(THIRD_ARGUMENT) ?? -1) >>> 0;
  if (!isPlainFrame(hv, domain, startInfoMfn)) return { problem: `its third argument, 0x${startInfoMfn.toString(16)}, is no frame of its start_info` };
  const at = domain.abi.wordBits === 64 ? START_INFO_64.fields : START_INFO_32.fields;
  const base = startInfoMfn * 4096;
  const storeMfn = frameOfPfn(hv, domain, hv.machine.readU32(base + at.store_mfn.at));
  const consoleMfn = frameOfPfn(hv, domain, hv.machine.readU32(base + at.console_mfn.at));
  if (storeMfn === undefined || consoleMfn === undefined) return { problem: `its start_info names no page of its own for the ${storeMfn === undefined ? 'store' : 'console'}` };
  if (hv.frames.freeCount < FRAMES_NEEDED) return { problem: 'Xen has no frame left for it' };
  const relocation = planRelocation(hv, domain);
  if (relocation !== undefined && 'problem' in relocation) return relocation;
  const pfns = [startInfoMfn, storeMfn, consoleMfn].map((mfn) => relocation?.lists.pfns[mfn] ?? 0);
  if (pfns.includes(-1)) return { problem: 'its list of frames does not name its start_info, its store or its console' };
  releaseChannelsAndGrants(hv, domain);
  if (relocation === undefined) return renewRest(hv, domain, startInfoMfn, storeMfn, consoleMfn);
  const problem = relocate(hv, domain, relocation);
  if (problem !== undefined) return problem;
  const [infoAt, storeAt, consoleAt] = pfns.map((pfn) => relocation.lists.p2m[pfn] as number) as [number, number, number];
  // Where the guest looks for it when the call returns.
  vcpu.cpu?.setReg(THIRD_ARGUMENT, infoAt);
  return renewRest(hv, domain, infoAt, storeAt, consoleAt);
}

function renewRest(hv: Hypervisor, domain: Domain, startInfoMfn: number, storeMfn: number, consoleMfn: number): RenewedEnds {
  renewSharedPage(hv, domain);
  domain.vcpus.forEach((one) => renewVcpu(hv, one));
  const { maxVersion, maxGrantFrames, maxMaptrackFrames } = domain.grants;
  domain.grants = newGrantTable({ maxVersion, maxGrantFrames, maxMaptrackFrames });
  assert(growGrantTable(hv, domain, 1), 'no frame for the grant table');
  seedGrant(hv, domain, RESERVED.console, BACKEND_DOMID, consoleMfn);
  seedGrant(hv, domain, RESERVED.xenstore, BACKEND_DOMID, storeMfn);
  const storePort = allocUnboundPort(hv, domain, BACKEND_DOMID);
  const consolePort = allocUnboundPort(hv, domain, BACKEND_DOMID);
  assert(storePort !== undefined && consolePort !== undefined, 'a domain without event channels has no port to give');
  const ends: RenewedEnds = { storeMfn, storePort, consoleMfn, consolePort };
  writeStartInfo(hv, domain, startInfoMfn * 4096, ends);
  for (const kind of WATCHDOGS) hv.world.setTimer(domain.domId, 0, kind, undefined);
  domain.watchdogs = domain.watchdogs.map(() => undefined);
  domain.shutdownCode = undefined;
  domain.life = { kind: 'running' };
  for (const one of domain.vcpus) if (one.online) hv.world.vcpuRunnable(domain.domId, one.vcpuId, true);
  return ends;
}

/** Its own RAM, and not in use as a table: what a toolstack may write to. */
function isPlainFrame(hv: Hypervisor, domain: Domain, mfn: number): boolean {
  const { frames } = hv;
  if (mfn >= frames.frameCount || frames.owner[mfn] !== domain.domId || ((frames.flags[mfn] as number) & FRAME.xenHeap) !== 0) return false;
  return frames.typeCount[mfn] === 0 || frames.type[mfn] === FRAME_TYPE.writable;
}

function frameOfPfn(hv: Hypervisor, domain: Domain, pfn: number): number | undefined {
  for (let mfn = 0; mfn < hv.frames.frameCount; mfn++) if (hv.frames.owner[mfn] === domain.domId && hv.frames.getM2p(mfn) === pfn && isPlainFrame(hv, domain, mfn)) return mfn;
  return undefined;
}

/** A new page, all events masked. What the guest has said of its memory is carried over as it is, but for the list of lists: it says it again. handle_shared_info(). */
function renewSharedPage(hv: Hypervisor, domain: Domain): void {
  const { machine } = hv;
  const table = domain.abi.wordBits === 64 ? SHARED_INFO_64 : SHARED_INFO_32;
  const old = machine.readBytes(domain.sharedInfoMfn * 4096, table.sizeBytes);
  const mfn = allocSharedFrame(hv, domain);
  assert(mfn !== undefined, 'no frame for the shared page');
  putAllocation(hv, domain.sharedInfoMfn);
  machine.fillFrame(mfn, 0);
  domain.sharedInfoMfn = mfn;
  const { fields } = table;
  const keep = (from: number, to: number): void => machine.writeBytes(mfn * 4096 + from, old.subarray(from, to));
  keep(fields.max_pfn.at, fields.pfn_to_mfn_frame_list_list.at);
  keep(fields.nmi_reason.at, fields.p2m_generation.at + domain.abi.wordBits / 8);
  const maskBytes = fields.evtchn_mask.count * (domain.abi.wordBits / 8);
  machine.writeBytes(mfn * 4096 + fields.evtchn_mask.at, new Uint8Array(maskBytes).fill(0xff));
  for (let vcpuId = 0; vcpuId < LEGACY_VCPUS; vcpuId++) machine.writeU8(mfn * 4096 + vcpuId * VCPU_INFO_BYTES + 1, 1);
  writeWallClock(hv, domain);
}

function renewVcpu(hv: Hypervisor, vcpu: Vcpu): void {
  for (const kind of TIMERS) hv.world.setTimer(vcpu.domain.domId, vcpu.vcpuId, kind, undefined);
  vcpu.timers = newVcpuTimers();
  vcpu.vcpuInfoMaddr = vcpu.domain.sharedInfoMfn * 4096 + vcpu.vcpuId * VCPU_INFO_BYTES;
  vcpu.runstateVaddr = 0;
  vcpu.timeVaddr = 0;
  vcpu.polling = undefined;
  vcpu.blocked = false;
  vcpu.nmiPending = false;
  setUpcallMask(hv, vcpu, 1);
  updateTimeRecord(hv, vcpu);
  vcpu.cpu?.setReg64(ACCUMULATOR, 0n);
}

function writeStartInfo(hv: Hypervisor, domain: Domain, base: number, ends: RenewedEnds): void {
  const wide = domain.abi.wordBits === 64;
  const at = wide ? START_INFO_64.fields : START_INFO_32.fields;
  const write = (field: { readonly at: number; readonly type: string }, value: number): void => {
    hv.machine.writeU32(base + field.at, value >>> 0);
    if (field.type === 'u64') hv.machine.writeU32(base + field.at + 4, Math.floor(value / 0x1_0000_0000) >>> 0);
  };
  write(at.shared_info, domain.sharedInfoMfn * 4096);
  write(at.flags, 0);
  write(at.store_mfn, ends.storeMfn);
  write(at.store_evtchn, ends.storePort);
  write(at.console_mfn, ends.consoleMfn);
  write(at.console_evtchn, ends.consolePort);
}
