// Who changed a word of guest memory last, by running the recording again. Stretches of it are run from the
// place that is asked about backwards; one that wrote nothing to the word's frame is done with, one that did
// is halved, later half first, and a short one is run instruction by instruction. So the answer is the
// last change, also of a word that has had its old value again since.
//
//   ├───────────┼───────────┼─────┬──┬──┤?      a frame that was written: halves, the later one first
//        3rd         2nd             1st
import { eventLine } from '../log/event-text.ts';
import { findL1, found, PTE } from '../hypervisor/page-walk.ts';
import { contextOf } from './diff.ts';
import { nextInstruction } from './instruction-bisect.ts';
import type { SymbolsByDomain } from './symbols.ts';
import type { Timeline } from './timeline.ts';

/** Stretches of so many instructions are run one by one. */
const STEPS = 512;
const LEAVES_CHECKPOINT = 20_000;
/** A frame that is written all the time costs a stretch each: after so many the search ends, and says so. */
const MOST_STRETCHES = 3000;
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
  /** The search came no further back than so many instructions. */
  readonly searchedTo: number;
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
  const search = new WordSearch(timeline, maddr);
  const here = timeline.place().insns;
  const after = search.word();
  const at = search.back(here);
  const hex = (value: number): string => `0x${value.toString(16)}`;
  const nothing = { maddr, insns: undefined, vcpu: undefined, instruction: undefined, code: [], before: undefined, after, events: [], searchedTo: search.searchedTo };
  if (at === undefined) return { ...nothing, verdict: search.searchedTo === 0 ? `it has been ${hex(after)} since the beginning` : `it did not change after instruction ${search.searchedTo}, where the search ended: its frame is written all the time; ask again with --before` };
  const from = timeline.seek({ insns: at - 1 }).eventCount;
  const before = search.word();
  const { vcpu, instruction, code } = nextInstruction(timeline, symbols);
  const to = timeline.seek({ insns: at }).eventCount;
  const { recording } = timeline;
  const events = [...recording.events(from, Math.min(to, recording.eventCount, from + MOST_EVENTS))].map((event) => eventLine(event, { ...contextOf(recording), symbols }));
  return { ...nothing, insns: at, vcpu, instruction, code, before, events, verdict: `last changed by instruction ${at}${vcpu === undefined ? '' : ` (${vcpu}, ${instruction})`}${events.length === 0 ? '' : ', or by what Xen and dom0 did with it'}: from ${hex(before)} to ${hex(search.word())}` };
}

class WordSearch {
  readonly #timeline: Timeline;
  readonly #maddr: number;
  #stretches = 0;
  searchedTo = 0;

  constructor(timeline: Timeline, maddr: number) {
    this.#timeline = timeline;
    this.#maddr = maddr;
  }

  word(): number {
    return this.#timeline.world.machine.readU32(this.#maddr);
  }

  /** The last change before `end`. */
  back(end: number): number | undefined {
    let to = end;
    for (const from of this.#timeline.checkpoints.map(({ insns }) => insns).filter((insns) => insns < end).reverse()) {
      const at = this.#last(from, to);
      if (at !== undefined || this.#stretches > MOST_STRETCHES) return at;
      to = from;
      this.searchedTo = from;
    }
    return undefined;
  }

  /** The last change after `from` instructions and up to `to`. */
  #last(from: number, to: number): number | undefined {
    if (this.#stretches++ > MOST_STRETCHES || from >= to) return undefined;
    this.#timeline.seek({ insns: from });
    if (to - from <= STEPS) {
      const at = this.#step(to);
      if (at === undefined) this.searchedTo = from;
      return at;
    }
    // What is run many times, in halves, begins here.
    if (to - from > LEAVES_CHECKPOINT && this.#timeline.checkpoints.every(({ insns }) => insns !== from)) this.#timeline.checkpoint();
    if (!this.#timeline.writes(Math.floor(this.#maddr / 4096), to)) {
      this.searchedTo = from;
      return undefined;
    }
    const middle = Math.floor((from + to) / 2);
    return this.#last(middle, to) ?? this.#last(from, middle);
  }

  #step(to: number): number | undefined {
    let last: number | undefined;
    let value = this.word();
    for (let insns = this.#timeline.place().insns; insns < to; ) {
      insns = this.#timeline.goOn({ insns: insns + 1 }).insns;
      const now = this.word();
      if (now !== value) last = insns;
      value = now;
      if (this.#timeline.world.ended !== undefined) break;
    }
    return last;
  }
}
