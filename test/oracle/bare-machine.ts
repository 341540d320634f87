// Runs a bare-metal image on the core: no Xen, exceptions through the image's own IDT, port 0xe9 is
// its console and port 0xf4 its end. Other ports swallow writes and read as ones.
import { MachineMemory } from '../../src/machine/memory.ts';
import type { SegmentState } from '../../src/x86/cpu.ts';
import type { CpuFactory } from './core-machine.ts';

const FRAMES = 4096;
const SLICE = 1 << 20;
const PORT_CONSOLE = 0xe9;
const PORT_END = 0xf4;
/** Protected mode without paging, as multiboot promises; ET is always set. */
const CR0 = 0x11;
const MULTIBOOT_MAGIC = 0x2badb002;
const PT_LOAD = 1;

export interface BareRun {
  readonly text: string;
  readonly insns: number;
  /** 'end' or how the image left the rails. */
  readonly outcome: string;
}

export function runImage(make: CpuFactory, tier: 'evaluate' | 'translate' | 'auto', elf: Uint8Array, maxInsns = 100_000_000): BareRun {
  const machine = new MachineMemory({ frameCount: FRAMES });
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  const programHeaders = view.getUint32(28, true), entrySize = view.getUint16(42, true), count = view.getUint16(44, true);
  for (let i = 0; i < count; i++) {
    const at = programHeaders + i * entrySize;
    if (view.getUint32(at, true) !== PT_LOAD) continue;
    const offset = view.getUint32(at + 4, true), paddr = view.getUint32(at + 12, true), fileBytes = view.getUint32(at + 16, true);
    machine.writeBytes(paddr, elf.subarray(offset, offset + fileBytes));
  }
  const cpu = make(machine, { exceptions: 'idt', cpuid: () => [0, 0, 0, 0], tier, pdpteCached: true });
  const flat = (selector: number, access: number): SegmentState => ({ selector, base: 0, limit: 0xffffffff, access });
  cpu.setCr(0, CR0);
  cpu.setSegment(1, flat(0x08, 0xc09b));
  for (const index of [0, 2, 3, 4, 5]) cpu.setSegment(index, flat(0x10, 0xc093));
  cpu.setEflags(2);
  cpu.setReg(0, MULTIBOOT_MAGIC);
  cpu.setEip(view.getUint32(24, true));

  const text: string[] = [];
  const done = (outcome: string): BareRun => ({ text: text.join(''), insns: cpu.retired(), outcome });
  while (cpu.retired() < maxInsns) {
    const exit = cpu.run(SLICE);
    if (exit.kind === 'budget') continue;
    if (exit.kind !== 'io') return done(exit.kind === 'unimplemented' ? `unimplemented: ${exit.text}` : exit.kind === 'exception' ? `exception ${exit.exception.vector}` : exit.kind);
    if (exit.direction === 'out' && exit.port === PORT_END) return done('end');
    if (exit.direction === 'out' && exit.port === PORT_CONSOLE) text.push(String.fromCharCode(exit.value & 0xff));
    cpu.completeIo(0xffffffff);
  }
  return done(`still running after ${maxInsns} instructions`);
}
