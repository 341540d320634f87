// The checkers as a list, and the one way to run them: a survey, then every row over it.
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { MAX_VIOLATIONS, type Checker, type CheckerName, type Violation } from './checker.ts';
import { endingsChecker, eventChannelsChecker, grantsChecker } from './channel-checkers.ts';
import { descriptorsChecker } from './descriptor-checker.ts';
import { countsChecker, entriesChecker, exclusivityChecker } from './memory-checkers.ts';
import { machineToPhysChecker, reservedSlotsChecker } from './reserved-checkers.ts';
import { Survey } from './survey.ts';
import { translationsChecker } from './translation-checker.ts';

export type { Checker, CheckerName, Violation };
export { p2mProblems } from './reserved-checkers.ts';

export const CHECKERS: readonly Checker[] = [
  countsChecker, exclusivityChecker, entriesChecker, descriptorsChecker, reservedSlotsChecker, machineToPhysChecker, translationsChecker, eventChannelsChecker, grantsChecker, endingsChecker,
];

/** A use of a frame that no state shows: tests take some by hand. */
export interface ExtraHold {
  readonly mfn: number;
  readonly typed: 'writable' | undefined;
}

export interface CheckOptions {
  readonly checkers?: readonly Checker[];
  readonly extra?: readonly ExtraHold[];
}

/**
 * Checks one hypervisor again and again on the same buffers. Call it only while the hypervisor is at
 * rest: after an exit or an entry of the agenda was handled, never inside a hypercall.
 */
export class InvariantChecker {
  readonly #survey: Survey;

  /** `limit`: frames from this one on belong to nobody and stay so; they are not looked at, which makes checks of small domains on large machines fast. */
  constructor(hv: Hypervisor, limit?: number) {
    this.#survey = new Survey(hv, limit);
  }

  /** What does not hold, in the order of CHECKERS; empty if all is well. Reads everything, writes nothing. */
  run({ checkers = CHECKERS, extra = [] }: CheckOptions = {}): Violation[] {
    const survey = this.#survey.take();
    for (const { mfn, typed } of extra) survey.hold(mfn, typed === undefined ? 0 : WRITABLE_USE, typed !== undefined);
    const violations: Violation[] = [];
    for (const { name, check } of checkers) {
      const limit = violations.length + MAX_VIOLATIONS;
      check(survey, (where, text) => {
        if (violations.length < limit) violations.push({ checker: name, where, text });
      });
    }
    return violations;
  }
}
const WRITABLE_USE = 64;

/** All checkers, once. For many checks of one hypervisor make an InvariantChecker. */
export const checkAll = (hv: Hypervisor, options?: CheckOptions): Violation[] => new InvariantChecker(hv).run(options);

/** `counts: mfn 1a2b: 2 references were found, ...`. */
export const violationText = ({ checker, where, text }: Violation): string => `${checker}: ${where}: ${text}`;
