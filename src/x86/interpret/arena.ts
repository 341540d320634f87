// Where block programs lie: a piece of linear memory with cells for temporaries, programs from its beginning, constants from its end.
import type { MachineMemory } from '../../machine/memory.ts';

/** Debian's boot needs some 20 MiB. Of a machine with a small arena, half of what is left. */
const ARENA_BYTES = 24 * 1024 * 1024;
export const TEMPS = 64;
export const SCRATCH = 192;

export class Arena {
  readonly u32: Uint32Array;
  /** Linear addresses: of the interpreter's u64 counter, of cells for an instruction's temporaries, and for what is between them. */
  readonly counter: number;
  readonly tempBase: number;
  readonly scratchBase: number;
  /** Words: the first, the one behind the last, and where the next one goes. */
  readonly #start: number;
  readonly #end: number;
  next: number;
  /** Constants grow down from the end. */
  #constantsAt: number;
  readonly #constants = new Map<number | bigint, number>();

  constructor(machine: MachineMemory) {
    this.u32 = machine.u32;
    const sizeBytes = Math.min(ARENA_BYTES, (machine.arenaLeftBytes >>> 1) & ~63);
    const base = machine.reserve(sizeBytes, 64);
    this.counter = base;
    this.tempBase = base + 64;
    this.scratchBase = this.tempBase + 8 * TEMPS;
    this.#start = this.next = (this.scratchBase + 8 * SCRATCH) >>> 2;
    this.#end = this.#constantsAt = (base + sizeBytes) >>> 2;
  }

  /** Is there room for so many words, and as many for constants? */
  hasRoomFor(words: number): boolean {
    return this.next + 2 * words < this.#constantsAt;
  }
  reset(): void {
    this.next = this.#start;
    this.#constantsAt = this.#end;
    this.#constants.clear();
  }

  put2(a: number, b: number): void {
    this.u32[this.next++] = a;
    this.u32[this.next++] = b;
  }
  put3(a: number, b: number, c: number): void {
    this.put2(a, b);
    this.u32[this.next++] = c;
  }
  put4(a: number, b: number, c: number, d: number): void {
    this.put2(a, b);
    this.put2(c, d);
  }

  /** The cell with that value, of up to 64 bits. */
  constant(value: number | bigint): number {
    let cell = this.#constants.get(value);
    if (cell === undefined) {
      const bits = BigInt(value);
      cell = this.newCell(Number(bits & 0xffffffffn), Number((bits >> 32n) & 0xffffffffn));
      this.#constants.set(value, cell);
    }
    return cell;
  }
  /** A cell of its own, with these halves. */
  newCell(low: number, high: number): number {
    // From the other end: operations of an instruction stand together.
    this.#constantsAt -= 2;
    this.u32[this.#constantsAt] = low;
    this.u32[this.#constantsAt + 1] = high;
    return 4 * this.#constantsAt;
  }
  /** The halves of a constant's cell; undefined of what is none. */
  constantAt(cell: number): readonly [low: number, high: number] | undefined {
    const at = cell >>> 2;
    const isCell = (cell & 7) === 0 && at >= this.#constantsAt && at < this.#end;
    return isCell ? [this.u32[at] as number, this.u32[at + 1] as number] : undefined;
  }
}
