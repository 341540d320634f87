// References and types of frames: the rule that keeps guests from writing their own page tables. A
// frame has one type at a time; a reference of another type is refused until the count of the old
// one is zero. Taking the first reference of a page-table or descriptor type validates the content,
// dropping the last one gives back what its entries held (page-tables.ts does the level's work).
// Both may be interrupted between entries and go on later: the frame is `partial` meanwhile.
//
//     none ──first use──► l1|l2|l3|l4|segDesc (validated) ──last drop──► type stays, count 0
//       ▲                        │ interrupted: partial, one reference held by the state itself
//       └── failed ──────────────┘
//
// Source of the rules: _get_page_type(), _put_page_type() and around, xen/arch/x86/mm.c.
// Return codes are 0 or negative errno; -EINTR and -ERESTART are the two ways to be interrupted.
import { assert } from '../base/assert.ts';
import { ERRNO } from '../abi/errno.ts';
import { FRAME, FRAME_TYPE, FREE_OWNER } from './frame-table.ts';
import { releaseFrame, type Hypervisor } from './hypervisor.ts';
import { emitPageType } from './mm-events.ts';
import { demoteTable, promoteTable } from './page-tables.ts';
import { validateDescriptors } from './segment-descriptors.ts';
import type { OldTable } from './domain.ts';
import { flushIfStale } from './tlb-clock.ts';

export { flushDomainTlb, flushVcpuTlb } from './tlb-clock.ts';

/** Wanted type "L2 that sits in slot 3 of a PAE root": FRAME_TYPE.l2 and this bit. */
export const PAE_XEN_L2 = 0x40;

/** How entries are taken and put (PTF_* of mm.c). */
export const PUT = { partialSet: 1, preemptible: 4, defer: 8, retainRefOnRestart: 16 } as const;

export const EINVAL = -ERRNO.EINVAL;
export const EINTR = -ERRNO.EINTR;
export const ERESTART = -ERRNO.ERESTART;

/** A count beyond which another reference is refused, so that it cannot wrap. */
const MAX_COUNT = 0xffff_fff0;

/** Where the interrupted table of the running hypercall is kept: the vCPU, or Xen's own slot when no guest runs. */
export function oldTableHolder(hv: Hypervisor): { oldTable: OldTable | undefined } {
  return hv.current ?? hv.idle;
}

/** Between two units of counted work: must the hypercall stop here? Never when no guest asks. The entries of L1 tables done since count too. */
export function preemptCheck(hv: Hypervisor): boolean {
  if (uninterrupted.depth > 0) return false;
  const units = 1 + hv.uncountedWork;
  hv.uncountedWork = 0;
  return hv.current !== undefined && hv.world.preempt(units);
}

/** Above zero, nothing is interrupted: only where a test has taken a rule away (upperDemotionPreempts). */
export const uninterrupted = { depth: 0 };

// -- general references ---------------------------------------------------------------------------

/** Takes a reference if the frame exists, is in use and belongs to `domId` (get_page_from_mfn). */
export function getPage(hv: Hypervisor, mfn: number, domId: number): boolean {
  const { frames } = hv;
  if (!frames.has(mfn) || (frames.owner[mfn] !== domId && hv.rules.ownerChecked)) return false;
  const count = frames.refCount[mfn] as number;
  if (count === 0 || count >= MAX_COUNT) return false;
  frames.refCount[mfn] = count + 1;
  return true;
}

/** Takes a reference whoever owns the frame; the owner's id, or FREE_OWNER if it is not in use. */
export function getPageAndOwner(hv: Hypervisor, mfn: number): number {
  const { frames } = hv;
  const count = frames.refCount[mfn] as number;
  if (count === 0 || count >= MAX_COUNT) return FREE_OWNER;
  frames.refCount[mfn] = count + 1;
  return frames.owner[mfn] as number;
}

/** Drops a reference; with the last one the frame goes back to the pool. */
export function putPage(hv: Hypervisor, mfn: number): void {
  const { frames } = hv;
  const count = frames.refCount[mfn] as number;
  assert(count > 0, () => `put of an unreferenced frame: ${frames.describe(mfn)}`);
  frames.refCount[mfn] = count - 1;
  if (count === 1) freePage(hv, mfn);
}

function freePage(hv: Hypervisor, mfn: number): void {
  const { frames } = hv;
  const xenHeap = ((frames.flags[mfn] as number) & FRAME.xenHeap) !== 0;
  assert(xenHeap || frames.typeCount[mfn] === 0, () => `frame freed while typed: ${frames.describe(mfn)}`);
  const owner = hv.domains.get(frames.owner[mfn] as number);
  if (owner !== undefined && !xenHeap) owner.totPages--;
  releaseFrame(hv, mfn);
}

/** Drops the reference of "allocated to its owner", once (put_page_alloc_ref). */
export function putAllocation(hv: Hypervisor, mfn: number): void {
  const flags = hv.frames.flags[mfn] as number;
  if ((flags & FRAME.allocated) === 0) return;
  hv.frames.flags[mfn] = flags & ~FRAME.allocated;
  putPage(hv, mfn);
}

// -- type references ------------------------------------------------------------------------------

/**
 * Takes a type reference; the caller holds a general one. `want` is a FRAME_TYPE, for L2 also with
 * PAE_XEN_L2. 0, -EINVAL (another type, or content that breaks the rules), or an interruption.
 */
export function getType(hv: Hypervisor, mfn: number, want: number, preemptible: boolean): number {
  const { frames } = hv;
  const count = frames.typeCount[mfn] as number;
  if (count >= MAX_COUNT) return EINVAL;
  const flags = frames.flags[mfn] as number;
  const type = frames.type[mfn] as number;
  const wantType = want & 0xf;
  let wasPartial = false;
  if (count === 0) {
    const changes = type !== want;
    if (changes) {
      frames.type[mfn] = wantType;
      frames.flags[mfn] = (flags & ~FRAME.validated) | ((want & PAE_XEN_L2) !== 0 ? FRAME.paeXenL2 : 0);
    }
    frames.typeCount[mfn] = 1;
    if (changes && hv.rules.flushOnTypeChange && hv.rules.flushBeforeChecking) flushIfStale(hv, mfn);
  } else {
    const actual = type | ((flags & FRAME.paeXenL2) !== 0 ? PAE_XEN_L2 : 0);
    if (actual !== want && hv.rules.typesExclude) return EINVAL;
    if ((flags & FRAME.validated) === 0) {
      assert((flags & FRAME.partial) !== 0 && count === 1, () => `frame is being validated already: ${frames.describe(mfn)}`);
      wasPartial = true;
      frames.flags[mfn] = flags & ~FRAME.partial;
    } else {
      frames.typeCount[mfn] = count + 1;
    }
  }
  if (((frames.flags[mfn] as number) & FRAME.validated) !== 0) return 0;
  if (wantType === FRAME_TYPE.writable) {
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.validated;
    return 0;
  }
  if (!wasPartial) {
    frames.validEntries[mfn] = 0;
    frames.partialFlags[mfn] = 0;
    frames.linearCount[mfn] = 0;
  }
  assert(preemptible || wantType === FRAME_TYPE.l1 || wantType === FRAME_TYPE.segDesc, () => `type ${wantType} needs a preemptible caller`);
  const rc = validate(hv, mfn, type, wantType);
  // The partial state held a general reference of its own.
  if (wasPartial && hv.rules.partialHoldsReference) putPage(hv, mfn);
  if (rc === 0 && hv.rules.flushOnTypeChange && !hv.rules.flushBeforeChecking) flushIfStale(hv, mfn);
  return rc;
}

function validate(hv: Hypervisor, mfn: number, from: number, type: number): number {
  const { frames } = hv;
  const rc = type === FRAME_TYPE.segDesc ? validateDescriptors(hv, mfn) : promoteTable(hv, mfn, type);
  if (rc === 0) {
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.validated;
    emitPageType(hv, mfn, from, type, true);
  } else if (rc === EINTR) {
    frames.typeCount[mfn] = 0;
    // Xen leaves the PAE mark of a frame without count; nothing else may see it.
    frames.flags[mfn] = (frames.flags[mfn] as number) & ~FRAME.paeXenL2;
  } else if (rc !== ERESTART && oldTableHolder(hv).oldTable?.mfn !== mfn) {
    frames.type[mfn] = FRAME_TYPE.none;
    frames.typeCount[mfn] = 0;
    frames.flags[mfn] = (frames.flags[mfn] as number) & ~(FRAME.validated | FRAME.partial | FRAME.pinned | FRAME.paeXenL2);
  } else {
    if (hv.rules.partialHoldsReference) frames.refCount[mfn] = (frames.refCount[mfn] as number) + 1;
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.partial;
  }
  return rc;
}

/**
 * Drops a type reference. `how` are PUT flags; `parentMfn` is the table whose entry it was, or -1.
 * 0, or an interruption if preemptible.
 */
export function putType(hv: Hypervisor, mfn: number, how: number, parentMfn: number): number {
  const { frames } = hv;
  const flags = frames.flags[mfn] as number;
  const count = frames.typeCount[mfn] as number;
  if ((how & PUT.partialSet) !== 0) {
    // Only a half-done (de)validation is to be finished, if there is one.
    if ((flags & FRAME.partial) === 0) return 0;
    assert(count === 1, () => `partial frame with a count: ${frames.describe(mfn)}`);
  } else {
    const dying = (): boolean => hv.domains.get(frames.owner[mfn] as number)?.life.kind === 'destroyed';
    assert((flags & FRAME.partial) === 0 && ((flags & FRAME.validated) !== 0 || dying()), () => `put of a type that is not validated: ${frames.describe(mfn)}`);
  }
  assert(count > 0, () => `put of an unused type: ${frames.describe(mfn)}`);
  const type = frames.type[mfn] as number;
  const linear = parentMfn >= 0 && frames.type[parentMfn] === type;
  if (count === 1) {
    if (isTable(type) && (flags & (FRAME.validated | FRAME.partial)) !== 0) {
      frames.flags[mfn] = flags & ~(FRAME.validated | FRAME.partial);
      const rc = devalidate(hv, mfn, type, flags, linear ? parentMfn : -1);
      if ((flags & FRAME.partial) !== 0 && hv.rules.partialHoldsReference) putPage(hv, mfn);
      return rc;
    }
    if (hv.rules.stampRenewed) frames.tlbStamp[mfn] = frames.tlbClock;
  }
  frames.typeCount[mfn] = count - 1;
  if (linear) dropLinear(hv, mfn, parentMfn);
  return 0;
}

function devalidate(hv: Hypervisor, mfn: number, type: number, flagsBefore: number, linearParent: number): number {
  const { frames } = hv;
  const rc = demoteTable(hv, mfn, type, (flagsBefore & FRAME.partial) !== 0);
  if (linearParent >= 0 && (flagsBefore & FRAME.validated) !== 0 && rc !== EINTR) dropLinear(hv, mfn, linearParent);
  if (rc === 0) {
    frames.tlbStamp[mfn] = frames.tlbClock;
    frames.typeCount[mfn] = (frames.typeCount[mfn] as number) - 1;
    emitPageType(hv, mfn, type, type, false);
  } else if (rc === EINTR) {
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.validated;
  } else {
    if (hv.rules.partialHoldsReference) frames.refCount[mfn] = (frames.refCount[mfn] as number) + 1;
    frames.flags[mfn] = (frames.flags[mfn] as number) | FRAME.partial;
  }
  return rc;
}

function dropLinear(hv: Hypervisor, mfn: number, parentMfn: number): void {
  const { linearCount } = hv.frames;
  linearCount[mfn] = (linearCount[mfn] as number) + 1;
  linearCount[parentMfn] = (linearCount[parentMfn] as number) - 1;
}

export const isTable = (type: number): boolean => type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.l4;

// -- both at once ---------------------------------------------------------------------------------

/** For types that cannot be interrupted: writable, segDesc, L1. */
export function getPageAndType(hv: Hypervisor, mfn: number, domId: number, want: number): boolean {
  if (!getPage(hv, mfn, domId)) return false;
  if (getType(hv, mfn, want, false) === 0) return true;
  putPage(hv, mfn);
  return false;
}

export function putPageAndType(hv: Hypervisor, mfn: number): void {
  const rc = putType(hv, mfn, 0, -1);
  assert(rc === 0, () => `put was interrupted (${rc}): ${hv.frames.describe(mfn)}`);
  putPage(hv, mfn);
}

/** 0: both dropped. Interrupted: both still held; keep the frame as oldTable. */
export function putPageAndTypePreemptible(hv: Hypervisor, mfn: number): number {
  const rc = putType(hv, mfn, PUT.preemptible, -1);
  if (rc === 0) putPage(hv, mfn);
  return rc;
}

/** A reference and a type for a table's entry or a base pointer. See get_page_and_type_from_mfn() for when the reference stays. */
export function getPageAndTypeFor(hv: Hypervisor, mfn: number, domId: number, want: number, how: number): number {
  const partialSet = (how & PUT.partialSet) !== 0;
  if (!partialSet && !getPage(hv, mfn, domId)) return EINVAL;
  const rc = getType(hv, mfn, want, (how & PUT.preemptible) !== 0);
  const keep = rc === 0 || partialSet || (oldTableHolder(hv).oldTable?.mfn === mfn && hv.rules.deferredKeepsReference) || ((how & PUT.retainRefOnRestart) !== 0 && rc === ERESTART);
  if (!keep) putPage(hv, mfn);
  return rc;
}

/** Finishes the table that an earlier call of this vCPU left. 0 or -ERESTART. */
export function putOldTable(hv: Hypervisor, holder: { oldTable: OldTable | undefined }): number {
  const old = holder.oldTable;
  if (old === undefined) return 0;
  const rc = putType(hv, old.mfn, PUT.preemptible | (old.partial ? PUT.partialSet : 0), old.parentMfn);
  if (rc === ERESTART || rc === EINTR) {
    holder.oldTable = { ...old, partial: rc === ERESTART };
    return ERESTART;
  }
  holder.oldTable = undefined;
  putPage(hv, old.mfn);
  return 0;
}

/** Remembers an interrupted put: rc is -EINTR (the type is still held) or -ERESTART (half torn down). */
export function keepOldTable(hv: Hypervisor, mfn: number, rc: number): void {
  oldTableHolder(hv).oldTable = { mfn, parentMfn: -1, partial: rc === ERESTART };
}
