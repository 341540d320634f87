// Prints how a run ended and turns it into the exit code.
import { OUTCOMES, type Outcome } from '../sim/outcome.ts';
import type { CheckSummary } from '../replay/check-watch.ts';
import { summaryLines, type Summary } from './summary.ts';

export interface RunResult {
  readonly summary: Summary;
  readonly outcome: Outcome;
  readonly checked: CheckSummary;
  /** Lines of the profile, if one was asked for. */
  readonly profile?: readonly string[];
}

/** 0: the run did what the scenario expects of it; 1: crash, limit, stuck, an expectation was not met or an invariant is broken. */
export function exitCodeOf(result: RunResult): 0 | 1 {
  return result.checked.broken === undefined && OUTCOMES[result.outcome].done && (result.summary.unmet ?? []).length === 0 ? 0 : 1;
}

/** Prints the summary and returns the exit code. */
export function report(result: RunResult, options: { json: boolean; what: string }): 0 | 1 {
  const code = exitCodeOf(result);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(result.summary)}\n`);
    return code;
  }
  process.stdout.write(`\n${summaryLines(result.summary, `${options.what}: ${code === 0 ? 'done' : 'done, but the run itself failed, as its outcome says (exit code 1)'}`).join('\n')}\n`);
  if (result.profile !== undefined) process.stdout.write(`${result.profile.join('\n')}\n`);
  return code;
}
