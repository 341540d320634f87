// Runs the invariant checkers beside a world. The hypervisor is at rest after each exit that it has
// handled and after each entry of the agenda; events are also made in the middle of hypercalls, when
// counts may be half-way. So "after every event" means: at the first point of rest after it. Between
// two such points without an event only the guest's own instructions ran.
//
// Shadow page tables (of worlds that have some), and what the processor keeps of them, are also checked
// wherever the guest has flushed, which is no event.
//
//   sink = watch.wrap(sink)                    remembers the last events, for the report
//   observers.quiescent = watch.quiescent      checks if something happened since the last check
import { EVENT, valueIndex } from '../abi/events.ts';
import { SHADOW_FAULT } from '../abi/shadow-calls.ts';
import { eventLine, type TextContext } from '../log/event-text.ts';
import { positionText, type PositionedEvent } from '../log/reader.ts';
import { CHECKERS, InvariantChecker, violationText, type Violation } from '../checkers/index.ts';
import { shadowProblems, SHADOWS, type BetweenFlushes } from '../checkers/shadow-checker.ts';
import { shadowViewOf } from '../checkers/shadow-tables.ts';
import { SHADOW_TLB, shadowTlbProblems, type Flushed } from '../checkers/shadow-tlb-checker.ts';
import type { EventSink, World } from '../sim/world.ts';

/** every: after every event. epoch: every EPOCH_EVENTS events. auto: after every event while that has cost little, then as epoch. */
export type CheckMode = 'every' | 'epoch' | 'auto' | 'off';
/** Of runs and replays that are checked on the side. */
export const CHECK_MODES: readonly CheckMode[] = ['every', 'epoch', 'off'];
export const EPOCH_EVENTS = 256;
/** Frames looked at by all checks of `auto` that are made after every event: a minute's work (1,000 frames take some 80 µs). */
const AUTO_FRAMES = 750_000_000;
const HISTORY = 20;
const FILLED = valueIndex(SHADOW_FAULT, 'filled');

/** A broken invariant: what, and what led to it. */
export interface BrokenInvariant {
  /** Of the last event before the check. */
  readonly position: string;
  readonly violations: readonly Violation[];
  readonly history: readonly string[];
}

/** What the checks of a run came to. */
export interface CheckSummary {
  readonly checks: number;
  readonly broken: BrokenInvariant | undefined;
  /** With `auto`: the number of the event from which on not every event was followed by a check; undefined: each was. */
  readonly sparseFrom?: number;
  /** Checks of shadow page tables; undefined: there are none. */
  readonly shadowChecks?: number;
}

export class CheckWatch {
  checks = 0;
  broken: BrokenInvariant | undefined;
  /** Called once, when an invariant is found broken. */
  onBroken: (() => void) | undefined;
  readonly #mode: CheckMode;
  readonly #history: PositionedEvent[] = [];
  readonly #names = new Map<number, string>();
  #world: World | undefined;
  #checker: InvariantChecker | undefined;
  #events = 0;
  #checkedAt = 0;
  #shadowChecks = 0;
  /** Events at the last check of shadows at a flush. */
  #flushCheckedAt = -EPOCH_EVENTS;
  /** Linear address that a shadow was last filled at, if that was since the last point of rest. */
  #filled: number | undefined;
  #framesLeft: number;
  #sparseFrom: number | undefined;

  /** `autoFrames`: other than by default, for tests. */
  constructor(mode: CheckMode, autoFrames = AUTO_FRAMES) {
    this.#mode = mode;
    this.#framesLeft = autoFrames;
  }

  /** The world to check; once, before it runs. */
  attach(world: World): void {
    this.#world = world;
    this.#checker = new InvariantChecker(world.hv);
    if (this.#mode !== 'off') for (const host of world.hosts.values()) host.world.flushed = (pages) => this.#flushed(pages);
  }

  /** A sink that remembers the last events, and ends the run at once when an invariant is broken. */
  wrap(sink: EventSink): EventSink {
    return this.#inFrontOf(sink, () => this.broken !== undefined);
  }

  /** A sink that remembers the last events; the run ends by itself or by onBroken. */
  remember(sink: EventSink): EventSink {
    return this.#inFrontOf(sink, () => false);
  }

  #inFrontOf(sink: EventSink, isOver: () => boolean): EventSink {
    if (this.#mode === 'off') return sink;
    return {
      event: (kind, domId, vcpuId, retired, nowNs, values, bytes) => {
        this.#history[this.#events % HISTORY] = { index: this.#events, kind, domId, vcpuId, retired, nowNs, values: [...values], bytes, insnsDelta: 0, timeSkewNs: 0 };
        this.#events++;
        if (kind === EVENT.shadowFault && values[2] === FILLED) this.#filled = values[0];
        if (kind === EVENT.nameDefined && bytes !== undefined) this.#names.set(values[0] as number, String.fromCharCode(...bytes));
        sink.event(kind, domId, vcpuId, retired, nowNs, values, bytes);
      },
      ...(sink.stateDigest === undefined ? {} : { stateDigest: (eventCount: number, insns: number) => sink.stateDigest?.(eventCount, insns) }),
      get over(): boolean {
        return sink.over === true || isOver();
      },
    };
  }

  /** The hypervisor is at rest. */
  readonly quiescent = (): void => {
    if (this.#mode === 'off' || this.broken !== undefined) return;
    if (this.#events - this.#checkedAt >= (this.#isSparse() ? EPOCH_EVENTS : 1)) this.#check();
    this.#filled = undefined;
  };
  #isSparse(): boolean {
    return this.#mode === 'epoch' || this.#sparseFrom !== undefined;
  }

  /** A guest on shadow page tables has flushed: in the middle of a call, but its shadows are true. */
  #flushed(pages: Flushed): void {
    if (this.broken !== undefined || (this.#isSparse() && this.#events - this.#flushCheckedAt < EPOCH_EVENTS)) return;
    this.#flushCheckedAt = this.#events;
    this.#judge(this.#shadowViolations(undefined, pages));
  }
  #shadowViolations(between: BetweenFlushes | undefined, flushed: Flushed): Violation[] {
    const violations: Violation[] = [];
    for (const [domId, host] of this.#world?.hosts ?? []) {
      // A guest that was stopped for what it asked runs no more.
      if (host.ended) continue;
      this.#shadowChecks++;
      const view = shadowViewOf(host);
      for (const text of shadowProblems(view, between)) violations.push({ checker: SHADOWS.name, where: `d${domId}`, text });
      for (const text of shadowTlbProblems(view, flushed)) violations.push({ checker: SHADOW_TLB.name, where: `d${domId}`, text });
    }
    return violations;
  }

  /** The end of the run: what was not checked yet is. */
  finish(): CheckSummary {
    if (this.#mode !== 'off' && this.broken === undefined && this.#events > this.#checkedAt) this.#check();
    return { checks: this.checks, broken: this.broken, ...(this.#sparseFrom === undefined ? {} : { sparseFrom: this.#sparseFrom }), ...(this.#world?.hosts.size ? { shadowChecks: this.#shadowChecks } : {}) };
  }

  #check(): void {
    const checker = this.#checker;
    if (checker === undefined) return;
    this.#checkedAt = this.#events;
    this.checks++;
    if (this.#mode === 'auto' && this.#framesLeft > 0) {
      // Counted, not timed: the same recording is checked at the same events on every machine.
      this.#framesLeft -= this.#world?.hv.frames.frameCount ?? 0;
      if (this.#framesLeft <= 0) this.#sparseFrom = this.#events;
    }
    this.#judge([...checker.run(), ...this.#shadowViolations({ filled: this.#filled }, [])]);
  }

  #judge(violations: readonly Violation[]): void {
    if (violations.length === 0) return;
    this.broken = { violations, ...this.#past() };
    this.onBroken?.();
  }

  #past(): Pick<BrokenInvariant, 'position' | 'history'> {
    const events = Array.from({ length: Math.min(HISTORY, this.#events) }, (_, i) => this.#history[(this.#events - Math.min(HISTORY, this.#events) + i) % HISTORY] as PositionedEvent);
    const levels = new Map([...(this.#world?.hv.domains.values() ?? [])].map((domain) => [domain.domId, domain.abi.levels as number]));
    const context: TextContext = { names: this.#names, levels };
    const last = events.at(-1);
    return { position: last === undefined ? '0' : positionText(last), history: events.map((event) => eventLine(event, context)) };
  }
}

/** How often was checked, as a clause. */
export const checksText = ({ checks, sparseFrom }: CheckSummary): string =>
  `${checks.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ',')}${sparseFrom === undefined ? '' : ` (after every event up to event ${sparseFrom}, then every ${EPOCH_EVENTS} events)`}`;

/** Lines for a terminal; empty if everything held. */
export function brokenLines({ broken }: CheckSummary): string[] {
  if (broken === undefined) return [];
  const names = new Set(broken.violations.map(({ checker }) => checker));
  return [
    `BROKEN: at ${broken.position} ${broken.violations.length} ${broken.violations.length === 1 ? 'finding' : 'findings'}:`,
    ...broken.violations.map((violation) => `  ${violationText(violation)}`),
    'what should hold:',
    ...[...CHECKERS, SHADOWS, SHADOW_TLB].filter(({ name }) => names.has(name)).map(({ name, claim }) => `  ${name}: ${claim}`),
    `the ${broken.history.length} events before it:`,
    ...broken.history.map((text) => `  ${text}`),
  ];
}
