// A saved domain is restored into other machine frames. Whoever saves it turns every frame number in its
// page tables into a pseudo-physical one, and back into the new machine frame when it is restored; the
// guest's own list of frames is written anew. So a guest that says where that list is (max_pfn and
// pfn_to_mfn_frame_list_list of the shared page) comes back at other machine addresses.
//
//   frame_list_list ─► frame lists ─► pages of the p2m list ─► mfn by pfn
//
//   1. check      the lists, and that page tables name nothing but the domain's own frames
//   2. let go     base tables, descriptor tables, pins: no frame has a type any more
//   3. move       contents out, frames back to the pool, others drawn, contents in, tables and lists renumbered
//   4. take back  pins, descriptor tables, base tables: everything is checked again, as a guest's request
//
// A frame that somebody else still holds stays where it is, as do frames that the list does not name. Not
// here: lists that are given by a page table (p2m_cr3); such a domain keeps its frames.
// Source: tools/libs/guest/xg_sr_save_x86_pv.c (map_p2m_list_list, normalise_pagetable),
// xg_sr_restore_x86_pv.c (localise_page, update_guest_p2m, pin_pagetables).
import { SHARED_INFO_32, SHARED_INFO_64 } from '../abi/shared-info.ts';
import { assert } from '../base/assert.ts';
import { placeFrames } from './build/place-frames.ts';
import type { Domain, Vcpu } from './domain.ts';
import { FRAME, FRAME_TYPE } from './frame-table.ts';
import type { Hypervisor } from './hypervisor.ts';
import { dropGdt, setGdt } from './hypercalls/descriptors.ts';
import { dropLdt, loadBase } from './hypercalls/mmuext.ts';
import { fillM2pSlot, hasAssist, VMASST } from './page-tables.ts';
import { frameOf, PTE_FLAG, tableEntries } from './pte-rules.ts';
import { getPage, getPageAndTypeFor, getType, isTable, PUT, putAllocation, putOldTable, putPageAndTypePreemptible } from './page-types.ts';

/** Where the domain keeps its list: each level's frames, as pfns. */
interface FrameLists {
  readonly listList: number;
  readonly lists: readonly number[];
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

/** undefined: the guest does not say where its list is. */
export function planRelocation(hv: Hypervisor, domain: Domain): Relocation | Problem | undefined {
  const fields = sharedFields(domain);
  const shared = domain.sharedInfoMfn * 4096;
  const listListMfn = hv.machine.readU32(shared + fields.pfn_to_mfn_frame_list_list.at);
  const maxPfn = hv.machine.readU32(shared + fields.max_pfn.at);
  if (listListMfn === 0 || listListMfn === 0xffff_ffff) return undefined;
  const lists = readLists(hv, domain, listListMfn, maxPfn);
  if ('problem' in lists) return lists;
  const tables = tablesOf(hv, domain, lists);
  for (const table of tables) {
    const stranger = strangerIn(hv, domain, lists, table);
    if (stranger !== undefined) return { problem: `its page table at pfn 0x${table.pfn.toString(16)} names frame 0x${stranger.toString(16)}, which is none of its list` };
  }
  return { lists, tables };
}

/** A frame of the domain's own memory. */
const isOwn = (hv: Hypervisor, domain: Domain, mfn: number): boolean =>
  hv.frames.has(mfn) && hv.frames.owner[mfn] === domain.domId && ((hv.frames.flags[mfn] as number) & FRAME.xenHeap) === 0;

function readLists(hv: Hypervisor, domain: Domain, listListMfn: number, maxPfn: number): FrameLists | Problem {
  const { machine, frames } = hv;
  const bytes = wordBytesOf(domain);
  const perPage = 4096 / bytes;
  if (maxPfn === 0 || maxPfn > frames.frameCount) return { problem: `its highest pfn is said to be 0x${maxPfn.toString(16)}` };
  const word = (mfn: number, index: number): number => (bytes === 8 && machine.readU32(mfn * 4096 + index * 8 + 4) !== 0 ? -1 : machine.readU32(mfn * 4096 + index * bytes));
  const pageCount = Math.ceil(maxPfn / perPage);
  const listCount = Math.ceil(pageCount / perPage);
  if (listCount > perPage || !isOwn(hv, domain, listListMfn)) return { problem: 'its list of lists of frames is not its own' };
  const listMfns = Array.from({ length: listCount }, (_, i) => word(listListMfn, i));
  if (!listMfns.every((mfn) => isOwn(hv, domain, mfn))) return { problem: 'a list of the pages of its list of frames is not its own' };
  const pageMfns = Array.from({ length: pageCount }, (_, i) => word(listMfns[Math.floor(i / perPage)] as number, i % perPage));
  if (!pageMfns.every((mfn) => isOwn(hv, domain, mfn))) return { problem: 'a page of its list of frames is not its own' };
  const p2m = new Int32Array(maxPfn).fill(-1);
  const pfns = new Int32Array(frames.frameCount).fill(-1);
  for (let pfn = 0; pfn < maxPfn; pfn++) {
    const mfn = word(pageMfns[Math.floor(pfn / perPage)] as number, pfn % perPage);
    // Whatever is no frame of its own (balloon, a mapping of another's) has no place in a saved domain.
    if (!isOwn(hv, domain, mfn)) continue;
    if (pfns[mfn] !== -1) return { problem: `its list of frames names frame 0x${mfn.toString(16)} twice` };
    p2m[pfn] = mfn;
    pfns[mfn] = pfn;
  }
  const pfnOf = (mfn: number): number => pfns[mfn] as number;
  const found = { listList: pfnOf(listListMfn), lists: listMfns.map(pfnOf), pages: pageMfns.map(pfnOf), p2m, pfns };
  return [found.listList, ...found.lists, ...found.pages].includes(-1) ? { problem: 'its list of frames does not name the frames in which it lies' } : found;
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

function writeLists(hv: Hypervisor, domain: Domain, { listList, lists, pages, p2m }: FrameLists): void {
  const bytes = wordBytesOf(domain);
  const perPage = 4096 / bytes;
  const put = (pfns: readonly number[], index: number, mfn: number): void => hv.machine.writeU32((p2m[pfns[Math.floor(index / perPage)] as number] as number) * 4096 + (index % perPage) * bytes, mfn);
  p2m.forEach((mfn, pfn) => mfn >= 0 && put(pages, pfn, mfn));
  pages.forEach((pfn, index) => put(lists, index, p2m[pfn] as number));
  lists.forEach((pfn, index) => put([listList], index, p2m[pfn] as number));
  const at = domain.sharedInfoMfn * 4096 + sharedFields(domain).pfn_to_mfn_frame_list_list.at;
  hv.machine.writeU32(at, p2m[listList] as number);
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
