// Runs 64-bit vectors on our core: the pages and registers of world.ts under four-level tables at CPL 3, and compares.
import { Code, Decoder, Formatter, FormatterSyntax, Mnemonic } from 'iced-x86';
import { MachineMemory } from '../../../src/machine/memory.ts';
import { createCpu } from '../../../src/x86/create.ts';
import type { Cpu } from '../../../src/x86/cpu.ts';
import { UNDEFINED_FLAGS } from '../undefined-flags.ts';
import { EFLAGS_COMPARED, type Patch } from '../vector.ts';
import type { LongCase, LongOutcome, LongVector } from './vector.ts';
import { CODE, GS_BASE, LONG_REGIONS, longContent, REG64 } from './world.ts';

const PAGE = 4096;
const BUDGET = 10_000;

export class LongMachine {
  readonly cpu: Cpu;
  readonly #machine: MachineMemory;
  readonly #areas: readonly { vaddr: number; sizeBytes: number; write: boolean; maddr: number; pristine: Uint8Array; before: Uint8Array }[];

  constructor(tier: 'evaluate' | 'interpret' | 'translate') {
    const machine = new MachineMemory({ frameCount: 64 });
    this.#machine = machine;
    let next = 1;
    const frame = (): number => next++ * PAGE;
    const root = frame();
    const map = (vaddr: number, maddr: number, flags: number, execute: boolean): void => {
      let table = root;
      for (let level = 3; level > 0; level--) {
        const at = table + (Math.floor(vaddr / 2 ** (12 + 9 * level)) & 511) * 8;
        if (machine.readU32(at) === 0) machine.writeU32(at, frame() | 0x67);
        table = machine.readU32(at) & ~0xfff;
      }
      machine.writeU32(table + (Math.floor(vaddr / PAGE) & 511) * 8, maddr | flags);
      machine.writeU32(table + (Math.floor(vaddr / PAGE) & 511) * 8 + 4, execute ? 0 : 0x80000000);
    };
    this.#areas = LONG_REGIONS.map((region) => {
      const pristine = longContent(region);
      const maddr = next * PAGE;
      next += region.sizeBytes / PAGE;
      for (let at = 0; at < region.sizeBytes; at += PAGE) map(region.vaddr + at, maddr + at, region.write ? 0x67 : 0x65, region.execute);
      machine.writeBytes(maddr, pristine);
      return { ...region, maddr, pristine, before: pristine };
    });
    const cpu = createCpu(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, 0x2f8bfbff], tier });
    this.cpu = cpu;
    cpu.setEfer(0xd01);
    cpu.setCr(4, 0x6a0);
    cpu.setCr(3, root);
    cpu.setCr(0, 0x80050033);
    for (let i = 0; i < 6; i++) cpu.setSegment(i, i === 1 ? { selector: 0x33, base: 0, limit: 0xffffffff, access: 0xa0fb } : i === 2 ? { selector: 0x2b, base: 0, limit: 0xffffffff, access: 0xc0f3 } : { selector: 0, base: 0, limit: 0, access: 0x10000 });
    cpu.setSegmentBase(5, GS_BASE);
  }

  run(input: LongCase, slice = BUDGET): LongOutcome | string {
    const { cpu } = this;
    for (const area of this.#areas) {
      if (!area.write) continue;
      area.before = area.pristine.slice();
      for (const { vaddr, bytes } of [...input.memory, { vaddr: CODE, bytes: input.code }]) if (vaddr >= area.vaddr && vaddr < area.vaddr + area.sizeBytes) area.before.set(bytes, vaddr - area.vaddr);
      for (const { vaddr, bytes } of this.#changes(area)) this.#machine.writeBytes(area.maddr + vaddr - area.vaddr, area.before.subarray(vaddr - area.vaddr, vaddr - area.vaddr + bytes.length));
    }
    input.regs.forEach((value, i) => cpu.setReg64(i, value));
    cpu.setEflags(input.eflags | 0x202);
    cpu.setRip(CODE);
    cpu.setShadow(false);
    const from = cpu.retired();
    let exit = cpu.run(slice);
    while (exit.kind === 'budget' && cpu.retired() - from < BUDGET) exit = cpu.run(slice);
    const done = {
      regs: BigUint64Array.from({ length: 16 }, (_, i) => cpu.reg64(i)),
      eflags: ((cpu.eflags() & EFLAGS_COMPARED) | 2) >>> 0,
      memory: this.#areas.filter(({ write }) => write).flatMap((area) => this.#changes(area)),
    };
    const retired = cpu.retired() - from;
    if (exit.kind === 'exception') {
      const { vector, errorCode = 0, cr2 = 0 } = exit.exception;
      return { ...done, exception: { vector, errorCode, cr2 }, rip: cpu.rip(), retired };
    }
    if (exit.kind !== 'softint') return exit.kind === 'unimplemented' ? `unimplemented: ${exit.text}` : `left with ${exit.kind}`;
    const breakAt = cpu.rip() - 1;
    if (exit.vector === 3 && !(breakAt >= CODE && breakAt < CODE + input.code.length)) return { ...done, rip: breakAt, retired: retired - 1 };
    return { ...done, exception: { vector: exit.vector, errorCode: 0, cr2: 0 }, rip: cpu.rip(), retired: retired - 1 };
  }

  #changes(area: { vaddr: number; maddr: number; before: Uint8Array }): Patch[] {
    const now = this.#machine.u8.subarray(this.#machine.ramBase + area.maddr, this.#machine.ramBase + area.maddr + area.before.length);
    const runs: Patch[] = [];
    if (Buffer.compare(now, area.before) === 0) return runs;
    for (let i = 0; i < now.length; i++) {
      if (now[i] === area.before[i]) continue;
      let end = i;
      while (end < now.length && now[end] !== area.before[end]) end++;
      runs.push({ vaddr: area.vaddr + i, bytes: now.slice(i, end) });
      i = end;
    }
    return runs;
  }
}

const BY_NAME = new Map(UNDEFINED_FLAGS.flatMap((row) => row.names.map((name) => [name, row] as const)));
const WIDTH = /_(?:rm|r|m)(\d+)/;

/** The status flags that the manual leaves undefined after the case's (only) instruction. */
function undefinedFlags({ code, regs }: LongCase, { exception }: LongOutcome): number {
  const decoder = new Decoder(64, code, 0);
  const instruction = decoder.decode();
  const row = exception === undefined ? BY_NAME.get(Mnemonic[instruction.mnemonic] ?? '') : undefined;
  const opcode = Code[instruction.code] ?? '';
  const size = Number(WIDTH.exec(opcode)?.[1] ?? 32);
  const last = code[code.length - 1] as number;
  const count = (opcode.endsWith('_CL') ? Number((regs[1] as bigint) & 0xffn) : opcode.endsWith('_1') ? 1 : last) & (size === 64 ? 63 : 31);
  instruction.free();
  decoder.free();
  return row?.mask(count, size) ?? 0;
}

/** What differs, field by field. */
export function compareLong({ input, outcome: expected }: LongVector, actual: LongOutcome | string): string[] {
  if (typeof actual === 'string') return [actual];
  const found: string[] = [];
  const name = (e: LongOutcome['exception']): string => (e === undefined ? 'no exception' : `#${e.vector}:${e.errorCode.toString(16)}@${e.cr2.toString(16)}`);
  if (name(expected.exception) !== name(actual.exception)) found.push(`${name(actual.exception)} not ${name(expected.exception)}`);
  if (expected.rip !== actual.rip) found.push(`rip ${actual.rip.toString(16)} not ${expected.rip.toString(16)}`);
  const mask = ~undefinedFlags(input, expected);
  if ((expected.eflags & mask) !== (actual.eflags & mask)) found.push(`eflags ${actual.eflags.toString(16)} not ${expected.eflags.toString(16)}`);
  REG64.forEach((register, i) => void (expected.regs[i] !== actual.regs[i] && found.push(`${register} ${(actual.regs[i] as bigint).toString(16)} not ${(expected.regs[i] as bigint).toString(16)}`)));
  const image = (memory: readonly Patch[]): string => memory.map(({ vaddr, bytes }) => `${vaddr.toString(16)}=${Buffer.from(bytes).toString('hex')}`).join(' ');
  if (image(expected.memory) !== image(actual.memory)) found.push(`memory [${image(actual.memory)}] not [${image(expected.memory)}]`);
  if (expected.retired !== undefined && actual.retired !== undefined && expected.retired !== actual.retired) found.push(`retired ${actual.retired} not ${expected.retired}`);
  return found;
}

/** The case as a person reads it. */
export function describeLong({ code }: LongCase): string {
  const decoder = new Decoder(64, code, 0);
  decoder.ip = BigInt(CODE);
  const formatter = new Formatter(FormatterSyntax.Intel);
  const texts: string[] = [];
  while (decoder.canDecode && texts.length < 8) {
    const instruction = decoder.decode();
    texts.push(formatter.format(instruction));
    instruction.free();
  }
  decoder.free();
  formatter.free();
  return texts.join('; ');
}
