// set_gdt and update_descriptor: descriptor tables are frames of type segDesc, checked as a whole
// when they become one and entry by entry afterwards.
// Source: xen/arch/x86/pv/descriptor-tables.c.
import { ERRNO } from '../../abi/errno.ts';
import { EVENT } from '../../abi/events.ts';
import type { Vcpu } from '../domain.ts';
import { FRAME_TYPE } from '../frame-table.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from '../hypercall.ts';
import type { Hypervisor } from '../hypervisor.ts';
import { emitMm } from '../mm-events.ts';
import { EINVAL, flushVcpuTlb, getPage, getPageAndType, getType, putPage, putPageAndType, putType } from '../page-types.ts';
import { loadGdt } from '../per-domain.ts';
import { checkDescriptor, checkedHi, checkedLo, FIRST_RESERVED_GDT_ENTRY } from '../segment-descriptors.ts';

/** Replaces the vCPU's GDT; the old frames are released only when the new ones are all accepted. 0 or -EINVAL. */
export function setGdt(hv: Hypervisor, vcpu: Vcpu, mfns: readonly number[], entries: number): number {
  if (entries > FIRST_RESERVED_GDT_ENTRY) return EINVAL;
  for (let i = 0; i < mfns.length; i++) {
    if (getPageAndType(hv, mfns[i] as number, vcpu.domain.domId, FRAME_TYPE.segDesc)) continue;
    while (i-- > 0) putPageAndType(hv, mfns[i] as number);
    return EINVAL;
  }
  dropGdt(hv, vcpu);
  vcpu.gdtEntries = entries;
  vcpu.gdtFrames = [...mfns];
  if (vcpu.domain.perDomain !== undefined) loadGdt(hv, vcpu);
  return 0;
}

/** Gives the GDT's frames back (pv_destroy_gdt). */
export function dropGdt(hv: Hypervisor, vcpu: Vcpu): void {
  for (const mfn of vcpu.gdtFrames) putPageAndType(hv, mfn);
  vcpu.gdtFrames = [];
  vcpu.gdtEntries = 0;
}

function setGdtCall(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const entries = args.u32(1);
  if (entries > FIRST_RESERVED_GDT_ENTRY) return done(EINVAL);
  const count = Math.ceil(entries / 512);
  const wide = vcpu.domain.abi.wordBits === 64;
  const bytes = wide ? 8 : 4;
  if (!hv.access.read(vcpu, args.addr(0), count * bytes) && count > 0) return done(-ERRNO.EFAULT);
  const { view } = hv.access;
  const mfns = Array.from({ length: count }, (_, i) => view.getUint32(i * bytes, true) + (wide ? view.getUint32(i * 8 + 4, true) * 0x1_0000_0000 : 0));
  const rc = setGdt(hv, vcpu, mfns, entries);
  if (rc === 0) flushVcpuTlb(hv, vcpu);
  return done(rc);
}

function updateDescriptor(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const outcome = changeDescriptor(hv, vcpu, args);
  const wide = vcpu.domain.abi.wordBits === 64;
  const maddr = (wide ? (args.hi[0] as number) : args.u32(1)) * 0x1_0000_0000 + args.u32(0);
  if (outcome.kind === 'done' && maddr < Number.MAX_SAFE_INTEGER) {
    emitMm(hv, EVENT.descriptor, maddr, wide ? (args.lo[1] as number) : args.u32(2), wide ? (args.hi[1] as number) : args.u32(3), outcome.rc);
  }
  return outcome;
}

function changeDescriptor(hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs): HypercallOutcome {
  const wide = vcpu.domain.abi.wordBits === 64;
  // 64-bit: (address, descriptor); 32-bit: both as low and high half.
  const addressLo = args.u32(0);
  const addressHi = wide ? (args.hi[0] as number) : args.u32(1);
  const lo = wide ? (args.lo[1] as number) : args.u32(2);
  const hi = wide ? (args.hi[1] as number) : args.u32(3);
  if ((addressLo & 7) !== 0 || !checkDescriptor(vcpu.domain, lo, hi)) return done(EINVAL);
  const newLo = checkedLo;
  const newHi = checkedHi;
  const mfn = addressHi * 0x10_0000 + (addressLo >>> 12);
  if (!getPage(hv, mfn, vcpu.domain.domId)) return done(EINVAL);
  const type = hv.frames.type[mfn] === FRAME_TYPE.segDesc ? FRAME_TYPE.segDesc : FRAME_TYPE.writable;
  if (getType(hv, mfn, type, false) !== 0) {
    putPage(hv, mfn);
    return done(EINVAL);
  }
  hv.machine.writeU32(mfn * 4096 + (addressLo & 0xfff), newLo);
  hv.machine.writeU32(mfn * 4096 + (addressLo & 0xfff) + 4, newHi);
  putType(hv, mfn, 0, -1);
  putPage(hv, mfn);
  return done(0);
}

export const descriptorRows: Record<number, HypercallRow> = {
  2: { name: 'set_gdt', handle: setGdtCall, args: [{ name: 'frames', kind: 'handle' }, { name: 'entries', kind: 'count' }] },
  10: { name: 'update_descriptor', handle: updateDescriptor, args: [{ name: 'maddr', kind: 'u64' }, { name: 'descriptor', kind: 'u64' }] },
};
