// Hypercalls that may wait: a multicall list in guest memory. Outside lazy modes a request goes to Xen
// at once (alone: as a hypercall of its own); inside, requests pile up and go together, in order, when
// the mode is left or the list is full. Requests of mmu_update that follow each other share an element.
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Task } from '../operations.ts';
import { highHalf, lowHalf } from '../pte.ts';
import { HC, wordBytes, type XenState } from './state.ts';

const ENTRY_BYTES = 32;
const MOST_ENTRIES = 4096 / ENTRY_BYTES;
const REQUEST_BYTES = 16;
const MOST_REQUESTS = 4096 / REQUEST_BYTES;
export const DOMID_SELF = 0x7ff0;
/** MMUEXT_*, xen/include/public/xen.h. */
export const MMUEXT = { PIN_L1: 0, PIN_L2: 1, PIN_L3: 2, UNPIN: 4, NEW_BASEPTR: 5, TLB_FLUSH_LOCAL: 6, INVLPG_LOCAL: 7, SET_LDT: 13 } as const;

interface Entry {
  readonly what: string;
  readonly number: number;
  readonly args: number[];
}

export class Batch {
  readonly #xen: XenState;
  #entries: Entry[] = [];
  /** Requests of mmu_update and mmuext_op that stand in the argument page. */
  #requests = 0;

  constructor(xen: XenState) {
    this.#xen = xen;
  }

  /** `what` names the request if it is refused. */
  *add(what: string, number: number, ...args: number[]): Task {
    if (this.#entries.length === MOST_ENTRIES) yield* this.flush();
    this.#xen.counts.requests++;
    this.#entries.push({ what, number, args });
  }

  /** The entry at a machine address becomes `entry`. */
  *mmuUpdate(maddr: number, entry: number): Task {
    const at = yield* this.#request([maddr >>> 0, Math.floor(maddr / 0x1_0000_0000), lowHalf(entry), highHalf(entry)]);
    const last = this.#entries.at(-1);
    if (last?.number === HC.mmu_update) {
      last.args[1] = (last.args[1] as number) + 1;
      this.#xen.counts.requests++;
    } else yield* this.add('an update of a page table', HC.mmu_update, at, 1, 0, DOMID_SELF);
  }

  *mmuext(what: string, command: number, arg1 = 0, arg2 = 0): Task {
    const at = yield* this.#request([command, arg1, arg2, 0]);
    yield* this.add(what, HC.mmuext_op, at, 1, 0, DOMID_SELF);
  }

  *#request(words: readonly number[]): Task<number> {
    if (this.#requests === MOST_REQUESTS || this.#entries.length === MOST_ENTRIES) yield* this.flush();
    const at = KERNEL_PAGES.batchArguments + this.#requests++ * REQUEST_BYTES;
    yield this.#xen.m.writeBytes(at, wordBytes(words));
    return at;
  }

  /** What was added goes now, unless a lazy mode is on. */
  *issue(): Task {
    if (this.#xen.lazy === 'none') yield* this.flush();
  }

  /** `reversed`: a planted mistake. */
  *flush(reversed = false): Task {
    const entries = this.#entries;
    if (entries.length === 0) return;
    this.#entries = [];
    this.#requests = 0;
    if (reversed) entries.reverse();
    const [first] = entries as [Entry];
    if (entries.length === 1) {
      const [a, b, c, d, e] = first.args;
      const rc = yield* this.#xen.call(first.number, a, b, c, d, e);
      if (rc < 0) yield* this.#xen.refused(first.what, rc);
      return;
    }
    const { m } = this.#xen;
    yield m.writeBytes(KERNEL_PAGES.batch, wordBytes(entries.flatMap(({ number, args }) => [number, 0, ...Array.from({ length: 6 }, (_, i) => args[i] ?? 0)])));
    const rc = yield* this.#xen.call(HC.multicall, KERNEL_PAGES.batch, entries.length);
    if (rc < 0) yield* this.#xen.refused('a multicall', rc);
    yield m.readBytes(KERNEL_PAGES.batch, entries.length * ENTRY_BYTES);
    const view = new DataView(m.bytes.buffer, m.bytes.byteOffset);
    for (let i = 0; i < entries.length; i++) {
      const result = view.getInt32(i * ENTRY_BYTES + 4, true);
      if (result < 0) yield* this.#xen.refused((entries[i] as Entry).what, result);
    }
  }
}
