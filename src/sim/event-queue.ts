// The world's agenda: a binary heap of plain records ordered by (time, sequence). Entries are data,
// never closures, so that the queue can be written to a checkpoint and read back.
import type { TimerKind } from '../hypervisor/world-port.ts';

/** What can be due. One row per kind in world.ts says what happens then. */
export type Agenda =
  | { readonly kind: 'timer'; readonly domId: number; readonly vcpuId: number; readonly timer: TimerKind }
  | { readonly kind: 'backend'; readonly domId: number; readonly service: string }
  /** An event of dom0 that a fault held back. */
  | { readonly kind: 'notify'; readonly domId: number; readonly port: number; readonly remotePort: number }
  /** The end of a pause that a fault began. */
  | { readonly kind: 'unpause'; readonly domId: number };

export interface QueueEntry {
  readonly atNs: number;
  /** Insertion order: equal times fire in the order in which they were entered. */
  readonly seq: number;
  readonly what: Agenda;
}

const before = (a: QueueEntry, b: QueueEntry): boolean => a.atNs < b.atNs || (a.atNs === b.atNs && a.seq < b.seq);

export class EventQueue {
  #heap: QueueEntry[] = [];
  #nextSeq = 0;

  add(atNs: number, what: Agenda): void {
    const heap = this.#heap;
    heap.push({ atNs, seq: this.#nextSeq++, what });
    let at = heap.length - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(heap[at] as QueueEntry, heap[parent] as QueueEntry)) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  /** Time of the earliest entry, or Infinity. */
  nextAtNs(): number {
    return this.#heap[0]?.atNs ?? Infinity;
  }

  /** Removes and returns the earliest entry if it is due at `nowNs`. */
  takeDue(nowNs: number): QueueEntry | undefined {
    const first = this.#heap[0];
    if (first === undefined || first.atNs > nowNs) return undefined;
    this.#removeAt(0);
    return first;
  }

  /** Removes every entry that matches. */
  cancel(matches: (what: Agenda) => boolean): void {
    const kept = this.#heap.filter((entry) => !matches(entry.what));
    if (kept.length === this.#heap.length) return;
    kept.sort((a, b) => (before(a, b) ? -1 : 1)); // a sorted array is a heap
    this.#heap = kept;
  }

  /** Removes every entry that matches and returns them in the order in which they were due. */
  takeAll(matches: (what: Agenda) => boolean): Agenda[] {
    const taken = this.#heap.filter((entry) => matches(entry.what)).sort((a, b) => (before(a, b) ? -1 : 1));
    this.cancel(matches);
    return taken.map((entry) => entry.what);
  }

  get size(): number {
    return this.#heap.length;
  }

  save(): { entries: QueueEntry[]; nextSeq: number } {
    return { entries: [...this.#heap].sort((a, b) => (before(a, b) ? -1 : 1)), nextSeq: this.#nextSeq };
  }

  restore(saved: { entries: QueueEntry[]; nextSeq: number }): void {
    this.#heap = [...saved.entries];
    this.#nextSeq = saved.nextSeq;
  }

  #removeAt(index: number): void {
    const heap = this.#heap;
    const last = heap.pop() as QueueEntry;
    if (index === heap.length) return;
    heap[index] = last;
    let at = index;
    for (;;) {
      const left = 2 * at + 1;
      const right = left + 1;
      let least = at;
      if (left < heap.length && before(heap[left] as QueueEntry, heap[least] as QueueEntry)) least = left;
      if (right < heap.length && before(heap[right] as QueueEntry, heap[least] as QueueEntry)) least = right;
      if (least === at) return;
      this.#swap(at, least);
      at = least;
    }
  }

  #swap(a: number, b: number): void {
    const heap = this.#heap;
    const held = heap[a] as QueueEntry;
    heap[a] = heap[b] as QueueEntry;
    heap[b] = held;
  }
}
