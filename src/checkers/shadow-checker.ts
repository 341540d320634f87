// The checker of shadow page tables. Whenever a guest has flushed, whatever its processor can reach
// through the shadow must be what its own tables say, and no more:
//
//   presence    a page of the shadow is present in the guest's tables
//   rights      user access, writing, execution are allowed there at every level
//   frame       its machine frame is the one of the guest-physical number that stands there
//   dirty       a page that can be written without the host's knowing is marked dirty there
//   place       entries lead to the guest's frames and to shadow tables of the level below, nowhere else;
//               the processor's root is the shadow of the guest's; where the host traps stores, no frame that has a shadow is writable
//
// Between two flushes a guest's processor may go on reading what its tables said before, so less can be
// asked of a host that is told of changes: place, and everything of the page that was filled last. One
// that traps stores knows of each: everything must hold, but the entries of a PAE root are those of the
// last load.
//
// What the processor keeps of a shadow in its own cache: shadow-tlb-checker.ts.
import { ALL, entryAt, rightsWith, shadowedFrames, tableSize, type Entry, type Rights, type ShadowView } from './shadow-tables.ts';

/** The row of it in lists of checkers. */
export const SHADOWS = { name: 'shadows', claim: 'a shadow page table leads to the guest’s frames and to shadow tables alone, and never grants what the guest’s own tables do not: whenever the guest has flushed, where a page was just filled, and always where stores to tables are trapped' } as const;

/** A moment that is no flush: the page that was filled since the guest last ran, if one was. */
export interface BetweenFlushes {
  readonly filled?: number | undefined;
}

const MOST_PROBLEMS = 10;

class ShadowCheck {
  readonly #view: ShadowView;
  readonly #guestFrames: ReadonlySet<number>;
  readonly #shadowedFrames: ReadonlySet<number>;
  readonly #between: BetweenFlushes | undefined;
  readonly problems: string[] = [];

  constructor(view: ShadowView, between: BetweenFlushes | undefined) {
    this.#view = view;
    this.#between = between;
    this.#guestFrames = new Set(view.p2m);
    this.#shadowedFrames = shadowedFrames(view);
  }

  run(): string[] {
    const { pae, shadowRoot, guestRoot, tables } = this.#view;
    const root = tables.get(Math.floor(shadowRoot / 4096));
    if (root?.gpa !== guestRoot) this.#say(0, `begins with ${root === undefined ? 'no shadow table' : `the shadow of 0x${root.gpa.toString(16)}`}, the guest's tables begin at 0x${guestRoot.toString(16)}`);
    this.#tree(shadowRoot, pae ? 3 : 2, 0, ALL);
    return this.problems;
  }

  #say(vaddr: number, text: string): void {
    if (this.problems.length < MOST_PROBLEMS) this.problems.push(`the shadow at 0x${vaddr.toString(16)} ${text}`);
  }

  #tree(table: number, level: number, vaddr: number, rights: Rights): void {
    const { count, bytes, shift } = tableSize(this.#view, level);
    const { tables } = this.#view;
    for (let i = 0; i < count; i++) {
      const entry = entryAt(this.#view, table + i * bytes);
      if (!entry.present) continue;
      const at = vaddr + i * 2 ** shift;
      const sum = rightsWith(rights, entry, level);
      if (level === 1) this.#leaf(at, entry, sum);
      else if (tables.get(entry.frame)?.level !== level - 1) this.#say(at, `has an entry of level ${level} that leads to no shadow table of level ${level - 1}`);
      else this.#tree(entry.frame * 4096, level - 1, at, sum);
    }
  }

  #leaf(vaddr: number, entry: Entry, rights: Rights): void {
    if (!this.#guestFrames.has(entry.frame)) return this.#say(vaddr, `maps machine frame 0x${entry.frame.toString(16)}, which is not the guest's`);
    if (this.#view.traps && entry.write && this.#shadowedFrames.has(entry.frame)) this.#say(vaddr, 'can be written, but is a table whose stores must trap');
    if (this.#mayBeOld(vaddr)) return;
    const guest = this.#guest(vaddr);
    if (guest === undefined) return this.#say(vaddr, 'is present, where the guest’s tables have nothing');
    const { p2m } = this.#view;
    if (p2m[guest.entry.frame] !== entry.frame) this.#say(vaddr, `maps machine frame 0x${entry.frame.toString(16)}, the guest's frame 0x${guest.entry.frame.toString(16)} is another`);
    if (rights.write && !guest.rights.write) this.#say(vaddr, 'can be written, which the guest’s tables do not allow');
    if (rights.user && !guest.rights.user) this.#say(vaddr, 'can be reached by user code, which the guest’s tables do not allow');
    if (!rights.nx && guest.rights.nx) this.#say(vaddr, 'can be executed, which the guest’s tables do not allow');
    if (rights.write && !guest.entry.dirty) this.#say(vaddr, 'can be written, but the guest’s entry is not marked dirty');
  }

  /** The guest may have changed its entry, and not told yet. */
  #mayBeOld(vaddr: number): boolean {
    if (this.#between === undefined || this.#view.traps) return false;
    const { filled } = this.#between;
    return filled === undefined || vaddr !== filled - (filled % 4096);
  }

  /** The guest's table of the highest level that is read while the guest runs. */
  #top(vaddr: number): { readonly table: number; readonly level: number } | undefined {
    const { pae, guestRoot, shadowRoot, tables } = this.#view;
    if (!pae || this.#between === undefined) return { table: guestRoot, level: pae ? 3 : 2 };
    const gpa = tables.get(entryAt(this.#view, shadowRoot + Math.floor(vaddr / 2 ** 30) * 8).frame)?.gpa;
    return gpa === undefined ? undefined : { table: gpa, level: 2 };
  }

  /** What the guest's own tables say of a page; undefined: nothing. */
  #guest(vaddr: number): { readonly entry: Entry; readonly rights: Rights } | undefined {
    const { p2m } = this.#view;
    const top = this.#top(vaddr);
    if (top === undefined) return undefined;
    let { table } = top;
    let rights = ALL;
    for (let { level } = top; ; level--) {
      const { count, bytes, shift } = tableSize(this.#view, level);
      const mfn = p2m[Math.floor(table / 4096)];
      if (mfn === undefined) return undefined;
      const entry = entryAt(this.#view, mfn * 4096 + (table % 4096) + (Math.floor(vaddr / 2 ** shift) % count) * bytes);
      if (!entry.present) return undefined;
      rights = rightsWith(rights, entry, level);
      if (level === 1) return { entry, rights };
      table = entry.frame * 4096;
    }
  }
}

/** What does not hold; empty if all is well. Call it when the guest has flushed, or say that it has not. */
export const shadowProblems = (view: ShadowView, between?: BetweenFlushes): string[] => new ShadowCheck(view, between).run();
