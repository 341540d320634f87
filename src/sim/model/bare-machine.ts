// No hypervisor: one processor, memory, a text port, a one-shot timer, an end. It loads the model
// kernel as a boot loader does (tables that map the first 4 MiB at PAGE_OFFSET) and runs it. What the
// native back end runs on, and the yardstick for every other.
import { UsageError } from '../../base/assert.ts';
import { entryVaddr, kernelTextPage, PAGE_OFFSET } from '../../guest/entries.ts';
import { createModelGuest, type ModelGuest } from '../../guest/index.ts';
import type { Kernel } from '../../guest/kernel/kernel.ts';
import { KERNEL_IMAGE_PAGES, KERNEL_PAGES } from '../../guest/kernel/layout.ts';
import { BARE_PORT, BOOT_WORDS, END_REASON, TIMER_VECTOR } from '../../guest/native/index.ts';
import { REG } from '../../guest/operations.ts';
import { SHAPES, type TableShape } from '../../guest/pte.ts';
import { kernelCs, kernelDs } from '../../guest/kernel/segments.ts';
import { MachineMemory } from '../../machine/memory.ts';
import { SEG, STATE } from '../../x86/state-layout.ts';
import { ModelProcessor } from './model-processor.ts';

/** PG, WP, NE, ET, MP, PE; PGE and PAE; NXE. */
const CR0 = 0x8001_0033;
const CR4 = { pge: 0x80, pae: 0x20 } as const;
const EFER_NXE = 0x800;
const TABLE = 0x67;
const LEAF = 0x63;
const MAPPED_PAGES = 1024;
const SLICE = 1_000_000;
const IF = 0x200;
const ARENA_BYTES = 12 * 1024 * 1024;
/** Image, loader's page, tables: no more than this. */
const LEAST_PAGES = 1024;

export interface BareRun {
  readonly outcome: 'poweroff' | 'reboot' | 'crash' | 'suspend' | 'stuck' | 'limit';
  readonly text: string;
  readonly insns: number;
}

export class BareMachine {
  readonly machine: MachineMemory;
  readonly cpu: ModelProcessor;
  readonly kernel: Kernel;
  console = '';
  #deadlineNs = Infinity;
  #deadlineLow = 0;
  #idleNs = 0;

  constructor(spec: ModelGuest, memoryMib: number) {
    const pages = memoryMib * 256;
    if (pages < LEAST_PAGES) throw new UsageError(`a bare machine needs at least ${LEAST_PAGES / 256} MiB`);
    this.machine = new MachineMemory({ frameCount: pages, arenaBytes: ARENA_BYTES });
    this.cpu = new ModelProcessor(this.machine, { exceptions: 'idt', cpuid: () => [0, 0, 0, 0], pdpteCached: true });
    const guest = createModelGuest(spec, this.cpu.port);
    this.kernel = guest.kernel;
    this.cpu.setCode(guest);
    this.#load(SHAPES[spec.paging], pages);
  }

  // -- loading --------------------------------------------------------------------------------------

  #load(shape: TableShape, pages: number): void {
    const { machine, cpu } = this;
    machine.writeBytes(KERNEL_PAGES.text - PAGE_OFFSET, kernelTextPage());
    const bootPfn = (KERNEL_PAGES.text - PAGE_OFFSET) / 4096 + KERNEL_IMAGE_PAGES;
    const rootPfn = bootPfn + 1;
    const firstFreePfn = this.#mapFirst(shape, rootPfn);
    const words = bootPfn * 4096;
    machine.writeU32(words + BOOT_WORDS.pages, pages);
    machine.writeU32(words + BOOT_WORDS.pgdVaddr, PAGE_OFFSET + rootPfn * 4096);
    machine.writeU32(words + BOOT_WORDS.firstFreePfn, firstFreePfn);
    cpu.setEfer(EFER_NXE);
    cpu.setCr(4, CR4.pge | (shape.levels === 3 ? CR4.pae : 0));
    cpu.setCr(3, rootPfn * 4096);
    cpu.setCr(0, CR0);
    const flat = (selector: number, access: number) => ({ selector, base: 0, limit: 0xffff_ffff, access });
    cpu.setSegment(SEG.cs, flat(kernelCs(0), 0xc09b));
    for (const index of [SEG.es, SEG.ss, SEG.ds, SEG.fs, SEG.gs]) cpu.setSegment(index, flat(kernelDs(0), 0xc093));
    cpu.setReg(REG.esi, PAGE_OFFSET + words);
    cpu.setReg(REG.esp, KERNEL_PAGES.bootStack + 4096);
    cpu.setEip(entryVaddr('start'));
    cpu.setEflags(2);
  }

  /** Tables for the first 4 MiB, from `rootPfn` on; the first frame behind them. */
  #mapFirst(shape: TableShape, rootPfn: number): number {
    const put = (table: number, index: number, pfn: number, flags: number): void => this.machine.writeU32(table * 4096 + index * shape.entryBytes, pfn * 4096 + flags);
    let next = rootPfn + 1;
    let l2 = rootPfn;
    if (shape.levels === 3) {
      l2 = next++;
      put(rootPfn, 3, l2, 1);
    }
    for (let pfn = 0; pfn < MAPPED_PAGES; pfn += shape.entries) {
      const l1 = next++;
      put(l2, ((PAGE_OFFSET >>> shape.l2Shift) & (shape.entries - 1)) + pfn / shape.entries, l1, TABLE);
      for (let i = 0; i < shape.entries; i++) put(l1, i, pfn + i, LEAF);
    }
    // The processor has cached the root's entries if CR3 was loaded: it is loaded after this.
    return next;
  }

  // -- running --------------------------------------------------------------------------------------

  nowNs(): number {
    return this.cpu.retired() + this.#idleNs;
  }

  run(maxInsns = 1_000_000_000): BareRun {
    const { cpu } = this;
    const ended = (outcome: BareRun['outcome'], text: string): BareRun => ({ outcome, text, insns: cpu.retired() });
    while (cpu.retired() < maxInsns) {
      this.#interrupt();
      const now = this.nowNs();
      const exit = cpu.run(Math.max(1, Math.min(SLICE, this.#deadlineNs - now)));
      switch (exit.kind) {
        case 'budget':
          break;
        case 'halt':
          if (this.#deadlineNs === Infinity || (cpu.eflags() & IF) === 0) return ended('stuck', 'halted, and no interrupt can come');
          this.#idle();
          break;
        case 'io': {
          if (exit.port === BARE_PORT.end) return ended((Object.entries(END_REASON).find(([, reason]) => reason === exit.value)?.[0] ?? 'crash') as BareRun['outcome'], 'the guest ended the machine');
          this.#out(exit.port, exit.value);
          cpu.completeIo(0xffff_ffff);
          break;
        }
        case 'unimplemented':
          return ended('crash', `the processor came to code ${exit.text}`);
        default:
          return ended('crash', `the processor left with ${exit.kind}`);
      }
    }
    return ended('limit', `not over after ${maxInsns} instructions`);
  }

  #out(port: number, value: number): void {
    if (port === BARE_PORT.text) this.console += String.fromCharCode(value & 0xff);
    else if (port === BARE_PORT.timerLow) this.#deadlineLow = value >>> 0;
    else if (port === BARE_PORT.timerHigh) {
      const deadline = (value >>> 0) * 0x1_0000_0000 + this.#deadlineLow;
      this.#deadlineNs = deadline === 0 ? Infinity : deadline;
    }
  }

  #idle(): void {
    const now = this.nowNs();
    if (this.#deadlineNs <= now) return;
    this.#idleNs += this.#deadlineNs - now;
    this.cpu.setTsc(BigInt(this.#idleNs), 1);
  }

  /** The timer's line goes up when it is due, and down when the processor takes the interrupt. */
  #interrupt(): void {
    const { cpu } = this;
    if (this.nowNs() < this.#deadlineNs || (cpu.eflags() & IF) === 0 || cpu.core.get32(STATE.shadow) !== 0) return;
    this.#deadlineNs = Infinity;
    cpu.deliver({ vector: TIMER_VECTOR }, false);
  }
}
