// Block programs whose instructions are copied from others of their shape, against the same programs made anew.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { MachineMemory } from '../../src/machine/memory.ts';
import { decode, type Insn } from '../../src/x86/decode.ts';
import { OPERATIONS } from '../../src/x86/interpret/operations.ts';
import { PROGRAM } from '../../src/x86/interpret/interpreter.ts';
import { ProgramMaker } from '../../src/x86/interpret/program.ts';
import { lower, type Lowered } from '../../src/x86/lower.ts';
import { MODE } from '../../src/x86/mode.ts';
import { LONG_GROUPS } from '../oracle/long/cases.ts';
import { parseLong } from '../oracle/long/vector.ts';
import { Dice } from './random-program.ts';

const mode = MODE.long;
function insnOf(bytes: Uint8Array, vaddr: number): Insn | undefined {
  const decoded = decode(bytes, vaddr, 64);
  return decoded.kind === 'insn' ? decoded.insn : undefined;
}
/** The same for what differs only in its number. */
const keyOf = (code: Uint8Array, { lengthBytes, numberAt, numberBytes }: Insn): string => code.slice(0, lengthBytes).map((byte, i) => (i >= numberAt && i < numberAt + numberBytes ? 0 : byte)).join();

/** Each encoding of the processor's vectors, once. */
const ENCODINGS: Uint8Array[] = [];
{
  const seen = new Set<string>();
  for (const { name } of LONG_GROUPS) {
    for (const line of gunzipSync(readFileSync(join(import.meta.dirname, '..', 'oracle', 'vectors', `${name}.txt.gz`))).toString('latin1').trimEnd().split('\n')) {
      const code = Uint8Array.from(parseLong(line).input.code);
      const insn = insnOf(code, 0x1000);
      if (insn === undefined || seen.has(keyOf(code, insn))) continue;
      seen.add(keyOf(code, insn));
      ENCODINGS.push(code.slice(0, insn.lengthBytes));
    }
  }
}

/** What leaves each kind of producer in force, or none that is known. */
const BEFORE = [[], [0x48, 0x01, 0xd8], [0x29, 0xd8], [0x66, 0x21, 0xd8], [0xfe, 0xc0], [0xd3, 0xe8], [0x0f, 0xa3, 0xd8]];
const PLACES = [0x0040_0000, -0x7ef0_0000, 0x7fff_8000_0000, -0x4000_0000, 0x5555_5555_0000, -0x3776_0000_0000];
const EDGES = [0, 1, -1, 8, -8, 0x7f, -0x80, 0x80, 0x1000, 0x7fff_ffff, -0x8000_0000];

function maker() {
  const machine = new MachineMemory({ frameCount: 16, arenaBytes: 64 * 1024 * 1024 });
  const programs = new ProgramMaker(machine, machine.reserve(4096, 64));
  /** Makes the program of a block at rip; as words, with the values of constants instead of their cells. */
  const make = (rip: number, block: readonly number[]): { words: readonly (number | string)[]; anew: number } => {
    const maddr = 0x3000 + (rip & 0xfff);
    machine.u8.set(block, machine.ramBase + maddr);
    let anew = 0;
    const program = programs.make({ rip, maddr, mode }, (vaddr): Lowered | undefined => {
      anew++;
      const insn = insnOf(machine.u8.slice(machine.ramBase + maddr + vaddr - rip, machine.ramBase + 0x4000), vaddr);
      return insn === undefined ? undefined : lower(insn, mode);
    }, 3);
    const words: (number | string)[] = [];
    for (let at = (program + PROGRAM.operations) >>> 2; program !== 0; ) {
      const operation = OPERATIONS[machine.u32[at] as number] as (typeof OPERATIONS)[number];
      for (const word of machine.u32.subarray(at, at + operation.words)) words.push(programs.arena.constantAt(word)?.join(':') ?? word);
      at += operation.words;
      if (!operation.goesOn && at >= programs.arena.next) break;
    }
    return { words: [program === 0 ? 0 : (machine.u32[(program + PROGRAM.insns) >>> 2] as number), programs.codeBytes(program), ...words], anew };
  };
  return { make, programs };
}

test('what is copied is word for word what is made anew, for every encoding with any number, anywhere, behind any flags', { timeout: 120_000 }, () => {
  const dice = new Dice(20070603);
  const copying = maker();
  const fresh = maker();
  let copied = 0;
  let all = 0;
  const seen = new Set<string>();
  for (let round = 0; round < 12; round++) {
    for (const code of ENCODINGS) {
      const bytes = code.slice();
      const { numberAt, numberBytes, code: name } = insnOf(code, 0x1000) as Insn;
      const number = round === 0 ? undefined : dice.chance(40) ? dice.pick(EDGES) : dice.u32();
      if (number !== undefined) for (let i = 0; i < numberBytes; i++) bytes[numberAt + i] = number >>> (8 * i);
      // SETB behind it shows which producer is taken to be in force.
      const block = [...dice.pick(BEFORE), ...bytes, 0x0f, 0x92, 0xc0, 0xc3];
      const rip = dice.pick(PLACES) + (dice.chance(90) ? dice.below(4000) : 4064 + dice.below(32));
      fresh.programs.reset();
      if (!copying.programs.hasRoom) copying.programs.reset();
      const [left, right] = [copying.make(rip, block), fresh.make(rip, block)];
      expect(left.words, `${name} ${[...bytes].map((byte) => byte.toString(16)).join(' ')} at ${rip}`).toEqual(right.words);
      all += right.anew;
      copied += right.anew - left.anew;
      if (left.anew === 0) seen.add(name);
    }
  }
  // Most are copied, of nearly all kinds.
  expect(ENCODINGS.length).toBeGreaterThan(4000);
  expect(copied / all).toBeGreaterThan(0.9);
  expect(seen.size).toBeGreaterThan(500);
});
