// Virtual time: a fixed rational of the world's retired instructions plus the time in which nothing
// could run. No host clock anywhere; equal executions have equal times.
import { assert } from '../base/assert.ts';

export class VirtualClock {
  readonly num: number;
  readonly den: number;
  /** Sum of all jumps over idle time. */
  idleNs = NaN;

  constructor(nsPerInsn: { readonly num: number; readonly den: number }) {
    assert(Number.isInteger(nsPerInsn.num) && Number.isInteger(nsPerInsn.den) && nsPerInsn.num > 0 && nsPerInsn.den > 0, `ns per instruction ${nsPerInsn.num}/${nsPerInsn.den}`);
    this.num = nsPerInsn.num;
    this.den = nsPerInsn.den;
    // From NaN: see base/wide.ts.
    this.idleNs = 0;
  }

  /** System time when the world has retired `insns` instructions. */
  atInsns(insns: number): number {
    return (this.den === 1 ? insns * this.num : Math.floor((insns * this.num) / this.den)) + this.idleNs;
  }

  /** How many more instructions until `deadlineNs`, at least 1. */
  insnsUntil(deadlineNs: number, insns: number): number {
    const spanNs = deadlineNs - this.atInsns(insns);
    return spanNs <= 0 ? 1 : Math.max(1, Math.ceil((spanNs * this.den) / this.num));
  }

  /** TSC ticks per second: chosen so that the TSC is an exact integer function of instructions and idle time. */
  tscKhz(): number {
    return 1_000_000 * this.den;
  }
}
