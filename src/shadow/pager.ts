// Shadow page tables: what the processor walks in the place of a guest's own tables.
//
//   guest        root ─► L2 ─► L1 ─► guest-physical frame      written by the guest, walked by nobody
//   shadow       root ─► L2 ─► L1 ─► machine frame             written here, walked by the processor
//
// One shadow table stands for one guest table (its frame and level), however many others lead to it.
// A shadow begins empty and is filled entry by entry, when the processor faults where the guest's
// tables have an answer. So a shadow holds a part of what they say, never more:
//
//   present      only what is present there; a page is writable only once the guest's entry is dirty
//   stale        until the guest tells of its change: by a call, or because its store was trapped
//   protected    (trapping hosts) a frame that has a shadow is mapped writable nowhere
//
// Accessed and dirty bits go into the guest's entries when a shadow is made from them.
import { assert } from '../base/assert.ts';
import type { MachineMemory } from '../machine/memory.ts';
import type { Cpu } from '../x86/cpu.ts';
import { PF_ERR } from '../x86/exit.ts';
import { BIT, entriesOf, frameIn, indexOf, NX_HIGH, shiftOf, type Shape } from './shape.ts';

export interface ShadowTable {
  readonly level: number;
  /** Guest-physical address of the table that this one stands for: a frame's, or of a PAE root. */
  readonly gpa: number;
  readonly mfn: number;
  /** Entries of other shadows that lead here; one more for a root that is kept. */
  uses: number;
}

export interface PagerOptions {
  readonly machine: MachineMemory;
  readonly cpu: Cpu;
  readonly shape: Shape;
  /** Machine frames of the guest by guest-physical number. */
  readonly p2m: readonly number[];
  /** The host's own frames, for shadows. */
  readonly pool: readonly number[];
  /** Roots that are kept when others are loaded. */
  readonly mostRoots: number;
  /** Frames that have a shadow are write-protected. */
  readonly protects: boolean;
}

/** `guest`: its own tables say no, with this error code. `protected`: a store to one of its tables. `fatal`: nonsense. */
export type Filled = { readonly kind: 'filled' | 'protected' } | { readonly kind: 'guest'; readonly errorCode: number } | { readonly kind: 'fatal'; readonly why: string };

/** One level of a walk of the guest's tables. */
interface Step {
  readonly level: number;
  readonly maddr: number;
  readonly lo: number;
  readonly hi: number;
}

const FILLED: Filled = { kind: 'filled' };
const PROTECTED: Filled = { kind: 'protected' };
/** Frames that one fill may need. */
const FILL_FRAMES = 4;
const USER_END = 0xc000_0000;
const key = (level: number, gpa: number): string => `${level}:${gpa}`;

export class ShadowPager {
  readonly options: PagerOptions;
  readonly tables = new Map<string, ShadowTable>();
  readonly #byMfn = new Map<number, ShadowTable>();
  readonly #free: number[];
  /** Kept roots, the one loaded last at the end. */
  readonly #roots: ShadowTable[] = [];
  /** How many shadows a guest frame has. */
  readonly #shadowed = new Map<number, number>();
  #active!: ShadowTable;

  constructor(options: PagerOptions) {
    this.options = options;
    this.#free = [...options.pool].reverse();
  }

  get active(): ShadowTable {
    return this.#active;
  }

  // -- the guest's memory ---------------------------------------------------------------------------

  /** Machine address of a guest-physical one; undefined beyond the guest's memory. */
  maddrOf(gpa: number): number | undefined {
    const mfn = this.options.p2m[Math.floor(gpa / 4096)];
    return mfn === undefined ? undefined : mfn * 4096 + (gpa % 4096);
  }

  /** The guest's entries from the root down to a page, as far as they are present; or why there is no sense in them. */
  #walk(vaddr: number): readonly Step[] | string {
    const { machine, shape } = this.options;
    const steps: Step[] = [];
    let table = this.#active.gpa;
    for (let { levels: level } = shape as { levels: number }; level >= 1; level--) {
      const maddr = this.maddrOf(table + indexOf(shape, level, vaddr) * shape.entryBytes);
      if (maddr === undefined) return `a page table lies at guest-physical 0x${table.toString(16)}, beyond its memory`;
      const lo = machine.readU32(maddr);
      const hi = shape.entryBytes === 8 ? machine.readU32(maddr + 4) : 0;
      steps.push({ level, maddr, lo, hi });
      if ((lo & BIT.present) === 0) break;
      if (level === 2 && shape.levels === 3 && (lo & BIT.large) !== 0) return `it maps a large page at 0x${vaddr.toString(16)}, which this host does not have`;
      table = frameIn(lo, hi) * 4096;
    }
    return steps;
  }

  /** Where the guest's own tables lead from a linear address, whatever the rights. */
  guestPhysical(vaddr: number): number | undefined {
    const steps = this.#walk(vaddr);
    const last = typeof steps === 'string' ? undefined : steps.at(-1);
    return last === undefined || last.level !== 1 || (last.lo & BIT.present) === 0 ? undefined : frameIn(last.lo, last.hi) * 4096 + (vaddr & 0xfff);
  }

  // -- filling --------------------------------------------------------------------------------------

  /** Makes the shadow allow an access that the guest's tables allow. `errorCode` is the processor's. */
  fill(vaddr: number, errorCode: number): Filled {
    const { machine, p2m } = this.options;
    this.#reclaim();
    const steps = this.#walk(vaddr);
    if (typeof steps === 'string') return { kind: 'fatal', why: steps };
    const leaf = steps.at(-1) as Step;
    if ((leaf.lo & BIT.present) === 0) return { kind: 'guest', errorCode: errorCode & ~PF_ERR.present };
    const rights = steps.filter(({ level }) => level < 3);
    const all = (bit: number): boolean => rights.every(({ lo }) => (lo & bit) !== 0);
    const write = (errorCode & PF_ERR.write) !== 0;
    const refused = ((errorCode & PF_ERR.user) !== 0 && !all(BIT.user)) || (write && !all(BIT.rw)) || ((errorCode & PF_ERR.fetch) !== 0 && rights.some(({ hi }) => (hi & NX_HIGH) !== 0));
    if (refused) return { kind: 'guest', errorCode: errorCode | PF_ERR.present };
    const gfn = frameIn(leaf.lo, leaf.hi);
    const mfn = p2m[gfn];
    if (mfn === undefined) return { kind: 'fatal', why: `it maps guest-physical frame 0x${gfn.toString(16)}, beyond its memory` };
    for (const { level, maddr, lo } of rights) {
      const bits = BIT.accessed | (level === 1 && write ? BIT.dirty : 0);
      if ((lo & bits) !== bits) machine.writeU32(maddr, (lo | bits) >>> 0);
    }
    let table = this.#active;
    for (const { level, lo, hi } of steps) if (level > 1) table = this.#link(table, indexOf(this.options.shape, level, vaddr), lo, hi);
    const shut = this.#isProtected(gfn);
    const writable = (leaf.lo & BIT.rw) !== 0 && (write || (leaf.lo & BIT.dirty) !== 0) && !shut;
    this.#put(table, indexOf(this.options.shape, 1, vaddr), mfn, BIT.present | BIT.accessed | (leaf.lo & BIT.user) | (writable ? BIT.rw | BIT.dirty : 0), leaf.hi);
    return write && shut ? PROTECTED : FILLED;
  }

  /** The entry of an upper shadow, with the rights of the guest's one, and the table that it leads to. */
  #link(table: ShadowTable, index: number, lo: number, hi: number): ShadowTable {
    const gpa = frameIn(lo, hi) * 4096;
    let child = this.#childAt(table, index);
    if (child !== undefined && child.gpa !== gpa) {
      this.#zap(table, index);
      child = undefined;
    }
    if (child === undefined) {
      child = this.#table(table.level - 1, gpa);
      child.uses++;
    }
    // The entries of a PAE root have no rights.
    const flags = table.level === 3 ? BIT.present : BIT.present | BIT.accessed | (lo & (BIT.rw | BIT.user));
    this.#put(table, index, child.mfn, flags, table.level === 3 ? 0 : hi);
    return child;
  }

  #put(table: ShadowTable, index: number, mfn: number, flags: number, hi: number): void {
    const { machine, shape } = this.options;
    const at = table.mfn * 4096 + index * shape.entryBytes;
    if (shape.entryBytes === 8) machine.writeU32(at + 4, (hi & NX_HIGH) >>> 0);
    machine.writeU32(at, (mfn * 4096 + flags) >>> 0);
  }
  #lowAt(table: ShadowTable, index: number): number {
    return this.options.machine.readU32(table.mfn * 4096 + index * this.options.shape.entryBytes);
  }
  #childAt(table: ShadowTable, index: number): ShadowTable | undefined {
    const lo = this.#lowAt(table, index);
    return (lo & BIT.present) === 0 ? undefined : this.#byMfn.get(lo >>> 12);
  }

  // -- tables ---------------------------------------------------------------------------------------

  #table(level: number, gpa: number): ShadowTable {
    const known = this.tables.get(key(level, gpa));
    if (known !== undefined) return known;
    const mfn = this.#free.pop();
    assert(mfn !== undefined, 'no frame is left for a shadow');
    this.options.machine.fillFrame(mfn, 0);
    const table: ShadowTable = { level, gpa, mfn, uses: 0 };
    this.tables.set(key(level, gpa), table);
    this.#byMfn.set(mfn, table);
    if (level < 3) {
      const gfn = gpa / 4096;
      this.#shadowed.set(gfn, (this.#shadowed.get(gfn) ?? 0) + 1);
      if (this.options.protects) this.#protect(gfn);
    }
    return table;
  }

  #isProtected(gfn: number): boolean {
    return this.options.protects && this.#shadowed.has(gfn);
  }

  /** Whoever has the frame mapped writable has it no more. */
  #protect(gfn: number): void {
    const { machine, p2m, shape, cpu } = this.options;
    const mfn = p2m[gfn];
    for (const table of this.tables.values()) {
      if (table.level !== 1) continue;
      for (let index = 0; index < entriesOf(shape, 1); index++) {
        const lo = this.#lowAt(table, index);
        if ((lo & BIT.rw) !== 0 && lo >>> 12 === mfn) machine.writeU32(table.mfn * 4096 + index * shape.entryBytes, lo & ~(BIT.rw | BIT.dirty));
      }
    }
    cpu.flushTlb(false);
  }

  #zap(table: ShadowTable, index: number): void {
    const child = table.level > 1 ? this.#childAt(table, index) : undefined;
    this.#put(table, index, 0, 0, 0);
    if (child !== undefined) this.#unuse(child);
  }
  #empty(table: ShadowTable): void {
    for (let index = 0; index < entriesOf(this.options.shape, table.level); index++) if (this.#lowAt(table, index) !== 0) this.#zap(table, index);
  }
  #unuse(table: ShadowTable): void {
    if (--table.uses > 0) return;
    this.#empty(table);
    this.tables.delete(key(table.level, table.gpa));
    this.#byMfn.delete(table.mfn);
    this.#free.push(table.mfn);
    if (table.level === 3) return;
    const gfn = table.gpa / 4096;
    const left = (this.#shadowed.get(gfn) as number) - 1;
    if (left === 0) this.#shadowed.delete(gfn);
    else this.#shadowed.set(gfn, left);
  }

  /** Room for one fill: the oldest roots go, in the end whatever hangs from the one in use. */
  #reclaim(): void {
    while (this.#free.length < FILL_FRAMES && this.#roots.length > 1) this.#unuse(this.#roots.shift() as ShadowTable);
    if (this.#free.length >= FILL_FRAMES) return;
    this.#empty(this.#active);
    this.options.cpu.flushTlb(false);
  }

  // -- what the guest tells -------------------------------------------------------------------------

  /** The guest's tables are those below `gpa` from now on. False: there is no memory. */
  load(gpa: number): boolean {
    const { shape, machine, cpu, mostRoots } = this.options;
    const maddr = this.maddrOf(gpa);
    if (maddr === undefined) return false;
    const at = this.#roots.findIndex((root) => root.gpa === gpa);
    if (at < 0 && this.#free.length === 0) this.#unuse(this.#roots.shift() as ShadowTable);
    const root = at >= 0 ? (this.#roots.splice(at, 1)[0] as ShadowTable) : this.#table(shape.levels, gpa);
    if (at < 0) root.uses++;
    this.#roots.push(root);
    this.#active = root;
    while (this.#roots.length > mostRoots) this.#unuse(this.#roots.shift() as ShadowTable);
    // A PAE processor reads the root's four entries now and never else.
    if (shape.levels === 3) for (let slot = 0; slot < 4; slot++) {
      const child = this.#childAt(root, slot);
      const lo = machine.readU32(maddr + slot * 8);
      if (child !== undefined && ((lo & BIT.present) === 0 || frameIn(lo, machine.readU32(maddr + slot * 8 + 4)) * 4096 !== child.gpa)) this.#zap(root, slot);
    }
    cpu.setCr(3, root.mfn * 4096);
    return true;
  }

  /** Entries of tables in [gpa, gpa + sizeBytes) have changed. */
  changed(gpa: number, sizeBytes: number): void {
    const { shape } = this.options;
    const page = gpa - (gpa % 4096);
    const first = Math.floor((gpa % 4096) / shape.entryBytes);
    const last = Math.floor(((gpa % 4096) + sizeBytes - 1) / shape.entryBytes);
    for (let level = 1; level <= 2; level++) {
      const table = this.tables.get(key(level, page));
      if (table !== undefined) for (let index = first; index <= last; index++) this.#zap(table, index);
    }
  }

  /** The entry for a page has changed, in the tables below a root. */
  changedPage(rootGpa: number, vaddr: number): void {
    const { shape, cpu } = this.options;
    let table = this.#roots.find((root) => root.gpa === rootGpa);
    for (let level: number = shape.levels; level > 1 && table !== undefined; level--) table = this.#childAt(table, indexOf(shape, level, vaddr));
    if (table !== undefined) this.#zap(table, indexOf(shape, 1, vaddr));
    if (rootGpa === this.#active.gpa) cpu.invlpg(vaddr);
  }

  /** Everything that the loaded shadow says of user addresses goes, or everything. */
  drop(all: boolean): void {
    const { shape } = this.options;
    if (all) for (const root of this.#roots) this.#empty(root);
    else {
      const step = 2 ** shiftOf(shape, shape.levels);
      for (let vaddr = 0; vaddr < USER_END; vaddr += step) this.#zap(this.#active, indexOf(shape, shape.levels, vaddr));
    }
    this.flush();
  }
  flush(): void {
    this.options.cpu.flushTlb(false);
  }

  /** The frame is a table no more, or another one: nothing is kept of it, wherever it hangs. */
  forget(gfn: number): void {
    const gpa = gfn * 4096;
    for (let level = 1; level <= 3; level++) {
      const table = this.tables.get(key(level, gpa));
      if (table === undefined) continue;
      this.#empty(table);
      const at = this.#roots.indexOf(table);
      if (at >= 0 && table !== this.#active) {
        this.#roots.splice(at, 1);
        this.#unuse(table);
      }
      if (table.uses > 0 && table !== this.#active) this.#unlink(table);
    }
  }
  /** Takes a table out of all that lead to it. */
  #unlink(table: ShadowTable): void {
    for (const parent of [...this.tables.values()]) {
      if (parent.level !== table.level + 1) continue;
      for (let index = 0; index < entriesOf(this.options.shape, parent.level); index++) if (this.#childAt(parent, index) === table) this.#zap(parent, index);
    }
  }
}
