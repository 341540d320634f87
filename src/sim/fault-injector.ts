// Decides whether a fault happens: the scheduler is asked, so that a recording has the answer and a
// bisection can take it away. Options 0 to oneIn-2 mean no, in such a way that 0, the answer of the calmest
// of all runs, is always a no (but for a fault that always happens).
import { FAULTS, type FaultName, type FaultSpec } from '../abi/faults.ts';
import type { ChoiceName } from './choices.ts';

export interface FaultPort {
  nowNs(): number;
  choose(name: ChoiceName, options: number): number;
  /** It happens. */
  happened(fault: FaultName, argument: number, domId: number): void;
}

export class FaultInjector {
  readonly #specs: ReadonlyMap<FaultName, FaultSpec>;
  readonly #port: FaultPort;
  #counts: Partial<Record<FaultName, number>> = {};

  constructor(specs: readonly FaultSpec[], port: FaultPort) {
    this.#specs = new Map(specs.map((spec) => [spec.fault, spec]));
    this.#port = port;
  }

  /** 0: it does not happen here; else its argument, 1..variants. */
  ask(fault: FaultName, domId: number): number {
    const spec = this.#specs.get(fault);
    if (spec === undefined || (this.#counts[fault] ?? 0) >= (spec.most ?? Infinity) || this.#port.nowNs() < (spec.fromNs ?? 0)) return 0;
    const { variants } = FAULTS[fault];
    const options = spec.oneIn * variants;
    const argument = (options > 1 ? this.#port.choose(`fault.${fault}`, options) : 0) - (options - variants) + 1;
    if (argument < 1) return 0;
    this.#counts[fault] = (this.#counts[fault] ?? 0) + 1;
    this.#port.happened(fault, argument, domId);
    return argument;
  }

  save(): unknown {
    return { ...this.#counts };
  }

  restore(saved: unknown): void {
    this.#counts = { ...(saved as Partial<Record<FaultName, number>>) };
  }
}
