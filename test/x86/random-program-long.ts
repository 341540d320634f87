// Random programs of 64-bit code for comparing the tiers, in the layout and the manner of random-program.ts, but at
// the top of the address space: REX registers and widths, RIP-relative operands, FS and GS bases, 64-bit divisions
// and strings, CMPXCHG16B, SSE moves. Everything derives from one seed.
import { TOP } from './long-machine.ts';
import { Dice, LAYOUT, type Program } from './random-program.ts';
import { simdInstruction } from './random-simd.ts';

const imm32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, (value >>> 24) & 0xff];
const imm64 = (value: bigint): number[] => Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
const INTERESTING: readonly bigint[] = [0n, 1n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0x8000n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 0x7fffffffffffffffn, 0x8000000000000000n, 0xffffffffffffffffn, 0xffffffff80000000n, 0x100000000n];
const DATA = (LAYOUT.data + TOP) >>> 0;

/** `simd`: so many of a hundred straight-line instructions are vectors'. */
export function randomLongProgram(seed: number, blockCount = 24, simd = 0): Program {
  const dice = new Dice(seed);
  /** Any register but RSP. */
  const reg = (): number => dice.pick([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
  const wide = (): boolean => dice.chance(60);
  const interesting = (): bigint => (dice.chance(50) ? dice.pick(INTERESTING) : (BigInt(dice.u32()) << 32n) | BigInt(dice.u32()));
  const rex = (w: boolean, r: number, b: number, must = false): number[] => {
    const byte = 0x40 | (w ? 8 : 0) | (r >= 8 ? 4 : 0) | (b >= 8 ? 1 : 0);
    return byte === 0x40 && !must ? [] : [byte];
  };
  /** prefixes, REX, opcode, ModRM of two registers. */
  const rr = (opcode: readonly number[], r: number, b: number, w = wide(), before: readonly number[] = []): number[] => [...before, ...rex(w, r, b), ...opcode, 0xc0 | ((r & 7) << 3) | (b & 7)];
  /** [base + the data window]. */
  const rm = (opcode: readonly number[], r: number, base: number, w = wide(), before: readonly number[] = [], displacement = DATA): number[] => [
    ...before, ...rex(w, r, base), ...opcode, 0x80 | ((r & 7) << 3) | (base & 7), ...((base & 7) === 4 ? [0x24] : []), ...imm32(displacement),
  ];
  const aim = (at: number): number[] => [...rex(false, 0, at), 0x81, 0xe0 | (at & 7), ...imm32(dice.pick([0xfff, 0x1fff, 0x3fff, 0x3fff, 0x7fff]))];
  const narrow = (): number[] => (dice.chance(15) ? [0x66] : []);

  /** Memory operands of vectors are mostly aligned. */
  const vectorMemory = (r: number): { before: number[]; modrm: number[] } => {
    const b = dice.pick([0, 1, 2, 3, 5, 6, 7]);
    return { before: [...aim(b), ...(dice.chance(80) ? [0x83, 0xe0 | b, 0xf0] : [])], modrm: [0x80 | (r << 3) | b, ...imm32(DATA)] };
  };
  const straight = (): number[] => {
    if (simd > 0 && dice.chance(simd)) return simdInstruction(dice, vectorMemory, DATA + 4 * dice.below(64), true);
    const a = reg();
    const b = reg();
    const cc = dice.below(16);
    switch (dice.below(36)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return rr([dice.below(8) * 8 + dice.pick([1, 3])], a, b, wide(), narrow());
      case 4:
        return [...rex(false, dice.below(16), b, dice.chance(50)), dice.below(8) * 8 + dice.pick([0, 2]), 0xc0 | (dice.below(8) << 3) | (b & 7)];
      case 5:
      case 6:
        return [...rr([0x83], dice.below(8), a), Number(interesting() & 0xffn)];
      case 7:
        return [...rr([0x81], dice.below(8), a), ...imm32(Number(interesting() & 0xffffffffn))];
      case 8:
        return rr([0xff], dice.pick([0, 1]), a, wide(), narrow());
      case 9:
        return rr([0xf7], dice.pick([2, 3]), a, wide(), narrow());
      case 10:
      case 11:
        return [...rr([dice.pick([0xc1, 0xc1, 0xc0])], dice.below(8), a), dice.below(70)];
      case 12:
        return rr([dice.pick([0xd3, 0xd1, 0xd2, 0xd0])], dice.below(8), a);
      case 13:
        return dice.chance(50) ? [...rr([0x0f, dice.pick([0xa4, 0xac])], a, b), dice.below(70)] : rr([0x0f, dice.pick([0xa5, 0xad])], a, b);
      case 14:
        return dice.pick([rr([0x0f, 0xaf], a, b), [...rr([0x69], a, b), ...imm32(Number(interesting() & 0xffffffffn))], rr([0xf7], dice.pick([4, 5]), b)]);
      case 15: {
        const divisor = b === 2 || b === 0 ? 3 : b;
        if (dice.chance(40)) return rr([0xf7], dice.pick([6, 7]), b);
        // A dividend that fits: RDX from RAX, a divisor that is not zero.
        return [...(dice.chance(50) ? [0x48, 0x99] : rr([0x31], 2, 2, false)), ...rr([0x83], 1, divisor, true), 1, ...rr([0xf7], dice.pick([6, 7]), divisor, true)];
      }
      case 16:
        return dice.chance(50) ? [...rex(true, 0, a), 0xb8 + (a & 7), ...imm64(interesting())] : [...rex(false, 0, a), 0xb8 + (a & 7), ...imm32(dice.u32())];
      case 17:
        return dice.pick([rr([0x0f, dice.pick([0xb6, 0xb7, 0xbe, 0xbf])], a, b), rr([0x63], a, b, true)]);
      case 18:
        return rm([0x8d], a, b, wide(), dice.chance(10) ? [0x67] : [], dice.u32());
      case 19:
        return dice.pick([rr([0x87], a, b), [...rex(wide(), 0, a), 0x90 + (a & 7)], [...rex(wide(), 0, a), 0x0f, 0xc8 + (a & 7)], [0x48, 0x99], [0x48, 0x98], [0x99], [0x98]]);
      case 20:
        return [...rex(false, 0, a, true), 0x0f, 0x90 + cc, 0xc0 | (a & 7)];
      case 21:
        return rr([0x0f, 0x40 + cc], a, b);
      case 22:
        return dice.pick([[...rex(false, 0, a), 0x50 + (a & 7)], [...rex(false, 0, a), 0x58 + (a & 7)], [0x9c], [0x68, ...imm32(dice.u32())], [0x6a, dice.below(256)]]);
      case 23:
        return dice.pick([[0x9e], [0x9f], [0xf5], [0xf8], [0xf9], [0xfc], [0xfc], [0xfd]]);
      case 24:
        return rr([0x0f, dice.pick([0xa3, 0xab, 0xb3, 0xbb])], a, b, wide(), narrow());
      case 25:
        return dice.pick([[...rr([0x0f, 0xba], 4 + dice.below(4), a), dice.below(70)], rr([0x0f, dice.pick([0xbc, 0xbd])], a, b)]);
      case 26:
        // Through FS and GS, which have bases.
        return [...aim(b), ...rm([dice.pick([0x8b, 0x89, 0x01, 0x3b])], a, b, wide(), [dice.pick([0x64, 0x65])], 0)];
      case 27:
        return [...aim(b), ...rm([dice.pick([0x8b, 0x8b, 0x8a])], a, b, wide(), narrow())];
      case 28:
      case 29:
        return [...aim(b), ...rm([dice.pick([0x89, 0x88])], a, b, wide(), narrow())];
      case 30:
        return [...aim(b), ...rm([dice.below(8) * 8 + dice.pick([0, 1, 2, 3])], a, b, wide(), narrow())];
      case 31:
        return [...aim(b), ...rm(dice.pick([[0x0f, 0xc1], [0x0f, 0xb1], [0x87], [0xff], [0x0f, 0xa3], [0xf7]]), dice.pick([0, 1, 2, 3]), b)];
      case 32:
        return [...aim(b), ...(dice.chance(70) ? [...rex(false, 0, b), 0x83, 0xe0 | (b & 7), 0xf0] : []), ...rm([0x0f, 0xc7], 1, b)];
      case 33: {
        const bytes = [dice.pick([0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xa7, 0xae, 0xaf, 0xad])];
        const point = (r: number): number[] => [...aim(r), ...rr([0x81], 0, r, true), ...imm32(DATA)];
        return [...point(6), ...point(7), ...rr([0x83], 4, 1, dice.chance(50)), 0x7f, ...dice.pick([[], [0xf3], [0xf3], [0xf2]]), ...narrow(), ...(wide() ? [0x48] : []), ...bytes];
      }
      case 34:
        // RIP-relative: near itself in the code window, and SSE moves.
        return dice.pick([[...rex(wide(), a, 0), 0x8b, 0x05 | ((a & 7) << 3), ...imm32(dice.below(64))], [...aim(b), ...rm([0x0f, dice.pick([0x10, 0x11])], a & 7, b, false)], rr([0x0f, 0x57], a, b, false), rr([0x0f, 0xef], a, b, false, [0x66])]);
      default:
        return dice.pick([[0xc8, 8, 0, 0], [0xc9], [0x9d], [0x0f, 0x31], [0xcc], [0x0f, 0x0b], [0xd7], [0x0f, 0x05], [0x8b, 0x04, 0x25, ...imm32(dice.u32())]]);
    }
  };

  const starts = Array.from({ length: blockCount }, (_, i) => LAYOUT.code + Math.floor((i * LAYOUT.codeBytes) / (blockCount + 1)) + dice.below(40));
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
    const rel32 = (opcode: readonly number[], target: number): number[] => [...opcode, ...imm32(target - (at + opcode.length + 4))];
    if (dice.chance(30)) put([0x48, 0xc7, 0xc4, ...imm32(LAYOUT.stack + TOP + LAYOUT.stackBytes - 256)]);
    for (let n = 2 + dice.below(9); n > 0 && at < limit - 40; n--) put(straight());
    if (dice.chance(6)) put([0xc6, 0x04, 0x25, ...imm32(dice.pick(starts) + TOP + dice.below(12)), dice.pick([0x90, 0x48, 0x4b])]); // store into code
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
        // Now and then somewhere that is not canonical.
        const target = BigInt(to() + TOP) ^ (dice.chance(10) ? 1n << 60n : 0n);
        put([...rex(true, 0, r), 0xb8 + (r & 7), ...imm64(target)]);
        put(rr([0xff], dice.pick([2, 4]), r, false));
        put(rel32([0xe9], to()));
        break;
      }
      case 6: {
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
