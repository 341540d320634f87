// The hypercall table: every family contributes rows, the dispatcher looks one up and runs it.
// An unknown number is -ENOSYS, as in Xen's pv_hypercall().
import { ERRNO } from '../abi/errno.ts';
import { done, type HypercallArgs, type HypercallOutcome, type HypercallRow } from './hypercall.ts';
import type { Vcpu } from './domain.ts';
import type { Hypervisor } from './hypervisor.ts';

export type HypercallRows = Readonly<Record<number, HypercallRow>>;

/** Joins families' rows: later families may not redefine a number. */
export function joinRows(...families: readonly HypercallRows[]): Record<number, HypercallRow> {
  const rows: Record<number, HypercallRow> = {};
  for (const family of families) Object.assign(rows, family);
  return rows;
}

/**
 * Runs one hypercall for the vCPU. The caller applies the outcome to the vCPU's registers. A fault
 * that the call owes the guest replaces its result.
 */
export function dispatchHypercall(hv: Hypervisor, vcpu: Vcpu, number: number, args: HypercallArgs): HypercallOutcome {
  const row = hv.hypercallRows[number];
  if (row === undefined) return done(-ERRNO.ENOSYS);
  const before = hv.current;
  hv.current = vcpu;
  const outcome = row.handle(hv, vcpu, args);
  hv.current = before;
  if (hv.pendingGp) {
    hv.pendingGp = false;
    return { kind: 'fault', vector: GP, errorCode: 0 };
  }
  return outcome;
}
const GP = 13;
