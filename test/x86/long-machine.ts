// A small machine in long mode for tests: four-level tables that map the same RAM twice, at the bottom (user pages)
// and at the top of the address space (supervisor pages unless asked otherwise), flat 64-bit segments.
import { MachineMemory } from '../../src/machine/memory.ts';
import { createCpu } from '../../src/x86/create.ts';
import type { CpuOptions } from '../../src/x86/cpu.ts';

/** The upper mapping begins here: 0xffffffff80000000. */
export const TOP = -0x8000_0000;
export const FRAMES = 256;
const TABLES = 0xf0000;
export const EFER_LONG = 0xd01;
const LM = 1 << 29;
/** CLFLUSH, MMX, FXSR, SSE, SSE2. */
const SIMD = 0x07880000;

export interface LongShape {
  readonly user?: boolean;
  readonly tier?: CpuOptions['tier'];
  readonly exceptions?: CpuOptions['exceptions'];
  /** Flags of a page's entry; default 7, at the top too. */
  readonly flags?: (page: number) => number;
  /** 32-bit code instead. */
  readonly compatibility?: boolean;
}

export function longMachine(shape: LongShape = {}) {
  const machine = new MachineMemory({ frameCount: FRAMES, arenaBytes: 4 * 1024 * 1024 });
  const cpu = createCpu(machine, { exceptions: shape.exceptions ?? 'exit', cpuid: (leaf) => [leaf, 1, 2, leaf === 0x80000001 ? LM : SIMD | 3], tier: shape.tier ?? 'evaluate' });
  const [l4, low3, low2, high3, high2, l1] = [0, 1, 2, 3, 4, 5].map((i) => TABLES + i * 4096) as [number, number, number, number, number, number];
  machine.writeU32(l4, low3 | 7);
  machine.writeU32(l4 + 511 * 8, high3 | 7);
  machine.writeU32(low3, low2 | 7);
  machine.writeU32(low2, l1 | 7);
  machine.writeU32(high3 + 510 * 8, high2 | 7);
  machine.writeU32(high2, l1 | 7);
  for (let page = 0; page < FRAMES; page++) machine.writeU32(l1 + page * 8, (page << 12) | (shape.flags?.(page) ?? 7));
  cpu.setCr(3, l4);
  cpu.setCr(4, 0xa0);
  cpu.setEfer(EFER_LONG);
  cpu.setCr(0, 0x80010031);
  const dpl = shape.user === true ? 3 : 0;
  for (let i = 0; i < 6; i++) cpu.setSegment(i, { selector: 8 + i * 8 + dpl, base: 0, limit: 0xffffffff, access: (i === 1 ? (shape.compatibility === true ? 0xc09b : 0xa09b) : 0xc093) | (dpl << 5) });
  machine.clearDirty();
  cpu.dropWriteFastPaths();
  return { machine, cpu };
}
