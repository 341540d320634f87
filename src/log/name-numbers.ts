// Names stand in the log as numbers, in the order of their first use.
import { EVENT } from '../abi/events.ts';
import type { EventEmitter } from './event-encoder.ts';

export class NameNumbers {
  readonly #numbers = new Map<string, number>();

  /** The number that stands for a name. Its first use puts a nameDefined event into the stream, by way of `emitter`, at the given position. */
  numberOf(name: string, emitter: EventEmitter, domId: number, vcpuId: number, retired: number, nowNs: number): number {
    let number = this.#numbers.get(name);
    if (number === undefined) {
      number = this.#numbers.size + 1;
      this.#numbers.set(name, number);
      emitter.emit(EVENT.nameDefined, domId, vcpuId, retired, nowNs, [number], new TextEncoder().encode(name));
    }
    return number;
  }

  /** In the order of their numbers. */
  get names(): string[] {
    return [...this.#numbers.keys()];
  }
  restore(names: readonly string[]): void {
    this.#numbers.clear();
    names.forEach((name, index) => this.#numbers.set(name, index + 1));
  }
}
