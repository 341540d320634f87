// Decoded instructions of the plain tier, by frame, page address and mode. Thrown away when the frame's
// bytes change; never part of the state.
//
// Programs repeat themselves: six of seven instructions that are not relative branches have the same
// bytes as another one. Those share one entry, found by walking a tree over the bytes, without decoding.
import { ByteTree } from './byte-tree.ts';
import { cpuidFeatures, decode, MAX_INSN_BYTES, type Insn } from './decode.ts';
import { compile, newTemps, type Done, type Evaluator } from './evaluate.ts';
import { lower, lowerMissing, type Lowered } from './lower.ts';
import { loweringMode, modeBits, type ModeKey } from './mode.ts';
import { SIMD_FEATURES } from './simd/unit.ts';

export interface InsnEntry {
  readonly kind: 'insn';
  readonly lowered: Lowered;
  readonly lengthBytes: number;
  readonly endsBlock: boolean;
  /** Compiled when it is first performed. */
  run: (() => Done) | undefined;
}
/** What is at an address: an instruction, bytes that are none, or more than an instruction may have. */
export type Entry = InsnEntry | { readonly kind: 'invalid' } | { readonly kind: 'tooLong' };

/** In an index; no page has so many entries (MOST_MADE). */
const CROSSES = 0xffff;

export class CodePage {
  readonly vpn: number;
  readonly mfn: number;
  /** loweringMode(): what is compiled looks up the rest of the mode when it runs. */
  readonly mode: ModeKey;
  /** Base of the code segment: rip = linear address - base. */
  readonly csBase: number;
  /** By offset in the page: where in `made` the entry is; 0 for none. */
  readonly index = new Uint16Array(4096);
  readonly made: (Entry | undefined)[] = [undefined];
  /** Instructions that go on in the next page, with the bytes that they were made from. */
  readonly crossing = new Map<number, { readonly bytes: Uint8Array; readonly entry: Entry }>();

  constructor(vpn: number, mfn: number, mode: ModeKey, csBase: number) {
    this.vpn = vpn;
    this.mfn = mfn;
    this.mode = mode;
    this.csBase = csBase;
  }
  get(offset: number): Entry | undefined {
    const at = this.index[offset] as number;
    return at === CROSSES ? undefined : this.made[at];
  }
  set(offset: number, entry: Entry): void {
    this.index[offset] = this.made.push(entry) - 1;
  }
  /** Known to go on in the next page: nobody has to decode it to see that. */
  crosses(offset: number): boolean {
    return this.index[offset] === CROSSES;
  }
  setCrosses(offset: number): void {
    this.index[offset] = CROSSES;
  }
}

const INVALID: Entry = { kind: 'invalid' };
const TOO_LONG: Entry = { kind: 'tooLong' };

const MAX_SHARED = 200_000;
const MOST_MADE = 0xf000;

export class CodeCache {
  readonly #evaluator: Evaluator;
  readonly #temps = newTemps();
  readonly #pages = new Map<number, CodePage[]>();
  /** By instruction bytes: no instruction is the beginning of another one. */
  readonly #shared = new Map<ModeKey, ByteTree<InsnEntry>>();

  constructor(evaluator: Evaluator) {
    this.#evaluator = evaluator;
  }

  page(mfn: number, vpn: number, fullMode: ModeKey, csBase: number): CodePage {
    const mode = loweringMode(fullMode);
    let list = this.#pages.get(mfn);
    if (list === undefined) this.#pages.set(mfn, (list = []));
    let page = list.find((candidate) => candidate.vpn === vpn && candidate.mode === mode && candidate.csBase === csBase);
    if (page === undefined) {
      page = new CodePage(vpn, mfn, mode, csBase);
      list.push(page);
    }
    return page;
  }

  /** Drops what was made from these bytes of the frame. True if whole pages went. */
  drop(mfn: number, from: number, to: number): boolean {
    if (from === 0 && to === 4096) return this.#pages.delete(mfn);
    const list = this.#pages.get(mfn) ?? [];
    // What was dropped still has its place in `made`, and places have 16 bits.
    if (list.some((page) => page.made.length > MOST_MADE)) return this.#pages.delete(mfn);
    for (const page of list) page.index.fill(0, Math.max(0, from - MAX_INSN_BYTES + 1), to);
    return false;
  }
  clear(): void {
    this.#pages.clear();
  }

  /** The entry for the instruction at the start of `bytes`; undefined if it needs more of them. */
  make(bytes: Uint8Array, rip: number, mode: ModeKey): Entry | undefined {
    const tree = this.#tree(loweringMode(mode));
    const known = tree.find(bytes);
    if (known !== undefined) return known;
    const { codeWidth } = modeBits(mode);
    const decoded = decode(bytes, rip, codeWidth);
    switch (decoded.kind) {
      case 'needMore':
        return undefined;
      case 'invalid':
        return INVALID;
      case 'tooLong':
        return TOO_LONG;
      default: {
        const lowered = this.#lower(decoded.insn, bytes, mode);
        const entry: InsnEntry = { kind: 'insn', lowered, lengthBytes: lowered.lengthBytes, endsBlock: lowered.kind !== 'straight' || lowered.rep !== undefined, run: undefined };
        if (lowered.positionFree) tree.add(bytes, entry.lengthBytes, entry);
        return entry;
      }
    }
  }

  #lower(insn: Insn, bytes: Uint8Array, mode: ModeKey): Lowered {
    const lowered = lower(insn, mode);
    if (lowered === undefined) return lowerMissing(insn);
    const promised = !lowered.simd || cpuidFeatures(bytes, modeBits(mode).codeWidth).every((feature) => this.#promises(feature));
    return promised ? lowered : lowerMissing(insn);
  }
  #promises(feature: string): boolean {
    const bit = SIMD_FEATURES[feature];
    return bit === undefined || (this.#evaluator.core.options.cpuid(1, 0)[3] & bit) !== 0;
  }

  compile(entry: InsnEntry): () => Done {
    entry.run = compile(this.#evaluator, this.#temps, entry.lowered);
    return entry.run;
  }

  #tree(mode: ModeKey): ByteTree<InsnEntry> {
    let tree = this.#shared.get(mode);
    if (tree === undefined || tree.size > MAX_SHARED) this.#shared.set(mode, (tree = new ByteTree()));
    return tree;
  }
}
