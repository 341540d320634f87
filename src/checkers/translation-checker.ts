// The checker of cached translations. A processor may keep a translation until it is flushed, however
// stale; so these are allowed:
//
//   - the guest changed an entry and did not flush: the frame is still its own, or still granted to it
//     (a grant stays in force until it is unmapped, which flushes)
//   - the frame was freed: nobody has it, and Xen flushes when it gives it out again
//   - it may be read: a page table, a descriptor table, Xen's m2p and windows
//
// and these are not: a translation that can be written through (writable and dirty; a clean one makes
// the processor walk again) to a page table, a descriptor table or a frame of Xen's; any to a frame
// of another domain without a grant in force, to Xen's other frames, or to I/O space. The
// fast tags beside an entry may allow less than the entry, never more.
//
// Source: tlb-layout.ts; page_set_tlbflush_timestamp() and the flushes in _get_page_type() and
// alloc_heap_pages() in Xen. Not checked: scripted processors, whose caches are not in the arena.
import { DOMID } from '../abi/domid.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import { FRAME_TYPE, FREE_OWNER } from '../hypervisor/frame-table.ts';
import { NO_TAG, TLB, TLB_ENTRIES, TLB_ENTRY_BYTES } from '../x86/tlb-layout.ts';
import type { Checker, Report } from './checker.ts';
import type { Survey } from './survey.ts';

/** Bits of TLB.arch, as paging.ts keeps them. */
const ARCH = { valid: 1, user: 2, writable: 4, executable: 8, dirty: 16, noRam: 32, wp: 64 } as const;

function checkTranslations(survey: Survey, report: Report): void {
  for (const domain of survey.hv.domains.values()) {
    // A domain that is gone runs no more: its processors' caches are never read again.
    if (domain.life.kind === 'destroyed') continue;
    for (const vcpu of domain.vcpus) for (const tlbBase of vcpu.cpu?.tlbBases ?? []) checkVcpu(survey, report, domain, vcpu, tlbBase);
  }
}

function checkVcpu(survey: Survey, report: Report, domain: Domain, vcpu: Vcpu, tlbBase: number): void {
  const { u32 } = survey.machine;
  const words = TLB_ENTRY_BYTES >> 2;
  for (let slot = 0, at = tlbBase >>> 2; slot < TLB_ENTRIES; slot++, at += words) {
    const arch = u32[at + (TLB.arch >> 2)] as number;
    if ((arch & ARCH.valid) === 0) {
      if (widestTag(u32, at) !== undefined) report(slotText(vcpu, slot), 'has a fast tag without a translation');
      continue;
    }
    const mfn = (u32[at + (TLB.maddr >> 2)] as number) >>> 12;
    const writes = (arch & ARCH.dirty) !== 0 && ((arch & ARCH.writable) !== 0 || (arch & ARCH.wp) === 0);
    const problem = (arch & ARCH.noRam) !== 0 ? (domain.privileged ? undefined : 'leads to no RAM') : judge(survey, domain, mfn, writes);
    if (problem !== undefined) report(slotText(vcpu, slot), `${problem}: ${survey.frames.describe(mfn)}`);
    const tag = tooWide(u32, at, arch);
    if (tag !== undefined) report(slotText(vcpu, slot), `its fast tag ${tag} allows more than the translation: ${survey.frames.describe(mfn)}`);
  }
}

const slotText = (vcpu: Vcpu, slot: number): string => `d${vcpu.domain.domId}v${vcpu.vcpuId} TLB slot ${slot}`;

/** Why a translation to that frame may not be cached; undefined: it may. */
function judge(survey: Survey, domain: Domain, mfn: number, writes: boolean): string | undefined {
  const { frames } = survey;
  const of = frames.owner[mfn];
  const type = frames.type[mfn] as number;
  if (writes && type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.segDesc && frames.typeCount[mfn] !== 0) return 'can be written through, but is a table';
  if (of === domain.domId) return undefined;
  if (of === FREE_OWNER) return undefined;
  if (of === DOMID.XEN) return writes ? "can be written through, but is Xen's" : isShown(survey, domain, mfn) ? undefined : "is Xen's and not shown to guests";
  if (domain.privileged) return undefined;
  if (of === DOMID.IO) return 'is I/O space';
  const grants = Object.values(survey.hv.domains.get(of as number)?.grants.active ?? {}).filter((grant) => grant.mfn === mfn && grant.domId === domain.domId);
  if (grants.length === 0) return `belongs to d${of}, which has not granted it`;
  return writes && grants.every(({ pin }) => pin.hostWrite === 0) ? `can be written through, but d${of} granted reading` : undefined;
}

/** Frames of Xen's that guests see: the m2p tables, its page of the GDT, and what leads there. */
function isShown(survey: Survey, domain: Domain, mfn: number): boolean {
  const { frames, hv } = survey;
  const inTable = (first: number, entryBytes: number): boolean => mfn >= first && mfn < first + Math.ceil((frames.frameCount * entryBytes) / 4096);
  return inTable(frames.m2p32Mfn, 4) || inTable(frames.m2p64Mfn, 8) || mfn === domain.perDomain?.reservedGdtMfn || mfn === domain.perDomain?.zeroMfn || (domain.abi.levels === 4 && mfn >= hv.xenTables.firstMfn && mfn < hv.xenTables.endMfn);
}

/** The rights that each fast tag stands for. */
const TAGS: readonly (readonly [string, number, number])[] = [
  ['readSup', TLB.readSup, 0], ['execSup', TLB.execSup, ARCH.executable],
  ['readUser', TLB.readUser, ARCH.user], ['execUser', TLB.execUser, ARCH.user | ARCH.executable],
  ['writeUser', TLB.writeUser, ARCH.user | ARCH.writable | ARCH.dirty], ['writeSup', TLB.writeSup, ARCH.dirty],
];

/** No page address has low bits: a tag is set if it is one. Zero is what a slot has before its first use. */
const isSet = (tag: number): boolean => tag !== NO_TAG && tag !== 0;

function widestTag(u32: Uint32Array, at: number): string | undefined {
  for (const [name, offset] of TAGS) if (isSet(u32[at + (offset >> 2)] as number)) return name;
  return undefined;
}

function tooWide(u32: Uint32Array, at: number, arch: number): string | undefined {
  for (const [name, offset, needs] of TAGS) if (isSet(u32[at + (offset >> 2)] as number) && (arch & needs) !== needs) return name;
  // A supervisor may write where only CR0.WP forbids it.
  return isSet(u32[at + (TLB.writeSup >> 2)] as number) && (arch & ARCH.writable) === 0 && (arch & ARCH.wp) !== 0 ? 'writeSup' : undefined;
}

export const translationsChecker: Checker = {
  name: 'translations',
  claim: 'no processor holds a translation through which its domain could reach what it may not, or write a table',
  check: checkTranslations,
};
