// What a run, recording or replay says at its end, for people and as JSON.
import { checksText, type CheckSummary } from '../replay/check-watch.ts';

export interface Summary {
  readonly scenario: string;
  readonly seed: string;
  readonly outcome: string;
  readonly text: string;
  readonly events: number;
  readonly instructions: number;
  readonly virtualTimeNs: number;
  readonly wallMs: number;
  readonly mips: number;
  readonly digest: string;
  /** Size of the recording; 0 for `run`. */
  readonly bytes: number;
  readonly file?: string;
  /** Of a branch: what it left, and after how many events. */
  readonly parent?: { readonly file: string; readonly digest: string; readonly events: number };
  /** With --verify. */
  readonly verified?: { readonly same: boolean; readonly text: string };
  /** With --checkpoint-every. */
  readonly checkpoints?: { readonly file: string; readonly bytes: number; readonly count: number };
  readonly exact?: boolean;
  /** Expectations of the scenario that were not met. */
  readonly unmet?: readonly string[];
  /** With --check: how often, and what was found. */
  readonly checked?: CheckSummary;
  readonly eventsByKind: Readonly<Record<string, number>>;
}

const thousands = (value: number): string => value.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ',');

export function durationText(ns: number): string {
  if (ns >= 1e9) return `${(ns / 1e9).toFixed(2)} s`;
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(2)} ms`;
  return `${(ns / 1e3).toFixed(1)} µs`;
}

/** Lines for a terminal; the last one is the verdict. */
export function summaryLines(summary: Summary, verdict: string): string[] {
  const kinds = Object.entries(summary.eventsByKind).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const shown = kinds.slice(0, 8).map(([name, count]) => `${thousands(count)} ${name}`);
  const rest = kinds.slice(8).reduce((sum, [, count]) => sum + count, 0);
  const lines = [
    `outcome        ${summary.outcome}: ${summary.text}`,
    `events         ${thousands(summary.events)}`,
    `               ${[...shown, ...(rest > 0 ? [`${thousands(rest)} others`] : [])].join(', ')}`,
    `instructions   ${thousands(summary.instructions)}`,
    `time           ${durationText(summary.virtualTimeNs)} virtual, ${durationText(summary.wallMs * 1e6)} wall, ${summary.mips.toFixed(0)} MIPS`,
  ];
  if (summary.bytes > 0) {
    // Of a replay that stopped before the end, the file holds more than the events that are counted.
    const perEvent = summary.events > 0 && summary.outcome !== 'stopped' ? ` (${(summary.bytes / summary.events).toFixed(2)} bytes an event)` : '';
    lines.push(`recording      ${summary.file ?? ''}, ${thousands(summary.bytes)} bytes${perEvent}`);
  }
  if (summary.verified !== undefined) lines.push(`verified       ${summary.verified.text}`);
  if (summary.checkpoints !== undefined) lines.push(`checkpoints    ${summary.checkpoints.file}, ${summary.checkpoints.count} in ${thousands(summary.checkpoints.bytes)} bytes`);
  if (summary.checked !== undefined) lines.push(`checks         ${checksText(summary.checked)}, ${summary.checked.broken === undefined ? 'all invariants held' : `BROKEN at ${summary.checked.broken.position}`}`);
  lines.push(`digest         ${summary.digest}`);
  for (const unmet of summary.unmet ?? []) lines.push(`not met        ${unmet}`);
  lines.push(verdict);
  return lines;
}
