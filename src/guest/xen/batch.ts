// Hypercalls that may wait: a multicall list in guest memory. Outside lazy modes a request goes to Xen
// at once (alone: as a hypercall of its own); inside, requests pile up and go together, in order, when
// the mode is left or the list is full. Requests of mmu_update that follow each other share an element.
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { Task } from '../operations.ts';
import { highHalf, lowHalf } from '../pte.ts';
import { HC, type XenState } from './state.ts';

const ENTRY_BYTES = 32;
const MOST_ENTRIES = 4096 / ENTRY_BYTES;
const REQUEST_BYTES = 16;
const REQUEST_WORDS = REQUEST_BYTES / 4;
const MOST_REQUESTS = 4096 / REQUEST_BYTES;
export const DOMID_SELF = 0x7ff0;
/** MMUEXT_*, xen/include/public/xen.h. */
export const MMUEXT = { PIN_L1: 0, PIN_L2: 1, PIN_L3: 2, UNPIN: 4, NEW_BASEPTR: 5, TLB_FLUSH_LOCAL: 6, INVLPG_LOCAL: 7, SET_LDT: 13 } as const;

/** Words of an element: number, result, six arguments. */
const ENTRY_WORDS = ENTRY_BYTES / 4;
const ARGUMENTS = 5;

export class Batch {
  readonly #xen: XenState;
  /** The list as it will stand in guest memory. */
  readonly #list = new Uint32Array(MOST_ENTRIES * ENTRY_WORDS);
  readonly #names: string[] = [];
  #count = 0;
  readonly #request = new Uint32Array(REQUEST_BYTES / 4);
  /** Requests of mmu_update and mmuext_op that stand in the argument page. */
  #requests = 0;

  constructor(xen: XenState) {
    this.#xen = xen;
  }

  /** `what` names the request if it is refused. */
  *add(what: string, number: number, a = 0, b = 0, c = 0, d = 0): Task {
    if (this.#count === MOST_ENTRIES) yield* this.flush();
    this.#append(what, number, a, b, c, d);
  }
  #append(what: string, number: number, a: number, b: number, c: number, d: number): void {
    const list = this.#list;
    const at = this.#count * ENTRY_WORDS;
    list[at] = number;
    list[at + 1] = 0;
    list[at + 2] = a;
    list[at + 3] = b;
    list[at + 4] = c;
    list[at + 5] = d;
    this.#names[this.#count++] = what;
    this.#xen.counts.requests++;
  }

  /** A request by itself: at once outside lazy modes, else with the others. */
  *request(what: string, number: number, a: number, b: number, c: number, d: number): Task {
    const xen = this.#xen;
    if (xen.lazy !== 'none' || this.#count > 0) {
      yield* this.add(what, number, a, b, c, d);
      return yield* this.issue();
    }
    xen.counts.requests++;
    xen.counts.hypercalls++;
    const rc = (yield xen.m.hypercall(number, a, b, c, d)) | 0;
    if (rc < 0) yield* xen.refused(what, rc);
  }
  /** One command of mmuext_op in the same way. */
  *command(what: string, command: number, arg1: number): Task {
    const xen = this.#xen;
    if (xen.lazy !== 'none' || this.#count > 0) {
      yield* this.mmuext(what, command, arg1);
      return yield* this.issue();
    }
    const request = this.#request;
    request[0] = command;
    request[1] = arg1;
    request[2] = 0;
    request[3] = 0;
    yield* xen.m.putWords(KERNEL_PAGES.batchArguments, request, REQUEST_WORDS);
    xen.counts.requests++;
    xen.counts.hypercalls++;
    const rc = (yield xen.m.hypercall(HC.mmuext_op, KERNEL_PAGES.batchArguments, 1, 0, DOMID_SELF)) | 0;
    if (rc < 0) yield* xen.refused(what, rc);
  }

  /** The entry at a machine address becomes `entry`. */
  *mmuUpdate(maddr: number, entry: number): Task {
    yield* this.#makeRoom();
    const request = this.#request;
    request[0] = maddr >>> 0;
    request[1] = Math.floor(maddr / 0x1_0000_0000);
    request[2] = lowHalf(entry);
    request[3] = highHalf(entry);
    const at = KERNEL_PAGES.batchArguments + this.#requests++ * REQUEST_BYTES;
    yield* this.#xen.m.putWords(at, request, REQUEST_WORDS);
    const last = (this.#count - 1) * ENTRY_WORDS;
    if (last >= 0 && this.#list[last] === HC.mmu_update) {
      this.#list[last + 3] = (this.#list[last + 3] as number) + 1;
      this.#xen.counts.requests++;
    } else this.#append('an update of a page table', HC.mmu_update, at, 1, 0, DOMID_SELF);
  }

  *mmuext(what: string, command: number, arg1 = 0, arg2 = 0): Task {
    yield* this.#makeRoom();
    const request = this.#request;
    request[0] = command;
    request[1] = arg1;
    request[2] = arg2;
    request[3] = 0;
    const at = KERNEL_PAGES.batchArguments + this.#requests++ * REQUEST_BYTES;
    yield* this.#xen.m.putWords(at, request, REQUEST_WORDS);
    this.#append(what, HC.mmuext_op, at, 1, 0, DOMID_SELF);
  }

  *#makeRoom(): Task {
    if (this.#requests === MOST_REQUESTS || this.#count === MOST_ENTRIES) yield* this.flush();
  }

  /** What was added goes now, unless a lazy mode is on. */
  *issue(): Task {
    if (this.#xen.lazy === 'none') yield* this.flush();
  }

  /** `reversed`: a planted mistake. */
  *flush(reversed = false): Task {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    this.#requests = 0;
    if (reversed) this.#reverse(count);
    if (count === 1) yield* this.#single();
    else yield* this.#multicall(count);
  }

  *#single(): Task {
    const list = this.#list;
    const what = this.#names[0] as string;
    const rc = yield* this.#xen.call(list[0] as number, list[2], list[3], list[4], list[5], list[2 + ARGUMENTS - 1]);
    if (rc < 0) yield* this.#xen.refused(what, rc);
  }

  *#multicall(count: number): Task {
    const { m } = this.#xen;
    yield* m.putWords(KERNEL_PAGES.batch, this.#list, count * ENTRY_WORDS);
    const rc = yield* this.#xen.call(HC.multicall, KERNEL_PAGES.batch, count);
    if (rc < 0) yield* this.#xen.refused('a multicall', rc);
    yield* m.takeWords(KERNEL_PAGES.batch, count * ENTRY_WORDS);
    const { words } = m;
    for (let i = 0; i < count; i++) {
      const result = (words[i * ENTRY_WORDS + 1] as number) | 0;
      if (result < 0) return yield* this.#xen.refused(this.#names[i] as string, result);
    }
  }

  #reverse(count: number): void {
    const before = this.#list.slice(0, count * ENTRY_WORDS);
    for (let i = 0; i < count; i++) this.#list.set(before.subarray(i * ENTRY_WORDS, (i + 1) * ENTRY_WORDS), (count - 1 - i) * ENTRY_WORDS);
    this.#names.splice(0, count, ...this.#names.slice(0, count).reverse());
  }
}
