// `rexen record` and `rexen run`: the same world, with and without a recording.
import { Option, type Command } from 'commander';
import { UsageError } from '../../base/assert.ts';
import { loadHashes } from '../../node/load-hashes.ts';
import { refuseToOverwrite } from '../../node/output-file.ts';
import { findScenario } from '../../node/scenario-files.ts';
import { applySetting, applySettings } from '../../sim/settings.ts';
import { MOST_VIRTUAL_SEC } from '../../sim/spec.ts';
import type { Scenario } from '../../sim/scenario.ts';
import { brokenLines, type CheckMode } from '../../replay/check-watch.ts';
import { parsePlan, type ChoicePlan } from '../../replay/plan.ts';
import { INPUTS_DIGEST_EVERY_INSNS, type LogMode } from '../../replay/whole-digest.ts';
import { runLive } from '../live-run.ts';
import { report } from '../report.ts';
import { checkOption, parseSeed } from '../arguments.ts';
import { runScenarioTwice, verifyRecording } from '../self-check.ts';
import { everyArgument } from './checkpoint.ts';

export interface RunOptions {
  readonly output?: string;
  readonly seed: string;
  readonly plan?: string;
  readonly set: readonly string[];
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly interactive?: boolean;
  readonly cmdline?: string;
  readonly ramdisk?: string;
  readonly memory?: string;
  readonly maxInstructions?: string;
  readonly compress?: 'none' | 'deflate';
  readonly log?: LogMode;
  readonly profile?: boolean;
  readonly check: CheckMode;
  readonly checkpointEvery?: string;
  readonly verify?: boolean;
  readonly twice?: boolean;
}

const collect = (value: string, earlier: readonly string[]): readonly string[] => [...earlier, value];

function withRunOptions(command: Command): Command {
  return command
    .argument('<scenario>', 'a name from `rexen scenarios`, a scenario file, an xl.cfg file, or a kernel image')
    .option('--seed <n>', 'seed of every choice: a whole number', '1')
    .option('--plan <text>', 'answers that differ from the seed: NAME#NTH=ANSWER,..., after `calm` from the calmest run (as `bisect` and `explore` print them)')
    .option('--set <key=value>', 'change a setting of the world; may be given several times', collect, [])
    .option('--cmdline <text>', "the first domain's command line")
    .option('--ramdisk <file>', "the first domain's ramdisk")
    .option('--memory <mib>', "the first domain's memory in MiB")
    .option('--max-instructions <n>', 'end the run after this many instructions (default 20,000,000,000)')
    .option('--interactive', 'type at the console yourself instead of following the script (Ctrl-] ends)')
    .option('--json', 'print one JSON object and nothing else')
    .option('--quiet', "do not show the guest's console")
    .option('--profile', 'say where the time went')
    .addOption(checkOption());
}

export function register(program: Command): void {
  withRunOptions(program.command('record').description('run a scenario and write down everything that happens'))
    .option('-o, --output <file>', 'the recording (default: SCENARIO.rxr)')
    .option('--verify', 'replay the recording at once and say whether it is exact')
    .option('--checkpoint-every <n>', 'leave a checkpoint beside the recording every so many instructions, or `auto`: as far apart as seeking may take (for `replay --until` and `rexen/timeline`)')
    .addOption(new Option('--compress <how>', 'how chunks of events are stored').choices(['none', 'deflate']).default('deflate'))
    .addOption(new Option('--log <what>', 'write all events, or only inputs and digests of the rest: what a replay needs').choices(['all', 'inputs']).default('all'))
    .action((scenario: string, options: RunOptions) => execute(scenario, options, true));
  withRunOptions(program.command('run').description('run a scenario without recording it'))
    .option('--twice', 'run it two times in lock-step and compare every event and state digest')
    .action((scenario: string, options: RunOptions) => execute(scenario, options, false));
}

async function execute(name: string, options: RunOptions, recording: boolean): Promise<void> {
  await loadHashes();
  const scenario = withOptions(await findScenario(name), options);
  const seed = parseSeed(options.seed);
  const plan = options.plan === undefined ? undefined : parsePlan(options.plan);
  if (options.twice === true) return twice(scenario, seed, plan, options);
  const file = recording ? (options.output ?? `${scenario.name.replaceAll('/', '-')}.rxr`) : undefined;
  if (file !== undefined) refuseToOverwrite(file, [name]);
  const result = await runLive({
    scenario,
    seed,
    ...(plan === undefined ? {} : { plan }),
    file,
    compression: options.compress ?? 'deflate',
    log: options.log ?? 'all',
    interactive: options.interactive === true,
    showConsole: options.json !== true && options.quiet !== true,
    progress: options.json !== true && options.quiet === true,
    profile: options.profile === true,
    check: options.check,
    ...(options.checkpointEvery === undefined ? {} : { checkpointEvery: options.checkpointEvery === 'auto' ? 'auto' as const : everyArgument('--checkpoint-every', options.checkpointEvery) }),
  });
  const broken = brokenLines(result.checked);
  if (broken.length > 0) process.stderr.write(`${broken.join('\n')}\n`);
  const verified = options.verify === true && file !== undefined ? await verifyRecording(file, options.json !== true) : undefined;
  const shown = verified === undefined ? result : { ...result, summary: { ...result.summary, verified: { same: verified.same, text: verified.text } } };
  const code = report(shown, { json: options.json === true, what: recording ? 'recorded' : 'ran' });
  if (verified?.same === false && options.json !== true) process.stdout.write(`${verified.lines.join('\n')}\n`);
  process.exitCode = verified?.same === false ? 1 : code;
}

async function twice(scenario: Scenario, seed: string, plan: ChoicePlan | undefined, options: RunOptions): Promise<void> {
  if (options.interactive === true) throw new UsageError('--twice and --interactive do not go together: nobody types the same twice');
  const { lines, ...facts } = await runScenarioTwice(scenario, seed, plan);
  process.exitCode = facts.same ? 0 : 1;
  process.stdout.write(options.json === true ? `${JSON.stringify({ scenario: scenario.name, seed, ...facts })}\n` : `${lines.join('\n')}\n`);
}

/** Options that are shorthands for settings. */
function withOptions(scenario: Scenario, options: RunOptions): Scenario {
  const shorthands: [string, string | undefined][] = [
    ['memory', options.memory],
    ['cmdline', options.cmdline ?? (options.interactive === true ? scenario.interactive?.cmdline : undefined)],
    ['max-instructions', options.maxInstructions],
  ];
  const digests = options.log === 'inputs' ? { digestEveryInsns: INPUTS_DIGEST_EVERY_INSNS } : {};
  let spec = { ...scenario.spec, ...digests };
  for (const [key, value] of shorthands) if (value !== undefined) spec = applySetting(spec, key, value, `--${key} ${value}`);
  spec = applySettings(spec, options.set);
  if (options.ramdisk !== undefined) {
    const ramdisk = { name: options.ramdisk };
    spec = { ...spec, domains: spec.domains.map((domain, index) => (index === 0 ? { ...domain, ramdisk } : domain)) };
  }
  // A person takes time, and may: it counts as virtual time while the guest waits.
  if (options.interactive === true) spec = { ...spec, input: [], maxVirtualSec: MOST_VIRTUAL_SEC };
  // What a person types, and what another ramdisk does, the scenario cannot foresee.
  return { ...scenario, spec, expect: options.interactive === true || options.ramdisk !== undefined ? {} : scenario.expect };
}
