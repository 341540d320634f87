// Whom a hypercall may act for: the domain argument of MMU calls, and whether the caller has power
// over it. Source: get_pg_owner() in xen/common/page_alloc.c; the dummy XSM module's XSM_TARGET.
import { DOMID } from '../abi/domid.ts';
import type { Domain } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

/**
 * The domain id that owns the frames of an MMU call: DOMID_SELF is the caller, DOMID_IO and
 * DOMID_XEN are themselves. undefined (ESRCH): no such domain, or the caller by its own number.
 */
export function pageOwnerId(hv: Hypervisor, caller: Domain, domId: number): number | undefined {
  if (domId === caller.domId) return undefined;
  if (domId === DOMID.SELF) return caller.domId;
  if (domId === DOMID.IO || domId === DOMID.XEN) return domId;
  return hv.domains.has(domId) ? domId : undefined;
}

/** The domain of an id in a hypercall where DOMID_SELF is allowed (rcu_lock_domain_by_any_id). */
export function domainByAnyId(hv: Hypervisor, caller: Domain, domId: number): Domain | undefined {
  return domId === DOMID.SELF ? caller : hv.domains.get(domId);
}

/** May the caller act on that domain: itself, or anybody if it is privileged. */
export const mayControl = (caller: Domain, domId: number): boolean => caller.domId === domId || caller.privileged;
