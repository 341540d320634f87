// Random machine programs for comparing the tiers: straight-line instructions of every kind in small blocks that
// jump, call and return among each other, touch pages that fault, and now and then store into their own code.
// Everything derives from one seed. The layout (linear addresses, one code window, one data window, one stack):
import { simdInstruction } from './random-simd.ts';

export const LAYOUT = { code: 0x10000, codeBytes: 0x3000, data: 0x20000, dataBytes: 0x5000, stack: 0x30000, stackBytes: 0x2000 } as const;

/** mulberry32: small and good enough to choose instructions. */
export class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.u32() % n;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
}

export interface Program {
  readonly bytes: Uint8Array;
  /** Where blocks start. */
  readonly starts: readonly number[];
}

const imm32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** `simd`: so many of a hundred straight-line instructions are vectors'. */
export function randomProgram(seed: number, blockCount = 24, simd = 0): Program {
  const dice = new Dice(seed);
  /** Any register but ESP. */
  const reg = (): number => dice.pick([0, 1, 2, 3, 5, 6, 7]);
  const rr = (a: number, b: number): number => 0xc0 | (a << 3) | b;
  const interesting = (): number => dice.pick([0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fffffff, 0x80000000, 0xffffffff, dice.u32(), dice.u32()]);
  /** Makes `at` an offset into the data window; sometimes into a page that is absent or read-only, sometimes across pages. */
  const aim = (at: number): number[] => [0x81, rr(4, at), ...imm32(dice.pick([0xfff, 0x1fff, 0x3fff, 0x3fff, 0x7fff]))];
  const mem = (r: number, base: number): number[] => [0x80 | (r << 3) | base, ...imm32(LAYOUT.data)];
  const prefix = (): number[] => (dice.chance(15) ? [0x66] : []);

  /** Memory operands of vectors are mostly aligned. */
  const vectorMemory = (r: number): { before: number[]; modrm: number[] } => {
    const b = reg();
    return { before: [...aim(b), ...(dice.chance(80) ? [0x83, rr(4, b), 0xf0] : [])], modrm: mem(r, b) };
  };
  const straight = (): number[] => {
    if (simd > 0 && dice.chance(simd)) return simdInstruction(dice, vectorMemory, LAYOUT.data + 4 * dice.below(64));
    const a = reg();
    const b = reg();
    const cc = dice.below(16);
    switch (dice.below(34)) {
      case 0:
      case 1:
      case 2:
        return [...prefix(), dice.below(8) * 8 + dice.pick([1, 3]), rr(a, b)];
      case 3:
        return [dice.below(8) * 8 + dice.pick([0, 2]), rr(dice.below(8), dice.below(8))];
      case 4:
      case 5:
        return [0x83, rr(dice.below(8), a), interesting() & 0xff];
      case 6:
        return [0x81, rr(dice.below(8), a), ...imm32(interesting())];
      case 7:
        return [dice.pick([0x40, 0x48]) + a];
      case 8:
        return [...prefix(), 0xf7, rr(dice.pick([2, 3]), a)];
      case 9:
      case 10:
        return [...prefix(), dice.pick([0xc1, 0xc1, 0xc0]), rr(dice.below(8), a), dice.below(40)];
      case 11:
        return [...prefix(), dice.pick([0xd3, 0xd1, 0xd2, 0xd0]), rr(dice.below(8), a)];
      case 12:
        return dice.chance(50) ? [...prefix(), 0x0f, dice.pick([0xa4, 0xac]), rr(a, b), dice.below(32)] : [0x0f, dice.pick([0xa5, 0xad]), rr(a, b)];
      case 13:
        return dice.pick([[0x0f, 0xaf, rr(a, b)], [0x69, rr(a, b), ...imm32(interesting())], [0xf7, rr(dice.pick([4, 5]), b)]]);
      case 14:
        // Divisors that are mostly harmless.
        return dice.chance(70) ? [0x31, rr(2, 2), 0x83, rr(1, b === 2 ? 3 : b), 1, 0xf7, rr(6, b === 2 ? 3 : b)] : [0xf7, rr(dice.pick([6, 7]), b)];
      case 15:
        return [0xb8 + a, ...imm32(interesting())];
      case 16:
        return [0x0f, dice.pick([0xb6, 0xb7, 0xbe, 0xbf]), rr(a, b)];
      case 17:
        return [0x8d, 0x80 | (a << 3) | 4, (dice.below(4) << 6) | (reg() << 3) | b, ...imm32(interesting())];
      case 18:
        return dice.pick([[0x87, rr(a, b)], [0x90 + a], [0x0f, 0xc8 + a], [0x99], [0x98], [0x66, 0x98], [0x66, 0x99]]);
      case 19:
        return [0x0f, 0x90 + cc, rr(0, dice.below(8))];
      case 20:
        return [0x0f, 0x40 + cc, rr(a, b)];
      case 21:
        return dice.pick([[0x50 + a], [0x58 + a], [0x9c], [0x68, ...imm32(interesting())]]);
      case 22:
        return dice.pick([[0x9e], [0x9f], [0xf5], [0xf8], [0xf9], [0xfc], [0xfc], [0xfd], [0xd6]]);
      case 23:
        return [...prefix(), 0x0f, dice.pick([0xa3, 0xab, 0xb3, 0xbb]), rr(a, b)];
      case 24:
        return dice.pick([[0x0f, 0xba, rr(4 + dice.below(4), a), dice.below(32)], [0x0f, dice.pick([0xbc, 0xbd]), rr(a, b)]]);
      case 25:
        // Through FS, which has a base and a limit.
        return [...aim(b), 0x64, ...prefix(), dice.pick([0x8b, 0x89, 0x01, 0x3b, 0x8a]), 0x80 | (a << 3) | b, ...imm32(0)];
      case 26:
        return [...aim(b), ...prefix(), dice.pick([0x8b, 0x8a]), ...mem(a, b)];
      case 27:
      case 28:
        return [...aim(b), ...prefix(), dice.pick([0x89, 0x88]), ...mem(a, b)];
      case 29:
        return [...aim(b), ...prefix(), dice.below(8) * 8 + dice.pick([0, 1, 2, 3]), ...mem(a, b)];
      case 30:
        return [...aim(b), ...dice.pick([[0x0f, 0xc1], [0x0f, 0xb1], [0x87], [0xff], [0x0f, 0xa3], [0xf7]]), ...mem(dice.pick([0, 1, 2, 3]), b)];
      case 31:
        return [...aim(b), 0x0f, 0xc7, ...mem(1, b)];
      case 32: {
        const bytes = [dice.pick([0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xa7, 0xae, 0xaf, 0xad])];
        const point = (r: number): number[] => [...aim(r), 0x81, rr(0, r), ...imm32(LAYOUT.data)];
        return [...point(6), ...point(7), 0x83, rr(4, 1), 0x7f, ...dice.pick([[], [0xf3], [0xf3], [0xf2]]), ...prefix(), ...bytes];
      }
      default:
        return dice.pick([[0x27], [0x2f], [0x37], [0x3f], [0xd4, 10], [0xd5, 10], [0x60], [0x61], [0xc8, 8, 0, 0], [0xc9], [0x9d], [0x0f, 0x31], [0xcc], [0x0f, 0x0b], [0xd7]]);
    }
  };

  // Blocks are laid out with gaps, so that some instructions cross pages; targets are known beforehand.
  const starts = Array.from({ length: blockCount }, (_, i) => LAYOUT.code + Math.floor((i * LAYOUT.codeBytes) / (blockCount + 1)) + dice.below(40));
  // The block before a page's end is moved close to it.
  starts.forEach((start, i) => {
    const end = (start | 0xfff) + 1;
    if ((starts[i + 1] ?? 0) > end) starts[i] = end - 4 - dice.below(24);
  });
  const bytes = new Uint8Array(LAYOUT.codeBytes).fill(0xcc);
  starts.forEach((start, i) => {
    let at = start;
    const limit = (starts[i + 1] ?? LAYOUT.code + LAYOUT.codeBytes) - 24;
    const put = (code: readonly number[]): void => {
      bytes.set(code, at - LAYOUT.code);
      at += code.length;
    };
    const rel32 = (opcode: readonly number[], target: number): number[] => [...opcode, ...imm32((target - (at + opcode.length + 4)) >>> 0)];
    if (dice.chance(30)) put([0xbc, ...imm32(LAYOUT.stack + LAYOUT.stackBytes - 256)]);
    for (let n = 2 + dice.below(9); n > 0 && at < limit - 40; n--) put(straight());
    if (dice.chance(6)) put([0xc6, 0x05, ...imm32(dice.pick(starts) + dice.below(12)), dice.pick([0x90, 0x40, 0x4b])]); // store into code
    const to = (): number => dice.pick(starts);
    const back = starts[Math.max(0, i - dice.below(4))] as number;
    switch (dice.below(9)) {
      case 0:
      case 1:
      case 2:
        put(rel32([0x0f, 0x80 + dice.below(16)], dice.chance(50) ? back : to()));
        put(rel32([0xe9], to()));
        break;
      case 3:
        put(rel32([0xe8], to()));
        put(rel32([0xe9], back));
        break;
      case 4:
        put([0xc3]);
        break;
      case 5: {
        const r = reg();
        put([0xb8 + r, ...imm32(to())]);
        put([0xff, rr(dice.pick([2, 4]), r)]);
        put(rel32([0xe9], to()));
        break;
      }
      case 6: {
        // A counted loop around the block.
        const distance = start - (at + 2);
        if (distance >= -128) put([dice.pick([0xe2, 0xe2, 0xe0, 0xe1]), distance & 0xff]);
        put(rel32([0xe9], to()));
        break;
      }
      default:
        put(rel32([0xe9], dice.chance(60) ? back : to()));
    }
  });
  return { bytes, starts };
}
