// What a guest asks of the shadow-paging hypervisor, as rows: number in EAX, arguments in EBX, ECX, EDX,
// ESI. Three interfaces of one host; a guest uses one of them. All addresses of tables are
// guest-physical and below 4 GiB.
//
// A queue holds calls that wait: QUEUE_WORDS words each (number, arguments), in one page of the guest's
// whose guest-physical address `sendQueue` names. The host carries them out in order.

export const SHADOW_CALL = {
  // -- all -----------------------------------------------------------------------------------------
  /** (page, count) */
  sendQueue: 1,
  // -- lguest: the tables are the guest's own; it tells of what it has changed ------------------------
  /** (root) The base of the tables. */
  newPageTable: 2,
  /** (root, vaddr) The entry that maps `vaddr` below `root` has changed. */
  setPte: 3,
  /** (table, index) An entry of an upper table has changed. */
  setPmd: 4,
  /** (all) 0: user addresses, 1: the kernel's too. */
  flushTlb: 5,
  // -- VMI: pages are announced as tables, entries set by the host or announced -----------------------
  /** (frame, level, frame that it is a copy of or 0) */
  allocatePage: 8,
  /** (frame, level) */
  releasePage: 9,
  /** (entry, low, high) Stores the entry and makes it true. */
  setPxE: 10,
  /** (entry) The guest has stored it. */
  updatePxE: 11,
  /** (all) */
  flushTlbVmi: 12,
  /** (vaddr) */
  invalPage: 13,
  /** (root) */
  setPageTableBase: 14,
  // -- KVM: stores to tables trap; these go in a queue only, to save traps ----------------------------
  /** (entry, low, high) */
  writePte: 16,
  flushTlbKvm: 17,
  /** (table) It is none any more. */
  releaseTable: 18,
} as const;
export type ShadowCallName = keyof typeof SHADOW_CALL;

/** Names by number, for the log. */
export const SHADOW_CALL_NAMES: readonly string[] = Array.from({ length: Math.max(...Object.values(SHADOW_CALL)) + 1 }, (_, nr) => Object.entries(SHADOW_CALL).find(([, value]) => value === nr)?.[0] ?? `call_${nr}`);
/** Words of a queued call. */
export const QUEUE_WORDS = 4;
export const QUEUE_CALLS = 4096 / (QUEUE_WORDS * 4);
/** Answer of a call that the host does not know, or that makes no sense. */
export const SHADOW_EINVAL = -22;

/** What became of a fault on a shadow table; numbers are the indices. */
export const SHADOW_FAULT = ['filled', 'guest', 'emulated', 'fatal'] as const;
/** Ports of the host's devices and words of its boot page are those of a bare machine: see guest/native. */
