// Shapes of instructions: what an instruction's operations (program.ts) are, apart from one number in it and from where it stands.
//
// A boot makes programs of 323,000 instructions; most differ from one that was met before, if at all, in the displacement of
// their memory operand or branch, in what MOV puts into a register, or in the place that a displacement counts from. Decoding and
// lowering each costs some microseconds; copying operations and putting numbers where they belong, a tenth: 297,000 are copied.
//
// Where they belong nobody says: it is seen. An instruction is made a second time, with another number at another place,
// and the words that differ must be explained by what differs. What cannot be explained is made anew each time.
import { highHalf, inCanonicalRange } from '../address.ts';
import { ByteTree } from '../byte-tree.ts';
import { decode } from '../decode.ts';
import { flagOpCode } from '../flags.ts';
import { lower, type Lowered } from '../lower.ts';
import { modeBits, type ModeKey } from '../mode.ts';
import type { KnownFlags } from '../translate/statement.ts';

/** What differs between instructions of one shape: words of operations, or constants in cells. */
export const HOLE = { number: 0, targetLow: 1, targetHigh: 2, nextLow: 3, nextHigh: 4, targetCell: 5, nextCell: 6, numberCell: 7, number32Cell: 8 } as const;
type Hole = (typeof HOLE)[keyof typeof HOLE];

export interface Template {
  readonly words: Uint32Array;
  /** Place among the words | Hole | place | Hole ... */
  readonly holes: readonly number[];
  readonly mayBail: boolean;
  /** The producer of flags in force behind it; 'before': the one that was. */
  readonly after: KnownFlags | undefined | 'before';
}

/** What one making of an instruction gave. */
export interface Made {
  readonly words: Uint32Array;
  readonly mayBail: boolean;
  readonly readsFlags: boolean;
  readonly before: KnownFlags | undefined;
  readonly after: KnownFlags | undefined;
}

/** What is different at each place, of an instruction there. */
interface Place {
  readonly number: number;
  readonly target: number;
  readonly next: number;
}

/** What instructions have in common that are alike but for a number (Insn.numberAt). */
export class Shape {
  readonly lengthBytes: number;
  readonly numberAt: number;
  /** 0, 1 or 4. */
  readonly numberBytes: number;
  /** The number is a branch's displacement. */
  readonly near: boolean;
  readonly endsBlock: boolean;
  readonly positionFree: boolean;
  /** False: it is the evaluator's. */
  readonly performable: boolean;
  /** A string instruction with REP. */
  readonly repeats: boolean;
  /** Times it was made anew. */
  met = 0;
  /** Its words could not be explained. */
  refused = false;
  #readsFlags = false;
  #template: Template | undefined;
  /** Of numbers that are zero, and by the producer in force before it, where that matters. */
  readonly #others = new Map<number, Template>();

  constructor({ insn, lengthBytes, kind, rep, positionFree }: Lowered, performable: boolean) {
    this.lengthBytes = lengthBytes;
    this.numberAt = insn.numberAt;
    this.numberBytes = insn.numberBytes;
    this.near = insn.operands[0]?.kind === 'near';
    this.endsBlock = kind === 'transfer';
    this.positionFree = positionFree;
    this.performable = performable;
    this.repeats = rep !== undefined;
  }

  /** A displacement of zero is no part of an address: such an instruction is like itself only. */
  isZero(number: number): boolean {
    return number === 0 && this.numberBytes > 0 && !this.near;
  }

  /** Of the instruction with that number, behind that producer. */
  template(number: number, known: KnownFlags | undefined): Template | undefined {
    const zero = this.isZero(number);
    return this.#readsFlags || zero ? this.#others.get(this.#key(known, zero)) : this.#template;
  }

  /** Of the instruction whose bytes begin at `at`. */
  number(bytes: Uint8Array, at: number): number {
    const from = at + this.numberAt;
    if (this.numberBytes === 0) return 0;
    if (this.numberBytes === 1) return ((bytes[from] as number) << 24) >> 24;
    return (bytes[from] as number) | ((bytes[from + 1] as number) << 8) | ((bytes[from + 2] as number) << 16) | ((bytes[from + 3] as number) << 24);
  }

  keep({ words, mayBail, readsFlags, before, after }: Made, holes: readonly number[], zero: boolean): void {
    this.#readsFlags = readsFlags;
    const template: Template = { words, holes, mayBail, after: !readsFlags && after === before ? 'before' : after };
    if (readsFlags || zero) this.#others.set(this.#key(before, zero), template);
    else this.#template = template;
  }

  #key(known: KnownFlags | undefined, zero: boolean): number {
    return 2 * (this.#readsFlags ? keyOf(known) : 0) + (zero ? 1 : 0);
  }
}

const keyOf = (known: KnownFlags | undefined): number => (known === undefined ? -1 : flagOpCode(known.op, known.width));

/**
 * Numbers and places of the second making: none of theirs stands in the first by chance. The numbers are negative, since the
 * positive ones look alike in cells of both widths; the places are such that a displacement leads into another 4 GiB, or the
 * upper halves of target and place would look alike.
 */
const OTHERS = [
  { byte: -0x35, word: -0x2b5d3a91, vaddr: -0x35a7_0000_0000 + 5 },
  { byte: -0x4b, word: -0x1c47e6d3, vaddr: 0x1e93_0000_0000 + 3 },
] as const;
/** A guest that makes up more shapes than programs have begins anew. */
const MAX_SHAPES = 50_000;

/** What is asked of who makes operations (program.ts). */
export interface Making {
  /** Makes the instruction aside, with that producer in force. */
  aside(lowered: Lowered, vaddr: number, before: KnownFlags | undefined): Made | undefined;
  /** The 64 bits of a constant's cell, by halves; undefined if there is none. */
  constantAt(cell: number): readonly [low: number, high: number] | undefined;
}

export class Shapes {
  readonly #trees = new Map<ModeKey, ByteTree<Shape>>();

  /** Of the instruction at `from`, all of whose bytes are before `to`. */
  find(mode: ModeKey, bytes: Uint8Array, from: number, to: number): Shape | undefined {
    return this.#trees.get(mode)?.find(bytes, from, to);
  }
  clear(): void {
    this.#trees.clear();
  }

  /** An instruction was made, or has no operations (undefined). The next of its shape need not be, or the one after that. */
  met(making: Making, mode: ModeKey, bytes: Uint8Array, at: number, lowered: Lowered, vaddr: number, made: Made | undefined): void {
    if (!hasShape(lowered)) return;
    const insn = bytes.slice(at, at + lowered.lengthBytes);
    const shape = this.find(mode, insn, 0, insn.length) ?? this.#add(mode, insn, lowered, made !== undefined);
    if (made === undefined || shape.refused) return;
    const zero = shape.isZero(shape.number(insn, 0));
    if (zero || shape.numberBytes === 0) {
      if (shape.positionFree) return shape.keep(made, [], zero);
      if (zero) return;
    }
    // Most shapes are met once: a second making has to pay.
    if (++shape.met === 1) return;
    const holes = holesOf(making, shape, mode, insn, vaddr, made);
    if (holes === undefined) shape.refused = true;
    else if (holes !== 'unclear') shape.keep(made, holes, false);
  }

  #add(mode: ModeKey, insn: Uint8Array, lowered: Lowered, performable: boolean): Shape {
    let tree = this.#trees.get(mode);
    if (tree === undefined || tree.size === MAX_SHAPES) this.#trees.set(mode, (tree = new ByteTree()));
    const shape = new Shape(lowered, performable);
    tree.add(insn, insn.length, shape, shape.numberAt, shape.numberBytes);
    return shape;
  }
}

/** Numbers of one or four bytes, of 64-bit addresses only (an address of eight bytes, which MOV alone has, and those of 32 bits are made anew). */
function hasShape({ insn, kind }: Lowered): boolean {
  const sizeBytes = insn.numberBytes;
  if (sizeBytes !== 0 && sizeBytes !== 1 && sizeBytes !== 4) return false;
  if (kind === 'system' || sizeBytes === 0) return true;
  return insn.operands.every((operand) => (operand.kind === 'near' ? inCanonicalRange(operand.target) : operand.kind !== 'mem' || operand.mem.addressWidth === 64));
}

/** Where the holes are; undefined: the words are not explained; 'unclear': by these places nothing can be told. */
function holesOf(making: Making, shape: Shape, mode: ModeKey, insn: Uint8Array, vaddr: number, first: Made): readonly number[] | 'unclear' | undefined {
  const here = placeOf(shape, insn, vaddr);
  const [words, cells] = shape.numberBytes === 0 ? [NEXT_WORDS, NEXT_CELLS] : [WORDS, CELLS];
  for (const other of OTHERS) {
    const bytes = insn.slice();
    const value = shape.numberBytes === 1 ? other.byte : other.word;
    for (let i = 0; i < shape.numberBytes; i++) bytes[shape.numberAt + i] = value >>> (8 * i);
    const there = placeOf(shape, bytes, other.vaddr);
    if (!distinct(words, here, there) || !distinct(cells, here, there)) continue;
    const decoded = decode(bytes, other.vaddr, modeBits(mode).codeWidth);
    const lowered = decoded.kind === 'insn' ? lower(decoded.insn, mode) : undefined;
    const second = lowered?.lengthBytes === insn.length ? making.aside(lowered, other.vaddr, first.before) : undefined;
    return second === undefined || !alike(first, second) ? undefined : explained(making, words, cells, here, there, first.words, second.words);
  }
  return 'unclear';
}

function placeOf(shape: Shape, insn: Uint8Array, vaddr: number): Place {
  const number = shape.number(insn, 0);
  const next = vaddr + shape.lengthBytes;
  return { number, next, target: next + number };
}

/** Each thing that may differ does, and no two look alike. */
function distinct(sources: readonly Source[], here: Place, there: Place): boolean {
  const pairs = sources.map(({ of }) => [of(here), of(there)] as const);
  return pairs.every(([a, b], i) => a !== b && pairs.every(([c, d], j) => i === j || a !== c || b !== d));
}

/** `after` may be another object, but not another producer. */
function alike(a: Made, b: Made): boolean {
  return a.words.length === b.words.length && a.mayBail === b.mayBail && a.readsFlags === b.readsFlags && keyOf(a.after) === keyOf(b.after) && (a.after === a.before) === (b.after === b.before);
}

function explained(making: Making, words: readonly Source[], cells: readonly Source[], here: Place, there: Place, first: Uint32Array, second: Uint32Array): readonly number[] | undefined {
  const holes: number[] = [];
  for (let i = 0; i < first.length; i++) {
    const [a, b] = [first[i] as number, second[i] as number];
    if (a === b) continue;
    const source = words.find(({ of }) => of(here) === a && of(there) === b) ?? cells.find(({ of }) => holds(making, a, of(here)) && holds(making, b, of(there)));
    if (source === undefined) return undefined;
    holes.push(i, source.hole);
  }
  return holes;
}

/** What a word, or the 64 bits of a constant, may be made from. */
interface Source {
  readonly hole: Hole;
  readonly of: (place: Place) => number;
}
const NEXT_WORDS: readonly Source[] = [{ hole: HOLE.nextLow, of: ({ next }) => next >>> 0 }, { hole: HOLE.nextHigh, of: ({ next }) => highHalf(next) }];
const WORDS: readonly Source[] = [
  { hole: HOLE.number, of: ({ number }) => number >>> 0 },
  { hole: HOLE.targetLow, of: ({ target }) => target >>> 0 },
  { hole: HOLE.targetHigh, of: ({ target }) => highHalf(target) },
  ...NEXT_WORDS,
];
const NEXT_CELLS: readonly Source[] = [{ hole: HOLE.nextCell, of: ({ next }) => next }];
const CELLS: readonly Source[] = [
  { hole: HOLE.targetCell, of: ({ target }) => target },
  { hole: HOLE.numberCell, of: ({ number }) => number },
  { hole: HOLE.number32Cell, of: ({ number }) => number >>> 0 },
  ...NEXT_CELLS,
];

function holds(making: Making, cell: number, value: number): boolean {
  const halves = making.constantAt(cell);
  return halves !== undefined && halves[0] === value >>> 0 && halves[1] === highHalf(value);
}
