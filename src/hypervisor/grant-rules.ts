// The rules of grant tables that were once forgotten, one row each: a test replaces a row in its own
// hypervisor (hv.grantRules) and must see a checker notice. Xen has them all.

export interface GrantRules {
  /** A page-table entry named by machine address is aligned to its size. XSA-227. */
  readonly pteAligned: boolean;
  /** Unmapping checks that the entry maps the granted frame, present and with the grant's write permission. XSA-234. */
  readonly unmapChecksEntry: boolean;
  /** Host and device mapping of one handle each hold a reference of their own. XSA-224. */
  readonly eachMappingHoldsReference: boolean;
  /** A read-only mapping is undone as a read-only one. XSA-224. */
  readonly unmapKeepsReadOnly: boolean;
  /** A writable mapping takes the frame's writable type. */
  readonly writableTakesType: boolean;
  /** A read-only grant is not mapped or copied to writable. */
  readonly readOnlyRefusesWriting: boolean;
  /** Counts of one grant's uses are refused before they wrap. */
  readonly pinOverflowRefused: boolean;
  /** A map that fails half-way gives back what it took. XSA-316. */
  readonly failedMapIsUndone: boolean;
  /** A copy stays inside both pages and, for sub-page grants, inside the granted bytes. */
  readonly copyInsideBounds: boolean;
  /**
   * A frame of another domain's may not be named by number in any element of a copy. The recorded Xen asks only
   * when the domains of a batch change (gnttab_copy_one()), which is too seldom: RECORDED_GRANT_RULES.
   */
  readonly copyAsksEachElement: boolean;
  /** Asking for more status frames than there are is refused. XSA-382. */
  readonly statusFramesBounded: boolean;
  /** Status frames that are still mapped stop the way back to version 1. XSA-255. */
  readonly statusFramesUnusedBeforeFree: boolean;
  /** A transferred frame has no use left but its allocation. XSA-214, XSA-217. */
  readonly transferNeedsSoleReference: boolean;
  /** A transferred frame forgets its type. XSA-214. */
  readonly transferForgetsType: boolean;
  /** Translations of a transferred frame are flushed before it changes hands. XSA-217. */
  readonly transferFlushes: boolean;
  /** A mapping for host and device that is undone in two steps gives back one use in each. XSA-394. */
  readonly unmapStepsCountedOnce: boolean;
  /** A batch that is preempted goes on behind its last finished element. XSA-318. */
  readonly continuationSkipsDone: boolean;
}

export const GRANT_RULES: GrantRules = {
  pteAligned: true, unmapChecksEntry: true, eachMappingHoldsReference: true, unmapKeepsReadOnly: true, writableTakesType: true, readOnlyRefusesWriting: true,
  pinOverflowRefused: true, failedMapIsUndone: true, copyInsideBounds: true, copyAsksEachElement: true, statusFramesBounded: true, statusFramesUnusedBeforeFree: true,
  transferNeedsSoleReference: true, transferForgetsType: true, transferFlushes: true, unmapStepsCountedOnce: true,
  continuationSkipsDone: true,
};

/** The rules of the Xen whose answers were recorded. */
export const RECORDED_GRANT_RULES: GrantRules = { ...GRANT_RULES, copyAsksEachElement: false };
