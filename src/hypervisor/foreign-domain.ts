// Whom a hypercall may act for: the domain argument of MMU calls, and whether the caller has power
// over it. Source: get_pg_owner() in xen/common/page_alloc.c; the dummy XSM module's XSM_TARGET.
//
// Domain 0 of a world is services, not a guest, but it exists: a guest that names it is refused as a stranger (EPERM), not
// told that there is nobody (ESRCH). It has no port that waits for a guest, and no grant.
import { DOMID } from '../abi/domid.ts';
import type { Domain } from './domain.ts';
import { newEventChannels } from './event-channels.ts';
import { GNTST, newGrantTable } from './grant-table.ts';
import { newDomain, type Hypervisor } from './hypervisor.ts';
import { ABIS } from './personality.ts';

/** From now on there is a domain 0. */
export function introduceDom0(hv: Hypervisor): void {
  hv.dom0 = newDomain(hv, { domId: 0, name: 'Domain-0', abi: ABIS.pv64, privileged: true, maxPages: 0, events: newEventChannels(), grants: newGrantTable() });
}

/** The domain of an id that a guest wrote down, domain 0 among them (rcu_lock_domain_by_id). */
export const domainById = (hv: Hypervisor, domId: number): Domain | undefined => hv.domains.get(domId) ?? (domId === 0 ? hv.dom0 : undefined);

/** Entries of the one frame that a grant table begins with (version 1, as Linux wants it). */
const DOM0_GRANTS = 512;
/** What taking a grant of domain 0's comes to: its entries are invalid (_set_status). undefined: it is somebody else's. */
export function dom0GrantRefusal(hv: Hypervisor, granter: Domain, gref: number): number | undefined {
  if (granter !== hv.dom0) return undefined;
  return gref < DOM0_GRANTS ? GNTST.general_error : GNTST.bad_gntref;
}

/**
 * The domain id that owns the frames of an MMU call: DOMID_SELF is the caller, DOMID_IO and
 * DOMID_XEN are themselves. undefined (ESRCH): no such domain, or the caller by its own number.
 */
export function pageOwnerId(hv: Hypervisor, caller: Domain, domId: number): number | undefined {
  if (domId === caller.domId) return undefined;
  if (domId === DOMID.SELF) return caller.domId;
  if (domId === DOMID.IO || domId === DOMID.XEN) return domId;
  return domainById(hv, domId) === undefined ? undefined : domId;
}

/** The domain of an id in a hypercall where DOMID_SELF is allowed (rcu_lock_domain_by_any_id). */
export function domainByAnyId(hv: Hypervisor, caller: Domain, domId: number): Domain | undefined {
  return domId === DOMID.SELF ? caller : domainById(hv, domId);
}

/** May the caller act on that domain: itself, or anybody if it is privileged. */
export const mayControl = (caller: Domain, domId: number): boolean => caller.domId === domId || caller.privileged;
