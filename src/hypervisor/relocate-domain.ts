// A saved domain is restored into other machine frames. Whoever saves it turns every frame number in its
// page tables into a pseudo-physical one, and back into the new machine frame when it is restored; the
// guest's own list of frames is written anew. So a guest that says where that list is comes back at other
// machine addresses. It says so in the shared page, in one of two ways; the first one counts:
//
//   p2m_cr3, p2m_vaddr           page tables ─► pages of the p2m list, one after the other from p2m_vaddr on
//   pfn_to_mfn_frame_list_list   list of lists ─► lists ─► pages of the p2m list
//
//   1. check      the list, and that page tables name nothing but the domain's own frames
//   2. let go     base tables, descriptor tables, pins: no frame has a type any more
//   3. move       contents out, frames back to the pool, others drawn, contents in, tables and p2m list renumbered
//   4. take back  pins, descriptor tables, base tables: everything is checked again, as a guest's request
//
// Lists of lists are the guest's to write again, as after any restore. A frame that somebody else still holds
// stays where it is, as do frames that the list does not name.
// Source: tools/libs/guest/xg_sr_save_x86_pv.c (map_p2m_list, map_p2m_tree, normalise_pagetable),
// xg_sr_restore_x86_pv.c (localise_page, update_guest_p2m, pin_pagetables).
import { SHARED_INFO_32, SHARED_INFO_64 } from '../abi/shared-info.ts';
import { assert } from '../base/assert.ts';
import { placeFrames } from './build/place-frames.ts';
import type { Domain, Vcpu } from './domain.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import { guestRangeOk } from './guest-access.ts';
import { hexVaddr } from './guest-registers.ts';
import type { Hypervisor } from './hypervisor.ts';
import { dropGdt, setGdt } from './hypercalls/descriptors.ts';
import { dropLdt, loadBase } from './hypercalls/mmuext.ts';
import { fillM2pSlot, hasAssist, VMASST } from './page-tables.ts';
import { addressOk, tableIndex } from './page-walk.ts';
import { frameOf, PTE_FLAG, tableEntries } from './pte-rules.ts';
import { getPage, getPageAndTypeFor, getType, isTable, PUT, putAllocation, putOldTable, putPageAndTypePreemptible } from './page-types.ts';

/** The domain's own list of frames. */
interface FrameLists {
  /** The pages in which it lies, as pfns. */
  readonly pages: readonly number[];
  /** mfn by pfn, -1 for none. */
  readonly p2m: Int32Array;
  /** pfn by mfn, -1 for none. */
  readonly pfns: Int32Array;
}
type Problem = { readonly problem: string };

interface Table {
  readonly pfn: number;
  readonly level: number;
  readonly flags: number;
  readonly pinned: boolean;
}

export interface Relocation {
  readonly lists: FrameLists;
  readonly tables: readonly Table[];
}

const sharedFields = (domain: Domain) => (domain.abi.wordBits === 64 ? SHARED_INFO_64 : SHARED_INFO_32).fields;
const wordBytesOf = (domain: Domain): number => domain.abi.wordBits / 8;

/** More than any machine of ours has, frames that a guest may yet get included. */
const MOST_PFNS = 2 ** 24;

/** undefined: the guest does not say where its list is. */
export function planRelocation(hv: Hypervisor, domain: Domain): Relocation | Problem | undefined {
  const maxPfn = sharedWord(hv, domain, 'max_pfn');
  const pages = listPages(hv, domain, maxPfn);
  if (pages === undefined || 'problem' in pages) return pages;
  const lists = readLists(hv, domain, pages, maxPfn);
  if ('problem' in lists) return lists;
  const tables = tablesOf(hv, domain, lists);
  for (const table of tables) {
    const stranger = strangerIn(hv, domain, lists, table);
    if (stranger !== undefined) return { problem: `its page table at pfn 0x${table.pfn.toString(16)} names frame 0x${stranger.toString(16)}, which is none of its list` };
  }
  return { lists, tables };
}

/** A word of the shared page: unsigned, or an address (signed where it is canonical). */
function sharedWord(hv: Hypervisor, domain: Domain, field: 'max_pfn' | 'pfn_to_mfn_frame_list_list' | 'p2m_cr3' | 'p2m_vaddr'): number {
  const at = domain.sharedInfoMfn * 4096 + sharedFields(domain)[field].at;
  return (domain.abi.wordBits === 64 ? hv.machine.readU32(at + 4) | 0 : 0) * 0x1_0000_0000 + hv.machine.readU32(at);
}

/** A frame of the domain's own memory. */
const isOwn = (hv: Hypervisor, domain: Domain, mfn: number): boolean =>
  hv.frames.has(mfn) && hv.frames.owner[mfn] === domain.domId && ((hv.frames.flags[mfn] as number) & FRAME.xenHeap) === 0;

/** The machine frames in which the list lies, in its order. */
function listPages(hv: Hypervisor, domain: Domain, maxPfn: number): readonly number[] | Problem | undefined {
  // Xen 3's tools know of lists of lists only.
  const cr3 = domain.abi.onXen3 ? 0 : sharedWord(hv, domain, 'p2m_cr3');
  const listList = sharedWord(hv, domain, 'pfn_to_mfn_frame_list_list');
  if (cr3 === 0 && (listList === 0 || listList === -1 || listList === 0xffff_ffff)) return undefined;
  if (maxPfn <= 0 || maxPfn > MOST_PFNS) return { problem: `its highest pfn is said to be ${hexVaddr(maxPfn)}` };
  const count = Math.ceil(maxPfn / (4096 / wordBytesOf(domain)));
  return cr3 === 0 ? pagesOfLists(hv, domain, listList, count) : mappedPages(hv, domain, cr3, count);
}

/** map_p2m_list(): by the guest's page tables, present or not. */
function mappedPages(hv: Hypervisor, domain: Domain, cr3: number, count: number): readonly number[] | Problem {
  const { abi } = domain;
  // A 32-bit guest's root may lie above 4 GiB: xen_cr3_to_pfn().
  const root = abi.wordBits === 64 ? Math.floor(cr3 / 4096) : ((cr3 >>> 12) | (cr3 << 20)) >>> 0;
  const from = sharedWord(hv, domain, 'p2m_vaddr');
  if (!guestRangeOk(abi, from, count * 4096) || !addressOk(abi.levels, from) || !addressOk(abi.levels, from + count * 4096 - 1)) return { problem: `its list of frames is said to be at ${hexVaddr(from)}` };
  const pages: number[] = [];
  for (let page = 0; page < count; page++) {
    let mfn = root;
    for (let level = abi.levels as number; level > 0 && isOwn(hv, domain, mfn); level--) {
      const maddr = mfn * 4096 + tableIndex(abi.levels, level, from + page * 4096) * 8;
      mfn = frameOf(hv.machine.readU32(maddr), hv.machine.readU32(maddr + 4));
    }
    if (!isOwn(hv, domain, mfn)) return { problem: `its list of frames is not mapped at ${hexVaddr(from + page * 4096)}` };
    pages.push(mfn);
  }
  return pages;
}

/** map_p2m_tree(). */
function pagesOfLists(hv: Hypervisor, domain: Domain, listListMfn: number, pageCount: number): readonly number[] | Problem {
  const perPage = 4096 / wordBytesOf(domain);
  const listCount = Math.ceil(pageCount / perPage);
  if (listCount > perPage || !isOwn(hv, domain, listListMfn)) return { problem: 'its list of lists of frames is not its own' };
  const listMfns = Array.from({ length: listCount }, (_, i) => listed(hv, domain, listListMfn, i));
  if (!listMfns.every((mfn) => isOwn(hv, domain, mfn))) return { problem: 'a list of the pages of its list of frames is not its own' };
  const pageMfns = Array.from({ length: pageCount }, (_, i) => listed(hv, domain, listMfns[Math.floor(i / perPage)] as number, i % perPage));
  return pageMfns.every((mfn) => isOwn(hv, domain, mfn)) ? pageMfns : { problem: 'a page of its list of frames is not its own' };
}

/** A frame number out of a list, -1 for what can be none. */
function listed({ machine }: Hypervisor, domain: Domain, listMfn: number, index: number): number {
  const at = listMfn * 4096 + index * wordBytesOf(domain);
  return domain.abi.wordBits === 64 && machine.readU32(at + 4) !== 0 ? -1 : machine.readU32(at);
}

function readLists(hv: Hypervisor, domain: Domain, pageMfns: readonly number[], maxPfn: number): FrameLists | Problem {
  const perPage = 4096 / wordBytesOf(domain);
  const p2m = new Int32Array(maxPfn).fill(-1);
  const pfns = new Int32Array(hv.frames.frameCount).fill(-1);
  for (let pfn = 0; pfn < maxPfn; pfn++) {
    const mfn = listed(hv, domain, pageMfns[Math.floor(pfn / perPage)] as number, pfn % perPage);
    // Whatever is no frame of its own (balloon, a mapping of another's) has no place in a saved domain.
    if (!isOwn(hv, domain, mfn)) continue;
    if (pfns[mfn] !== -1) return { problem: `its list of frames names frame 0x${mfn.toString(16)} twice` };
    p2m[pfn] = mfn;
    pfns[mfn] = pfn;
  }
  const pages = pageMfns.map((mfn) => pfns[mfn] as number);
  return pages.includes(-1) ? { problem: 'its list of frames does not name the frames in which it lies' } : { pages, p2m, pfns };
}

function tablesOf(hv: Hypervisor, domain: Domain, { p2m }: FrameLists): Table[] {
  const { frames } = hv;
  const tables: Table[] = [];
  for (let pfn = 0; pfn < p2m.length; pfn++) {
    const mfn = p2m[pfn] as number;
    if (mfn < 0) continue;
    const level = frames.type[mfn] as number;
    const flags = frames.flags[mfn] as number;
    if (isTable(level) && level <= domain.abi.levels && (flags & FRAME.validated) !== 0 && (frames.typeCount[mfn] as number) > 0) tables.push({ pfn, level, flags, pinned: (flags & FRAME.pinned) !== 0 });
  }
  return tables;
}

/** Calls `each` for every present entry of the guest's in that table, with the place of its low half. */
function eachEntry(hv: Hypervisor, domain: Domain, mfn: number, { level, flags }: Table, each: (maddr: number, lo: number, hi: number) => void): void {
  const { abi } = domain;
  const { machine } = hv;
  for (let index = 0; index < tableEntries(abi, level); index++) {
    if (!hv.rules.isGuestSlot(abi, level, flags, index)) continue;
    const maddr = mfn * 4096 + index * abi.pteBytes;
    const lo = machine.readU32(maddr);
    if ((lo & PTE_FLAG.present) !== 0) each(maddr, lo, abi.pteBytes === 8 ? machine.readU32(maddr + 4) : 0);
  }
}

/** The first frame in the table that is none of the list's. */
function strangerIn(hv: Hypervisor, domain: Domain, { p2m, pfns }: FrameLists, table: Table): number | undefined {
  let stranger: number | undefined;
  eachEntry(hv, domain, p2m[table.pfn] as number, table, (_maddr, lo, hi) => {
    const mfn = frameOf(lo, hi);
    if ((pfns[mfn] ?? -1) < 0) stranger ??= mfn;
  });
  return stranger;
}

interface VcpuHeld {
  readonly vcpu: Vcpu;
  readonly basePfn: number;
  readonly userBasePfn: number;
  readonly gdtPfns: readonly number[];
  readonly gdtEntries: number;
}

/** A clause: why the domain cannot go on. Nothing acts for it then any more but its end. */
export function relocate(hv: Hypervisor, domain: Domain, { lists, tables }: Relocation): Problem | undefined {
  const held = domain.vcpus.map((vcpu) => letGo(hv, vcpu, lists));
  if (held.some(({ gdtPfns, basePfn }) => basePfn < 0 || gdtPfns.some((pfn) => pfn < 0))) return { problem: 'a base table or descriptor table of its lies in no frame of its list' };
  for (const { pfn, pinned } of tables) if (pinned) unpin(hv, lists.p2m[pfn] as number);
  for (const mfn of domain.leakedTables.splice(0)) assert(putPageAndTypePreemptible(hv, mfn) === 0, `leaked table ${mfn} was interrupted`);
  const before = lists.p2m.slice();
  move(hv, domain, lists);
  renumber(hv, domain, lists, tables, before);
  writeLists(hv, domain, lists);
  return takeBack(hv, domain, lists, tables, held);
}

function letGo(hv: Hypervisor, vcpu: Vcpu, { pfns }: FrameLists): VcpuHeld {
  putOldTable(hv, vcpu);
  const pfnOf = (mfn: number): number => (mfn === 0 ? -1 : (pfns[mfn] as number));
  const held = { vcpu, basePfn: pfnOf(vcpu.guestTableMfn), userBasePfn: pfnOf(vcpu.userTableMfn), gdtPfns: vcpu.gdtFrames.map(pfnOf), gdtEntries: vcpu.gdtEntries };
  dropLdt(hv, vcpu);
  dropGdt(hv, vcpu);
  for (const mfn of [vcpu.guestTableMfn, vcpu.userTableMfn]) if (mfn !== 0) assert(putPageAndTypePreemptible(hv, mfn) === 0, `base table ${mfn} was interrupted`);
  vcpu.guestTableMfn = vcpu.userTableMfn = 0;
  return held;
}

function unpin(hv: Hypervisor, mfn: number): void {
  hv.frames.flags[mfn] = (hv.frames.flags[mfn] as number) & ~FRAME.pinned;
  assert(putPageAndTypePreemptible(hv, mfn) === 0, `pinned table ${mfn} was interrupted`);
}

function isZeroPage({ machine }: Hypervisor, mfn: number): boolean {
  const from = (machine.ramBase + mfn * 4096) >>> 2;
  for (let i = from; i < from + 1024; i++) if (machine.u32[i] !== 0) return false;
  return true;
}

/** Every frame that nothing else holds goes to the pool, and another one is drawn in its place. */
function move(hv: Hypervisor, domain: Domain, { p2m, pfns }: FrameLists): void {
  const { machine, frames } = hv;
  const moving: number[] = [];
  const contents: (Uint8Array | undefined)[] = [];
  for (let pfn = 0; pfn < p2m.length; pfn++) {
    const mfn = p2m[pfn] as number;
    if (mfn < 0 || frames.refCount[mfn] !== 1 || frames.typeCount[mfn] !== 0 || ((frames.flags[mfn] as number) & FRAME.allocated) === 0) continue;
    moving.push(pfn);
    contents.push(isZeroPage(hv, mfn) ? undefined : machine.readBytes(mfn * 4096, 4096));
    pfns[mfn] = -1;
    putAllocation(hv, mfn);
  }
  const fresh = placeFrames(hv, domain, moving.length);
  moving.forEach((pfn, index) => {
    const mfn = fresh[index] as number;
    p2m[pfn] = mfn;
    frames.setM2p(mfn, pfn);
    const bytes = contents[index];
    if (bytes !== undefined) machine.writeBytes(mfn * 4096, bytes);
  });
  p2m.forEach((mfn, pfn) => {
    if (mfn >= 0) pfns[mfn] = pfn;
  });
}

/** Entries of tables: from the old frame to the new one of the same pfn. */
function renumber(hv: Hypervisor, domain: Domain, { p2m }: FrameLists, tables: readonly Table[], before: Int32Array): void {
  const newOf = new Map<number, number>();
  before.forEach((mfn, pfn) => mfn >= 0 && newOf.set(mfn, p2m[pfn] as number));
  for (const table of tables) {
    const own = p2m[table.pfn] as number;
    // One that stayed is in use, and so is all that it names.
    if (own === before[table.pfn]) continue;
    eachEntry(hv, domain, own, table, (maddr, lo, hi) => {
      const mfn = newOf.get(frameOf(lo, hi)) as number;
      hv.machine.writeU32(maddr, ((lo & 0xfff) | (mfn << 12)) >>> 0);
      if (domain.abi.pteBytes === 8) hv.machine.writeU32(maddr + 4, ((hi & 0xfff0_0000) | (mfn >>> 20)) >>> 0);
    });
  }
}

/** update_guest_p2m(). */
function writeLists(hv: Hypervisor, domain: Domain, { pages, p2m }: FrameLists): void {
  const bytes = wordBytesOf(domain);
  const perPage = 4096 / bytes;
  p2m.forEach((mfn, pfn) => mfn >= 0 && hv.machine.writeU32((p2m[pages[Math.floor(pfn / perPage)] as number] as number) * 4096 + (pfn % perPage) * bytes, mfn));
}

function takeBack(hv: Hypervisor, domain: Domain, { p2m }: FrameLists, tables: readonly Table[], held: readonly VcpuHeld[]): Problem | undefined {
  const { abi, domId } = domain;
  for (const { pfn, level, pinned } of tables) {
    if (!pinned) continue;
    const mfn = p2m[pfn] as number;
    assert(getPage(hv, mfn, domId), () => `a moved table is not the domain's: ${hv.frames.describe(mfn)}`);
    if (getType(hv, mfn, level, true) !== 0) return { problem: `its page table at pfn 0x${pfn.toString(16)} cannot be pinned again` };
    hv.frames.flags[mfn] = (hv.frames.flags[mfn] as number) | FRAME.pinned;
  }
  for (const { vcpu, basePfn, userBasePfn, gdtPfns, gdtEntries } of held) {
    if (setGdt(hv, vcpu, gdtPfns.map((pfn) => p2m[pfn] as number), gdtEntries) !== 0) return { problem: 'its descriptor table cannot be loaded again' };
    for (const [pfn, name] of [[basePfn, 'guestTableMfn'], [userBasePfn, 'userTableMfn']] as const) {
      if (pfn < 0) continue;
      const mfn = p2m[pfn] as number;
      if (getPageAndTypeFor(hv, mfn, domId, abi.levels, PUT.preemptible) !== 0) return { problem: 'its base table cannot be loaded again' };
      vcpu[name] = mfn;
    }
    if (abi.levels === FRAME_TYPE.l4 && !hasAssist(domain, VMASST.m2pStrict)) fillM2pSlot(hv, vcpu.guestTableMfn);
    loadBase(hv, vcpu);
  }
  return undefined;
}
