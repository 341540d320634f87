// Calls to a shadow-paging host, which may wait: in lazy mode they pile up in a page of the guest's and
// go together, in order, when the mode is left or the page is full. A call that finds others waiting
// outside lazy mode takes them along.
import { QUEUE_CALLS, QUEUE_WORDS, SHADOW_CALL } from '../../abi/shadow-calls.ts';
import { InvariantViolation } from '../../base/assert.ts';
import { PAGE_OFFSET } from '../entries.ts';
import { KERNEL_PAGES } from '../kernel/layout.ts';
import type { MachinePort, Task } from '../operations.ts';

/** Instructions that put a call into the queue. */
const PUT_INSNS = 6;

export class CallQueue {
  readonly #m: MachinePort;
  readonly #words = new Uint32Array(QUEUE_CALLS * QUEUE_WORDS);
  #count = 0;
  lazy = false;

  constructor(m: MachinePort) {
    this.#m = m;
  }

  /** At once outside lazy mode, else with the others. */
  *call(nr: number, a = 0, b = 0, c = 0): Task {
    if (!this.lazy && this.#count === 0) return yield* this.#hypercall(nr, a, b, c);
    yield* this.defer(nr, a, b, c);
    if (!this.lazy) yield* this.send();
  }

  /** With the next call, whenever that is. */
  *defer(nr: number, a = 0, b = 0, c = 0): Task {
    if (this.#count === QUEUE_CALLS) yield* this.send();
    this.#words.set([nr, a, b, c], this.#count++ * QUEUE_WORDS);
    yield this.#m.compute(PUT_INSNS);
  }

  *send(): Task {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    yield this.#m.writeWords(KERNEL_PAGES.batch, this.#words, count * QUEUE_WORDS);
    yield* this.#hypercall(SHADOW_CALL.sendQueue, KERNEL_PAGES.batch - PAGE_OFFSET, count, 0);
  }

  *#hypercall(nr: number, a: number, b: number, c: number): Task {
    const answer = (yield this.#m.hypercall(nr, a, b, c)) | 0;
    if (answer < 0) throw new InvariantViolation(`the host refused call ${nr} (0x${a.toString(16)}, 0x${b.toString(16)}) with ${answer}`);
  }

  readonly lazyMode = {
    enter: function* (this: CallQueue): Task { this.lazy = true; }.bind(this),
    leave: function* (this: CallQueue): Task {
      this.lazy = false;
      yield* this.send();
    }.bind(this),
  };
}
