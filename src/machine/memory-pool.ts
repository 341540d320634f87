// WebAssembly memories of machines that are over, for machines to come. For who plays thousands of short worlds
// one after the other: a new memory costs address space, page faults, and now and then a collection of
// everything, since the engine counts its bytes.
//
// A machine that has given its memory back must not be used any more. Nothing notices: to detach its views
// (memory.grow(0)) would make the engine count the bytes again, and collect as often as for new ones.
import type { MachineMemory } from './memory.ts';

export class MemoryPool {
  /** By their size. */
  readonly #free = new Map<number, WebAssembly.Memory[]>();

  /** Zeroed. */
  take(pages: number): WebAssembly.Memory {
    return this.#free.get(pages)?.pop() ?? new WebAssembly.Memory({ initial: pages, maximum: pages });
  }

  giveBack(machine: MachineMemory): void {
    const { wasm, u8 } = machine;
    const pages = u8.length / 65536;
    // Of the arena nobody has written to what nobody has reserved.
    u8.fill(0, 0, machine.ramBase - machine.arenaLeftBytes);
    u8.fill(0, machine.ramBase);
    const free = this.#free.get(pages);
    if (free === undefined) this.#free.set(pages, [wasm]);
    else free.push(wasm);
  }
}
