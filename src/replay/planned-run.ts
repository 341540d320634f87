// One run of a scenario under given choices, without files and without a command line: how it ended, what
// it owes its scenario, and a name for the cause by which failures are told apart.
import { InvariantViolation } from '../base/assert.ts';
import type { MemoryPool } from '../machine/memory-pool.ts';
import { buildWorld, type DomainImages } from '../sim/build-world.ts';
import type { Choices } from '../sim/choices.ts';
import { ScriptedInput } from '../sim/input.ts';
import { OUTCOMES, type Outcome } from '../sim/outcome.ts';
import type { Expectation } from '../sim/scenario.ts';
import type { WorldSpec } from '../sim/spec.ts';
import type { EventSink, World } from '../sim/world.ts';

export interface RunSubject {
  readonly spec: WorldSpec;
  readonly images: readonly DomainImages[];
  readonly expect: Expectation;
  /** For who makes many runs: their worlds' memories, which nobody may look at once the run is over. */
  readonly pool?: MemoryPool;
}

export interface PlannedRun {
  readonly outcome: Outcome | 'bug';
  readonly text: string;
  readonly unmet: readonly string[];
  /** Undefined: it did what its scenario expects. */
  readonly cause: string | undefined;
  readonly events: number;
  readonly instructions: number;
}

const SLICE_INSNS = 20_000_000;

/** `maxInstructions`: fewer than the spec allows, if a run that takes longer is of no interest. */
export function runPlanned(subject: RunSubject, choices: Choices, options: { readonly sink?: (world: World) => EventSink; readonly maxInstructions?: number } = {}): PlannedRun {
  const { images, expect, pool } = subject;
  const spec = { ...subject.spec, digestEveryInsns: 0, maxInstructions: Math.min(subject.spec.maxInstructions, options.maxInstructions ?? Infinity) };
  const shown = new Map<number, string>();
  let world: World | undefined;
  try {
    world = buildWorld({
      spec, images, choices, input: (domIdOf) => new ScriptedInput(spec.input, domIdOf),
      observers: { consoleOut: (domId, bytes) => void shown.set(domId, (shown.get(domId) ?? '') + new TextDecoder('latin1').decode(bytes)) },
      ...(options.sink === undefined ? {} : { sink: options.sink }),
      ...(pool === undefined ? {} : { pool }),
    });
    for (;;) {
      const result = world.advance(SLICE_INSNS);
      const textOf = (domId: number): string => shown.get(domId) ?? '';
      if (result.kind === 'ended') return summed(world, result.outcome, result.text, unmetExpectations(expect, result.outcome, spec, textOf), [...shown.values()].join('\n'));
    }
  } catch (error) {
    // A bug of this program is a failure like others: it has a plan that leads to it.
    if (!(error instanceof InvariantViolation)) throw error;
    return summed(world, 'bug', error.message, [], '');
  } finally {
    if (world !== undefined) pool?.giveBack(world.machine);
  }
}

function summed(world: World | undefined, outcome: PlannedRun['outcome'], text: string, unmet: readonly string[], console: string): PlannedRun {
  const isDone = outcome !== 'bug' && OUTCOMES[outcome].done;
  const failed = !isDone || unmet.length > 0;
  const words = isDone ? unmet[0] : outcome === 'crash' ? lastLine(console) : undefined;
  return { outcome, text, unmet, cause: failed ? causeOf(outcome, text, words) : undefined, events: world?.eventCount ?? 0, instructions: world?.insns() ?? 0 };
}

/**
 * What runs that fail for the same reason have in common: how they ended; of a crash what the guest said last; of a run
 * that came to a good end the first thing that it owes. What else is missing then follows from that. Numbers aside.
 */
const causeOf = (outcome: string, text: string, words: string | undefined): string => [`${outcome}: ${text}`, ...(words === undefined ? [] : [words])].join('; ').replace(/0x[0-9a-f]+|\d+/g, 'N');
const lastLine = (console: string): string | undefined => console.split(/[\r\n]+/).filter((line) => line.trim() !== '').at(-1)?.trim();

/** What the scenario expects and did not get, as sentences; `textOf` is what domain 1, 2, ... has printed. */
export function unmetExpectations(expect: Expectation, outcome: string, spec: WorldSpec, textOf: (domId: number) => string): string[] {
  const unmet: string[] = [];
  if (expect.outcome !== undefined && expect.outcome !== outcome) unmet.push(`the scenario expects the outcome ${expect.outcome}, not ${outcome}`);
  unmet.push(...missingTexts('the console', expect.console ?? [], textOf(1)));
  for (const [name, texts] of Object.entries(expect.consoles ?? {})) {
    const index = spec.domains.findIndex((domain) => domain.name === name);
    if (index < 0) unmet.push(`the scenario expects something of a domain ${name}, which it does not have`);
    else unmet.push(...missingTexts(`the console of ${name}`, texts, textOf(index + 1)));
  }
  return unmet;
}

function missingTexts(what: string, texts: readonly string[], shown: string): string[] {
  const missing: string[] = [];
  let from = 0;
  for (const text of texts) {
    const at = shown.indexOf(text, from);
    if (at < 0) missing.push(`${what} never showed ${JSON.stringify(text)}${from > 0 ? ' after what came before it' : ''}`);
    else from = at + text.length;
  }
  return missing;
}
