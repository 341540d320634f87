// A hypercall is a row: number, name, arguments, handler, how it is logged. The dispatcher, the log,
// `dump` and the tests read the row. Handlers are in hypercalls/, one file per family.
import type { HypercallName } from '../abi/hypercall-numbers.ts';
import type { Hypervisor } from './hypervisor.ts';
import type { Vcpu } from './domain.ts';

/** The argument registers as halves; 32-bit guests have hi = 0. `addr(i)` is a guest pointer: u32, or a signed canonical number. */
export class HypercallArgs {
  readonly lo = new Uint32Array(6);
  readonly hi = new Uint32Array(6);

  /** Low 32 bits of argument `index`, unsigned. */
  u32(index: number): number {
    return this.lo[index] as number;
  }
  /** As a guest address: exact for every canonical address; others come out non-canonical and fault. */
  addr(index: number): number {
    return ((this.hi[index] as number) | 0) * 0x1_0000_0000 + (this.lo[index] as number);
  }
  /** Unsigned 64-bit as a number; exact below 2^53. */
  u64(index: number): number {
    return (this.hi[index] as number) * 0x1_0000_0000 + (this.lo[index] as number);
  }
  set(values: readonly number[]): this {
    this.lo.fill(0);
    this.hi.fill(0);
    values.forEach((value, index) => {
      this.lo[index] = value >>> 0;
      this.hi[index] = Math.floor(value / 0x1_0000_0000) >>> 0;
    });
    return this;
  }
}

/**
 * How a handler ended.
 * done: rc goes to the guest's accumulator (negative errno or a non-negative value).
 * continuation: preempted; the guest re-executes the hypercall with these argument registers
 *   (rip is back on the hypercall instruction), as Xen's hypercall_create_continuation does.
 * noReturn: registers were set by the handler itself (iret), or the domain is gone.
 * fault: Xen raises this exception in the guest instead of returning (debug builds, bad iret frames).
 */
export type HypercallOutcome =
  | { readonly kind: 'done'; readonly rc: number }
  | { readonly kind: 'continuation'; readonly args: readonly number[] }
  | { readonly kind: 'noReturn' }
  | { readonly kind: 'fault'; readonly vector: number; readonly errorCode: number };

export type ArgKind = 'u32' | 'u64' | 'handle' | 'vaddr' | 'pte' | 'domid' | 'cmd' | 'flags' | 'count' | 'port';

export interface HypercallRow {
  readonly name: HypercallName;
  readonly args: readonly { readonly name: string; readonly kind: ArgKind }[];
  /** Sub-commands by number, for logging and dump: `mmuext_op` rows name theirs inside the batch. */
  readonly commands?: Readonly<Record<number, string>>;
  /** Which argument is the command; default 0. */
  readonly commandArg?: number;
  readonly handle: (hv: Hypervisor, vcpu: Vcpu, args: HypercallArgs) => HypercallOutcome;
}

const SUCCESS: HypercallOutcome = { kind: 'done', rc: 0 };
export const done = (rc: number): HypercallOutcome => (rc === 0 ? SUCCESS : { kind: 'done', rc });
