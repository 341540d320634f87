// Checkers of what is Xen's: its slots in guests' tables, its own tables, the windows on descriptor
// tables, and the machine-to-phys tables.
//
//   pv64 root      256 the read-only m2p (or nothing), 258 the root itself, 260 the windows, else nothing
//   PAE L2 (3)     428.. the read-only m2p, 500 the windows          two-level root  1008.. and 1018
//   window L1      per vCPU 32 entries: 14 of its GDT (zeros where it gave none),
//                  Xen's page, 16 of its LDT; all read-only
import { DOMID } from '../abi/domid.ts';
import type { Domain, Vcpu } from '../hypervisor/domain.ts';
import type { PerDomain } from '../hypervisor/per-domain.ts';
import { FRAME, INVALID_M2P } from '../hypervisor/frame-table.ts';
import { domainText, entryText, frameText, type Checker, type Report } from './checker.ts';
import { PTE_LO, XEN_SLOTS, xenSlots } from './entry-law.ts';
import type { Survey } from './survey.ts';

/** present, RW, accessed, dirty; with USER where a 64-bit guest's kernel (ring 3) reads through it. */
const XEN_TABLE = 0x63;
const XEN_TABLE_USER = 0x67;
const READ_ONLY = PTE_LO.present | PTE_LO.accessed;
const READ_ONLY_USER = READ_ONLY | PTE_LO.user;

/** An entry that must be exactly this; `orNone`: or absent. mfn -1: absent. */
function expectEntry(survey: Survey, report: Report, tableMfn: number, index: number, bytes: 4 | 8, mfn: number, flags: number, orNone = false): void {
  const { machine } = survey;
  const at = (machine.ramBase + tableMfn * 4096 + index * bytes) >>> 2;
  const lo = machine.u32[at] as number;
  const hi = bytes === 8 ? (machine.u32[at + 1] as number) : 0;
  const wantLo = mfn < 0 ? 0 : ((mfn << 12) | flags) >>> 0;
  const wantHi = mfn < 0 || bytes === 4 ? 0 : mfn >>> 20;
  if ((lo === wantLo && hi === wantHi) || (orNone && lo === 0 && hi === 0)) return;
  const text = (high: number, low: number): string => `${bytes === 8 ? high.toString(16).padStart(8, '0') : ''}${low.toString(16).padStart(8, '0')}`;
  report(entryText(tableMfn, index), `is Xen's and must be ${text(wantHi, wantLo)}, but is ${text(hi, lo)}`);
}

/** Entries that must be absent: [from, to). */
function expectNone(survey: Survey, report: Report, tableMfn: number, from: number, to: number, bytes: 4 | 8): void {
  const { u32, ramBase } = survey.machine;
  const start = (ramBase + tableMfn * 4096) >>> 2;
  const step = bytes / 4;
  for (let at = start + from * step; at < start + to * step; at++) {
    if (u32[at] !== 0) report(entryText(tableMfn, Math.floor((at - start) / step)), "is Xen's and must be absent");
  }
}

function checkReserved(survey: Survey, report: Report): void {
  const { frames, hv } = survey;
  for (const mfn of survey.tables) {
    const bits = frames.flags[mfn] as number;
    const domain = hv.domains.get(frames.owner[mfn] as number);
    // Xen writes its slots when a table has been checked; one that is being torn down is nobody's.
    if (domain === undefined || (bits & FRAME.validated) === 0) continue;
    const level = frames.type[mfn] as number;
    const slots = xenSlots(domain.abi, level, (bits & FRAME.paeXenL2) !== 0);
    if (slots.end <= 1024) checkSlots(survey, report, domain, mfn, slots.first, slots.end);
    if (level === 3 && domain.abi.name === 'pv32pae') expectNone(survey, report, mfn, 4, 512, 8);
  }
  for (const domain of hv.domains.values()) checkWindows(survey, report, domain);
  checkXenTables(survey, report);
}

function checkSlots(survey: Survey, report: Report, domain: Domain, tableMfn: number, first: number, end: number): void {
  const { xenTables } = survey.hv;
  const { levels, pteBytes } = domain.abi;
  const windows = domain.perDomain?.slotMfn ?? -1;
  for (let index = first; index < end; index++) {
    if (levels === 4) {
      const { m2p, self, perDomain } = XEN_SLOTS.fourLevelRoot;
      // The m2p is shown while the kernel runs on the root, or always; never half.
      if (index === m2p) expectEntry(survey, report, tableMfn, index, 8, xenTables.fourLevelL3Mfn, XEN_TABLE_USER, true);
      else expectEntry(survey, report, tableMfn, index, 8, index === self ? tableMfn : index === perDomain ? windows : -1, XEN_TABLE);
      continue;
    }
    const l1s = levels === 3 ? xenTables.paeL1Mfns : xenTables.twoLevelL1Mfns;
    const windowSlot = levels === 3 ? XEN_SLOTS.paeL2.perDomain : XEN_SLOTS.twoLevelRoot.perDomain;
    expectEntry(survey, report, tableMfn, index, pteBytes, index === windowSlot ? windows : (l1s[index - first] ?? -1), XEN_TABLE);
  }
}

const GDT_PAGES = 14;
const LDT_PAGES = 16;
const WINDOW_PAGES = 32;

/** The windows show the frames that the vCPU has been counted for, and no others. */
function checkWindows(survey: Survey, report: Report, domain: Domain): void {
  const { perDomain } = domain;
  if (perDomain === undefined || domain.life.kind === 'destroyed') return;
  const { pteBytes } = domain.abi;
  for (const vcpu of domain.vcpus) {
    const first = vcpu.vcpuId * WINDOW_PAGES;
    for (let page = 0; page < WINDOW_PAGES; page++) {
      const mfn = windowFrame(vcpu, page, perDomain);
      // A vCPU that was never loaded has no window yet.
      const isXens = mfn === perDomain.reservedGdtMfn || mfn === perDomain.zeroMfn;
      expectEntry(survey, report, perDomain.l1Mfn, first + page, pteBytes, mfn, READ_ONLY, isXens);
    }
  }
  expectNone(survey, report, perDomain.zeroMfn, 0, 512, 8);
}

function windowFrame(vcpu: Vcpu, page: number, perDomain: PerDomain): number {
  if (page < GDT_PAGES) return vcpu.gdtFrames[page] ?? perDomain.zeroMfn;
  if (page === GDT_PAGES) return perDomain.reservedGdtMfn;
  if (page < WINDOW_PAGES - LDT_PAGES) return -1;
  const mfn = vcpu.ldtFrames[page - (WINDOW_PAGES - LDT_PAGES)] ?? 0;
  return mfn === 0 ? -1 : mfn;
}

/** Xen's own tables map the m2p frames read-only, one after the other, and nothing else. */
function checkXenTables(survey: Survey, report: Report): void {
  const { hv, frames } = survey;
  const { paeL1Mfns, twoLevelL1Mfns, fourLevelL3Mfn } = hv.xenTables;
  const frames4 = Math.ceil((frames.frameCount * 4) / 4096);
  const checkL1s = (l1s: readonly number[], bytes: 4 | 8): void => l1s.forEach((l1, table) => {
    const perTable = 4096 / bytes;
    const here = Math.max(0, Math.min(perTable, frames4 - table * perTable));
    for (let i = 0; i < here; i++) expectEntry(survey, report, l1, i, bytes, frames.m2p32Mfn + table * perTable + i, READ_ONLY);
    expectNone(survey, report, l1, here, perTable, bytes);
  });
  checkL1s(paeL1Mfns, 8);
  checkL1s(twoLevelL1Mfns, 4);
  // Four levels: one L2 below the L3; its L1s map the wide table.
  const frames8 = Math.ceil((frames.frameCount * 8) / 4096);
  const { u32, ramBase } = survey.machine;
  const below = (table: number, index: number): number => (u32[(ramBase + table * 4096 + index * 8) >>> 2] as number) >>> 12;
  const l2 = below(fourLevelL3Mfn, 0);
  if (!isXens(survey, l2)) return report(entryText(fourLevelL3Mfn, 0), "does not lead to a table of Xen's");
  for (let i = 0; i < Math.ceil(frames8 / 512); i++) {
    const l1 = below(l2, i);
    if (!isXens(survey, l1)) report(entryText(l2, i), "does not lead to a table of Xen's");
    else {
      const here = Math.min(512, frames8 - i * 512);
      for (let page = 0; page < here; page++) expectEntry(survey, report, l1, page, 8, frames.m2p64Mfn + i * 512 + page, READ_ONLY_USER);
      expectNone(survey, report, l1, here, 512, 8);
    }
  }
}
const isXens = ({ frames }: Survey, mfn: number): boolean => frames.has(mfn) && frames.owner[mfn] === DOMID.XEN;

export const reservedSlotsChecker: Checker = {
  name: 'reservedSlots',
  claim: "Xen's slots in guests' tables, its own tables and the windows on descriptor tables hold what Xen put there",
  check: checkReserved,
};

// -- machine-to-phys ------------------------------------------------------------------------------

function checkM2p({ frames, machine, freeRuns, used, usedCount }: Survey, report: Report): void {
  const { m2p32Mfn, m2p64Mfn } = frames;
  const { u32, ramBase } = machine;
  const narrow = (ramBase + m2p32Mfn * 4096) >>> 2;
  const wide = (ramBase + m2p64Mfn * 4096) >>> 2;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    const pfn = u32[narrow + mfn] as number;
    const pfn64 = u32[wide + mfn * 2] as number;
    if (pfn !== pfn64) report(frameText(mfn), `has pfn ${pfn.toString(16)} in the 4-byte table and ${pfn64.toString(16)} in the 8-byte one`);
  }
  const none: number = INVALID_M2P;
  for (let i = 0; i < freeRuns.length; i += 2) {
    const end = freeRuns[i + 1] as number;
    for (let mfn = freeRuns[i] as number; mfn < end; mfn++) {
      if (u32[narrow + mfn] !== none || u32[wide + mfn * 2] !== none) report(frameText(mfn), `belongs to nobody, yet has pfn ${(u32[narrow + mfn] as number).toString(16)}`);
    }
  }
}

export const machineToPhysChecker: Checker = {
  name: 'machineToPhys',
  claim: 'both machine-to-phys tables say the same, and nothing of frames without an owner',
  check: checkM2p,
};

/**
 * Is this list of frames by pfn (the toolstack's at the domain's start, or a guest's) the inverse of
 * the machine-to-phys table, for frames that both know? The list is the guest's to break: this holds
 * for guests that keep it, so it is no row of CHECKERS.
 */
export function p2mProblems({ frames }: Pick<Survey, 'frames'>, domain: Domain, list: readonly number[]): string[] {
  const problems: string[] = [];
  list.forEach((mfn, pfn) => {
    if (!frames.has(mfn) || frames.owner[mfn] !== domain.domId) return;
    const back = frames.getM2p(mfn);
    if (back !== pfn && (list[back] ?? mfn) !== mfn) problems.push(`${domainText(domain)}: pfn ${pfn.toString(16)} is ${frameText(mfn)}, whose pfn is ${back.toString(16)}, which is ${frameText(list[back] as number)}`);
    else if (back !== pfn && back !== INVALID_M2P) problems.push(`${domainText(domain)}: pfn ${pfn.toString(16)} is ${frameText(mfn)}, whose pfn is ${back.toString(16)}`);
  });
  return problems;
}
