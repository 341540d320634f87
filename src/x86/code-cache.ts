// Decoded and compiled instructions of the plain tier, by frame, page address and mode. Thrown away
// when the frame's bytes change; never part of the state.
import { decode, MAX_INSN_BYTES } from './decode.ts';
import { compile, newTemps, type Compiled, type Evaluator } from './evaluate.ts';
import { lower, type Lowered } from './lower.ts';
import { modeBits, type ModeKey } from './mode.ts';

/** What is at an address: an instruction, bytes that are none, or one that this core lacks. */
export type Entry = { readonly kind: 'insn'; readonly compiled: Compiled; readonly lengthBytes: number; readonly endsBlock: boolean } | { readonly kind: 'invalid' } | { readonly kind: 'unimplemented'; readonly text: string };

export interface CodePage {
  readonly vpn: number;
  readonly mfn: number;
  readonly mode: ModeKey;
  readonly entries: (Entry | undefined)[];
  /** Instructions that go on in the next page, with the bytes that they were made from. */
  readonly crossing: Map<number, { readonly bytes: Uint8Array; readonly entry: Entry }>;
}

export const INVALID: Entry = { kind: 'invalid' };

export class CodeCache {
  readonly #evaluator: Evaluator;
  readonly #temps = newTemps();
  readonly #pages = new Map<number, CodePage[]>();

  constructor(evaluator: Evaluator) {
    this.#evaluator = evaluator;
  }

  page(mfn: number, vpn: number, mode: ModeKey): CodePage {
    let list = this.#pages.get(mfn);
    if (list === undefined) this.#pages.set(mfn, (list = []));
    let page = list.find((candidate) => candidate.vpn === vpn && candidate.mode === mode);
    if (page === undefined) {
      page = { vpn, mfn, mode, entries: new Array<Entry | undefined>(4096).fill(undefined), crossing: new Map() };
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
  make(bytes: Uint8Array, vaddr: number, ripBase: number, mode: ModeKey): Entry | undefined {
    const decoded = decode(bytes, (vaddr - ripBase) >>> 0, modeBits(mode).codeWidth);
    if (decoded.kind === 'needMore') return bytes.length >= MAX_INSN_BYTES ? INVALID : undefined;
    if (decoded.kind === 'invalid') return INVALID;
    const lowered = lower(decoded.insn, mode);
    if (lowered === undefined) return { kind: 'unimplemented', text: decoded.insn.code };
    return this.entryOf(lowered);
  }

  entryOf(lowered: Lowered): Entry {
    return { kind: 'insn', compiled: compile(this.#evaluator, this.#temps, lowered), lengthBytes: lowered.lengthBytes, endsBlock: lowered.kind !== 'straight' };
  }
}
