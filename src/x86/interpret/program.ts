// Blocks of 64-bit code as programs for the interpreter: what is executed a few times and is not worth translating.
//
// A program holds the instructions of a block up to a jump, the page's end, or an instruction that has no operations
// (system rows, strings, vectors, what crosses pages): that one is left to the evaluator, as is, by the law of
// precise faults (ir.ts), any that turns out to need more than a fast access to memory.
//
// Most of a boot's code is executed a few times, so making programs must be quick: operations are written straight
// into the arena (instruction.ts), and those of an instruction whose like was met are copied (shapes.ts).
import { assert } from '../../base/assert.ts';
import type { MachineMemory } from '../../machine/memory.ts';
import { highHalf, inCanonicalRange, pageOf } from '../address.ts';
import { markCode } from '../code-frames.ts';
import { MAX_INSN_BYTES } from '../decode.ts';
import type { Lowered } from '../lower.ts';
import { loweringMode, type ModeKey } from '../mode.ts';
import { Arena } from './arena.ts';
import { InstructionMaker } from './instruction.ts';
import { PROGRAM } from './interpreter.ts';
import { SPECIAL } from './operations.ts';
import { HOLE, type Shape, Shapes } from './shapes.ts';

const MAX_BLOCK_INSNS = 40;
/** Words that a block may need at most; the arena is renewed when less is left. */
const MAX_BLOCK_WORDS = 16384;

/** Where a block is. */
export interface BlockPlace {
  readonly rip: number;
  /** Machine address of its first byte. */
  readonly maddr: number;
  readonly mode: ModeKey;
}

export class ProgramMaker {
  readonly #machine: MachineMemory;
  /** Where they lie, for who reads them (tests). */
  readonly arena: Arena;
  readonly #maker: InstructionMaker;
  readonly #shapes = new Shapes();

  constructor(machine: MachineMemory, stateBase: number) {
    this.#machine = machine;
    this.arena = new Arena(machine);
    this.#maker = new InstructionMaker(this.arena, stateBase);
  }

  /** Linear address of the interpreter's u64 counter. */
  get counter(): number {
    return this.arena.counter;
  }
  /** Is there room for one more block? */
  get hasRoom(): boolean {
    return this.arena.hasRoomFor(MAX_BLOCK_WORDS);
  }
  /** Forgets all programs. */
  reset(): void {
    this.arena.reset();
    // Their operations name constants' cells.
    this.#shapes.clear();
  }

  #word(at: number): number {
    return this.arena.u32[at >>> 2] as number;
  }
  /** Instructions that were performed as parts of programs. */
  get performedInsns(): number {
    return this.#word(this.counter + 4) * 2 ** 32 + this.#word(this.counter);
  }
  /** Executions that were granted last. */
  grantedTo(program: number): number {
    return this.#word(program + PROGRAM.granted);
  }
  /** Bytes of code that it was made from; at most, if that is an instruction which has no operations. */
  codeBytes(program: number): number {
    return program === 0 ? MAX_INSN_BYTES : this.#word(program + PROGRAM.codeBytes);
  }
  grant(program: number, executions: number): void {
    this.arena.u32[(program + PROGRAM.left) >>> 2] = executions;
    this.arena.u32[(program + PROGRAM.granted) >>> 2] = executions;
  }

  /**
   * The program of the block there: its address. If the first instruction is the evaluator's, one that says so; or 0, of what
   * cannot be read here, and of string instructions, whose iterations the evaluator counts.
   */
  make({ rip, maddr, mode: fullMode }: BlockPlace, lowerAt: (vaddr: number) => Lowered | undefined, granted: number): number {
    assert(this.hasRoom, 'the arena of block programs is full');
    const mode = loweringMode(fullMode);
    const page = pageOf(rip);
    const arena = this.arena;
    const maker = this.#maker;
    const head = (arena.next = (arena.next + 1) & ~1);
    maker.begin();
    const { u8, ramBase } = this.#machine;
    const pageEnd = ramBase + (maddr & ~0xfff) + 4096;
    let vaddr = rip;
    let insns = 0;
    arena.next += PROGRAM.operations >> 2;
    for (;;) {
      if (insns === MAX_BLOCK_INSNS || pageOf(vaddr) !== page) {
        arena.put3(SPECIAL.goto, vaddr >>> 0, highHalf(vaddr));
        break;
      }
      const at = ramBase + maddr + vaddr - rip;
      const shape = this.#shapes.find(mode, u8, at, pageEnd);
      let made = false;
      let lengthBytes = 0;
      let last = false;
      let repeats = false;
      if (shape !== undefined && (!shape.performable || this.#copied(shape, at, vaddr, insns))) {
        made = shape.performable;
        ({ lengthBytes, endsBlock: last, repeats } = shape);
        markCode(this.#machine, at - ramBase, lengthBytes);
      } else {
        const lowered = lowerAt(vaddr);
        if (lowered !== undefined) {
          made = this.#anew(lowered, at, vaddr, insns, mode);
          lengthBytes = lowered.lengthBytes;
          last = lowered.kind === 'transfer';
          repeats = lowered.rep !== undefined;
        }
      }
      if (!made) {
        if (insns === 0 && (repeats || lengthBytes === 0)) {
          arena.next = head;
          return 0;
        }
        arena.put2(SPECIAL.stop, vaddr >>> 0);
        break;
      }
      insns++;
      vaddr += lengthBytes;
      if (last) break;
    }
    maker.end(insns);
    assert(arena.next - head < MAX_BLOCK_WORDS, () => `a block of ${arena.next - head} words`);
    arena.u32[head + (PROGRAM.insns >> 2)] = insns;
    arena.u32[head + (PROGRAM.codeBytes >> 2)] = insns === 0 ? MAX_INSN_BYTES : vaddr - rip;
    this.grant(4 * head, granted);
    return 4 * head;
  }

  /** Copies what another of its shape has. False: it must be made, and nothing was written. */
  #copied(shape: Shape, at: number, vaddr: number, index: number): boolean {
    const number = shape.number(this.#machine.u8, at);
    const template = shape.template(number, this.#maker.known);
    const next = vaddr + shape.lengthBytes;
    const target = next + number;
    if (template === undefined || (shape.near && !inCanonicalRange(target))) return false;
    if (template.mayBail) this.#maker.marker(vaddr, index);
    const { words, holes, after } = template;
    const { u32, next: to } = this.arena;
    for (let i = 0; i < words.length; i++) u32[to + i] = words[i] as number;
    for (let i = 0; i < holes.length; i += 2) u32[to + (holes[i] as number)] = this.#filling(holes[i + 1] as number, number, target, next);
    this.arena.next = to + words.length;
    if (after !== 'before') this.#maker.known = after;
    return true;
  }
  #filling(hole: number, number: number, target: number, next: number): number {
    switch (hole) {
      case HOLE.number:
        return number;
      case HOLE.targetLow:
        return target;
      case HOLE.targetHigh:
        return highHalf(target);
      case HOLE.nextLow:
        return next;
      case HOLE.nextHigh:
        return highHalf(next);
      case HOLE.targetCell:
        return this.arena.newCell(target, highHalf(target));
      case HOLE.nextCell:
        return this.arena.newCell(next, highHalf(next));
      case HOLE.numberCell:
        return this.arena.newCell(number, highHalf(number));
      default:
        return this.arena.newCell(number, 0);
    }
  }

  /** False: it has no operations, and nothing was written. */
  #anew(lowered: Lowered, at: number, vaddr: number, index: number, mode: ModeKey): boolean {
    const { next: start } = this.arena;
    const made = this.#maker.make(lowered, vaddr, index);
    const { next: end } = this.arena;
    this.#shapes.met(this.#maker, mode, this.#machine.u8, at, lowered, vaddr, made);
    assert(this.arena.next === end && (made !== undefined || end === start), 'what is made aside leaves nothing');
    return made !== undefined;
  }
}
