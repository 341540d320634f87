// Two executions of the same world, side by side: each stretch is run by one and then by the other, and what
// the two make is compared as they go. A difference is a bug of Rexen (something undetermined got in), and
// is reported as `diff` reports one.
import { bytesToHex } from '../base/hash.ts';
import type { PositionedEvent } from '../log/reader.ts';
import type { TextContext } from '../log/event-text.ts';
import { CHOICE_NAMES } from '../sim/choices.ts';
import { StateDigester } from '../sim/state-digest.ts';
import type { EventSink, World } from '../sim/world.ts';
import type { SymbolsByDomain } from './symbols.ts';
import { DIFF_WINDOW, eventDiffOf, type EventDiff } from './diff.ts';

const STRETCH_INSNS = 1_000_000;
const STRETCH_EVENTS = 4096;
const CONTEXT = 10;
/** After the first difference each goes on so far at most, for what follows it. */
const MOST_AFTERWARDS = 50_000_000;

export interface LockStepResult {
  readonly events: number;
  readonly stateDigests: number;
  readonly outcome: string;
  /** The first event that differs. */
  readonly parting: EventDiff | undefined;
  /** The first state digest that differs although the events before were the same. */
  readonly state: { readonly atEvent: number; readonly parts: readonly string[] } | undefined;
}

/** Which kinds of events are compared; undefined: all, and the state digests. */
type Kinds = ((kind: number) => boolean) | undefined;

class Side implements EventSink {
  readonly world: World;
  events: PositionedEvent[] = [];
  digests: { readonly atEvent: number; readonly parts: ReadonlyMap<string, string> }[] = [];
  readonly #counts: Kinds;
  #digester: StateDigester | undefined;
  #count = 0;

  constructor(make: (sink: (world: World) => EventSink) => World, counts: Kinds) {
    this.#counts = counts;
    this.world = make((world) => {
      this.#digester = new StateDigester(world);
      return this;
    });
  }

  event(kind: number, domId: number, vcpuId: number, retired: number, nowNs: number, values: readonly number[], bytes: Uint8Array | undefined): void {
    const index = this.#count++;
    if (this.#counts !== undefined && !this.#counts(kind)) return;
    this.events.push({ index, kind, domId, vcpuId, retired, nowNs, values: [...values], bytes: bytes?.slice(), insnsDelta: 0, timeSkewNs: 0 });
  }

  stateDigest(eventCount: number): void {
    if (this.#counts !== undefined) return;
    this.digests.push({ atEvent: eventCount, parts: new Map((this.#digester as StateDigester).parts().map(({ name, digest }) => [name, bytesToHex(digest)])) });
  }

  get ended(): boolean {
    return this.world.ended !== undefined && this.world.advance(1).kind === 'ended';
  }
}

const keyOf = (event: PositionedEvent): string => `${event.kind} ${event.domId} ${event.vcpuId} ${event.retired} ${event.nowNs} ${event.values.join()} ${event.bytes === undefined ? '' : bytesToHex(event.bytes)}`;

/** `make` builds a world with the given sink; called twice. Two that are meant to differ are compared by the events that `counts`. `symbolsOf` is asked if they part. */
export function runTwice(make: (which: 0 | 1, sink: (world: World) => EventSink) => World, counts?: (kind: number) => boolean, symbolsOf?: () => SymbolsByDomain): LockStepResult {
  const [a, b] = [new Side((sink) => make(0, sink), counts), new Side((sink) => make(1, sink), counts)];
  const before: PositionedEvent[] = [];
  let events = 0;
  let stateDigests = 0;
  for (;;) {
    for (const side of [a, b]) side.world.advance(STRETCH_INSNS, side.world.eventCount + STRETCH_EVENTS);
    const ended = a.ended && b.ended;
    const common = Math.min(a.events.length, b.events.length);
    let same = 0;
    while (same < common && keyOf(a.events[same] as PositionedEvent) === keyOf(b.events[same] as PositionedEvent)) before.push(a.events[same++] as PositionedEvent);
    events += same;
    before.splice(0, Math.max(0, before.length - CONTEXT));
    const state = differentDigest(a, b, events);
    stateDigests += Math.min(a.digests.length, b.digests.length);
    // Whoever leaves events out may have stopped a stretch with fewer of them: the rest waits for the next one.
    const goesOn = (side: Side, other: Side): boolean => other.events.length > same && (counts === undefined || side.ended);
    const parted = same < common || goesOn(a, b) || goesOn(b, a) || (counts === undefined && a.ended !== b.ended);
    const outcome = a.world.ended?.outcome ?? 'running';
    if (state !== undefined) return { events, stateDigests, outcome, parting: undefined, state };
    if (parted) return { events, stateDigests, outcome, parting: partingOf(a, b, same, events, before, symbolsOf?.()), state: undefined };
    if (ended) return { events, stateDigests, outcome, parting: undefined, state: undefined };
    a.events = a.events.slice(same);
    b.events = b.events.slice(same);
    a.digests = [];
    b.digests = [];
  }
}

function differentDigest(a: Side, b: Side, events: number): LockStepResult['state'] {
  for (const [index, { atEvent, parts }] of a.digests.entries()) {
    const other = b.digests[index];
    if (other === undefined || other.atEvent !== atEvent || atEvent > events) return undefined;
    const different = [...parts].filter(([name, digest]) => other.parts.get(name) !== digest).map(([name]) => name);
    if (different.length > 0) return { atEvent, parts: different };
  }
  return undefined;
}

function partingOf(a: Side, b: Side, same: number, at: number, before: readonly PositionedEvent[], symbols: SymbolsByDomain | undefined): EventDiff {
  for (const side of [a, b]) {
    const until = side.world.insns() + MOST_AFTERWARDS;
    while (side.world.ended === undefined && side.world.insns() < until && side.events.length - same < DIFF_WINDOW) side.world.advance(STRETCH_INSNS, side.world.eventCount + DIFF_WINDOW);
  }
  const rest = (side: Side): PositionedEvent[] => side.events.slice(same, same + DIFF_WINDOW);
  const text: TextContext = { names: new Map(CHOICE_NAMES.map((name, index) => [index + 1, name])), levels: new Map([...a.world.hv.domains.values()].map(({ domId, abi }) => [domId, abi.levels])), symbols };
  return eventDiffOf({ before, a: rest(a), b: rest(b), at, context: CONTEXT, textA: text, textB: text });
}
