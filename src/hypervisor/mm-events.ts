// What memory management tells the log: entries changed, tables pinned, bases switched, frames given
// and taken, guest memory written. Derived events: a replay makes them again and compares. Silent
// while Xen acts for nobody (a domain being built or destroyed).
import { EVENT, HYPERCALL_END, PAGE_TYPE, PT_UPDATE_HOW, valueIndex } from '../abi/events.ts';
import { crc32c } from '../base/crc.ts';
import { wide } from '../base/wide.ts';
import type { Vcpu } from './domain.ts';
import { FRAME_TYPE } from './frame-table.ts';
import type { HypercallArgs, HypercallOutcome } from './hypercall.ts';
import type { Hypervisor } from './hypervisor.ts';

export const HOW = {
  mmuUpdate: valueIndex(PT_UPDATE_HOW, 'mmu_update'),
  updateVa: valueIndex(PT_UPDATE_HOW, 'update_va_mapping'),
  writablePt: valueIndex(PT_UPDATE_HOW, 'writable_pt'),
  grant: valueIndex(PT_UPDATE_HOW, 'grant'),
} as const;

/** Guest memory written is logged in full up to this size. */
const LOGGED_BYTES = 64;

/** An entry as it was and as it is (or, refused, as it was asked to be). Filled by pte-update.ts; level 0 is a plain page. */
export const change = wide({ oldLo: 0, oldHi: 0, newLo: 0, newHi: 0 });

export function emitPtUpdate(hv: Hypervisor, how: number, level: number, maddr: number, rc: number): void {
  const vcpu = hv.current;
  if (vcpu !== undefined) hv.world.emit(EVENT.ptUpdate, vcpu.domain.domId, vcpu.vcpuId, [how, level, maddr, change.oldLo, change.oldHi, change.newLo, change.newHi, rc]);
}

/** A row of the memory family for the current vCPU; values in the order of the row's fields. */
export function emitMm(hv: Hypervisor, kind: number, ...values: number[]): void {
  const vcpu = hv.current;
  if (vcpu !== undefined) hv.world.emit(kind, vcpu.domain.domId, vcpu.vcpuId, values);
}

const PAGE_TYPE_INDEX: Readonly<Record<number, number>> = {
  [FRAME_TYPE.none]: PAGE_TYPE.indexOf('none'), [FRAME_TYPE.writable]: PAGE_TYPE.indexOf('writable'),
  [FRAME_TYPE.l1]: PAGE_TYPE.indexOf('l1'), [FRAME_TYPE.l2]: PAGE_TYPE.indexOf('l2'), [FRAME_TYPE.l3]: PAGE_TYPE.indexOf('l3'), [FRAME_TYPE.l4]: PAGE_TYPE.indexOf('l4'),
  [FRAME_TYPE.segDesc]: PAGE_TYPE.indexOf('segdesc'),
};
/** A frame became a table or a descriptor page (validated), or stopped to be one. Plain pages come and go unlogged. */
export function emitPageType(hv: Hypervisor, mfn: number, from: number, to: number, validated: boolean): void {
  emitMm(hv, EVENT.pageType, mfn, PAGE_TYPE_INDEX[from] as number, PAGE_TYPE_INDEX[to] as number, validated ? 1 : 0);
}

/** Xen wrote guest memory for the running hypercall. */
export function emitGuestMemory(hv: Hypervisor, vcpu: Vcpu, vaddr: number, data: Uint8Array): void {
  if (hv.current === undefined) return;
  const whole = data.length <= LOGGED_BYTES;
  hv.world.emit(EVENT.guestMemory, vcpu.domain.domId, vcpu.vcpuId, [vaddr, data.length, whole ? 0 : crc32c(data)], whole ? data : undefined);
}

/** One element of a multicall. */
export function emitMulticallEntry(hv: Hypervisor, vcpu: Vcpu, index: number, number: number, args: HypercallArgs, outcome: HypercallOutcome): void {
  const argCount = hv.hypercallRows[number]?.args.length ?? 0;
  const values = new Array<number>(4 + argCount * 2);
  values[0] = index;
  values[1] = number;
  values[2] = outcome.kind === 'done' ? outcome.rc : 0;
  values[3] = HYPERCALL_END.indexOf(outcome.kind);
  for (let i = 0; i < argCount; i++) {
    values[4 + i * 2] = args.lo[i] as number;
    values[5 + i * 2] = args.hi[i] as number;
  }
  hv.world.emit(EVENT.multicallEntry, vcpu.domain.domId, vcpu.vcpuId, values);
}
