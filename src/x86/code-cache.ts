// Decoded and compiled instructions of the plain tier, by frame, page address and mode. Thrown away
// when the frame's bytes change; never part of the state.
import { cpuidFeatures, decode } from './decode.ts';
import { compile, newTemps, type Compiled, type Evaluator } from './evaluate.ts';
import { lower, lowerMissing, type Lowered } from './lower.ts';
import { modeBits, type ModeKey } from './mode.ts';

/** What is at an address: an instruction, bytes that are none, or more than an instruction may have. */
export type Entry = { readonly kind: 'insn'; readonly compiled: Compiled; readonly lengthBytes: number; readonly endsBlock: boolean } | { readonly kind: 'invalid' } | { readonly kind: 'tooLong' };

export interface CodePage {
  readonly vpn: number;
  readonly mfn: number;
  readonly mode: ModeKey;
  /** Base of the code segment: rip = linear address - base. */
  readonly csBase: number;
  readonly entries: (Entry | undefined)[];
  /** Instructions that go on in the next page, with the bytes that they were made from. */
  readonly crossing: Map<number, { readonly bytes: Uint8Array; readonly entry: Entry }>;
}

const INVALID: Entry = { kind: 'invalid' };
const TOO_LONG: Entry = { kind: 'tooLong' };

export class CodeCache {
  readonly #evaluator: Evaluator;
  readonly #temps = newTemps();
  readonly #pages = new Map<number, CodePage[]>();

  constructor(evaluator: Evaluator) {
    this.#evaluator = evaluator;
  }

  page(mfn: number, vpn: number, mode: ModeKey, csBase: number): CodePage {
    let list = this.#pages.get(mfn);
    if (list === undefined) this.#pages.set(mfn, (list = []));
    let page = list.find((candidate) => candidate.vpn === vpn && candidate.mode === mode && candidate.csBase === csBase);
    if (page === undefined) {
      page = { vpn, mfn, mode, csBase, entries: new Array<Entry | undefined>(4096).fill(undefined), crossing: new Map() };
      list.push(page);
    }
    return page;
  }

  /** True if something was there. */
  drop(mfn: number): boolean {
    return this.#pages.delete(mfn);
  }
  clear(): void {
    this.#pages.clear();
  }

  /** Makes the entry for the instruction at the start of `bytes`; undefined if it needs more of them. */
  make(bytes: Uint8Array, rip: number, mode: ModeKey): Entry | undefined {
    const { codeWidth } = modeBits(mode);
    const decoded = decode(bytes, rip, codeWidth);
    switch (decoded.kind) {
      case 'needMore':
        return undefined;
      case 'invalid':
        return INVALID;
      case 'tooLong':
        return TOO_LONG;
      default:
        return this.entryOf(lower(decoded.insn, mode) ?? lowerMissing(decoded.insn, cpuidFeatures(bytes, codeWidth)));
    }
  }

  entryOf(lowered: Lowered): Entry {
    return { kind: 'insn', compiled: compile(this.#evaluator, this.#temps, lowered), lengthBytes: lowered.lengthBytes, endsBlock: lowered.kind !== 'straight' };
  }
}
