// What a checker is: a row with a name, a claim in one sentence, and a function that reads the whole
// system and says where the claim does not hold. Checkers never write, and share no rule with the
// hypervisor: they know its state (frame table, domains, ports, grants) and the manuals, no more.
import type { Domain } from '../hypervisor/domain.ts';
import type { Survey } from './survey.ts';

export type CheckerName = 'counts' | 'exclusivity' | 'entries' | 'descriptors' | 'reservedSlots' | 'machineToPhys' | 'translations' | 'eventChannels' | 'grants' | 'endings';

export interface Violation {
  /** `shadows`, `shadow-tlb`: of a host of shadow page tables (shadow-checker.ts, shadow-tlb-checker.ts), no rows over the hypervisor's state. */
  readonly checker: CheckerName | 'shadows' | 'shadow-tlb';
  /** What it is about: `mfn 1a2b`, `d1 port 3`, `d1 grant 8`. */
  readonly where: string;
  /** One sentence with the expected and the actual values. */
  readonly text: string;
}

export type Report = (where: string, text: string) => void;

export interface Checker {
  readonly name: CheckerName;
  /** What holds whenever the hypervisor is at rest. */
  readonly claim: string;
  readonly check: (survey: Survey, report: Report) => void;
}

/** How many violations of each checker one check keeps: one mistake may break thousands of entries. */
export const MAX_VIOLATIONS = 12;

export const frameText = (mfn: number): string => `mfn ${mfn.toString(16)}`;
export const domainText = (domain: Domain): string => `d${domain.domId}`;
export const entryText = (tableMfn: number, index: number): string => `entry ${index} of ${frameText(tableMfn)}`;
