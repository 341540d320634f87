// The LDT of a vCPU: set by MMUEXT_SET_LDT as a guest address, mapped page by page when the processor
// first touches it; and the accessed bits of descriptors, which the processor cannot set itself in
// the read-only windows (per-domain.ts). Source: pv_map_ldt_shadow_page(), xen/arch/x86/pv/mm.c.
import type { Vcpu } from './domain.ts';
import { FRAME_TYPE } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { findL1, found } from './page-walk.ts';
import { frameOf, PTE_FLAG } from './pte-rules.ts';
import { getPageAndType } from './page-types.ts';
import { gdtVaddr, ldtVaddr, mapLdtPage } from './per-domain.ts';

/** Loads LDTR with the vCPU's LDT (or none); unmaps what the window held. */
export function loadLdt(hv: Hypervisor, vcpu: Vcpu): void {
  if (vcpu.domain.perDomain === undefined) return;
  for (let page = 0; page < 16; page++) if ((vcpu.ldtFrames[page] ?? 0) === 0) mapLdtPage(hv, vcpu, page, undefined);
  const unusable = 0x1_0000;
  const presentLdt = 0x82;
  vcpu.cpu?.setLdtr(
    vcpu.ldtEntries === 0
      ? { selector: 0, base: 0, limit: 0, access: unusable }
      : { selector: 0, base: ldtVaddr(vcpu), limit: vcpu.ldtEntries * 8 - 1, access: presentLdt },
  );
}

/** A page of the LDT window was touched: maps the guest's page there if it may be a descriptor page. True: retry the access. */
export function mapLdtOnFault(hv: Hypervisor, vcpu: Vcpu, offset: number): boolean {
  const page = offset >>> 12;
  if (offset >>> 3 >= vcpu.ldtEntries || (vcpu.ldtFrames[page] ?? 0) !== 0) return false;
  const { abi, domId } = vcpu.domain;
  const linear = vcpu.ldtBase + page * 4096;
  if (!findL1(hv.machine, abi.levels, vcpu.guestTableMfn, abi.wordBits === 32 ? linear % 0x1_0000_0000 : linear)) return false;
  if ((found.lo & PTE_FLAG.present) === 0) return false;
  const mfn = frameOf(found.lo, found.hi);
  if (!getPageAndType(hv, mfn, domId, FRAME_TYPE.segDesc)) return false;
  // Pages may be touched in any order: those before this one are not mapped.
  while (vcpu.ldtFrames.length < page) vcpu.ldtFrames.push(0);
  vcpu.ldtFrames[page] = mfn;
  if (vcpu.domain.perDomain !== undefined) mapLdtPage(hv, vcpu, page, mfn);
  return true;
}

const GDT_WINDOW_BYTES = 14 * 4096;
/** Descriptor bits in the high half: accessed (of code and data), code or data at all, present. */
const DESC_HI = { accessed: 0x100, codeOrData: 0x1000, present: 0x8000 } as const;

/**
 * The processor loaded a descriptor whose accessed bit is clear and could not set it, since the
 * windows are mapped read-only: sets it in the frame. True: retry the access. A guest's own store to
 * a window comes here too; its retry finds the bit set, and the fault is the guest's.
 */
export function markDescriptorAccessed(hv: Hypervisor, vcpu: Vcpu, vaddr: number): boolean {
  const inGdt = vaddr - gdtVaddr(vcpu);
  const inLdt = vaddr - ldtVaddr(vcpu);
  const offset = inGdt >= 0 && inGdt < GDT_WINDOW_BYTES ? inGdt : inLdt >= 0 && inLdt < 16 * 4096 ? inLdt : -1;
  if (offset < 0) return false;
  const mfn = (offset === inGdt ? vcpu.gdtFrames : vcpu.ldtFrames)[offset >>> 12];
  if (mfn === undefined || mfn === 0) return false;
  const at = mfn * 4096 + (offset & 0xff8) + 4;
  const hi = hv.machine.readU32(at);
  if ((hi & (DESC_HI.present | DESC_HI.codeOrData)) !== (DESC_HI.present | DESC_HI.codeOrData) || (hi & DESC_HI.accessed) !== 0) return false;
  hv.machine.writeU32(at, (hi | DESC_HI.accessed) >>> 0);
  return true;
}
