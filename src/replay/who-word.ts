// Who changed a word of guest memory last, by running the recording again. From the place that is asked about
// backwards, each stretch between two checkpoints is run once, and told of every store to the word (the door by
// which stores to code come, src/x86/code-frames.ts). The last one that changed it is the answer, also of a word
// that has had its old value again since.
//
//   x──────────x──────────x──s─s────s─|?        the latest stretch first; one without a change: the one before it
//      3rd         2nd         1st
//
// Where in a stretch: it is run in pieces, the piece with the last change in smaller ones, and that one by single
// instructions. (Translated code does not say how many instructions it has retired when it stores.)
import { assert } from '../base/assert.ts';
import { eventLine } from '../log/event-text.ts';
import { findL1, found, PTE } from '../hypervisor/page-walk.ts';
import { watchStores } from '../x86/code-frames.ts';
import { contextOf } from './diff.ts';
import { nextInstruction } from './instruction-bisect.ts';
import type { SymbolsByDomain } from './symbols.ts';
import { isBefore, type Place, type Timeline } from './timeline.ts';

/** Instructions of the pieces in which a stretch is run, and the one of them that counts again; then one by one. */
const PIECES = [1 << 20, 1 << 10] as const;
const MOST_EVENTS = 20;

export interface WordChange {
  readonly verdict: string;
  readonly maddr: number;
  /** Instructions of all vCPUs after which the word was as it is; undefined: it was not found to change. */
  readonly insns: number | undefined;
  readonly vcpu: string | undefined;
  readonly instruction: string | undefined;
  readonly code: readonly string[];
  readonly before: number | undefined;
  readonly after: number;
  /** What happened with it. */
  readonly events: readonly string[];
}

/** The machine address that a domain's virtual address has here; undefined: it is not mapped. */
export function maddrOf({ world }: Timeline, domId: number, vaddr: number): number | undefined {
  const vcpu = world.hv.vcpu(domId, 0);
  if (vcpu === undefined || vcpu.guestTableMfn === 0) return undefined;
  if (!findL1(world.machine, vcpu.domain.abi.levels, vcpu.guestTableMfn, vaddr) || (found.lo & PTE.present) === 0) return undefined;
  const mfn = (found.hi & 0xf_ffff) * 0x10_0000 + (found.lo >>> 12);
  return mfn < world.machine.frameCount ? mfn * 4096 + (vaddr & 0xfff) : undefined;
}

/** The frame that a domain has as this pfn here; undefined: none. */
export function mfnOfPfn({ world }: Timeline, domId: number, pfn: number): number | undefined {
  const { frames } = world.hv;
  for (let mfn = 0; mfn < world.machine.frameCount; mfn++) if (frames.owner[mfn] === domId && frames.getM2p(mfn) === pfn) return mfn;
  return undefined;
}

/** The timeline is where the question is asked; `maddr` is aligned to 4. */
export function whoChangedWord(timeline: Timeline, maddr: number, symbols: SymbolsByDomain | undefined): WordChange {
  const after = wordAt(timeline, maddr);
  const at = lastChange(timeline, maddr);
  const hex = (value: number): string => `0x${value.toString(16)}`;
  const nothing = { maddr, insns: undefined, vcpu: undefined, instruction: undefined, code: [], before: undefined, after, events: [] };
  if (at === undefined) return { ...nothing, verdict: `it has been ${hex(after)} since the beginning` };
  const { insns } = at;
  const between = 'event' in at;
  const from = timeline.seek({ insns: between ? insns : insns - 1 }).eventCount;
  const before = wordAt(timeline, maddr);
  const { vcpu, instruction, code } = between ? nothing : nextInstruction(timeline, symbols);
  const to = timeline.seek(at).eventCount;
  const { recording } = timeline;
  const events = [...recording.events(from, Math.min(to, recording.eventCount, from + MOST_EVENTS))].map((event) => eventLine(event, { ...contextOf(recording), symbols }));
  const byOthers = events.length === 0 ? '' : ', or by what Xen and dom0 did with it';
  const by = between ? `by Xen or dom0 behind instruction ${insns}` : `by instruction ${insns}${vcpu === undefined ? '' : ` (${vcpu}, ${instruction})`}${byOthers}`;
  return { ...nothing, insns, vcpu, instruction, code, before, events, verdict: `last changed ${by}: from ${hex(before)} to ${hex(wordAt(timeline, maddr))}` };
}

const wordAt = ({ world }: Timeline, maddr: number): number => world.machine.readU32(maddr);

type End = Pick<Place, 'insns' | 'eventCount'>;

/** Behind an instruction; with an event: behind what was done with no instruction run, up to that event. */
type Change = { readonly insns: number } | { readonly insns: number; readonly event: number };

/** What made the word as it is here; undefined: it has always been so. */
function lastChange(timeline: Timeline, maddr: number): Change | undefined {
  let end: End = timeline.place();
  let valueAtEnd = wordAt(timeline, maddr);
  for (const checkpoint of timeline.checkpoints.filter((each) => isBefore(each, { insns: end.insns, event: end.eventCount })).reverse()) {
    const begin = timeline.goBack(checkpoint);
    const value = wordAt(timeline, maddr);
    const piece = lastPiece(timeline, maddr, end, PIECES[0]);
    // What is done where a checkpoint was taken, with no instruction run, is in neither of the two stretches.
    if (wordAt(timeline, maddr) !== valueAtEnd) return { insns: end.insns, event: end.eventCount };
    if (piece !== undefined) return within(timeline, maddr, piece);
    end = begin;
    valueAtEnd = value;
    if (begin.insns === 0) break;
  }
  return undefined;
}

interface Piece {
  readonly from: number;
  readonly end: End;
}

/** Goes on to `end`, so many instructions at a time: the last piece in which the word changed. */
function lastPiece(timeline: Timeline, maddr: number, end: End, pieceInsns: number): Piece | undefined {
  let value = wordAt(timeline, maddr);
  let last: Piece | undefined;
  let here: Piece = { from: timeline.place().insns, end };
  let told = false;
  const settle = (): void => {
    const now = wordAt(timeline, maddr);
    if (now === value) return;
    assert(told, () => `the word at ${maddr} has changed and nobody was told`);
    value = now;
    last = here;
  };
  const stop = watchStores(timeline.world.machine, maddr, 4, () => {
    settle();
    told = true;
  });
  try {
    let { from } = here;
    do {
      here = { from, end: from + pieceInsns < end.insns ? { insns: from + pieceInsns, eventCount: 0 } : end };
      timeline.goOn({ insns: here.end.insns, event: here.end.eventCount });
      settle();
      from += pieceInsns;
    } while (here.end !== end);
  } finally {
    stop();
  }
  return last;
}

/** The last change in a piece that has one. */
function within(timeline: Timeline, maddr: number, { from, end }: Piece): Change {
  timeline.seek({ insns: from });
  // Whoever asks for a state in there begins here.
  timeline.checkpoint();
  const small = lastPiece(timeline, maddr, end, PIECES[1]);
  assert(small !== undefined, () => `the word at ${maddr} changed behind ${from} instructions and does so no more`);
  timeline.seek({ insns: small.from });
  let last: Change | undefined;
  let value = wordAt(timeline, maddr);
  const changes = (target: Change): void => {
    timeline.goOn(target);
    const now = wordAt(timeline, maddr);
    if (now !== value) last = target;
    value = now;
  };
  for (let insns = small.from + 1; insns <= small.end.insns; insns++) changes({ insns });
  changes({ insns: small.end.insns, event: small.end.eventCount });
  assert(last !== undefined, () => `the word at ${maddr} changed behind ${small.from} instructions and does so no more`);
  return last;
}
