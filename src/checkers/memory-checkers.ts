// Checkers of frames and page tables: counts, exclusivity, entries.
import { FRAME, FRAME_TYPE_NAMES, FREE_OWNER } from '../hypervisor/frame-table.ts';
import { entryText, frameText, type Checker, type Report } from './checker.ts';
import { ODD, type OddKind, type Survey, TABLE_USES, USE } from './survey.ts';

const useNames = (uses: number): string => Object.entries(USE).filter(([, bit]) => (uses & bit) !== 0).map(([name]) => name).join(' and ') || 'nothing';

function checkCounts(survey: Survey, report: Report): void {
  const { frames, refs, types, linear, used, usedCount, freeRuns } = survey;
  const { refCount, typeCount, linearCount } = frames;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    if (refCount[mfn] !== refs[mfn]) report(frameText(mfn), `${refs[mfn]} references were found, ${refCount[mfn]} are counted: ${frames.describe(mfn)}`);
    if (typeCount[mfn] !== types[mfn]) report(frameText(mfn), `${types[mfn]} uses as its type were found, ${typeCount[mfn]} are counted: ${frames.describe(mfn)}`);
    if (linear[mfn] !== linearCount[mfn] && typeCount[mfn] !== 0) report(frameText(mfn), `${linear[mfn]} linear entries (negative: uses) were found, ${linearCount[mfn]} are counted: ${frames.describe(mfn)}`);
  }
  const { flags, type } = frames;
  for (let i = 0; i < freeRuns.length; i += 2) {
    const end = freeRuns[i + 1] as number;
    for (let mfn = freeRuns[i] as number; mfn < end; mfn++) {
      const inUse = (refCount[mfn] as number) | (typeCount[mfn] as number) | (refs[mfn] as number) | (flags[mfn] as number) | (type[mfn] as number);
      if (inUse !== 0) report(frameText(mfn), `belongs to nobody, yet is in use; ${refs[mfn]} references were found: ${frames.describe(mfn)}`);
    }
  }
  checkTotals(survey, report);
}

/** The free list and the domains' totals. */
function checkTotals({ hv, frames, used, usedCount, limit }: Survey, report: Report): void {
  const { owner, flags, freeList, freeCount } = frames;
  const free: number = FREE_OWNER;
  const xenHeap: number = FRAME.xenHeap;
  for (let i = 0; i < freeCount; i++) {
    const mfn = freeList[i] as number;
    if (mfn < limit && owner[mfn] !== free) report(frameText(mfn), `is on the free list, yet in use: ${frames.describe(mfn)}`);
  }
  const totals = new Map<number, number>();
  let last = -1;
  let run = 0;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    if (owner[mfn] !== last) {
      totals.set(last, (totals.get(last) ?? 0) + run);
      last = owner[mfn] as number;
      run = 0;
    }
    if (((flags[mfn] as number) & xenHeap) === 0) run++;
  }
  totals.set(last, (totals.get(last) ?? 0) + run);
  for (const domain of hv.domains.values()) {
    const found = totals.get(domain.domId) ?? 0;
    if (found !== domain.totPages) report(`d${domain.domId}`, `${found} frames were found, ${domain.totPages} are counted`);
  }
}

function checkExclusivity({ frames, uses, used, usedCount }: Survey, report: Report): void {
  const { type, typeCount } = frames;
  const writable: number = USE.writable;
  for (let i = 0; i < usedCount; i++) {
    const mfn = used[i] as number;
    const use = uses[mfn] as number;
    if (use === 0) continue;
    const kind = type[mfn] as number;
    // Uses of tables are 1 << type, of writable pages 1 << 6.
    if (use === 1 << kind && typeCount[mfn] !== 0) continue;
    if ((use & writable) !== 0 && (use & TABLE_USES) !== 0) report(frameText(mfn), `is mapped writable and is ${useNames(use & TABLE_USES)}: ${frames.describe(mfn)}`);
    else if ((use & (use - 1)) !== 0) report(frameText(mfn), `is used as ${useNames(use)}: ${frames.describe(mfn)}`);
    else report(frameText(mfn), `is used as ${useNames(use)}, but typed ${FRAME_TYPE_NAMES[kind]} with ${typeCount[mfn]} uses: ${frames.describe(mfn)}`);
  }
}

/** Kinds that other checkers speak of. */
const EXCLUSIVITY_KINDS: ReadonlySet<OddKind> = new Set<OddKind>(['writableSelf']);

function checkEntries(survey: Survey, report: Report): void {
  const { frames, odd, xenL2Uses } = survey;
  for (const { kind, tableMfn, index, lo, hi } of odd) {
    if (EXCLUSIVITY_KINDS.has(kind)) continue;
    report(entryText(tableMfn, index), `${ODD[kind]} (${hi.toString(16).padStart(8, '0')}${lo.toString(16).padStart(8, '0')}): ${frames.describe(tableMfn)}`);
  }
  for (const tableMfn of survey.tables) {
    if ((xenL2Uses[tableMfn] as number) > 1) report(frameText(tableMfn), `sits in slot 3 of ${xenL2Uses[tableMfn]} roots; Xen's entries fit one`);
  }
  checkLinear(survey, report);
  checkForeign(survey, report);
}

/** Tables that map tables of their own level do not form chains, which could be torn down only by recursion: XSA-240. */
function checkLinear({ frames, linearPairs }: Survey, report: Report): void {
  if (linearPairs.length === 0) return;
  const targets = new Set(linearPairs.filter((_, index) => index % 2 === 1));
  for (let i = 0; i < linearPairs.length; i += 2) {
    const table = linearPairs[i] as number;
    if (targets.has(table)) report(frameText(table), `maps a table of its own level and is mapped by one: ${frames.describe(table)}`);
  }
}

/** Frames of others: as many entries, and as many writable ones, as this domain has grants mapped. */
function checkForeign({ hv, frames, foreign }: Survey, report: Report): void {
  if (foreign.length === 0) return;
  const found = new Map<string, { entries: number; writable: number }>();
  for (const entry of foreign) {
    const { domain, targetMfn, tableMfn, index } = entry;
    if (domain.privileged) continue;
    const key = `${domain.domId}:${targetMfn}`;
    const seen = found.get(key) ?? { entries: 0, writable: 0 };
    found.set(key, seen);
    seen.entries++;
    if (entry.writable) seen.writable++;
    const allowed = granted(hv.domains.get(frames.owner[targetMfn] as number)?.grants.active ?? {}, domain.domId, targetMfn);
    const what = seen.entries > allowed.read + allowed.write ? 'maps' : seen.writable > allowed.write ? 'maps writable' : undefined;
    if (what !== undefined) report(entryText(tableMfn, index), `${what} a frame of d${frames.owner[targetMfn]} without a grant for d${domain.domId}: ${frames.describe(targetMfn)}`);
  }
}

function granted(active: Readonly<Record<number, { readonly domId: number; readonly mfn: number; readonly pin: { readonly hostWrite: number; readonly hostRead: number } }>>, domId: number, mfn: number): { read: number; write: number } {
  const sum = { read: 0, write: 0 };
  for (const grant of Object.values(active)) {
    if (grant.domId !== domId || grant.mfn !== mfn) continue;
    sum.read += grant.pin.hostRead;
    sum.write += grant.pin.hostWrite;
  }
  return sum;
}

export const countsChecker: Checker = {
  name: 'counts',
  claim: 'reference, type and linear counts are what tables, pins, base pointers, descriptor tables, grants and shared frames add up to',
  check: checkCounts,
};
export const exclusivityChecker: Checker = {
  name: 'exclusivity',
  claim: 'no frame is both writable for a guest and a page table or descriptor table, and every use is the one its type names',
  check: (survey, report) => {
    checkExclusivity(survey, report);
    for (const { kind, tableMfn, index } of survey.odd) if (EXCLUSIVITY_KINDS.has(kind)) report(entryText(tableMfn, index), ODD[kind]);
  },
};
export const entriesChecker: Checker = {
  name: 'entries',
  claim: 'a present entry of a checked table has allowed flags and leads to a frame its domain may reach, of the right type for its level',
  check: checkEntries,
};
