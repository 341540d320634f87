// Historical mistakes of Xen's, brought back one at a time: each mutant replaces one row of the rules
// (pte-rules.ts, grant-rules.ts, event-rules.ts) or one hypercall's row in a world of its own. The
// properties that must find them are the shipped ones, the same for all.
//
// The cause of each advisory is told in our words; xenbits.xen.org/xsa/advisory-N.html has Xen's own.
import { EVENT_RULES, type EventRules } from '../hypervisor/event-rules.ts';
import { GRANT_RULES, type GrantRules } from '../hypervisor/grant-rules.ts';
import type { HypercallRow } from '../hypervisor/hypercall.ts';
import { hypercallRows } from '../hypervisor/hypercall-rows.ts';
import { PAGE_RULES, PTE_FLAG, type PageRules, type PerLevel } from '../hypervisor/pte-rules.ts';
import type { WorldRules } from './play.ts';

export interface Mutant {
  readonly name: string;
  /** `XSA-148`. */
  readonly advisory: string;
  /** What was wrong, and what is replaced. */
  readonly cause: string;
  readonly rules: WorldRules;
}

const page = (change: Partial<PageRules>): WorldRules => ({ rules: { ...PAGE_RULES, ...change } });
const grant = (change: Partial<GrantRules>): WorldRules => ({ grantRules: { ...GRANT_RULES, ...change } });
const event = (change: Partial<EventRules>): WorldRules => ({ eventRules: { ...EVENT_RULES, ...change } });
const withoutPse = (levels: PerLevel): PerLevel => [levels[0], levels[1], levels[2] & ~PTE_FLAG.pse, levels[3], levels[4]];
const plus = (levels: PerLevel, flag: number): PerLevel => [levels[0], levels[1], levels[2] | flag, levels[3] | flag, levels[4] | flag];

/** memory_op whose exchange writes its answers wherever it is told. */
function exchangeAnywhere(): WorldRules {
  const MEMORY_OP = 12;
  const XENMEM_EXCHANGE = 11;
  const row = hypercallRows[MEMORY_OP] as HypercallRow;
  const careless: HypercallRow = {
    ...row,
    handle: (hv, vcpu, args) => {
      hv.access.refusesXenRange = (args.u32(0) & 0x3f) !== XENMEM_EXCHANGE;
      const outcome = row.handle(hv, vcpu, args);
      hv.access.refusesXenRange = true;
      return outcome;
    },
  };
  return { hypercallRows: { ...hypercallRows, [MEMORY_OP]: careless } };
}

export const MUTANTS: readonly Mutant[] = [
  { name: 'promotion-not-preemptible', advisory: 'XSA-45', cause: 'a tree of page tables is checked in one go, however large; the long operations had no preemption points', rules: page({ promotionPreempts: false }) },
  { name: 'deferred-table-unreferenced', advisory: 'XSA-58', cause: 'a table that is put aside for a later teardown does not keep its reference, a slip in the repair of XSA-45', rules: page({ deferredKeepsReference: false }) },
  {
    name: 'large-page-in-l2', advisory: 'XSA-148', cause: 'the page-size bit of an L2 entry gets past the check, so that the entry maps memory of anybody',
    rules: page({ disallowed: { pv64: withoutPse(PAGE_RULES.disallowed.pv64), pv32pae: withoutPse(PAGE_RULES.disallowed.pv32pae), 'xen3-pae': withoutPse(PAGE_RULES.disallowed['xen3-pae']), 'xen3-nopae': withoutPse(PAGE_RULES.disallowed['xen3-nopae']) }, fastPath: plus(PAGE_RULES.fastPath, PTE_FLAG.pse) }),
  },
  { name: 'fast-path-makes-writable', advisory: 'XSA-182', cause: 'the write bit of an upper entry counts as harmless, so that a read-only linear mapping becomes a writable one unchecked', rules: page({ fastPath: plus(PAGE_RULES.fastPath, PTE_FLAG.rw) }) },
  { name: 'linear-l3-of-32-bit', advisory: 'XSA-185', cause: 'a 32-bit guest may enter its L3 into itself, where the rules for linear tables do not protect it', rules: page({ linear: { ...PAGE_RULES.linear, pv32pae: [false, false, true, true, false], 'xen3-pae': [false, false, true, true, false] } }) },
  { name: 'exchange-writes-anywhere', advisory: 'XSA-212', cause: 'the addresses to which XENMEM_exchange writes are not checked to be the guest\'s', rules: exchangeAnywhere() },
  { name: 'transfer-keeps-type', advisory: 'XSA-214', cause: 'a transferred frame keeps the type for which it was checked under its former owner', rules: grant({ transferForgetsType: false }) },
  { name: 'transfer-without-flush', advisory: 'XSA-217', cause: 'a frame changes hands while its former owner\'s processor may still have it cached', rules: grant({ transferFlushes: false }) },
  { name: 'two-mappings-one-reference', advisory: 'XSA-224', cause: 'a grant mapped for host and device at once holds one reference, and gives back as few', rules: grant({ eachMappingHoldsReference: false }) },
  { name: 'read-only-forgotten', advisory: 'XSA-224', cause: 'a read-only mapping is undone as if it were writable, so that counts of another kind drop', rules: grant({ unmapKeepsReadOnly: false }) },
  { name: 'unaligned-entry', advisory: 'XSA-227', cause: 'the machine address of the entry for a grant need not be aligned: a write across two entries, checked as neither', rules: grant({ pteAligned: false }) },
  { name: 'unmap-elsewhere', advisory: 'XSA-234', cause: 'unmapping a grant does not look whether the entry named maps that grant, with those rights', rules: grant({ unmapChecksEntry: false }) },
  { name: 'stacked-linear-tables', advisory: 'XSA-240', cause: 'linear page tables may be stacked to any depth, so that letting one go recurses without bound', rules: page({ linearDepthOne: false }) },
  { name: 'stamp-too-old', advisory: 'XSA-241', cause: 'the time of a frame\'s last use as a type is taken too early, so that a flush before the end of that use passes for one after it', rules: page({ stampRenewed: false }) },
  { name: 'upper-teardown-not-preemptible', advisory: 'XSA-252', cause: 'the tables below an L3 or L4 are let go in one go', rules: page({ upperDemotionPreempts: false }) },
  { name: 'teardown-not-preemptible', advisory: 'XSA-290', cause: 'taking an L2 to L4 apart has no preemption points between entries', rules: page({ demotionPreempts: false }) },
  { name: 'restart-drops-reference', advisory: 'XSA-299', cause: 'an entry whose table was interrupted gives up its reference, while the half-way state counts on it', rules: page({ restartKeepsReference: false }) },
  { name: 'half-way-table-unheld', advisory: 'XSA-299', cause: 'a half-checked table is not held by its own state, so that it can be freed in between', rules: page({ partialHoldsReference: false }) },
  { name: 'restart-forgets-entry', advisory: 'XSA-310', cause: 'an interrupted table does not remember that the entry at which it stopped was begun, and takes it twice', rules: page({ restartRemembersEntry: false }) },
  { name: 'failed-map-not-undone', advisory: 'XSA-316', cause: 'a grant map that fails half-way leaves its counts behind', rules: grant({ failedMapIsUndone: false }) },
  { name: 'failed-bind-keeps-port', advisory: 'XSA-317', cause: 'a port taken for a binding that is then refused is never free again', rules: event({ failedBindFreesPort: false }) },
  { name: 'copy-continues-wrong', advisory: 'XSA-318', cause: 'an interrupted batch of grant copies goes on at the wrong element', rules: grant({ continuationSkipsDone: false }) },
  { name: 'status-frames-unbounded', advisory: 'XSA-382', cause: 'asking for more status frames than there are reads past the array', rules: grant({ statusFramesBounded: false }) },
  { name: 'two-step-unmap-counts-twice', advisory: 'XSA-394', cause: 'a mapping for host and device that is undone in two steps gives its counts back in each', rules: grant({ unmapStepsCountedOnce: false }) },
  { name: 'flush-after-check', advisory: 'XSA-401', cause: 'a table is checked before stale writable translations of it are flushed; a check that is interrupted leaves the guest a table that it can write', rules: page({ flushBeforeChecking: false }) },
  // Others, not of that list.
  { name: 'status-frames-freed-in-use', advisory: 'XSA-255', cause: 'going back to version 1 frees status frames that the guest still maps', rules: grant({ statusFramesUnusedBeforeFree: false }) },
  { name: 'second-control-block', advisory: 'XSA-107', cause: 'a vCPU\'s control block can be set again, and the first one is never let go', rules: event({ controlBlockOnce: false }) },
];

/** Advisories of the list that this model cannot have, and why. */
export const IMPOSSIBLE: readonly { readonly advisory: string; readonly why: string }[] = [
  { advisory: 'XSA-109', why: 'it needs a domain with hardware-assisted or shadow paging as target of an MMU update; all domains here are PV with direct tables' },
  { advisory: 'XSA-167', why: 'it needs PV superpages (MMUEXT_MARK_SUPER), which today\'s Xen, and so this model, refuses altogether' },
  { advisory: 'XSA-176', why: 'the page-size bit at level 4 was misread by the guest walk for HVM and shadow guests; no entry with that bit passes the checks of direct tables, and no such walk exists here' },
  { advisory: 'XSA-213', why: 'Xen reached the wrong tables through its linear mapping after IRET changed the mode inside a multicall; this model names its tables by frame and has no linear mapping of its own' },
  { advisory: 'XSA-228', why: 'a race of two CPUs on one free list of handles; hypercalls interleave here at preemption points only, and taking a handle has none' },
  { advisory: 'XSA-236', why: 'a race of a grant copy on one CPU with an unmap on another, between dropping the reference and the pin; no preemption point lies there' },
  { advisory: 'XSA-242', why: 'the lock of a table was dropped as its last type reference by one CPU while another changed it; there are no page locks here because nothing runs in between' },
  { advisory: 'XSA-248', why: 'it needs shadow mode, whose auxiliary pages were owned by the guest' },
  { advisory: 'XSA-286', why: 'Xen read tables through its own stale linear mapping; here it walks them each time' },
  { advisory: 'XSA-287', why: 'a reference taken on another CPU between the check of a frame\'s count and its theft; both are one step here' },
  { advisory: 'XSA-340', why: 'memory barriers between CPUs; memory is sequentially consistent here' },
  { advisory: 'XSA-411', why: 'an inversion of the order of locks; there are no locks here' },
];
