// Plays a program in a small world and judges after every step: all checkers, then the model's laws.
// A crash of the hypervisor (one of our own assertions, or worse) is a finding like any other.
import { CHECKERS, InvariantChecker, violationText } from '../checkers/index.ts';
import { GRANT_RULES } from '../hypervisor/grant-rules.ts';
import { destroyDomain } from '../hypervisor/destroy-domain.ts';
import type { Hypervisor } from '../hypervisor/hypervisor.ts';
import { putOldTable, putPageAndType } from '../hypervisor/page-types.ts';
import { XEN_BUILDS } from '../hypervisor/personality.ts';
import { ConformRunner, FAMILIES, type Script } from '../replay/conform.ts';
import type { ConformContext } from '../replay/conform-op.ts';
import type { ConformWorldOptions } from '../replay/conform-world.ts';
import { Laws, ProgressMeter } from './laws.ts';
import { SHAPES, type Program, type Step } from './program.ts';
import { PEER_ENDED, PEER_MFNS, peerMfns, TESTING_FAMILY } from './steps.ts';

/** Low memory, Xen's own frames, d1's 64 and d2's, and a few to give out. */
const WORLD_FRAMES = 448;
/** More rounds than any call of these programs needs. */
/** A trap table as long as the guest's low memory, or a batch of thousands, is no hang. */
const MAX_CONTINUATIONS = 200_000;
/** Of each call, so many interruptions are looked at. */
const CHECKED_INTERRUPTIONS = 3;
const WHILE_INTERRUPTED = CHECKERS.filter(({ name }) => name === 'counts' || name === 'exclusivity');

/** The rules that a world is played by: what a mutant replaces. */
export type WorldRules = Pick<ConformWorldOptions, 'rules' | 'grantRules' | 'eventRules' | 'build'> & Partial<Pick<ConformWorldOptions, 'hypercallRows'>> & {
  /** Called once the world stands, before the first step. */
  readonly prepare?: (hv: Hypervisor) => void;
};

export interface Finding {
  /** Index of the step after which it showed; steps.length: when the domains ended. */
  readonly step: number;
  /** What does not hold: `counts: mfn 1a2b: ...`. The first is the one to read. */
  readonly problems: readonly string[];
}

export type Judge = 'checkers' | 'model';

export interface PlayOptions {
  readonly judges?: readonly Judge[];
  /** Look at the world after each step; what it returns is a problem. */
  readonly afterStep?: (world: TestWorld, step: Step, answer: unknown) => readonly string[] | undefined;
  /** Judge after every step (as usual), or only when all is done: for very many programs. */
  readonly judgeAt?: 'step' | 'end';
}

/** The return code in a step's answer: negative errno, or 0 and above. Plain accesses: 0, or -14 for a fault. */
export function answerCode(answer: unknown): number {
  const first: unknown = Array.isArray(answer) ? answer[0] : typeof answer === 'object' && answer !== null ? (answer as { rc?: unknown }).rc : answer;
  return typeof first === 'number' ? first : typeof first === 'string' && /^(pf|gp):/.test(first) ? -14 : 0;
}

/** What a property or a user's test sees of the world. */
export interface TestWorld {
  readonly hv: Hypervisor;
  readonly context: ConformContext;
}

class Found extends Error {
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(problems[0]);
    this.problems = problems;
  }
}

/** Problems that all checkers find in that world; empty if all is well. */
export function invariantProblems(hv: Hypervisor, peerFrames: readonly number[] = [], checker = new InvariantChecker(hv), checkers = CHECKERS): string[] {
  return checker.run({ checkers, extra: peerFrames.map((mfn) => ({ mfn, typed: 'writable' as const })) }).map(violationText);
}

/** Throws with every violation in its message. For use after any step of a user's own test. */
export function assertInvariants(world: TestWorld): void {
  const problems = invariantProblems(world.hv, heldByPeer(world.context));
  if (problems.length > 0) throw new Error(`invariants are broken:\n  ${problems.join('\n  ')}`);
}

function heldByPeer(context: ConformContext): number[] {
  if (context.notes.has(PEER_ENDED)) return [];
  return peerMfns(context).filter((mfn) => context.hv.frames.owner[mfn] === 2);
}

/** Plays programs again and again on one machine. */
export class Player {
  readonly #runner: ConformRunner;
  readonly #rules: WorldRules;
  readonly #progress = new ProgressMeter();
  #options: PlayOptions = {};
  #every = 0;
  #turn = 0;
  #laws: Laws | undefined;
  #context: ConformContext | undefined;
  #checker: InvariantChecker | undefined;
  #step = 0;

  constructor(rules: WorldRules = {}) {
    this.#rules = rules;
    this.#runner = new ConformRunner({
      build: XEN_BUILDS.release, grantRules: GRANT_RULES, ...rules, families: [...FAMILIES, TESTING_FAMILY], frameCount: WORLD_FRAMES,
      preempt: () => {
        this.#progress.asked();
        return this.#every > 0 && ++this.#turn % this.#every === 0;
      },
      onEvent: (kind) => this.#progress.event(kind),
      hooks: { maxContinuations: MAX_CONTINUATIONS, interrupted: (_context, round) => this.#options.judgeAt !== 'end' && round < CHECKED_INTERRUPTIONS && this.#look(undefined) },
      beforeScript: (context) => this.#start(context),
      afterOp: (_context, step, answer) => this.#judge(step, answer),
    });
  }

  #start(context: ConformContext): void {
    // Tables that this shape has not: the root stands for them, so that every program is valid.
    context.notes.set(PEER_MFNS, [...peerMfns(context)]);
    context.mfns.set('gstatus', context.mfns.get('gnttab') as number);
    for (const table of ['live_l3', 'xen_l2']) if (!context.mfns.has(table)) context.mfns.set(table, context.mfns.get('root') as number);
    this.#rules.prepare?.(context.hv);
    this.#context = context;
    this.#checker = this.#judges('checkers') ? new InvariantChecker(context.hv) : undefined;
    this.#laws = this.#judges('model') ? new Laws(context, this.#progress) : undefined;
    context.mfns.set('secret', this.#laws?.secretMfn ?? (context.mfns.get('foreign1') as number));
    this.#turn = 0;
    this.#step = 0;
  }

  #judges(judge: Judge): boolean {
    return this.#options.judges?.includes(judge) ?? true;
  }

  #judge(step: Step, answer: unknown): void {
    this.#laws?.heard(step, answer);
    const problems = this.#options.afterStep?.({ hv: (this.#context as ConformContext).hv, context: this.#context as ConformContext }, step, answer) ?? [];
    if (problems.length > 0) throw new Found(problems);
    if (this.#options.judgeAt !== 'end') this.#look(step);
    this.#step++;
    this.#progress.reset();
  }

  /** Also in the middle of an interrupted hypercall, where other vCPUs would run: the laws, and the checkers that need no system at rest. */
  #look(step: Step | undefined): void {
    const context = this.#context as ConformContext;
    const problems = [
      ...(this.#laws?.check().map(({ law, text }) => `${law}: ${text}`) ?? []),
      ...(this.#checker === undefined ? [] : invariantProblems(context.hv, heldByPeer(context), this.#checker, step === undefined ? WHILE_INTERRUPTED : CHECKERS)),
    ];
    if (problems.length > 0) throw new Found(problems);
    // Status frames come and go: programs may name the first one.
    context.mfns.set('gstatus', context.d1.grants.statusMfns[0] ?? (context.mfns.get('gnttab') as number));
  }

  /** What went wrong first, or undefined if everything held to the end. */
  play(program: Program, options: PlayOptions = {}): Finding | undefined {
    this.#options = options;
    this.#every = program.preempt;
    try {
      const stops = this.#runner.run({ id: 'program', abi: program.shape as Script['abi'], family: 'testing', sub: 'program', ops: program.steps, results: [] });
      if (stops.some(({ actual }) => actual === 'hang')) return { step: this.#step, problems: [`hang: a hypercall was not done after ${MAX_CONTINUATIONS} rounds`] };
      this.#end();
      return undefined;
    } catch (error) {
      // The runner of hostile programs: whatever is thrown is a finding (STYLE 17).
      if (error instanceof Found) return { step: this.#step, problems: error.problems };
      return { step: this.#step, problems: [`crash: ${error instanceof Error ? error.message : String(error)}`] };
    }
  }

  /** Both domains end: d1 first or d2 first, whoever is left. */
  #end(): void {
    const context = this.#context as ConformContext;
    const { hv, vcpu, d1, d2 } = context;
    this.#step = Number.MAX_SAFE_INTEGER;
    this.#every = 0;
    putOldTable(hv, vcpu);
    if (this.#options.judgeAt === 'end') this.#look(undefined);
    const held = heldByPeer(context);
    destroyDomain(hv, d1);
    if (this.#checker !== undefined) {
      const problems = invariantProblems(hv, held, this.#checker);
      if (problems.length > 0) throw new Found(problems.map((text) => `after d1's end: ${text}`));
    }
    if (!context.notes.has(PEER_ENDED)) {
      for (const mfn of held) putPageAndType(hv, mfn);
      destroyDomain(hv, d2);
    }
    const left = this.#laws?.checkEnd() ?? [];
    if (left.length > 0) throw new Found(left.map(({ law, text }) => `${law}: ${text}`));
  }
}

const players = new Map<string, Player>();
/** Plays on the unchanged rules. */
export function play(program: Program, options: PlayOptions = {}): Finding | undefined {
  const player = players.get('') ?? new Player();
  players.set('', player);
  return player.play(program, options);
}
export { SHAPES };
