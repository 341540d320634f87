// Domain ids as guests write them in hypercall arguments.
import { DOMID } from '../abi/domid.ts';
import type { Domain } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

/** rcu_lock_domain_by_any_id(): DOMID_SELF or the number of a domain that exists; undefined is ESRCH. */
export function domainByAnyId(hv: Hypervisor, current: Domain, domId: number): Domain | undefined {
  if (domId === DOMID.SELF) return current;
  const found = hv.domain(domId);
  return found === undefined || found.life.kind === 'destroyed' ? undefined : found;
}
