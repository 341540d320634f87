// No hypervisor: one processor, memory, a text port, a one-shot timer, an end. It loads the model
// kernel as a boot loader does (tables that map the first 4 MiB at PAGE_OFFSET) and runs it. What the
// native back end runs on, and the yardstick for every other.
import { UsageError } from '../../base/assert.ts';
import { createModelGuest, type ModelGuest } from '../../guest/index.ts';
import type { Kernel } from '../../guest/kernel/kernel.ts';
import { BARE_PORT, END_REASON, TIMER_VECTOR } from '../../guest/native/index.ts';
import { SHAPES } from '../../guest/pte.ts';
import { MachineMemory } from '../../machine/memory.ts';
import type { MemoryPool } from '../../machine/memory-pool.ts';
import { STATE } from '../../x86/state-layout.ts';
import { LEAST_PAGES, loadKernel } from './load-kernel.ts';
import { ModelProcessor } from './model-processor.ts';

const SLICE = 1_000_000;
const IF = 0x200;
const ARENA_BYTES = 12 * 1024 * 1024;

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

  constructor(spec: ModelGuest, memoryMib: number, pool?: MemoryPool) {
    const pages = memoryMib * 256;
    if (pages < LEAST_PAGES) throw new UsageError(`a bare machine needs at least ${LEAST_PAGES / 256} MiB`);
    this.machine = new MachineMemory({ frameCount: pages, arenaBytes: ARENA_BYTES, ...(pool === undefined ? {} : { pool }) });
    this.cpu = new ModelProcessor(this.machine, { exceptions: 'idt', cpuid: () => [0, 0, 0, 0], pdpteCached: true });
    const guest = createModelGuest(spec, this.cpu.port);
    this.kernel = guest.kernel;
    this.cpu.setCode(guest);
    loadKernel(this.machine, this.cpu, SHAPES[spec.paging], pages, (root) => this.cpu.setCr(3, root));
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
