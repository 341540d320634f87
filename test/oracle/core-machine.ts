// Runs vectors on our core: the same pages, descriptors and register files as environment.ts gives
// the real processor, under PAE paging with NX, at CPL 3; and compares what came of it.
import { Decoder, Formatter, FormatterSyntax } from 'iced-x86';
import { MachineMemory } from '../../src/machine/memory.ts';
import type { Cpu, CpuOptions, SegmentState } from '../../src/x86/cpu.ts';
import type { CpuExit } from '../../src/x86/exit.ts';
import { STATE } from '../../src/x86/state-layout.ts';
import {
  CODE_BASE, descriptorWords, type Descriptor, GDT, GPR, LDT, ldtDescriptor, LDT_FIRST, ldtSelector, REGIONS, type Region, regionContent, SEGS,
} from './environment.ts';
import { ignored } from './undefined-flags.ts';
import { approximatelyEqual, isApproximation } from './simd-tolerance.ts';
import { closeEnough, toleranceOf } from './x87-tolerance.ts';
import { EFLAGS_COMPARED, type Case, type Outcome, type Patch, type Vector } from './vector.ts';

export type CpuFactory = (machine: MachineMemory, options: CpuOptions) => Cpu;

const PAGE = 4096;
const GDT_VADDR = 0x40000000;
const LDT_VADDR = 0x40001000;
/** Linux's GDT and an LDT of sixteen entries and the empty first one. */
const GDT_LIMIT = 0x7f;
const LDT_LIMIT = (LDT.length + LDT_FIRST) * 8 - 1;
/** PE MP ET NE WP AM PG, as Linux runs. */
const CR0 = 0x80050033;
const CR4_PAE = 0x20;
/** OSFXSR and OSXMMEXCPT, as Linux sets them. */
const CR4_SIMD = 0x600;
/** MMX, FXSR, SSE, SSE2 and CLFLUSH. */
const FEATURES = 0x07880000;
const EFER_NXE = 0x800;
/** NXE LMA LME SCE. */
const EFER_LONG = 0xd01;
const NULL_ACCESS = 0x10000;
const FRAMES = 64;
const VECTOR_XM = 19;
const BUDGET = 100_000;

export class CoreMachine {
  readonly cpu: Cpu;
  readonly #machine: MachineMemory;
  readonly #regions: readonly { region: Region; maddr: number; pristine: Uint8Array; before: Uint8Array; patched: boolean }[];
  readonly #descriptors = new Map<number, Descriptor>();

  /** `paging`: the shape of the page tables; with two levels there is no NX, with four it is long mode's compatibility code that runs. */
  constructor(make: CpuFactory, tier: 'evaluate' | 'translate' | 'auto', paging: 'pae' | 'two-level' | 'four-level' = 'pae') {
    const machine = new MachineMemory({ frameCount: FRAMES });
    this.#machine = machine;
    const pae = paging !== 'two-level', long = paging === 'four-level';
    let nextFrame = 1;
    const frame = (): number => nextFrame++ * PAGE;
    const top = long ? frame() : 0, root = frame(), tables = new Map<number, number>();
    const directories = pae ? [frame(), frame()] : [root];
    if (pae) directories.forEach((directory, i) => machine.writeU32(root + 8 * i, directory | (long ? 7 : 1)));
    if (long) machine.writeU32(top, root | 7);
    const [entryBytes, indexBits] = pae ? [8, 9] : [4, 10];
    const map = (vaddr: number, maddr: number, flags: number, execute: boolean): void => {
      const key = vaddr >>> (12 + indexBits), mask = (1 << indexBits) - 1;
      let table = tables.get(key);
      if (table === undefined) {
        table = frame();
        tables.set(key, table);
        machine.writeU32((directories[pae ? vaddr >>> 30 : 0] as number) + entryBytes * (key & mask), table | 0x67);
      }
      const entry = table + entryBytes * ((vaddr >>> 12) & mask);
      machine.writeU32(entry, maddr | flags);
      if (pae) machine.writeU32(entry + 4, execute ? 0 : 0x80000000);
    };
    this.#regions = REGIONS.map((region) => {
      const pristine = regionContent(region);
      const maddr = nextFrame * PAGE;
      nextFrame += region.sizeBytes / PAGE;
      for (let at = 0; at < region.sizeBytes; at += PAGE) map(region.vaddr + at, maddr + at, region.write ? 0x67 : 0x65, region.execute);
      machine.writeBytes(maddr, pristine);
      return { region, maddr, pristine, before: pristine.slice(), patched: false };
    });
    const gdt = frame(), ldt = frame();
    map(GDT_VADDR, gdt, 0x63, false);
    map(LDT_VADDR, ldt, 0x63, false);
    for (const { selector, ...descriptor } of GDT) this.#describe(gdt, selector, descriptor);
    LDT.forEach((entry, i) => this.#describe(ldt, ((i + LDT_FIRST) << 3) | 4, ldtDescriptor(entry)));

    const cpu = make(machine, { exceptions: 'exit', cpuid: () => [0, 0, 0, FEATURES], tier });
    this.cpu = cpu;
    cpu.setEfer(long ? EFER_LONG : pae ? EFER_NXE : 0);
    cpu.setCr(4, CR4_SIMD | (pae ? CR4_PAE : 0));
    cpu.setCr(3, long ? top : root);
    cpu.setCr(0, CR0);
    cpu.setGdtr(GDT_VADDR, GDT_LIMIT);
    cpu.setLdtr({ selector: 0x50, base: LDT_VADDR, limit: LDT_LIMIT, access: 0x82 });
  }

  #describe(table: number, selector: number, descriptor: Descriptor): void {
    const [low, high] = descriptorWords(descriptor);
    this.#machine.writeU32(table + (selector & 0xfff8), low);
    this.#machine.writeU32(table + (selector & 0xfff8) + 4, high);
    this.#descriptors.set(selector & 0xfffc, descriptor);
  }

  #segment(selector: number): SegmentState {
    const descriptor = this.#descriptors.get(selector & 0xfffc);
    if (descriptor === undefined) return { selector, base: 0, limit: 0, access: NULL_ACCESS };
    return { selector, base: descriptor.base, limit: descriptor.limit, access: descriptor.access };
  }

  #load(input: Case): void {
    const { cpu } = this;
    const patches: readonly Patch[] = [...input.memory, { vaddr: input.at, bytes: input.code }];
    for (const area of this.#regions) {
      const { region, before, pristine } = area;
      if (!region.write) continue;
      if (area.patched) before.set(pristine);
      area.patched = false;
      for (const patch of patches) {
        for (let i = 0; i < patch.bytes.length; i++) {
          const at = patch.vaddr + i - region.vaddr;
          if (at < 0 || at >= region.sizeBytes) continue;
          before[at] = patch.bytes[i] as number;
          area.patched = true;
        }
      }
      for (const [from, to] of this.#differences(area)) this.#machine.writeBytes(area.maddr + from, before.subarray(from, to));
    }
    for (let i = 0; i < 8; i++) cpu.setReg(i, input.regs[i] as number);
    for (const index of [1, 0, 2, 3, 4, 5]) cpu.setSegment(index, this.#segment(input.segs[index] as number));
    cpu.setEflags((input.eflags | 0x202) >>> 0);
    cpu.setEip(input.eip);
    cpu.setShadow(false);
  }

  /** Runs of bytes in which memory differs from `before`, as [from, to) offsets. */
  #differences(area: { maddr: number; before: Uint8Array }): [number, number][] {
    const { u8, ramBase } = this.#machine;
    const runs: [number, number][] = [];
    const start = ramBase + area.maddr;
    for (let page = 0; page < area.before.length; page += PAGE) {
      const now = Buffer.from(u8.buffer, start + page, PAGE);
      if (now.compare(area.before, page, page + PAGE) === 0) continue;
      for (let i = 0; i < PAGE; i++) {
        if (now[i] === area.before[page + i]) continue;
        const last = runs[runs.length - 1];
        if (last !== undefined && last[1] === page + i) last[1]++;
        else runs.push([page + i, page + i + 1]);
      }
    }
    return runs;
  }

  /** Runs a case, `slice` instructions at a time; a string instead of an outcome says how the core left the rails. */
  run(input: Case, slice = BUDGET): Outcome | string {
    const { cpu } = this;
    this.#load(input);
    const before = cpu.retired();
    let exit = cpu.run(slice);
    while (exit.kind === 'budget' && cpu.retired() - before < BUDGET) {
      if ((cpu.retired() - before) % slice !== 0) return `a budget of ${slice} ended after ${cpu.retired() - before} instructions`;
      exit = cpu.run(slice);
    }
    const verdict = this.#verdict(input, exit);
    if (typeof verdict === 'string') return verdict;
    const memory = this.#regions.filter(({ region }) => region.write).flatMap((area) =>
      this.#differences(area).map(([from, to]): Patch => ({ vaddr: area.region.vaddr + from, bytes: this.#machine.readBytes(area.maddr + from, to - from) })));
    return {
      ...(verdict.exception === undefined ? {} : { exception: verdict.exception }),
      ...(verdict.exception?.vector === VECTOR_XM ? { mxcsr: this.#machine.view.getUint32(cpu.stateBase + STATE.mxcsr, true) } : {}),
      eip: verdict.eip,
      regs: Uint32Array.from({ length: 8 }, (_, i) => cpu.reg(i)),
      eflags: ((cpu.eflags() & EFLAGS_COMPARED) | 2) >>> 0,
      segs: SEGS.map((_, i) => cpu.segment(i).selector),
      memory,
      retired: cpu.retired() - before - verdict.uncounted,
    };
  }

  #verdict(input: Case, exit: CpuExit): { exception?: { vector: number; errorCode: number; cr2: number }; eip: number; uncounted: number } | string {
    const eip = this.cpu.eip();
    if (exit.kind === 'exception') {
      const { vector, errorCode = 0, cr2 = 0 } = exit.exception;
      return { exception: { vector, errorCode, cr2: cr2 >>> 0 }, eip, uncounted: 0 };
    }
    if (exit.kind === 'softint') {
      const breakAt = eip - 1 - input.eip + input.at;
      const own = breakAt >= input.at && breakAt < input.at + input.code.length;
      if (exit.vector === 3 && !own) return { eip: (eip - 1) >>> 0, uncounted: 1 };
      // Linux's IDT lets ring 3 use the gates of 3, 4 and 0x80; the core leaves the IDT to its caller.
      if (exit.vector === 3 || exit.vector === 4) return { exception: { vector: exit.vector, errorCode: 0, cr2: 0 }, eip, uncounted: 1 };
      return { exception: { vector: 13, errorCode: exit.vector * 8 + 2, cr2: 0 }, eip: (eip - exit.insnBytes) >>> 0, uncounted: 1 };
    }
    return exit.kind === 'unimplemented' ? `unimplemented: ${exit.text}` : `left with ${exit.kind}`;
  }
}

const hex = (value: number): string => (value >>> 0).toString(16);

/** What differs, field by field; empty when the core did what the processor did. */
export function compareOutcome({ input, outcome: expected }: Vector, actual: Outcome | string): string[] {
  if (typeof actual === 'string') return [actual];
  const found: string[] = [];
  const differ = (name: string, want: number, got: number): void => { if (want >>> 0 !== got >>> 0) found.push(`${name} ${hex(got)} not ${hex(want)}`); };
  const skip = ignored(input, expected);
  const addressMask = skip.address === undefined ? 0xffffffff : 0xfffff000;
  const name = (e: Outcome['exception']): string => (e === undefined ? 'no exception' : `#${e.vector}:${hex(e.errorCode)}@${hex(e.cr2 & addressMask)}`);
  if (name(expected.exception) !== name(actual.exception)) found.push(`${name(actual.exception)} not ${name(expected.exception)}`);
  differ('mxcsr', expected.mxcsr ?? 0, actual.mxcsr ?? 0);
  differ('eip', expected.eip, actual.eip);
  differ('eflags', expected.eflags & ~skip.flags, actual.eflags & ~skip.flags);
  if (skip.registers === undefined) GPR.forEach((register, i) => differ(register, expected.regs[i] as number, actual.regs[i] as number));
  SEGS.forEach((register, i) => differ(register, expected.segs[i] as number, actual.segs[i] as number));
  // Region by region or in one piece: what counts is which byte holds what.
  const image = (memory: readonly Patch[]): string => {
    let end = -1, text = '';
    for (const { vaddr, bytes } of memory) {
      text += `${vaddr === end ? '' : `${text === '' ? '' : ' '}${hex(vaddr)}=`}${Buffer.from(bytes).toString('hex')}`;
      end = vaddr + bytes.length;
    }
    return text;
  };
  const tolerance = toleranceOf(input);
  const close = (tolerance !== undefined && closeEnough(tolerance, input, expected.memory, actual.memory))
    || (isApproximation(input) && approximatelyEqual(input, expected.memory, actual.memory));
  if (skip.memory === undefined && !close && image(expected.memory) !== image(actual.memory)) found.push(`memory [${image(actual.memory)}] not [${image(expected.memory)}]`);
  if (expected.retired !== undefined && actual.retired !== undefined) differ('retired', expected.retired, actual.retired);
  return found;
}

/** The case as a person reads it. */
export function describeCase(input: Case): string {
  const bits = input.segs[1] === ldtSelector('code16') ? 16 : 32;
  const decoder = new Decoder(bits, input.code, 0);
  decoder.ip = BigInt(bits === 16 ? input.at - CODE_BASE : input.at);
  const formatter = new Formatter(FormatterSyntax.Intel);
  const texts: string[] = [];
  while (decoder.canDecode && texts.length < 16) {
    const instruction = decoder.decode();
    texts.push(formatter.format(instruction));
    instruction.free();
  }
  decoder.free();
  formatter.free();
  return texts.join('; ');
}
