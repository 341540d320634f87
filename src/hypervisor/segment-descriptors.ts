// Descriptor tables of guests: every descriptor of a GDT or LDT frame is checked (and its privilege
// lowered below Xen's) before the processor may see it. Source: check_descriptor() and
// validate_segdesc_page(), xen/arch/x86/pv/descriptor-tables.c.
import { EINVAL } from './page-types.ts';
import { tableBase } from './page-tables.ts';
import { MACHPHYS_VIRT_END } from './personality.ts';
import type { Hypervisor } from './hypervisor.ts';
import type { Domain } from './domain.ts';

const HI = { type: 0xf00, callGate: 0xc00, system: 0x1000, dpl: 0x6000, present: 0x8000, longMode: 0x200000, granularity: 0x800000, code: 0x800, down: 0x400 } as const;

/** First descriptor number that belongs to Xen (FIRST_RESERVED_GDT_ENTRY). */
export const FIRST_RESERVED_GDT_ENTRY = 14 * 512;

/** The ring below which a guest's segments may not go: ring 0 is Xen's. */
const lowestRing = (domain: Domain): number => domain.abi.kernelRing;

/** Low half of the descriptor after checkDescriptor() agreed; the high half is `checkedHi`. */
export let checkedLo = 0;
export let checkedHi = 0;

/** True if the guest may have this descriptor; the fixed-up halves are then in checkedLo/checkedHi. */
export function checkDescriptor(domain: Domain, lo: number, hi: number): boolean {
  checkedLo = lo >>> 0;
  checkedHi = hi >>> 0;
  if ((hi & HI.present) === 0) return true;
  const dpl = Math.max((hi >>> 13) & 3, lowestRing(domain));
  hi = (hi & ~HI.dpl) | (dpl << 13);
  if ((hi & HI.system) !== 0) {
    if (domain.abi.wordBits === 32) {
      if ((hi & HI.longMode) !== 0) return false;
      const base = ((hi & 0xff000000) | ((hi & 0xff) << 16) | (lo >>> 16)) >>> 0;
      const units = ((hi & 0xf0000) | (lo & 0xffff)) + 1;
      const limit = (hi & HI.granularity) !== 0 ? units * 4096 : units;
      if (domain.abi.onXen3) {
        const end = MACHPHYS_VIRT_END[domain.abi.name];
        if (base >= end - 4096) return false;
        const bytes = xen3Limit(base, limit, (hi & (HI.code | HI.down)) === HI.down, end);
        if (bytes !== limit) {
          // "Too dangerous; too hard to work out."
          if ((hi & HI.granularity) === 0) return false;
          const pages = Math.floor(bytes / 4096) - 1;
          lo = ((lo & 0xffff0000) | (pages & 0xffff)) >>> 0;
          hi = (hi & ~0xf0000) | (pages & 0xf0000);
        }
      } else if (base === 0 && limit > domain.abi.hypervisorVirtStart) {
        // Old guests stop at their own Xen's range; let them read the larger machine-to-phys table.
        lo |= 0xffff;
        hi |= 0xf0000;
      }
    }
  } else {
    if ((hi & HI.type) === 0) return true;
    if ((hi & HI.type) !== HI.callGate) return false;
    const selector = lo >>> 16;
    if (!gateSelectorOk(domain, selector)) return false;
    // DPL 0 makes every use of the gate fault into Xen; the guest's DPL is kept in the selector's RPL.
    hi &= ~HI.dpl;
    lo = ((lo & 0xffff) | ((((selector & ~3) | dpl) & 0xffff) << 16)) >>> 0;
    if ((hi & (domain.abi.wordBits === 32 ? 0xe0 : 0xff)) !== 0) return false;
  }
  checkedLo = lo >>> 0;
  checkedHi = hi >>> 0;
  return true;
}

/**
 * The limit that 32-bit Xen leaves a segment: Xen has no other protection from ring 1, so segments end
 * where the last table ends that guests may read, machine-to-phys, in Xen's own range.
 * Source: check_descriptor(), xen/arch/x86/x86_32/mm.c of Xen 3.x.
 */
function xen3Limit(base: number, limit: number, growsDown: boolean, end: number): number {
  // Growing down, a segment holds what lies above its limit, counted from its base: only what wraps around is left.
  if (growsDown) return base + limit < 2 ** 32 ? 2 ** 32 - (base & ~0xfff) : limit;
  return base + limit > end ? end - base : limit;
}

/** Flat selectors that Xen offers to guests in its reserved part of the GDT. */
const FLAT = { kernelCs64: 0xe033, userCs32: 0xe023, kernelCs32: 0xe019 } as const;

/** guest_gate_selector_okay(): the guest's own selectors, the LDT, or Xen's flat code segment. */
function gateSelectorOk(domain: Domain, selector: number): boolean {
  const own = selector >>> 3 < FIRST_RESERVED_GDT_ENTRY;
  const inLdt = (selector & 4) !== 0;
  const flat = domain.abi.wordBits === 32 ? FLAT.kernelCs32 : FLAT.kernelCs64;
  return own || selector === flat || inLdt;
}

/** Checks and fixes a whole frame. 0 or -EINVAL; descriptors before the bad one stay fixed. */
export function validateDescriptors(hv: Hypervisor, mfn: number): number {
  const domain = hv.domains.get(hv.frames.owner[mfn] as number);
  if (domain === undefined) return EINVAL;
  if (!hv.rules.descriptorsChecked) return 0;
  const { u32 } = hv.machine;
  const base = tableBase(hv, mfn);
  hv.machine.touch(mfn);
  for (let at = base; at < base + 1024; at += 2) {
    if (!checkDescriptor(domain, u32[at] as number, u32[at + 1] as number)) return EINVAL;
    u32[at] = checkedLo;
    u32[at + 1] = checkedHi;
  }
  return 0;
}
