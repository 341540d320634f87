// `record --verify` and `run --twice`: does the same run come out again?
import { InvariantViolation } from '../base/assert.ts';
import { loadImages } from '../node/load-images.ts';
import { divergenceLines } from '../replay/divergence-report.ts';
import { eventDiffLines, relationText } from '../replay/diff.ts';
import { runTwice } from '../replay/lock-step.ts';
import { imageSymbols } from '../replay/symbols.ts';
import { choicesFor, type ChoicePlan } from '../replay/plan.ts';
import { buildWorld } from '../sim/build-world.ts';
import { ScriptedInput } from '../sim/input.ts';
import type { Scenario } from '../sim/scenario.ts';
import { portableSpec } from '../node/load-images.ts';
import { runReplay } from './replay-run.ts';

export interface SelfCheck {
  readonly same: boolean;
  readonly text: string;
  readonly lines: readonly string[];
}

/** Replays what was just recorded. */
export async function verifyRecording(file: string, progress: boolean): Promise<SelfCheck> {
  const { outcome, report } = await runReplay({ file, until: undefined, images: [], showConsole: false, progress });
  const same = outcome === 'exact';
  return { same, text: same ? 'replayed at once: exact' : `replayed at once: ${report?.sentence ?? outcome}`, lines: report === undefined ? [] : divergenceLines(report) };
}

/** Runs the scenario twice in lock-step, and compares as it goes. */
export async function runScenarioTwice(scenario: Scenario, seed: string, plan?: ChoicePlan): Promise<SelfCheck & { readonly events: number; readonly stateDigests: number; readonly outcome: string }> {
  const images = await loadImages(scenario.spec);
  const spec = portableSpec(scenario.spec);
  const found = runTwice((_, sink) => buildWorld({ spec, images: images.domains, choices: choicesFor(seed, plan), input: (domIdOf) => new ScriptedInput(spec.input, domIdOf), sink }), undefined, () => imageSymbols(images.domains));
  const { events, stateDigests, outcome, parting, state } = found;
  const facts = { events, stateDigests, outcome };
  if (parting !== undefined) {
    const text = `the two executions part at ${parting.position}: ${relationText(parting)}`;
    return { same: false, text, lines: [...eventDiffLines(parting), `DIFFERENT: ${text}`], ...facts };
  }
  if (state !== undefined) {
    const text = `after the same ${state.atEvent} events the states of the two executions differ in ${state.parts.join(', ')}`;
    return { same: false, text, lines: [`DIFFERENT: ${text}`], ...facts };
  }
  if (outcome === 'running') throw new InvariantViolation('two executions ended without an outcome');
  const text = `both executions made the same ${events} events, had the same ${stateDigests} state digests and ended with ${outcome}`;
  return { same: true, text, lines: [text], ...facts };
}
