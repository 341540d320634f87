// The console's other direction: what a person types. Lines are sent back, and one that says poweroff
// ends the guest.
import { CONSOLE_IN_BYTES, CONSOLE_RING } from '../../abi/console-ring.ts';
import { bytesToText } from '../../base/byte-text.ts';
import { indexAdd, indexDistance } from '../../abi/ring-index.ts';
import { BLOCK } from '../kernel/scheduler.ts';
import type { Task } from '../operations.ts';
import type { Machinery } from './machinery.ts';

const AT = CONSOLE_RING.fields;
const MOST_LINE = 256;

export class HvcInput {
  readonly #machinery: Machinery;
  #line = '';

  constructor(machinery: Machinery) {
    this.#machinery = machinery;
  }

  *start(): Task {
    yield* this.#machinery.ports.listen(this.#machinery.xen.startInfo.consolePort);
  }

  /** Its thread: until the guest stops. */
  *life(powerOff: () => void): Task {
    while (!this.#machinery.stopping) {
      const text = yield* this.#take();
      if (text === '') {
        yield BLOCK;
        continue;
      }
      for (const char of text) {
        if (char !== '\n' && char !== '\r') this.#line = (this.#line + char).slice(0, MOST_LINE);
        else if (this.#line !== '') {
          yield* this.#machinery.say(`typed: ${this.#line}`);
          if (this.#line === 'poweroff') powerOff();
          this.#line = '';
        }
      }
    }
  }

  *#take(): Task<string> {
    const { m, xen, events } = this.#machinery;
    const ring = yield* xen.vaddrOfMfn(xen.startInfo.consoleMfn);
    let text = '';
    for (;;) {
      const cons = yield m.load32(ring + AT.in_cons.at);
      const available = indexDistance(cons, yield m.load32(ring + AT.in_prod.at));
      if (available === 0) return text;
      if (available > CONSOLE_IN_BYTES) {
        yield* this.#machinery.kernel.panic(`the console’s ring has ${available} bytes of input, of ${CONSOLE_IN_BYTES}`);
        return '';
      }
      const at = cons % CONSOLE_IN_BYTES;
      const count = Math.min(available, CONSOLE_IN_BYTES - at);
      yield m.readBytes(ring + AT.in.at + at, count);
      text += bytesToText(m.bytes);
      yield m.store32(ring + AT.in_cons.at, indexAdd(cons, count));
      // There may be more that had no room.
      yield* events.send(xen.startInfo.consolePort);
    }
  }
}
