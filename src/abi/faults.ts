// What can be made to go wrong, as rows. A scenario names the faults that may happen and how often; each
// time one could, the seeded scheduler is asked (a choice), and each that does is an event with a position.
//
// All of them are things that real hosts do: a guest that breaks under one has a bug of its own. A fault
// that a correct guest cannot survive is named in `fatal`.

export interface FaultRow {
  readonly about: string;
  /** How many forms it has; the argument of the event is 1..variants. */
  readonly variants: number;
  /** What no correct guest needs to survive. */
  readonly fatal?: string;
}

export const FAULTS = {
  'upcall.delay': { variants: 16, about: 'an event of dom0 reaches the guest late, by 25 µs times the argument' },
  'upcall.drop': { variants: 1, about: 'an event of dom0 never reaches the guest', fatal: 'Xen loses no events: a guest may wait for one for ever' },
  'upcall.duplicate': { variants: 1, about: 'an event of dom0 reaches the guest twice, the second time 10 µs later' },
  'upcall.merge': { variants: 1, about: 'an event of dom0 waits up to 1 ms for the next one of its port' },
  'hypercall.preempt': { variants: 1, about: 'a long hypercall is preempted at its first chance' },
  'hypercall.retry': { variants: 1, about: 'a hypercall that may fail for lack of memory fails so, once' },
  'xenstore.again': { variants: 1, about: 'a transaction ends with EAGAIN' },
  'xenstore.access': { variants: 1, about: 'a request is refused with EACCES', fatal: 'a permission that is missing for good' },
  'xenstore.space': { variants: 1, about: 'a request that writes is refused with ENOSPC', fatal: 'a quota that is used up for good' },
  'xenstore.slow': { variants: 16, about: 'xenstored answers late, by 100 µs times the argument' },
  'block.error': { variants: 1, about: 'a request to a disk fails' },
  'block.late': { variants: 16, about: 'a request to a disk takes longer, by 100 µs times the argument' },
  'net.lose': { variants: 1, about: 'a frame is lost on the switch' },
  'net.duplicate': { variants: 1, about: 'a frame is delivered twice' },
  'net.reorder': { variants: 1, about: 'a frame is overtaken by later ones' },
  'net.corrupt': { variants: 16, about: 'a bit of a frame flips' },
  'backend.crash': { variants: 1, about: 'the back end of a device dies and comes back with empty hands' },
  'grant.map': { variants: 1, about: 'dom0 has no room for a grant mapping' },
  'clock.jump': { variants: 16, about: 'the host takes the time away: the clock jumps by 1 ms times the argument' },
  'domain.pause': { variants: 16, about: 'a domain is paused for 100 µs times the argument' },
  'backend.rebind': { variants: 16, about: 'the back end of a disk is replaced without the guest’s knowledge: it answers what it has taken; the next takes the ring over 20 µs times the argument later' },
  'block.short': { variants: 16, about: 'a disk moves only the first sectors of a request, the more the larger the argument, and then fails' },
  'block.reorder': { variants: 1, about: 'a request to a disk overtakes all that are under way' },
  'grant.grow': { variants: 1, about: 'Xen has no frame for a grant table that is to grow', fatal: 'Linux takes it for a bug of Xen’s, and stops (BUG_ON() in gnttab_map(), drivers/xen/grant-table.c)' },
  'grant.limit': { variants: 1, about: 'a guest that asks how far its grant table may grow hears that it has reached its limit', fatal: 'Linux that hears so while it starts falls: of a single page it makes no list (gnttab_init(), drivers/xen/grant-table.c)' },
} as const satisfies Readonly<Record<string, FaultRow>>;

export type FaultName = keyof typeof FAULTS;
export const FAULT_NAMES = Object.keys(FAULTS) as readonly FaultName[];
export const isFaultName = (name: string): name is FaultName => Object.hasOwn(FAULTS, name);

/** A fault that may happen in a world. */
export interface FaultSpec {
  readonly fault: FaultName;
  /** It happens in one of so many cases, 1 to 1,000,000. */
  readonly oneIn: number;
  /** At most so often. Default: no limit. */
  readonly most?: number;
  /** Not before this virtual time. */
  readonly fromNs?: number;
}

/** Asks whether a fault happens here and now: 0, or the argument 1..variants. */
export type FaultQuestion = (fault: FaultName) => number;
