// Where two recordings part, from their files alone: which event is the first that differs, what became of
// it (changed, inserted, left out, in another order, at another time), and what stood around it.
//
//   1. headers: other scenarios, seeds, options and images are said first
//   2. the last place at which both have the same cumulative digest: binary search over the indices
//   3. the events from there on, one by one, to the first unequal one
//   4. a window behind it, aligned (align.ts)
//
// Not here: state (state-diff.ts), files (the caller opens them).
import { EVENT, EVENT_ROWS, eventRow, type EventRow } from '../abi/events.ts';
import { bytesToHex, sameBytes } from '../base/hash.ts';
import type { IndexedRecording } from '../log/indexed.ts';
import { eventLine, type TextContext } from '../log/event-text.ts';
import type { World } from '../log/packets.ts';
import { positionText, type PositionedEvent, type Recording } from '../log/reader.ts';
import { CHOICE_NAMES } from '../sim/choices.ts';
import { alignFirst, type Hunk } from './align.ts';
import { differencesOf, type Difference } from './event-differences.ts';

/** Events behind the divergence in which the two are looked for to come together again. */
export const DIFF_WINDOW = 400;
const DEFAULT_CONTEXT = 10;

export interface HeaderDifference {
  readonly what: string;
  readonly a: string;
  readonly b: string;
}

export interface DiffSide {
  readonly event: PositionedEvent | undefined;
  readonly line: string | undefined;
  readonly after: readonly string[];
}

export interface EventDiff {
  /** Events that both have, in the same places. */
  readonly sameEvents: number;
  /** `event:dDOMAINvVCPU:retired`, of A's event, or B's where A has ended. */
  readonly position: string;
  readonly relation: Hunk['relation'] | 'moved';
  readonly hunk: Hunk;
  readonly differences: readonly Difference[];
  readonly before: readonly string[];
  readonly a: DiffSide;
  readonly b: DiffSide;
}

export interface TwoSymbols {
  readonly a?: TextContext['symbols'];
  readonly b?: TextContext['symbols'];
}

export interface RecordingDiff {
  readonly same: boolean;
  readonly verdict: string;
  readonly headers: readonly HeaderDifference[];
  readonly events: EventDiff | undefined;
  /** The first state digest that differs after the same events. */
  readonly state: { readonly atEvent: number; readonly parts: readonly string[] } | undefined;
  readonly counts: { readonly a: number; readonly b: number };
}

/** `symbols`: of A's kernels and of B's, for the addresses in events. */
export function diffRecordings(a: IndexedRecording, b: IndexedRecording, context = DEFAULT_CONTEXT, symbols: TwoSymbols = {}): RecordingDiff {
  const headers = headerDifferences(a.recording.world, b.recording.world);
  const at = firstDifferentEvent(a.recording, b.recording);
  const events = at === undefined ? undefined : describeEvents(a.recording, b.recording, at, context, symbols);
  const state = firstDifferentState(a, b, at ?? Infinity);
  const counts = { a: a.recording.eventCount, b: b.recording.eventCount };
  const same = headers.length === 0 && events === undefined && state === undefined && sameEnd(a.recording, b.recording);
  return { same, verdict: verdictOf({ headers, events, state, counts }, a.recording, b.recording), headers, events, state, counts };
}

// -- headers -------------------------------------------------------------------------------------

function headerDifferences(a: World, b: World): HeaderDifference[] {
  const found: HeaderDifference[] = [];
  const compare = (what: string, left: string, right: string): void => {
    if (left !== right) found.push({ what, a: left, b: right });
  };
  compare('scenario', a.scenario, b.scenario);
  compare('seed', a.seed, b.seed);
  compare('ns per instruction', `${a.nsPerInsnNumerator}/${a.nsPerInsnDenominator}`, `${b.nsPerInsnNumerator}/${b.nsPerInsnDenominator}`);
  const images = (world: World): Map<string, string> => new Map(world.images.map(({ name, blake3 }) => [name, bytesToHex(blake3).slice(0, 16)]));
  compareMaps(images(a), images(b), (name, left, right) => compare(`image ${name}`, left, right));
  const options = (world: World): Map<string, string> => new Map(world.options.flatMap(({ name, value }) => flatOption(name, value)));
  compareMaps(options(a), options(b), compare);
  const parent = (world: World): string => (world.parentDigest === undefined || world.parentDigest.length === 0 ? 'none' : `${bytesToHex(world.parentDigest).slice(0, 16)} at event ${world.parentEvents}`);
  compare('parent', parent(a), parent(b));
  return found;
}

function compareMaps(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>, compare: (name: string, left: string, right: string) => void): void {
  for (const name of new Set([...a.keys(), ...b.keys()])) compare(name, a.get(name) ?? '(absent)', b.get(name) ?? '(absent)');
}

/** The spec is JSON: its leaves are compared, not its text. */
function flatOption(name: string, value: string): [string, string][] {
  try {
    return flatten(name, JSON.parse(value));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return [[name, value]];
  }
}
function flatten(path: string, value: unknown): [string, string][] {
  if (typeof value !== 'object' || value === null) return [[path, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, member]) => flatten(`${path}.${key}`, member));
}

// -- the first event -----------------------------------------------------------------------------

/** Its index; undefined if one recording has all events of the other and neither goes on. */
export function firstDifferentEvent(a: Recording, b: Recording): number | undefined {
  const from = lastCommonBoundary(a, b);
  const left = rawEvents(a, from);
  const right = rawEvents(b, from);
  for (let index = from; ; index++) {
    const one = left.next();
    const other = right.next();
    if (one.done === true && other.done === true) return undefined;
    if (one.done === true || other.done === true || !sameBytes(one.value, other.value)) return index;
  }
}

/** The largest number of events after which both digests are in the index and the same. Equal digests mean equal events from the start, so that it can be searched for. */
function lastCommonBoundary(a: Recording, b: Recording): number {
  const digests = new Map(b.chunks.map((chunk) => [chunk.firstEvent + chunk.eventCount, chunk.eventsDigest]));
  const common = a.chunks.map((chunk) => ({ events: chunk.firstEvent + chunk.eventCount, digest: chunk.eventsDigest })).filter(({ events }) => digests.has(events));
  let low = 0;
  let high = common.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const { events, digest } = common[middle] as (typeof common)[number];
    if (sameBytes(digest, digests.get(events) as Uint8Array)) low = middle + 1;
    else high = middle;
  }
  return common[low - 1]?.events ?? 0;
}

function* rawEvents(recording: Recording, from: number): Generator<Uint8Array> {
  for (let index = recording.chunkOf(from); index >= 0 && index < recording.chunks.length; index++) yield* recording.rawEvents(index, from);
}

// -- what became of it ---------------------------------------------------------------------------

/** Names and shapes without reading every chunk: choices have fixed numbers, domains are created at the start. */
export function contextOf(recording: Recording, symbols?: TextContext['symbols']): TextContext {
  const names = new Map(CHOICE_NAMES.map((name, index) => [index + 1, name as string]));
  const levels = new Map<number, number>();
  for (const event of recording.events(0, Math.min(recording.eventCount, recording.chunks[0]?.eventCount ?? 0))) {
    if (event.kind === EVENT.domainCreated) levels.set(event.domId, event.values[2] as number);
    if (event.kind === EVENT.nameDefined) names.set(event.values[0] as number, new TextDecoder().decode(event.bytes));
  }
  return { names, levels, symbols };
}

/** Is there an address of a guest in what is shown? */
export function showsAddress({ events: at }: RecordingDiff): boolean {
  return at !== undefined && [...at.before, ...[at.a, at.b].flatMap(({ line, after }) => [line ?? '', ...after])].some((line) => ADDRESSED.test(line));
}
const ADDRESSED = new RegExp(` (${[...new Set(EVENT_ROWS.flatMap(({ fields }) => fields.filter(({ show }) => show === 'vaddr').map(({ name }) => name)))].join('|')})=0x`);

/** What an event says, without when and how it came there. */
const contentKey = (event: PositionedEvent): string => `${event.kind} ${event.domId} ${event.vcpuId} ${event.values.join()} ${event.bytes === undefined ? '' : bytesToHex(event.bytes)}`;
/** Times and results aside: the same thing was done. */
const roughKey = (event: PositionedEvent): string => `${event.kind} ${event.domId} ${event.vcpuId} ${event.kind === EVENT.hypercall ? event.values[0] : ''}`;

function describeEvents(a: Recording, b: Recording, at: number, context: number, symbols: TwoSymbols): EventDiff {
  const window = (recording: Recording): PositionedEvent[] => [...recording.events(at, Math.min(recording.eventCount, at + DIFF_WINDOW))];
  return eventDiffOf({ before: [...a.events(Math.max(0, at - context), at)], a: window(a), b: window(b), at, context, textA: contextOf(a, symbols.a), textB: contextOf(b, symbols.b) });
}

export interface PartingEvents {
  /** What both have before. */
  readonly before: readonly PositionedEvent[];
  /** What each has from the first different event on, up to DIFF_WINDOW. */
  readonly a: readonly PositionedEvent[];
  readonly b: readonly PositionedEvent[];
  readonly at: number;
  readonly context: number;
  readonly textA: TextContext;
  readonly textB: TextContext;
}

export function eventDiffOf({ before, a, b, at, context, textA, textB }: PartingEvents): EventDiff {
  const [first, other] = [a[0], b[0]];
  const moved = first !== undefined && other !== undefined && contentKey(first) === contentKey(other);
  let hunk = alignFirst(a.map(contentKey), b.map(contentKey));
  if (hunk.relation === 'apart') hunk = alignFirst(a.map(roughKey), b.map(roughKey));
  // Alike but for details: that event itself is what changed.
  if (!moved && hunk.inA === 0 && hunk.inB === 0) hunk = { relation: 'changed', inA: 1, inB: 1 };
  const side = (event: PositionedEvent | undefined, events: readonly PositionedEvent[], text: TextContext): DiffSide => ({ event, line: event === undefined ? undefined : eventLine(event, text), after: events.slice(1, 1 + context).map((each) => eventLine(each, text)) });
  return {
    sameEvents: at,
    position: positionText(first ?? (other as PositionedEvent)),
    relation: moved ? 'moved' : hunk.relation,
    hunk,
    differences: differencesOf(first, other, textA.levels),
    before: before.map((event) => eventLine(event, textA)),
    a: side(first, a, textA),
    b: side(other, b, textB),
  };
}

// -- states --------------------------------------------------------------------------------------

/** State digests of the same number of events, up to the first different event. */
function firstDifferentState(a: IndexedRecording, b: IndexedRecording, before: number): RecordingDiff['state'] {
  const count = Math.min(a.stateDigestCount, b.stateDigestCount);
  const differs = (number: number): boolean => {
    const [left, right] = [a.stateDigest(number), b.stateDigest(number)];
    return left.atEvent !== right.atEvent || left.atEvent > before || differentParts(left, right).length > 0;
  };
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (differs(middle)) high = middle;
    else low = middle + 1;
  }
  if (low === count) return undefined;
  const [left, right] = [a.stateDigest(low), b.stateDigest(low)];
  return left.atEvent !== right.atEvent || left.atEvent > before ? undefined : { atEvent: left.atEvent, parts: differentParts(left, right) };
}

type Digests = ReturnType<IndexedRecording['stateDigest']>;
function differentParts(a: Digests, b: Digests): string[] {
  const digests = new Map(b.parts.map(({ name, digest }) => [name, digest]));
  const names = new Set([...a.parts.map(({ name }) => name), ...digests.keys()]);
  return [...names].filter((name) => {
    const one = a.parts.find((part) => part.name === name)?.digest;
    const other = digests.get(name);
    return one === undefined || other === undefined || !sameBytes(one, other);
  });
}

const endOf = ({ trailer }: Recording): string => (trailer === undefined ? 'cut short' : `${trailer.outcome} after ${trailer.instructions} instructions`);
const sameEnd = (a: Recording, b: Recording): boolean => endOf(a) === endOf(b);

// -- the verdict ---------------------------------------------------------------------------------

const events = (count: number): string => `${count} ${count === 1 ? 'event' : 'events'}`;
const kindOf = (event: PositionedEvent | undefined): string => (eventRow(event?.kind ?? 0) as EventRow | undefined)?.name ?? 'event';

function verdictOf({ headers, events: diff, state, counts }: Pick<RecordingDiff, 'headers' | 'events' | 'state' | 'counts'>, a: Recording, b: Recording): string {
  const first = headers[0];
  const though = first === undefined ? '' : `, whose headers differ (${headers.map(({ what }) => what).slice(0, 4).join(', ')}${headers.length > 4 ? ', ...' : ''})`;
  if (state !== undefined && state.atEvent <= (diff?.sameEvents ?? Infinity)) return `after the same ${events(state.atEvent)} the state differs in ${state.parts.join(', ')}, ${diff === undefined ? 'which no event shows' : 'before any event shows it'}${though}`;
  if (diff !== undefined) return `at ${diff.position} ${relationText(diff)}${though}`;
  if (!sameEnd(a, b)) return `both hold the same ${events(counts.a)}, but A is ${endOf(a)} and B is ${endOf(b)}${though}`;
  return headers.length === 0 ? `the recordings are the same: ${events(counts.a)}` : `both hold the same ${events(counts.a)}${though}`;
}

export function relationText({ relation, hunk, a, b, differences }: EventDiff): string {
  switch (relation) {
    case 'ended':
      return a.event === undefined ? `A has ended and B goes on with ${kindOf(b.event)}` : `B has ended and A goes on with ${kindOf(a.event)}`;
    case 'moved':
      return `both have the same ${kindOf(a.event)}, but ${differences.map(({ name, expected, actual }) => `${name} is ${expected} in A and ${actual} in B`).join(', ')}`;
    case 'inserted':
      return `B has ${events(hunk.inB)} that A does not have, beginning with ${kindOf(b.event)}`;
    case 'deleted':
      return `B lacks ${events(hunk.inA)} of A, beginning with ${kindOf(a.event)}`;
    case 'reordered':
      return `the next ${events(hunk.inA)} come in another order: A begins with ${kindOf(a.event)}, B with ${kindOf(b.event)}`;
    case 'changed':
      if (kindOf(a.event) !== kindOf(b.event)) return `A has ${hunk.inA > 1 ? `${events(hunk.inA)} beginning with ` : ''}${kindOf(a.event)} where B has ${hunk.inB > 1 ? `${events(hunk.inB)} beginning with ` : ''}${kindOf(b.event)}`;
      if (a.event?.kind === EVENT.choice && differences.length === 1) return `the same choice (${CHOICE_NAMES[(a.event.values[0] as number) - 1] ?? a.event.values[0]}) was made otherwise: ${differences[0]?.expected} in A, ${differences[0]?.actual} in B`;
      return `${kindOf(a.event)} differs: ${differences.map(({ name, expected, actual }) => `${name} is ${expected} in A and ${actual} in B`).slice(0, 4).join(', ')}`;
    case 'apart':
      return `A has ${kindOf(a.event)} and B has ${kindOf(b.event)}, and they do not come together again within ${DIFF_WINDOW} events`;
  }
}

/** Lines for a terminal. */
export function diffLines(diff: RecordingDiff, names: { readonly a: string; readonly b: string }): string[] {
  const { events: at, state } = diff;
  const lines = [`A  ${names.a}: ${events(diff.counts.a)}`, `B  ${names.b}: ${events(diff.counts.b)}`];
  for (const { what, a, b } of diff.headers.slice(0, MOST_HEADERS)) lines.push(`header   ${what}: ${short(a)} in A, ${short(b)} in B`);
  if (diff.headers.length > MOST_HEADERS) lines.push(`header   and ${diff.headers.length - MOST_HEADERS} more`);
  if (state !== undefined) lines.push(`state    after ${events(state.atEvent)} it differs in ${state.parts.join(', ')}`);
  if (at !== undefined) lines.push(...eventDiffLines(at));
  lines.push(diff.same ? diff.verdict : `DIFFERENT: ${diff.verdict}`);
  return lines;
}
export function eventDiffLines(at: EventDiff): string[] {
  return [
    ...at.before.map((line) => `    ${line}`),
    `A   ${at.a.line ?? '(the end of the recording)'}`, ...at.a.after.map((line) => `A     ${line}`),
    `B   ${at.b.line ?? '(the end of the recording)'}`, ...at.b.after.map((line) => `B     ${line}`),
    ...at.differences.map(({ name, expected, actual }) => `    ${name}: ${short(expected)} in A, ${short(actual)} in B`),
  ];
}

const MOST_HEADERS = 20;
const MOST_CHARACTERS = 200;
const short = (text: string): string => (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}...` : text);
